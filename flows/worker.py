"""A worker of a sweep: asks for a trial, runs it in a process of its own, tells, and asks again.

There is no driver: workers come and go, on any machine that reaches the storage. On a CPU a trial's process is forked
off one that has imported everything, which saves it ten seconds.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from flows import trial as one_trial
from flows.place import connect
from infra.cuda import a_gpu_alone
from infra.settings import Settings
from infra.shared_stages import shared_stages
from infra.stored import read_aim
from infra.study import open_study
from infra.study_contract import ENDED, OTHER_VERSIONS, Aim, Study, Trial, TrialRow
from sft_core.config.experiment import ExperimentConfig
from sft_core.config.file import load, trial_config
from sft_core.config.followups import FollowUp, as_searched, followed, suffix
from sft_core.errors import ConfigError, OrchestrationError
from sft_core.stopping import sleep
from tasks.apart import Call, apart
from tasks.causes import common_cause
from tasks.common import together
from tasks.followups import after, wanted
from tasks.listing import note_sweep
from tasks.mirror import mirrored
from tasks.rungs import Climber, climb
from tasks.stages import Workspace
from tasks.trial import NO_MEMORY, Known, Place, TrialOutcome, plan_of, run_trial
from tasks.versions import differing, found_here

log = logging.getLogger("sft")
WAIT_S = 2.0
PAUSES_S = 2.0, 10.0, 50.0
"""After which a trial is tried again whose disk, MLflow or Prefect failed it."""
HEAVY = ("flows.experiment", "infra.tracking", "mlflow.store.tracking.sqlalchemy_store", "eval_suites.asking.run",
         "eval_suites.report.plot", "sft_core.model.load", "sft_core.train.engine", "transformers", "peft")
"""What a trial imports sooner or later."""


def work(name: str, settings: Settings, storage: str | None = None, trials: int | None = None) -> int:
    """Work on a sweep until all its trials are over, or on so many of those that nobody has; returns how many.

    Raises:
        ConfigError: there is no such sweep, or this machine has other versions than it (`search.other_versions`).
        OrchestrationError: too many trials failed one after the other, no GPU is free, or the storage, the disk, MLflow
            or Prefect is lost.
    """
    storage = storage or settings.study_storage
    aim = read_aim(name, settings.workspace, storage)
    config = _config_of(aim)
    assert config.search is not None, "a sweep has one"
    elsewhere = shared_stages(settings, config.tracking.uri)
    place = mirrored(Workspace(settings.workspace, settings.mirror, elsewhere, settings.address, settings.dask),
                     config.data.mirror)
    folder = settings.workspace / "sweeps" / name
    note_sweep(folder, aim.parent)
    with (a_gpu_alone(settings.workspace, config.model.device) as environment,
          closing(open_study(plan_of(config, config.search), settings.workspace, storage)) as study):
        look = partial(found_here, config, place)
        here = apart([Call(look, environment)])[0] if environment else look()  # it loads torch
        if other := differing(aim.versions, here, config.search):
            log.warning("this machine has other versions than the sweep %s, which is noted with its trials: %s", name,
                        other)
        study.join()
        # One trial imports what it needs. With a GPU some of them begin to use CUDA, which does not survive a fork.
        if trials != 1 and not environment:
            for module in HEAVY:
                importlib.import_module(module)
        at = Place(folder, aim.parent, environment, other, here, place if elsewhere else None)
        by = Climber(study, at, place, partial(connect, config.tracking), one_trial.main)
        done = _work(study, at, trials, lambda trial: _outcome(config, trial, by), config.search.give_up_after)
        if not wanted(config) or done == trials:
            return done
        return done + _follow(study, config, at, storage, None if trials is None else trials - done)


def _config_of(aim: Aim) -> ExperimentConfig:
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "sweep.yaml"
        file.write_text(aim.config, encoding="utf-8")
        return as_searched(load(file).config)


def _follow(study: Study, config: ExperimentConfig, place: Place, storage: str | None, most: int | None) -> int:
    """Work on what follows a search that is over, as `sft sweep` queues it (`tasks/followups.py`)."""
    root, plan = place.folder.parent.parent, after(study.plan)
    try:
        read_aim(plan.name, root, storage)
    except ConfigError:  # the search began without any
        return 0
    there = place._replace(folder=place.folder.with_name(plan.name))
    there.folder.mkdir(exist_ok=True)
    with closing(open_study(plan, root, storage)) as later:
        later.join()

        def outcome(trial: Trial) -> TrialOutcome:
            one, rows = FollowUp(**trial.params), {row.number: row for row in study.trials()}  # type: ignore[arg-type]
            chosen = followed(config, rows[one.trial].params, one)
            together(chosen, later, there)
            known = Known(study.plan.name, one.trial, suffix(one, config))
            return run_trial(trial.number, chosen, there, one_trial.main, later.renew, known)

        return _work(later, there, most, outcome)


def _work(study: Study, place: Place, most: int | None, outcome: Callable[[Trial], TrialOutcome],
          give_up_after: int | None = None) -> int:
    """`give_up_after`: so many failures one after the other end it; by default none do."""
    done, waiting = 0, False
    give_up(study, give_up_after)
    while done != most:
        if (trial := study.ask()) is None:
            if most is not None or not (left := study.remaining()):
                break
            if not waiting:
                log.info("each of the %d trials that are left has a worker, or is not chosen yet; waiting, in case one "
                         "is lost", left)
            waiting = True
            sleep(WAIT_S)
            continue
        log.info("trial %d: %s", trial.number, place.folder / f"trial-{trial.number:03d}.log")
        waiting = False
        found = _found(study, trial, outcome)
        done += _told(study, trial.number, found, place)
        if found.values is None:
            give_up(study, give_up_after)
    return done


def _found(study: Study, trial: Trial, outcome: Callable[[Trial], TrialOutcome]) -> TrialOutcome:
    """What a trial found; one that what is around it failed is tried again for a while, and then given back.

    Raises:
        OrchestrationError: it could not be run; its values have lost nothing.
    """
    for pause_s in PAUSES_S:
        if not (found := outcome(trial)).outside:
            return found
        log.warning("trial %d could not be run, and is tried again in %.0f s: %s", trial.number, pause_s, found.why)
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            study.renew()
            sleep(min(WAIT_S, pause_s))
    if (found := outcome(trial)).outside:
        raise OrchestrationError(f"trial {trial.number} could not be run and is given back: {found.why}; mend that and "
                                 "give the same command again: the sweep continues")
    return found


def _told(study: Study, number: int, found: TrialOutcome, place: Place) -> bool:
    """Tell the study; False where the trial is to be tried again."""
    if found.killed:
        why = f"its process was killed, and its values are tried again, five times at most: {found.why}"
        log.warning("trial %d: %s", number, why)
        study.lose(number, why)
        return False
    notes = {"run": found.run, "run_id": found.run_id, "why": found.why}
    notes |= {key: said for key, said in ((OTHER_VERSIONS, place.other_versions), (ENDED, found.ended)) if said}
    if not study.tell(number, found.values, notes, found.excess):
        log.warning("trial %d was silent for too long and is with another worker; what it found is kept aside in the "
                    "study", number)
    return True


def give_up(study: Study, after_failures: int | None) -> None:
    """Raises OrchestrationError where so many trials failed one after the other that the next ones will, too."""
    failed = [row.notes.get("why", "no word") for row in study.failed_in_a_row()]
    if after_failures and len(failed) >= after_failures:
        raise OrchestrationError(f"{len(failed)} trials in a row failed, {common_cause(failed)}; mend the cause and "
                                 "give the same command again: the sweep continues")


def _outcome(config: ExperimentConfig, trial: Trial, by: Climber) -> TrialOutcome:
    """What a trial found; values that are right one by one and not together fail this trial alone, and values that
    another trial had already, was ended early or ran out of memory with, are not paid for again."""
    study, place = by.study, by.place
    for row in (_over(one, study) for one in trial.same):
        if (row.values or ENDED in row.notes) and row.notes.get(OTHER_VERSIONS, "") == place.other_versions:
            return TrialOutcome(row.values, f"the values of trial {row.number}", row.notes.get("run", ""),
                                row.notes.get("run_id", ""), row.excess, ended=row.notes.get(ENDED, ""))
        if row.notes.get("why", "").startswith(NO_MEMORY):
            return TrialOutcome(None, f"{NO_MEMORY} with the same values in trial {row.number}", "")
    try:
        chosen = trial_config(config, trial.root, trial.params)
    except ConfigError as error:
        return TrialOutcome(None, " ".join(str(error).split()), "")
    together(chosen, study, place)
    return climb(trial, chosen, by) or run_trial(trial.number, chosen, place, one_trial.main, study.renew)


def _over(row: TrialRow, study: Study) -> TrialRow:
    """The trial at its end, or when it has lost its worker: waiting costs less than the same trial twice."""
    if row.state != "RUNNING":
        return row
    log.info("trial %d has the same values and is under way; waiting for it", row.number)
    while (found := study.found(row.number)) is None:
        study.renew()
        sleep(WAIT_S)
    return found
