"""Two machines, as far as two workspaces are, on one sweep: real commands, servers and trials, all of which die."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

from bench.postgres import restart
from infra.shared_stages import EXPERIMENT
from infra.study import open_study
from infra.study_contract import Study
from infra.tracking import open_tracker
from sft_core.config.file import load
from tasks.trial import plan_of

ROOT = Path(__file__).resolve().parents[2]
TRIALS, EVERY_S, LEASE_S, AWAY_S = 20, 4.0, 20.0, 30.0
Start = Callable[..., subprocess.Popen[bytes]]


class Hosts:
    """The commands of both machines: `sft sweep` with two workers on the first, two workers on the second."""

    def __init__(self, start: Start, sweep: Path, chance: random.Random) -> None:
        self._start, self._chance = start, chance
        worker = ("b", "sweep-worker", "two")
        self._wanted = [("a", "sweep", sweep, "--trials", TRIALS, "--workers", 2), worker, worker]
        self.all = [start(*self._wanted[0])]

    def keep_up(self) -> None:
        """Give the commands whose turn has come, and once more those that have ended."""
        for number, command in enumerate(self._wanted):
            if number == len(self.all):
                self.all.append(self._start(*command))
            elif self.all[number].poll() is not None:
                self.all[number] = self._start(*command)

    def kill(self, kind: str) -> bool:
        """SIGKILL to one process of this kind; False where there is none."""
        tops = [psutil.Process(one.pid) for one in self.all if one.poll() is None]
        workers = [one for top in tops for one in (top, *top.children()) if "sweep-worker" in one.cmdline()]
        workers = [one for one in workers if one.parent() not in workers]
        there = {"command": tops[:1], "worker": workers,
                 "trial": [child for worker in workers for child in worker.children()]}[kind]
        if there:
            self._chance.choice(there).kill()
        return bool(there)


@pytest.fixture
def start(tmp_path: Path, prefect_api: str, mlflow_url: str, postgres_url: str) -> Iterator[Start]:
    """A real command on a machine; a lease is shorter there, so that less is waited for."""
    (tmp_path / "shorter").mkdir()
    (tmp_path / "shorter" / "sitecustomize.py").write_text(f"import infra.leases\ninfra.leases.LEASE_S = {LEASE_S}\n")
    running = []

    def begin(host: str, *arguments: object) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "SFT_HOME": str(tmp_path / host), "PREFECT_API_URL": prefect_api, "MLFLOW_TRACKING_URI": mlflow_url,
            "SFT_STUDY_STORAGE": postgres_url, "SFT_SHARE": "mlflow", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(tmp_path / "shorter")}
        with (tmp_path / f"{host}.log").open("ab") as log:
            running.append(subprocess.Popen([sys.executable, "-m", "flows.cli", *map(str, arguments)], cwd=ROOT,
                                            env=environment, stdout=log, stderr=log, start_new_session=True))
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check(study: Study) -> None:
    rows = study.trials()
    again = {int(row.notes["retry_of"]) for row in rows if "retry_of" in row.notes}
    complete = [row for row in rows if row.values]
    assert len(complete) == TRIALS, "lost or doubled"
    assert len({str(row.params) for row in complete}) == TRIALS, "values that were tried twice"
    undrawn = {row.number for row in rows if "before it had its values" in row.notes.get("why", "")}
    assert [row.notes for row in rows if row.state == "FAIL" and row.number not in again | undrawn] == [], "failed"
    assert {row.state for row in rows} == {"COMPLETE", "FAIL"}


@pytest.mark.chaos
def test_nothing_is_lost_doubled_or_failed_whatever_dies(
    start: Start, sweep: Path, mlflow_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """What trials have in common is made once all the same."""
    config = load(sweep).config
    assert config.search
    study = open_study(plan_of(config, config.search), tmp_path / "look", postgres_url)
    admin, chance = create_engine(postgres_url, isolation_level="AUTOCOMMIT"), random.Random(0)
    stages = open_tracker(mlflow_url, EXPERIMENT, tmp_path)
    before = {run.run_id for run in stages.recent(99)}
    hosts, deaths = Hosts(start, sweep, chance), dict.fromkeys(("trial", "worker", "command"), 0)
    deadline, stopped = time.monotonic() + 1500, False
    while not study.trials():
        assert time.monotonic() < deadline
        time.sleep(EVERY_S)
    while hosts.all[0].poll() != 0:
        assert time.monotonic() < deadline, deaths
        hosts.keep_up()
        time.sleep(EVERY_S)
        done = sum(row.values is not None for row in study.trials())
        kind = chance.choice(list(deaths))
        if done < TRIALS / 2 and deaths[kind] < TRIALS / 5:
            deaths[kind] += hosts.kill(kind)
            with admin.connect() as connection:
                connection.execute(text("select pg_terminate_backend(pid) from pg_stat_activity where pid <> "
                                        "pg_backend_pid() and backend_type = 'client backend'"))
        elif not stopped and done:
            stopped = True
            admin.dispose()
            restart(postgres_url, AWAY_S)
    check(study)
    assert stopped
    assert min(deaths.values()) > 0, deaths
    made = [run for run in stages.recent(99) if run.run_id not in before]
    archives = [name for run in made for name in stages.artifacts(run.run_id) if name.endswith(".tar")]
    assert len(archives) == len(made), "made twice"
