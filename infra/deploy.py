"""Registers the deployments of `infra/prefect.yaml` with a Prefect server, so that worker and shell agree on paths."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prefect._vendor.croniter.croniter import CroniterBadDateError, croniter
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from infra.alerts import wake
from infra.reach import require_prefect
from infra.settings import Settings, child_environment, job_environment
from sft_core.errors import ConfigError, OrchestrationError
from sft_core.masking import has_secret
from sft_core.names import check_name

ROOT = Path(__file__).resolve().parent.parent
DEPLOYMENTS = ROOT / "infra" / "prefect.yaml"
TIMEOUT_S = 180


FIELDS = 5
RARELY_DAYS = 100
"""Prefect plans no run that is further away, so that nobody could see whether it will come."""


class Nights(NamedTuple):
    """When `sft-nightly` runs (a cron line in an IANA time zone), and whom Prefect tells of a red one: a notification
    block as TYPE/NAME, e.g. `slack-webhook/team`, or whoever it tells already."""

    cron: str = "30 2 * * *"
    timezone: str = "UTC"
    notify: str | None = None


def deploy(settings: Settings, *, pool: str, nights: Nights, source: Path = DEPLOYMENTS, root: Path = ROOT
           ) -> list[str]:
    """Make the work pool where it is missing and (re-)create all deployments.

    Args:
        settings: where the server is, and what the jobs' environment is made of.
        pool: work pool; a missing one is made with type process.
        nights: schedule of `sft-nightly`, and who hears of red ones.
        source: deployment file.
        root: folder that the entrypoints in it start from, and in which the jobs run.

    Returns:
        Lines that say what there is now and how to use it.

    Raises:
        ConfigError: `pool` is no name, `nights` no schedule, or its block is not there; nothing was touched.
        OrchestrationError: no server is configured or reachable, or Prefect refuses; with what it said.
    """
    if settings.prefect_api_url is None:
        raise OrchestrationError("deployments need a Prefect server, and none is configured; start one (prefect server "
                                 "start, as README has it) and set PREFECT_API_URL, e.g. to http://127.0.0.1:4200/api")
    check_name("--pool", pool)
    _check_schedule(nights)
    require_prefect(settings)
    told = [f"notify    {nights.notify}: {wake(settings.prefect_api_url, nights.notify)}"] if nights.notify else []
    made = make_pool(settings.prefect_api_url, pool)
    plan = filled(yaml.safe_load(source.read_text(encoding="utf-8")), settings, pool, nights, root)
    file = _file_of(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"draft-{file.name}")  # what was refused is not what was deployed last
    draft.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    _prefect_deploy(draft, settings, root)
    draft.replace(file)
    names = [each["name"] for each in plan["deployments"]]
    return [
        f"pool      {pool} ({'made' if made else 'was there'})",
        *(f"deployed  {name}/{name}" for name in names),
        *(f"schedule  {each['name']}: {nights.cron} ({nights.timezone})"
          for each in plan["deployments"] if each.get("schedules")),
        *told,
        f"worker    prefect worker start --pool {pool}",
        *(f"secret    {name} holds a password, which is not deployed: start the worker with it in its environment"
          for name in secret_names(settings)),
        f"run       prefect deployment run {names[0]}/{names[0]}   (in {root}: {names[0]} will do)",
    ]


def names() -> list[str]:
    """Of the platform's deployments."""
    return [each["name"] for each in yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))["deployments"]]


def is_current(settings: Settings, pool: str, nights: Nights) -> bool:
    """Whether what was deployed last from this workspace is what would be deployed now."""
    plan = filled(yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8")), settings, pool, nights, ROOT)
    file = _file_of(settings)
    return file.exists() and file.read_text(encoding="utf-8") == yaml.safe_dump(plan, sort_keys=False)


def nights_of(settings: Settings, cron: str | None = None, timezone: str | None = None, notify: str | None = None
              ) -> Nights:
    """What is asked for; the rest as it was deployed last from this workspace, else half past two, UTC."""
    file = _file_of(settings)
    plan = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {"deployments": []}
    last = next((Nights(str(one["cron"]), str(one["timezone"])) for each in plan["deployments"]
                 for one in each.get("schedules", [])), Nights())
    return Nights(last.cron if cron is None else cron, last.timezone if timezone is None else timezone, notify)


def _file_of(settings: Settings) -> Path:
    return settings.workspace / "deployments.yaml"


def _check_schedule(nights: Nights) -> None:
    try:
        CronSchedule(cron=nights.cron, timezone=nights.timezone)
        why = _no_nights(nights.cron)
    except ValidationError as error:
        wrong = error.errors()[0]
        if "timezone" in wrong["loc"]:
            raise ConfigError(f"--timezone {nights.timezone!r} is no time zone; it is a name of the IANA database, "
                              "e.g. Europe/Berlin or UTC") from error
        why = wrong["msg"]
    if why:
        raise ConfigError(f"--cron {nights.cron!r} is no schedule ({why}); it is five fields, in the time "
                          "zone of --timezone, e.g. '30 2 * * *' for half past two every night")


def _no_nights(cron: str) -> str | None:
    """Why a cron line that Prefect takes brings no nights; None where it does. Its scheduler waits for ever then."""
    if (fields := len(cron.split())) != FIELDS:
        return f"its fields are {fields}" if fields > 1 else "nicknames are not taken"
    now = datetime.now()
    try:
        waits = [croniter(cron, day).get_next(datetime) - day  # type: ignore[no-untyped-call]
                 for day in (now + timedelta(days=days) for days in range(0, 366, 5))]
    except CroniterBadDateError:
        return "there is no such day"
    return f"more than {RARELY_DAYS} days pass without a night" if max(waits).days >= RARELY_DAYS else None


def filled(plan: dict[str, Any], settings: Settings, pool: str, nights: Nights, root: Path) -> dict[str, Any]:
    """The deployment file with absolute working directory, job environment, pool and schedule filled in.

    Whoever may read the workspace or the server can read it. So what holds a password is left out of the job
    environment; a job also has the environment of its worker.
    """
    secrets = secret_names(settings)
    environment = {name: value for name, value in job_environment(settings).items() if name not in secrets}
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}]
    work_pool = {"name": pool, "job_variables": {"env": environment}}

    def one(deployment: dict[str, Any]) -> dict[str, Any]:
        new = {**deployment, "work_pool": work_pool}
        if "schedules" in deployment:
            when = {"cron": nights.cron, "timezone": nights.timezone}
            new["schedules"] = [{**schedule, **when} for schedule in deployment["schedules"]]
        return new

    return {**plan, "pull": pull, "deployments": [one(each) for each in plan["deployments"]]}


def secret_names(settings: Settings) -> list[str]:
    """The variables of the job environment whose values hold a password."""
    return [name for name, value in job_environment(settings).items() if has_secret(value)]


def make_pool(api_url: str, pool: str) -> bool:
    """Make a work pool of type process where it is missing; whether it was.

    Raises:
        OrchestrationError: the server refuses.
    """
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
            return False
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
            return True
        except PrefectHTTPStatusError as error:
            raise OrchestrationError(f"the Prefect server at {api_url} does not tell of the work pool {pool}: "
                                     f"{str(error).splitlines()[0]}; correct PREFECT_API_URL, or look at its log"
                                     ) from error


def _prefect_deploy(file: Path, settings: Settings, root: Path) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    try:
        done = subprocess.run(command, cwd=root, env=child_environment(job_environment(settings)), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise OrchestrationError(f"prefect deploy did not end within {TIMEOUT_S} s at {settings.prefect_api_url}; look "
                                 "at the server's log and repeat the command") from error
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-20:])
        raise OrchestrationError(f"prefect deploy refused {file}; it said:\n{tail}")
