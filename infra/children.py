"""Child processes end with their parent, also when it is killed, and when they are told to."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from infra.settings import adopt

GRACE_S = 60.0  # a trial that is told to stop saves a checkpoint first
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: a forked child must not load anything


def end_with_parent() -> Callable[[], None]:
    """For `preexec_fn` of Popen: SIGTERM to the child when this process is gone (Linux only; elsewhere it stays)."""
    parent = os.getpid()

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it was gone before that
                os.kill(os.getpid(), signal.SIGTERM)

    return prepare


def heed_worker() -> None:
    """SIGTERM to this process when the worker of Prefect that started it is gone (Linux only). Other parents are left
    out: for the kernel the end of the thread that started a process is enough."""
    try:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return
    if _LIBC is not None and b"\0worker\0start\0" in parent:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM to the leader of a session of its own, time to save, then SIGKILL to all its processes."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def end_all(processes: Iterable[subprocess.Popen[bytes]], grace_s: float) -> None:
    """End those that still run, as `end` does one; all are told before any is waited for."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        end(process, grace_s)


def last_line(output: Path) -> str:
    """The last line with something in it of what a process printed; empty where there is none."""
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines() if output.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def killed_for_memory() -> int:
    """How many processes the kernel of this machine has killed so far because memory ran out; 0 where it does not say.
    """
    file = Path("/proc/vmstat")
    counts = dict(line.split() for line in file.read_text().splitlines()) if file.exists() else {}
    return int(counts.get("oom_kill", 0))


class Forked:
    """A child that begins with all that this process has imported. It holds no file lock of its parent's."""

    def __init__(self, work: Callable[[], int], output: Path, environment: Mapping[str, str]) -> None:
        """Fork; to be called while this process has one thread, as others do not live on in the child.

        Args:
            work: what the child does; returns its exit code.
            output: file that gets what the child prints.
            environment: variables that it has otherwise.
        """
        prepare = end_with_parent()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        self._code: int | None = None
        if not self.pid:
            _be_a_child(work, output, environment, prepare)

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def end(self, grace_s: float) -> None:
        """SIGTERM, time to save, then SIGKILL to all its processes."""
        os.kill(self.pid, signal.SIGTERM)
        until = time.monotonic() + grace_s
        while self.poll() is None:
            if time.monotonic() > until:
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.05)


def _be_a_child(work: Callable[[], int], output: Path, environment: Mapping[str, str], prepare: Callable[[], None]
                ) -> NoReturn:
    """Never returns: what stands behind the fork in the parent's code is the parent's."""
    code = 1
    try:
        os.setsid()
        prepare()
        atexit._clear()  # the parent's servers and logs are its own to end
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        adopt(environment)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(torch.get_num_threads())  # renews its pool before two threads ask for it at once
        try:
            code = work()
        finally:
            threading._shutdown()  # type: ignore[attr-defined]  # as at the end of any Python: Prefect sends its last lines then
            atexit._run_exitfuncs()
    finally:
        if (error := sys.exc_info()[1]) is not None:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
