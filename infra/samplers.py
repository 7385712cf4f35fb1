"""Optuna's samplers by name, and the ranges that they draw from."""

from __future__ import annotations

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
    """The plan's sampler with a seed of its own."""
    if plan.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if plan.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    if plan.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)
