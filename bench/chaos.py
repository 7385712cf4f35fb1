"""A workspace with servers of its own, and what befalls a command that works in it: kills and other misfortunes.

`tests/pipeline/test_chaos.py` compares what is there at the end with what an undisturbed command leaves.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import psutil
from sqlalchemy import create_engine, text

from bench.postgres import restart
from infra.postgres import Databases
from infra.servers import Command, Service, free_port, healthy, mlflow_server, prefect_server, start

ROOT = Path(__file__).resolve().parents[1]
TRIES = 12
"""How often the same command is given where nothing disturbs it any more; one has to do."""
DISK_BYTES = 512_000_000


class World:
    """A workspace on a disk of its own with servers of its own, and the command that is disturbed in it."""

    def __init__(self, folder: Path, seed: int, arguments: Sequence[object],
                 databases: Databases | None = None) -> None:
        self.folder, self.rng, self.arguments = folder / "disk", random.Random(seed), list(map(str, arguments))
        self.databases, self.said, self.clock = databases, folder / "said.log", folder / "clock"
        self.home, self.befallen = self.folder / "home", Counter[str]()
        self.gone = 0  # servers of Prefect that never came back, with all that they knew
        self.folder.mkdir(parents=True)
        self.has_disk = not subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs",
                                            str(self.folder)], capture_output=True).returncode
        self.clock.write_text("0", encoding="utf-8")
        self.has_clock = _compiled(folder / "clock.so")
        self.process: subprocess.Popen[bytes] | None = None
        self.stand()

    def stand(self) -> None:
        """Start the servers."""
        self.prefect, self.mlflow = self.serve(self._prefect(free_port())), self.serve(self._mlflow(free_port()))

    @property
    def addresses(self) -> tuple[str, str]:
        """Of Prefect and of MLflow."""
        return self.prefect.url, self.mlflow.url

    def _prefect(self, port: int) -> Command:
        place = self.folder / f"prefect-{self.gone}"
        return prefect_server(place, port, self.databases.prefect if self.databases and not self.gone else None)

    def _mlflow(self, port: int) -> Command:
        return mlflow_server(self.folder / "mlflow", port, self.databases.mlflow if self.databases else None)

    def serve(self, command: Command) -> Service:
        """Start a server on the disk of this world and under its clock."""
        with mock.patch.dict(os.environ, self.ticking()):
            return healthy(start(command))

    def ticking(self) -> dict[str, str]:
        """Variables of a process that is to live under the clock of this world."""
        if not self.has_clock:
            return {}
        return {"LD_PRELOAD": str(self.said.with_name("clock.so")), "JUMPING_CLOCK": str(self.clock)}

    @property
    def usual(self) -> dict[str, str]:
        """Variables of every command."""
        return {"SFT_HOME": str(self.home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    @property
    def environment(self) -> dict[str, str]:
        """Of the command."""
        studies = {"SFT_STUDY_STORAGE": self.databases.studies} if self.databases else {}
        reached = {"PREFECT_API_URL": self.prefect.url, "MLFLOW_TRACKING_URI": self.mlflow.url}
        return {**os.environ, **self.usual, **reached, **studies, **self.ticking()}

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """In a session of its own, with what it says in a file."""
        with self.said.open("ab") as said:
            return subprocess.Popen([sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, env=self.environment,
                                    stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True)

    def answer(self, *arguments: str) -> str:
        """What another command prints."""
        done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, env=self.environment,
                              text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def begin(self) -> None:
        """Give the command."""
        self.process = self.command(*self.arguments)

    def keep_up(self) -> None:
        """Give the command again where it has ended."""
        if self.process is None or self.process.poll() is not None:
            self.begin()

    def finish(self) -> None:
        """The same command again, undisturbed, until it has done its work and nothing of it is left."""
        for _ in range(TRIES):
            assert self.process is not None
            if self.process.wait(600) == 0:
                break
            self.begin()
        else:
            raise AssertionError(self.said.read_text(errors="replace")[-4000:])
        self.let_end()

    def let_end(self) -> None:
        """Wait for what ends by itself: the second command, and what ends with its parent."""
        deadline = time.monotonic() + 60
        while self.mine() and time.monotonic() < deadline:
            time.sleep(0.1)

    def mine(self) -> list[psutil.Process]:
        """Processes of the workspace, those of its servers aside."""
        found = []
        for one in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if one.environ().get("SFT_HOME") == str(self.home):
                    found.append(one)
        return found

    def kill(self) -> None:
        """Kill all of it."""
        kill_all(self.mine())
        self.prefect.stop(kill=True)
        self.mlflow.stop(kill=True)

    def close(self) -> None:
        """End all of it, and leave nothing."""
        self.kill()
        if self.has_disk:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def again(self, service: Service, command: Callable[[int], Command], away_s: float) -> Service:
        """The service killed and, after a while, on the same port with the same database."""
        service.stop(kill=True)
        time.sleep(away_s)
        port = urlsplit(service.url).port
        assert port
        return self.serve(command(port))


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """Those that still live."""
    for one in processes:
        with suppress(psutil.Error):
            one.kill()


def _compiled(library: Path) -> bool:
    """Whether there is a C compiler for the library that lets a clock jump."""
    if (compiler := shutil.which("cc")) is None:
        return False
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
    return True


Misfortune = Callable[[Any], None]
"""What befalls a world, or one of its kinds."""


def _kill_one(world: World, there: list[psutil.Process]) -> None:
    if there or (there := world.mine()):
        with suppress(psutil.Error):
            world.rng.choice(there).kill()


def kill_command(world: World) -> None:
    """Training of a run is in the command's own process; the children of both end with it."""
    assert world.process is not None
    world.process.kill()


def kill_worker(world: World) -> None:
    """Of a sweep, with its trial; else whatever works in the workspace."""
    _kill_one(world, [one for one in _workers(world)])


def kill_trial(world: World) -> None:
    """The process that trains in a sweep; else whatever works in the workspace."""
    _kill_one(world, [child for one in _workers(world) for child in one.children()])


def _workers(world: World) -> list[psutil.Process]:
    found = []
    for one in world.mine():
        with suppress(psutil.Error):
            parent = one.parent()
            if "sweep-worker" in one.cmdline() and not (parent and "sweep-worker" in parent.cmdline()):
                found.append(one)
    return found


def kill_prefect(world: World) -> None:
    """It comes back."""
    world.prefect = world.again(world.prefect, world._prefect, world.rng.uniform(0.0, 3.0))


def kill_mlflow(world: World) -> None:
    """It comes back."""
    world.mlflow = world.again(world.mlflow, world._mlflow, world.rng.uniform(0.0, 3.0))


def kill_mlflow_for_a_minute(world: World) -> None:
    """It comes back, later than training waits for it."""
    world.mlflow = world.again(world.mlflow, world._mlflow, 60.0)


def kill_prefect_for_good(world: World) -> None:
    """What was told to it is lost; the next command has another one, elsewhere."""
    world.prefect.stop(kill=True)
    world.gone += 1
    world.prefect = world.serve(world._prefect(free_port()))


def kill_postgres(world: World) -> None:
    """All of its processes at once; it comes back and recovers."""
    assert world.databases
    restart(world.databases.studies, world.rng.uniform(0.0, 5.0))


def drop_connections(world: World) -> None:
    """`pg_terminate_backend` of every connection of this world."""
    assert world.databases
    names = [urlsplit(one).path.strip("/") for one in world.databases]
    engine = create_engine(world.databases.studies, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("select pg_terminate_backend(pid) from pg_stat_activity where datname = any(:names) "
                                "and pid <> pg_backend_pid()"), {"names": names})
    engine.dispose()


def pause(world: World) -> None:
    """Nothing of the workspace goes on for a while."""
    there = world.mine()
    for number, wait in ((signal.SIGSTOP, world.rng.uniform(1.0, 4.0)), (signal.SIGCONT, 0.0)):
        for one in there:
            with suppress(psutil.Error):
                one.send_signal(number)
        time.sleep(wait)


def twice(world: World) -> None:
    """The same command a second time, beside the first."""
    world.command(*world.arguments)


def fill_disk(world: World) -> None:
    """That of the workspace and of both servers, for a while."""
    ballast, disk = world.folder / "ballast", os.statvfs(world.folder)
    left = world.rng.choice((0, 40_000, 400_000))
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        for _ in range(0, disk.f_bavail * disk.f_frsize - left, 1 << 16):
            file.write(b"\0" * (1 << 16))
    time.sleep(world.rng.uniform(3.0, 10.0))
    ballast.unlink()


def put_clock_forward(world: World) -> None:
    """For the command, its children and both servers, by hours."""
    world.clock.write_text(str(3600 * world.rng.randint(1, 40)), encoding="utf-8")


def put_clock_back(world: World) -> None:
    """For the command, its children and both servers, by hours."""
    world.clock.write_text(str(-3600 * world.rng.randint(1, 40)), encoding="utf-8")


KILLS: tuple[Misfortune, ...] = (kill_command, kill_worker, kill_trial, kill_prefect, kill_mlflow)
"""What befalls a command in every round."""
CLOCKS: tuple[Misfortune, ...] = (put_clock_back, put_clock_forward)
DATABASE: tuple[Misfortune, ...] = (kill_postgres, drop_connections)
"""Where the servers and the studies are in PostgreSQL."""
RARE: tuple[Misfortune, ...] = (fill_disk, put_clock_back, kill_prefect_for_good, pause, put_clock_forward, twice,
                                kill_mlflow_for_a_minute)
"""Of these two befall it in each round, by turns."""


SHORT: tuple[Misfortune, ...] = (
    put_clock_forward, kill_command, kill_postgres, kill_trial, drop_connections, kill_mlflow, put_clock_back,
    kill_trial, drop_connections, kill_postgres, kill_worker, fill_disk, drop_connections, kill_trial)
"""What takes little time: ten kills in every test run."""


def hand(seed: int, database: bool) -> tuple[Misfortune, ...]:
    """What befalls a command in the round of this seed, in order."""
    rare = [RARE[(2 * seed + turn) % len(RARE)] for turn in range(2)]
    dealt = [*KILLS, *KILLS[:3], *(DATABASE if database else ()), *rare]
    return tuple(random.Random(seed).sample(dealt, len(dealt)))


def can_befall(one: Misfortune, world: World) -> bool:
    """Whether it can be had on this machine."""
    return (one is not fill_disk or world.has_disk) and (one not in CLOCKS or world.has_clock)


def is_kill(one: Misfortune) -> bool:
    """Whether it ends processes or connections, as its name tells."""
    return one.__name__.startswith(("kill_", "drop_", "pull_"))
