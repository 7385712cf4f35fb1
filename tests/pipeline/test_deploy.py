"""Deployments on a real Prefect server: a bare name starts a run, a worker runs it where the shell looks for it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Pending
from prefect.utilities.schema_tools import ValidationError, validate
from typer.testing import CliRunner

from flows.cli import app
from infra.deploy import DEPLOYMENTS, ROOT, Nights, deploy, filled, nights_of
from infra.servers import Service, free_port, start_prefect, start_worker
from infra.settings import Settings, job_environment, read_settings
from sft_core.errors import ConfigError, OrchestrationError

MLFLOW = "http://me:s3cr3t@127.0.0.1:9"
FLOW = """
import json, os
from pathlib import Path
from prefect import flow

@flow(name="NAME")
def NAME(answer: int = 0):
    names = ("SFT_HOME", "SFT_MIRROR", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "DO_NOT_TRACK")
    seen = {"answer": answer, "folder": os.getcwd()} | {name: os.environ.get(name) for name in names}
    Path(os.environ["SFT_HOME"], "NAME.json").write_text(json.dumps(seen))
"""


def project(folder: Path, name: str) -> Path:
    """A folder with one scheduled toy flow that writes what it sees, and its deployment file."""
    root = folder / "project"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / f"{name}.py").write_text(FLOW.replace("NAME", name))
    plan = {"name": name, "entrypoint": f"folder/{name}.py:{name}", "schedules": [{"cron": "0 0 1 1 *"}]}
    (root / "plan.yaml").write_text(yaml.safe_dump({"deployments": [plan]}))
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    (folder / "mirror").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Service]:
    running = start_prefect(place / "server", free_port())
    yield running
    running.stop(kill=True)


@pytest.fixture(scope="module")
def settings(place: Path, server: Service) -> Settings:
    given = {"SFT_HOME": str(place / "workspace"), "SFT_MIRROR": str(place / "mirror"), "PREFECT_API_URL": server.url,
             "MLFLOW_TRACKING_URI": MLFLOW}
    return read_settings(given)


def ask(settings: Settings, path: str) -> Any:
    answer = requests.get(f"{settings.prefect_api_url}/{path}", timeout=10)
    answer.raise_for_status()
    return answer.json()


def prefect(settings: Settings, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a user types it after `prefect config set PREFECT_PLUGINS_ENABLED=true`."""
    environment = os.environ | job_environment(settings) | {"PREFECT_PLUGINS_ENABLED": "true"}
    command = [str(Path(sys.executable).with_name("prefect")), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def wait_for_end(settings: Settings, deployment: str, begin_s: float = 0) -> dict[str, Any]:
    """The state of the deployment's first run that has ended, within 90 s after the `begin_s` it takes to begin."""
    deployment_id = ask(settings, f"deployments/name/{deployment}")["id"]
    deadline = time.monotonic() + begin_s + 90
    body = {"deployments": {"id": {"any_": [deployment_id]}}}
    while time.monotonic() < deadline:
        runs = requests.post(f"{settings.prefect_api_url}/flow_runs/filter", json=body, timeout=10).json()
        for state in (run["state"] for run in runs):
            if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
                return dict(state)
        time.sleep(0.3)
    raise AssertionError(f"no run ended: {[run['state'] for run in runs]}")


def test_a_bare_name_starts_a_run_and_the_worker_sees_what_the_shell_sees(
    settings: Settings, place: Path, tmp_path: Path
) -> None:
    root = project(tmp_path, name="toy")
    lines = deploy(settings, pool="toys", nights=Nights("15 3 * * *"), source=root / "plan.yaml", root=root)
    assert lines[0] == "pool      toys (made)"
    assert "deployed  toy/toy" in lines
    assert any(line.startswith("secret    MLFLOW_TRACKING_URI holds a password") for line in lines)
    worker = start_worker("toys", place / "worker", job_environment(settings))
    try:
        started = prefect(settings, "deployment", "run", "toy", "-p", "answer=42", cwd=tmp_path)
        assert started.returncode == 0, started.stdout + started.stderr
        state = wait_for_end(settings, "toy/toy")
        assert state["type"] == "COMPLETED", (state, worker.log.read_text())
    finally:
        worker.stop()
    assert json.loads((settings.workspace / "toy.json").read_text()) == {
        "answer": 42, "folder": str(root), "SFT_HOME": str(place / "workspace"), "SFT_MIRROR": str(place / "mirror"),
        "MLFLOW_TRACKING_URI": MLFLOW, "PREFECT_API_URL": settings.prefect_api_url,
        "DO_NOT_TRACK": "true",
    }
    assert "s3cr3t" not in (settings.workspace / "deployments.yaml").read_text() + worker.log.read_text()


def test_the_cron_starts_a_run_by_itself(settings: Settings, place: Path, tmp_path: Path) -> None:
    """A server that answers is not one that schedules: Prefect 3.8.8 with SQLAlchemy 2.1.9 served and never did."""
    root = project(tmp_path, name="tick")
    soon = datetime.now(UTC) + timedelta(seconds=75)  # the minute after the next begins in 15 to 75 s
    deploy(settings, pool="ticks", nights=Nights(f"{soon.minute} {soon.hour} * * *"), source=root / "plan.yaml",
           root=root)
    worker = start_worker("ticks", place / "ticking", job_environment(settings))
    try:
        state = wait_for_end(settings, "tick/tick", begin_s=150)
        assert state["type"] == "COMPLETED", (state, worker.log.read_text())
    finally:
        worker.stop()
    assert datetime.now(UTC) >= soon.replace(second=0, microsecond=0) - timedelta(seconds=1)  # Prefect's rounding
    assert json.loads((settings.workspace / "tick.json").read_text())["answer"] == 0


def test_without_the_plugin_only_the_full_name_works(settings: Settings, tmp_path: Path) -> None:
    """If this fails, Prefect has learnt bare names and the plugin can go."""
    environment = os.environ | job_environment(settings) | {"PREFECT_PLUGINS_ENABLED": "false"}
    done = subprocess.run([sys.executable, "-m", "prefect", "deployment", "inspect", "toy"], cwd=tmp_path,
                          env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "Invalid deployment name" in done.stdout + done.stderr


def check_a_night_beside_another_is_skipped(settings: Settings, home: Path) -> None:
    """And a dead one frees its place, here as its worker does it. Without a worker the server does, by lease: 5 minutes
    at most. The lease is on the disk, as one that went with the server left the place taken for ever."""
    with temporary_settings({PREFECT_API_URL: settings.prefect_api_url}), get_client(sync_client=True) as client:
        night = client.read_deployment_by_name("sft-nightly/sft-nightly")
        first, second, third = (client.create_flow_run_from_deployment(night.id).id for _ in range(3))
        assert client.set_flow_run_state(first, Pending()).state.is_pending()
        assert list((home / "concurrency_leases").glob("*-*.json"))
        skipped = client.set_flow_run_state(second, Pending()).state
        assert (skipped.type, skipped.message) == ("CANCELLED", "Deployment concurrency limit reached.")
        client.set_flow_run_state(first, Crashed(), force=True)
        assert client.set_flow_run_state(third, Pending()).state.is_pending()


def test_the_deployments_of_the_platform(settings: Settings, place: Path) -> None:
    asked = Nights("45 1 * * *", "Europe/Berlin")
    assert "schedule  sft-nightly: 45 1 * * * (Europe/Berlin)" in deploy(settings, pool="sft", nights=asked)
    assert ask(settings, "work_pools/sft")["type"] == "process"
    for name, entrypoint in (
        ("sft-experiment", "flows/experiment.py:sft_experiment"),
        ("sft-sweep", "flows/sweep.py:sft_sweep"),
        ("sft-trial", "flows/pool.py:sft_trial"),
        ("sft-nightly", "flows/nightly.py:sft_nightly"),
        ("sft-synth", "flows/synth.py:sft_synth"),
    ):
        made = ask(settings, f"deployments/name/{name}/{name}")
        assert made["entrypoint"] == entrypoint
        assert made["work_pool_name"] == "sft"
        assert made["job_variables"]["env"] | {"MLFLOW_TRACKING_URI": MLFLOW} == job_environment(settings)
        assert "s3cr3t" not in str(made)
        assert made["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
        assert made["parameter_openapi_schema"]["properties"]
        assert [(each["schedule"]["cron"], each["schedule"]["timezone"]) for each in made["schedules"]] == (
            [(asked.cron, asked.timezone)] if "nightly" in name else [])
    check_a_night_beside_another_is_skipped(settings, place / "server")


def test_what_prefect_refuses_is_told(settings: Settings, tmp_path: Path) -> None:
    plan = {"deployments": [{"name": "x", "entrypoint": "nosuch.py:x", "schedules": [{"cron": "x"}]}]}
    before = nights_of(settings)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(OrchestrationError, match=r"prefect deploy refused .*deployments.yaml; it said:\n(.|\n)*nosuch"):
        deploy(settings, pool="sft", nights=Nights("0 0 * * *"), source=tmp_path / "plan.yaml", root=tmp_path)
    assert nights_of(settings) == before


@pytest.mark.parametrize(("cron", "why"), [
    ("0 0 30 2 *", "there is no such day"), ("* * * * * *", "its fields are 6"), ("@daily", "nicknames are not taken"),
    ("0 0 29 2 *", "more than 100 days pass without a night"), ("0 0 * 1 *", "more than 100 days pass without a night"),
    ("0 0 * * 8", ""), ("0 0 1 */3 *", None), ("30 2 * * 1-5", None), ("*/5 * * * *", None)])
def test_a_schedule_brings_nights(tmp_path: Path, cron: str, why: str | None) -> None:
    """Prefect took them all, and `sft up` waited for a night on its list."""
    settings = Settings(tmp_path, None, "sqlite:///x.db", f"http://127.0.0.1:{free_port()}/api", tmp_path)
    told = "no Prefect server answers" if why is None else f"{re.escape(cron)}' is no schedule .*{why}.*; it is five"
    with pytest.raises((ConfigError, OrchestrationError), match=told):
        deploy(settings, pool="x", nights=Nights(cron))


def test_what_is_not_asked_for_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sft deploy --notify …` set the schedule back to half past two, UTC."""
    settings = Settings(tmp_path, None, "sqlite:///x.db", "http://h/api", tmp_path)
    asked: list[Nights] = []

    def noted(settings: Settings, *, pool: str, nights: Nights) -> list[str]:
        asked.append(nights)
        plan = filled(yaml.safe_load(DEPLOYMENTS.read_text()), settings, pool, nights, tmp_path)
        (tmp_path / "deployments.yaml").write_text(yaml.safe_dump(plan))
        return []

    monkeypatch.setattr("flows.cli.begin", lambda: settings)
    monkeypatch.setattr("infra.deploy.deploy", noted)
    for options in ([], ["--cron", "41 19 * * *"], ["--notify", "custom-webhook/team"], ["--timezone", "Asia/Tokyo"],
                    ["--cron", ""]):
        assert CliRunner().invoke(app, ["deploy", *options]).exit_code == 0
    assert asked == [Nights(), Nights("41 19 * * *"), Nights("41 19 * * *", "UTC", "custom-webhook/team"),
                     Nights("41 19 * * *", "Asia/Tokyo"), Nights("", "Asia/Tokyo")]


@pytest.mark.parametrize("cron", ["61 * * * *", "", "* * *", "soon"])
def test_what_is_no_schedule_touches_nothing(settings: Settings, cron: str) -> None:
    with pytest.raises(ConfigError, match="it is five fields, in the time zone of --timezone"):
        deploy(settings, pool="untouched", nights=Nights(cron))
    with pytest.raises(ConfigError, match="--timezone 'Europe/Nowhere' is no time zone; .* e.g. Europe/Berlin"):
        deploy(settings, pool="untouched", nights=Nights("0 0 * * *", "Europe/Nowhere"))
    with pytest.raises(ConfigError, match="--notify 'slack-webhook/nobody' is no notification block of http"):
        deploy(settings, pool="untouched", nights=Nights("0 0 * * *", notify="slack-webhook/nobody"))
    assert requests.get(f"{settings.prefect_api_url}/work_pools/untouched", timeout=10).status_code == 404


def test_no_server_configured_or_reachable(tmp_path: Path) -> None:
    nowhere = Settings(tmp_path, None, "sqlite:///x.db", None, tmp_path)
    with pytest.raises(OrchestrationError, match="none is configured; start one .* set PREFECT_API_URL"):
        deploy(nowhere, pool="sft", nights=Nights("0 0 * * *"))
    began = time.monotonic()
    with pytest.raises(OrchestrationError, match="no Prefect server answers at http://127.0.0.1:.*PREFECT_API_URL"):
        deploy(replace(nowhere, prefect_api_url=f"http://127.0.0.1:{free_port()}/api"), pool="sft",
               nights=Nights("0 0 * * *"))
    assert time.monotonic() - began < 10


def test_the_shipped_file_also_works_by_hand(tmp_path: Path) -> None:
    """Names equal flow names (bare names), 02:30 is the default, and nothing is filled in that `filled` would lose."""
    plan = yaml.safe_load(DEPLOYMENTS.read_text())
    names = [each["name"] for each in plan["deployments"]]
    assert names == ["sft-experiment", "sft-sweep", "sft-trial", "sft-nightly", "sft-synth"]
    assert [each["entrypoint"].split(":")[1].replace("_", "-") for each in plan["deployments"]] == names
    assert plan["deployments"][3]["schedules"][0]["cron"] == "30 2 * * *"
    assert all(each["work_pool"] == {"name": "sft"} for each in plan["deployments"])
    settings = Settings(tmp_path, None, "sqlite:///x.db", "http://h/api", tmp_path)
    new = filled(plan, settings, "pool", Nights("1 1 * * *", "Europe/Berlin"), tmp_path)
    assert new["deployments"][3]["schedules"] == [{"cron": "1 1 * * *", "timezone": "Europe/Berlin", "slug": "nightly"}]
    assert new["deployments"][3]["concurrency_limit"] == plan["deployments"][3]["concurrency_limit"]
    assert yaml.safe_load(DEPLOYMENTS.read_text()) == plan


def test_the_deployment_for_kubernetes_fits_its_pool() -> None:
    text = (ROOT / "infra" / "kubernetes-pool.json").read_text()
    variables = json.loads(text)["variables"]
    plan = yaml.safe_load((ROOT / "infra" / "kubernetes.yaml").read_text())
    (trial,) = plan["deployments"]
    given = trial["work_pool"]["job_variables"]
    assert set(re.findall(r"{{ (\w+) }}", text)) == variables["properties"].keys()
    assert given.keys() <= variables["properties"].keys()
    validate(given, variables, raise_on_error=True)
    with pytest.raises(ValidationError, match="many"):
        validate({**given, "gpus": "many"}, variables, raise_on_error=True)
    assert trial["entrypoint"] in [one["entrypoint"] for one in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]]
    settings = read_settings(given["env"])
    assert (settings.workspace, settings.share) == (Path("/workspace"), True)
