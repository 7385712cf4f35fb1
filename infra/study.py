"""The only door to Optuna: one study per sweep, asked and told by any number of workers, driven by none.

Ask and tell knows no heartbeat: a trial whose worker was killed stays RUNNING for ever. So every trial has a lease
(`infra/leases.py`), and whoever asks next fails what has lost its worker and queues the same parameters again. Asking
and telling happen one at a time, so that nothing is lost or doubled between Optuna's own steps.
"""

from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import optuna
from alembic.util import CommandError
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from infra.contract import Plan, Study, Trial, TrialRow
from infra.databases import CONNECTIONS, check_driver, try_connection, why_not
from infra.leases import LEASE_S, FileLeases, Leases, SqlLeases, alone_in
from infra.samplers import distribution, sampler
from sft_core.errors import ConfigError, Interrupted, OrchestrationError
from sft_core.locks import locked
from sft_core.stopping import sleep

log = logging.getLogger("sft")
optuna.logging.set_verbosity(optuna.logging.WARNING)

PLAN, AIM, LATE = "sft.plan", "sft.aim", "sft.late"
RETRY, RETRY_OF = "sft.retry", "retry_of"
MAX_RETRIES = 5
"""How often a trial whose worker was lost is queued again: one that kills its worker must not do so for ever."""
PATIENCE_S = 600.0
"""So long a storage that has answered before may be away."""
TRY_AGAIN_S = 2.0
_AWAY = (SQLAlchemyError, StorageInternalError)
R = TypeVar("R")


class OptunaStudy(Study):
    """One sweep in an Optuna storage. Made by `open_study`."""

    def __init__(self, study: optuna.Study, plan: Plan, leases: Leases, at_work: AtWork) -> None:
        self.plan = plan
        self._study, self._leases, self._at_work = study, leases, at_work
        self._joined: IO[str] | None = None
        self._asked: dict[int, optuna.Trial] = {}

    def aim(self, trials: int) -> None:
        with _door("begin the sweep"):
            self._study.set_user_attr(AIM, trials)

    def join(self) -> None:
        self._joined = self._joined or self._at_work.join()

    def ask(self) -> Trial | None:
        if self._joined is None:
            raise OrchestrationError(f"the sweep {self.plan.name} was opened to be read; call join() to work on it")
        return _patiently("ask for a trial", self._ask)

    def _ask(self) -> Trial | None:
        with self._leases.alone():
            live = self._leases.live()
            for lost in self._all(TrialState.RUNNING):
                if lost.number not in live:
                    self._queue_again(lost, retries=int(lost.user_attrs.get(RETRY, 0)) + 1)
            trials = self._all()
            if self._wanted() <= len(trials) - len(_tried_again(trials)) \
                    and not any(trial.state == TrialState.WAITING for trial in trials):
                return None
            # The sampler's random numbers hang on the trial's number alone: workers that begin together, and a sweep
            # that continues, do not propose the same points.
            self._study.sampler = sampler(self.plan, self.plan.seed + 1000 * len(trials))
            trial = self._study.ask({field: distribution(dim) for field, dim in self.plan.space.items()})
            self._leases.take(trial.number)
        self._asked[trial.number] = trial
        return Trial(trial.number, dict(trial.params))

    def _queue_again(self, trial: FrozenTrial, retries: int) -> None:
        self._study.tell(trial.number, state=TrialState.FAIL)
        if trial.params and retries <= MAX_RETRIES:
            self._study.enqueue_trial(trial.params, user_attrs={RETRY: retries, RETRY_OF: trial.number})
            log.info("trial %d has lost its worker; its values are tried again", trial.number)
        self._leases.drop(trial.number)

    def tell(self, number: int, values: Mapping[str, float] | None, notes: Mapping[str, str] | None = None) -> bool:
        told = [values[name] for name in self.plan.objectives] if values is not None else None
        trial, said = self._asked.pop(number), Said(told, dict(notes or {}))
        return _patiently(f"report trial {number}", lambda: self._tell(trial, said))

    def _tell(self, trial: optuna.Trial, said: Said) -> bool:
        with self._leases.alone():
            if not self._leases.is_mine(trial.number):
                self._study.set_user_attr(f"{LATE}.{trial.number}", said._asdict())
                return False
            if trial.number in {one.number for one in self._all(TrialState.RUNNING)}:  # else told before, unheard
                for key, text in said.notes.items():
                    trial.set_user_attr(key, text)
                self._study.tell(trial, said.values, state=TrialState.FAIL if said.values is None else None)
            self._leases.drop(trial.number)
        return True

    def renew(self) -> None:
        self._leases.renew()

    def close(self) -> None:
        with suppress(OrchestrationError, Interrupted):  # then the leases end without a word
            if self._asked:
                with _door("give trials back"), self._leases.alone():
                    for trial in self._all(TrialState.RUNNING):
                        if trial.number in self._asked and self._leases.is_mine(trial.number):
                            self._queue_again(trial, retries=int(trial.user_attrs.get(RETRY, 0)))
        self._asked.clear()
        self._leases.close()
        if self._joined:
            self._joined.close()
            self._joined = None

    def remaining(self) -> int:
        def read() -> int:
            trials = self._all()
            return self._wanted() - sum(one.state.is_finished() for one in trials) + len(_tried_again(trials))

        return max(0, _patiently("count the trials", read))

    def trials(self) -> list[TrialRow]:
        rows = _patiently("read the trials", self._all)
        return [self._row(trial) for trial in rows if trial.state != TrialState.WAITING]

    def pareto(self) -> list[TrialRow]:
        rows = [self._row(trial) for trial in _patiently("read the front", lambda: self._study.best_trials)]
        first = next(iter(self.plan.objectives))
        return sorted(rows, key=lambda row: (row.values or {})[first])

    def _wanted(self) -> int:
        return int(self._study.user_attrs.get(AIM, 0))

    def _all(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _row(self, trial: FrozenTrial) -> TrialRow:
        complete = trial.state == TrialState.COMPLETE
        values = dict(zip(self.plan.objectives, trial.values, strict=True)) if complete else None
        notes = {key: str(text) for key, text in trial.user_attrs.items()}
        return TrialRow(trial.number, trial.state.name, dict(trial.params), values, notes)


class Said(NamedTuple):
    """What a worker has to say of a trial: the objectives in their order, or None where it failed."""

    values: list[float] | None
    notes: dict[str, str]


class AtWork(NamedTuple):
    """The mark that this machine's workers hold together, or, where the storage is for one alone, that one."""

    file: Path
    study: str
    shared: bool

    def join(self) -> IO[str]:
        """Hold it.

        Raises:
            OrchestrationError: the one place is taken.
        """
        return self._held(fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX)

    def alone(self) -> IO[str]:
        """Hold it against all others.

        Raises:
            OrchestrationError: there are workers.
        """
        return self._held(fcntl.LOCK_EX)

    def _held(self, how: int) -> IO[str]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle = self.file.open("a", encoding="utf-8")
        if not locked(handle, how):
            handle.close()
            more = "" if self.shared else "; for several workers keep the study in the workspace (unset " \
                "search.storage) or in PostgreSQL: SQLite takes one"
            raise OrchestrationError(f"another process works on the sweep {self.study}; wait for it, end it, or choose "
                                     f"another search.study{more}")
        return handle


def _tried_again(trials: Sequence[FrozenTrial]) -> set[int]:
    """Trials whose values were queued again: they do not count."""
    return {int(trial.user_attrs[RETRY_OF]) for trial in trials if RETRY_OF in trial.user_attrs}


def open_study(plan: Plan, workspace: Path, storage: str | None = None, lease_s: float = LEASE_S) -> Study:
    """Open the study of that name, or make it.

    Args:
        plan: space, objectives and sampler.
        workspace: folder of the journal and of this machine's marks.
        storage: Optuna storage URL; None: a journal file in the workspace, for the workers of this machine.
        lease_s: after so many seconds of silence a worker of a database is gone.

    Raises:
        ConfigError: the stored study has complete trials of another space, other objectives or another context, or
            the URL is wrong.
        OrchestrationError: the storage cannot be reached.
    """
    folder = workspace / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    if storage:
        check_driver("search.storage", storage)
    place = storage or str(folder / f"{plan.name}.log")
    many = storage is None or make_url(storage).get_backend_name() == "postgresql"
    at_work = AtWork(folder / f"{plan.name}.lock", plan.name, shared=many)
    doing = f"open the study storage {place} (search.storage)"
    with _door(doing):
        if storage:
            try_connection(storage)

    def opened() -> Study:
        kept = _storage(storage, place)
        leases: Leases = FileLeases(folder / f"{plan.name}.leases")
        if isinstance(kept, RDBStorage) and many:
            leases = SqlLeases(kept.engine, plan.name, lease_s)
        with leases.alone():
            study = _opened(kept, plan)
            if (changed := _changed(study, plan)) and not study.get_trials(states=(TrialState.COMPLETE,)):
                study, changed = _begun_anew(kept, plan, at_work, leases), ""
        if changed:
            raise ConfigError(f"the study {plan.name} in {place} was made with other settings ({changed}); its trials "
                              "cannot be compared with new ones: set search.study to a new name, or restore the "
                              "settings")
        return OptunaStudy(study, plan, leases, at_work)

    return _patiently(doing, opened)


def _opened(storage: BaseStorage, plan: Plan) -> optuna.Study:
    """The study of this name, or a new one that knows its plan."""
    study = optuna.create_study(storage=storage, study_name=plan.name, load_if_exists=True,
                                directions=list(plan.objectives.values()))
    if PLAN not in study.user_attrs:
        study.set_user_attr(PLAN, plan.identity())
    return study


def _begun_anew(storage: BaseStorage, plan: Plan, at_work: AtWork, leases: Leases) -> optuna.Study:
    """The study without its trials, none of which came to an end: with other settings there is nothing to compare.

    Optuna does not take another kind of range for a field that it knows, so the study itself is made again.
    """
    with at_work.alone():
        if leases.live():
            raise OrchestrationError(f"the sweep {plan.name} has workers on other machines; wait for them, end them, "
                                     "or choose another search.study")
        optuna.delete_study(study_name=plan.name, storage=storage)
        return _opened(storage, plan)


def _patiently(doing: str, work: Callable[[], R]) -> R:
    """Work on a storage that has answered before and may be away for a while.

    Raises:
        OrchestrationError: it is away for good. Interrupted: a signal asked to stop the wait.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            with _door(doing):
                return work()
        except OrchestrationError as error:
            if not isinstance(error.__cause__, _AWAY) or time.monotonic() - began > PATIENCE_S:
                raise
            if not told:
                log.warning("the study storage is away and is tried again for %d minutes: %s", PATIENCE_S // 60,
                            why_not(error.__cause__))
            told = True
        sleep(TRY_AGAIN_S)


@contextmanager
def _door(doing: str) -> Iterator[None]:
    try:
        yield
    except (*_AWAY, CommandError, OSError) as error:
        raise OrchestrationError(f"Optuna could not {doing}: {why_not(error)}; see that the database runs and lets "
                                 "you in, and repeat the command (the sweep continues), or unset search.storage to "
                                 "keep studies in the workspace"
                                 ) from error


def _storage(url: str | None, place: str) -> BaseStorage:
    if url is None:
        return JournalStorage(JournalFileBackend(place))
    if make_url(url).get_backend_name() != "postgresql":
        return RDBStorage(url, engine_kwargs=CONNECTIONS)
    engine = create_engine(url, **CONNECTIONS)
    try:
        with alone_in(engine, "optuna"):  # several workers that meet an empty database would all make its tables
            return RDBStorage(url, engine_kwargs=CONNECTIONS)
    finally:
        engine.dispose()


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
