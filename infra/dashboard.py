"""optuna-dashboard on a sweep, as long as somebody looks; on 127.0.0.1 alone, as whoever comes may delete studies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

from infra.databases import check_driver, try_connection
from infra.stored import read_aim
from infra.study_storage import door, storage_at
from sft_core.errors import ConfigError, Interrupted, OrchestrationError
from sft_core.stopping import sleep

HOST = "127.0.0.1"


def serve(name: str | None, workspace: Path, storage: str | None, port: int, say: Callable[[str], None]) -> None:
    """Serve the dashboard until a signal asks to stop.

    Args:
        name: the sweep; None: all of a database, or the only one of the workspace.
        workspace: where journals of studies are.
        storage: Optuna storage URL; None: the journal in the workspace.
        port: where it listens; 0: any that is free.
        say: is told the address of the page, as soon as it answers.

    Raises:
        ConfigError: there is no such sweep, or several in the workspace and no name.
        OrchestrationError: optuna-dashboard is missing, the storage cannot be reached, or the port is taken.
    """
    if find_spec("optuna_dashboard") is None:
        raise OrchestrationError("the dashboard needs the package optuna-dashboard; install it with "
                                 "`pip install 'sft-platform[dashboard]'`")
    from optuna_dashboard import wsgi

    if name is None and storage is None:
        name = _only(workspace)
    if name is not None:
        read_aim(name, workspace, storage)
    with door("open the study storage"):
        if storage:
            check_driver("search.storage", storage)
            try_connection(storage)
        kept = storage_at(storage, str(workspace / "studies" / f"{name}.log"))
        page = "dashboard" if name is None else f"dashboard/studies/{kept.get_study_id_from_name(name)}"
    try:
        server = make_server(HOST, port, wsgi(kept), handler_class=_Quiet)
    except OSError as error:
        raise OrchestrationError(f"port {port} of {HOST} cannot be listened on ({error.strerror}); choose another one "
                                 "with --port") from error
    threading.Thread(target=server.serve_forever, name="dashboard", daemon=True).start()
    say(f"http://{HOST}:{server.server_port}/{page}")
    try:
        with suppress(Interrupted):
            while True:
                sleep(60.0)
    finally:
        server.shutdown()
        server.server_close()


def _only(workspace: Path) -> str:
    there = sorted(file.stem for file in (workspace / "studies").glob("*.log"))
    if len(there) != 1:
        raise ConfigError(f"which sweep? There are {', '.join(there) or 'none'} in {workspace / 'studies'}; name one, "
                          "or a database with --storage or SFT_STUDY_STORAGE")
    return there[0]


class _Quiet(WSGIRequestHandler):
    """Says nothing of every request."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
