"""Optuna's samplers by name, and the ranges that they draw from."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from infra.plans import Dimension, Plan, Value
from sft_core.errors import ConfigError


def distribution(dimension: Dimension) -> BaseDistribution:
    """The range of a searched field.

    Raises:
        ConfigError: it has neither ends nor choices.
    """
    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    if dimension.low is None or dimension.high is None:
        raise ConfigError("a searched field needs low and high, or choices")
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def draw(trial: optuna.Trial, space: Mapping[str, Dimension]) -> dict[str, Value]:
    """Values for the fields that are drawn beside each other: those the trial was queued with, else the sampler's."""
    values: dict[str, Value] = {}
    for field, dimension in space.items():
        if dimension.drawn(values):
            values[field] = _drawn(trial, field, distribution(dimension))
    return values


def _drawn(trial: optuna.Trial, field: str, span: BaseDistribution) -> Value:
    match span:
        case CategoricalDistribution():
            return trial.suggest_categorical(field, span.choices)
        case IntDistribution():
            return trial.suggest_int(field, span.low, span.high, log=span.log)
        case FloatDistribution():
            return trial.suggest_float(field, span.low, span.high, log=span.log)
    raise AssertionError(span)


class _Sobol(optuna.samplers.QMCSampler):
    """Draws from all fields, of which a trial takes those that it has; Optuna's own from those of the first trial."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(seed=plan.seed, scramble=True, warn_independent_sampling=False)
        self._plan = plan

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All fields, whatever was tried."""
        return {field: distribution(dimension) for field, dimension in self._plan.space.items()}


def sampler(plan: Plan, seed: int) -> optuna.samplers.BaseSampler:
    """The plan's sampler with a seed of its own; one that walks through a fixed set of points keeps the plan's."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    match plan.sampler:
        case "tpe":
            conditional = any(dimension.when for dimension in plan.space.values())
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=conditional)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        case "qmc":
            return _Sobol(plan)
    return optuna.samplers.RandomSampler(seed=seed)


def queued(plan: Plan, further: Sequence[Mapping[str, Value]] = ()) -> list[Mapping[str, Value]]:
    """The points that are tried before any that a sampler proposes: the plan's own, further ones, and those of a grid,
    in an order of the seed. (Optuna's own sampler of grids ends the study, as only its loop may.)
    """
    points = [*plan.points, *further]
    if plan.sampler == "grid":
        grid: list[Mapping[str, Value]] = [{}]
        for field, dimension in plan.space.items():
            grid = [longer for point in grid for longer in _with(point, field, dimension)]
        random.Random(plan.seed).shuffle(grid)
        points += grid
    return [point for at, point in enumerate(points) if point not in points[:at]]


def _with(point: Mapping[str, Value], field: str, dimension: Dimension) -> list[Mapping[str, Value]]:
    """A point with each choice of one more field, or as it is where that field is not drawn beside it."""
    if not dimension.drawn(point):
        return [point]
    return [{**point, field: value} for value in dimension.choices or ()]


def holds(space: Mapping[str, Dimension], point: Mapping[str, Value]) -> bool:
    """Whether a point lies in the space: it has all fields that are drawn beside each other and no other, each in its
    range."""
    drawn = [field for field, dimension in space.items() if dimension.drawn(point)]
    return point.keys() == set(drawn) and all(space[field].holds(point[field]) for field in drawn)
