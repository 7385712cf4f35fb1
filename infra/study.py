"""The only door to Optuna: one study per sweep, asked and told by any number of workers, driven by none.

Ask and tell knows no heartbeat: a trial whose worker was killed stays RUNNING for ever. So every trial has a lease
(`infra/leases.py`), and whoever asks next fails what has lost its worker and queues the same parameters again. Asking
and telling happen one at a time, so that nothing is lost or doubled between Optuna's own steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import IO, NamedTuple

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from infra.best import best
from infra.changes import changed
from infra.databases import check_driver, try_connection
from infra.leases import LEASE_S, Leases
from infra.plans import Plan, Value
from infra.samplers import draw, queued, sampler
from infra.stored import AIM, PLAN, aim_of
from infra.study_contract import ENDED, NOTHING, POINT, Aim, Study, Trial, TrialRow
from infra.study_rows import (
    ROOT,
    end,
    give_back,
    give_back_lost,
    is_taken,
    over_since,
    row_of,
    taken_over,
    told,
    uncounted,
    values_of,
    waiting,
)
from infra.study_storage import AtWork, door, is_for_many, leases_at, patiently, storage_at
from sft_core.errors import ConfigError, Interrupted, OrchestrationError

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

LATE, MADE = "sft.late", "sft.made"


class OptunaStudy(Study):
    """One sweep in an Optuna storage. Made by `open_study`."""

    def __init__(self, study: optuna.Study, plan: Plan, leases: Leases, at_work: AtWork) -> None:
        self.plan = plan
        self._study, self._leases, self._at_work = study, leases, at_work
        self._joined: IO[str] | None = None
        self._asked: dict[int, optuna.Trial] = {}

    def begin(self, trials: int, config: str = "", parent: str = "", versions: Mapping[str, str] | None = None,
              points: Sequence[Mapping[str, Value]] = ()) -> None:
        def write() -> None:
            wanted = queued(self.plan, points)
            with self._leases.alone():
                there = self._all()
                known, taken = [values_of(one) for one in there], [values_of(one) for one in there if is_taken(one)]
                for point in wanted:
                    if point not in known:
                        self._study.add_trial(waiting(self.plan.space, point))
                most = min(trials, sum(point not in taken for point in wanted))
                said = Aim(most if self.plan.sampler == "grid" else trials, config, parent,
                           sum(one.state.is_finished() for one in there), self._versions() or dict(versions or {}))
                self._study.set_user_attr(AIM, said._asdict())

        patiently("begin the sweep", write)

    def take_over(self, study: str, rows: Sequence[TrialRow]) -> int:
        def write() -> int:
            with self._leases.alone():
                known = [values_of(one) for one in self._all() if told(one) is not None]
                new = [row for row in rows if row.params not in known]
                for row in new:
                    self._study.add_trial(taken_over(self.plan, row, f"{study}, trial {row.number}"))
            return len(new)

        return patiently("take trials over", write)

    def versions(self) -> Mapping[str, str]:
        def read() -> Mapping[str, str]:
            with self._leases.alone():
                return self._versions()

        return patiently("read the sweep", read)

    def queue(self, points: Sequence[Mapping[str, Value]], aim: Aim) -> None:
        def write() -> None:
            with self._leases.alone():
                there = [values_of(one) for one in self._all() if one.state != TrialState.FAIL]
                for point in (one for one in points if one not in there):
                    self._study.add_trial(waiting(self.plan.space, point))
                trials = self._all()
                most = len(trials) - len(uncounted(trials)) + aim.trials
                self._study.set_user_attr(AIM, aim._replace(trials=most)._asdict())

        patiently("queue trials", write)

    def _versions(self) -> Mapping[str, str]:
        there = any((told(one) is not None or ENDED in one.user_attrs) and not is_taken(one) for one in self._all())
        return aim_of(self._study).versions if there or self._leases.live() else {}

    def aim(self) -> Aim:
        return patiently("read the sweep", lambda: aim_of(self._study))

    def join(self) -> None:
        self._joined = self._joined or self._at_work.join()

    def ask(self) -> Trial | None:
        if self._joined is None:
            raise OrchestrationError(f"the sweep {self.plan.name} was opened to be read; call join() to work on it")
        return patiently("ask for a trial", self._ask)

    def _ask(self) -> Trial | None:
        with self._leases.alone():
            give_back_lost(self._study, self._leases, self.plan.space)
            trials = self._all()
            begun = sum(one.state != TrialState.WAITING and not is_taken(one) for one in trials)
            begun -= len(uncounted(trials))
            if begun >= aim_of(self._study).trials:
                return None
            if self.plan.only_queued and all(trial.state != TrialState.WAITING for trial in trials):
                return None
            # The sampler's random numbers hang on how many were begun: workers that begin together, and a sweep that
            # continues, do not propose the same points, and those that lost their workers change none of the others.
            self._study.sampler = sampler(self.plan, self.plan.seed + 1000 * begun)
            trial = self._study.ask()
            values = trial.user_attrs[POINT] if POINT in trial.user_attrs else draw(trial, self.plan.space)
            self._leases.take(trial.number)
        self._asked[trial.number] = trial
        same = tuple(self._row(one) for one in trials if one.number < trial.number and values_of(one) == values)
        return Trial(trial.number, values, int(trial.user_attrs.get(ROOT, trial.number)), same)

    def tell(self, number: int, values: Mapping[str, float] | None, notes: Mapping[str, str] | None = None,
             excess: Mapping[str, float] = NOTHING) -> bool:
        notes = dict(notes or {})
        if values and (odd := [name for name, value in values.items() if not math.isfinite(value)]):
            notes["why"] = f"{', '.join(f'{name} is {values[name]}' for name in odd)}, which is no result"
            values = None
        told = [values[name] for name in self.plan.objectives] if values is not None else None
        trial, said = self._asked.pop(number), Said(told, notes, dict(excess))
        return patiently(f"report trial {number}", lambda: self._tell(trial, said))

    def _tell(self, trial: optuna.Trial, said: Said) -> bool:
        with self._leases.alone():
            if not self._leases.is_mine(trial.number):
                self._study.set_user_attr(f"{LATE}.{trial.number}", said._asdict())
                return False
            if trial.number in {one.number for one in self._all(TrialState.RUNNING)}:  # else told before, unheard
                for key, text in said.notes.items():
                    trial.set_user_attr(key, text)
                for key, beyond in said.excess.items():
                    if key not in trial.constraints:  # told before, and cut off
                        trial.set_constraint(key, beyond)
                end(self._study, trial, said.values)
            self._leases.drop(trial.number)
        return True

    def lose(self, number: int, why: str) -> None:
        trial = self._asked.pop(number)

        def give_up() -> None:
            with self._leases.alone():
                if self._leases.is_mine(number):
                    trial.set_user_attr("why", why)
                    self._leases.drop(number)

        patiently(f"report trial {number}", give_up)

    def lead(self, part: str) -> bool | None:
        def take() -> bool | None:
            with self._leases.alone():
                if f"{MADE}.{part}" in self._study.user_attrs:
                    return False
                if _lease_of(part) in self._leases.live():
                    return None
                self._leases.take(_lease_of(part))
                return True

        return patiently("lease what trials have in common", take)

    def led(self, part: str, *, made: bool) -> None:
        def give_back() -> None:
            with self._leases.alone():
                if made:
                    self._study.set_user_attr(f"{MADE}.{part}", True)
                if self._leases.is_mine(_lease_of(part)):
                    self._leases.drop(_lease_of(part))

        patiently("tell what is made", give_back)

    def note(self, number: int, notes: Mapping[str, str]) -> None:
        def write() -> None:
            with self._leases.alone():
                if self._leases.is_mine(number):
                    for key, text in notes.items():
                        self._asked[number].set_user_attr(key, text)

        patiently(f"note something of trial {number}", write)

    def renew(self) -> None:
        self._leases.renew()

    def close(self) -> None:
        with suppress(OrchestrationError, Interrupted):  # then the leases end without a word
            if self._asked:
                with door("give trials back"), self._leases.alone():
                    for trial in self._all(TrialState.RUNNING):
                        if trial.number in self._asked and self._leases.is_mine(trial.number):
                            give_back(self._study, self._leases, self.plan.space, trial, lost=False)
        self._asked.clear()
        self._leases.close()
        if self._joined:
            self._joined.close()
            self._joined = None

    def remaining(self, trials: int | None = None) -> int:
        def read() -> int:
            there = self._all()
            over = sum(one.state.is_finished() and not is_taken(one) for one in there) - len(uncounted(there))
            return (trials or aim_of(self._study).trials) - over

        return max(0, patiently("count the trials", read))

    def found(self, number: int) -> TrialRow | None:
        def read() -> TrialRow | None:
            with self._leases.alone():
                trial = self._all()[number]
                return None if trial.state == TrialState.RUNNING and number in self._leases.live() else self._row(trial)

        return patiently(f"look at trial {number}", read)

    def failed_in_a_row(self) -> list[TrialRow]:
        over = patiently("read the trials", lambda: over_since(self._all(), aim_of(self._study).over))
        rows = [self._row(trial) for trial in over]
        return list(takewhile(lambda row: row.state == "FAIL", rows[::-1]))[::-1]

    def trials(self) -> list[TrialRow]:
        rows = patiently("read the trials", self._all)
        return [self._row(trial) for trial in rows if trial.state != TrialState.WAITING]

    def pareto(self) -> list[TrialRow]:
        return best(self.trials(), self.plan.objectives)

    def _all(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _row(self, trial: FrozenTrial) -> TrialRow:
        return row_of(trial, list(self.plan.objectives))


class Said(NamedTuple):
    """What a worker has to say of a trial: the objectives in their order, or None where it failed."""

    values: list[float] | None
    notes: dict[str, str]
    excess: dict[str, float]


def _lease_of(part: str) -> int:
    """The number of its lease, below those of trials."""
    return -1 - int(part[:7], 16)


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
    at_work = AtWork(folder / f"{plan.name}.lock", plan.name, shared=is_for_many(storage))
    doing = f"open the study storage {place} (search.storage)"
    with door(doing):
        if storage:
            try_connection(storage)

    def opened() -> Study:
        kept = storage_at(storage, place)
        leases = leases_at(kept, plan.name, folder, lease_s)
        with leases.alone():
            study = _opened(kept, plan)
            differs = changed(study.user_attrs[PLAN], plan.identity())
            if differs and not any(told(one) is not None for one in study.get_trials(deepcopy=False)):
                study, differs = _begun_anew(kept, plan, at_work, leases), ""
        if differs:
            raise ConfigError(f"the study {plan.name} in {place} was made with other settings ({differs}); its trials "
                              "cannot be compared with new ones: set search.study to a new name, or restore the "
                              "settings")
        return OptunaStudy(study, plan, leases, at_work)

    return patiently(doing, opened)


def _opened(storage: BaseStorage, plan: Plan) -> optuna.Study:
    """The study of this name, or a new one that knows its plan."""
    study = optuna.create_study(storage=storage, study_name=plan.name, load_if_exists=True,
                                directions=list(plan.objectives.values()))
    if PLAN not in study.user_attrs:
        study.set_user_attr(PLAN, plan.identity())
    if study.metric_names is None:
        study.set_metric_names(list(plan.objectives))  # for optuna-dashboard
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
