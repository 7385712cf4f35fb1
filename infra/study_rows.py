"""Trials as Optuna keeps them: queued, told, taken over from another study, and read.

Values outside the space cannot be kept as Optuna's parameters: it does not take a choice that is none, and its samplers
would model what they may not propose. Such a trial keeps them as a note; it has no parameters and ends PRUNED with its
objectives as a note, so that no sampler counts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from infra.contract import ENDED, FROM, OTHER_VERSIONS, POINT, TrialRow
from infra.plans import Dimension, Plan, Value
from infra.samplers import distribution, holds

RETRY_OF, VALUES = "retry_of", "sft.values"


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


def end(study: optuna.Study, trial: optuna.Trial, values: Sequence[float] | None) -> None:
    """Tell a trial's objectives in their order; None: it failed, or was ended early."""
    if values is None:
        study.tell(trial, state=TrialState.PRUNED if ENDED in trial.user_attrs else TrialState.FAIL)
    elif POINT in trial.user_attrs:
        trial.set_user_attr(VALUES, list(values))
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, list(values))


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
    notes = {key: str(text) for key, text in trial.user_attrs.items() if key not in (VALUES, POINT)}
    if POINT in trial.user_attrs:
        notes[POINT] = "outside the space"
    return TrialRow(trial.number, state.name, values_of(trial),
                    None if values is None else dict(zip(objectives, values, strict=True)), notes,
                    dict(trial.constraints))


def tried_again(trials: Sequence[FrozenTrial]) -> set[int]:
    """Trials whose values were queued again: they do not count."""
    return {int(trial.user_attrs[RETRY_OF]) for trial in trials if RETRY_OF in trial.user_attrs}
