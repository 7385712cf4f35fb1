"""The only reader of environment variables, and the environment block of every process of the platform.

`flows/cli.py` calls `prepare_environment(read_settings())` before anything imports Prefect or MLflow: both read
their environment at import. So this file imports neither, nor anything that does.

What a user has set always wins, then come the servers of `sft up` in the workspace, as long as they live; the block
below only fills gaps. Why each line is there:

* Telemetry off in Prefect (SDK and server), MLflow and the Hugging Face libraries. MLflow ignores `DO_NOT_TRACK=1`,
  so the value is `true`.
* `PREFECT_HOME` inside the workspace: a run leaves nothing in the home folder and needs nothing from it. A server
  that the user has chosen in the active profile of `~/.prefect` is still honoured (`_profile_api_url`).
* Prefect's client tries a request that fails three times more, after 2, 4 and 8 s, not five times (62 s): the end of a
  run must not wait a minute for a server that is gone.
* The commands start a server of their own (`servers.ensure_prefect`). A flow that is called from Python without it
  gets Prefect's temporary one: 5 to 18 s, hence the longer start-up timeout. Stopped at exit with events in its queue
  it prints tracebacks, its own ("Error flushing 1 events") and SQLAlchemy's; nothing of ours is lost, because the
  stage folders are the truth. Its own log level is therefore CRITICAL; what matters reaches the caller as an HTTP
  error anyway. Set PREFECT_SERVER_LOGGING_LEVEL to see it all. "Starting temporary server …"
  is an INFO line of the logger `prefect`: that one says warnings only, the loggers of flow and task runs go on.
* Dask tells of every connection and every key; its levels are set where it is imported, by this variable.
* MLflow: no INFO chatter, no lines with URLs, no progress bar per uploaded file, no job runner in a local server
  (0.5 instead of 3.3 GB), and few short retries: a tracker that is down must not hold training for minutes.
"""

from __future__ import annotations

import getpass
import os
import platform
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from infra.addresses import absolute_uri, check_address, check_addresses
from infra.daemons import read_state
from infra.dask import check_cluster
from infra.disk import check_writable
from infra.layout import check_layout
from infra.postgres import databases
from sft_core.errors import ConfigError
from sft_core.masking import has_secret, masked

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
NO_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
"""Where nobody sees it move, a library's bar is a line for every step of it in a file."""
PREFECT_BLOCK = {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_CLIENT_MAX_RETRIES": "3"}
PREFECT_TEMPORARY_SERVER = {
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
}
MLFLOW_BLOCK = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "GIT_PYTHON_REFRESH": "quiet",
}


TEMPORARY = "SFT_TEMPORARY_PREFECT"
"""Variable that tells processes which this one starts that its Prefect server is no configured one."""


@dataclass(frozen=True, repr=False)
class Settings:
    """Where this installation keeps and finds things. All paths are absolute, so that a worker and a shell agree."""

    workspace: Path
    """Folder of everything the platform writes: stages, MLflow's SQLite, studies, Prefect's home (SFT_HOME)."""
    mirror: Path | None
    """Folder that maps hub ids to local copies of the same shape (SFT_MIRROR)."""
    mlflow_uri: str
    """Tracking URI (MLFLOW_TRACKING_URI); by default the server of `sft up`, or SQLite in the workspace."""
    prefect_api_url: str | None
    """Prefect's API (PREFECT_API_URL, the user's active profile, or the server of `sft up`); None: a temporary server
    per process."""
    prefect_home: Path
    """Prefect's state folder (PREFECT_HOME); by default inside the workspace."""
    study_storage: str | None = None
    """Optuna storage URL of sweeps that name none (SFT_STUDY_STORAGE, or of SFT_DATABASE_URL); None: a journal in the
    workspace."""
    database: str | None = None
    """PostgreSQL in which Prefect, MLflow and studies are kept, a database each (SFT_DATABASE_URL)."""
    artifacts: str | None = None
    """Folder (as file:// URI) or bucket of MLflow's artifacts (SFT_ARTIFACTS); None: `mlartifacts` in the workspace."""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables by which clients of Prefect and MLflow say who they are, where the servers of `sft up` ask for it."""
    address: str | None = None
    """Under which other machines that train with this one reach it (SFT_ADDRESS)."""
    share: bool = False
    """Finished stages that all trials of a sweep have in common are kept on the MLflow server, for machines that have
    no workspace in common (SFT_SHARE=mlflow)."""
    dask: str | None = None
    """Scheduler of the Dask cluster that works on data, or `local:N` (SFT_DASK); None: processes of this machine."""

    def __repr__(self) -> str:
        """Without passwords: of databases and servers in their addresses, of clients at all."""
        shown = {one.name: getattr(self, one.name) for one in fields(self) if one.repr}
        return masked(f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})")


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the environment once. Empty variables count as unset.

    Raises:
        ConfigError: SFT_MIRROR is not a folder, SFT_HOME is a file, SFT_SHARE, SFT_DATABASE_URL, SFT_ARTIFACTS or
            SFT_DASK is nothing that is known, or the password of an address needs quoting.
    """
    check_addresses(environ)

    def given(name: str) -> str | None:
        return environ.get(name, "").strip() or None

    workspace = _workspace(environ)
    if workspace.exists() and not workspace.is_dir():
        raise ConfigError(f"SFT_HOME={workspace} is not a folder; set it to a folder that can be written, "
                          "or unset it to use ./.sft")
    mirror = Path(text).expanduser().absolute() if (text := given("SFT_MIRROR")) else None
    if mirror and not mirror.is_dir():
        raise ConfigError(f"SFT_MIRROR={mirror} is not a folder; set it to a folder that holds hub ids as "
                          "sub-folders (openai/gsm8k/…), or unset it")
    if (share := given("SFT_SHARE")) not in (None, "mlflow"):
        raise ConfigError(f"SFT_SHARE={share} is no place for finished stages; set it to mlflow (the artifacts of the "
                          "MLflow server), or unset it")
    home = given("PREFECT_HOME")
    state = read_state(workspace)
    up = {name: daemon.url for name, daemon in state.living().items()}
    database = given("SFT_DATABASE_URL") or state.database  # also after a reboot: only `sft down` forgets it
    return Settings(
        workspace=workspace,
        mirror=mirror,
        mlflow_uri=absolute_uri(given("MLFLOW_TRACKING_URI")) or up.get("mlflow")
        or own_store(workspace, database),
        prefect_api_url=given("PREFECT_API_URL") or _profile_api_url(Path(home or "~/.prefect").expanduser())
        or up.get("prefect"),
        prefect_home=Path(home).expanduser().absolute() if home else workspace / "prefect",
        study_storage=absolute_uri(given("SFT_STUDY_STORAGE")) or (databases(database).studies if database else None),
        database=database,
        artifacts=_place_of_artifacts(given("SFT_ARTIFACTS")) or state.artifacts,
        credentials={**state.environment, **_credentials(environ)},
        address=given("SFT_ADDRESS"),
        share=share is not None,
        dask=check_cluster(cluster) if (cluster := given("SFT_DASK")) else None,
    )


def _workspace(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("SFT_HOME", "").strip() or ".sft").expanduser().absolute()


def own_store(workspace: Path, database: str | None) -> str:
    """The database of MLflow: in PostgreSQL, or SQLite in the workspace."""
    return databases(database).mlflow if database else f"sqlite:///{workspace / 'mlflow.db'}"


def _credentials(environ: Mapping[str, str]) -> dict[str, str]:
    said = {"PREFECT_API_AUTH_STRING": environ.get("PREFECT_API_AUTH_STRING") or
            environ.get("PREFECT_SERVER_API_AUTH_STRING"),
            **{name: environ.get(name) for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}}
    return {name: value for name, value in said.items() if value}


def _place_of_artifacts(text: str | None) -> str | None:
    if text is None or text.startswith("s3://"):
        if text and "@" in urlsplit(text).netloc:
            raise ConfigError("SFT_ARTIFACTS has something before the name of its bucket, and takes no keys there; "
                              "write s3://bucket/prefix, and the keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return text
    if "://" in text:
        raise ConfigError(f"SFT_ARTIFACTS={text} is no place for artifacts; set it to a folder or s3://bucket/prefix, "
                          "or unset it to use the workspace")
    return Path(text).expanduser().absolute().as_uri()


def bucket_endpoint(environ: Mapping[str, str] = os.environ) -> str | None:
    """The server of the bucket of SFT_ARTIFACTS, from MLFLOW_S3_ENDPOINT_URL, where MLflow looks; None: Amazon's."""
    return environ.get("MLFLOW_S3_ENDPOINT_URL", "").strip() or None


def server_key(environ: Mapping[str, str] = os.environ) -> str | None:
    """The API key of a model behind a server, from OPENAI_API_KEY, where its own clients look; None without one."""
    return environ.get("OPENAI_API_KEY", "").strip() or None


def nightly_webhook(environ: Mapping[str, str] = os.environ) -> str | None:
    """Where a red night is told: SFT_NIGHTLY_WEBHOOK, else as `sft up` was told; None where nobody is to be. Whoever
    knows such an address may post there, so it is shown nowhere, and kept in the owner's state file alone."""
    return environ.get("SFT_NIGHTLY_WEBHOOK", "").strip() or read_state(_workspace(environ)).webhook


def secret(name: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The value of an environment variable that a configuration names (`key_env`); None where it names none.

    Raises:
        ConfigError: the variable is not set.
    """
    if name is None:
        return None
    value = environ.get(name, "").strip()
    if not value:
        raise ConfigError(f"key_env names the environment variable {name}, which is not set; set it to the API key")
    return value


def person() -> str:
    """Who is at work: the user of this process and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry among the system's
        user = f"user {os.getuid()}"
    return f"{user}@{platform.node()}"


def job_environment(settings: Settings) -> dict[str, str]:
    """Environment of every job that a worker starts: absolute, so that it writes where the shell reads."""
    block = {
        **TELEMETRY_OFF,
        **PREFECT_BLOCK,
        **MLFLOW_BLOCK,
        "PREFECT_HOME": str(settings.prefect_home),
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "SFT_HOME": str(settings.workspace),
    }
    if settings.prefect_api_url:
        block["PREFECT_API_URL"] = settings.prefect_api_url
    if settings.mirror:
        block["SFT_MIRROR"] = str(settings.mirror)
    if settings.study_storage:
        block["SFT_STUDY_STORAGE"] = settings.study_storage
    if settings.artifacts:
        block["SFT_ARTIFACTS"] = settings.artifacts.removeprefix("file://")
    if settings.share:
        block["SFT_SHARE"] = "mlflow"
    if settings.dask:
        block |= {"SFT_DASK": settings.dask, "DASK_LOGGING__DISTRIBUTED": "warning"}
    return block


def shell_environment(settings: Settings) -> dict[str, str]:
    """For a shell: the commands `prefect` and `mlflow` use the same servers, and take bare names of deployments.

    Without passwords: what goes through a terminal may be seen, and `sft` itself finds them where it needs them.
    """
    block = {**job_environment(settings), "PREFECT_PLUGINS_ENABLED": "true"}
    return {name: value for name, value in block.items() if not has_secret(value)}


def prepare_environment(settings: Settings, *, make: bool = True, flows: bool = True) -> None:
    """Fill the gaps in this process's environment. To be called before Prefect and MLflow are imported.

    Args:
        make: make the workspace, and look whether it can be written; off for commands that only look.
        flows: whether flows may run here, with a temporary server where none is configured; off for a process whose
            environment lasting servers inherit.

    Raises:
        ConfigError: the workspace cannot be made, or a newer version of the platform made it.
        DiskError: it cannot be written, or takes no locks.
    """
    if make:
        _make_workspace(settings.workspace)
    if settings.workspace.is_dir():
        check_layout(settings.workspace, make=make)
    temporary = PREFECT_TEMPORARY_SERVER if flows and not settings.prefect_api_url else {}
    bars = {} if sys.stderr.isatty() else NO_BARS
    for name, value in {**job_environment(settings), **settings.credentials, **temporary, **bars}.items():
        if not os.environ.get(name, "").strip():
            os.environ[name] = value


def _make_workspace(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the workspace {folder}: {error}; set SFT_HOME to a folder that can be written"
                          ) from error
    check_writable(folder)


def use_prefect(api_url: str) -> None:
    """Make this process and those it starts use this temporary Prefect server. To be called before Prefect is imported.
    """
    os.environ["PREFECT_API_URL"] = os.environ[TEMPORARY] = api_url


def prefect_is_temporary(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the Prefect server that this process uses ends with it, or with the process that started it."""
    return environ.get("PREFECT_API_URL", "") == environ.get(TEMPORARY, "")


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with some variables replaced, for a process that is to be started."""
    return {**os.environ, **extra}


def adopt(environment: Mapping[str, str]) -> None:
    """Give this process, one that was forked off another, some variables of its own."""
    os.environ.update(environment)


def gpu_environment(number: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For a process that is to see one GPU alone: the one with this number among those that this process sees."""
    listed = listed_gpus(environ)
    return {"CUDA_VISIBLE_DEVICES": listed[number].strip() if listed else str(number)}


def threads_environment(workers: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For each of several processes that share the cores of this machine, unless the environment says it already."""
    if workers == 1 or "OMP_NUM_THREADS" in environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}


def listed_gpus(environ: Mapping[str, str] = os.environ) -> list[str] | None:
    """The GPUs that the environment lists for this process; None where it lists none."""
    seen = environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    return seen.split(",") if seen else None


def gpus_are_hidden(environ: Mapping[str, str] = os.environ) -> bool:
    """The environment lets no process see a GPU."""
    return environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def _profile_api_url(home: Path) -> str | None:
    """API URL of the active profile in a Prefect home, where `prefect config set` and `prefect cloud login` put it."""
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    active = profiles.get("profiles", {}).get(profiles.get("active", ""), {})
    url = active.get("PREFECT_API_URL")
    return check_address("PREFECT_API_URL of the active profile", str(url)) if url else None
