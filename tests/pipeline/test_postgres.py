"""PostgreSQL for studies and for MLflow: a missing driver is named before anything runs, and a real server serves."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from infra.databases import check_driver
from infra.plans import Dimension, Plan
from infra.study import open_study
from infra.tracking import open_tracker
from sft_core.errors import ConfigError, OrchestrationError, TrackingError

Sft = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan("s", {"rank": Dimension(1, 8, whole=True), "pack": Dimension(choices=(True, None))},
            {"alignment": "maximize", "tax": "minimize"}, "context", "tpe", 0)
def test_a_study_on_postgresql_survives_dropped_connections(postgres_url: str, tmp_path: Path) -> None:
    study = open_study(PLAN, tmp_path, postgres_url)
    study.join()
    study.begin(8)
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    for number in range(3):
        trial = study.ask()
        assert trial
        assert isinstance(trial.params["rank"], int)
        with admin.connect() as connection:  # what a firewall does while a trial runs
            connection.execute(text("select pg_terminate_backend(pid) from pg_stat_activity "
                                    "where pid <> pg_backend_pid() and backend_type = 'client backend'"))
        study.tell(trial.number, {"alignment": float(number), "tax": 0.0})
    study.close()
    assert open_study(PLAN, tmp_path, postgres_url).remaining() == 5


def test_mlflow_on_postgresql(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker(postgres_url, "on postgres", tmp_path / "workspace")
    run_id = tracker.start_run("run", "key", {"lr": 1e-3}, "name: run\n", {})
    tracker.log_metrics(run_id, {"tuned/精度": 0.5})
    assert tracker.find_run(run_id).metrics == {"tuned/精度": 0.5}
    assert "s3cr3t" not in tracker.shown
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"], "artifacts go into the workspace"


def test_mlflow_and_studies_need_a_database_each(postgres_url: str, tmp_path: Path) -> None:
    open_study(PLAN, tmp_path, postgres_url)
    with pytest.raises(TrackingError, match="MLflow and studies need a database each"):
        open_tracker(postgres_url, "e", tmp_path)


def test_a_wrong_password_is_said_without_the_right_one(postgres: str, tmp_path: Path,
                                                         caplog: pytest.LogCaptureFixture) -> None:
    url = f"postgresql+psycopg://postgres:wr0ng-Pa55@{postgres}/postgres"
    with pytest.raises(OrchestrationError, match="lets you in") as study:
        open_study(PLAN, tmp_path, url)
    with pytest.raises(TrackingError, match="could not open the store") as tracking:
        open_tracker(url, "e", tmp_path)
    assert "will be retried" not in caplog.text, "MLflow would try for a minute"
    for caught in (study, tracking):
        assert "wr0ng-Pa55" not in str(caught.value)


WITHOUT = """
import sys
sys.modules["psycopg"] = sys.modules["psycopg2"] = None
sys.argv[0] = "sft"
from flows.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (["run", "flows/configs/demo.yaml"], {"MLFLOW_TRACKING_URI": "postgresql+psycopg://me:pw@h/db"}),
        (["run", "flows/configs/demo.yaml", "--set", "tracking.uri=postgresql+psycopg://me@h/db"], {}),
        (["sweep", "flows/configs/sweep.yaml"], {"SFT_STUDY_STORAGE": "postgresql+psycopg2://me:pw@h/db"}),
        (["config", "check", "flows/configs/sweep.yaml", "--set", "search.storage=postgresql://me@h/db"], {}),
    ],
)
def test_a_missing_driver_is_named_before_anything_runs(
    home: Path, command: list[str], environment: dict[str, str]
) -> None:
    """It was "start the database", after a server had been started for the sweep."""
    done = subprocess.run([sys.executable, "-c", WITHOUT, *command], cwd=ROOT, capture_output=True, text=True,
                          timeout=120, env=os.environ | {"SFT_HOME": str(home)} | environment)
    assert done.returncode == 2, done.stderr
    assert "needs the package psycopg" in done.stderr
    assert "pip install 'sft-platform[postgres]'" in done.stderr
    assert "me:pw" not in done.stderr
    assert not home.exists() or [path.name for path in home.iterdir()] == ["layout"]


@pytest.mark.parametrize(("url", "said"), [
    ("postgres://h/db", "there is no database postgres; give e.g. postgresql"),
    ("study.log", "'study.log' is not a URL"),
    ("postgresql://h:port/db", "this is not the URL of a database"),
])
def test_what_is_no_database(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_driver("search.storage", url)
