"""The diary of a run on a disk that does not take it: what, where and what next, and never a bare OSError."""

from pathlib import Path

import pytest

from infra.disk import disk_error
from sft_core.errors import TrainingError
from sft_core.train.events import EventLog


def test_a_diary_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written to .*file/events\.jsonl.*continues from its last"):
        EventLog(tmp_path / "file" / "events.jsonl", None, 1.0)


def test_a_diary_on_a_full_disk_is_named_and_still_a_full_disk(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    with (pytest.raises(TrainingError, match="cannot be written to /dev/full") as found,
          EventLog(full, None, 1.0) as log):
        log.write("start")
    said = disk_error(found.value, tmp_path)
    assert said is not None
    assert "no space left" in str(said)
