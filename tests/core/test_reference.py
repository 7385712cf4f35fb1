"""The kept base: states of each stream, and with its head the same KL as of a copy."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_core.config.train import LoraSection, TrainSection
from sft_core.errors import DataError
from sft_core.model.lora import apply_lora
from sft_core.train.course import Packing, Stream
from sft_core.train.inputs import TrainInputs, read_data
from sft_core.train.objective import Sums, Term
from sft_core.train.pack import collate
from sft_core.train.policy import Policy
from sft_core.train.reference import KeptBase, keep, with_reference
from sft_core.train.trainer import train
from sft_core.train.workbench import set_up

TIGHT = 1e-10
PACKING = Packing(32, True, 7)
Make = Callable[..., Any]


@pytest.fixture
def stream(train_inputs: TrainInputs, train_section: Callable[..., TrainSection]) -> Stream:
    return read_data(train_inputs, train_section()).course.sft


def _sums(policy: Policy, stream: Stream, kept: KeptBase | None, term: Term) -> Sums:
    """Of the first step, all rows in one pass."""
    rows = stream.step(0)
    used = [i for row in rows for i in row]
    batch = collate([[stream.examples[i] for i in row] for row in rows], 32, 0)
    found: Sums = policy(policy.micro(batch, kept=None if kept is None else kept.look_up(used)), term)
    return found


def _moved(policy: Policy) -> dict[str, Tensor]:
    """Its trained parameters, after a step away from the base."""
    trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for p in trained.values():
            p += 0.05 * torch.cos(torch.arange(p.numel(), dtype=p.dtype)).view_as(p)
    return trained


ADAPTERS: dict[str, LoraSection | None] = {
    "full": None, "adapters": LoraSection(rank=4), "and embedding": LoraSection(modules_to_save=("embed_tokens",)),
    "on the head": LoraSection(target_modules=("q_proj", "lm_head")),
    "head in full": LoraSection(modules_to_save=("lm_head",))}
SETTINGS: dict[str, dict[str, Any]] = {
    "tied": {}, "untied": {"tie_word_embeddings": False},
    "capped and scaled": {"tie_word_embeddings": False, "final_logit_softcapping": 3.0, "logits_scaling": 0.5}}
CASES = [(a, s) for a in ADAPTERS for s in SETTINGS if (a, s) != ("on the head", "tied")]  # which is refused


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize(("adapters", "settings"), CASES)
def test_the_kl_and_its_gradients_are_those_of_a_copy(
        adapters: str, settings: str, direction: Any, make_llama: Make, stream: Stream, tmp_path: Path) -> None:
    section = ADAPTERS[adapters]
    keep(Policy(make_llama(**SETTINGS[settings]).double(), backend="mask"), stream, PACKING, tmp_path)
    found = []
    references: tuple[Any, ...] = ("copy", "cache")
    for reference in references:
        model = make_llama(**SETTINGS[settings]).double()
        if section is not None:
            model = apply_lora(model, section, 3).double()
        policy = Policy(model, backend="mask", reference=reference)
        trained = _moved(policy)
        got = _sums(policy, stream, KeptBase(tmp_path, stream) if reference == "cache" else None,
                    Term(0.3, 0.7, direction=direction))
        got.loss.backward()
        found.append((got, {name: p.grad for name, p in trained.items()}))
    (copy, wanted), (kept, gradients) = found
    assert copy.kl > 1e-3
    torch.testing.assert_close(kept, copy, rtol=TIGHT, atol=TIGHT)
    torch.testing.assert_close(gradients, wanted, rtol=TIGHT, atol=TIGHT)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_states_in_bfloat16_are_all_that_the_head_reads_under_autocast(
        method: str, train_inputs: TrainInputs, train_section: Callable[..., TrainSection], tmp_path: Path) -> None:
    inputs = replace(train_inputs, model=train_inputs.model.model_copy(update={"precision": "bfloat16"}))
    told = {}
    for reference in ("copy", "cache"):
        section = train_section(method=method, kl={"beta": 0.5, "on": "both", "reference": reference}, epochs=0.1)
        report = train(inputs, section, tmp_path / reference)
        assert report.steps == 1
        told[reference] = report.final.kl
    assert told == {"copy": 0.0, "cache": 0.0}
    bench = set_up(with_reference(inputs, section, tmp_path / "cache" / "reference"), section)
    kept = bench.micro(bench.course.sft, bench.course.sft.rows[:1]).kept
    assert kept is not None
    assert kept.dtype == torch.bfloat16


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_of_a_base_that_is_trained_in_full_the_head_is_held_as_stored(
        stored: torch.dtype, train_inputs: TrainInputs, train_section: Callable[..., TrainSection], make_llama: Make,
        tiny_tokenizer: Any, tmp_path: Path) -> None:
    make_llama().to(stored).save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    model = train_inputs.model.model_copy(update={"path": str(tmp_path / "base"), "precision": "bfloat16"})
    inputs = replace(train_inputs, model=model)
    for method in ("full", "lora"):
        section = train_section(method=method, kl={"beta": 0.5, "on": "both", "reference": "cache"})
        policy = set_up(with_reference(inputs, section, tmp_path / "kept"), section).policy
        assert policy.reference is None
        held = {} if policy.base_head is None else {
            p.dtype: (p.shape, p.requires_grad) for p in policy.base_head.parameters()}
        assert held == ({stored: ((64, 32), False)} if method == "full" else {})


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_cannot_take_it_is_told(make_llama: Make, stream: Stream, tmp_path: Path) -> None:
    policy, total = Policy(make_llama(), backend="mask"), sum(stream.trained) * 4 * 32
    told = f"cannot write the states .* {tmp_path}: .*take {total:,} bytes.*copy"
    with _files_up_to(1000), pytest.raises(DataError, match=told):
        keep(policy, stream, PACKING, tmp_path)


@pytest.mark.parametrize("on", ["assistant", "replay", "both"])
def test_validation_asks_nothing_of_a_base_that_was_kept_of_other_examples(
        on: str, train_inputs: TrainInputs, train_section: Callable[..., TrainSection],
        write_prepared: Callable[..., Path], tmp_path: Path) -> None:
    """Four examples are held out and two trained on: what is kept has no place for the last of them."""
    few = replace(train_inputs, prepared=write_prepared(tmp_path / "prepared", train=2))
    told = {}
    for reference in ("copy", "cache"):
        section = train_section(rows_per_step=1, validate_every_steps=1,
                                kl={"beta": 0.5, "on": on, "reference": reference})
        told[reference] = [loss for _, loss in train(few, section, tmp_path / reference).validation]
    assert told["cache"] == pytest.approx(told["copy"], rel=1e-4)
    bench = set_up(with_reference(few, section, tmp_path / "cache" / "reference"), section)
    assert len(bench.validation.examples) > len(bench.course.sft.examples)
    assert bench.micro(bench.validation, bench.validation.rows).kept is None
    kept = {name for name, stream in bench.course.streams.items()
            if bench.micro(stream, stream.rows[:1]).kept is not None}
    assert kept == set(section.kl.streams)
