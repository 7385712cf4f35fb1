"""Stage folders: reuse by fingerprint only, atomic files, locks."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from sft_core.config.train import ReplaySection
from sft_core.errors import DamagedFile, SftError
from sft_core.stage import StageStore, file_digest, fingerprint, give_usual_mode, read_json, write_json, write_text


def test_finished_stage_is_found_again_and_an_unfinished_one_is_not(tmp_path: Path) -> None:
    stage = StageStore(tmp_path).open("prepare", "abc")
    assert stage.result() is None
    (stage.fresh() / "data.txt").write_text("x")
    assert stage.result() is None
    stage.finish({"rows": 3})
    assert StageStore(tmp_path).open("prepare", "abc").result() == {"rows": 3}
    assert StageStore(tmp_path).open("prepare", "abd").result() is None


def test_what_is_found_reads_as_what_was_made(tmp_path: Path) -> None:
    stage = StageStore(tmp_path).open("curate", "abc")
    stage.fresh()
    made = stage.finish({"way": [{"suite": "quiz", "change": "typos", "ends": (0.1, 0.9)}], "rows": 3})
    found = StageStore(tmp_path).open("curate", "abc").result()
    assert json.dumps(made) == json.dumps(found), "tables have their columns in the order of the keys"
    assert made == found
    assert list(made["way"][0]) == ["suite", "change", "ends"]


def test_done_mark_of_another_fingerprint_is_not_believed(tmp_path: Path) -> None:
    stage = StageStore(tmp_path).open("train", "abc")
    stage.fresh()
    stage.finish({"steps": 1})
    mark = json.loads((stage.folder / "done.json").read_text())
    (stage.folder / "done.json").write_text(json.dumps(mark | {"fingerprint": "zzz"}))
    assert stage.result() is None


def test_done_mark_without_its_output_or_half_written_is_not_believed(tmp_path: Path) -> None:
    stage = StageStore(tmp_path).open("train", "abc")
    stage.fresh().rmdir()
    stage.finish({"steps": 1})
    assert stage.result() is None
    stage.resume()
    (stage.folder / "done.json").write_text('{"stage": "tra')
    assert stage.result() is None


def test_fresh_empties_and_resume_keeps(tmp_path: Path) -> None:
    stage = StageStore(tmp_path).open("train", "abc")
    (stage.fresh() / "checkpoint").write_text("x")
    assert (stage.resume() / "checkpoint").exists()
    assert not (stage.fresh() / "checkpoint").exists()


def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a" / "x", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "x").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


def test_the_usual_mode_is_found_without_another_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written by a thread of their own, and the umask is the whole process's."""
    monkeypatch.setattr(os, "umask", None)
    (tmp_path / "file").touch(0o600)
    give_usual_mode(tmp_path)
    (tmp_path / "usual").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_fingerprint_depends_on_values_and_not_on_key_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint(ReplaySection.model_validate({"lambda": 1})) != fingerprint(ReplaySection())
    with pytest.raises(TypeError, match="object has no canonical form"):
        fingerprint(object())


def test_failed_write_keeps_the_old_file_and_leaves_no_scrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    digest = file_digest(tmp_path / "a.json")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a.json", "half")
    assert file_digest(tmp_path / "a.json") == digest
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_unwritable_workspace_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SftError, match="SFT_HOME"):
        StageStore(tmp_path / "file").open("prepare", "abc").lock().__enter__()


@pytest.mark.parametrize(("torn", "said"), [(b'{"a": ', "is no JSON any more"), (b"", "is no JSON any more"),
                                            (b"\xff", "is no JSON any more"), (b"[1]", "does not hold a: another"),
                                            (b'{"b": 1}', "does not hold a: another version")])
def test_a_file_of_ours_that_was_damaged_is_named(tmp_path: Path, torn: bytes, said: str) -> None:
    write_json(tmp_path / "run.json", {"a": 1})
    (tmp_path / "run.json").write_bytes(torn)
    with pytest.raises(DamagedFile, match=rf"run\.json {said}.*restore it, or remove its folder"):
        read_json(tmp_path / "run.json", "a")
    stage = StageStore(tmp_path).open("prepare", "abc")
    stage.resume()
    stage.finish({"rows": 3})
    (stage.folder / "done.json").write_bytes(torn)
    assert stage.result() is None  # a torn mark is none: the stage is made again


def test_looking_at_a_stage_writes_nothing(tmp_path: Path) -> None:
    assert StageStore(tmp_path / "stages").open("prepare", "abc").result() is None
    assert not (tmp_path / "stages").exists()


def _hold(root: Path, seconds: float, log: Path) -> None:
    with StageStore(root).open("prepare", "abc").lock():
        with log.open("a") as stream:
            stream.write("in\n")
        time.sleep(seconds)
        with log.open("a") as stream:
            stream.write("out\n")


def test_lock_lets_one_process_in_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_hold, args=(tmp_path, 0.2, log)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert log.read_text().split() == ["in", "out", "in", "out"]
