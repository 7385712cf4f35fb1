"""What a run will do, take and find out, before it starts. Nothing is trained or asked, and only prepare's stage made.
"""

from __future__ import annotations

import logging
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from eval_suites.asking.expected import expected
from eval_suites.results import Expected, SuiteResult
from eval_suites.suites.suite import Suite, named_suites
from eval_suites.verdict.gate import margin_of
from eval_suites.verdict.outcome import NONE, shown_score
from eval_suites.verdict.power import (
    Promise,
    Terms,
    promise,
    promised_refusals,
    provable,
    seen,
    shown_ends,
    terms_of,
)
from sft_core.config.experiment import ExperimentConfig
from tasks.doctor import cut
from tasks.evaluate import base_subject, known, tuned_subject
from tasks.facts import duration
from tasks.interpolate import interpolated_stage
from tasks.pace import NOTHING, Span, evaluation_span, training_span
from tasks.prepare import prepare
from tasks.provenance import unknown_licences
from tasks.stages import Done, Workspace
from tasks.train import inputs_of, trained_stage

if TYPE_CHECKING:
    from sft_core.train.outlook import Outlook


log = logging.getLogger("sft")
FORECAST = re.compile(r"(?:at least )?\S+ \S+ of \S+ \S+ free memory \(\w+\)")
"""Finds the memory of `Plan.lines` in a log whose lines were joined: a log breaks them where it likes."""


class Asked(NamedTuple):
    """One suite of a run: its items, what they can find, and what is still to be computed."""

    items: Expected
    found: Promise  # what they can find; the margin says something of a capability suite only
    margin: float | None  # points, what the gate asks for
    base_there: bool
    tuned_there: bool
    time: Span  # of what is not there

    @property
    def capability(self) -> bool:
        """Whether a loss on this suite is a tax."""
        return self.items.kind == "capability"

    def row(self) -> dict[str, object]:
        """A row of a table; the keys are the heads."""
        items = self.items
        unknown = NONE if self.base_there else "not asked" if items.scale == "log" else "50.0 assumed"
        best, worst = self.found
        provable = shown_ends((best.margin, worst.margin), "nothing") if self.capability else ""
        return {"suite": items.suite, "kind": items.kind, "items": items.items, "clusters": items.clusters,
                "base": unknown if items.base is None else shown_score(items.base, items.scale),
                "finds": shown_ends((best.difference, worst.difference), "nothing"), "can prove a tax of": provable,
                "margin": "" if self.margin is None else f"{self.margin:g}",
                "base there": "yes" if self.base_there else "no", "tuned there": "yes" if self.tuned_there else "no"}


class Plan(NamedTuple):
    """A run before it starts. `sampled` is how many times more rows there are than were prepared for this plan."""

    name: str
    outlook: Outlook
    prepared: Done
    sampled: float
    trained: str  # `to do`, `found` or `continues`
    suites: tuple[Asked, ...]
    training: Span
    evaluation: Span
    floor_items: int
    advice: tuple[str, ...]

    def lines(self) -> list[str]:
        """The short form, a few sentences."""
        look, epoch, steps = self.outlook, self.outlook.epoch, self.outlook.steps
        per_step = f"{look.trained.tokens / steps:,.0f} tokens ({look.trained.trained_tokens / steps:,.0f} trained)"
        replay = f" and {look.replayed.tokens / steps:,.0f} of replay" if look.replayed.tokens else ""
        about = "about " * (self.sampled != 1.0)
        least = "at least " * (look.place.device == "cpu")  # the allocator's pieces grow, see memory.Forecast.process
        return [
            f"{about}{steps:,} steps of {per_step}{replay}; {look.section.epochs:g} epochs of {epoch.tokens:,} tokens "
            f"({epoch.trained_tokens:,} trained) in {look.examples} examples; "
            f"{look.warmup_steps:,} steps of warm-up",
            f"training {self._shown_training()}, evaluation {shown_span(self.evaluation)}{self._floor()}; {least}"
            f"{_size(look.peak)} of {_size(look.free)} free memory ({look.place.device}), "
            f"{_size(look.forecast.disk)} of {_size(look.disk_free)} free disk"]

    def _floor(self) -> str:
        asked = [one for one in self.suites if not one.base_there]
        return ", its A/A floor (eval.floor_items) included" if asked and self.floor_items else ""

    def _shown_training(self) -> str:
        return "is there already" if self.trained == "found" else shown_span(self.training)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: sizes in bytes, times in seconds, effects in points."""
        look = self.outlook
        return {
            "name": self.name,
            "stages": {"prepare": {"reused": self.prepared.reused, "seconds": self.prepared.seconds},
                       "train": self.trained, "base": _there(one.base_there for one in self.suites),
                       "tuned": _there(one.tuned_there for one in self.suites)},
            "sampled": self.sampled, "ledger": self.prepared.result["ledger"],
            "steps": look.steps, "warmup_steps": look.warmup_steps, "epochs": look.section.epochs,
            "epoch": asdict(look.epoch), "examples": len(look.data.course.sft.examples), "examples_used": look.used,
            "step": {"tokens": look.trained.tokens / look.steps,
                     "trained_tokens": look.trained.trained_tokens / look.steps,
                     "replay_tokens": look.replayed.tokens / look.steps},
            "validation_examples": len(look.data.validation.examples), "validations": look.validations,
            "parameters": look.shape.parameters, "trained_parameters": look.shape.trained,
            "memory": {"device": look.place.device, "peak": look.peak, "free": look.free},
            "disk": {"needed": look.forecast.disk, "free": look.disk_free},
            "seconds": {"training": self.training._asdict(), "evaluation": self.evaluation._asdict()},
            "suites": [{**one.items._asdict(), "difference": [end.difference for end in one.found],
                        "provable": [end.margin for end in one.found] if one.capability else None,
                        "margin": one.margin, "base_there": one.base_there, "tuned_there": one.tuned_there,
                        "seconds": [one.time.low, one.time.high]} for one in self.suites],
            "advice": list(self.advice),
        }


def plan(config: ExperimentConfig, place: Workspace, rows: int | None = None) -> Plan:
    """Prepare the data, or find it prepared, and plan the run.

    Args:
        rows: prepare no more than so many rows of every source, and take the others to be like them.

    Raises:
        DataError, TemplateError, ModelError, EvalError, TrainingError: what the run itself would end with.
    """
    if rows is None:
        return plan_of(config, prepare.fn(config, place), place)
    prepared = prepare.fn(cut(config, rows), place)
    return plan_of(config, prepared, place, _times(config, prepared, place))


def plan_of(config: ExperimentConfig, prepared: Done, place: Workspace, times: float = 1.0) -> Plan:
    """The plan of a run whose data is prepared; `times` as many rows as there are in it.

    Raises:
        ModelError, EvalError, TrainingError, DataError: what the run itself would end with.
    """
    from sft_core.train.advice import Foreseen, advice
    from sft_core.train.outlook import look_ahead

    outlook = look_ahead(inputs_of(config, prepared, place), config.train, place.root, times)
    stage = trained_stage(config, prepared, place)
    begun = any((stage.work / "checkpoints").glob("*"))
    trained = "found" if stage.result() is not None else "continues" if begun else "to do"
    base = known(base_subject(config, prepared), config.eval, place)
    last = stage if config.train.interpolate == 1.0 else interpolated_stage(config, stage.fingerprint, place)
    done = Done(last.fingerprint, last.work, {}, reused=True)
    tuned = known(tuned_subject(config, done), config.eval, place) if last.result() is not None else {}
    chosen = named_suites(config.eval.suites)
    terms = terms_of(config.gate, (one.kind for one in chosen.values()), config.eval.looks)
    suites = tuple(_asked(one, config, base.get(name), name in tuned, _Where(outlook, place, terms))
                   for name, one in chosen.items())
    training = NOTHING if trained == "found" else training_span(config, outlook, place)
    evaluation = sum((one.time for one in suites), NOTHING)
    odd = advice(Foreseen(outlook, config.data, prepared.result["ledger"], training.high or None))
    use = unknown_licences(config, place.mirror) if config.data.use else ()
    return Plan(config.name, outlook, prepared, times, trained, suites, training, evaluation,
                config.eval.floor_items, (*odd, *_of_suites(suites, terms), *use))


def tell_plan(config: ExperimentConfig, prepared: Done, place: Workspace, of: str = "plan") -> None:
    """Log the short form of a run that is still to be trained, and what is odd about it."""
    if trained_stage(config, prepared, place).result() is not None:
        return
    made = plan_of(config, prepared, place)
    for line in made.lines():
        log.info("%s: %s", of, line)
    for said in made.advice:
        log.warning("%s: %s", of, said)


def shown_span(span: Span) -> str:
    """A span of seconds for people."""
    if not span.high:
        return "takes no time"
    low, high = duration(span.low), duration(span.high)
    return f"{low if low == high else f'{low} to {high}'} ({span.how})"


class _Where(NamedTuple):
    outlook: Outlook
    place: Workspace
    terms: Terms


def _asked(chosen: Suite, config: ExperimentConfig, base: SuiteResult | None, tuned_there: bool,
           where: _Where) -> Asked:
    name = chosen.name
    planned, rounds = expected(chosen, config.eval, where.place.mirror), (base is None) + (not tuned_there)
    items = planned if base is None else seen(base, config.gate)._replace(elsewhere=planned.elsewhere)
    time = NOTHING if not rounds else evaluation_span(
        config, planned, rounds, where.outlook, where.place, base=base is None)
    margin = margin_of(name, config.gate) if chosen.kind == "capability" else None
    return Asked(items, promise(items, where.terms), margin, base is not None, tuned_there, time)


def _of_suites(suites: Iterable[Asked], terms: Terms) -> Iterator[str]:
    """Suites on which a base has nothing to lose or to win, and those whose margin so many items cannot prove."""
    for one in suites:
        if away := one.items.elsewhere:
            yield (f"{one.items.suite}: {len(away)} of its tasks have all their clusters in the other part, so that "
                   f"nothing is said of them: {', '.join(away[:5])}{', …' if len(away) > 5 else ''} (eval.held_back)")
        if one.items.room:
            yield f"{one.items.suite}: {one.items.room}"
        elif one.margin is not None and (few := too_few(one.items, one.margin, terms)):
            yield (f"{one.items.suite}: {few}; raise eval.limit or eval.limits, or set gate.margins of this suite "
                   "higher")
        if refusals := promised_refusals(one.items, terms):
            yield f"{refusals}; raise eval.limit or eval.limits, or set gate.max_false_refusals higher"


def too_few(items: Expected, margin: float, terms: Terms) -> str:
    """What keeps the items from proving the margin; of a base that was not asked yet, below which score they cannot."""
    cannot = f"{items.items} items cannot prove a tax of at most {margin:g}"
    if items.base is not None or items.scale == "log":
        return "" if (least := provable(items, terms)) <= margin else f"{cannot}{_at_best(least)}"

    def of(score: int) -> float:
        return provable(items._replace(base=score / 100), terms)

    if (half := of(50)) <= margin:
        return ""
    if (whole := of(100)) > margin:
        return f"{cannot}{_at_best(whole)}, of a base that has all of them right"
    enough = bisect_left(range(50, 101), -margin, key=lambda score: -of(score)) + 50
    return f"the base was not asked yet, and if it scores below {enough}, {cannot} (at 50, {half:.1f} at best)"


def _at_best(points: float) -> str:
    return "" if math.isinf(points) else f", at best {points:.1f}"


def _times(config: ExperimentConfig, prepared: Done, place: Workspace) -> float:
    """How many times more training rows there are than were prepared."""
    from sft_core.data.sources import read_rows

    everything = sum(1 for source in config.data.sources
                     for _ in read_rows(source, scratch=place.scratch, mirror=place.mirror))
    read: int = prepared.result["ledger"]["read"]
    return max(1.0, everything / read)


def _there(flags: Iterable[bool]) -> str:
    found = list(flags)
    return f"{sum(found)} of {len(found)} found"


def _size(size: float) -> str:
    from sft_core.train.memory import in_words

    return in_words(size)
