"""What is reported is what is saved: the folder is read back, and takes the form that keeps what was gained."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from sft_core.config.train import TrainSection
from sft_core.data.examples import load_examples
from sft_core.errors import TrainingError
from sft_core.templates.render import IGNORE
from sft_core.train import saving, trl_engine
from sft_core.train.finish import TrainReport
from sft_core.train.inputs import TrainInputs
from sft_core.train.rounding import Form, Gain, Stored, best, forms, remark, rounded
from sft_core.train.trainer import train

Section = Callable[..., TrainSection]
NEAREST, STOCHASTIC = Form(torch.bfloat16, "nearest"), Form(torch.bfloat16, "stochastic")
WHOLE = Form(torch.float32, "nearest")
SMALL = {"optim": {"lr": 2e-5, "schedule": "constant", "warmup_share": 0.0}, "epochs": 6}
"""Updates below half the distance of two bfloat16 numbers, together a gain."""


Low = Callable[[float], TrainInputs]


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory, train_inputs: TrainInputs, make_llama: Callable[..., Any],
        tiny_tokenizer: Any) -> Low:
    """The usual data on a base in bfloat16 with weights of this spread: the larger, the coarser their rounding."""

    def make(spread: float = 1.0) -> TrainInputs:
        folder = tmp_path_factory.mktemp("low") / "base"
        make_llama(initializer_range=spread).bfloat16().save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return replace(train_inputs, model=train_inputs.model.model_copy(update={"path": str(folder)}))

    return make


@pytest.fixture(scope="module")
def low_inputs(low: Low) -> TrainInputs:
    return low(1.0)


def _read(folder: Path, prepared: Path) -> float:
    """The validation loss of a folder as transformers alone says it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total = tokens = 0.0
    for example in load_examples(prepared / "validation.parquet"):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example.input_ids])).logits[0]
        targets = torch.tensor(example.targets)
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORE))
        tokens += int((targets != IGNORE).sum())
    return total / tokens


def _dtype(report: TrainReport) -> str:
    found = {str(w.dtype).removeprefix("torch.") for w in load_file(report.model_folder / "model.safetensors").values()}
    (one,) = found
    assert json.loads((report.model_folder / "config.json").read_text())["dtype"] == one
    return one


@pytest.mark.parametrize(("engine", "spread", "form"), [
    ("native", 1.0, "bfloat16, stochastic"), ("native", 0.5, "float32"), ("trl", 1.0, "bfloat16, stochastic")])
def test_small_updates_are_not_rounded_away(engine: str, spread: float, form: str, low: Low, train_section: Section,
                                            tmp_path: Path) -> None:
    """The loss that is told is the folder's; nearest rounding would have lost the gain, and that is told too."""
    low_inputs = low(spread)
    run = trl_engine.train if engine == "trl" else train
    report = run(low_inputs, train_section(engine=engine, **SMALL), tmp_path)
    stored = report.stored
    assert stored.base is not None
    assert stored.trained is not None
    assert stored.loss is not None
    gain = stored.base - stored.trained
    assert gain > 0.01
    assert stored.tried["bfloat16, nearest"] > stored.base - 0.5 * gain
    assert stored.loss <= stored.trained + 0.1 * gain
    assert stored.form == form
    assert stored.loss == stored.tried[form]
    assert stored.loss == pytest.approx(_read(report.model_folder, low_inputs.prepared), abs=1e-5)
    assert (stored.base, stored.trained) == (report.validation[0][1], report.validation[-1][1])
    assert stored.remark == ""
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    (event,) = [e for e in events if e["event"] == "saved"]
    assert {key: event[key] for key in asdict(stored)} == asdict(stored)
    card = (report.model_folder / "README.md").read_text()
    assert f"base {stored.base:.4f}, trained {stored.trained:.4f}, this folder {stored.loss:.4f}" in card


def test_products_in_half_precision_do_not_hide_what_rounding_takes(low_inputs: TrainInputs, train_section: Section,
                                                                    tmp_path: Path,
                                                                    caplog: pytest.LogCaptureFixture,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """They round every weight to the nearest themselves, so under them the trained weights have gained nothing, and
    nearest rounding loses nothing."""
    half = replace(low_inputs, model=low_inputs.model.model_copy(update={"precision": "bfloat16"}))
    monkeypatch.setattr("sft_core.progress.LINE_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "sft"):
        report = train(half, train_section(**SMALL), tmp_path)
    stored = report.stored
    said = caplog.text[caplog.text.index("saving the model: trained weights and base are measured in float32"):]
    held_out = load_examples(low_inputs.prepared / "validation.parquet")
    assert f"measured on the {len(held_out)} held-out examples, in up to 3 forms" in said
    # Weights, base, and every form that was tried: a minute without a word on a model of 135 M.
    assert said.count("measuring what is saved: 2 of 2 rows") == 2 + len(stored.tried)
    assert report.saving_s > 0
    assert report.validation_tokens == sum(len(one.input_ids) for one in held_out)
    assert stored.base is not None
    assert stored.trained is not None
    gain = stored.base - stored.trained
    assert gain > 0.03
    assert stored.tried["bfloat16, nearest"] > stored.base - 0.5 * gain
    assert stored.form == "bfloat16, stochastic"
    assert stored.loss == pytest.approx(_read(report.model_folder, low_inputs.prepared), abs=1e-5)
    assert stored.loss <= stored.trained + 0.1 * gain


@pytest.mark.parametrize(("asked", "wanted"), [("base", {"bfloat16"}), ("float32", {"float32"}),
                                               ("auto", {"bfloat16", "float32"})])
def test_the_dtype_asked_for_is_in_the_folder(asked: str, wanted: set[str], low_inputs: TrainInputs,
                                              train_section: Section, tmp_path: Path) -> None:
    report = train(low_inputs, train_section(save_dtype=asked, **SMALL), tmp_path)
    assert _dtype(report) in wanted
    assert report.stored.form.startswith(_dtype(report))
    if asked == "float32":
        assert report.stored.loss == report.stored.trained, "the same weights in the same arithmetic"
        assert list(report.stored.tried) == ["float32"]


def test_what_is_lost_is_said_with_the_remedy(low_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
                                              ) -> None:
    monkeypatch.setattr(saving, "forms", lambda *_: (NEAREST,))
    with caplog.at_level(logging.WARNING, "sft"):
        report = train(low_inputs, train_section(save_dtype="base", **SMALL), tmp_path)
    for told in (report.stored.remark, caplog.text, (report.model_folder / "README.md").read_text()):
        assert "of the gain is lost; set train.save_dtype: auto or float32" in told
        assert f"{report.stored.loss:.4f}" in told


def test_large_updates_keep_the_plain_rounding(low_inputs: TrainInputs, train_section: Section,
                                               tmp_path: Path) -> None:
    report = train(low_inputs, train_section(epochs=6), tmp_path)
    assert report.stored.form == "bfloat16, nearest"
    assert list(report.stored.tried) == ["bfloat16, nearest"]


def test_the_same_run_is_saved_the_same_after_a_kill(low_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Stochastic rounding draws from the run's seed alone."""
    section = train_section(save_dtype="base", checkpoint_every_s=1e-6, **SMALL)
    whole = train(low_inputs, section, tmp_path / "whole")
    assert whole.stored.form == "bfloat16, stochastic"
    read, calls = saving._read_back, []

    def killed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(*args)

    monkeypatch.setattr(saving, "_read_back", killed)
    with pytest.raises(KeyboardInterrupt):
        train(low_inputs, section, tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("*model*")), "no half folder"
    again = train(low_inputs, section, tmp_path / "cut")
    assert again.stored == whole.stored
    names = ("model.safetensors", "README.md", "config.json")
    assert all((again.model_folder / n).read_bytes() == (whole.model_folder / n).read_bytes() for n in names)
    other = train(replace(low_inputs, seed=8), section, tmp_path / "other")
    assert (other.model_folder / names[0]).read_bytes() != (whole.model_folder / names[0]).read_bytes()


def test_without_held_out_rows_nothing_is_measured_and_nothing_taken_back(
        low_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train.parquet", "template.json"):
        (data / name).write_bytes((low_inputs.prepared / name).read_bytes())
    report = train(replace(low_inputs, prepared=data), train_section(**SMALL), tmp_path / "run")
    form = "bfloat16, stochastic"
    assert report.stored == Stored(form, None, None, None, None, {form: None}, None, "")
    assert report.validation == ()
    whole = train(replace(low_inputs, prepared=data), train_section(save_dtype="float32", **SMALL), tmp_path / "whole")
    mine, its = (load_file(one.model_folder / "model.safetensors") for one in (report, whole))
    moved = sum(float((its[n] - w.float()).sum()) for n, w in mine.items())
    assert abs(moved) < 1e-3 * sum(w.numel() for w in mine.values()), "no drift in the mean"


def test_a_merged_adapter_is_judged_as_it_is_stored(low_inputs: TrainInputs, train_section: Section,
                                                    tmp_path: Path) -> None:
    fields = {"method": "lora", "lora": {"rank": 4}, "lr": 1e-2, "epochs": 3}
    low = train(low_inputs, train_section(save_dtype="base", **fields), tmp_path / "low")
    whole = train(low_inputs, train_section(save_dtype="float32", **fields), tmp_path / "whole")
    assert low.stored.merge_gap is not None
    assert whole.stored.merge_gap is not None
    assert whole.stored.merge_gap < 1e-3 < low.stored.merge_gap
    assert low.stored.loss == pytest.approx(_read(low.model_folder, low_inputs.prepared), abs=1e-5)
    assert f"| merged against adapter (nats) | up to {low.stored.merge_gap:.2g} |" in (
        low.model_folder / "README.md").read_text()


def test_a_merge_that_storing_changes_is_refused(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    write = saving.write_model

    def forgetful(model: Any, *rest: Any) -> None:
        model.model.layers[0].mlp.up_proj.weight.data *= 1.1
        write(model, *rest)

    monkeypatch.setattr(saving, "write_model", forgetful)
    with pytest.raises(TrainingError, match=r"as it is stored \(float32\).*adapter is good"):
        train(train_inputs, train_section(method="lora", lora={"rank": 4}), tmp_path)
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("asked", ["base", "auto", "float32"])
def test_what_the_base_has_in_float32_is_never_rounded(asked: str, train_inputs: TrainInputs, tiny_tokenizer: Any,
                                                       train_section: Section, tmp_path: Path) -> None:
    """The bias of DeepSeek-V3's router decides by differences that bfloat16 cannot hold; here one norm does, too."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(CONFIG_MAPPING["deepseek_v3"](
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1,
        first_k_dense_replace=1, num_experts_per_tok=2, moe_intermediate_size=32, initializer_range=0.3))
    bias = torch.tensor([0.5001, 0.50013, 0.50007, 0.5002])
    base.bfloat16()
    base.model.norm.float()
    base.model.layers[1].mlp.gate.e_score_correction_bias = bias.clone()
    base.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    inputs = replace(train_inputs, model=train_inputs.model.model_copy(update={"path": str(tmp_path / "base")}))
    seen: list[dict[str, torch.Tensor]] = []
    restore = saving.restore_weights

    def recorded(parameters: Any, weights: Any) -> None:
        seen.append({name: weight.clone() for name, weight in weights.items()})
        restore(parameters, weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "restore_weights", recorded)
        report = train(inputs, train_section(save_dtype=asked, **SMALL), tmp_path / "run")
    saved = load_file(report.model_folder / "model.safetensors")
    assert torch.equal(saved["model.layers.1.mlp.gate.e_score_correction_bias"], bias)
    (trained,) = seen
    assert torch.equal(saved["model.norm.weight"], trained["model.norm.weight"])
    assert report.stored.loss == pytest.approx(_read(report.model_folder, inputs.prepared), abs=1e-5)
    if asked == "float32":
        whole = AutoModelForCausalLM.from_pretrained(report.model_folder).state_dict()
        assert all(torch.equal(whole[name], weight) for name, weight in trained.items())


# Rounding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_is_right_in_the_mean(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, generator=generator) * torch.logspace(-3, 3, 64)
    form = Form(dtype, "stochastic")
    draws = torch.stack([rounded(x, form, generator).float() for _ in range(4000)])
    step = (draws.amax(0) - draws.amin(0)).clamp_min(1e-30)
    assert ((draws.mean(0) - x).abs() / step < 0.05).all()
    near = rounded(x, Form(dtype, "nearest"), generator).float()
    assert all(len(column.unique()) <= 2 for column in draws.T), "the two neighbours"
    assert ((draws == near).float().mean(0) > 0.45).all()
    exact = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-10])
    assert torch.equal(rounded(exact, form, generator).float(), exact)
    one, other = (rounded(x, form, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, other)


def test_the_forms_to_try() -> None:
    assert forms("auto", torch.bfloat16, True) == (NEAREST, STOCHASTIC, WHOLE)
    assert forms("base", torch.bfloat16, True) == (NEAREST, STOCHASTIC)
    assert forms("auto", torch.bfloat16, False) == forms("base", torch.bfloat16, False) == (STOCHASTIC,)
    for measured in (True, False):
        assert forms("float32", torch.bfloat16, measured) == (WHOLE,)
        assert forms("auto", torch.float32, measured) == forms("base", torch.float32, measured) == (WHOLE,)


def test_the_form_that_is_kept() -> None:
    gain = Gain(base=2.0, trained=1.0)
    assert best({NEAREST: 1.05}, gain) == NEAREST
    assert best({NEAREST: 1.5, STOCHASTIC: 1.1}, gain) == STOCHASTIC
    assert best({NEAREST: 1.3, STOCHASTIC: 1.5}, gain) == NEAREST, "none keeps it: the lowest loss"
    assert best({NEAREST: math.inf, STOCHASTIC: math.nan, WHOLE: 1.0}, gain) == WHOLE
    with pytest.raises(TrainingError, match=r"no finite loss in float16, nearest.*save_dtype: float32"):
        best({Form(torch.float16, "nearest"): math.nan}, gain)
    assert gain.lost(1.05) is None
    assert gain.lost(1.5) == pytest.approx(0.5)
    assert gain.lost(0.5) is None
    assert Gain(1.0, 1.0).lost(1.00005) is None
    assert Gain(1.0, 1.0).lost(1.01) == math.inf
    assert "more than the gain" in remark(NEAREST, 1.01, Gain(1.0, 1.0), False)
    assert "4 bits" in remark(WHOLE, 1.5, gain, True)
    assert "sft doctor" in remark(WHOLE, 1.5, gain, False)


def test_what_goes_wrong_in_reading_back_is_not_called_a_full_disk(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says both with a RuntimeError."""
    def broken(*_: Any) -> Any:
        raise RuntimeError("of the forward pass")

    monkeypatch.setattr(saving, "_read_back", broken)
    with pytest.raises(RuntimeError, match="of the forward pass"):
        train(train_inputs, train_section(epochs=0.2), tmp_path)
    assert not list(tmp_path.glob("*model*"))
