"""`sft up`, `status`, `down` with real servers: two at once, a fresh shell, a crash, a run under way at the end."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling
from sqlalchemy import create_engine, make_url, text

from infra.alive import Note, alive, living
from infra.daemons import file_of, identity_of, read_state
from infra.postgres import databases
from infra.settings import read_settings
from infra.taken import processes_of

ROOT = Path(__file__).resolve().parents[2]
Sft = Callable[..., subprocess.CompletedProcess[str]]
NAME = "small · full · train.epochs=30"
"""Of the flow run that is stopped and goes on: what it is, and what was set otherwise."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("platform")


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    """Of a fresh shell: nothing is set but the workspace, and nobody has a profile of Prefect."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(place),
                   "SFT_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shell(place: Path, environment: dict[str, str]) -> Sft:
    def run(line: str, cwd: Path = place) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True,
                              timeout=240)

    return run


@pytest.fixture(scope="module")
def platform(place: Path, environment: dict[str, str], shell: Sft) -> Iterator[list[str]]:
    """What two `sft up` at the same time have printed."""
    command = [sys.executable, "-m", "flows.cli", "up", "--json"]
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE) for _ in range(2)]
    try:
        said = [process.communicate(timeout=240) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        yield [out for out, _ in said]
    finally:
        shell("sft down")
        for daemon in read_state(place / "home").living().values():
            os.killpg(daemon.pid, signal.SIGKILL)


def test_two_at_once_bring_up_one_platform(platform: list[str], place: Path) -> None:
    first, second = map(json.loads, platform)
    assert first == second
    assert first["well"]
    assert [part["name"] for part in first["parts"]] == ["prefect", "mlflow", "worker", "deployments", "alerts"]
    assert "next night" in first["parts"][3]["says"]
    assert "NOBODY is told of a red night" in first["parts"][4]["says"]
    log = (place / "home" / "platform" / "worker.log").read_text()
    assert log.count("started!") == 1
    for daemon in read_state(place / "home").living().values():
        assert os.getsid(daemon.pid) == daemon.pid  # of no terminal and no command


def test_other_web_sites_and_names_are_refused(platform: list[str], place: Path) -> None:
    """A page in a browser could make deployments, which run as the user: a request without a content type is sent
    unasked, and a name that leads to 127.0.0.1 is an origin of its own."""
    servers = {name: daemon.url for name, daemon in read_state(place / "home").daemons.items()}
    for address in (f"{servers['prefect']}/flows/", f"{servers['mlflow']}/api/2.0/mlflow/experiments/create"):
        port = address.split(":")[2].partition("/")[0]
        for headers, fine in (({"Origin": "http://evil.example"}, False), ({"Host": f"evil.example:{port}"}, False),
                              ({"Origin": "null"}, False), ({"Origin": f"http://127.0.0.1:{port}"}, True)):
            asked = requests.post(address, data=b'{"name": "x"}', headers=headers, timeout=9)
            assert (asked.status_code != 403) is fine, (address, headers, asked.text)


def test_in_the_folder_of_the_code_nothing_has_to_be_set(platform: list[str], shell: Sft) -> None:
    done = shell("prefect deployment inspect sft-sweep", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flows/sweep.py:sft_sweep" in done.stdout


def test_what_has_died_is_started_again_where_it_was(platform: list[str], shell: Sft, place: Path) -> None:
    before, client = read_state(place / "home").daemons, MlflowClient(read_state(place / "home").daemons["mlflow"].url)
    left = client.create_run("0").info.run_id  # by a process that is gone
    (place / "home" / "runs").mkdir(exist_ok=True)
    with alive(place / "home", Note("mlflow", left, before["mlflow"].url)):
        [note] = (place / "home" / "alive").glob("*.json")
        said = note.read_text()
    note.write_text(said)
    os.kill(before["mlflow"].pid, signal.SIGKILL)  # alone: what it has started goes on listening for a while
    broken = shell("sft status")
    assert broken.returncode == 1
    assert "mlflow      DOWN  does not run; `sft up` starts it" in broken.stdout
    assert shell("sft up").returncode == 0
    after = read_state(place / "home").daemons
    assert after["mlflow"].url == before["mlflow"].url
    assert after["mlflow"].pid != before["mlflow"].pid
    assert after["prefect"] == before["prefect"]
    assert after["worker"] == before["worker"]
    assert shell("sft status").returncode == 0
    deadline = time.monotonic() + 60
    while client.get_run(left).info.status != "KILLED":  # `sft up` looks whether all agrees, beside
        assert time.monotonic() < deadline, (place / "home" / "platform" / "reconcile.log").read_text()
        time.sleep(0.2)
    elsewhere = shell("sft up --mlflow-port 1")
    assert elsewhere.returncode == 1
    assert "say `sft down` first to have it on 1" in elsewhere.stderr


def test_a_run_whose_worker_died_before_it_began_is_begun_by_the_next(
    platform: list[str], shell: Sft, place: Path
) -> None:
    """Also where its process still loads, which nobody is told of and which would begin beside the new one."""
    daemons = read_state(place / "home").daemons
    with SyncPrefectClient(daemons["prefect"].url) as client:
        night = client.read_deployment_by_name("sft-nightly/sft-nightly")
        run_id, deadline = client.create_flow_run_from_deployment(night.id).id, time.monotonic() + 60
        while not (loading := [one for one in processes_of({str(run_id)}) if "prefect.engine" in one.cmdline()]):
            assert time.monotonic() < deadline, Path(daemons["worker"].log).read_text()[-3000:]
            time.sleep(0.05)
        os.kill(daemons["worker"].pid, signal.SIGKILL)  # alone
        assert shell("sft up").returncode == 0
        assert not loading[0].is_running()
        while not (ended := client.read_flow_run(run_id).state) or not ended.is_final():
            assert time.monotonic() < deadline + 60, ended
            time.sleep(0.5)
    assert ended.type == StateType.COMPLETED, ended  # nothing is guarded yet


def test_a_run_by_its_bare_name_from_any_folder_is_saved_by_down(
    platform: list[str], shell: Sft, place: Path, config: Path
) -> None:
    """In a fresh shell; the worker takes it, it records on the MLflow of `sft up`, and `sft down` lets it save."""
    done = shell(f'eval "$(sft up --shell)" && prefect deployment run sft-experiment -p config={config} '
                 "-p 'overrides=[\"train.epochs=30\"]'")
    assert done.returncode == 0, done.stdout + done.stderr
    before, stages = read_state(place / "home").daemons, place / "home" / "stages" / "train"
    deadline = time.monotonic() + 90
    while not list(stages.glob("*/out/events.jsonl")):
        assert time.monotonic() < deadline, Path(before["worker"].log).read_text()
        time.sleep(0.1)
    found = requests.get(f"{before['mlflow'].url}/api/2.0/mlflow/experiments/get-by-name",
                         params={"experiment_name": "tests"}, timeout=9).json()
    assert found["experiment"]["artifact_location"].startswith((place / "home" / "mlartifacts").as_uri())
    said = shell("sft down").stdout.splitlines()
    assert said == ["ended: worker, mlflow, prefect", f"the next `sft up` goes on with: {NAME}"]
    assert not any(identity_of(daemon.pid) for daemon in before.values())
    assert list(stages.glob("*/out/checkpoints/*"))
    with pytest.raises(requests.ConnectionError):
        requests.get(before["prefect"].url, timeout=3)
    assert shell("sft status").returncode == 1
    assert shell("sft down").stdout.strip() == "ended: nothing ran"


def test_what_down_has_stopped_goes_on_and_what_lost_its_worker_too(
    platform: list[str], shell: Sft, place: Path
) -> None:
    assert shell("sft up").returncode == 0
    worker, url = read_state(place / "home").daemons["worker"], read_state(place / "home").daemons["prefect"].url
    under_way = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    with SyncPrefectClient(url) as client:
        deadline = time.monotonic() + 90
        while not (found := client.read_flow_runs(flow_run_filter=under_way)):
            assert time.monotonic() < deadline, Path(worker.log).read_text()[-3000:]
            time.sleep(0.2)
        [run], home = found, place / "home"
        assert run.name == NAME
        assert run.run_count == 2
        while str(run.id) not in living(home):
            time.sleep(0.1)
        os.kill(worker.pid, signal.SIGKILL)  # alone
        while str(run.id) in living(home):  # it was told to end, and nobody else begins it meanwhile
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert shell("sft up").returncode == 0
        while not (found := client.read_flow_runs(flow_run_filter=under_way)):
            assert time.monotonic() < deadline + 60, client.read_flow_run(run.id).state
            time.sleep(0.2)
        assert (found[0].id, found[0].run_count) == (run.id, 3)
        client.set_flow_run_state(run.id, Cancelling())
        shell("sft down")


def test_on_postgresql_and_a_bucket_and_for_other_machines(
    platform: list[str], shell: Sft, place: Path, postgres_url: str, s3: Any, sweep: Path
) -> None:
    """Everything is kept in the one database and the bucket that are named, also what a sweep of the worker's finds,
    and the next commands know it unsaid. Others than this machine get in with a password alone. No password stands
    where others can read it."""
    shell("sft down")
    home = place / "home"
    logs = {file: file.stat().st_size for file in (home / "platform").glob("*.log")}
    url = postgres_url.replace("+psycopg", "")
    us = "PREFECT_SERVER_API_AUTH_STRING=team:s3cr3t-of-all MLFLOW_TRACKING_USERNAME=team " \
        "MLFLOW_TRACKING_PASSWORD=s3cr3t-of-all"
    bare = shell("sft up --host 0.0.0.0")
    assert bare.returncode == 2
    assert "needs authentication; set PREFECT_SERVER_API_AUTH_STRING=user:password, MLFLOW_TRACK" in bare.stderr
    keys = " ".join(f"{name}={value}" for name, value in s3.environment.items())
    done = shell(f"{us} {keys} SFT_DATABASE_URL={url} SFT_ARTIFACTS=s3://models/team sft up --host 0.0.0.0")
    assert done.returncode == 0, done.stderr
    servers = {name: daemon.url for name, daemon in read_state(home).daemons.items()}
    for address in (f"{servers['prefect']}/deployments/count", f"{servers['mlflow']}/version"):
        asked = partial(requests.get if address.endswith("version") else requests.post, address, timeout=9)
        assert asked().status_code == 401
        assert asked(auth=("team", "s3cr3t-of-all")).status_code == 200
    evil = requests.get(servers["mlflow"], headers={"Host": "evil.example"}, auth=("team", "s3cr3t-of-all"), timeout=9)
    assert evil.status_code == 403
    ran = shell(f'eval "$(sft up --shell)" && PREFECT_API_AUTH_STRING=team:s3cr3t-of-all prefect deployment run '
                f"sft-sweep --watch --watch-interval 1 -p config={sweep} -p trials=1")
    assert ran.returncode == 0, (ran.stdout + ran.stderr, (home / "platform" / "worker.log").read_text()[-3000:])
    found = dict[str, list[str]]()
    for program, query in (("prefect", "select name from flow_run where state_type = 'COMPLETED'"),
                           ("mlflow", "select name from runs where status = 'FINISHED'"),
                           ("studies", "select state::text from trials")):
        with create_engine(f"{postgres_url}_{program}").connect() as connection:
            found[program] = list(connection.execute(text(query)).scalars())
    assert "two" in found["prefect"], found
    assert found["studies"] == ["PRUNED"], "the first trial is of given values, and keeps its own as a note"
    assert "two" in found["mlflow"], found
    kept = [one.key for one in s3.bucket.objects.all()]
    assert [key for key in kept if key.startswith("team/") and key.endswith("tuned/tiny_mmlu.parquet")]
    secret = (make_url(url).password or "").partition("/")[0]
    running = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    said = [done.stdout, done.stderr, shell("sft status --json").stdout, shell("sft up --shell").stdout,
            (home / "deployments.yaml").read_text(), *(file.read_text()[size:] for file, size in logs.items())]
    assert secret.encode() not in b"".join(running)
    assert secret not in "".join(said)
    assert "s3cr3t-of-all" not in "".join(said)
    assert stat.S_IMODE(file_of(home).stat().st_mode) == 0o600
    assert read_settings({"SFT_HOME": str(home), "HOME": str(place)}).study_storage == databases(url).studies
    assert shell("sft up").returncode == 0  # without the variables
    refused = shell(f"SFT_DATABASE_URL={url}2 sft up")
    assert refused.returncode == 1
    assert "say `sft down` first" in refused.stderr
    assert secret not in refused.stderr
    shell("sft down")
    assert read_settings({"SFT_HOME": str(home), "HOME": str(place)}).database is None
