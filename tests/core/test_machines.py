"""Several machines at one run, as far as processes that share nothing but a folder are machines."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from sft_core.config.train import TrainSection
from sft_core.errors import Interrupted, TrainingError
from sft_core.stage import write_json
from sft_core.stopping import stop_on_signals
from sft_core.train import launch, machines
from sft_core.train.inputs import TrainInputs
from sft_core.train.machines import CALL, FOLDER, called, help_out
from sft_core.train.pulse import FAILED
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
ROOT = Path(__file__).resolve().parents[2]
JOIN = ("import sys; from pathlib import Path; from sft_core.train.launch import help_machines\n"
        "help_machines(lambda: [Path(sys.argv[1])])")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def second(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another machine that has said `sft join`."""
    with subprocess.Popen([sys.executable, "-c", JOIN, str(out)], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
                          stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_two_machines_learn_what_one_does_and_end_when_one_dies(
    train_inputs: TrainInputs, train_section: Section, tmp_path: Path, out: Path, second: subprocess.Popen[bytes],
) -> None:
    """The second machine is killed at step 3, with its process; the same run on one machine continues."""
    section = train_section(epochs=10, validate_every_steps=10**6, checkpoint_every_s=1e-6, machines=2)
    dead: list[int] = []

    def watch(events: Path) -> None:
        if not dead and '"step": 3,' in events.read_text():
            (torchrun,) = psutil.Process(second.pid).children()
            (rank,) = torchrun.children()
            dead.append(rank.pid)
            for process in (psutil.Process(second.pid), torchrun, rank):
                process.kill()

    with pytest.raises(TrainingError) as told:
        launch.launch(replace(train_inputs, address="127.0.0.1"), section, out, on_events=watch, sync_every_s=0.05)
    assert f"process 1 of this run (pid {dead[0]} on " in str(told.value)
    assert json.loads((out / "events.jsonl").open().readline())["processes"] == 2
    report, alone = (train(train_inputs, section.model_copy(update={"machines": 1}), folder)
                     for folder in (out, tmp_path / "alone"))
    assert report.resumed_from
    ours, theirs = (load_file(one.model_folder / "model.safetensors") for one in (report, alone))
    assert max((ours[name].double() - theirs[name].double()).abs().max().item() for name in theirs) < 1e-5


@pytest.fixture
def section(train_section: Section) -> TrainSection:
    return train_section(machines=2, processes=3)


def helper(out: Path, took: list[Any]) -> threading.Thread:
    """Another machine that takes part once."""

    class Enough(Exception):
        pass

    def follow(meeting: machines.Meeting) -> int:
        took.append(meeting.command)
        raise Enough

    def help_once() -> None:
        with pytest.raises(Enough):
            help_out(lambda: [out], follow)

    thread = threading.Thread(target=help_once, daemon=True)
    thread.start()
    return thread


def test_they_meet_where_the_caller_says(out: Path, section: TrainSection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "LOOK_S", 0.01)
    took: list[Any] = []
    thread = helper(out, took)
    with called(out, section, "127.0.0.1") as meeting:
        thread.join(20)
        (theirs,) = took
        where = [command[command.index("--nnodes"):command.index("-m", command.index("--nnodes"))]
                 for command in (list(meeting.command), list(theirs))]
        assert where[0] == [word if word != "1" else "0" for word in where[1]]
        assert {"2", "3", "127.0.0.1"} <= set(where[0])
        assert meeting.command[3] == "lo"
        assert meeting.is_over()
    assert machines._call_of(out / FOLDER) is None, "nobody comes to a call that is over"


def test_a_call_ends_with_a_signal(out: Path, section: TrainSection, monkeypatch: pytest.MonkeyPatch,
                                   caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    threading.Timer(0.6, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted, match="SIGTERM"), stop_on_signals(), called(out, section, "127.0.0.1"):
        raise AssertionError
    assert "waiting for 1 more of 2 machines (train.machines); say `sft join` on them" in caplog.text


@pytest.mark.parametrize(("changes", "said"), [
    ({"made_with": "code 0, torch 1"}, "it has code 0, torch 1, here is code .*; install the same on both"),
    ({"processes": 9}, "train.processes is 9, here are 1 GPUs"),
])
def test_a_machine_that_cannot_come_says_why(changes: dict[str, Any], said: str, out: Path, section: TrainSection,
                                             monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    call = machines.Call("t", 2, 1, machines.made_with(), "127.0.0.1")._replace(**changes)
    (out / FOLDER).mkdir(parents=True)
    (out / FOLDER / CALL).write_text(json.dumps(call._asdict()))
    held = machines._take(out / FOLDER, call, 0)
    assert held is not None
    threading.Timer(0.6, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with held, stop_on_signals(), pytest.raises(Interrupted):
        help_out(lambda: [out], lambda meeting: 0)
    (told,) = caplog.messages
    assert re.search(f"calls for machines, and this one cannot come: {said}", told)


def test_settings_that_do_not_meet(train_section: Section) -> None:
    with pytest.raises(ValidationError, match="engine: trl cannot do machines"):
        train_section(machines=2, engine="trl", replay={})
    assert train_section(machines=2, shard="fsdp").all_processes == 2


def test_what_kept_another_machine_from_coming_is_said(train_inputs: TrainInputs, section: TrainSection, out: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """No process here hears of it before they have met, and would wait for long."""

    @contextmanager
    def left(*args: object) -> Iterator[machines.Meeting]:
        write_json(out / FAILED / "1-2.json", {"kind": "TrainingError", "message": "no way to there"})
        yield machines.Meeting(["sleep", "80"], lambda: True)

    monkeypatch.setattr(launch, "called", left)
    monkeypatch.setattr(launch, "LEFT_S", 0.2)
    with pytest.raises(TrainingError, match="no way to there"):
        launch.launch(train_inputs, section, out, sync_every_s=0.15)
