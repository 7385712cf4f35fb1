"""The only door to Optuna: one study per sweep, asked and told by one driver.

Ask and tell knows no heartbeat: a trial whose driver was killed stays RUNNING for ever. So the driver holds a file
lock as long as it lives, and when it starts, `reconcile` fails what an earlier one left behind and queues the same
parameters again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import optuna
from alembic.util import CommandError
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from infra.contract import Dimension, Plan, Study, Trial, TrialRow
from infra.databases import CONNECTIONS, check_driver, why_not
from sft_core.errors import ConfigError, OrchestrationError
from sft_core.locks import try_exclusive

optuna.logging.set_verbosity(optuna.logging.WARNING)

PLAN = "sft.plan"
RETRY = "sft.retry"
MAX_RETRIES = 5
"""How often a trial whose driver was stopped is queued again: one that kills its driver must not do so for ever."""

class OptunaStudy(Study):
    """One sweep in an Optuna storage. Made by `open_study`."""

    def __init__(self, study: optuna.Study, plan: Plan, lock: Path) -> None:
        self.plan = plan
        self._study = study
        self._lock_path = lock
        self._lock: IO[str] | None = None
        self._asked: dict[int, optuna.Trial] = {}

    def reconcile(self) -> list[int]:
        self._lock = self._lock or _held(self._lock_path, self.plan.name)
        queued = []
        for orphan in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(orphan.number, state=TrialState.FAIL)
            retries = int(orphan.user_attrs.get(RETRY, 0))
            if orphan.params and retries < MAX_RETRIES:
                self._study.enqueue_trial(orphan.params, user_attrs={RETRY: retries + 1, "retry_of": orphan.number})
                queued.append(orphan.number)
        return queued

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def ask(self) -> Trial:
        if self._lock is None:
            raise OrchestrationError(f"the sweep {self.plan.name} was opened to be read; call reconcile() to drive it")
        with _door("ask for a trial"):
            trial = self._study.ask({field: _distribution(dim) for field, dim in self.plan.space.items()})
        self._asked[trial.number] = trial
        return Trial(trial.number, dict(trial.params))

    def tell(self, number: int, values: Mapping[str, float] | None, notes: Mapping[str, str] | None = None) -> None:
        told = [values[name] for name in self.plan.objectives] if values is not None else None
        with _door(f"report trial {number}"):
            trial = self._asked.pop(number)
            for key, text in (notes or {}).items():
                trial.set_user_attr(key, text)
            self._study.tell(trial, told, state=TrialState.FAIL if told is None else None)

    def remaining(self, wanted: int) -> int:
        trials = self._study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("retry_of") for trial in trials}
        over = [trial for trial in trials if trial.state.is_finished() and trial.number not in again]
        return max(0, wanted - len(over))

    def trials(self) -> list[TrialRow]:
        rows = self._study.get_trials(deepcopy=False)
        return [self._row(trial) for trial in rows if trial.state != TrialState.WAITING]

    def pareto(self) -> list[TrialRow]:
        rows = [self._row(trial) for trial in self._study.best_trials]
        first = next(iter(self.plan.objectives))
        return sorted(rows, key=lambda row: (row.values or {})[first])

    def _row(self, trial: FrozenTrial) -> TrialRow:
        complete = trial.state == TrialState.COMPLETE
        values = dict(zip(self.plan.objectives, trial.values, strict=True)) if complete else None
        notes = {key: str(text) for key, text in trial.user_attrs.items()}
        return TrialRow(trial.number, trial.state.name, dict(trial.params), values, notes)


def open_study(plan: Plan, workspace: Path, storage: str | None = None) -> Study:
    """Open the study of that name, or make it.

    Args:
        plan: space, objectives and sampler.
        workspace: folder of the journal and of the driver's lock.
        storage: Optuna storage URL; None: a journal file in the workspace.

    Raises:
        ConfigError: the stored study has complete trials of another space, other objectives or another context, or
            the URL is wrong.
        OrchestrationError: the storage cannot be reached.
    """
    folder = workspace / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    if storage:
        check_driver("search.storage", storage)
    place, lock = storage or str(folder / f"{plan.name}.log"), folder / f"{plan.name}.lock"
    with _door(f"open the study storage {place} (search.storage)"):
        kept = _storage(storage, place)
        study = _opened(kept, plan)
        if (changed := _changed(study, plan)) and not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            study = _begun_anew(kept, plan, lock)
            changed = ""
        # The sampler's random numbers start anew in each process: with one seed a continued sweep would ask for the
        # very points that it has already tried.
        study.sampler = _sampler(plan, plan.seed + 1000 * len(study.get_trials(deepcopy=False)))
    if changed:
        raise ConfigError(f"the study {plan.name} in {place} was made with other settings ({changed}); its trials "
                          "cannot be compared with new ones: set search.study to a new name, or restore the settings")
    return OptunaStudy(study, plan, lock)


def _opened(storage: BaseStorage, plan: Plan) -> optuna.Study:
    """The study of this name, or a new one that knows its plan."""
    study = optuna.create_study(storage=storage, study_name=plan.name, load_if_exists=True,
                                directions=list(plan.objectives.values()))
    if PLAN not in study.user_attrs:
        study.set_user_attr(PLAN, plan.identity())
    return study


def _begun_anew(storage: BaseStorage, plan: Plan, lock: Path) -> optuna.Study:
    """The study without its trials, none of which came to an end: with other settings there is nothing to compare.

    Optuna does not take another kind of range for a field that it knows, so the study itself is made again.
    """
    held = _held(lock, plan.name)
    try:
        optuna.delete_study(study_name=plan.name, storage=storage)
        return _opened(storage, plan)
    finally:
        held.close()


def _held(path: Path, name: str) -> IO[str]:
    """The driver's lock of a study.

    Raises:
        OrchestrationError: another process drives it.
    """
    lock = try_exclusive(path)
    if lock is None:
        holder = path.read_text(encoding="utf-8") or "unknown"
        raise OrchestrationError(f"the sweep {name} is being driven by another process (pid {holder}); wait for it, "
                                 "end it, or choose another search.study")
    return lock


@contextmanager
def _door(doing: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, CommandError, OSError) as error:
        raise OrchestrationError(f"Optuna could not {doing}: {why_not(error)}; see that the database runs and lets "
                                 "you in, and repeat the command (the sweep continues), or unset search.storage to "
                                 "keep studies in the workspace"
                                 ) from error


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    if dimension.low is None or dimension.high is None:
        raise ConfigError("a searched field needs low and high, or choices")
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _storage(url: str | None, place: str) -> BaseStorage:
    if url is None:
        return JournalStorage(JournalFileBackend(place))
    return RDBStorage(url, engine_kwargs=CONNECTIONS)


def _sampler(plan: Plan, seed: int) -> optuna.samplers.BaseSampler:
    if plan.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if plan.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    if plan.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _changed(study: optuna.Study, plan: Plan) -> str:
    """Which settings a stored study has otherwise, with the searched fields by name; nothing where none."""
    stored, wanted, parts = study.user_attrs[PLAN], plan.identity(), []
    for part, new in wanted.items():
        old = stored.get(part)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            fields = sorted(key for key in old.keys() | new.keys() if _brief(old.get(key)) != _brief(new.get(key)))
            parts += [f"{part}.{key}: {_brief(old.get(key))} → {_brief(new.get(key))}" for key in fields]
        else:
            parts.append("the rest of the configuration" if part == "context" else part)
    return "; ".join(parts)


def _brief(setting: object) -> str:
    if isinstance(setting, dict):
        return json.dumps({key: value for key, value in setting.items() if value is not None and value is not False})
    return "absent" if setting is None else str(setting)
