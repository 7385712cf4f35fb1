"""Sweeps that are in a storage, by their name alone: what they are about, and their trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import BaseStorage

from infra.best import best
from infra.databases import check_driver
from infra.plans import space_of
from infra.study_contract import Aim, TrialRow
from infra.study_rows import give_back_lost, lost_trials, row_of
from infra.study_storage import door, leases_at, storage_at
from sft_core.errors import ConfigError

PLAN, AIM = "sft.plan", "sft.aim"
"""Attributes of a study: its plan's identity, and what it is about."""


class Earlier(NamedTuple):
    """A study that was worked on before."""

    name: str
    plan: Mapping[str, Any]
    """Its plan's identity."""
    versions: Mapping[str, str]
    rows: list[TrialRow]
    front: list[TrialRow]


def read_earlier(name: str, workspace: Path, storage: str | None = None) -> Earlier:
    """The trials of the sweep of that name; arguments as for `open_study`.

    Raises:
        ConfigError: there is none in this storage, or none that was begun.
        OrchestrationError: the storage cannot be reached.
    """
    with door(f"read the sweep {name}"):
        study, _ = _stored(name, workspace, storage)
        plan: dict[str, Any] = study.user_attrs[PLAN]
        objectives = dict(plan["objectives"])
        rows = [row_of(trial, list(objectives)) for trial in study.get_trials(deepcopy=False)]
        return Earlier(name, plan, aim_of(study).versions, rows, best(rows, objectives))


def read_aim(name: str, workspace: Path, storage: str | None = None) -> Aim:
    """What the sweep of that name is about; arguments and errors as for `read_earlier`."""
    with door(f"read the sweep {name}"):
        return aim_of(_stored(name, workspace, storage)[0])


class Looked(NamedTuple):
    """A sweep that was looked after."""

    lost: list[int]
    """Trials whose workers were gone."""
    rows: list[TrialRow]


def look_after(name: str, workspace: Path, storage: str | None, *, mend: bool) -> Looked:
    """Give back the trials of a sweep whose workers are gone, as whoever asks for a trial next does, and read all.

    Args:
        name, workspace, storage: as for `open_study`.
        mend: False: find them, and change nothing.

    Raises:
        ConfigError: there is no such sweep in this storage.
        OrchestrationError: the storage cannot be reached.
    """
    with door(f"look after the sweep {name}"):
        study, kept = _stored(name, workspace, storage)
        if PLAN not in study.user_attrs:
            raise _not_begun(study)
        plan: dict[str, Any] = study.user_attrs[PLAN]
        leases = leases_at(kept, name, workspace / "studies")
        with leases.alone():
            lost = give_back_lost(study, leases, space_of(plan)) if mend else [
                one.number for one in lost_trials(study, leases)]
            rows = [row_of(one, list(dict(plan["objectives"]))) for one in study.get_trials(deepcopy=False)]
        return Looked(lost, rows)


def _stored(name: str, workspace: Path, storage: str | None) -> tuple[optuna.Study, BaseStorage]:
    journal = workspace / "studies" / f"{name}.log"
    place = storage or str(journal)
    if storage is None and not journal.exists():
        raise _no_sweep(name, place, sorted(file.stem for file in journal.parent.glob("*.log")))
    if storage:
        check_driver("search.storage", storage)
    kept = storage_at(storage, place)
    names = optuna.get_all_study_names(kept)
    if name not in names:
        raise _no_sweep(name, place, names)
    return optuna.load_study(study_name=name, storage=kept), kept


def _no_sweep(name: str, place: str, there: Sequence[str]) -> ConfigError:
    return ConfigError(f"there is no sweep {name} in {place}; there are {', '.join(there) or 'none'}; begin one with "
                       "`sft sweep CONFIG`, and name its storage with --storage or SFT_STUDY_STORAGE")


def _not_begun(study: optuna.Study) -> ConfigError:
    return ConfigError(f"the sweep {study.study_name} has not begun; begin it with `sft sweep CONFIG`")


def aim_of(study: optuna.Study) -> Aim:
    """What a sweep is about.

    Raises:
        ConfigError: nobody has said.
    """
    if (said := study.user_attrs.get(AIM)) is None:
        raise _not_begun(study)
    return Aim(**said)
