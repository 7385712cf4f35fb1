"""What `sft up` started in a workspace, a run that its worker has, and what befalls them.

The run is to end where the command alone ends (`tests/pipeline/test_chaos.py`).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun, StateType

from bench.chaos import (
    DATABASE,
    ROOT,
    TRIES,
    Misfortune,
    World,
    fill_disk,
    kill_all,
    pause,
    put_clock_back,
    put_clock_forward,
    twice,
)
from infra.daemons import Daemon, read_state

DEPLOYMENT = "sft-experiment"
LONGEST_S = 600.0
"""How long a run that nothing disturbs may take."""


class Platform(World):
    """Servers and worker are those of `sft up`, which is given again after each misfortune; so is the run where it has
    ended in another way than it should. `arguments`: of the command that does the same without a worker."""

    def stand(self) -> None:
        """Nothing yet: the first `sft up` starts it."""

    def daemon(self, name: str) -> Daemon:
        """As it was started last."""
        return read_state(self.home).daemons[name]

    @property
    def addresses(self) -> tuple[str, str]:
        """Of Prefect and of MLflow."""
        return self.daemon("prefect").url, self.daemon("mlflow").url

    @property
    def environment(self) -> dict[str, str]:
        """Of a shell that knows the workspace and no server."""
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("PREFECT_API", "MLFLOW_TRACKING"))}
        database = self.databases.studies.removesuffix("_studies") if self.databases else None
        return {**kept, **self.usual, **({"SFT_DATABASE_URL": database} if database else {}), **self.ticking()}

    def keep_up(self) -> None:
        """`sft up` until all is well, and the run begun where none is open or complete."""
        for _ in range(TRIES):
            if self.command("up").wait(300) == 0:
                break
        else:
            raise AssertionError(self.said.read_text(errors="replace")[-4000:])
        if all(run.state_type in (StateType.FAILED, StateType.CRASHED) for run in self.runs()):
            self.begin()

    def begin(self) -> None:
        """The run, by the deployment."""
        _, config, *rest = self.arguments
        given = [f"config={config}", "overrides=" + json.dumps([one for one in rest if one != "--set"])]
        command = [sys.executable, "-m", "prefect", "deployment", "run", f"{DEPLOYMENT}/{DEPLOYMENT}",
                   *(word for one in given for word in ("-p", one))]
        with self.said.open("ab") as said:
            subprocess.run(command, cwd=ROOT, stdout=said, stderr=said, timeout=120, check=True,
                           env=self.environment | {"PREFECT_API_URL": self.addresses[0]})

    def runs(self) -> list[FlowRun]:
        """Of the deployment, as the server knows them."""
        named = DeploymentFilter(name=DeploymentFilterName(any_=[DEPLOYMENT]))
        with SyncPrefectClient(self.addresses[0]) as client:
            return client.read_flow_runs(deployment_filter=named)

    def finish(self) -> None:
        """The same again, undisturbed, until a run is complete and none is open."""
        deadline = time.monotonic() + LONGEST_S
        for _ in range(TRIES):
            self.keep_up()
            while any(run.state is None or not run.state.is_final() for run in self.runs()):
                assert time.monotonic() < deadline, (self.runs(), self.said.read_text(errors="replace")[-4000:])
                time.sleep(0.5)
            if any(run.state_type == StateType.COMPLETED for run in self.runs()):
                break
        self.let_end()

    def mine(self) -> list[psutil.Process]:
        """Processes of the workspace, those of its servers and the worker itself aside."""
        daemons = read_state(self.home).living()
        servers, worker = {daemons[name].pid for name in daemons if name != "worker"}, daemons.get("worker")
        found = []
        for one in super().mine():
            with suppress(OSError):
                if os.getsid(one.pid) not in servers and not (worker and one.pid == worker.pid):
                    found.append(one)
        return found

    def kill(self) -> None:
        """Kill all of it."""
        kill_all(super().mine())


def kill_daemon(world: Platform, name: str) -> None:
    """Alone, or with what it has started in its group."""
    kill = world.rng.choice((os.kill, os.killpg))
    with suppress(ProcessLookupError, KeyError):
        kill(world.daemon(name).pid, signal.SIGKILL)


def kill_worker(world: Platform) -> None:
    """Alone: its run ends by itself."""
    with suppress(ProcessLookupError):
        os.kill(world.daemon("worker").pid, signal.SIGKILL)


def kill_run(world: Platform) -> None:
    """One of the processes that the worker has started, where there is one."""
    if there := world.mine():
        kill_all([world.rng.choice(there)])


def kill_prefect(world: Platform) -> None:
    """`sft up` starts it again."""
    kill_daemon(world, "prefect")


def kill_mlflow(world: Platform) -> None:
    """`sft up` starts it again."""
    kill_daemon(world, "mlflow")


def pull_the_plug(world: Platform) -> None:
    """Everything at once."""
    world.kill()


def kill_up(world: Platform) -> None:
    """Everything at once, and the `sft up` that starts it again, on its way."""
    world.kill()
    up = world.command("up")
    time.sleep(world.rng.uniform(0.0, 10.0))
    up.kill()


def go_down(world: Platform) -> None:
    """`sft down`."""
    world.command("down").wait(300)


KILLS: tuple[Misfortune, ...] = (kill_worker, kill_run, kill_run, kill_prefect, kill_mlflow, pull_the_plug, kill_up)
"""What befalls the platform in every round."""
RARE: tuple[Misfortune, ...] = (go_down, put_clock_back, twice, fill_disk, put_clock_forward, pause)
"""Of these two befall it in each round, by turns."""


def hand(seed: int, database: bool) -> tuple[Misfortune, ...]:
    """What befalls the platform in the round of this seed, in order."""
    dealt = [*KILLS, *(DATABASE if database else ()), *(RARE[(2 * seed + turn) % len(RARE)] for turn in range(2))]
    return tuple(random.Random(seed).sample(dealt, len(dealt)))
