"""Compose file, Dockerfile and systemd unit: what they name is there, and says what the code understands."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.postgres import databases
from infra.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
REQUIRED = re.compile(r"\$\{POSTGRES_PASSWORD:\?is not set\}")
TEXT = REQUIRED.sub("s3cr3t", (INFRA / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
DATABASES = databases("postgresql://postgres:s3cr3t@postgres:5432/sft")


def test_every_service_has_its_parts() -> None:
    volumes = yaml.safe_load(TEXT)["volumes"]
    for name, service in SERVICES.items():
        if "build" in service:
            assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert service["image"]
        assert set(service.get("depends_on", {})) <= SERVICES.keys()
        for other, one in service.get("depends_on", {}).items():
            healthy = one["condition"] == "service_healthy"
            assert "healthcheck" in SERVICES[other] if healthy else SERVICES[other]["restart"] == "no", name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (INFRA / source).exists() if source.startswith(".") else source in volumes
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_no_password_is_written_and_all_is_asked_for() -> None:
    text = (INFRA / "compose.yaml").read_text(encoding="utf-8")
    assert len(re.findall(r"\$\{", text)) == len(REQUIRED.findall(text)) == 4
    assert not any("s3cr3t" in str(service.get("command")) for service in SERVICES.values())


def test_commands_are_known_with_their_options() -> None:
    from mlflow.cli import server

    options = {name for parameter in server.params if parameter.param_type_name == "option" for name in parameter.opts}
    assert {one for one in SERVICES["mlflow"]["command"] if one.startswith("--")} <= options
    programs = {service["command"][0] for service in SERVICES.values() if "command" in service}
    assert programs == {"prefect", "mlflow", "sft", "python"}
    assert SERVICES["prefect"]["command"][:5] == ["python", "-m", "infra.prefect_door", "prefect", "server"]
    assert all(Path(sys.executable).with_name(program).exists() for program in programs)
    assert SERVICES["worker"]["command"] == ["prefect", "worker", "start", "--pool", "sft", "--limit", "1"]


def test_all_parts_meet_in_the_same_places() -> None:
    found = read_settings(SERVICES["worker"]["environment"])
    assert (found.prefect_api_url, found.mlflow_uri) == ("http://prefect:4200/api", "http://mlflow:5000")
    assert found.study_storage == DATABASES.studies
    assert SERVICES["prefect"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == DATABASES.prefect
    assert SERVICES["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"] == DATABASES.mlflow
    made = re.findall(r"create database (\w+);", (INFRA / "compose.sql").read_text(encoding="utf-8"))
    assert [url.rpartition("/")[2] for url in DATABASES] == made
    assert SERVICES["worker-gpu"]["environment"] == SERVICES["worker"]["environment"]


def test_the_image_has_what_it_copies_and_installs() -> None:
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG (\w+)", text, re.MULTILINE) == ["BASE"]
    installs = re.findall(r"pip install (.+?) \\?\n", text)
    assert [line.removeprefix("--no-cache-dir ") for line in installs] == [
        "--no-deps --require-hashes -r infra/requirements.lock", "--no-deps --no-build-isolation -e ."]
    base = SERVICES["worker-gpu"]["build"]["args"]["BASE"]
    assert f"BASE={base}" in text


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_image_installs_files_of_known_hashes_alone() -> None:
    """Of the versions that the tests run with, and of everything that the project needs."""
    text = (INFRA / "requirements.lock").read_text(encoding="utf-8")
    locked: dict[str, str] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        found = re.fullmatch(r"([a-z0-9-]+)==(\S+)(?: ; [^#]+?)?(?: +--hash=sha256:[0-9a-f]{64})+",
                             entry)
        assert found, f"{entry[:90]}: not a version with hashes"
        locked[found[1]] = found[2]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split("\n") if "==" in line)
    pinned = {plain(name): version for name, version in pins.items()}
    assert {name: version for name, version in locked.items() if pinned.get(name, version) != version} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["postgres"], *extras["auth"], *extras["s3"], "setuptools"]
    assert {plain(re.split(r"[^\w.-]", one)[0]) for one in declared} <= locked.keys()


def unit_of(name: str) -> ConfigParser:
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((INFRA / name).read_text(encoding="utf-8"))
    return unit


def test_the_units_start_watch_and_stop_the_platform(tmp_path: Path) -> None:
    platform, watch = unit_of("sft-platform.service"), unit_of("sft-watch.service")
    assert platform["Service"]["ExecStart"].endswith("/.venv/bin/sft up")
    assert platform["Service"]["ExecStop"].endswith("/.venv/bin/sft down")
    assert int(platform["Service"]["TimeoutStopSec"]) > 150  # what a run gets to save
    assert watch["Service"]["ExecStart"] == platform["Service"]["ExecStart"]
    assert watch["Service"]["KillMode"] == "process", "what it starts outlives it"
    assert watch["Unit"]["Requisite"] == "sft-platform.service", "it brings up nothing that was stopped"
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    names = ["sft-platform.service", "sft-watch.service", "sft-watch.timer"]
    for name in names:
        text = (INFRA / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("%h/sft-platform/.venv/bin/sft", sys.executable))
    verify = ["systemd-analyze", "verify", "--user", "--man=no"]
    done = subprocess.run([*verify, *(str(tmp_path / name) for name in names)], capture_output=True, text=True,
                          env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
