"""Rows of a local snapshot are the ones that lie there now, not those the library read under the same name before."""

import json
import os
from pathlib import Path

import pytest

from sft_core.config.data import SourceSection
from sft_core.conversation import Row
from sft_core.data.localhub import named_by_content
from sft_core.data.sources import read_rows, source_digest

CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: default/train.jsonl\n---\n"


def snapshot(folder: Path, said: str) -> None:
    (folder / "default").mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(CARD)
    (folder / "default" / "train.jsonl").write_text(json.dumps({"instruction": "Say it.", "output": said}) + "\n")


@pytest.mark.parametrize("streaming", [False, True])
def test_other_rows_of_the_same_name_are_read(tmp_path: Path, streaming: bool) -> None:
    def said(mirror: str) -> tuple[list[str], str]:
        source = SourceSection(path="someone/localhub", streaming=streaming)
        rows = list(read_rows(source, scratch=tmp_path / "scratch", mirror=tmp_path / mirror))
        digest = source_digest(source, scratch=tmp_path / "scratch", mirror=tmp_path / mirror)
        return [str(row.data["output"]) for row in rows if isinstance(row, Row)], digest

    for mirror in ("one", "two"):
        snapshot(tmp_path / mirror / "someone" / "localhub", mirror)
    (first, a), (second, b) = said("one"), said("two")
    assert (first, second) == (["one"], ["two"])
    snapshot(tmp_path / "one" / "someone" / "localhub", "edited")
    changed, c = said("one")
    assert changed == ["edited"]
    assert len({a, b, c}) == 3


def test_a_name_moves_with_the_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    snapshot(folder, "same")
    first = named_by_content(folder, tmp_path / "links")
    assert first == named_by_content(folder, tmp_path / "links")
    assert (first / "README.md").read_text() == CARD
    rows = folder / "default" / "train.jsonl"
    before = rows.stat()
    rows.write_text(rows.read_text().replace("same", "else"))
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` and `rsync -t` do
    assert named_by_content(folder, tmp_path / "links") != first
