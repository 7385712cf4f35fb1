"""What the objectives of a sweep hang on: Optuna's fANOVA, on the scale on which a field is searched.

fANOVA (Hutter et al. 2014) fits a forest and splits its variance over the whole space. PED-ANOVA, which Optuna takes
otherwise, needs many trials: of a peak, or a slope, in one of four fields under noise (12 sweeps each of random trials,
2026-11-29) it names that field first in 5, or 1, with 8 trials and in 7, or 7, with 16; this does in 5, or 10, and in
11, or 12.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator

from infra.plans import Dimension, Value
from infra.samplers import holds
from infra.study_contract import TrialRow


class Importance(NamedTuple):
    """What an objective hangs on a field."""

    share: float
    """Of the variance, 0 to 1."""
    trials: int
    """Complete trials that have the field."""


def importances(rows: Sequence[TrialRow], space: Mapping[str, Dimension]) -> dict[str, dict[str, Importance]]:
    """Objective → field → its share; nothing of an objective that is the same in all trials. Trials with values outside
    the space do not count.

    Fields that all complete trials have are weighed together; one that some do not have (`when`) with these within the
    trials that have it. Interactions belong to no field; the shares of those that all have add up to 1.
    """
    complete = [row for row in rows if row.values and holds(space, row.params)]
    always = [field for field in space if all(field in row.params for row in complete)]
    found: dict[str, dict[str, Importance]] = {}
    for objective in (complete[0].values or {}) if complete else ():
        shares = _shares(complete, always, space, objective)
        for field in space.keys() - always:
            some = [row for row in complete if field in row.params]
            within = _shares(some, [*always, field], space, objective)
            shares |= {field: within[field]} if field in within else {}
        if shares:
            found[objective] = shares
    return found


def _shares(rows: Sequence[TrialRow], fields: Sequence[str], space: Mapping[str, Dimension],
            objective: str) -> dict[str, Importance]:
    values = [(row.values or {})[objective] for row in rows]
    if len(set(values)) < 2 or not fields:
        return {}
    scales = {field: _scale(space[field]) for field in fields}
    study = optuna.create_study()
    for row, value in zip(rows, values, strict=True):
        params = {field: _on_scale(row.params[field], space[field]) for field in fields}
        study.add_trial(optuna.create_trial(params=params, distributions=scales, value=value))
    shares = optuna.importance.get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {field: Importance(float(share), len(rows)) for field, share in shares.items()}


def _scale(dimension: Dimension) -> BaseDistribution:
    """Optuna's own leaves logarithms out: most of a space of learning rates would be its highest ones."""
    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    low, high = (_on_scale(float(end or 0.0), dimension) for end in (dimension.low, dimension.high))
    return FloatDistribution(float(low or 0.0), float(high or 0.0))


def _on_scale(value: Value, dimension: Dimension) -> Value:
    return math.log10(value) if dimension.log and isinstance(value, int | float) else value
