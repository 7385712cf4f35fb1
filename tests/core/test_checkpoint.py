"""Checkpoints appear whole or not at all; damaged ones are skipped and said, foreign ones refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from sft_core.errors import TrainingError
from sft_core.train import checkpoint
from sft_core.train.checkpoint import Checkpoint, Damaged, load, newest, save
from sft_core.train.events import EventLog

OURS = {"train.optim": {"lr": 0.001}, "seed": 1}


def _checkpoint(step: int) -> Checkpoint:
    weights = {"a": torch.full((2, 3), float(step)), "b": torch.arange(6.0).view(2, 3).T}
    return Checkpoint(step, OURS, weights, {"rng": torch.get_rng_state(), "validations": [(0, 1.5)], "last": None})


def _steps(root: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in root.iterdir())


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, _checkpoint(3), keep=2)
    folder, damaged = newest(tmp_path, OURS)
    assert folder is not None
    assert damaged == ()
    found = load(folder)
    assert found.step == 3
    assert torch.equal(found.weights["a"], torch.full((2, 3), 3.0))
    assert torch.equal(found.weights["b"], torch.arange(6.0).view(2, 3).T)
    assert torch.equal(found.state["rng"], torch.get_rng_state())
    assert found.state["validations"] == [(0, 1.5)]


def test_the_newest_by_number_wins_and_old_ones_go(tmp_path: Path) -> None:
    for step in (2, 9, 10):
        save(tmp_path, _checkpoint(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-9"]
    assert newest(tmp_path, OURS).folder == tmp_path / "step-10"


def test_nothing_there(tmp_path: Path) -> None:
    assert newest(tmp_path / "no", OURS) == (None, ())


@pytest.mark.parametrize("victim", [checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.META])
@pytest.mark.parametrize("damage", ["cut", "gone", "noise", "ttt", "ccc"])  # of instructions of a pickle, too
def test_a_damaged_one_is_skipped_and_said(tmp_path: Path, victim: str, damage: str) -> None:
    for step in (4, 5):
        save(tmp_path, _checkpoint(step), keep=2)
    file = tmp_path / "step-5" / victim
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        known = {"cut": whole[: len(whole) // 2], "noise": os.urandom(len(whole))}
        file.write_bytes(known.get(damage, damage.encode()))
    folder, damaged = newest(tmp_path, OURS)
    assert folder == tmp_path / "step-4"
    assert len(damaged) == 1
    why = f"without {victim}" if victim == checkpoint.META and damage == "gone" else victim
    assert str(damaged[0]).startswith(f"step-5: {why}")


def test_one_of_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    save(tmp_path, _checkpoint(4), keep=2)
    with pytest.raises(TrainingError, match=r"seed was 1, is 2.*delete"):
        newest(tmp_path, {**OURS, "seed": 2})


def test_a_half_written_one_is_no_checkpoint_and_is_cleared_away(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, _checkpoint(4), keep=2)

    class Killed(BaseException):
        pass

    def die(path: Path) -> None:
        raise Killed

    monkeypatch.setattr(checkpoint, "sync", die)
    with pytest.raises(Killed):
        save(tmp_path, _checkpoint(5), keep=2)
    assert len(list(tmp_path.iterdir())) == 2
    assert newest(tmp_path, OURS) == (tmp_path / "step-4", ())
    checkpoint.tidy(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-4"]


def test_a_full_disk_keeps_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, _checkpoint(4), keep=1)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match="No space left"):
        save(tmp_path, _checkpoint(5), keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-4"]


def test_state_is_never_unpickled_as_code(tmp_path: Path) -> None:
    save(tmp_path, _checkpoint(4), keep=2)
    file = tmp_path / "step-4" / checkpoint.STATE

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/owned",)

    torch.save({"rng": Evil()}, file)
    assert newest(tmp_path, OURS).folder is None
    checkpoint.seal(tmp_path / "step-4", 4, OURS)
    with pytest.raises(TrainingError, match="cannot be read: UnpicklingError"):
        load(tmp_path / "step-4")
    assert not (tmp_path / "owned").exists()


# Only what is proved damaged is skipped


EIO = Path("/proc/self/mem")
"""A file whose first byte cannot be read: a real EIO."""


@pytest.mark.parametrize("victim", [checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.META])
@pytest.mark.parametrize("fault", ["disk", "memory", "permission"])
def test_what_cannot_be_read_just_now_is_never_taken_for_damaged(
        tmp_path: Path, victim: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (4, 5):
        save(tmp_path, _checkpoint(step), keep=2)
    file = tmp_path / "step-5" / victim
    kept = file.read_bytes()
    if fault == "disk":
        file.unlink()
        file.symlink_to(EIO)
    else:
        inner = Path.open

        def refuse(path: Path, *args: object, **kwargs: object) -> object:
            if path == file:
                raise MemoryError if fault == "memory" else PermissionError(13, "Permission denied")
            return inner(path, *args, **kwargs)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TrainingError, match="step-5 cannot be read: .*Nothing proves it damaged.*start the run again"):
        newest(tmp_path, OURS)
    monkeypatch.undo()
    file.unlink()
    file.write_bytes(kept)
    assert newest(tmp_path, OURS) == (tmp_path / "step-5", ())


@pytest.mark.parametrize("error", [
    OSError(5, "Input/output error"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_whole_one_that_does_not_load_ends_the_run(tmp_path: Path, error: Exception,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path, _checkpoint(4), keep=2)

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(TrainingError, match=f"step-4 cannot be read: {type(error).__name__}"):
        load(folder)


def test_a_file_of_another_run_and_a_fifo_are_damage(tmp_path: Path) -> None:
    for step in (4, 5, 6):
        save(tmp_path, _checkpoint(step), keep=3)
    save(tmp_path / "other", _checkpoint(9), keep=1)
    (tmp_path / "step-6" / checkpoint.STATE).unlink()
    os.mkfifo(tmp_path / "step-6" / checkpoint.STATE)  # would wait for a writer for ever
    weights = (tmp_path / "other" / "step-9" / checkpoint.WEIGHTS).read_bytes()
    (tmp_path / "step-5" / checkpoint.WEIGHTS).write_bytes(weights)
    folder, damaged = newest(tmp_path, OURS)
    assert folder == tmp_path / "step-4"
    assert list(map(str, damaged)) == ["step-6: state.pt is missing",
                                       "step-5: weights.safetensors is not what was written: its checksum differs"]


def test_one_of_another_version_is_no_damage(tmp_path: Path) -> None:
    folder = save(tmp_path, _checkpoint(4), keep=1)
    checkpoint.write_json(folder / checkpoint.META, {"step": 4, "belongs_to": OURS, "bytes": {}})
    with pytest.raises(TrainingError, match=r"step-4 was written by another version.*delete"):
        newest(tmp_path, OURS)


@pytest.mark.parametrize("bit", range(8))
def test_every_bit_of_meta_json_is_proved(tmp_path: Path, bit: int) -> None:
    """Never another step or another run: the next older one is taken, whatever byte the disk has changed."""
    for step in (4, 5):
        save(tmp_path, _checkpoint(step), keep=2)
    file = tmp_path / "step-5" / checkpoint.META
    whole = file.read_bytes()
    for at, byte in enumerate(whole):
        file.write_bytes(whole[:at] + bytes([byte ^ 1 << bit]) + whole[at + 1 :])
        if not chr(byte).isspace():  # between the values a space counts for nothing
            folder, damaged = newest(tmp_path, OURS)
            assert folder == tmp_path / "step-4", at
            assert str(damaged[0]).startswith("step-5: meta.json is no"), at


def test_one_that_was_renamed_does_not_continue_at_another_step(tmp_path: Path) -> None:
    for step in (4, 5):
        save(tmp_path, _checkpoint(step), keep=2)
    (tmp_path / "step-5").rename(tmp_path / "step-9")
    assert newest(tmp_path, OURS) == (
        tmp_path / "step-4", (Damaged(tmp_path / "step-9", "meta.json is of step 5"),))


# A folder that cannot be seen is not an empty one


@pytest.mark.parametrize("mode", [0o000, 0o300])
def test_a_folder_that_may_not_be_listed_is_not_empty(
        tmp_path: Path, mode: int, as_nobody: Callable[[Path], AbstractContextManager[None]]) -> None:
    root = tmp_path / "checkpoints"
    save(root, _checkpoint(4), keep=2)
    root.chmod(mode)
    with as_nobody(tmp_path), pytest.raises(TrainingError, match="checkpoints cannot be read: PermissionError.*start"):
        newest(root, OURS)
    root.chmod(0o755)
    assert newest(root, OURS).folder == root / "step-4"


@pytest.mark.parametrize(("target", "said"), [
    ("gone", "FileNotFoundError: it is a link to .*gone, where nothing is .*mounted"), ("checkpoints", "OSError"),
    ("file", "NotADirectoryError")])
def test_a_link_that_leads_nowhere_is_not_empty(tmp_path: Path, target: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "checkpoints").symlink_to(tmp_path / target)
    with pytest.raises(TrainingError, match=f"checkpoints cannot be read: {said}.*start the run again"):
        newest(tmp_path / "checkpoints", OURS)


@pytest.mark.parametrize("event", ["checkpoint", "resume"])
def test_checkpoints_that_the_diary_tells_of_must_be_there(tmp_path: Path, event: str) -> None:
    root, diary = tmp_path / "checkpoints", tmp_path / "events.jsonl"
    with EventLog(diary, None, 9.0) as events:
        events.write("start", steps=9)
        events.write("step", step=1)
        assert newest(root, OURS) == (None, ()), "killed before the first one: begun anew"
        events.write(event, step=1)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"no checkpoint, but .*events.jsonl tells.*mounted.*or delete "):
        newest(root, OURS)
    save(root, _checkpoint(4), keep=2)
    (root / "step-4" / checkpoint.META).unlink()
    assert newest(root, OURS).damaged, "what is proved damaged is not lost: the run begins anew and says so"


@pytest.mark.parametrize(("victim", "kind"), [
    *(("step-5", kind) for kind in ("file", "nowhere", "fifo")),
    *(("step-5/meta.json", kind) for kind in ("folder", "nowhere", "fifo"))])
def test_a_thing_of_another_kind_is_named_with_what_to_do(tmp_path: Path, victim: str, kind: str) -> None:
    for step in (4, 5):
        save(tmp_path, _checkpoint(step), keep=2)
    place = tmp_path / victim
    if victim == "step-5":
        shutil.rmtree(place)
    else:
        place.unlink()
    {"file": place.touch, "folder": place.mkdir, "fifo": lambda: os.mkfifo(place),
     "nowhere": lambda: place.symlink_to(tmp_path / "gone")}[kind]()
    with pytest.raises(TrainingError, match=rf"{victim} is no .*move .*step-5 away and start the run again"):
        newest(tmp_path, OURS)
    (tmp_path / "step-5").rename(tmp_path / "away")
    assert newest(tmp_path, OURS) == (tmp_path / "step-4", ())


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_ones_count_for_nothing(tmp_path: Path, keep: int) -> None:
    """The newest good ones stay, however many damaged ones lie above or between them."""
    for step in (3, 4, 5, 9):
        save(tmp_path, _checkpoint(step), keep=4)
    for step in (5, 9):
        (tmp_path / f"step-{step}" / checkpoint.WEIGHTS).write_bytes(b"damaged")
    folder, damaged = newest(tmp_path, OURS)
    assert folder == tmp_path / "step-4"
    assert _steps(tmp_path) == [3, 4, 5, 9], "nothing goes before there is a new good one"
    save(tmp_path, _checkpoint(6), keep=keep, damaged=damaged)
    assert _steps(tmp_path) == [4, 6][-keep:]
    save(tmp_path, _checkpoint(9), keep=keep, damaged=[Damaged(tmp_path / "step-9", "as it was")])
    assert newest(tmp_path, OURS).folder == tmp_path / "step-9"
