"""The forecast against what a training step really takes: tensors alive, as torch's allocator counts, and files."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.conversation import Origin
from sft_core.model import room
from sft_core.model.attention import layers_of
from sft_core.model.held import narrow
from sft_core.model.load import LoadedModel
from sft_core.model.proof import Rows
from sft_core.model.room import free_bytes
from sft_core.templates.render import IGNORE, Example
from sft_core.train.course import Packing, lay_out
from sft_core.train.inputs import TrainInputs
from sft_core.train.memory import LIBRARIES, Pass, Place, forecast, largest_pass
from sft_core.train.objective import Term
from sft_core.train.optim import make_optimizer
from sft_core.train.pack import collate
from sft_core.train.policy import make_policy
from sft_core.train.reference import with_reference
from sft_core.train.shape import Architecture, architecture_of
from sft_core.train.trainer import train

WITHIN = (0.95, 1.1)
ROUGH = {"attention weights above all": 0.85}  # what bfloat16's softmax holds for a moment on the CPU
WIDE = {"vocab_size": 2000, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2}
DEEP = {"vocab_size": 1000, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6,
        "num_attention_heads": 6, "num_key_value_heads": 6}
HEADY = {"vocab_size": 16000, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False}
NARROW = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
          "num_attention_heads": 16, "num_key_value_heads": 16}
ONE_HEAD = {**NARROW, "hidden_size": 32, "num_attention_heads": 1, "num_key_value_heads": 1}
HALF = {"precision": "bfloat16", "stored": torch.bfloat16}
KL = {"kl": {"beta": 0.1, "on": "assistant"}}
KEPT = {"kl": {**KL["kl"], "reference": "cache"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[list[int]], dict[str, Any]]] = {
    "short rows": (WIDE, {}, [[100]] * 16, {}),
    "rows for torch's kernel": (WIDE, {}, [[600]] * 4, {}),
    "attention weights above all": (NARROW, {}, [[250]] * 6, {"precision": "bfloat16"}),
    "a mask above all": (ONE_HEAD, {}, [[250, 250]] * 4, {"attention": "mask"}),
    "a dense mask": (WIDE, {}, [[100, 100]] * 8, {"attention": "mask"}),
    "no mask where a row holds one example": (ONE_HEAD, {}, [[500]] * 4, {"attention": "mask"}),
    "a large vocabulary": (HEADY, {}, [[200]] * 16, {}),
    "exact KL to a copy": (WIDE, KL, [[100]] * 16, {}),
    "KL to kept states": (WIDE, KEPT, [[100]] * 16, {}),
    "KL to kept states, a head in bfloat16": (DEEP, KEPT, [[8]] * 2, HALF),
    "gradient checkpointing": (DEEP, {"gradient_checkpointing": True}, [[120]] * 8, {}),
    "bfloat16": (DEEP, {}, [[120]] * 8, {"precision": "bfloat16"}),
    "adapters with dropout": (DEEP, {"method": "lora", "lora": {"dropout": 0.1}}, [[120]] * 8, {}),
    "weights alone": (DEEP, {}, [[8]] * 2, {}),
    "muon": (DEEP, {"optim": {"name": "muon", "lr": 1e-3}}, [[120]] * 8, {}),
    "adapters on a base in bfloat16": (DEEP, {"method": "lora"}, [[120]] * 8, HALF),
    "adapters and head on it": (
        WIDE, {"method": "lora", "lora": {"modules_to_save": ["lm_head"]}}, [[120]] * 8, HALF),
    "weights in bfloat16": (DEEP, {"weights": "bfloat16"}, [[120]] * 8, HALF),
    "weights in bfloat16, weights alone": (WIDE, {"weights": "bfloat16"}, [[8]] * 2, HALF),
    "a copy in bfloat16": (DEEP, KL, [[8]] * 2, HALF),
    "moments in 8 bits": (DEEP, {"optim": {"name": "adamw_8bit", "lr": 1e-3}}, [[8]] * 2, {}),
    "muon, weights alone": (DEEP, {"optim": {"name": "muon", "lr": 1e-3}}, [[8]] * 2, {}),
}


def _section(**fields: Any) -> TrainSection:
    return TrainSection.model_validate({"optim": {"lr": 1e-3}, **fields})


def _base(shape: dict[str, Any], folder: Path, stored: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{"tie_word_embeddings": True, **shape}))
    model.to(stored).save_pretrained(folder)
    return model.float()


def _example(length: int, vocabulary: int) -> Example:
    ids = torch.randint(0, vocabulary, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    half = length // 2
    return Example(ids, [IGNORE] * half + ids[half + 1 :] + [IGNORE], Origin("s", "f", 1))


def _peak(step: Callable[[], None]) -> int:
    """The most bytes that were allocated above what there was before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


@pytest.mark.parametrize("name", CASES)
def test_the_forecast_is_near_a_measured_step(name: str, tmp_path: Path) -> None:
    shape, fields, rows, placed = CASES[name]
    if "8 bits" in name:
        pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    placed = dict(placed)
    stored = placed.pop("stored", torch.float32)
    lengths, width = [n for row in rows for n in row], max(map(sum, rows))
    section, place = _section(**fields), ModelSection(path=str(tmp_path), device="cpu", **placed)
    loaded = LoadedModel(_base(shape, tmp_path, stored), None, tmp_path, stored)
    if stored == torch.bfloat16 and (section.method == "lora" or section.weights == "bfloat16"):
        narrow(loaded.model, stored)
    policy = make_policy(loaded, place, section, 0, rows=Rows(True, width), grown=False)
    if section.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable(  # type: ignore[operator]
            gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.train()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = make_optimizer(section.optim, parameters, layers_of(policy.model))
    batch = collate([[_example(n, shape["vocab_size"]) for n in row] for row in rows], width, 0)

    kept = torch.ones(int((batch.targets != IGNORE).sum()), shape["hidden_size"]) if fields == KEPT else None

    def step() -> None:
        sums = policy(policy.micro(batch, kept=kept), Term(1.0, section.kl.beta))
        sums.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()  # makes the moments
    held = sum(p.numel() * p.element_size() for p in policy.parameters())
    moments = {id(x): x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)}
    held += sum(x.numel() * x.element_size() for x in moments.values())
    measured = _peak(step)
    dtype = torch.bfloat16 if placed.get("precision") else torch.float32
    trained = int((batch.targets != IGNORE).sum())
    found = forecast(architecture_of(place, section, None, grown=False), section,
                     Pass(len(rows), width, tuple(lengths), trained, several=False),
                     Place("cpu", dtype, policy.backend))
    resident = found.weights + found.moments + found.reference
    assert resident == pytest.approx(held, rel=0.01)
    ratio = (found.peak - resident) / measured
    above = f"{found.peak - resident:,} forecast above {held:,}, {measured:,} measured"
    assert ROUGH.get(name, WITHIN[0]) < ratio < WITHIN[1], above


@pytest.mark.parametrize(("method", "name"), [("full", "adamw"), ("lora", "adamw"), ("full", "muon")])
def test_the_disk_is_what_a_run_writes(method: str, name: str, train_inputs: TrainInputs, tmp_path: Path,
                                       train_section: Callable[..., TrainSection]) -> None:
    section = train_section(method=method, beta=0.2, on="both", epochs=1, checkpoint_every_s=1e-6, keep_checkpoints=1,
                            stopping={"patience": 9}, optim={"name": name, "lr": 1e-3},
                            kl={"beta": 0.2, "on": "both", "reference": "cache"})
    train(with_reference(train_inputs, section, tmp_path / "kept"), section, tmp_path / "run")

    def size(folder: Path, pattern: str) -> int:
        return sum(file.stat().st_size for file in folder.rglob(pattern))

    shape = architecture_of(train_inputs.model, section, None, grown=False)
    positions = 0
    for file in ("train", "replay"):
        positions += len(np.load(tmp_path / "kept" / file / "hidden.npy", mmap_mode="r"))
    found = forecast(shape, section, Pass(1, 32, (32,), 16, several=True), Place("cpu", torch.float32, "segments"),
                     positions)
    kept = size(tmp_path / "kept", "*.npy")
    assert found.kept == kept - 2 * 128  # without the heads of the files
    written = size(tmp_path / "run" / "checkpoints", "*")
    model = size(tmp_path / "run", "*.safetensors") - size(tmp_path / "run" / "checkpoints", "*.safetensors")
    # One checkpoint more than are kept lies there while it is written, and the best of each where they differ. Small
    # files weigh much here.
    bests = len(list((tmp_path / "run" / "checkpoints").glob("best-*")))
    state = (12 + 4 * (2 - bests)) * shape.trained - 4 * shape.muon
    assert found.checkpoints - state <= written < found.checkpoints - state + 60_000
    assert found.model == pytest.approx(model, rel=0.2)


SHAPE = Architecture(1000, 1000, 8, 2, 2, 2, 4, 16, 50, head_trained=True, stored=2000, low=1000, held=2)
WORK = Pass(2, 64, (40, 24, 64), 60, several=False)
CUDA = Place("cuda", torch.bfloat16, "varlen")


def test_settings_move_what_they_should() -> None:
    plain = forecast(SHAPE, _section(), WORK, CUDA)
    assert forecast(SHAPE, _section(gradient_checkpointing=True), WORK, CUDA).activations < plain.activations
    assert forecast(SHAPE, _section(), WORK._replace(several=True), CUDA).peak > plain.peak
    assert forecast(SHAPE, _section(keep_checkpoints=4), WORK, CUDA).checkpoints > plain.checkpoints
    assert plain.copies == forecast(SHAPE, _section(keep_checkpoints=4), WORK, CUDA).copies == 12_000
    assert forecast(SHAPE, _section(engine="trl"), WORK, CUDA).copies == 0
    copy = forecast(SHAPE, _section(**KL), WORK, CUDA)
    assert (copy.reference, copy.reference_elsewhere) == (2000, 0)
    lent = forecast(SHAPE, _section(kl={**KL["kl"], "reference": "offload"}), WORK, CUDA)
    assert (lent.reference, lent.reference_elsewhere) == (0, 2000)
    assert forecast(SHAPE, _section(kl={**KL["kl"], "reference": "cache"}), WORK, CUDA, 10).kept == 10 * 2 * 8
    assert forecast(SHAPE, _section(kl={**KL["kl"], "reference": "cache"}), WORK, CUDA._replace(dtype=torch.float32),
                    10).kept == 10 * 4 * 8
    assert forecast(SHAPE, _section(processes=4, shard="fsdp"), WORK, CUDA).resident == plain.resident // 4
    asks, deep = {"kl": {**KL["kl"], "reference": "cache"}}, replace(SHAPE, low=10**8, four=10**8, parameters=10**8,
                                                                     layers=1000)
    assert forecast(deep, _section(processes=1000, shard="fsdp", **asks), WORK, CUDA).peak >= 2 * deep.low, "at once"
    assert forecast(replace(SHAPE, eager=True), _section(), WORK, CUDA._replace(backend="mask")).activations > (
        forecast(SHAPE, _section(), WORK, CUDA._replace(backend="mask")).activations)


def test_a_process_on_the_cpu_holds_more_than_its_step() -> None:
    """The plan said 1.4 GiB where the process took 3.5 to 4.7. Measured sizes are in Forecast.process."""
    place = Place("cpu", torch.bfloat16, "segments")
    full, lora = (forecast(SHAPE, _section(method=method), WORK, place) for method in ("full", "lora"))
    assert full.process(1) == LIBRARIES + full.peak
    assert full.process(2) == 2 * (LIBRARIES + full.peak)
    assert (full.saving, forecast(SHAPE, _section(), WORK, CUDA).saving) == (0, 0)  # the optimiser has left enough
    small = forecast(replace(SHAPE, trained=10), _section(method="lora"), WORK, place)
    assert small.saving == 2 * 4 * 1000 - 20 * 4 - 12 * 10
    assert lora.process(1) >= LIBRARIES + lora.peak


def test_the_largest_pass_is_found_in_the_course(train_section: Callable[..., TrainSection]) -> None:
    examples = [_example(n, 50) for n in (20, 6, 30, 8, 12, 16)]
    section = train_section(epochs=1, rows_per_step=4, micro_rows=2)
    course = lay_out(examples, (), section, Packing(32, False, 0))
    found = largest_pass([course.sft], section)
    assert sum(found.lengths) == max(sum(course.sft.tokens[i] for row in rows for i in row)
                                     for step in course.sft.steps for rows in course.sft.micros(step, section))
    assert found.several
    assert not largest_pass([course.sft], section.model_copy(update={"micro_rows": 4})).several


def test_a_control_group_limits_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CGROUP", tmp_path)
    whole = free_bytes(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert free_bytes(torch.device("cpu")) == 2_000_000 < whole
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(torch.device("cpu")) > 2_000_000



def test_memory_that_a_tensor_leaves_is_there_for_the_next_one() -> None:
    """Counted, not timed: pages that the kernel had to fill. In a process of its own, as it stays so."""
    code = """
import resource, torch
from sft_core.train.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
keep_freed_memory()
faults()  # finds its places
print(before, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    if before < 4 * (64 << 20) // 4096 // 2:
        pytest.skip("this malloc keeps what is freed anyhow")
    assert after < before / 2
