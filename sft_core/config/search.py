"""A search space against the configuration that it varies: which fields are whole numbers, what every value meets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import cache
from typing import Any, NamedTuple

from sft_core.config.experiment import ExperimentConfig, Range
from sft_core.config.train import NO_WEIGHT, TrainSection

LONGEST_TRIAL = 9999


class Tried(NamedTuple):
    """One value of a searched field that a trial may get: an end of its interval or one of its choices."""

    key: tuple[str | int, ...]
    """Where it stands below `search.space`."""
    value: object


class _Idle(NamedTuple):
    """Fields that a trial's result does not hang on."""

    below: str  # the field, or the section that it is in
    while_: Callable[[ExperimentConfig], bool]
    unless: tuple[str, ...]  # searched fields, or sections with such, that may end that
    why: str


_ALWAYS = ("name", "tracking", "gate", "eval", "search", "data.mirror", "data.processes", "model.device",
           "model.attention", *(f"train.{field}" for field in sorted(NO_WEIGHT)))
_IDLE = (
    *(_Idle(below, lambda _: True, (), "it changes nothing that a trial learns") for below in _ALWAYS),
    _Idle("train.lora", lambda config: config.train.method != "lora", ("train.method",), "train.method is full"),
    _Idle("train.replay", lambda config: not config.train.wants_replay, ("train.replay.lambda", "train.kl.beta"),
          "train.replay.lambda is 0 and no KL looks at replay text"),
    _Idle("train.kl", lambda config: not config.train.kl.beta, ("train.kl.beta",), "train.kl.beta is 0"),
    _Idle("train.optim.decay_share", lambda config: config.train.optim.schedule != "wsd", ("train.optim.schedule",),
          "train.optim.schedule is not wsd"),
    _Idle("train.stopping", lambda config: not config.train.stopping.patience, ("train.stopping.patience",),
          "train.stopping.patience is 0"),
    _Idle("train.probe", lambda config: not _probe_stops(config.train),
          ("train.stopping.metric", "train.stopping.patience"), "probes only tell where train.stopping asks none"),
    _Idle("train.rows_per_step", lambda config: config.train.tokens_per_step is not None, ("train.tokens_per_step",),
          "train.tokens_per_step is set"),
    _Idle("data.sources.0.share",
          lambda config: len(config.data.sources) == 1 and config.data.sources[0].share is not None, (),
          "there is no other source"),
    _Idle("data.mixture.temperature", lambda config: _unshared(config) < 2, ("data.sources", "data.held_out_tasks"),
          "no two sources are without a share"),
    _Idle("data.mixture.cap", lambda config: not _unshared(config), ("data.sources", "data.held_out_tasks"),
          "every source has a share"),
    _Idle("data.mixture.most_repeats", lambda config: config.data.mixture is None or config.data.mixture.size is None,
          ("data.mixture.size",), "data.mixture.size is not set"),
)


def idle(field: str, ways: Sequence[ExperimentConfig], searched: Set[str]) -> str:
    """Why a searched field changes nothing, so that all its trials would be the same; empty where it does.

    Args:
        field: its dotted name.
        ways: the configuration in every way in which it is drawn.
        searched: fields that are searched and that it does not need.
    """
    rules = [rule for rule in _IDLE if _inside(field, rule.below)
             and not any(_inside(other, one) for other in searched for one in rule.unless)]
    why = [next((rule.why for rule in rules if rule.while_(config)), "") for config in ways]
    return why[0] if why and all(why) else ""


def _inside(field: str, section: str) -> bool:
    return field == section or field.startswith(f"{section}.")


def _probe_stops(train: TrainSection) -> bool:
    return train.stopping.metric in train.probe.names and bool(train.stopping.patience)


def _unshared(config: ExperimentConfig) -> int:
    """Training sources whose share the mixture decides."""
    return sum(one.share is None and not config.data.holds_out(one) for one in config.data.sources)


def tried(field: str, span: Range) -> Iterator[Tried]:
    """Both ends or all choices of a field, typed as the trials get them."""
    if span.choices is None:
        low, high = ends(field, span)
        yield Tried((field, "low"), low)
        yield Tried((field, "high"), high)
    else:
        yield from (Tried((field, "choices", index), value) for index, value in enumerate(span.choices))


def ends(field: str, span: Range) -> tuple[float | None, float | None]:
    """Both ends of an interval; whole numbers for a field that takes only those. None for choices."""
    if not is_whole(field):
        return span.low, span.high
    low, high = (int(end) if end is not None and end == int(end) else end for end in (span.low, span.high))
    return low, high


def is_whole(field: str) -> bool:
    """Whether a dotted field of the configuration takes whole numbers only; also False where there is no such field."""
    return _kinds(field) == {"integer"}


def no_number(field: str, value: object) -> str:
    """What to write instead of a truth value where a dotted field takes numbers, as which it would be read."""
    if not isinstance(value, bool) or not _kinds(field) or _kinds(field) - {"integer", "number"}:
        return ""
    return f"{field}: takes numbers, write {value:d} for {value} if that is meant"


def trial_name(name: str, number: int) -> str:
    """What the run of a trial is called."""
    return f"{name}-t{number:03d}"


def _kinds(field: str) -> set[str | None]:
    """What a dotted field takes, in the words of JSON schemas; nothing where there is no such field."""
    found = [_schema()]
    for part in field.split("."):
        found = [below for node in found for below in _below(node, part)]
    return {node.get("type") for node in found} - {"null"}


@cache
def _schema() -> dict[str, Any]:
    return ExperimentConfig.model_json_schema(by_alias=True)


def _below(node: Mapping[str, Any], part: str) -> Iterator[dict[str, Any]]:
    """The schemas of what is called `part` in a section, a mapping or a list."""
    below = node.get("properties", {}).get(part)
    if below is None:
        below = node.get("items" if part.isdigit() else "additionalProperties")
    if isinstance(below, dict):
        yield from _plain(below)


def _plain(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema without references and alternatives: each of them by itself."""
    if "$ref" in node:
        yield from _plain(_schema()["$defs"][node["$ref"].rpartition("/")[2]])
    elif "anyOf" in node:
        yield from (plain for one in node["anyOf"] for plain in _plain(one))
    else:
        yield node
