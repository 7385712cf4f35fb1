"""What a sweep takes from earlier ones: their trials where they are the same, else the points of their front."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from infra.plans import Plan, Value
from infra.stored import Earlier, read_earlier
from infra.study_contract import OTHER_VERSIONS, TrialRow
from sft_core.config.conditions import point_of
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import override
from sft_core.errors import ConfigError

log = logging.getLogger("sft")


class Beginnings(NamedTuple):
    """What a sweep begins with."""

    taken: dict[str, list[TrialRow]]
    """Study → complete trials with their values, in this sweep's fields."""
    points: list[Mapping[str, Value]]
    """What is tried first, behind the configuration's own points."""


def beginnings(config: ExperimentConfig, plan: Plan, here: Mapping[str, str], root: Path, storage: str | None
               ) -> Beginnings:
    """Read the studies that a sweep starts from, all in its own storage; nothing is written.

    Args:
        config: of the sweep.
        plan: its plan.
        here: versions of this machine; trials of others are not the same.
        root: the workspace.
        storage: Optuna storage URL.

    Raises:
        ConfigError: there is no such study.
    """
    assert config.search is not None, "a sweep has one"
    found = Beginnings({}, [])
    for name in config.search.start_from:
        earlier = read_earlier(name, root, storage)
        if differs := _differs(earlier, plan, here):
            tries = [point for row in earlier.front if (point := _point(config, row.params)) is not None]
            found.points.extend(tries)
            log.info("the sweep %s has %s; %d points of its front of %d are tried here", name, differs, len(tries),
                     len(earlier.front))
        else:
            found.taken[name] = [mine for row in earlier.rows if (mine := _mine(config, plan, row)) is not None]
            log.info("%d trials of the sweep %s are the same here and taken over with their values",
                     len(found.taken[name]), name)
    return found


def _differs(earlier: Earlier, plan: Plan, here: Mapping[str, str]) -> str:
    """Why its values are no values of this sweep; empty where they are."""
    identity = plan.identity()
    if any(earlier.plan[part] != identity[part] for part in ("context", "objectives")):
        return "another configuration"
    if set(plan.constraints) - set(earlier.plan.get("constraints", ())):
        return "not all of these constraints"
    return "other versions" if earlier.versions != here else ""


def _mine(config: ExperimentConfig, plan: Plan, row: TrialRow) -> TrialRow | None:
    """A complete trial in this sweep's fields; None where it differs in another one."""
    assert config.search is not None, "a sweep has one"
    if not row.values or OTHER_VERSIONS in row.notes:
        return None
    theirs = override(config, row.params)
    point = point_of(config.search.space, theirs)
    if override(config, point) != theirs:
        return None
    return row._replace(params=point, excess={text: row.excess[text] for text in plan.constraints})


def _point(config: ExperimentConfig, params: Mapping[str, Value]) -> Mapping[str, Value] | None:
    """A point of another sweep as far as its fields are searched here; None where it does not fit."""
    assert config.search is not None, "a sweep has one"
    space = config.search.space
    try:
        return point_of(space, override(config, {field: value for field, value in params.items() if field in space}))
    except ConfigError:
        return None
