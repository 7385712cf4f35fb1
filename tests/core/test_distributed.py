"""Several processes (gloo, CPU) learn what one learns, whole or sharded, stopped and resumed by any number of them.

Most tests fork two processes that meet over loopback, which costs next to nothing; those of `launch` start torchrun.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from sft_core.config.data import ModelSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.train import TrainSection
from sft_core.errors import Interrupted, ModelError, TrainingError
from sft_core.model import held
from sft_core.model.attention import layers_of
from sft_core.train import launch, saving, step, workbench
from sft_core.train.finish import TrainReport, Until
from sft_core.train.inputs import TrainInputs
from sft_core.train.machines import Meeting
from sft_core.train.trainer import train
from tasks.stages import Done, Workspace
from tasks.train import train as train_task

Section = Callable[..., TrainSection]
Run = tuple[TrainInputs, TrainSection, Path]
ROOT = Path(__file__).resolve().parents[2]
EXACT, ROUNDED = 1e-9, 1e-5  # largest difference of a weight in float64 and in float32

SHARDS = ("none", "fsdp")
FULL = {"lambda_": 0.3, "beta": 0.5, "on": "both", "epochs": 2, "validate_every_steps": 3, "rows_per_step": 3}
CASES: dict[str, dict[str, Any]] = {
    "full, odd rows": {**FULL, "micro_rows": 1, "gradient_checkpointing": True},
    "always one idle": {**FULL, "rows_per_step": 1, "epochs": 0.5, "average": "example", "label_smoothing": 0.1},
    "adapters": {**FULL, "method": "lora", "lora": {"rank": 4}, "lambda_": 0.0, "on": "assistant", "micro_rows": 1},
    "adapters and head": {**FULL, "method": "lora", "lora": {"rank": 2, "modules_to_save": ["lm_head"]}},
    "kept base": {**FULL, "kl": {"beta": 0.5, "on": "both", "reference": "cache"}},
    "stopped early": {**FULL, "lr": 0.5, "epochs": 6, "validate_every_steps": 2, "stopping": {"patience": 2}},
}
LONG = {"adapters", "kept base"}


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models in float64, so that a difference is not rounding."""

    def exactly(load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        loaded.model.double()
        return loaded._replace(dtype=torch.float64)

    whole, in_parts = (partial(exactly, load) for load in (workbench.load_model, workbench.load_in_parts))
    monkeypatch.setattr(workbench, "load_in_parts", in_parts)
    for room in (workbench, saving, held):
        monkeypatch.setattr(room, "load_model", whole)


def _in_two(work: Callable[[int], None]) -> list[int | None]:
    """Run `work(rank)` in two forked processes that find each other as torchrun lets them; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def begin(rank: int) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        torch.set_num_threads(1)  # renews the pool of threads before two of them may ask for it at once
        os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"})
        work(rank)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=begin, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(40)
        process.kill()
    return [process.exitcode for process in processes]


def _train_in_two(*runs: Run) -> list[TrainReport]:
    """Train one run after the other by two processes; the reports of the first, which the second agrees with."""

    def work(rank: int) -> None:
        reports = [train(*run) for run in runs]
        (runs[0][2] / f"reports-{rank}").write_bytes(pickle.dumps(reports))

    assert _in_two(work) == [0, 0]
    ours, theirs = (pickle.loads((runs[0][2] / f"reports-{rank}").read_bytes()) for rank in range(2))
    assert [_told(report) for report in ours] == [_told(report) for report in theirs]
    return list(ours)


def _told(report: TrainReport) -> dict[str, Any]:
    """What all processes must agree on."""
    return {k: v for k, v in asdict(report).items()
            if k not in ("seconds", "tokens_per_s", "saving_s", "peak_rss_bytes")}


def _two(section: TrainSection, shard: str) -> TrainSection:
    return section.model_copy(update={"processes": 2, "shard": shard})


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def _gap(a: Path, b: Path) -> float:
    """Largest difference of a weight between two trained models."""
    ours, theirs = _weights(a), _weights(b)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


def _story(out: Path) -> list[dict[str, Any]]:
    """Steps, validations and the end without clock times, numbers to 8 digits."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in e.items() if k not in ("time", "tokens_per_s", "seconds", "saving_s", "peak_rss_bytes")}
            for e in events if e["event"] in ("step", "validation", "end")]
    return [{k: float(f"{v:.8g}") if isinstance(v, float) else v for k, v in e.items()} for e in kept]


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.chaos] * (case in LONG)) for case in CASES])
def test_two_learn_what_one_learns(case: str, float64: None, train_inputs: TrainInputs, train_section: Section,
                                   tmp_path: Path) -> None:
    section = train_section(**CASES[case])
    alone = train(train_inputs, section, tmp_path / "one")
    reports = _train_in_two(*((train_inputs, _two(section, shard), tmp_path / shard) for shard in SHARDS))
    for shard, report in zip(SHARDS, reports, strict=True):
        assert _gap(tmp_path / "one", tmp_path / shard) < EXACT
        assert _story(tmp_path / shard) == _story(tmp_path / "one"), "written once, the same counters and losses"
        counted = (report.steps, report.rows, report.tokens, report.trained_tokens, report.replay_tokens)
        assert counted == (alone.steps, alone.rows, alone.tokens, alone.trained_tokens, alone.replay_tokens)
        assert report.stopped_early == alone.stopped_early == (case == "stopped early")
        first = json.loads((tmp_path / shard / "events.jsonl").open().readline())
        assert (first["event"], first["processes"]) == ("start", 2)
    assert max(float(w.abs().max()) for w in _weights(tmp_path / "one").values()) > 0.1, "a gap of 0 would say nothing"


@pytest.mark.parametrize("shard", [pytest.param("none", marks=pytest.mark.chaos), "fsdp"])
def test_in_bfloat16_too(shard: str, train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """The frozen base is held in bfloat16, the model in float32 and its layers gathered in bfloat16."""
    inputs = replace(train_inputs, model=train_inputs.model.model_copy(update={"precision": "bfloat16"}))
    section = train_section(**FULL)
    alone = train(inputs, section, tmp_path / "one")
    [report] = _train_in_two((inputs, _two(section, shard), tmp_path / "two"))
    assert [loss for _, loss in report.validation] == pytest.approx([loss for _, loss in alone.validation], rel=5e-3)
    assert report.final.kl == pytest.approx(alone.final.kl, rel=0.1)
    assert report.final.kl != pytest.approx(train(
        train_inputs, section, tmp_path / "float32").final.kl, rel=1e-6), "it really was bfloat16"


@pytest.mark.parametrize("shard", SHARDS)
def test_sharded_each_holds_its_part(shard: str, train_inputs: TrainInputs, train_section: Section,
                                     tmp_path: Path) -> None:
    def held(model: torch.nn.Module) -> tuple[int, int]:
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
        return sum(p.numel() for p in parts), sum(p.numel() for p in model.parameters())

    def work(rank: int) -> None:
        bench = workbench.set_up(train_inputs, _two(train_section(**FULL), shard))
        assert bench.accelerator.num_processes == 2
        assert bench.policy.reference is not None
        seen = [held(bench.policy.model), *(held(layer) for layer in layers_of(bench.policy.reference))]
        (tmp_path / str(rank)).write_text(json.dumps(seen))

    assert _in_two(work) == [0, 0]
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    for (ours, whole), (theirs, same) in zip(first, second, strict=True):
        assert whole == same
        assert ours + theirs == (whole if shard == "fsdp" else 2 * whole)


@pytest.mark.parametrize(("shard", "told"), [("none", "got no gradient in step 1"), ("fsdp", "first: .*idle_proj")])
def test_a_parameter_without_gradient_is_told(shard: str, told: str, train_inputs: TrainInputs, train_section: Section,
                                              tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "load_in_parts" if shard == "fsdp" else "load_as_stored"
    load = getattr(workbench, name)

    def with_idle_module(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        mlp = loaded.model.model.layers[0].mlp
        mlp.idle_proj = torch.nn.Linear(32, 32)
        mlp.register_forward_hook(lambda m, _, out: out if m.training else out + 0 * m.idle_proj(out))
        return loaded

    def work(rank: int) -> None:
        section = _two(train_section(method="lora", lora={"target_modules": ["q_proj", "idle_proj"]}), shard)
        with pytest.raises(TrainingError, match=told + "(.|\n)*modules_to_save"):
            train(train_inputs, section, tmp_path)

    monkeypatch.setattr(workbench, name, with_idle_module)
    assert _in_two(work) == [0, 0]


# Killed and resumed

KINDS = {"one": None, "two": "none", "sharded": "fsdp"}


def _go(kind: str, run: Run) -> None:
    shard = KINDS[kind]
    if shard is None:
        train(*run)
    else:
        _train_in_two((run[0], _two(run[1], shard), run[2]))


def _killed(kind: str, run: Run) -> None:
    """All processes die by SIGKILL in the middle of step 5."""
    shard = KINDS[kind]

    def work(rank: int) -> None:
        inner, calls = step.Stepper._gradients, iter(range(1, 100))

        def gradients(stepper: step.Stepper, *args: Any) -> Any:
            if next(calls) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(stepper, *args)

        step.Stepper._gradients = gradients  # type: ignore[method-assign]
        train(run[0], run[1] if shard is None else _two(run[1], shard), run[2])

    if shard is not None:
        assert _in_two(work) == [-signal.SIGKILL] * 2
        return
    process = multiprocessing.get_context("fork").Process(target=work, args=(0,))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(("kind", "others"), [
    ("one", ["two", "sharded"]), pytest.param("two", ["two", "one"], marks=pytest.mark.chaos),
    ("sharded", ["sharded", "one"])])
def test_killed_and_resumed_by_another_number(kind: str, others: list[str], float64: None, train_inputs: TrainInputs,
                                              train_section: Section, tmp_path: Path) -> None:
    section = train_section(**FULL, checkpoint_every_s=1e-6)
    _killed(kind, (train_inputs, section, tmp_path / "killed"))
    _go(kind, (train_inputs, section, tmp_path / "whole"))
    for other in others:
        shutil.copytree(tmp_path / "killed", tmp_path / other)
        _go(other, (train_inputs, section, tmp_path / other))
        assert '"resume"' in (tmp_path / other / "events.jsonl").read_text()
        assert _gap(tmp_path / other, tmp_path / "whole") < EXACT
        assert _story(tmp_path / other) == _story(tmp_path / "whole")
    if kind in others:
        assert _gap(tmp_path / kind, tmp_path / "whole") == 0.0, "bit-identical by as many"


@pytest.mark.parametrize("shard", SHARDS)
def test_a_signal_to_one_of_two_saves_and_stops_both(shard: str, train_inputs: TrainInputs, train_section: Section,
                                                     tmp_path: Path) -> None:
    """With dropout, so that the generators of both must be where they were; the signal comes in a validation."""
    section = _two(train_section(**FULL, method="lora", lora={"rank": 4, "dropout": 0.3}), shard)

    def work(rank: int) -> None:
        inner = step.Stepper.validation_loss

        def knock(stepper: step.Stepper, stop: Any = None) -> float | None:
            (tmp_path / f"seed-{rank}").write_text(str(torch.initial_seed()))
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return inner(stepper, stop)

        step.Stepper.validation_loss = knock  # type: ignore[method-assign]
        told = "SIGTERM" if rank else "a signal to another process"
        with pytest.raises(Interrupted, match=f"stopped by {told} after step 1 of 8.*same run again"):
            train(train_inputs, section, tmp_path / "asked")

    assert _in_two(work) == [0, 0]
    [saved] = (tmp_path / "asked" / "checkpoints").iterdir()
    assert saved.name == "step-1"
    assert (tmp_path / "seed-0").read_text() != (tmp_path / "seed-1").read_text(), "each drops out in its own way"
    resumed, whole = _train_in_two((train_inputs, section, tmp_path / "asked"),
                                   (train_inputs, section, tmp_path / "whole"))
    assert (resumed.resumed_from, whole.resumed_from) == (1, None)
    assert resumed.validation == whole.validation
    assert _story(tmp_path / "asked") == _story(tmp_path / "whole")
    assert _weights(tmp_path / "asked").keys() == _weights(tmp_path / "whole").keys()
    assert _gap(tmp_path / "asked", tmp_path / "whole") == 0.0


@pytest.mark.parametrize("shard", SHARDS)
def test_one_saves_and_reads_back_and_all_report_the_same(
        shard: str, train_inputs: TrainInputs, train_section: Section, tmp_path: Path, make_llama: Callable[..., Any],
        tiny_tokenizer: Any) -> None:
    """A base in bfloat16, so that forms are tried; `_train_in_two` compares the reports of both processes."""
    make_llama(initializer_range=1.0).bfloat16().save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    model = train_inputs.model.model_copy(update={"path": str(tmp_path / "base")})
    inputs, section = replace(train_inputs, model=model), train_section(lr=2e-5, epochs=6)
    alone = train(inputs, section, tmp_path / "alone")
    (report,) = _train_in_two((inputs, _two(section, shard), tmp_path / "two"))
    assert report.stored.form == alone.stored.form == "bfloat16, stochastic"
    assert report.stored.tried == pytest.approx(alone.stored.tried, abs=1e-2)
    assert [e["loss"] for e in _told_events(tmp_path / "two", "saved")] == [report.stored.loss]


def _told_events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


# launch


@pytest.fixture
def experiment(tiny_base: Path) -> Callable[..., ExperimentConfig]:
    def make(**train_fields: Any) -> ExperimentConfig:
        section = {"rows_per_step": 3, "micro_rows": 2, "epochs": 2, "optim": {"lr": 3e-3}, "validate_every_steps": 3,
                   "replay": {"lambda": 0.3, "sources": [{"path": "tiny:replay"}], "tokens_per_step": 48}}
        return ExperimentConfig.model_validate({
            "name": "two", "model": {"path": str(tiny_base), "device": "cpu"}, "seed": 7,
            "data": {"sources": [{"path": "tiny:sft"}], "max_tokens": 32}, "train": section | train_fields,
            "eval": {"suites": ["tiny_refusal"]}, "tracking": {"sync_every_s": 0.01}})

    return make


def test_the_task_starts_as_many_processes_as_the_config_says(
    experiment: Callable[..., ExperimentConfig], prepared: Path, tmp_path: Path,
) -> None:
    data = Done("prepared", prepared, {}, True)
    seen: list[int] = []

    def follow(events: Path) -> None:
        seen.append(events.stat().st_size if events.is_file() else 0)

    one = train_task.fn(experiment(), data, Workspace(tmp_path / "one", None), lambda events: None)
    place = Workspace(tmp_path / "two", None)
    two = train_task.fn(experiment(processes=2, shard="fsdp"), data, place, follow)
    assert _gap(one.folder, two.folder) < ROUNDED
    assert json.loads((two.folder / "events.jsonl").open().readline())["processes"] == 2
    for key in ("steps", "rows", "tokens", "trained_tokens", "replay_tokens", "resumed_from"):
        assert two.result[key] == one.result[key]
    assert two.result["final"]["loss"] == pytest.approx(one.result["final"]["loss"], rel=1e-5)
    assert two.result["model_folder"] == str(two.folder / "model")
    assert len({size for size in seen if size}) > 2, "followed while it grows"
    assert train_task.fn(experiment(), data, place, follow).reused, "the number of processes does not change the run"


@pytest.fixture
def slow(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> Run:
    """A run by two processes that lasts until it is told to stop, and not much longer if it does not listen."""
    return train_inputs, _two(train_section(epochs=200, validate_every_steps=10**6), "none"), tmp_path / "slow"


def test_a_signal_comes_through(slow: Run) -> None:
    inputs, section, out = slow

    knocked: list[int] = []

    def knock(events: Path) -> None:
        if not knocked and events.is_file() and '"step": 3,' in events.read_text():
            knocked.append(os.getpid())
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after step \d+ of 550; the state is saved") as told:
        launch.launch(inputs, section, out, on_events=knock, sync_every_s=0.05)
    assert signal.getsignal(signal.SIGTERM) is before
    [saved] = (out / "checkpoints").iterdir()
    assert f"after {saved.name.replace('-', ' ')} of" in str(told.value)


PARENT = """
import pickle, sys
from pathlib import Path
from sft_core.train.launch import launch
launch(*pickle.loads(Path(sys.argv[1]).read_bytes()))
"""


@pytest.fixture
def parent(slow: Run, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "arguments").write_bytes(pickle.dumps(slow))
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "arguments")], cwd=ROOT,
                          stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_processes_whose_parent_is_killed_save_and_stop(slow: Run, parent: subprocess.Popen[bytes]) -> None:
    out, deadline = slow[2], time.monotonic() + 60
    while not (out / "events.jsonl").is_file() or '"step": 3,' not in (out / "events.jsonl").read_text():
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not (out / "checkpoints").exists()
    parent.kill()
    with (out / launch.LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # as the next launch waits for them
    assert len(list((out / "checkpoints").iterdir())) == 1


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of children that are not started: this process does what torchrun's first one would do."""
    commands: list[list[str]] = []

    def child(meeting: Meeting, *others: Any) -> Any:
        commands.append(list(meeting.command))
        return SimpleNamespace(pid=os.getppid(), returncode=launch.main([meeting.command[-1]]))

    monkeypatch.setattr(launch, "_follow", child)
    return commands


def test_an_error_of_a_process_is_raised_again(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                               started: list[list[str]]) -> None:
    section = _two(train_section(**FULL, checkpoint_every_s=1e-6), "none")
    train(train_inputs, section, tmp_path)
    other = section.model_copy(update={"label_smoothing": 0.5})
    with pytest.raises(TrainingError, match=r"belongs to another run: train\.label_smoothing was 0\.0, is 0\.5"):
        launch.launch(train_inputs, other, tmp_path)
    with pytest.raises(ModelError, match="absent"):
        launch.launch(replace(train_inputs, model=ModelSection(path=str(tmp_path / "absent"))), section, tmp_path)
    assert [int(command[command.index("--nproc-per-node") + 1]) for command in started] == [2, 2]
    assert launch.main([started[0][-1]]) == 1


def test_a_finished_job_is_taken_as_it_is_and_another_is_not(
    train_inputs: TrainInputs, train_section: Section, tmp_path: Path, started: list[list[str]],
) -> None:
    """As left by somebody who started torchrun on the job."""
    section = _two(train_section(**FULL), "none")
    paused = launch.launch(train_inputs, section, tmp_path, until=Until(0.5, tmp_path / "half"))
    assert paused.model_folder == tmp_path / "half" / "model"
    assert (paused.model_folder / "config.json").exists()
    first = launch.launch(train_inputs, section, tmp_path)
    assert launch.launch(train_inputs, section, tmp_path) == first
    assert (len(started), first.resumed_from) == (2, paused.steps)
    assert _told(train(train_inputs, section, tmp_path / "here")) == _told(replace(
        first, model_folder=tmp_path / "here" / "model", resumed_from=None)), "a report survives its file"


def test_what_cannot_be_started_is_told(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    section = _two(train_section(), "none")
    monkeypatch.setattr(launch, "_follow", lambda *args: SimpleNamespace(pid=1, returncode=-9))
    with pytest.raises(TrainingError, match=r"code -9.*start the run again"):
        launch.launch(train_inputs, section, tmp_path)
    monkeypatch.setattr(launch, "resolve_device", lambda model: torch.device("cuda"))
    with pytest.raises(ModelError, match=r"train\.processes is 2, but this machine has 0 GPUs"):
        launch.launch(train_inputs, section, tmp_path)


@pytest.mark.parametrize(("fields", "told"), [
    ({"shard": "fsdp"}, "set processes: 2 or more"),
    ({"shard": "fsdp", "processes": 2, "method": "lora", "lora": {"quantize": "nf4"}}, "cannot cut weights of 4 bits"),
    ({"shard": "fsdp", "processes": 2, "beta": 0.1, "kl": {"beta": 0.1, "reference": "offload"}}, "copy or cache"),
    ({"processes": 2, "engine": "trl", "replay": {}}, "engine: trl cannot do processes"),
])
def test_settings_that_do_not_meet_are_refused(fields: dict[str, Any], told: str, train_section: Section) -> None:
    with pytest.raises(ValidationError, match=told):
        train_section(**fields)


AS_STORED: dict[str, dict[str, Any]] = {
    "adapters": {"method": "lora", "lora": {"rank": 4}, "beta": 0.3, "on": "assistant"},
    "kept base": {"kl": {"beta": 0.3, "on": "assistant", "reference": "cache"}}}


@pytest.mark.parametrize("case", [(shard, name) for shard in SHARDS for name in AS_STORED], ids=str)
def test_a_base_held_as_stored_is_shared_out_too(case: tuple[str, str], train_inputs: TrainInputs,
                                                 train_section: Section, make_llama: Callable[..., Any],
                                                 tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Frozen weights in bfloat16 beside trained ones in float32: in one layer, and of the base's head."""
    base = tmp_path / "base"
    make_llama().bfloat16().save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    inputs = replace(train_inputs, model=ModelSection(path=str(base), device="cpu", precision="bfloat16"))
    section = train_section(epochs=0.5, **AS_STORED[case[1]])
    alone = train(inputs, section, tmp_path / "one")

    def work(rank: int) -> None:
        report = train(inputs, _two(section, case[0]), tmp_path / "two")
        assert report.final.loss == pytest.approx(alone.final.loss, rel=2e-3)

    assert _in_two(work) == [0, 0]
