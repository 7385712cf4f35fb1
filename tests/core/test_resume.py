"""Stopped at any point, resumed, and bit-identical to the run that was never stopped (CPU).

The kills are real: a process of its own is killed by SIGKILL while it steps, writes a checkpoint, validates or saves
the model. It is forked, which costs nothing; one more is a plain script that is killed from outside.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft_core import stage
from sft_core.config.train import TrainSection
from sft_core.errors import Interrupted, TrainingError
from sft_core.train import checkpoint, step
from sft_core.train.finish import Until
from sft_core.train.inputs import TrainInputs
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
ROOT = Path(__file__).resolve().parents[2]
CHANGING = {"time", "tokens_per_s", "seconds", "saving_s", "peak_rss_bytes"}
TOLD_ONCE_MORE = {"resume", "checkpoint", "start", "system"}

FULL = {"lambda_": 0.3, "beta": 0.5, "on": "both", "epochs": 3, "validate_every_steps": 3}
LORA = {"method": "lora", "lora": {"rank": 4, "dropout": 0.3}, "beta": 0.5, "on": "assistant", "epochs": 3,
        "validate_every_steps": 3}


def _story(out: Path) -> list[dict[str, Any]]:
    """Steps, validations and the end, without clock times."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k not in CHANGING} for e in events if e["event"] not in TOLD_ONCE_MORE]


def _weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _counted(function: Callable[..., Any], nth: int) -> Callable[..., Any]:
    """The function, dying just before its nth call."""
    calls = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            _die()
        return function(*args, **kwargs)

    return wrapper


WHERE = {"in a step": (step.Stepper, "_losses", 6), "in a checkpoint": (checkpoint, "sync", 18),
         "before its rename": (checkpoint, "write_json", 5), "in a validation": (step.Stepper, "validation_loss", 3),
         "in the model folder": (stage, "sync", 2), "before the first checkpoint": (checkpoint, "save", 1)}


def _killed(where: str, inputs: TrainInputs, section: TrainSection, out: Path, nth: int | None = None) -> None:
    """Train in a forked process that SIGKILL ends."""
    owner, name, usual = WHERE[where]

    def work() -> None:
        setattr(owner, name, _counted(getattr(owner, name), nth or usual))
        train(inputs, section, out)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("where", WHERE)
def test_killed_anywhere_and_resumed_is_bit_identical(where: str, train_inputs: TrainInputs, train_section: Section,
                                                      tmp_path: Path) -> None:
    section = train_section(**FULL, checkpoint_every_s=1e-6)
    _killed(where, train_inputs, section, tmp_path / "killed")
    early = where == "before the first checkpoint"
    assert not (tmp_path / "killed" / "model").exists()
    resumed = train(train_inputs, section, tmp_path / "killed")
    whole = train(train_inputs, section, tmp_path / "whole")
    assert (resumed.resumed_from is None) == early
    assert _weights(tmp_path / "killed") == _weights(tmp_path / "whole")
    assert _story(tmp_path / "killed") == _story(tmp_path / "whole")
    assert (resumed.tokens, resumed.validation, resumed.final) == (whole.tokens, whole.validation, whole.final)


def test_adapters_with_dropout_resume_bit_identical(train_inputs: TrainInputs, train_section: Section,
                                                    tmp_path: Path) -> None:
    section = train_section(**LORA, checkpoint_every_s=1e-6)
    _killed("in a step", train_inputs, section, tmp_path / "killed")
    train(train_inputs, section, tmp_path / "killed")
    train(train_inputs, section, tmp_path / "whole")
    assert _weights(tmp_path / "killed") == _weights(tmp_path / "whole")
    assert _story(tmp_path / "killed") == _story(tmp_path / "whole")


def test_killed_twice_with_checkpoints_few_and_far_between(train_inputs: TrainInputs, train_section: Section,
                                                           tmp_path: Path) -> None:
    """The checkpoint is older than the last events: they are cut off and told again, not twice."""
    section = train_section(**FULL, checkpoint_every_s=1e-6)
    _killed("in a step", train_inputs, section, tmp_path / "killed")
    _damage_newest(tmp_path / "killed" / "checkpoints")
    _killed("in a step", train_inputs, section, tmp_path / "killed", nth=2)
    _damage_newest(tmp_path / "killed" / "checkpoints")
    told: list[int] = []
    train(train_inputs, section, tmp_path / "killed", on_events=lambda path: told.append(path.stat().st_size))
    assert told[0] < told[-1], "the follower hears of the cut before the next line is written"
    train(train_inputs, section, tmp_path / "whole")
    assert _weights(tmp_path / "killed") == _weights(tmp_path / "whole")
    assert _story(tmp_path / "killed") == _story(tmp_path / "whole")


def _damage_newest(checkpoints: Path) -> None:
    """Beside it may lie the draft that the kill has cut off."""
    (checkpoint.found(checkpoints)[0] / checkpoint.WEIGHTS).write_bytes(b"damaged")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_and_says_how_to_continue(number: signal.Signals, train_inputs: TrainInputs,
                                                        train_section: Section, tmp_path: Path) -> None:
    section = train_section(**FULL)
    before = signal.getsignal(number)
    calls = 0

    def knock(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=rf"{number.name} after step \d+ of \d+.*same run again"):
        train(train_inputs, section, tmp_path / "asked", on_events=knock, sync_every_s=0.0)
    assert signal.getsignal(number) is before
    assert len(list((tmp_path / "asked" / "checkpoints").iterdir())) == 1
    assert not (tmp_path / "asked" / "model").exists()
    report = train(train_inputs, section, tmp_path / "asked")
    assert report.resumed_from
    train(train_inputs, section, tmp_path / "whole")
    assert _weights(tmp_path / "asked") == _weights(tmp_path / "whole")
    assert _story(tmp_path / "asked") == _story(tmp_path / "whole")


def test_a_signal_in_a_validation_is_heard_before_its_end(train_inputs: TrainInputs, train_section: Section,
                                                          tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = train_section(**FULL)
    inner = step.Stepper.validation_loss
    calls = 0

    def knock(stepper: Any, stop: Any) -> float | None:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(stepper, stop)

    monkeypatch.setattr(step.Stepper, "validation_loss", knock)
    with pytest.raises(Interrupted, match="after step 3"):
        train(train_inputs, section, tmp_path / "asked")
    monkeypatch.undo()
    train(train_inputs, section, tmp_path / "asked")
    train(train_inputs, section, tmp_path / "whole")
    assert _story(tmp_path / "asked") == _story(tmp_path / "whole")


def test_outside_the_main_thread_no_handler_is_set(train_inputs: TrainInputs, train_section: Section,
                                                   tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    handlers: list[Any] = []
    thread = threading.Thread(target=lambda: train(
        train_inputs, train_section(), tmp_path, on_events=lambda p: handlers.append(signal.getsignal(signal.SIGTERM))))
    thread.start()
    thread.join(300)
    assert (tmp_path / "model" / "config.json").is_file()
    assert handlers == [before]


def test_a_finished_run_called_again_ends_the_same(train_inputs: TrainInputs, train_section: Section,
                                                   tmp_path: Path) -> None:
    section = train_section(**FULL, checkpoint_every_s=1e-6, keep_checkpoints=3)
    first = train(train_inputs, section, tmp_path)
    weights, story = _weights(tmp_path), _story(tmp_path)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    again = train(train_inputs, section, tmp_path)
    assert again.resumed_from == again.steps == first.steps
    assert (again.final, again.validation, again.rows) == (first.final, first.validation, first.rows)
    assert (_weights(tmp_path), _story(tmp_path)) == (weights, story)


@pytest.mark.parametrize("settings", [FULL, LORA], ids=["full", "lora"])
def test_paused_at_shares_of_its_steps_a_run_ends_bit_identical(settings: dict[str, Any], train_inputs: TrainInputs,
                                                                train_section: Section, tmp_path: Path) -> None:
    section = train_section(**settings)
    whole = train(train_inputs, section, tmp_path / "whole")
    rungs = [train(train_inputs, section, tmp_path / "run", until=Until(share, tmp_path / str(share)))
             for share in (0.25, 0.5)]
    assert [rung.model_folder for rung in rungs] == [tmp_path / "0.25" / "model", tmp_path / "0.5" / "model"]
    assert 0 < rungs[0].steps == rungs[1].resumed_from < rungs[1].steps < whole.steps
    assert not (tmp_path / "run" / "model").exists()
    end = train(train_inputs, section, tmp_path / "run")
    assert end.resumed_from == rungs[1].steps
    assert _weights(tmp_path / "run") == _weights(tmp_path / "whole")
    assert _story(tmp_path / "run") == _story(tmp_path / "whole")
    assert len({(rung.model_folder / "model.safetensors").read_bytes() for rung in (*rungs, end)}) == 3
    assert [rung.validation[-1][0] for rung in rungs] == [rung.steps for rung in rungs]


def test_past_where_it_was_to_pause_a_run_goes_on_to_its_end(train_inputs: TrainInputs, train_section: Section,
                                                             tmp_path: Path) -> None:
    """As one that was trained further before anybody asked for its beginning."""
    section = train_section(**FULL)
    train(train_inputs, section, tmp_path / "run", until=Until(0.5, tmp_path / "half"))
    end = train(train_inputs, section, tmp_path / "run", until=Until(0.25, tmp_path / "quarter"))
    assert end.model_folder == tmp_path / "run" / "model"
    assert not (tmp_path / "quarter").exists()


def test_early_stopping_before_the_pause_ends_the_run(train_inputs: TrainInputs, train_section: Section,
                                                      tmp_path: Path) -> None:
    section = train_section(lr=0.5, epochs=6, validate_every_steps=2, stopping={"patience": 2})
    end = train(train_inputs, section, tmp_path / "run", until=Until(0.9, tmp_path / "late"))
    assert end.stopped_early
    assert end.model_folder == tmp_path / "run" / "model"
    assert not (tmp_path / "late").exists()


def test_another_configuration_does_not_continue_a_run(train_inputs: TrainInputs, train_section: Section,
                                                       tmp_path: Path) -> None:
    train(train_inputs, train_section(checkpoint_every_s=1e-6), tmp_path)
    with pytest.raises(TrainingError, match=r"train\.optim was .*0\.003.* is .*0\.001"):
        train(train_inputs, train_section(lr=1e-3), tmp_path)
    report = train(train_inputs, train_section(checkpoint_every_s=60.0, validate_every_steps=7), tmp_path)
    assert report.resumed_from, "how often to save and to validate may change"


SCRIPT = """
import pickle, sys, time
from pathlib import Path
import torch
from sft_core.train.trainer import train
torch.set_num_threads(1)
inputs, section, out = pickle.loads(Path(sys.argv[1]).read_bytes())
train(inputs, section, out, sync_every_s=0.0, on_events=lambda path: time.sleep(0.02))
"""


def test_a_script_killed_from_outside_continues(train_inputs: TrainInputs, train_section: Section,
                                                tmp_path: Path) -> None:
    section, out = train_section(**FULL, checkpoint_every_s=1e-6), tmp_path / "killed"
    (tmp_path / "arguments").write_bytes(pickle.dumps((train_inputs, section, out)))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "arguments")], cwd=ROOT,
                               env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (out / "checkpoints" / "step-4").is_dir():
        assert process.poll() is None, "the script ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    report = train(train_inputs, section, out)
    assert report.resumed_from
    train(train_inputs, section, tmp_path / "whole")
    assert _weights(out) == _weights(tmp_path / "whole")
    assert _story(out) == _story(tmp_path / "whole")
