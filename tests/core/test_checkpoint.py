"""Checkpoints appear whole or not at all; damaged ones are skipped and said, foreign ones refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sft_core.errors import TrainingError
from sft_core.train import checkpoint
from sft_core.train.checkpoint import Checkpoint, load_latest, save

OURS = {"train.optim": {"lr": 0.001}, "seed": 1}


def _checkpoint(step: int) -> Checkpoint:
    weights = {"a": torch.full((2, 3), float(step)), "b": torch.arange(6.0).view(2, 3).T}
    return Checkpoint(step, OURS, weights, {"rng": torch.get_rng_state(), "validations": [(0, 1.5)], "last": None})


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, _checkpoint(3), keep=2)
    found, skipped = load_latest(tmp_path, OURS)
    assert found is not None
    assert skipped == []
    assert found.step == 3
    assert torch.equal(found.weights["a"], torch.full((2, 3), 3.0))
    assert torch.equal(found.weights["b"], torch.arange(6.0).view(2, 3).T)
    assert torch.equal(found.state["rng"], torch.get_rng_state())
    assert found.state["validations"] == [(0, 1.5)]


def test_the_newest_by_number_wins_and_old_ones_go(tmp_path: Path) -> None:
    for step in (2, 9, 10):
        save(tmp_path, _checkpoint(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-9"]
    found, _ = load_latest(tmp_path, OURS)
    assert found is not None
    assert found.step == 10


def test_nothing_there(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "no", OURS) == (None, [])


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
    found, skipped = load_latest(tmp_path, OURS)
    assert found is not None
    assert found.step == 4
    assert len(skipped) == 1
    assert skipped[0].startswith("step-5: ")


def test_one_of_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    save(tmp_path, _checkpoint(4), keep=2)
    with pytest.raises(TrainingError, match=r"seed was 1, is 2.*delete"):
        load_latest(tmp_path, {**OURS, "seed": 2})


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
    found, skipped = load_latest(tmp_path, OURS)
    assert found is not None
    assert (found.step, skipped) == (4, [])
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
    file, meta = tmp_path / "step-4" / checkpoint.STATE, tmp_path / "step-4" / checkpoint.META

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/owned",)

    torch.save({"rng": Evil()}, file)
    meta.write_text(meta.read_text().replace(f'"state.pt": {_told(meta)}', f'"state.pt": {file.stat().st_size}'))
    found, skipped = load_latest(tmp_path, OURS)
    assert found is None
    assert "step-4" in skipped[0]
    assert "bytes" not in skipped[0].split("\n")[0]
    assert not (tmp_path / "owned").exists()


def _told(meta: Path) -> int:
    return int(checkpoint.read_json(meta)["bytes"]["state.pt"])
