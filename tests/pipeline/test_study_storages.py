"""One contract for every study storage: a journal file, SQLite, and a real PostgreSQL."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from infra.contract import Dimension, Plan, Study
from infra.study import open_study
from sft_core.errors import ConfigError, OrchestrationError

PLAN = Plan("s", {"lr": Dimension(1e-5, 1e-2, log=True), "rank": Dimension(1, 8, whole=True),
                  "pack": Dimension(choices=(True, None))},
            {"alignment": "maximize", "tax": "minimize"}, "context", "random", 0)
Open = Callable[..., Study]


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
        study.reconcile()
        asked = [study.ask() for _ in range(3)]
        study.tell(asked[0].number, {"tax": 1.0, "alignment": 0.5}, {"run": "r0"})
        study.tell(asked[1].number, {"alignment": 0.4, "tax": 2.0})
        study.tell(asked[2].number, None, {"why": "no memory"})
        rows = opened().trials()
        assert [row.state for row in rows] == ["COMPLETE", "COMPLETE", "FAIL"]
        assert [row.values for row in rows] == [{"alignment": 0.5, "tax": 1.0}, {"alignment": 0.4, "tax": 2.0}, None]
        assert [row.params for row in rows] == [trial.params for trial in asked]
        assert rows[0].notes == {"run": "r0"}
        assert rows[2].notes == {"why": "no memory"}
        assert [row.number for row in opened().pareto()] == [0]
        assert opened().remaining(5) == 2

    def test_values_keep_their_types(self, opened: Open) -> None:
        study = opened()
        study.reconcile()
        for params in (study.ask().params for _ in range(6)):
            assert isinstance(params["lr"], float)
            assert type(params["rank"]) is int
            assert params["pack"] in (True, None)

    def test_what_a_driver_left_is_failed_and_queued_again(self, opened: Open) -> None:
        first = opened()
        first.reconcile()
        left = first.ask()
        first.close()  # as the kernel does it for a driver that is killed
        study = opened()
        assert study.reconcile() == [left.number]
        again = study.ask()
        assert again.params == left.params
        assert [row.state for row in study.trials()] == ["FAIL", "RUNNING"]

    def test_a_second_driver_and_a_reader_do_not_drive(self, opened: Open) -> None:
        study = opened()
        study.reconcile()
        with pytest.raises(OrchestrationError, match="driven by another process"):
            opened().reconcile()
        with pytest.raises(OrchestrationError, match="opened to be read"):
            opened().ask()

    def test_another_space_is_refused_once_a_trial_is_complete(self, opened: Open) -> None:
        study = opened()
        study.reconcile()
        study.tell(study.ask().number, {"alignment": 1.0, "tax": 0.0})
        study.close()
        with pytest.raises(ConfigError, match="set search.study to a new name"):
            opened(replace(PLAN, space={"lr": Dimension(1e-5, 1e-1, log=True)}))
