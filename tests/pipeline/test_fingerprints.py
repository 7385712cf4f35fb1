"""Every field of a configuration moves the stages whose output hangs on it, or it is said here why it does not."""

import datetime
import shutil
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from sft_core.config.experiment import ExperimentConfig
from sft_core.config.mixture import MixtureSection
from sft_core.config.selection import SelectSection
from tasks import evaluate
from tasks.prepare import prepare, prepared_stage
from tasks.stages import Workspace
from tasks.train import reference_stage, trained_stage

Stamps = dict[str, Callable[[ExperimentConfig], str]]
ALL_ON: dict[str, Any] = {
    "name": "x", "model": {"path": "tiny"}, "template": {"name": "chatml"},
    "data": {"sources": [{"path": "tiny:sft", "limit": 30, "shots": 1, "phrasings": [
        {"prompt": "{prompt}", "answer": "{completion}"}]}], "max_tokens": 128, "too_long": "drop",
             "max_rejected_share": 0.5, "decontaminate": "report", "duplicates": {"keep": "newest"},
             "scores": {"measure": ["ifd"]}},
    "train": {"method": "lora", "optim": {"lr": 1e-3}, "kl": {"beta": 0.1, "on": "both", "reference": "cache"},
              "replay": {"lambda": 0.5, "sources": [{"path": "tiny:replay", "limit": 9}]}, "stopping": {"patience": 1}},
    "eval": {"suites": ["tiny_mmlu"], "limit": 6}}
"""Everything switched on that other fields hang on."""

OTHER: dict[str, Any] = {
    "model.device": "cpu", "model.precision": "bfloat16", "train.lora.target_modules": ("q_proj",),
    "train.optim.betas": (0.8, 0.9), "template.date": datetime.date(2026, 1, 1),
    "data.sources.0.date": datetime.date(2026, 1, 1), "train.replay.sources.0.date": datetime.date(2026, 1, 1),
    "data.duplicates.compared": ("prompts",), "data.duplicates.keep": "first",
    "data.quality.drop": ("refusal",), "data.scores.measure": ("perplexity",),
    "data.pii.kinds": ("key",), "data.pii.action": "redact", "data.normalise.kinds": ("html",),
    "data.mixture": MixtureSection(), "data.select": SelectSection(n=9),
    "train.probe.suites": ("tiny_mmlu",), "eval.suites": ("tiny_refusal",), "eval.limits": {"tiny_mmlu": 3},
    "data.sources.0.labels": {"prompt": {"x": "y"}},
    "data.sources.0.columns": {"output": "x"}, "train.replay.sources.0.columns": {"text": "x"},
    "data.sources.0.ignore_columns": ("x",), "train.replay.sources.0.ignore_columns": ("x",),
    "data.repair": ("trim",), "data.sources.0.roles": {"x": "user"}, "train.replay.sources.0.roles": {"x": "user"}}
"""Another value, where none can be made up."""

ROWS = "the rows and how they become examples: the prepared examples are in the fingerprint as they are"
BASE = "the base is in it by its content, a device and a precision as what they come to"
ROUNDING = "no number beyond rounding"
SAME = "says who computes and not what"
LATER, BEFORE, TOLD = "is read by later stages alone", "is read by earlier stages alone", "names and records"
_READ = ("path", "name", "format", "columns", "ignore_columns", "roles", "split", "subset", "revision", "streaming",
         "limit", "may_be_empty")
_WHENCE = ("licence", "date", "generator", "prompt_version", "sampling")
_PREPARES = (*(f"data.sources.0.{one}" for one in (*_READ, "phrasings", "labels", "shots")), "data.held_out_tasks",
             "data.too_long", "data.repair",
             "data.sources.0.date", "data.sources.0.task", "data.sources.0.kind", "data.normalise",
             "data.pii", "data.quality", "data.scores", "data.select", "data.duplicates", "data.decontaminate",
             "data.validation_share", "data.max_rejected_share", "data.mirror", "template")
_NEVER = {TOLD: ("name", "gate", "tracking", "search", "eval.judge", "eval.min_scored", "data.use",
                 *(f"data.sources.0.{one}" for one in _WHENCE if one != "date"),
                 *(f"train.replay.sources.0.{one}" for one in (*_WHENCE, "kind"))), ROUNDING: ("model.attention",),
          SAME: ("data.processes",),
          BASE: ("model.path", "model.revision", "model.device", "model.trust_remote_code", "data.mirror")}
HARMLESS: dict[str, dict[str, tuple[str, ...]]] = {
    "prepare": _NEVER | {
        LATER: ("train.engine", "train.method", "train.epochs", "train.rows_per_step", "train.tokens_per_step",
                "train.micro_rows", "train.micro_tokens", "train.weights", "train.average", "train.label_smoothing",
                "train.optim", "train.lora", "train.kl", "train.replay.lambda", "train.replay.tokens_per_step",
                "train.checkpoint_every_s", "train.keep_checkpoints", "train.validate_every_steps", "train.stopping",
                "train.probe", "train.save_dtype", "train.gradient_checkpointing", "train.compile", "train.processes",
                "train.machines", "train.shard", "train.interpolate", "data.pack",
                "data.sources.0.weight", "train.replay.sources.0.weight",
                "data.sources.0.share", "data.sources.0.epochs", "data.mixture",
                *(f"eval.{one}" for one in (
                    "limit", "limits", "share", "held_back", "part", "batch_tokens", "max_new_tokens", "backend",
                    "looks", "floor_items", "refusal_scorer", "refusal_labels", "parity"))),
        "how a source is fetched": ("data.sources.0.streaming", "train.replay.sources.0.streaming"),
        "what lies in these folders is in the stamp of the suites that read it": ("eval.include_path",
                                                                                 "eval.data_path")},
    "train": _NEVER | {
        ROWS: (*_PREPARES, *(f"train.replay.sources.0.{one}" for one in _READ)), LATER: ("eval", "train.interpolate"),
        ROUNDING: ("model.attention", "train.micro_rows", "train.micro_tokens", "train.gradient_checkpointing",
                   "train.compile", "train.processes", "train.machines", "train.shard"),
        "when a run is saved": ("train.checkpoint_every_s", "train.keep_checkpoints")},
    "reference": _NEVER | {
        ROWS: (*_PREPARES, "data.sources.0.weight", "data.sources.0.share", "data.sources.0.epochs", "data.mixture"),
        LATER: ("eval",),
        "which rows meet in a forward pass: " + ROUNDING: ("seed", "data.pack", "data.max_tokens"),
        "the base is asked before anything is trained": tuple(
            f"train.{one}" for one in ("engine", "method", "epochs", "rows_per_step", "tokens_per_step", "micro_rows",
                                       "micro_tokens", "weights", "average", "label_smoothing", "optim", "replay", "kl",
                                       "checkpoint_every_s", "keep_checkpoints", "validate_every_steps", "stopping",
                                       "probe", "save_dtype", "gradient_checkpointing", "compile", "processes",
                                       "machines", "shard",
                                       "lora.rank", "lora.alpha", "lora.dropout", "lora.target_modules",
                                       "interpolate", "lora.modules_to_save", "lora.rslora", "lora.dora"))},
    "evaluate": _NEVER | {
        BEFORE: ("seed", "data", "template", "train"),
        "what lies in these folders is in the stamp of the suites that read it": ("eval.include_path",
                                                                                 "eval.data_path"),
        "no part of the protocol": ("eval.batch_tokens",),
        LATER: ("eval.floor_items", "eval.refusal_scorer", "eval.refusal_labels", "eval.parity")}}
"""Stage → why a field does not move it → such fields, and sections all of whose fields are."""


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its dotted name, of entries of lists the first, and what it takes."""
    for name, field in model.model_fields.items():
        at, inside = prefix + (field.alias or name), _section(field.annotation)
        if inside is None:
            yield at, field.annotation
        else:
            yield from leaves(inside, f"{at}.0." if get_origin(field.annotation) is tuple else f"{at}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _section(one))), None)


def other(at: str, annotation: Any, value: Any) -> Any:
    """Another value of a field."""
    if at in OTHER:
        return OTHER[at]
    if get_origin(annotation) is Literal:
        return next(one for one in get_args(annotation) if one != value)
    if value is None:
        kind = next(one for one in get_args(annotation) if one is not type(None))
        return {int: 7, float: 0.5}.get(get_args(kind)[0] if get_origin(kind) is typing.Annotated else kind, "x")
    if isinstance(value, bool | int | float):
        return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2 or 0.25
    return {**value, "x": 1} if isinstance(value, dict) else value + ("x" if isinstance(value, str) else ("x",))


def changed(model: Any, path: list[str], annotation: Any, at: str) -> Any:
    """The configuration with another value in one field, whatever the others then say of it."""
    if isinstance(model, tuple):
        return (changed(model[0], path[1:], annotation, at), *model[1:])
    name = next(one for one, field in type(model).model_fields.items() if path[0] in (one, field.alias))
    value = getattr(model, name)
    return model.model_copy(update={
        name: changed(value, path[1:], annotation, at) if path[1:] else other(at, annotation, value)})


NOT_THERE = ("search.", "eval.judge.", "data.mixture.", "data.select.", "data.scores.judge.", "data.scores.model",
             "model.path")
"""Sections that this configuration lacks, and what is only there with its files."""


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Stamps:
    """The fingerprints of the stages of a configuration, on the same prepared examples."""
    place, rows = Workspace(tmp_path_factory.mktemp("home"), None), tmp_path_factory.mktemp("rows")
    (rows / "chats.jsonl").write_text("".join(f'{{"prompt": "Say {n}.", "completion": "{n}"}}\n' for n in range(30)))
    (rows / "text.txt").write_text("Once there was a river.\n\nIt was long.\n")
    OTHER["data.sources.0.path"] = OTHER["train.replay.sources.0.path"] = str(rows / "other.jsonl")
    shutil.copy(rows / "chats.jsonl", rows / "other.jsonl")
    (rows / "other.jsonl").open("a").write('{"text": "more"}')
    ALL_ON["data"]["sources"][0]["path"] = str(rows / "chats.jsonl")
    ALL_ON["train"]["replay"]["sources"][0]["path"] = str(rows / "text.txt")
    prepared = prepare.fn(ExperimentConfig.model_validate(ALL_ON), place)

    def asked(config: ExperimentConfig) -> str:
        subject = evaluate.base_subject(config, prepared)
        stage, = evaluate._stages(subject, config.eval, place, "").values()
        return stage.fingerprint

    return {"prepare": lambda config: prepared_stage(config, place).fingerprint,
            "train": lambda config: trained_stage(config, prepared, place).fingerprint,
            "reference": lambda config: reference_stage(config, prepared, place).fingerprint, "evaluate": asked}


@pytest.mark.parametrize("stage", HARMLESS)
def test_a_field_moves_the_stages_that_hang_on_it(stage: str, stamps: Stamps) -> None:
    """`train.lora.quantize` decides how the base is held that the KL's kept states come of, and moved no stage."""
    config = ExperimentConfig.model_validate(ALL_ON)
    before = stamps[stage](config)
    fields = {at: takes for at, takes in leaves(ExperimentConfig) if not at.startswith(NOT_THERE)}
    spared = {at for at in fields if any(f"{at}.".startswith(f"{one}.") for some in HARMLESS[stage].values()
                                         for one in some)}
    still = config
    for at in spared:
        still = changed(still, at.split("."), fields[at], at)
    assert stamps[stage](still) == before, "one of those that are said to be harmless"
    assert [at for at in fields if at not in spared
            and stamps[stage](changed(config, at.split("."), fields[at], at)) == before] == []
