"""Trials as Optuna keeps them: queued, told, taken over from another study, and read.

Values outside the space cannot be kept as Optuna's parameters: it does not take a choice that is none, and its samplers
would model what they may not propose. Such a trial keeps them as a note; it has no parameters and ends PRUNED with its
objectives as a note, so that no sampler counts it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from infra.leases import Leases
from infra.plans import Dimension, Plan, Value
from infra.samplers import distribution, holds
from infra.study_contract import ENDED, FROM, OTHER_VERSIONS, POINT, TrialRow

log = logging.getLogger("sft")
RETRY_OF, VALUES = "retry_of", "sft.values"
RETRY, ROOT = "sft.retry", "sft.root"
MAX_RETRIES = 5
"""How often a trial whose worker was lost is queued again: one that kills its worker must not do so for ever."""
UNDRAWN = "sft.undrawn"
"""The mark of a trial whose worker was lost before it had its values: nobody ran it, and it does not count."""
OVER = "sft.over"
"""How many trials were over before this one: their order, whatever the clocks of their workers say."""


def waiting(space: Mapping[str, Dimension], point: Mapping[str, Value], notes: Mapping[str, object] | None = None
            ) -> FrozenTrial:
    """A trial that the next one who asks is given."""
    inside = holds(space, point)
    return create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(point)} if inside else {},
                        user_attrs={**(notes or {}), **({} if inside else {POINT: dict(point)})})


def taken_over(plan: Plan, row: TrialRow, source: str) -> FrozenTrial:
    """A complete trial of an earlier study as one of this plan; `source`: which one of which."""
    assert row.values is not None, "only complete trials are taken over"
    notes = {name: row.notes[name] for name in ("run", "run_id", "why", OTHER_VERSIONS) if name in row.notes}
    values = [row.values[name] for name in plan.objectives]
    if holds(plan.space, row.params):
        return create_trial(state=TrialState.COMPLETE, values=values, params=dict(row.params), distributions={
            field: distribution(plan.space[field]) for field in row.params}, user_attrs={**notes, FROM: source},
            constraints=dict(row.excess))
    return create_trial(state=TrialState.PRUNED, constraints=dict(row.excess), user_attrs={
        **notes, FROM: source, POINT: dict(row.params), VALUES: values})


def requeue(study: optuna.Study, space: Mapping[str, Dimension], trial: FrozenTrial, *, lost: bool) -> None:
    """Have the values of a trial tried again, unless its worker was `lost` too often.

    A worker writes drawn values one by one. One that was lost meanwhile did not run them, and what there is of them is
    not queued, unless the trial was queued with all of them.
    """
    values, outside = values_of(trial), POINT in trial.user_attrs
    retries = int(trial.user_attrs.get(RETRY, 0)) + (lost and (outside or holds(space, trial.params)))
    if not (outside or holds(space, values)):
        _mark(study, trial, UNDRAWN, True)
        log.info("trial %d has lost its worker before it had its values", trial.number)
    elif retries <= MAX_RETRIES and trial.number not in tried_again(study.get_trials(deepcopy=False)):
        root = trial.user_attrs.get(ROOT, trial.number)
        study.add_trial(waiting(space, values, {RETRY: retries, RETRY_OF: trial.number, ROOT: root}))
        log.info("trial %d has lost its worker; its values are tried again", trial.number)


def give_back(study: optuna.Study, leases: Leases, space: Mapping[str, Dimension], trial: FrozenTrial, *, lost: bool
              ) -> None:
    """Take a trial from whoever had it, and have its values tried again; inside `alone`.

    In an order that may be cut off anywhere: what is still RUNNING comes by here again.
    """
    requeue(study, space, trial, lost=lost)
    leases.drop(trial.number)  # from here on whoever had it comes late
    tell(study, trial, TrialState.FAIL)


def give_back_lost(study: optuna.Study, leases: Leases, space: Mapping[str, Dimension]) -> list[int]:
    """The trials whose workers are gone, given back; inside `alone`."""
    lost = lost_trials(study, leases)
    for trial in lost:
        give_back(study, leases, space, trial, lost=True)
    return [trial.number for trial in lost]


def lost_trials(study: optuna.Study, leases: Leases) -> list[FrozenTrial]:
    """Those that nobody works on any more, although nobody has told them; inside `alone`."""
    live = leases.live()
    return [one for one in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if one.number not in live]


def end(study: optuna.Study, trial: optuna.Trial, values: Sequence[float] | None) -> None:
    """Tell a trial's objectives in their order; None: it failed, or was ended early."""
    if values is None:
        tell(study, trial, TrialState.PRUNED if ENDED in trial.user_attrs else TrialState.FAIL)
    elif POINT in trial.user_attrs:
        trial.set_user_attr(VALUES, list(values))
        tell(study, trial, TrialState.PRUNED)
    else:
        tell(study, trial, TrialState.COMPLETE, list(values))


def tell(study: optuna.Study, trial: optuna.Trial | FrozenTrial, state: TrialState,
         values: Sequence[float] | None = None) -> None:
    """End a trial while nobody else does."""
    _mark(study, trial, OVER, sum(one.state.is_finished() for one in study.get_trials(deepcopy=False)))
    study.tell(trial.number, values, state)


def _mark(study: optuna.Study, trial: optuna.Trial | FrozenTrial, key: str, value: object) -> None:
    """Keep something with a trial that is not over, whoever asked for it; Optuna lets only those who did."""
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def is_taken(trial: FrozenTrial) -> bool:
    """Whether it was taken over from an earlier study."""
    return FROM in trial.user_attrs


def told(trial: FrozenTrial) -> Sequence[float] | None:
    """The objectives of a complete trial, in their order."""
    if trial.state == TrialState.PRUNED:
        found: Sequence[float] | None = trial.user_attrs.get(VALUES)
        return found
    return trial.values if trial.state == TrialState.COMPLETE else None


def values_of(trial: FrozenTrial) -> dict[str, Value]:
    """The values that a trial has or will be given."""
    point: dict[str, Any] | None = trial.user_attrs.get(POINT)
    return point or {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def row_of(trial: FrozenTrial, objectives: Sequence[str]) -> TrialRow:
    """A trial in our words; one outside the space is as complete as others."""
    values = told(trial)
    state = TrialState.COMPLETE if values is not None else trial.state
    notes = {key: str(text) for key, text in trial.user_attrs.items() if key not in (VALUES, POINT, OVER, UNDRAWN)}
    if POINT in trial.user_attrs:
        notes[POINT] = "outside the space"
    if UNDRAWN in trial.user_attrs:
        notes["why"] = "its worker was lost before it had its values; another trial takes its place"
    return TrialRow(trial.number, state.name, values_of(trial),
                    None if values is None else dict(zip(objectives, values, strict=True)), notes,
                    dict(trial.constraints))


def tried_again(trials: Sequence[FrozenTrial]) -> set[int]:
    """Trials whose values were queued again."""
    return {int(trial.user_attrs[RETRY_OF]) for trial in trials if RETRY_OF in trial.user_attrs}


def uncounted(trials: Sequence[FrozenTrial]) -> set[int]:
    """Trials that another one takes the place of."""
    return tried_again(trials) | {trial.number for trial in trials if UNDRAWN in trial.user_attrs}


def over_since(trials: Sequence[FrozenTrial], over: int) -> list[FrozenTrial]:
    """Trials that count and came to an end after so many had, in the order in which they did."""
    out = uncounted(trials)
    ended = {int(one.user_attrs.get(OVER, -1)): one for one in trials if one.state.is_finished()}
    return [one for before, one in sorted(ended.items()) if before >= over and one.number not in out]
