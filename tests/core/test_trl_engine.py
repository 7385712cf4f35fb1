"""The second engine: the same course, losses, events and artifact as the own loop, and a clear no to all else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sft_core.config.train import TRL_TRAINS, TrainSection
from sft_core.errors import ConfigError, Interrupted, ModelError, TrainingError
from sft_core.train import trainer, trl_bridge, trl_engine, workbench
from sft_core.train.finish import Until
from sft_core.train.workbench import TrainInputs

Section = Callable[..., TrainSection]


def _events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [e for e in lines if e["event"] == kind]


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def _assert_same(a: Path, b: Path, fields: tuple[str, ...], kind: str = "step", tolerance: float = 1e-5) -> None:
    first, second = _events(a, kind), _events(b, kind)
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for field in fields:
            assert other[field] == pytest.approx(one[field], abs=tolerance), (field, one, other)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_both_engines_make_the_same_run(pack: bool, method: str, train_inputs: TrainInputs, train_section: Section,
                                        tmp_path: Path) -> None:
    """Losses, norms, rates and counters of every step, the validation, and the weights: accumulation, a last step
    that is not full, and warm-up included."""
    inputs = replace(train_inputs, pack=pack)
    fields = {"epochs": 1.6, "method": method, "validate_every_steps": 2, "lora": {"rank": 4}}
    own = trainer.train(inputs, train_section(**fields), tmp_path / "own")
    other = trl_engine.train(inputs, train_section(engine="trl", **fields), tmp_path / "trl")
    assert len({len(row) for row in _steps(inputs, train_section(**fields))}) > 1, "the last step is to be a short one"
    _assert_same(tmp_path / "own", tmp_path / "trl", ("step", "loss", "sft", "lr", "tokens", "trained_tokens"))
    _assert_same(tmp_path / "own", tmp_path / "trl", ("grad_norm",), tolerance=1e-4)
    _assert_same(tmp_path / "own", tmp_path / "trl", ("step", "loss"), "validation")
    assert (other.rows, other.tokens, other.trained_tokens) == (own.rows, own.tokens, own.trained_tokens)
    assert (other.adapter_folder is not None) == (method == "lora")
    mine, its = _weights(tmp_path / "own"), _weights(tmp_path / "trl")
    for name, weight in mine.items():
        torch.testing.assert_close(its[name], weight, rtol=0, atol=1e-4)


def _steps(inputs: TrainInputs, section: TrainSection) -> list[tuple[Any, ...]]:
    course = trl_engine.set_up(inputs, section).course
    return [course.sft.step(at) for at in range(course.steps)]


def test_a_stopped_run_continues_and_ends_like_an_uninterrupted_one(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = train_section(engine="trl", epochs=2, validate_every_steps=3, micro_rows=4)
    whole = trl_engine.train(train_inputs, section, tmp_path / "whole")
    first = trl_engine._Run.on_step_end

    def stop_after_two(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.stop.signal_name = "SIGTERM" if state.global_step == 2 else None
        first(self, args, state, control, **more)

    monkeypatch.setattr(trl_engine._Run, "on_step_end", stop_after_two)
    with pytest.raises(Interrupted, match=r"after step 2 of .* same run again"):
        trl_engine.train(train_inputs, section, tmp_path / "cut")
    (tmp_path / "cut" / "checkpoints" / "checkpoint-9").mkdir()  # of a process killed while it wrote: not whole
    monkeypatch.setattr(trl_engine._Run, "on_step_end", first)
    resumed = trl_engine.train(train_inputs, section, tmp_path / "cut")
    assert resumed.resumed_from == 2
    assert (resumed.tokens, resumed.trained_tokens) == (whole.tokens, whole.trained_tokens)
    _assert_same(tmp_path / "whole", tmp_path / "cut", ("step", "loss", "lr", "tokens"), tolerance=0.0)
    _assert_same(tmp_path / "whole", tmp_path / "cut", ("step", "loss"), "validation", tolerance=0.0)
    for name, weight in _weights(tmp_path / "whole").items():
        assert torch.equal(_weights(tmp_path / "cut")[name], weight)


def test_a_checkpoint_of_another_run_is_refused(train_inputs: TrainInputs, train_section: Section,
                                                tmp_path: Path) -> None:
    trl_engine.train(train_inputs, train_section(engine="trl", checkpoint_every_s=1e-6), tmp_path)
    assert len(list((tmp_path / "checkpoints").glob("checkpoint-*"))) == 2  # keep_checkpoints
    with pytest.raises(TrainingError, match=r"another run: train\.optim was .*, is "):
        trl_engine.train(train_inputs, train_section(engine="trl", lr=1e-4), tmp_path)


def test_the_folder_is_served_as_it_was_trained(train_inputs: TrainInputs, train_section: Section,
                                                tmp_path: Path) -> None:
    """Nothing of TRL stays on the model, and its validation loss is that of the saved folder."""
    report = trl_engine.train(train_inputs, train_section(engine="trl"), tmp_path)
    served = AutoModelForCausalLM.from_pretrained(report.model_folder)
    assert served.config.use_cache
    assert served.generation_config.eos_token_id == [3, 0]
    bench = trl_engine.set_up(train_inputs, train_section())
    total = tokens = 0.0
    for row in bench.validation.rows:
        for example in (bench.validation.examples[i] for i in row):
            with torch.no_grad():
                logits = served(input_ids=torch.tensor([example.input_ids])).logits[0]
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(example.targets), reduction="sum"))
            tokens += sum(t >= 0 for t in example.targets)
    assert report.validation[-1][1] == pytest.approx(total / tokens, abs=1e-5)
    assert "trl" in (report.model_folder / "README.md").read_text()


@pytest.mark.parametrize(("fields", "named"), [
    ({"lambda_": 0.5}, "replay.lambda"), ({"beta": 0.1}, "kl.beta"), ({"rows_per_step": 4, "micro_rows": 3}, "divide"),
])
def test_what_trl_cannot_do_is_refused_by_name(fields: dict[str, Any], named: str, train_section: Section) -> None:
    train_section(**fields)
    with pytest.raises(ValidationError, match=named):
        train_section(engine="trl", **fields)


def test_a_field_that_nobody_taught_to_trl_is_refused(train_section: Section) -> None:
    """A knob that is added to the own loop later does not silently do nothing."""

    class Grown(TrainSection):
        curriculum: bool = False
        """A field that TRL_TRAINS does not name."""

    values = train_section(engine="trl").model_dump(by_alias=True)
    assert set(TrainSection.model_fields) >= TRL_TRAINS
    Grown.model_validate(values)
    Grown.model_validate({**values, "engine": "native", "curriculum": True})
    with pytest.raises(ValidationError, match="curriculum"):
        Grown.model_validate({**values, "curriculum": True})


def test_settings_that_trl_itself_refuses_are_told(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                                   make_llama: Callable[..., Any]) -> None:
    base = Path(shutil.copytree(train_inputs.model.path, tmp_path / "base"))
    make_llama(tie_word_embeddings=False).save_pretrained(base)
    inputs = replace(train_inputs, model=train_inputs.model.model_copy(update={"path": str(base)}))
    section = train_section(engine="trl", method="lora", lora={"target_modules": ["lm_head"]})
    with pytest.raises(ConfigError, match="lm_head"):
        trl_engine.train(inputs, section, tmp_path / "run")


def test_an_absent_extra_is_told_with_its_install_line(train_inputs: TrainInputs, train_section: Section,
                                                       tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trl", None)
    with pytest.raises(ConfigError, match=r"pip install 'sft-platform\[trl\]'"):
        trl_engine.train(train_inputs, train_section(engine="trl"), tmp_path)


def test_a_model_that_mixes_packed_examples_is_refused(make_llama: Callable[..., Any],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import masking_utils

    model = make_llama()
    trl_bridge.prove_isolation(model)
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda positions: None)
    with pytest.raises(ModelError, match="see each other"):
        trl_bridge.prove_isolation(model)


def test_a_loss_that_is_not_finite_names_the_rows(train_inputs: TrainInputs, train_section: Section,
                                                  tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: (loss|gradient norm) (nan|inf).*Rows: "):
        trl_engine.train(train_inputs, train_section(engine="trl", lr=1e30), tmp_path)


def test_trl_does_not_call_home(train_inputs: TrainInputs, train_section: Section, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _telemetry

    calls: list[Any] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: calls.append(1))
    monkeypatch.delenv("CI", raising=False)
    trl_engine.train(train_inputs, train_section(engine="trl"), tmp_path)
    assert calls == []


def test_it_does_not_pause(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot pause.*engine: native"):
        trl_engine.train(train_inputs, train_section(engine="trl"), tmp_path, until=Until(0.5, tmp_path / "half"))


def test_a_parameter_that_never_moves_fails_the_run_as_in_the_own_loop(
        train_inputs: TrainInputs, train_section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = workbench.load_as_stored

    def with_idle_module(*args: Any, **kwargs: Any) -> Any:
        loaded = load(*args, **kwargs)
        mlp = loaded.model.model.layers[0].mlp
        mlp.idle_proj = torch.nn.Linear(32, 32)
        mlp.register_forward_hook(lambda m, _, out: out if m.training else out + 0 * m.idle_proj(out))
        return loaded

    monkeypatch.setattr(workbench, "load_as_stored", with_idle_module)
    section = train_section(engine="trl", method="lora", lora={"target_modules": ["q_proj", "idle_proj"]})
    with pytest.raises(TrainingError, match=r"1 trained parameters never got a gradient \(first: .*idle_proj"):
        trl_engine.train(train_inputs, section, tmp_path)


def test_both_engines_tell_the_same_facts(train_inputs: TrainInputs, train_section: Section, tmp_path: Path) -> None:
    """Report, last event and card have the same fields, whichever engine made them."""
    own = trainer.train(train_inputs, train_section(), tmp_path / "own")
    other = trl_engine.train(train_inputs, train_section(engine="trl"), tmp_path / "trl")
    assert (other.steps, other.rows, other.stopped_early) == (own.steps, own.rows, own.stopped_early)
    ends = [_events(tmp_path / name, "end")[0].keys() for name in ("own", "trl")]
    assert ends[0] == ends[1]
    cards = [(report.model_folder / "README.md").read_text() for report in (own, other)]
    told = [[line.split("|")[1] for line in card.splitlines() if line.startswith("|")] for card in cards]
    assert told[0] == told[1]
