"""The doctor on the tiny base and a few rows: all green when nothing is wrong, and red for every fault put in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft.tuners.lora import LoraModel

from sft_core.config.data import DataSection, ModelSection, TemplateSection
from sft_core.config.train import TrainSection
from sft_core.data.curate.chain import curate_here
from sft_core.data.prepare import prepare
from sft_core.doctor import chats, examine, steps
from sft_core.doctor.drill import SHORT, STEPS, cut_down, shortened
from sft_core.doctor.examine import Patient
from sft_core.doctor.finding import Finding, Seen, examined
from sft_core.errors import DataError, Interrupted
from sft_core.model import attention
from sft_core.model.load import load_tokenizer, locate
from sft_core.model.proof import Rows
from sft_core.templates import template as template_room
from sft_core.templates.render import IGNORE, Example
from sft_core.tiny.paths import BASE_FOLDER
from sft_core.train import outlook, trainer
from sft_core.train.inputs import TrainInputs, read_data
from sft_core.train.policy import Policy
from sft_core.train.workbench import Workbench, set_up

ROWS = [{"messages": [{"role": "user", "content": f"How many trees has street {n}?"},
                      {"role": "assistant", "content": f"It has {n} trees. " * (1 + n % 3)},
                      {"role": "user", "content": "And houses?"}, {"role": "assistant", "content": f"{n + 2}."}]}
        for n in range(12)]
TEXTS = [{"text": f"Street {n} is long and has many houses."} for n in range(6)]
MARKED = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
          "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
          "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
STOPLESS = ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}")
LORA = {"method": "lora", "lora": {"rank": 4, "dropout": 0.1}, "kl": {"beta": 0.2, "on": "both"},
        "replay": {"lambda": 0.5, "sources": [{"path": "texts.jsonl"}]}}
FULL: dict[str, Any] = {"kl": {"beta": 0.0}}


class Ready(NamedTuple):
    """A patient, and what stands for the checks after the first ones."""

    patient: Patient
    inputs: TrainInputs
    section: TrainSection
    bench: Workbench


@pytest.fixture
def admit(tmp_path: Path, write_jsonl: Callable[..., Path]) -> Callable[..., Patient]:
    """A patient with prepared data; `jinja` gives the base a chat template of its own."""

    def make(fields: dict[str, Any], jinja: str | None = None, name: str = "chatml") -> Patient:
        base = Path(shutil.copytree(BASE_FOLDER, tmp_path / "base", dirs_exist_ok=True))
        tokenizer = load_tokenizer(ModelSection(path=str(base)), base)
        if jinja:
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
            tokenizer.chat_template = jinja
            tokenizer.save_pretrained(base)
        data = DataSection.model_validate({"sources": [{"path": str(write_jsonl(ROWS))}], "max_tokens": 128,
                                           "decontaminate": "off", "duplicates": {"near": False}})
        section = TrainSection.model_validate({"optim": {"lr": 1e-3}, **fields})
        replay = tuple(s.model_copy(update={"path": str(write_jsonl(TEXTS, "texts.jsonl"))})
                       for s in section.replay.sources)
        template, model = TemplateSection.model_validate({"name": name}), ModelSection(path=str(base), device="cpu")
        out = tmp_path / "prepared"
        if not jinja or "<|im_end|>" in jinja:
            out.mkdir()
            prepare(data, template, tokenizer=load_tokenizer(model, locate(model, None)), replay=replay, eval_items=(),
                    curated=curate_here(data, (), tmp_path / "curated"), seed=0, mirror=None, out=out)
        inputs = TrainInputs(out, model, data.max_tokens, data.pack, seed=0)
        work = tmp_path / "work"
        work.mkdir()
        return Patient(data, template, section, inputs, out.is_dir(), work)

    return make


@pytest.fixture
def ready(admit: Callable[..., Patient], tmp_path: Path) -> Callable[..., Ready]:
    def make(fields: dict[str, Any]) -> Ready:
        patient = admit(fields)
        inputs, section = cut_down(patient.inputs, patient.train, tmp_path / "cut")
        return Ready(patient, inputs, section, set_up(inputs, section))

    return make


def _results(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.result for finding in findings}


def _sample(patient: Patient) -> chats.Sample:
    return chats.sample_of(patient.data, patient.template, patient.inputs.model, None, patient.work)


def _changed(sample: chats.Sample, change: Callable[[Example], Example]) -> chats.Sample:
    first, *others = sample.chats
    examples = tuple(change(example) for example in first.examples)
    return replace(sample, chats=(first._replace(examples=examples), *others))


# Nothing wrong


def test_a_sound_run_is_all_green(admit: Callable[..., Patient]) -> None:
    found = list(examine.examine(admit(LORA)))
    assert set(_results(found).values()) == {"ok"}, found
    seen = {finding.check: finding.seen for finding in found}
    assert "12 conversations, 24 trained turns: answer + stop in 24 by prefixes" in seen["masks"]
    assert "λ 0.5, β 0.2" in seen["accumulate 8×1 = 1×8"]
    assert "bit-identical" in seen["resume = uninterrupted"]
    assert "<|im_end|>" in seen["stop token"]


def test_full_training_has_no_adapter_and_marks_are_looked_at(admit: Callable[..., Patient]) -> None:
    found = list(examine.examine(admit(FULL, MARKED, "model")))
    assert _results(found).pop("merged = adapter") == "skipped"
    assert {f.result for f in found if f.check != "merged = adapter"} == {"ok"}, found
    assert "24 within the generation marks" in next(f.seen for f in found if f.check == "masks")


def test_a_run_by_muon_is_as_sound(admit: Callable[..., Patient]) -> None:
    found = list(examine.examine(admit({**FULL, "optim": {"name": "muon", "lr": 1e-3}})))
    assert {f.result for f in found if f.check != "merged = adapter"} == {"ok"}, found
    assert "bit-identical" in next(f.seen for f in found if f.check == "resume = uninterrupted")


def test_the_drill_is_small_and_like_the_run(ready: Callable[..., Ready]) -> None:
    one = ready(LORA)
    course = read_data(one.inputs, one.section).course
    assert course.steps == STEPS
    assert course.replay is not None
    assert max(course.sft.tokens) <= SHORT
    kept = ("optim", "lora", "kl", "average", "label_smoothing", "method", "gradient_checkpointing")
    assert all(getattr(one.section, name) == getattr(one.patient.train, name) for name in kept)


def test_a_shortened_example_keeps_targets_next_to_their_ids(some_example: Callable[..., Example]) -> None:
    short = shortened(some_example(100, range(40, 70)), 20)
    assert len(short.input_ids) == 20
    trained = [(at, target) for at, target in enumerate(short.targets) if target != IGNORE]
    assert [at for at, _ in trained] == list(range(19))
    assert all(short.input_ids[at + 1] == target for at, target in trained)


# Faults in data and template


def test_a_template_without_a_stop_is_found(admit: Callable[..., Patient]) -> None:
    found = list(examine.examine(admit(FULL, STOPLESS, "model")))
    assert _results(found)["masks"] == "failed"
    assert "no stop token" in next(f.seen for f in found if f.check == "masks")
    assert _results(found)["template parity"] == _results(found)["stop token"] == "skipped"


@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_thoughts_that_a_template_leaves_out_are_no_wrong_mask(opening: str, admit: Callable[..., Patient],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """As with DeepSeek R1, whose history has no thoughts and whose prompt may open one."""
    monkeypatch.setitem(globals(), "ROWS", [
        {"messages": [{"role": "user", "content": "so?"}, {"role": "assistant", "content": said}]}
        for said in ("<think>\nhm\n</think>\n\nyes", "no")])
    jinja = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1].lstrip() }}<|im_end|>"
             "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n" + opening + "{% endif %}")
    sample = _sample(admit(FULL, jinja, "model"))
    assert (len(sample.chats), chats.masks(sample).result, chats.parity(sample).result) == (2, "ok", "ok")


def _one_more(example: Example) -> Example:
    """The token before the first answer is trained too."""
    at = next(i for i, target in enumerate(example.targets) if target != IGNORE)
    targets = list(example.targets)
    targets[at - 3] = example.input_ids[at - 2]
    targets[at - 2] = example.input_ids[at - 1]
    targets[at - 1] = example.input_ids[at]
    return example._replace(targets=targets)


def _no_stop(example: Example) -> Example:
    """The stop of the first answer is not trained."""
    last = chats.runs_of(example)[0][1] - 2
    return example._replace(targets=[IGNORE if at == last else t for at, t in enumerate(example.targets)])


def test_a_wrong_mask_is_found(admit: Callable[..., Patient]) -> None:
    sample = _sample(admit(FULL))
    assert chats.masks(sample).result == chats.stops(sample, None).result == "ok"
    wrong = chats.masks(_changed(sample, _one_more))
    assert wrong.result == "failed"
    assert "its answer and stop are" in wrong.told
    assert chats.masks(_changed(sample, _no_stop)).result == "failed"
    stop = chats.stops(_changed(sample, _no_stop), None)
    assert stop.result == "failed"
    assert "1 of 24 trained turns do not end in a stop" in stop.told


def test_a_missing_shift_and_a_lost_turn_are_found(admit: Callable[..., Patient]) -> None:
    sample = _sample(admit(FULL))
    unshifted = _changed(sample, lambda e: e._replace(targets=[IGNORE, *e.targets[:-1]]))
    assert "is not the token that follows" in examined("masks", lambda: chats.masks(unshifted)).seen
    first = sample.chats[0]._replace(trained=(1,))
    lost = replace(sample, chats=(first, *sample.chats[1:]))
    assert "1 trained turns and 2 trained runs" in examined("masks", lambda: chats.masks(lost)).seen


def test_marks_that_end_before_the_stop_are_found(admit: Callable[..., Patient],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the renderer would not notice."""
    monkeypatch.setattr(template_room, "_agree", lambda *_: None)
    early = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    seen = chats.masks(_sample(admit(FULL, early, "model")))
    assert seen.result == "failed"
    assert "the generation marks enclose" in seen.told


def test_ids_that_no_server_sends_are_found(admit: Callable[..., Patient]) -> None:
    sample = _sample(admit(FULL))
    assert chats.parity(sample).result == "ok"
    headless = _changed(sample, lambda e: e._replace(input_ids=e.input_ids[1:], targets=e.targets[1:]))
    seen = chats.parity(headless)
    assert seen.result == "failed"
    assert "a server sends" in seen.told


def test_a_model_that_does_not_stop_is_found(admit: Callable[..., Patient], tmp_path: Path) -> None:
    sample = _sample(admit(FULL))
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": 0}))
    assert "generation does not stop on <|im_end|>" in chats.stops(sample, tmp_path).told
    file.write_text(json.dumps({"eos_token_id": [0, *sample.renderer.stop_ids]}))
    assert chats.stops(sample, tmp_path).result == "ok"


# Faults in the engine


def _leaky(model: Any, backend: Any, segments: torch.Tensor, device: torch.device) -> Any:
    """Everything in a row is one example."""
    return attention.isolation(model, backend, (segments > 0).long(), device)


def test_packed_examples_that_see_each_other_are_found(ready: Callable[..., Ready],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    one = ready(FULL)
    assert steps.packed_as_alone(one.bench, one.inputs.model).result == "ok"
    monkeypatch.setattr("sft_core.train.policy.isolation", _leaky)
    seen = steps.packed_as_alone(one.bench, one.inputs.model)
    assert seen.result == "failed", seen


def test_a_model_that_no_backend_isolates_is_found(admit: Callable[..., Patient],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    true = attention.isolation
    monkeypatch.setattr("sft_core.model.proof.isolation", lambda m, b, s, d: true(m, b, torch.ones_like(s), d))
    found = list(examine.examine(admit(FULL)))
    assert _results(found)["attention"] == "failed"
    assert "see each other" in next(f.seen for f in found if f.check == "attention")
    assert {_results(found)[name] for name in ("packed = alone", "accumulate 8×1 = 1×8", "resume = uninterrupted")} == {
        "skipped"}
    assert _results(found)["stop token"] == "ok"


@pytest.mark.parametrize("fields", [FULL, LORA])
def test_a_mean_of_means_is_found(fields: dict[str, Any], ready: Callable[..., Ready],
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    one = ready(fields)
    before = {name: p.detach().clone() for name, p in one.bench.parameters.items()}
    assert steps.accumulated_as_at_once(one.bench, one.section, one.inputs.model).result == "ok"
    assert all(torch.equal(before[name], p) for name, p in one.bench.parameters.items())
    true = Policy.forward

    def mean(self: Policy, micro: Any, term: Any) -> Any:
        found = true(self, micro, term)
        return found._replace(loss=found.loss / len(micro.targets))

    monkeypatch.setattr(Policy, "forward", mean)
    assert steps.accumulated_as_at_once(one.bench, one.section, one.inputs.model).result == "failed"


def test_a_merge_that_forgets_the_adapter_is_found(ready: Callable[..., Ready], monkeypatch: pytest.MonkeyPatch,
                                                   tmp_path: Path) -> None:
    one = ready(LORA)
    monkeypatch.setattr(LoraModel, "merge_and_unload", LoraModel.unload)
    found = examined("merged", lambda: steps.merged_as_adapter(one.bench, one.section))
    assert found.result == "failed"
    assert "merging the adapter changed log-probabilities" in found.seen


def test_a_resume_that_forgets_the_moments_is_found(ready: Callable[..., Ready], monkeypatch: pytest.MonkeyPatch,
                                                    tmp_path: Path) -> None:
    one = ready(FULL)
    monkeypatch.setattr(trainer, "restore_moments", lambda *_: None)
    seen = steps.resumed_as_uninterrupted(one.inputs, one.section, 0, tmp_path)
    assert seen.result == "failed"
    assert "apart by" in seen.told


def test_a_checkpoint_too_heavy_for_seconds_is_not_written(ready: Callable[..., Ready], tmp_path: Path) -> None:
    one = ready(FULL)
    seen = steps.resumed_as_uninterrupted(one.inputs, one.section, 2_000_000_000, tmp_path / "run")
    assert seen.result == "skipped"
    assert not (tmp_path / "run").exists()


def test_a_model_too_large_for_the_device_is_not_set_up(admit: Callable[..., Patient],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "free_bytes", lambda _: 1 << 20)
    found = list(examine.examine(admit(FULL)))
    assert _results(found)["memory"] == "failed"
    assert "with train.micro_rows: 1 (" in next(f.seen for f in found if f.check == "memory")
    assert _results(found)["attention"] == _results(found)["resume = uninterrupted"] == "skipped"


# The table itself


def test_routers_are_told_to_learn_without_their_own_loss(ready: Callable[..., Ready]) -> None:
    one, rows = ready(FULL), Rows(packed=True, longest=128)
    assert "routers" not in steps.attention(one.bench, one.inputs.model, rows).told
    one.bench.policy.model.config.router_aux_loss_coef = 0.01
    assert "auxiliary loss (the base's config: 0.01) is not" in steps.attention(one.bench, one.inputs.model, rows).told


def test_too_few_positions_are_told(admit: Callable[..., Patient]) -> None:
    patient = admit(FULL)
    patient = replace(patient, inputs=replace(patient.inputs, max_tokens=257))
    (seen,) = [f for f in examine.examine(patient) if f.check == "positions"]
    assert seen.result == "failed"
    assert "data.max_tokens is 257, but" in seen.seen
    assert "knows 256 positions" in seen.seen


def test_unprepared_data_leaves_what_can_be_looked_at(admit: Callable[..., Patient]) -> None:
    results = _results(list(examine.examine(replace(admit(FULL), prepared=False))))
    assert results["memory"] == results["attention"] == "skipped"
    assert results["masks"] == results["template parity"] == results["stop token"] == "ok"


def test_an_error_is_a_finding_and_a_bug_is_not_swallowed() -> None:
    def raises(error: Exception) -> Callable[[], Seen]:
        def look() -> Seen:
            raise error

        return look

    found = examined("x", raises(DataError("no rows")))
    assert (found.check, found.result, found.seen) == ("x", "failed", "no rows")
    with pytest.raises(ZeroDivisionError):
        examined("x", raises(ZeroDivisionError()))
    with pytest.raises(Interrupted):
        examined("x", raises(Interrupted("stopped")))
