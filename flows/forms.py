"""What people give a flow on Prefect's page: a configuration by name or path, fields by name, numbers within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from sft_core.config.file import LoadedConfig, load

CONFIGS = Path(__file__).parent / "configs"
SHIPPED = sorted(file.stem for file in CONFIGS.glob("*.yaml"))


def titled(title: str) -> Any:
    """The head of a field of the form; Prefect would take the parameter's name."""
    return Field(json_schema_extra={"title": title})


def either(one: dict[str, Any], otherwise: str) -> WithJsonSchema:
    """A value, or nothing, which the form calls by these words."""
    return WithJsonSchema({"anyOf": [{"title": "set", **one}, {"type": "null", "title": otherwise}]})


SYNTH_SHIPPED = sorted(file.stem for file in (CONFIGS / "synth").glob("*.yaml"))
Synthesis = Annotated[str, titled("Configuration"), WithJsonSchema({"anyOf": [
    {"type": "string", "title": "shipped", "enum": SYNTH_SHIPPED},
    {"type": "string", "title": "path of a YAML file"}]})]
"""The name of a shipped configuration of synthesis, or the path of any."""
Configuration = Annotated[str, titled("Configuration"), WithJsonSchema({"anyOf": [
    {"type": "string", "title": "shipped", "enum": SHIPPED}, {"type": "string", "title": "path of a YAML file"}]})]
"""The name of a shipped configuration, or the path of any."""
Overrides = Annotated[dict[str, Any] | list[str] | None, titled("Set otherwise"), WithJsonSchema({"anyOf": [
    {"type": "object", "title": "fields", "additionalProperties": True},
    {"type": "array", "title": "lines", "items": {"type": "string"}}, {"type": "null", "title": "nothing"}]})]
"""Fields that are set otherwise: `{"train.epochs": 2}`, or lines `train.epochs=2` as with `--set`."""
NAMES = ("name", "search.study")
SweepRun = Annotated[str | None, titled("MLflow run of the sweep: set by sweeps"),
                     either({"type": "string"}, "no trial of a sweep")]
Searched = Annotated[dict[str, Any] | None, titled("Values of the trial: set by sweeps"),
                     either({"type": "object", "additionalProperties": True}, "no trial of a sweep")]
Trials = Annotated[int | None, Field(ge=1), titled("Trials"),
                   either({"type": "integer", "minimum": 1}, "as the configuration has it")]
Workers = Annotated[int, Field(ge=1), titled("Trials at the same time")]
Model = Annotated[str, titled("Registered model")]
Alias = Annotated[str, titled("Alias")]
Margin = Annotated[float, Field(ge=0.0, le=100.0), titled("Margin in points")]
Rebase = Annotated[bool, titled("Begin anew: store tonight's results")]


def path_of(configuration: str) -> Path:
    """The file that is meant: of a shipped name its own, else the path."""
    return CONFIGS / f"{configuration}.yaml" if configuration in SHIPPED else Path(configuration)


def synth_path_of(configuration: str) -> Path:
    """The same of synthesis."""
    return CONFIGS / "synth" / f"{configuration}.yaml" if configuration in SYNTH_SHIPPED else Path(configuration)


def lines_of(overrides: dict[str, Any] | list[str] | None) -> list[str]:
    """As `--set` has them; values as JSON, which is YAML."""
    if isinstance(overrides, dict):
        return [f"{field}={json.dumps(value, ensure_ascii=False)}" for field, value in overrides.items()]
    return overrides or []


def changes(overrides: dict[str, Any] | list[str] | None) -> list[str]:
    """What was set otherwise, for a title that begins with the name."""
    return [line for line in lines_of(overrides) if line.partition("=")[0].strip() not in NAMES]


def loaded(configuration: str, overrides: dict[str, Any] | list[str] | None) -> LoadedConfig:
    """The configuration as a flow was given it.

    Raises:
        ConfigError: with every problem found.
    """
    return load(path_of(configuration), lines_of(overrides))
