"""The whole way of a run on CUDA, walked on the CPU: nothing is mixed, nothing waits, what is killed goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bench import gpu
from bench.train_data import SHAPES
from bench.train_spec import Spec
from eval_suites.backends.contract import Continuation, Prompt, Stops
from eval_suites.backends.local import Local
from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.doctor import steps
from sft_core.errors import Interrupted, ModelError
from sft_core.model.proof import Rows, choose_backend
from sft_core.train.inputs import TrainInputs
from sft_core.train.snapshot import Unreached
from sft_core.train.trainer import train
from sft_core.train.workbench import join, set_up
from tests.cuda.ledger import Ledger, MixedDevices, TooSoon

Inputs = Callable[..., TrainInputs]
Section = Callable[..., TrainSection]

RUNS: dict[str, dict[str, Any]] = {
    "full": {"stopping": {"patience": 9}},
    "full, kl and replay": {"beta": 0.1, "lambda_": 0.5, "on": "both"},
    "lora, kept kl": {"method": "lora", "beta": 0.1, "on": "assistant", "kl": {"reference": "cache"}},
}


def _section(make: Section, fields: Mapping[str, Any]) -> TrainSection:
    """`kl` holds what is beside `beta` and `on`."""
    kl = dict(fields.get("kl", {}))
    plain = make(**{k: v for k, v in fields.items() if k != "kl"})
    return plain.model_copy(update={"kl": plain.kl.model_copy(update=kl)})


@dataclass
class StopAfter:
    """Asks a run to stop, as Ctrl-C does, when so many of its steps are written down."""

    steps: int

    def __call__(self, diary: Path) -> None:
        told = [json.loads(line)["event"] for line in diary.read_text(encoding="utf-8").splitlines()]
        if told.count("step") == self.steps:
            self.steps = -1
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_stopped_goes_on_and_ends_the_same(name: str, inputs: Inputs, train_section: Section,
                                                         tmp_path: Path, device: Ledger) -> None:
    """From set-up to the saved folder. Adam's count of steps has to come back to the device, or its kernel refuses."""
    section = _section(train_section, RUNS[name])
    drawn = torch.cuda.get_rng_state()
    whole = train(inputs(), section, tmp_path / "whole")
    assert torch.equal(torch.cuda.get_rng_state(), drawn), "whoever calls goes on drawing where it was"
    assert device.launches["_varlen_attn"], "the way that is taken on CUDA"
    with pytest.raises(Interrupted, match="after step 1"):
        train(inputs(), section, tmp_path / "halves", on_events=StopAfter(1), sync_every_s=0.0)
    assert device.waits["saver.py:ready"]
    assert "saver.py:of" not in device.waits, "its copies are waited for together"
    rest = train(inputs(), section, tmp_path / "halves")
    assert (rest.resumed_from, rest.final, rest.validation) == (1, whole.final, whole.validation)
    ends = [load_file(tmp_path / half / "model" / "model.safetensors") for half in ("whole", "halves")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_an_adapter_is_merged_and_read_back_in_float32(inputs: Inputs, train_section: Section, tmp_path: Path,
                                                       device: Ledger) -> None:
    """Without autocast, where CUDA's kernel takes half precision only."""
    report = train(inputs(), train_section(method="lora", lr=0.03), tmp_path)
    assert report.stored.merge_gap is not None
    assert report.stored.merge_gap < 1e-4
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_an_adapter_is_there_when_its_merge_fails(inputs: Inputs, train_section: Section, tmp_path: Path,
                                                  device: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")

    monkeypatch.setattr("sft_core.train.saving.merge_adapter", refused)
    with pytest.raises(RuntimeError, match="FlashAttention"):
        train(inputs(), train_section(method="lora"), tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_varlen_says_what_the_mask_says(inputs: Inputs, train_section: Section, device: Ledger) -> None:
    from sft_core.train.step import Stepper

    losses = {}
    for way in ("varlen", "mask"):
        bench = set_up(inputs(attention=way), train_section())
        assert bench.policy.backend == way
        taken = Stepper(bench, train_section()).take(0)
        losses[way] = (taken.losses.loss, taken.grad_norm, Stepper(bench, train_section()).validation_loss())
    assert losses["varlen"] == pytest.approx(losses["mask"], rel=5e-3)


def test_a_probe_answers_on_the_device(inputs: Inputs, train_section: Section, tmp_path: Path,
                                       device: Ledger) -> None:
    """Likelihoods and generation by the backend of evaluation, on the model under training."""
    def probe(model: Any, tokenizer: Any) -> dict[str, float]:
        local = Local(model, 64)
        assert "cuda" in local.name
        assert torch.is_autocast_enabled(model.device.type), "in the precision in which it is trained"
        asked = [Continuation((5, 6, 7), (8, 9)), Continuation((5, 6, 7), (10,)), Continuation((6,), (7,))]
        found = dict(local.likelihoods(asked))
        prompts = [Prompt((5, 6, 7), 6), Prompt((8,), 4)]
        said = dict(local.generate(prompts, Stops(frozenset({0}))))
        return {"found": sum(one.logprob for one in found.values()), "said": float(len(said))}

    train(inputs(), train_section(epochs=0.5), tmp_path, probe=probe)
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    probed = [event for event in told if event["event"] == "probe"]
    assert len(probed) == 2
    assert all(event["said"] == 2 for event in probed)


@pytest.mark.parametrize("fields", [{"method": "lora", "beta": 0.1, "lambda_": 0.5}, {}])
def test_the_doctor_finds_nothing(fields: dict[str, Any], inputs: Inputs, train_section: Section,
                                  device: Ledger) -> None:
    section = train_section(**fields)
    bench = set_up(inputs(), section)
    looks = (steps.packed_as_alone(bench, inputs().model),
             steps.accumulated_as_at_once(bench, section, inputs().model),
             steps.merged_as_adapter(bench, section))
    assert [seen.result for seen in looks] == ["ok", "ok", "ok" if fields else "skipped"], looks


def test_a_base_in_4_bits_is_proved_by_the_kernel_itself(make_llama: Callable[..., Any], device: Ledger,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be read as float32, and attention by hand in half precision is for the CPU."""
    monkeypatch.setattr("sft_core.model.proof.in_4_bits", lambda model: True)
    model = make_llama().to(torch.bfloat16).to("cuda")
    assert choose_backend(model, "auto", torch.device("cuda"), torch.bfloat16, Rows(True, 32)) == "varlen"


def test_a_model_that_hands_nothing_through_falls_back(make_llama: Callable[..., Any], device: Ledger,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_llama().to("cuda")
    inner = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **call: inner(
        **{k: v for k, v in call.items() if not k.startswith(("cu_", "line"))}))
    cuda = torch.device("cuda")
    assert choose_backend(model, "auto", cuda, torch.bfloat16, Rows(True, 32)) == "mask"
    with pytest.raises(ModelError, match="hand arguments through"):
        choose_backend(model, "varlen", cuda, torch.bfloat16, Rows(True, 32))


def test_a_model_that_drops_attention_falls_back(make_llama: Callable[..., Any], device: Ledger) -> None:
    """torch's kernel of a line has no dropout, which the model asks for in training alone."""
    model = make_llama(attention_dropout=0.1).to("cuda")
    before = torch.get_rng_state()
    assert choose_backend(model, "auto", torch.device("cuda"), torch.bfloat16, Rows(True, 32)) == "mask"
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training, "as it was"
    with pytest.raises(ModelError, match="varlen it cannot be called .*attention dropout"):
        choose_backend(model, "varlen", torch.device("cuda"), torch.bfloat16, Rows(True, 32))


def test_a_parameter_without_a_gradient_is_looked_at_on_the_device(device: Ledger) -> None:
    with_one, without = (torch.nn.Parameter(torch.ones(3, device="cuda")) for _ in range(2))
    with_one.grad = torch.ones(3, device="cuda")
    unreached = Unreached({"with": with_one, "without": without})
    unreached.look(unreached.sizes(torch.zeros(1, device="cuda")).tolist())
    assert unreached.names == ["without"]


def test_the_allocator_grows_blocks_unless_it_is_told_otherwise(device: Ledger,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_getAllocatorSettings", str)  # nothing yet
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", told.append)
    join(ModelSection(path="tiny"))
    monkeypatch.setattr(torch._C, "_accelerator_getAllocatorSettings", lambda: "max_split_size_mb:64")
    join(ModelSection(path="tiny"))
    assert told == ["expandable_segments:True"]


def test_the_bench_for_an_accelerator_runs_on_one(tmp_path: Path, device: Ledger) -> None:
    shape = SHAPES["nano"]
    spec = Spec("native", tmp_path / "model", tmp_path / "prepared", tmp_path / "runs", 512, 1024, True, True, 2, 1,
                device="cuda")
    plan = gpu.Plan(shape, 1, ("full sft", "lora + kl cached"), 600.0)
    found = gpu.run(spec, plan, lambda _: None)
    assert all(row.get("peak_gib") == 0.0 for row in found.values()), found


# The device itself


def test_the_device_refuses_what_cuda_refuses(device: Ledger) -> None:
    x = torch.ones(3, device="cuda")
    with pytest.raises(MixedDevices):
        x + torch.ones(3)
    for strays in ([x, torch.ones(3)], [x[0], torch.tensor(1.0)]):
        with pytest.raises(MixedDevices):
            torch.stack(strays)
    with pytest.raises(MixedDevices, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())
    with pytest.raises(MixedDevices, match="generator"):
        x.clone().uniform_(generator=torch.Generator())
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    assert (x + torch.tensor(1.0)).tolist() == [2.0, 2.0, 2.0]
    weight = torch.nn.Parameter(torch.ones(3, device="cuda"))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    weight.grad = x.clone()
    optimizer.step()
    optimizer.state[weight]["step"] = optimizer.state[weight]["step"].cpu()
    with pytest.raises(MixedDevices, match="_fused_adamw_"):
        optimizer.step()


def test_the_device_counts_what_a_host_waits_for(device: Ledger) -> None:
    x = torch.ones(3, device="cuda")
    device.clear()
    sum(float(x.sum()) for _ in range(2))
    x[x > 0].tolist()
    x.cpu()
    assert device.totals()["waits"] == 5
    torch.ones(3).to("cuda", non_blocking=True)
    torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert device.totals() == {"waits": 5, "copies": 3, "pageable": 1, "launches": 4,
                               "bytes": device.read_and_written}


def test_a_copy_that_nobody_waits_for_is_late(device: Ledger) -> None:
    x, host = torch.arange(3.0, device="cuda"), torch.zeros(3).pin_memory()
    host.copy_(x, non_blocking=True)
    other = (x + 1).to("cpu", non_blocking=True)
    x.add_(9.0)
    for read in (lambda: host + 1, host.numpy, other.tolist):
        with pytest.raises(TooSoon):
            read()
    torch.cuda.current_stream().synchronize()
    assert (host.tolist(), other.tolist()) == ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    host.to("cuda", non_blocking=True)
    host.add_(1.0)
    with pytest.raises(TooSoon, match="written"):
        x.tolist()
    torch.zeros(3).copy_(x, non_blocking=True).add_(1.0)  # into memory that is not pinned: CUDA waits


def test_the_device_draws_from_a_generator_of_its_own(device: Ledger) -> None:
    torch.manual_seed(1)
    host, state = torch.get_rng_state(), torch.cuda.get_rng_state()
    drawn = torch.rand(3, device="cuda").tolist()
    assert torch.equal(torch.get_rng_state(), host)
    torch.cuda.set_rng_state(state)
    assert torch.empty(3, device="cuda").uniform_().tolist() == drawn


def test_nothing_of_the_device_is_left() -> None:
    assert not torch.cuda.is_available()
    assert torch.ones(3).device.type == "cpu"
    with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
        torch.ones(3, device="cuda")
    with pytest.raises(NotImplementedError, match="_flash_attention_forward"):
        torch.ops.aten._flash_attention_forward(*[torch.ones(2, 1, 8)] * 3, None, None, 2, 2, 0.0, True, False)
