"""One contract for every study storage: a journal file, SQLite, and a real PostgreSQL."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import optuna.storages._rdb.storage as tables
import optuna.storages.journal._storage as journal
import pytest
from sqlalchemy import create_engine, text

from infra import samplers
from infra.leases import SqlLeases, alone_in
from infra.plans import Dimension, Plan, Value
from infra.study import open_study
from infra.study_contract import Study, Trial
from infra.study_rows import MAX_RETRIES
from sft_core.errors import ConfigError, OrchestrationError

PLAN = Plan("s", {"lr": Dimension(1e-5, 1e-2, log=True), "rank": Dimension(1, 8, whole=True),
                  "pack": Dimension(choices=(True, None))},
            {"alignment": "maximize", "tax": "minimize"}, "context", "random", 0)
Open = Callable[..., Study]
ROOT = Path(__file__).resolve().parents[2]


def ask(study: Study) -> Trial:
    trial = study.ask()
    assert trial
    return trial


class Killed(Exception):
    """Where a worker dies, as far as the storage can tell."""


def dies_after(fields: int, drawn: Callable[..., Value]) -> Callable[..., Value]:
    left = iter(range(fields))

    def draw(*given: object) -> Value:
        if next(left, None) is None:
            raise Killed
        return drawn(*given)

    return draw


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the study of a plan in this storage, which starts empty."""
    url = {"journal": lambda: None, "sqlite": lambda: f"sqlite:///{tmp_path / 'studies.db'}",
           "postgres": lambda: request.getfixturevalue("postgres_url")}[request.param]()
    return lambda plan=PLAN: open_study(plan, tmp_path, url)


class TestContract:
    """What every storage keeps."""

    def test_what_is_told_is_there_for_a_reader(self, opened: Open) -> None:
        study = opened()
        study.join()
        study.begin(5)
        asked = [ask(study) for _ in range(4)]
        study.note(asked[3].number, {"rung 25 %": "{}"})
        assert opened().trials()[3].notes == {"rung 25 %": "{}"}
        study.tell(asked[3].number, None, {"ended": "at 25 %"})
        study.tell(asked[0].number, {"tax": 1.0, "alignment": 0.5}, {"run": "r0"})
        study.tell(asked[1].number, {"alignment": 0.4, "tax": 2.0})
        study.tell(asked[2].number, None, {"why": "no memory"})
        rows = opened().trials()
        assert [row.state for row in rows] == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED"]
        assert [row.values for row in rows] == [{"alignment": 0.5, "tax": 1.0}, {"alignment": 0.4, "tax": 2.0}, None,
                                                None]
        assert [row.params for row in rows] == [trial.params for trial in asked]
        assert rows[0].notes == {"run": "r0"}
        assert rows[2].notes == {"why": "no memory"}
        assert rows[3].notes == {"rung 25 %": "{}", "ended": "at 25 %"}
        assert [row.number for row in opened().pareto()] == [0]
        assert opened().remaining() == 1

    def test_values_keep_their_types(self, opened: Open) -> None:
        study = opened()
        study.join()
        study.begin(5)
        for params in (ask(study).params for _ in range(5)):
            assert isinstance(params["lr"], float)
            assert type(params["rank"]) is int
            assert params["pack"] in (True, None)

    def test_what_a_worker_gives_back_is_tried_again(self, opened: Open) -> None:
        first = opened()
        first.join()
        first.begin(1)
        left = ask(first)
        first.close()
        study = opened()
        study.join()
        assert ask(study).params == left.params
        assert study.ask() is None, "one is wanted and has its worker"
        assert [row.state for row in study.trials()] == ["FAIL", "RUNNING"]

    def test_values_whose_process_was_killed_are_tried_again_but_not_for_ever(self, opened: Open) -> None:
        study = opened()
        study.join()
        study.begin(1)
        for _ in range(MAX_RETRIES + 1):
            asked = ask(study)
            study.lose(asked.number, "exit code -9")
        assert study.ask() is None
        rows = study.trials()
        assert [row.params for row in rows] == [asked.params] * (MAX_RETRIES + 1)
        assert [row.notes["why"] for row in study.failed_in_a_row()] == ["exit code -9"]
        assert study.remaining() == 0

    def test_a_worker_that_dies_while_values_are_drawn_leaves_no_part_of_them(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was drawn so far was queued as a point outside the space, from which no sampler learns."""
        point: dict[str, Value] = {"lr": 1e-3, "rank": 3, "pack": None}
        study = opened(replace(PLAN, points=(point,)))
        study.join()
        study.begin(2)
        asked = []
        for _ in range(2):  # the point, and what is drawn
            for fields in [0, 1, 2] * 2:  # more often than MAX_RETRIES
                with monkeypatch.context() as patch:
                    patch.setattr(samplers, "_drawn", dies_after(fields, samplers._drawn))
                    with pytest.raises(Killed):
                        study.ask()
            asked.append(ask(study))
        assert asked[0].params == point
        assert asked[1].params.keys() == point.keys()
        assert study.ask() is None
        for one in asked:
            study.tell(one.number, {"alignment": 1.0, "tax": 0.0})
        assert [row.params for row in study.pareto()] == [one.params for one in asked]
        assert (study.remaining(), study.failed_in_a_row()) == (0, [])
        assert {row.state for row in study.trials()} == {"COMPLETE", "FAIL"}
        assert not any("point" in row.notes for row in study.trials())
        assert "before it had its values" in study.trials()[-2].notes["why"]

    def test_trials_fail_in_a_row_in_the_order_in_which_they_are_told(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those of a host whose clock is ahead were the last ones for ever, and ended the sweep of a healthy host."""
        study = opened()
        study.join()

        def tell(minutes_ahead: int, values: dict[str, float] | None) -> list[int]:
            class Clock(datetime):
                @classmethod
                def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                    return datetime.now(tz) + timedelta(minutes=minutes_ahead)

            for module in (journal, tables):
                monkeypatch.setattr(module, "datetime", Clock)
            study.tell(ask(study).number, values)
            return [row.number for row in study.failed_in_a_row()]

        good = {"alignment": 1.0, "tax": 0.0}
        study.begin(99)
        assert [tell(*said) for said in [(10, None), (0, good)] * 2] == [[0], [], [2], []]
        assert [tell(0, None), tell(10, None)] == [[4], [4, 5]]
        study.begin(99)
        assert [tell(0, good), tell(0, None)] == [[], [7]]

    def test_one_worker_leads_until_it_is_made(self, opened: Open) -> None:
        study = opened()
        study.begin(1)
        assert study.lead("abcdef12") is True
        assert study.lead("abcdef12") is None
        assert study.lead("12345678") is True, "each part by itself"
        study.led("abcdef12", made=False)
        assert study.lead("abcdef12") is True
        study.led("abcdef12", made=True)
        assert opened().lead("abcdef12") is False

    def test_a_reader_does_not_work(self, opened: Open) -> None:
        with pytest.raises(OrchestrationError, match="opened to be read"):
            opened().ask()

    def test_another_space_is_refused_once_a_trial_is_complete(self, opened: Open) -> None:
        study = opened()
        study.join()
        study.begin(5)
        study.tell(ask(study).number, {"alignment": 1.0, "tax": 0.0})
        study.close()
        with pytest.raises(ConfigError, match="set search.study to a new name"):
            opened(replace(PLAN, space={"lr": Dimension(1e-5, 1e-1, log=True)}))


@pytest.mark.parametrize("version", ["v2.6.0.a", "v9.0.0.a"])
def test_tables_of_another_optuna_are_told(tmp_path: Path, version: str) -> None:
    """Optuna's RuntimeError went through as a traceback."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    open_study(PLAN, tmp_path, url)
    with create_engine(url).begin() as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{version}'"))
    with pytest.raises(ConfigError, match="not of this machine's Optuna: .*set up by optuna.* Install the Optuna"):
        open_study(PLAN, tmp_path, url)


def test_sqlite_takes_one_worker(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = open_study(PLAN, tmp_path, url)
    study.join()
    with pytest.raises(OrchestrationError, match=r"another process works on .* or in PostgreSQL: SQLite takes one"):
        open_study(PLAN, tmp_path, url).join()
    study.close()
    open_study(PLAN, tmp_path, url).join()


class TestManyWorkers:
    """Two hosts, as far as two workspaces are: PostgreSQL alone says who has what."""

    def two(self, url: str, tmp_path: Path, lease_s: float = 60.0) -> tuple[Study, Study]:
        both = tuple(open_study(PLAN, tmp_path / name, url, lease_s) for name in "ab")
        for study in both:
            study.join()
            study.begin(3)
        return both[0], both[1]

    def test_nothing_is_given_twice(self, postgres_url: str, tmp_path: Path) -> None:
        a, b = self.two(postgres_url, tmp_path)
        assert [ask(study).number for study in (a, b, a)] == [0, 1, 2]
        assert b.ask() is None
        assert b.tell(1, {"alignment": 1.0, "tax": 0.0})
        assert a.remaining() == 2

    def test_only_what_was_silent_too_long_is_taken_over_and_whoever_comes_late_is_told(
        self, postgres_url: str, tmp_path: Path
    ) -> None:
        a, b = self.two(postgres_url, tmp_path, lease_s=1.0)
        held, deadline = ask(a), time.monotonic() + 1.5
        while time.monotonic() < deadline:  # longer than the lease
            a.renew()
            time.sleep(0.1)
        assert ask(b).params != held.params
        assert [row.state for row in b.trials()] == ["RUNNING", "RUNNING"]
        time.sleep(1.1)
        taken = [ask(b).params for _ in range(3)]  # its own first one was silent as well
        assert taken.count(held.params) == 1
        assert not a.tell(held.number, {"alignment": 0.5, "tax": 0.0}, {"run": "late"})
        assert a.trials()[held.number].values is None
        assert b.remaining() == 3


WORKER = """
import sys
from contextlib import suppress
from pathlib import Path
from sft_core.errors import OrchestrationError
from sft_core.stopping import sleep
from infra.plans import Dimension, Plan
from infra.study import open_study
workspace, url, told = Path(sys.argv[1]), sys.argv[2], open(sys.argv[3], "a")
plan = Plan("s", {"lr": Dimension(1e-5, 1e-2, log=True)}, {"alignment": "maximize", "tax": "minimize"}, "", "random", 0)
study = None
while study is None:
    with suppress(OrchestrationError):  # a storage that never answered is not waited for
        study = open_study(plan, workspace, url, lease_s=2.0)
study.join()
while study.remaining():
    if (trial := study.ask()) is None:
        sleep(0.2)
        continue
    sleep(0.05)
    study.renew()
    if study.tell(trial.number, {"alignment": trial.params["lr"], "tax": 0.0}):
        told.write(f"{trial.number}\\n")
        told.flush()
"""


@pytest.mark.chaos
def test_killed_workers_lose_and_double_nothing(postgres_url: str, tmp_path: Path) -> None:
    """Three workspaces; every second a worker and all connections to the database die."""
    trials, deaths = 30, 6
    plan = Plan("s", {"lr": Dimension(1e-5, 1e-2, log=True)}, {"alignment": "maximize", "tax": "minimize"}, "",
                "random", 0)
    study = open_study(plan, tmp_path / "look", postgres_url)
    study.begin(trials)
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    chance, workers = random.Random(0), {}

    def begin(place: str) -> None:
        command = [sys.executable, "-c", WORKER, str(tmp_path / place), postgres_url, str(tmp_path / "told")]
        workers[place] = subprocess.Popen(command, cwd=ROOT)

    for place in "abc":
        begin(place)
    deadline = time.monotonic() + 90
    kills = 0
    while study.remaining():
        assert time.monotonic() < deadline
        time.sleep(1.0)
        place = chance.choice("abc")
        if kills < deaths and (tmp_path / "told").exists():
            kills += 1
            workers[place].kill()
            workers[place].wait()
            begin(place)
        with admin.connect() as connection:
            connection.execute(text("select pg_terminate_backend(pid) from pg_stat_activity where pid <> "
                                    "pg_backend_pid() and backend_type = 'client backend'"))
    assert [worker.wait(30) for worker in workers.values()] == [0, 0, 0]
    rows = study.trials()
    complete = [row for row in rows if row.values]
    told = [int(line) for line in (tmp_path / "told").read_text().split()]
    assert len(complete) == trials
    assert len(told) == len(set(told)), "doubled"
    assert {row.number for row in complete} >= set(told), "lost"
    assert len({row.params["lr"] for row in complete}) == trials, "a value was tried twice"
    assert {row.state for row in rows} <= {"COMPLETE", "FAIL"}
    assert kills


def test_who_waits_for_the_lock_of_a_database_gets_it_when_it_is_free(postgres_url: str,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.leases.WAIT_MS", 100)  # so that the wait is cut off several times
    one, two = (create_engine(postgres_url) for _ in range(2))
    first, second = (SqlLeases(create_engine(postgres_url), "s") for _ in range(2))
    entered = []

    def wait() -> None:
        with alone_in(two, "tables"):
            entered.append("tables")
        with second.alone():
            entered.append("study")

    with ThreadPoolExecutor() as pool:
        with first.alone():
            with alone_in(one, "tables"):
                waiting = pool.submit(wait)
                time.sleep(0.4)
                assert entered == []
            time.sleep(0.4)
            assert entered == ["tables"]
        waiting.result(timeout=10)
    assert entered == ["tables", "study"]
