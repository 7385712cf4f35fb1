"""What a step can be asked for: weights, averages, smoothing, token budgets, kept base, early stopping, new tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_core.config.data import ModelSection
from sft_core.config.train import TrainSection
from sft_core.conversation import Origin
from sft_core.errors import DataError, ModelError, TrainingError
from sft_core.model.attention import hidden_of
from sft_core.model.load import load_model
from sft_core.templates.render import IGNORE, Example
from sft_core.train import step as step_module
from sft_core.train.course import Packing, Stream, cut, lay_out
from sft_core.train.inputs import TrainInputs
from sft_core.train.reference import with_reference
from sft_core.train.step import Stepper
from sft_core.train.trainer import train
from sft_core.train.workbench import Workbench, set_up

Section = Callable[..., TrainSection]


def _events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [e for e in lines if e["event"] == kind]


def _two_sources(inputs: TrainInputs, folder: Path) -> TrainInputs:
    """Every second training example comes from the source `b`."""
    folder.mkdir()
    for file in inputs.prepared.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    changed = [{**row, "source": "ab"[n % 2]} for n, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(changed), folder / "train.parquet")
    return replace(inputs, prepared=folder)


def _losses_by_example(bench: Workbench, smoothing: float = 0.0) -> list[tuple[Example, list[float]]]:
    """Every example of the first step with the loss of each of its trained tokens, one at a time, by torch."""
    found = []
    for example in (bench.course.sft.examples[i] for row in bench.course.sft.step(0) for i in row):
        stream = Stream([example], (((0,),),))
        micro = bench.policy.micro(bench.micro(stream, ((0,),)).batch)
        hidden = hidden_of(bench.policy.model, micro.ids, micro.positions, micro.mask)[0, micro.places]
        losses = F.cross_entropy(bench.policy.model.lm_head(hidden), micro.targets, reduction="none",
                                 label_smoothing=smoothing)
        found.append((example, losses.tolist()))
    return found


@pytest.mark.parametrize("average", ["token", "example"])
@pytest.mark.parametrize("micro", [{"micro_rows": 1}, {"micro_rows": 8}, {"micro_tokens": 40}], ids=str)
def test_weights_of_sources_and_averages_are_those_of_the_formula(
        average: str, micro: dict[str, int], train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """Σ wᵢ·lossᵢ / Σ wᵢ over tokens, or over examples with each example's own mean inside."""
    inputs = replace(_two_sources(train_inputs, tmp_path / "data"), weights={"b": 3.0, "elsewhere": 9.0})
    section = train_section(average=average, label_smoothing=0.1, rows_per_step=8, **micro)
    bench = set_up(inputs, section)
    above = below = 0.0
    for example, losses in _losses_by_example(bench, smoothing=0.1):
        weight = 3.0 if example.origin.source == "b" else 1.0
        above += weight * (sum(losses) if average == "token" else sum(losses) / len(losses))
        below += weight * (len(losses) if average == "token" else 1)
    assert Stepper(bench, section).take(0).losses.sft == pytest.approx(above / below, rel=1e-5)


def test_weights_move_the_weights(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    inputs = _two_sources(train_inputs, tmp_path / "data")
    ends = []
    for name, weights in (("even", {}), ("one", {"a": 1.0, "b": 1.0}), ("more", {"b": 5.0})):
        train(replace(inputs, weights=weights), train_section(), tmp_path / name)
        ends.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert ends[0] == ends[1] != ends[2]


# Steps and forward passes by tokens


def _stream(lengths: list[int]) -> list[Example]:
    return [Example([5] * n, [5] * (n - 1) + [IGNORE], Origin("s", "f", n)) for n in lengths]


def test_a_step_closes_when_it_has_its_tokens(train_section: Section) -> None:
    examples = _stream([10, 20, 5, 30, 7, 7, 7])
    rows = [(i,) for i in range(7)]
    steps = cut(rows, examples, train_section(tokens_per_step=30))
    assert steps == (((0,), (1,)), ((2,), (3,)), ((4,), (5,), (6,)))
    assert cut(rows, examples, train_section(rows_per_step=3)) == (((0,), (1,), (2,)), ((3,), (4,), (5,)), ((6,),))


def test_a_forward_pass_takes_rows_up_to_its_tokens(train_section: Section) -> None:
    rows = tuple((i,) for i in range(6))
    stream = Stream(_stream([10, 20, 5, 40, 7, 7]), (rows,))
    assert stream.micros(rows, train_section(micro_tokens=30)) == [
        ((0,), (1,)), ((2,),), ((3,),), ((4,), (5,))], "a row longer than the budget goes alone"


def test_unpacked_rows_of_similar_length_meet(train_section: Section) -> None:
    """Padding of length-grouped rows is a fraction of that of rows in random order; every row comes once."""
    examples = _stream([1 + (i * 37) % 100 for i in range(400)])
    section = train_section(rows_per_step=8)
    course = lay_out(examples, [], section, Packing(100, False, 3))
    assert sorted(i for row in course.sft.rows for i in row) == list(range(400))

    def padding(steps: Any) -> int:
        sizes = [[course.sft.tokens[i] for (i,) in step] for step in steps]
        return sum(max(step) * len(step) - sum(step) for step in sizes)

    shuffled = cut([(i,) for i in range(400)], examples, section)
    assert padding(course.sft.steps) < 0.15 * padding(shuffled)
    firsts = [course.sft.tokens[step[0][0]] for step in course.sft.steps]
    assert firsts != sorted(firsts)


# The kept base


@pytest.mark.parametrize("on", ["assistant", "replay", "both"])
def test_a_kept_base_trains_as_an_exact_one(on: str, train_inputs: TrainInputs, train_section: Section,
                                            tmp_path: Path) -> None:
    losses: dict[str, list[dict[str, Any]]] = {}
    for name in ("copy", "cache"):
        section = train_section(lambda_=0.2, epochs=2).model_copy(
            update={"kl": train_section(beta=0.5, on=on).kl.model_copy(update={"reference": name})})
        train(train_inputs, section, tmp_path / name)
        losses[name] = _events(tmp_path / name, "step")
    assert len(losses["copy"]) > 3
    for exact, kept in zip(losses["copy"], losses["cache"], strict=True):
        assert kept["kl"] == pytest.approx(exact["kl"], rel=1e-3, abs=2e-6)
        assert kept["loss"] == pytest.approx(exact["loss"], rel=1e-4)
    bench = set_up(with_reference(train_inputs, section, tmp_path / "cache" / "reference"), section)
    assert bench.policy.reference is None


def test_what_is_kept_is_used_again_and_never_for_another_base(
        train_inputs: TrainInputs, train_section: Section, make_llama: Callable[..., Any], tmp_path: Path) -> None:
    section = train_section().model_copy(update={"kl": train_section(beta=0.5, on="assistant").kl.model_copy(
        update={"reference": "cache"})})
    known = with_reference(train_inputs, section, tmp_path)
    file = known.kept["train"] / "hidden.npy"
    before = file.stat().st_mtime_ns
    assert with_reference(train_inputs, section, tmp_path) == known
    assert file.stat().st_mtime_ns == before
    low = replace(train_inputs, model=train_inputs.model.model_copy(update={"precision": "bfloat16"}))
    assert with_reference(low, section, tmp_path) == replace(known, model=low.model)
    assert file.stat().st_mtime_ns > before, "in another precision"
    before = file.stat().st_mtime_ns
    other = tmp_path / "other"
    AutoTokenizer.from_pretrained(train_inputs.model.path).save_pretrained(other)
    make_llama(num_hidden_layers=1).save_pretrained(other)
    with_reference(replace(train_inputs, model=ModelSection(path=str(other), device="cpu")), section, tmp_path)
    assert file.stat().st_mtime_ns > before
    whole = file.read_bytes()
    for damaged in (b"damaged", whole[:-1], whole[:60], b""):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="states of the base in .* cannot be read.*delete"):
            set_up(known, section)


# Early stopping


def test_training_stops_when_validation_stops_falling_and_saves_the_best(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    section = train_section(lr=0.03, epochs=30, validate_every_steps=1, stopping={"patience": 2},
                            optim={"lr": 0.03, "schedule": "constant"})
    report = train(train_inputs, section, tmp_path)
    losses = [loss for _, loss in report.validation]
    best = losses.index(min(losses))
    assert report.stopped_early
    assert len(losses) == best + 3
    assert report.steps < 30 * 3
    assert report.rows == sum(len(step) for step in set_up(train_inputs, section).course.sft.steps[: report.steps])
    short = section.model_copy(update={"stopping": section.stopping.model_copy(update={"patience": 0})})
    bench = set_up(replace(train_inputs, model=ModelSection(path=str(report.model_folder), device="cpu")), short)
    assert Stepper(bench, short).validation_loss() == pytest.approx(min(losses), rel=1e-5)
    again = train(train_inputs, section, tmp_path)
    assert again.validation == report.validation


def test_a_small_gain_is_no_new_best(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    section = train_section(epochs=4, validate_every_steps=1, stopping={"patience": 1, "min_delta": 100.0})
    report = train(train_inputs, section, tmp_path)
    assert (report.stopped_early, report.steps) == (True, 1)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_probe_sees_the_model_and_stops_the_run(method: str, train_inputs: TrainInputs, train_section: Section,
                                                  tmp_path: Path) -> None:
    """Its scores are written down; the run ends after `patience` probes without a better one, with the best weights."""
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.9])
    spoken: list[list[int]] = []

    def probe(model: Any, tokenizer: Any) -> dict[str, float]:
        assert not model.training
        torch.manual_seed(1)  # must not disturb dropout
        said = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False, pad_token_id=1)
        spoken.append(said[0].tolist())
        return {"some_suite": next(scores)}

    section = train_section(method=method, lora={"rank": 4, "dropout": 0.2}, lr=0.02, epochs=20, validate_every_steps=1,
                            optim={"lr": 0.02, "schedule": "constant"}, probe={"suites": ["some_suite"]},
                            stopping={"patience": 2, "metric": "some_suite"})
    report = train(train_inputs, section, tmp_path / "probed", probe=probe)
    told = _events(tmp_path / "probed", "probe")
    assert [e["some_suite"] for e in told] == [0.1, 0.5, 0.4, 0.5]
    assert (report.stopped_early, report.steps) == (True, 3)
    best = AutoModelForCausalLM.from_pretrained(report.model_folder)
    said = best.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False, pad_token_id=1)[0].tolist()
    assert said == spoken[1]
    plain = section.model_copy(update={"stopping": section.stopping.model_copy(update={"patience": 0})})
    scores = iter([0.1] * 9)
    short = plain.model_copy(update={"epochs": 2})
    train(train_inputs, short, tmp_path / "a", probe=probe)
    train(train_inputs, short, tmp_path / "b")
    a, b = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab")
    assert a == b, "a probe changes nothing of the training"


def test_what_is_not_measured_cannot_stop_a_run(train_section: Section) -> None:
    with pytest.raises(ValidationError, match="stopping.metric tiny_format is not measured.*validation_loss"):
        train_section(stopping={"patience": 1, "metric": "tiny_format"})


# New tokens and adapters


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_added_tokens_are_trained_and_saved(tied: bool, method: str, train_inputs: TrainInputs, train_section: Section,
                                            make_llama: Callable[..., Any], tmp_path: Path) -> None:
    """Resized embedding and head; the new rows move; the saved folder has them, with the adapter's model the same."""
    base, data = tmp_path / "base", tmp_path / "data"
    make_llama(tie_word_embeddings=tied).save_pretrained(base)
    AutoTokenizer.from_pretrained(train_inputs.model.path).save_pretrained(base)
    data.mkdir()
    for file in train_inputs.prepared.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    template = json.loads((data / "template.json").read_text())
    (data / "template.json").write_text(json.dumps({**template, "added_tokens": ["<|new|>", "<|more|>"],
                                                    "stops": ["<|new|>"]}))
    rows = pq.read_table(data / "train.parquet").to_pylist()
    rows = [{**row, "input_ids": [*row["input_ids"], 64, 65, 9], "targets": [*row["targets"][:-1], 64, 65, 9, IGNORE]}
            for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), data / "train.parquet")
    model = ModelSection(path=str(base), device="cpu")
    start = load_model(model, mirror=None, added=["<|new|>", "<|more|>"]).model
    old = start.get_input_embeddings().weight[:64]
    new = start.get_input_embeddings().weight[64:].detach().clone()
    assert new.shape == (2, 32)
    assert (new - old.mean(0)).abs().max() < 0.2 * old.std()
    assert not torch.equal(new[0], new[1])
    report = train(replace(train_inputs, prepared=data, model=model), train_section(method=method, epochs=3), tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(report.model_folder)
    tokenizer = AutoTokenizer.from_pretrained(report.model_folder)
    assert tokenizer.convert_tokens_to_ids(["<|new|>", "<|more|>"]) == [64, 65]
    assert saved.generation_config.eos_token_id == [64, 0]
    assert saved.get_input_embeddings().weight.shape[0] == saved.get_output_embeddings().weight.shape[0] == 66
    assert saved.config.tie_word_embeddings == tied
    for module in (saved.get_input_embeddings(), saved.get_output_embeddings()):
        assert ((module.weight[64:] - new).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("fields", [{"rslora": True}, {"dora": True}, {"rslora": True, "dora": True}], ids=str)
def test_variants_of_adapters_train_and_merge(fields: dict[str, bool], train_inputs: TrainInputs,
                                              train_section: Section, tmp_path: Path) -> None:
    report = train(train_inputs, train_section(method="lora", lora={"rank": 4, **fields}), tmp_path)
    config = json.loads((report.model_folder.parent / "adapter" / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["use_dora"]) == (fields.get("rslora", False), fields.get("dora", False))
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert any("magnitude" in name for name in names) == fields.get("dora", False)


def test_four_bits_need_their_library_and_adapters(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sft_core.model.load.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"quantize: nf4 needs bitsandbytes: pip install 'sft-platform\[qlora\]'"):
        train(train_inputs, train_section(method="lora", lora={"quantize": "nf4"}), tmp_path)
    with pytest.raises(ValidationError, match="needs method: lora"):
        train_section(lora={"quantize": "nf4"})


@pytest.mark.chaos
def test_compiled_layers_give_the_same_losses(train_inputs: TrainInputs, train_section: Section,
                                              tmp_path: Path) -> None:
    compiled, plain = train_section(compile=True, epochs=0.5), train_section(epochs=0.5)
    for name, section in (("compiled", compiled), ("plain", plain)):
        train(train_inputs, section, tmp_path / name)
    a, b = ([e["loss"] for e in _events(tmp_path / n, "step")] for n in ("compiled", "plain"))
    assert a == pytest.approx(b, rel=1e-4)
    bench = set_up(train_inputs, compiled)
    assert all(layer._compiled_call_impl is not None for layer in bench.policy.model.model.layers)


# What must not go unnoticed


def test_the_rows_that_are_not_finite_are_named(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """One forward pass of several is broken: its rows are told, not the others'."""
    section = train_section(rows_per_step=4, micro_rows=1)
    bench = set_up(train_inputs, section)
    sent = Stepper._sent
    calls: list[Any] = []

    def poisoned(self: Stepper, micro: Any, part: Any) -> Any:
        calls.append(part)
        found = sent(self, micro, part)
        return found._replace(weights=torch.full(found.targets.shape, torch.nan)) if len(calls) == 2 else found

    monkeypatch.setattr(Stepper, "_sent", poisoned)
    before = {name: p.detach().clone() for name, p in bench.parameters.items()}
    with pytest.raises(TrainingError) as error:
        Stepper(bench, section).take(0)
    told = str(error.value)
    origins = [step_module.origins(part.stream, part.rows) for part in calls[:4]]  # the fifth is of the next step
    assert "Not finite in training rows" in told
    assert [origin in told for origin in origins] == [False, True, False, False]
    assert all(torch.equal(before[name], p) for name, p in bench.parameters.items())


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
                                   torch.OutOfMemoryError("CUDA out of memory")])
def test_no_memory_left_says_what_to_change(error: Exception, train_inputs: TrainInputs, train_section: Section,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    bench = set_up(train_inputs, train_section())

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(Stepper, "_gradients", full)
    told = (r"no memory left in step 1 .*forecast now [\d.]+ GiB; with train\.micro_rows: 1 \([\d.]+ GiB\), "
            r"train\.gradient_checkpointing: true \([\d.]+ GiB\), train.method: lora")
    with pytest.raises(TrainingError, match=told):
        Stepper(bench, train_section()).take(0)
