"""Which difference between two runs accounts for what the second lost: parts of its configuration put into the first.

Parts are sources and fields. The smallest set that does it is found by dividing (QuickXplain: Junker 2004, AAAI 04,
p. 167), about 2 log2(n) runs for one part among n. Code, libraries, the base and the content of a source that kept its
name cannot be put back: they are what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from eval_suites.results import SuiteResult
from eval_suites.verdict.outcome import SuiteVerdict
from eval_suites.verdict.verdict import compare
from infra.naming import differences, told
from sft_core.config.data import SourceSection
from sft_core.config.evaluate import GateSection
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import override
from sft_core.errors import ConfigError, EvalError
from sft_core.stage import fingerprint, write_text
from tasks.stages import Workspace

NOT_TRIED = ("name", "tracking", "gate", "search", "eval")
"""Sections that make no model; the first run's own evaluation is the one that everything is measured with."""
LISTS = ("data.sources", "train.replay.sources")
Results = Mapping[str, SuiteResult]


class Part(NamedTuple):
    """One difference. `place`: the dotted field, or the list and the name of a source in it."""

    place: str
    a: str
    b: str
    source: str = ""

    def told(self) -> str:
        """In words."""
        what = f"source {self.source} ({self.place})" if self.source else self.place
        return f"{what}: {self.a} in A, {self.b} in B"


def parts_of(a: ExperimentConfig, b: ExperimentConfig) -> list[Part]:
    """Every source and every field that is another one in B; those that make no model aside."""
    found = []
    for where in LISTS:
        ours, theirs = _named(a, where), _named(b, where)
        found += [Part(where, _shown(ours.get(name)), _shown(theirs.get(name)), name)
                  for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    one, two = a.model_dump(mode="json", by_alias=True), b.model_dump(mode="json", by_alias=True)
    for field in _fields(a, b):
        found.append(Part(field, str(_value(one, field)), str(_value(two, field))))
    return found


def with_parts(a: ExperimentConfig, b: ExperimentConfig, parts: Sequence[Part], name: str) -> ExperimentConfig:
    """The first configuration with these parts of the second, under another name and registered nowhere.

    Raises:
        ConfigError: they do not fit together.
    """
    theirs = b.model_dump(mode="json", by_alias=True)
    values: dict[str, object] = {part.place: _value(theirs, part.place) for part in parts if not part.source}
    for where in LISTS:
        chosen = {part.source for part in parts if part.place == where}
        both = _named(a, where), _named(b, where)
        if chosen:
            mixed = {key: both[key in chosen].get(key) for key in {**both[0], **both[1]}}
            values[where] = [one.model_dump(mode="json", by_alias=True) for one in mixed.values() if one is not None]
    return override(a, {**values, "name": name, "tracking.registered_model": None})


def written(config: ExperimentConfig, place: Workspace) -> Path:
    """A configuration as the file that a run begins with."""
    data = config.model_dump(mode="json", by_alias=True)
    file = place.scratch / config.name / f"{fingerprint(data)}.yaml"
    write_text(file, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return file


def kept(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What two lineages have otherwise and no configuration brings back, in words."""
    found = []
    before = {(one["use"], one["name"], one["path"]): one["files"] for one in a["sources"]}
    for one in b["sources"]:
        wrong = differences(before.get((one["use"], one["name"], one["path"]), one["files"]), one["files"])
        found += [f"the content of the source {one['name']}: {told(wrong)}"] if wrong else []
    if wrong := differences(a["base"]["files"], b["base"]["files"]) if a["base"]["path"] == b["base"]["path"] else []:
        found.append(f"the files of the base {a['base']['path']}: {told(wrong)}")
    ours, theirs = a["made_with"] or {}, b["made_with"] or {}
    for part, word in (("code", "the code of {}"), ("libraries", "{}")):
        one, two = ours.get(part, {}), theirs.get(part, {})
        found += [f"{word.format(name)}: {one.get(name, 'none')} in A, {two.get(name, 'none')} in B"
                  for name in sorted({*one, *two}) if one.get(name) != two.get(name)]
    return found


def loss(before: Results, after: Results, suite: str) -> SuiteVerdict:
    """A suite of one model against another one, item by item, with no margin."""
    gate = GateSection(max_tax=0.0, max_false_refusals=0.0)
    return compare({suite: before[suite]}, {suite: after[suite]}, gate).suites[0]


def is_proved(found: SuiteVerdict) -> bool:
    """Whether a loss is proved, or that more is refused that should be answered."""
    return found.outcome == "worse" or found.refuses_more


def said(found: SuiteVerdict) -> str:
    """The loss in words."""
    if found.points is None:
        return f"{found.suite}: not measured"
    down = 1 if found.kind == "capability" else -1
    ends = sorted((down * found.low, down * found.high))
    word = "proved" if is_proved(found) else "not proved"
    return (f"{found.suite} lost {down * found.points:.1f} points ({ends[0]:.1f} to {ends[1]:.1f}) over {found.pairs} "
            f"items: {word}")


def lost_suite(before: Results, after: Results, suite: str | None) -> SuiteVerdict:
    """The suite that is asked about: the named one, else the one that is proved to have lost most.

    Raises:
        ConfigError: there is no such suite in both. EvalError: no loss is proved, so there is nothing to explain.
    """
    shared = sorted(before.keys() & after.keys())
    if suite is not None and suite not in shared:
        raise ConfigError(f"--suite {suite} was not run on both; both have {', '.join(shared) or 'none'}")
    found = [loss(before, after, one) for one in ([suite] if suite else shared)]
    proved = [one for one in found if is_proved(one)]
    if not proved:
        raise EvalError("B is not proved to be worse than A, so that there is nothing to explain: "
                        + "; ".join(map(said, found)) + ". More items tell smaller losses apart (eval.limit)")
    return max(proved, key=lambda one: abs(one.points or 0.0))


def smallest(parts: Sequence[Part], lost: Callable[[Sequence[Part]], bool]) -> list[Part]:
    """The smallest set of parts that does it, where each set that holds one that does it does it too.

    Args:
        parts: that do it all together.
        lost: whether these parts do it.
    """
    def search(background: list[Part], added: bool, rest: list[Part]) -> list[Part]:
        if added and lost(background):
            return []
        if len(rest) == 1:
            return rest
        first, second = rest[:len(rest) // 2], rest[len(rest) // 2:]
        of_second = search([*background, *first], True, second)
        return [*search([*background, *of_second], bool(of_second), first), *of_second]

    return search([], False, list(parts))


def _named(config: ExperimentConfig, where: str) -> dict[str, SourceSection]:
    from sft_core.data.sources import name_of

    return {name_of(one): one for one in (config.data.sources if where == LISTS[0] else config.train.replay.sources)}


def _shown(source: SourceSection | None) -> str:
    return "none" if source is None else ", ".join(
        f"{key} {value}" for key, value in source.model_dump(mode="json", exclude_defaults=True).items())


def _fields(a: BaseModel, b: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields that differ, the outermost ones that are no sections on both sides."""
    for name, field in type(a).model_fields.items():
        dotted = f"{prefix}{field.alias or name}"
        one, two = getattr(a, name), getattr(b, name)
        if dotted in NOT_TRIED or dotted in LISTS or one == two:
            continue
        if isinstance(one, BaseModel) and type(one) is type(two):
            yield from _fields(one, two, f"{dotted}.")
        else:
            yield dotted


def _value(data: Mapping[str, Any], dotted: str) -> Any:
    for key in dotted.split("."):
        data = data[key]
    return data
