"""Checkpoints are written while training goes on: on the disk is the state of their step, and the diary tells of it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft_core.config.train import TrainSection
from sft_core.errors import Interrupted, TrainingError
from sft_core.train import checkpoint, saver, step
from sft_core.train.events import EventLog
from sft_core.train.inputs import TrainInputs
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
SETTINGS: dict[str, Any] = {"lambda_": 0.3, "epochs": 4, "rows_per_step": 2, "validate_every_steps": 4,
                            "checkpoint_every_s": 1e-6, "keep_checkpoints": 9}


def _events(out: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] in kinds]


def _steps(out: Path) -> int:
    return len(_events(out, "step")) if (out / "events.jsonl").exists() else 0


def _weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def _saved(out: Path) -> list[int]:
    return sorted(checkpoint.step_of(folder) for folder in checkpoint.found(out / "checkpoints"))


def _wait_for_steps(out: Path, steps: int) -> None:
    until = time.monotonic() + 30
    while _steps(out) < min(steps, _events(out, "start")[0]["steps"]):
        assert time.monotonic() < until, "training waits for the write"
        time.sleep(0.002)


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Checkpoints of a run are due whenever none is in flight, and written when two more steps are done."""

    def arrange(out: Path) -> None:
        inner = checkpoint.save

        def later(root: Path, found: checkpoint.Checkpoint, *others: Any) -> Path:
            _wait_for_steps(out, found.step + 2)
            return inner(root, found, *others)

        monkeypatch.setattr(checkpoint, "save", later)
        monkeypatch.setattr(saver.Saver, "due", lambda self: self._writing is None or self._writing.done())

    return arrange


def test_training_goes_on_and_the_state_is_that_of_the_step(
        behind: Callable[[Path], None], train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    section = train_section(**SETTINGS)
    whole = train(train_inputs, section.model_copy(update={"checkpoint_every_s": 1e6}), tmp_path / "whole")
    run = tmp_path / "run"
    behind(run)

    def stop_at_the_end(*args: Any) -> None:
        raise TrainingError("enough")

    monkeypatch.setattr("sft_core.train.trainer.finish", stop_at_the_end)
    with pytest.raises(TrainingError, match="enough"):
        train(train_inputs, section, run)
    monkeypatch.undo()
    saved = _saved(run)
    assert len(saved) > 2
    at = [(line["event"], line["step"]) for line in _events(run, "step", "checkpoint")]
    for one in saved:
        assert at.index(("checkpoint", one)) > at.index(("step", min(one + 2, whole.steps))), "told when it is true"
    for later in saved[1:]:
        shutil.rmtree(run / "checkpoints" / f"step-{later}")
    again = train(train_inputs, section, run)
    assert again.resumed_from == saved[0]
    assert (again.final, again.validation) == (whole.final, whole.validation)
    assert _weights(run) == _weights(tmp_path / "whole")


KINDS = {"one": None, "two": "none", "sharded": "fsdp"}


def _die_in_step_8(out: Path) -> None:
    """By SIGKILL. Before, the checkpoint of step 2 is written when step 4 is done; that of step 5 is not finished."""
    asked, steps, inner, save, seal = (itertools.count(1), itertools.count(1), step.Stepper._gradients,
                                       checkpoint.save, checkpoint.seal)

    def gradients(stepper: step.Stepper, *args: Any) -> Any:
        if next(steps) == 8 and stepper.bench.accelerator.is_main_process:
            until = time.monotonic() + 30
            while not list((out / "checkpoints").glob(".step-5.*/state.pt")):
                assert time.monotonic() < until
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(stepper, *args)

    def later(root: Path, found: checkpoint.Checkpoint, *others: Any) -> Path:
        _wait_for_steps(out, 4)
        return save(root, found, *others)

    def never(folder: Path, at: int, *others: Any) -> None:
        time.sleep(60 if at == 5 else 0)
        seal(folder, at, *others)

    step.Stepper._gradients = gradients  # type: ignore[method-assign]
    checkpoint.save, checkpoint.seal = later, never
    saver.Saver.due = lambda self: next(asked) in (2, 5)  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_a_write_it_continues_bit_identical(
        kind: str, forked: Callable[..., list[int | None]], train_inputs: TrainInputs, train_section: Section,
        tmp_path: Path) -> None:
    section, run, processes = train_section(**SETTINGS), tmp_path / "run", 1 if KINDS[kind] is None else 2
    if processes > 1:
        section = section.model_copy(update={"processes": 2, "shard": KINDS[kind]})

    def killed(rank: int) -> None:
        _die_in_step_8(run)
        train(train_inputs, section, run)

    assert forked(killed, processes)[0] == -signal.SIGKILL
    assert _saved(run) == [2], "what was in flight does not count"
    assert forked(lambda rank: train(train_inputs, section, run), processes) == [0] * processes
    assert not list((run / "checkpoints").glob(".step-*"))
    assert _events(run, "resume")[-1]["step"] == 2
    assert forked(lambda rank: train(train_inputs, section, tmp_path / "whole"), processes) == [0] * processes
    assert _weights(run) == _weights(tmp_path / "whole")


def test_a_write_that_fails_is_raised_at_the_next_step(
        behind: Callable[[Path], None], train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    behind(tmp_path)
    seal, gradients, failed_at = checkpoint.seal, step.Stepper._gradients, list[int]()

    def full(folder: Path, at: int, *others: Any) -> None:
        if at > 1:
            failed_at.append(_steps(tmp_path))
            raise OSError(28, "No space left on device")
        seal(folder, at, *others)

    def slowly(stepper: step.Stepper, *args: Any) -> Any:
        time.sleep(0.1 if failed_at else 0)  # so that the thread has time to end
        return gradients(stepper, *args)

    monkeypatch.setattr(checkpoint, "seal", full)
    monkeypatch.setattr(step.Stepper, "_gradients", slowly)
    with pytest.raises(TrainingError, match=r"cannot write the checkpoint .*step-\d+: .*No space left.*free some"):
        train(train_inputs, train_section(**SETTINGS), tmp_path)
    assert _saved(tmp_path) == [1] == [line["step"] for line in _events(tmp_path, "checkpoint")]
    assert _steps(tmp_path) <= failed_at[0] + 3


def test_a_signal_waits_for_the_write_in_flight(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    inner = checkpoint.save

    def late(root: Path, found: checkpoint.Checkpoint, *others: Any) -> Path:
        if found.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        return inner(root, found, *others)

    monkeypatch.setattr(checkpoint, "save", late)
    with pytest.raises(Interrupted) as told:
        train(train_inputs, train_section(**SETTINGS), tmp_path)
    saved = _saved(tmp_path)
    assert saved[0] == 1
    assert f"after step {saved[-1]} of" in str(told.value)
    assert saved == [line["step"] for line in _events(tmp_path, "checkpoint")]


def test_without_room_for_copies_training_waits(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
                                                ) -> None:
    section = train_section(**SETTINGS, stopping={"patience": 9})
    train(train_inputs, section, tmp_path / "copied")
    monkeypatch.setattr(saver, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(saver.Copies, "of", None)
    with caplog.at_level(logging.WARNING, "sft"):
        train(train_inputs, section, tmp_path / "waited")
    assert _weights(tmp_path / "waited") == _weights(tmp_path / "copied")
    assert _saved(tmp_path / "waited") == _saved(tmp_path / "copied")
    assert [r for r in caplog.messages if "training waits while checkpoints are written" in r] == caplog.messages[:1]


def test_their_cost_decides_how_often_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(saver, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with EventLog(tmp_path / "events.jsonl", None, 1e9) as events, saver.Saver(events, 60.0) as keeper, \
            caplog.at_level(logging.WARNING, "sft"):
        keeper.copies([])
        for at, held_up_s, written_s, next_one in ((100.0, 1.0, 10.0, 160.0), (200.0, 6.0, 10.0, 320.0),
                                                   (400.0, 1.0, 90.0, 580.0)):
            now[0] = at + held_up_s
            keeper.save(int(at), at, lambda seconds=written_s: now.__setitem__(0, now[0] + seconds))
            keeper.wait()
            now[0] = next_one - 1
            assert not keeper.due()
            now[0] = next_one
            assert keeper.due()
        begun, go_on = threading.Event(), threading.Event()
        now[0] = 1000.0
        keeper.save(1000, 1000.0, lambda: (begun.set(), go_on.wait()))
        begun.wait()
        now[0] = 9000.0
        assert not keeper.due(), "one at most is in flight"
        go_on.set()
    assert [line["written_s"] for line in _events(tmp_path, "checkpoint")] == [10, 10, 90, 8000]
    [told] = caplog.messages
    assert "holds training up for 6.0 s and takes 10.0 s to write, so the next one comes after 120 s" in told
    assert not saver.Saver(events, 1e-6)._pause_s(), "who wants one after every step gets it"
