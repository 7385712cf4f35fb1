"""Runs that follow a search: its points on the way to the base, under other seeds, and on items that it did not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sft_core.config.evaluate import Part
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import override, trial_config


class FollowUp(NamedTuple):
    """One more run of a trial: `train.interpolate`, `seed` and `eval.part` in place of the configuration's."""

    trial: int
    interpolate: float
    seed: int
    part: Part = "search"


def as_searched(config: ExperimentConfig) -> ExperimentConfig:
    """The configuration that the trials of its search vary: it holds back what `search.confirm` says."""
    if config.search is None or not config.search.confirm or config.eval.held_back:
        return config
    held = config.eval.model_copy(update={"held_back": config.search.confirm})
    return config.model_copy(update={"eval": held})


def followed(config: ExperimentConfig, values: Mapping[str, object], one: FollowUp) -> ExperimentConfig:
    """The configuration of such a run.

    Args:
        config: of the sweep, `as_searched`.
        values: of its trial.

    Raises:
        ConfigError: the values do not fit together.
    """
    chosen = trial_config(config, one.trial, values)
    return override(chosen, {"name": chosen.name + suffix(one, config), "train.interpolate": one.interpolate,
                             "seed": one.seed, "eval.part": one.part})


def suffix(one: FollowUp, config: ExperimentConfig) -> str:
    """What its run, and its point, is called behind the trial's name, e.g. `-a050`, `-s1`, `-confirm`."""
    return "".join((f"-a{round(100 * one.interpolate):03d}" * (one.interpolate != config.train.interpolate),
                    f"-s{one.seed - config.seed}" * (one.seed != config.seed), "-confirm" * (one.part != "search")))
