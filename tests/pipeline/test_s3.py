"""MLflow's artifacts in a bucket of a real S3-speaking server: a run, its stages for others, promotion and a night."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.experiment import sft_experiment
from flows.nightly import sft_nightly
from flows.place import connect, workspace
from flows.promotion import run_promotion
from infra.bucket import check_bucket
from infra.orchestrator import outcome
from infra.servers import free_port, healthy, mlflow_server, start
from infra.settings import read_settings
from infra.tracking import open_tracker
from sft_core.config.file import load
from sft_core.errors import OrchestrationError, TrackingError
from tasks.prepare import prepare
from tasks.promotion import Asked

KEYS = {"AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def bucket(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket, behind an MLflow server that MLFLOW_TRACKING_URI names; this process has no key to it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = mlflow_server(tmp_path / "mlflow", free_port(), artifacts="s3://models/team")
    mlflow = start(command._replace(environment={**command.environment, **s3.environment}))
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", healthy(mlflow).url)
        yield s3.bucket
    finally:
        mlflow.stop(kill=True)


def test_a_team_keeps_its_models_in_a_bucket(bucket: Any, config: Path, tmp_path: Path, prefect_api: str,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    data = yaml.safe_load(config.read_text())
    data["train"]["epochs"] = 0.2
    data["eval"] |= {"limit": 3, "floor_items": 0, "parity": "off"}
    config.write_text(yaml.safe_dump(data))
    monkeypatch.setenv("SFT_SHARE", "mlflow")
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "one"))
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        run = outcome(sft_experiment, str(config), [])
        kept = [one.key for one in bucket.objects.all()]
        assert all(key.startswith("team/") for key in kept)
        for part in (f"{run['mlflow_run_id']}/artifacts/model/model.safetensors", "evaluation/tuned/tiny_mmlu.parquet",
                     "/lineage.json", ".tar"):
            assert any(part in key for key in kept), part

        monkeypatch.setenv("SFT_HOME", str(tmp_path / "two"))  # another machine, which has the server alone
        loaded = load(config)
        assert prepare.fn(loaded.config, workspace(loaded.config)).reused
        run_promotion(run["run"], "shared", "champion", "Ada", Asked("", "a test", override=True))
        assert outcome(sft_nightly, name="shared")["outcome"] == "quiet"
        fetched = connect().resolve_alias("shared", "champion").folder
        assert fetched.is_relative_to(read_settings().workspace)
        (fetched / "model.safetensors").write_bytes(b"")
        night = outcome(sft_nightly, name="shared")
        assert night["outcome"] == "not_measured"
        assert "something has changed model.safetensors (changed)" in night["sentence"]


def test_a_bucket_that_takes_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that write into it themselves: boto3's errors went through with a traceback."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(uri).create_experiment("direct", "s3://nowhere/x")
    for name, value in (KEYS | {"MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "AWS_MAX_ATTEMPTS": "1"}
                        ).items():
        monkeypatch.setenv(name, value)
    tracker = open_tracker(uri, "direct", tmp_path)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "boto3", None)
        with pytest.raises(TrackingError, match=r"its artifacts need the package boto3, .*sft-platform\[s3\]"):
            tracker.start_run("a", "a", {}, "text", {})
    with pytest.raises(TrackingError, match="could not start the run a: .*Could not connect to the endpoint"):
        tracker.start_run("a", "a", {}, "text", {})


@pytest.mark.parametrize(("place", "without", "said"), [
    ("s3://models/team", (), ""), ("s3://model/team", (), "Not Found"),
    ("s3://models/team", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "Unable to locate credentials"),
])
def test_a_bucket_is_looked_at_before_servers_start(place: str, without: tuple[str, ...], said: str, s3: Any,
                                                    tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sft up` remembers it and not its keys: in another shell MLflow came up, and failed with the first artifact."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, "" if name in without else value)
    with pytest.raises(OrchestrationError, match=f"{said}.*needs its keys") if said else nullcontext():
        check_bucket(place)
