"""The forms of Prefect's page: what the server lets through is what the flows understand."""

from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate

from flows.experiment import sft_experiment
from flows.forms import SHIPPED, SYNTH_SHIPPED, lines_of, loaded, path_of, synth_path_of
from flows.nightly import sft_nightly
from flows.pool import sft_trial
from flows.sweep import sft_sweep
from flows.synth import sft_synth
from sft_core.config.synth_file import load_synth
from sft_core.errors import ConfigError

FLOWS = (sft_experiment, sft_sweep, sft_trial, sft_nightly, sft_synth)


@pytest.mark.parametrize("flow", FLOWS)
def test_every_field_has_a_default_and_says_what_it_is(flow: Flow[..., Any]) -> None:
    schema = parameter_schema(flow).model_dump()
    assert not schema["required"]
    for name, one in schema["properties"].items():
        assert one["description"], name
        assert one["title"] != name, "Prefect's own title is the name of the parameter"
        assert one.get("type") or all(choice["title"] for choice in one["anyOf"]), name
        assert "default" in one, name
    validate({name: one["default"] for name, one in schema["properties"].items()}, schema, raise_on_error=True)


def test_configurations_are_a_list_with_a_way_out() -> None:
    shipped, other = parameter_schema(sft_sweep).model_dump()["properties"]["config"]["anyOf"]
    assert shipped["enum"] == SHIPPED == ["alpaca", "demo", "smollm2", "sweep"]
    assert other["type"] == "string"
    assert all(path_of(name).is_file() for name in SHIPPED)
    assert path_of("my/own.yaml") == Path("my/own.yaml")


def test_configurations_of_synthesis_are_listed_and_valid() -> None:
    shipped, _ = parameter_schema(sft_synth).model_dump()["properties"]["config"]["anyOf"]
    assert shipped["enum"] == SYNTH_SHIPPED == ["reject", "self-instruct"]
    for name in SYNTH_SHIPPED:
        assert load_synth(synth_path_of(name)).config.name == name
    assert synth_path_of("my/own.yaml") == Path("my/own.yaml")


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": "x"}, {"trials": -1}, {"overrides": 3}, {"config": 1}])
def test_what_the_flow_would_refuse_the_form_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        validate(wrong, parameter_schema(sft_sweep).model_dump(), raise_on_error=True)


def test_fields_are_set_by_name_or_by_line() -> None:
    fields = {"train.epochs": 0.5, "name": "true", "gate.must_improve": ["tiny_format"], "eval.limit": None}
    validate({"overrides": fields}, parameter_schema(sft_experiment).model_dump(), raise_on_error=True)
    config = loaded("demo", fields).config
    assert (config.train.epochs, config.name, list(config.gate.must_improve)) == (0.5, "true", ["tiny_format"])
    assert config == loaded("demo", lines_of(fields)).config
    assert loaded("demo", None).config == loaded(str(path_of("demo")), []).config
    with pytest.raises(ConfigError, match="epoch"):
        loaded("demo", {"train.epoch": 1})
