"""Two processes of a run watch each other: one that fails, is killed, stopped or stuck ends both, by name, at once."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from sft_core.config.train import TrainSection
from sft_core.errors import TrainingError
from sft_core.train import checkpoint, launch, pulse, step, workbench
from sft_core.train.inputs import TrainInputs

Section = Callable[..., TrainSection]
AGAIN = "its last checkpoint is kept: start the run again"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that look at each other ten times as often and lose patience sooner."""
    sooner = {"BEAT_S": 0.1, "SILENT": 40, "SILENT_AT_WORK": 400, "GRACE": 5, "LAG_S": 6.0, "LONGEST": 2}
    for name, value in sooner.items():
        monkeypatch.setattr(pulse, name, value)


@pytest.fixture
def in_two(forked: Callable[..., list[int | None]]) -> Callable[..., list[int | None]]:
    """`launch.main` of a job in two processes, after a sabotage."""

    def run(job: Path, sabotage: Callable[[int], None] = lambda rank: None) -> list[int | None]:
        def work(rank: int) -> None:
            sabotage(rank)
            os._exit(launch.main([str(job)]))

        return forked(work)

    return run


def _job(inputs: TrainInputs, section: TrainSection, out: Path) -> Path:
    out.mkdir()
    job = out / launch.JOB
    job.write_bytes(launch._JOB.dump_json(launch.Job(inputs, section, out), by_alias=True))
    return job


def _said(out: Path) -> list[str]:
    files = sorted((out / pulse.FAILED).iterdir(), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text())["message"] for file in files]


def _at_step_5(rank: int, fault: Callable[[], object]) -> Callable[[int], None]:
    """The fault strikes in the fifth step of a process, while it collates the rows of its second pass."""

    def sabotage(mine: int) -> None:
        inner = step.Stepper._collated

        def collated(stepper: Any, part: Any) -> Any:
            if pulse._own is not None and "step 5, pass 2" in pulse._own._beat.doing:
                fault()
            return inner(stepper, part)

        if mine == rank:
            step.Stepper._collated = collated  # type: ignore[method-assign]

    return sabotage


def _raise() -> None:
    raise TrainingError("out of paper")


def _bug() -> None:
    raise ZeroDivisionError("a bug")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _for_ever() -> None:
    while True:
        time.sleep(0.01)


FAULTS: dict[str, tuple[int, Callable[[], object], str]] = {
    "raises": (1, _raise, "out of paper"),
    "has a bug": (1, _bug, "ZeroDivisionError: a bug"),
    "is killed": (1, _kill, r"process 1 of this run .*is gone.*in step 5, pass 2 of 2.*" + AGAIN),
    "is killed, fsdp": (1, _kill, r"process 1 of this run .*is gone.*in step 5, pass 2 of 2.*" + AGAIN),
    "is stopped": (1, _stop, r"process 1 .*has not answered for \d+ s.*in step 5, pass 2 of 2.*" + AGAIN),
    "never ends": (1, _for_ever, r"process 1 .*has not moved for \d+ s.*in step 5, pass 2 of 2, collating.*" + AGAIN),
    "is the first, and stopped": (0, _stop, r"process 0 .*has not answered for \d+ s.*in step 5.*" + AGAIN),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_that_fails_ends_both_and_is_named(
        fault: str, hasty: None, in_two: Callable[..., list[int | None]], train_inputs: TrainInputs,
        train_section: Section, tmp_path: Path) -> None:
    rank, strike, told = FAULTS[fault]
    shard = "fsdp" if "fsdp" in fault else "none"
    section = train_section(processes=2, shard=shard, epochs=2, micro_rows=1, checkpoint_every_s=1e-6)
    out = tmp_path / "run"
    job = _job(train_inputs, section, out)
    codes = in_two(job, _at_step_5(rank, strike))
    assert codes[1 - rank] == 1, "the other ends by itself"
    assert codes[rank] == {_kill: -signal.SIGKILL, _stop: None}.get(strike, 1)
    said = _said(out)
    assert said, "somebody says why"
    assert re.search(told, said[0]), said
    newest = checkpoint.step_of(checkpoint.found(out / "checkpoints")[0])
    assert newest in (3, 4), "one at most was in flight"
    assert in_two(job) == [0, 0], "the same command continues"
    report = json.loads((out / launch.REPORT).read_text())
    assert report["resumed_from"] == newest
    assert not (out / pulse.PULSE).exists()


def test_torchrun_and_all_that_it_started_end_and_say_who_was_killed(train_inputs: TrainInputs, train_section: Section,
                                                                     tmp_path: Path) -> None:
    section = train_section(processes=2, epochs=200, validate_every_steps=10**6)
    killed: list[int] = []

    def strike(events: Path) -> None:
        if not killed and '"step": 3,' in events.read_text():
            [file] = (tmp_path / pulse.PULSE).glob("*-1")
            killed.append(json.loads(file.read_text())[0])
            os.kill(killed[0], signal.SIGKILL)

    began = psutil.Process().children(recursive=True)
    with pytest.raises(TrainingError, match=r"process 1 of this run .*is gone without a word.*" + AGAIN):
        launch.launch(train_inputs, section, tmp_path, on_events=strike, sync_every_s=0.05)
    assert psutil.Process().children(recursive=True) == began, "nothing is left behind"


def test_what_the_first_does_alone_is_waited_for_without_a_collective(
        hasty: None, in_two: Callable[..., list[int | None]], train_inputs: TrainInputs, train_section: Section,
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a process that does nothing is tolerated, and than any collective would wait."""
    monkeypatch.setattr(workbench, "PATIENCE", timedelta(seconds=3))
    newest = checkpoint.newest

    def slowly(*args: Any) -> Any:
        time.sleep(4)
        return newest(*args)

    monkeypatch.setattr(checkpoint, "newest", slowly)
    job = _job(train_inputs, train_section(processes=2), tmp_path / "run")
    assert in_two(job) == [0, 0]
