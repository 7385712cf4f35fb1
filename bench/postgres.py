"""A real PostgreSQL on loopback, made for a bench or a test and removed behind it."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text

from infra.servers import free_port


class NoPostgres(Exception):
    """There is none on this machine, or nobody who may run it; says what to do."""


@contextmanager
def postgres(password: str) -> Iterator[str]:
    """host:port of a server that asks the user `postgres` for this password.

    Raises:
        NoPostgres: it cannot be run here.
    """
    programs, user = _programs(), as_user()
    folder, port = Path(tempfile.mkdtemp(prefix="sft-postgres-")), free_port()
    folder.chmod(0o777)  # the server runs as somebody else
    (folder / "password").write_text(password, encoding="utf-8")

    def run(program: str, *arguments: object) -> None:
        command = [*user, str(programs / program), "-D", str(folder / "data"), *map(str, arguments)]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        run("initdb", "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}")
        run("pg_ctl", "-w", "-l", folder / "log", "-o", f"-p {port} -h 127.0.0.1 -k {folder} -F", "start")
        try:
            yield f"127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
              *(Path(folder) for folder in os.environ["PATH"].split(os.pathsep))]
    for place in places:
        if (place / "initdb").exists() and (place / "pg_ctl").exists():
            return place
    raise NoPostgres("there is no PostgreSQL here (Debian: apt install postgresql)")


def as_user() -> list[str]:
    """What a command of the server begins with, for the user that may run it."""
    if os.geteuid():
        return []
    try:  # PostgreSQL refuses to run as root
        pwd.getpwnam("postgres")
    except KeyError:
        raise NoPostgres("PostgreSQL does not run as root, and there is no user postgres") from None
    return ["runuser", "-u", "postgres", "--"]


def restart(url: str, away_s: float) -> None:
    """Kill all of a server on this machine at once, and start it again after a while.

    Args:
        url: of one of its databases.
        away_s: how long it is away.
    """
    engine = create_engine(url)
    with engine.connect() as connection:
        data = Path(str(connection.scalar(text("show data_directory"))))
    engine.dispose()
    command = shlex.split((data / "postmaster.opts").read_text(encoding="utf-8"))
    server = psutil.Process(int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0]))
    everything = [server, *server.children()]
    for process in everything:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(everything)
    time.sleep(away_s)
    subprocess.Popen([*as_user(), *command], cwd=data.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                     start_new_session=True)
