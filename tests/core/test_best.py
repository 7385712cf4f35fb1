"""Early stopping saves the weights of the step that it names, also when a run comes back to an older best."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sft_core.config.train import TrainSection
from sft_core.errors import TrainingError
from sft_core.train import best
from sft_core.train.inputs import TrainInputs
from sft_core.train.step import Stepper
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
WEIGHTS = {"a": torch.full((2, 3), 4.0), "b": torch.arange(6.0).view(2, 3).T}
EIO = Path("/proc/self/mem")
"""A file whose first byte cannot be read: a real EIO."""


def test_the_best_weights_come_back_or_say_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "checkpoints"
    file = best.file_of(root, 4)
    best.save(root, 4, WEIGHTS, ())
    assert torch.equal(best.load(root, 4)["b"], torch.arange(6.0).view(2, 3).T)
    whole = file.read_bytes()
    for damage in (whole[:-3], whole[:-1] + bytes([whole[-1] ^ 1]), os.urandom(len(whole)), b""):
        file.write_bytes(damage)
        with pytest.raises(TrainingError, match=r"best weights .* damaged.*delete .*checkpoints and .* to start over"):
            best.load(root, 4)
    file.unlink()
    with pytest.raises(TrainingError, match="are damaged: .*(No such file|not found)"):
        best.load(root, 4)
    file.symlink_to(EIO)
    with pytest.raises(TrainingError, match=r"best-4\.safetensors cannot be read: .*Nothing proves it damaged"):
        best.load(root, 4)
    file.unlink()
    file.write_bytes(whole)

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(best, "_content", no_memory)
    with pytest.raises(TrainingError, match="cannot be read: MemoryError"):
        best.load(root, 4)


def test_the_file_of_one_step_is_never_taken_for_another(tmp_path: Path) -> None:
    best.save(tmp_path, 4, WEIGHTS, ())
    best.save(tmp_path, 6, WEIGHTS, {4})
    assert best.load(tmp_path, 4).keys() == best.load(tmp_path, 6).keys()
    best.file_of(tmp_path, 6).rename(best.file_of(tmp_path, 4))
    with pytest.raises(TrainingError, match=r"best-4\.safetensors are damaged"):
        best.load(tmp_path, 4)
    best.save(tmp_path, 8, WEIGHTS, ())
    assert [file.name for file in tmp_path.iterdir()] == ["best-8.safetensors"]


def test_a_run_that_comes_back_to_an_older_best_has_its_weights(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a new best was written and before the next checkpoint; as on a GPU, it is not found again."""
    section = train_section(epochs=3, validate_every_steps=1, checkpoint_every_s=1e-6, stopping={"patience": 9})
    losses, inner = iter([5.0, 4.0, 3.0, 2.0]), best.save

    class Killed(BaseException):
        pass

    def die_at_three(root: Path, step: int, weights: dict[str, torch.Tensor], keep: set[int]) -> None:
        inner(root, step, weights, keep)
        if step == 3:
            raise Killed

    monkeypatch.setattr(Stepper, "validation_loss", lambda stepper, stop=None: next(losses))
    monkeypatch.setattr(best, "save", die_at_three)
    with pytest.raises(Killed):
        train(train_inputs, section, tmp_path)
    root = tmp_path / "checkpoints"
    assert sorted(file.name for file in root.glob("best-*")) == [f"best-{step}.safetensors" for step in (1, 2, 3)]
    second = load_file(best.file_of(root, 2))
    monkeypatch.setattr(Stepper, "validation_loss", lambda stepper, stop=None: 9.0)
    report = train(train_inputs, section, tmp_path)
    assert report.resumed_from == 3
    saved = load_file(report.model_folder / "model.safetensors")
    assert second.keys() <= saved.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in second.items())
