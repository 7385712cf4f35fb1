"""How long a sweep will take: once what its trials have in common, then the trials, so many at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from eval_suites.asking.expected import expected
from eval_suites.suites.suite import named_suites
from sft_core.config.conditions import settings
from sft_core.config.experiment import ExperimentConfig, SearchSection
from sft_core.config.file import override
from sft_core.config.search import tried
from sft_core.errors import ConfigError, TrainingError
from tasks.evaluate import base_subject, known
from tasks.pace import NOTHING, Span, evaluation_span, training_span
from tasks.plan import shown_span
from tasks.prepare import prepare
from tasks.stages import Done, Workspace
from tasks.train import inputs_of

if TYPE_CHECKING:
    from sft_core.train.outlook import Outlook


class SweepPlan(NamedTuple):
    """A sweep before it starts. Spans are seconds of training and evaluation."""

    study: str
    trials: int
    workers: int
    common: Span
    """Evaluation of the base, as far as it is still to do."""
    trial: Span
    """Of one trial, on average over the space."""
    dearest: Span
    """Of one at the end of the range that takes longest."""
    ended: bool
    """Whether `search.rungs` ends some before."""
    confirmed: Span
    """Of asking base, proposed point and default configuration what was held back."""

    @property
    def whole(self) -> Span:
        """Of all: as many rounds of trials as each worker has to run, if they do not slow each other down."""
        rounds = math.ceil(self.trials / self.workers)
        return self.common + Span(rounds * self.trial.low, rounds * self.trial.high, self.trial.how) + self.confirmed

    def lines(self) -> list[str]:
        """In sentences."""
        most = " at most, as search.rungs ends some earlier" * self.ended
        last = f", the confirmation {_plain(self.confirmed)}" if self.confirmed != NOTHING else ""
        return [f"sweep {self.study}: {self.trials} trials, {self.workers} at a time: {shown_span(self.whole)}{most}",
                f"a trial takes {_plain(self.trial)} on average over the space and {_plain(self.dearest)} at its "
                f"dearest end; what all have in common {_plain(self.common)}{last}. Starting and recording each trial, "
                "and workers that share a processor, come on top"]


def plan_sweep(config: ExperimentConfig, search: SearchSection, prepared: Done, place: Workspace,
               size: tuple[int, int]) -> SweepPlan:
    """Plan a sweep whose own configuration is prepared. What `search.interpolate` and `search.seeds` add hangs on how
    many trials the front will have, and is left out.

    The ends of every field are looked at beside the configuration's own values; the average over the space is what
    they differ by on average, added up over the fields.

    Args:
        config: `as_searched`.
        size: trials that are to go, and workers.

    Raises:
        ModelError, EvalError, TrainingError, DataError: what a trial would end with.
    """
    own = _span(config, prepared, place)
    mean, dearest = own, own
    for field in search.space:
        spans = list(_of_ends(config, search, field, (prepared, place)))
        if spans:
            mean = Span(mean.low + sum(one.low - own.low for one in spans) / len(spans),
                        mean.high + sum(one.high - own.high for one in spans) / len(spans), mean.how)
            dearest = max(dearest, *spans, key=lambda one: one.high)
    return SweepPlan(search.study, *size, _base(config, prepared, place),
                     Span(max(mean.low, 0.0), max(mean.high, 0.0), mean.how), dearest, search.rungs is not None,
                     _confirmed(config, search, prepared, place))


def _of_ends(config: ExperimentConfig, search: SearchSection, field: str, where: tuple[Done, Workspace]
             ) -> Iterator[Span]:
    for beside in settings(search.space, field):
        for one in tried(field, search.space[field]):
            try:
                changed = override(config, {**beside, field: one.value})
                yield _span(changed, _prepared(changed, config, *where), where[1])
            except (ConfigError, TrainingError):  # does not fit the configuration's own values
                continue


def _prepared(changed: ExperimentConfig, config: ExperimentConfig, prepared: Done, place: Workspace) -> Done:
    """The data of a trial: that of the configuration, but with replay where only the trial trains on it."""
    alike = changed.train.wants_replay == config.train.wants_replay
    return prepared if alike else prepare.fn(changed, place)


def _span(config: ExperimentConfig, prepared: Done, place: Workspace) -> Span:
    """Training and evaluation of one trial; data that its values would prepare otherwise is taken to be alike."""
    outlook = _outlook(config, prepared, place)
    return training_span(config, outlook, place) + _asked(config, config.eval.suites, 1, outlook, place)


def _base(config: ExperimentConfig, prepared: Done, place: Workspace) -> Span:
    there = known(base_subject(config, prepared), config.eval, place)
    missing = [name for name in named_suites(config.eval.suites) if name not in there]
    return _asked(config, missing, 1, _outlook(config, prepared, place), place, base=True) if missing else NOTHING


def _confirmed(config: ExperimentConfig, search: SearchSection, prepared: Done, place: Workspace) -> Span:
    if not search.confirm:
        return NOTHING
    held = config.model_copy(update={"eval": config.eval.model_copy(update={"part": "held_back"})})
    return _asked(held, held.eval.suites, 3, _outlook(config, prepared, place), place)


def _outlook(config: ExperimentConfig, prepared: Done, place: Workspace) -> Outlook:
    from sft_core.train.outlook import look_ahead

    return look_ahead(inputs_of(config, prepared, place), config.train, place.root, 1.0)


def _asked(config: ExperimentConfig, suites: Sequence[str], models: int, outlook: Outlook, place: Workspace, *,
           base: bool = False) -> Span:
    """Asking so many models these suites, one after the other, the base among them or not."""
    asked = [expected(one, config.eval, place.mirror) for one in named_suites(suites).values()]
    return sum((evaluation_span(config, one, models, outlook, place, base=base) for one in asked), NOTHING)


def _plain(span: Span) -> str:
    return shown_span(span).partition(" (")[0]
