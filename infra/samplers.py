"""Optuna's samplers by name, and the ranges that they draw from."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from itertools import product

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from infra.contract import Dimension, Plan
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


def sampler(plan: Plan, seed: int) -> optuna.samplers.BaseSampler:
    """The plan's sampler with a seed of its own; one that walks through a fixed set of points keeps the plan's."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    match plan.sampler:
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed, multivariate=True)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed)
        case "qmc":
            return optuna.samplers.QMCSampler(seed=plan.seed, scramble=True, warn_independent_sampling=False)
    return optuna.samplers.RandomSampler(seed=seed)


def queued(plan: Plan) -> list[dict[str, object]]:
    """The points that are tried before any that a sampler proposes: the plan's first one, where it lies in the space,
    and those of a grid, in an order of the seed. (Optuna's own sampler of grids ends the study, as only its loop may.)
    """
    first = [dict(plan.first)] if plan.first and _holds(plan, plan.first) else []
    if plan.sampler != "grid":
        return first
    grid: list[dict[str, object]] = [
        dict(zip(plan.space, values, strict=True))
        for values in product(*(dimension.choices or () for dimension in plan.space.values()))
    ]
    random.Random(plan.seed).shuffle(grid)
    return first + [point for point in grid if point not in first]


def _holds(plan: Plan, values: Mapping[str, object]) -> bool:
    """Whether a point lies in the space: all fields there, each in its range."""
    return values.keys() == plan.space.keys() and all(
        value in dimension.choices if dimension.choices is not None
        else isinstance(value, int | float) and dimension.low is not None and dimension.high is not None
        and dimension.low <= value <= dimension.high
        for value, dimension in ((values[field], dimension) for field, dimension in plan.space.items()))
