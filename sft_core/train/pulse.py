"""Processes of one run that watch each other: who is gone, stopped or stuck is named, and nobody waits on.

A collective cannot do that: gloo and NCCL wait until their timeout, and do not know for whom. So every process keeps a
file `pulse/…` in the run's folder. A thread writes it every second; it says what the main thread is doing. It is locked
as long as its process lives. The others read it:

* its lock is free: gone, known within seconds;
* it does not change for 45 looks (180 while it loads or saves): the process is stopped, or its machine hangs. Looks are
  counted, not seconds: who was stopped himself, or could not read, has not looked;
* its main thread stays behind the others': it is stuck where it says that it is.

Whoever finds this, or that another one has failed, has ten more looks' time to end by an error of its own; then its
watching thread ends it, because a main thread inside a collective hears nothing. `destroy_process_group` is no way
out: under NCCL it may wait for the same collective.

Long work of the first process alone (reading checkpoints, saving the model) is waited for in `turn`, outside of any
collective, so that the timeout of these can be short.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from sft_core.errors import Interrupted, SftError, TrainingError
from sft_core.locks import locked
from sft_core.stage import write_json

PULSE, FAILED = "pulse", "failed"
BEAT_S = 1.0
SILENT, SILENT_AT_WORK = 45, 180
"""Looks without a change after which a process does not answer; and while it loads or saves, where a library may keep
the interpreter for itself."""
GRACE = 10
"""Looks until a process is ended from its watching thread."""
LAG_S = 60.0
"""How long a process may stay behind the others at the same place; or ten times its longest so far."""
COMPILING_LAG_S = 600.0
LONGEST = 10
SYNC = 5  # beats between two syncs
SIZE = 4096  # bytes of a file, which is always written whole
log = logging.getLogger("sft")


class Beat(NamedTuple):
    """What a process says of itself."""

    pid: int
    host: str
    beats: int = 0
    places: int = 0  # where its main thread has been: counted alike by all processes
    doing: str = "starting"
    busy: bool = True  # with something that may take long
    patience_s: float = LAG_S  # how long it may stay in one place
    turns: int = 0  # calls of `turn` that are done
    failed: str = ""  # why it has left
    stopped: str = ""  # why it has left


@dataclass
class _Seen:
    """What another process's file has shown so far."""

    beat: Beat
    silent: int = 0  # looks at the same beat
    still: int = 0  # looks at the same place


class Pulse:
    """The file of this process, and the thread that writes it and looks at the others'."""

    def __init__(self, folder: Path, token: str, rank: int, processes: int, lag_s: float) -> None:
        self._files = [folder / f"{token}-{n}" for n in range(processes)]
        self.rank, self._lag_s = rank, lag_s
        self.found: SftError | None = None  # why this process cannot go on
        self.steady = False  # the first step is done, which compiles and allocates
        self._beat, self._since, self._longest = Beat(os.getpid(), socket.gethostname()), time.monotonic(), 0.0
        self._seen: dict[int, _Seen] = {}
        self._write_lock, self._over = threading.Lock(), threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{token}-{rank}"
        self._handle = draft.open("w")
        assert locked(self._handle)
        self._say()
        draft.rename(self._files[rank])  # held from the moment that it can be seen
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)
        self._thread.start()

    def at(self, doing: str, long: bool) -> None:
        """The main thread has come to another place."""
        now, was = time.monotonic(), self._beat
        if not was.busy:
            self._longest = max(self._longest, now - self._since)
        self._since = now
        self._say(places=was.places + 1, doing=doing, busy=long or not self.steady,
                  patience_s=max(self._lag_s, LONGEST * self._longest))

    def turn(self) -> None:
        """Wait until the first process has come here.

        Raises:
            TrainingError, Interrupted: it, or another, has ended or does not answer.
        """
        turns, pause_s = self._beat.turns + 1, 0.001
        while self.rank > 0:
            _, first = _read(self._files[0])
            if first is not None and first.turns >= turns:
                break
            if self.found is not None:
                raise self.found
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, BEAT_S / 4)
        self._say(turns=turns)
        self._sync()

    def lost(self) -> SftError | None:
        """Why others may have made this process fail, which is known a moment after it."""
        until = time.monotonic() + 3 * BEAT_S
        while self.found is None and time.monotonic() < until:
            time.sleep(BEAT_S / 10)
        return self.found

    def leave(self, error: BaseException | None) -> None:
        """Say why, or that all is well, and be watched no more."""
        self._over.set()
        self._thread.join()
        if error is None:
            self._files[self.rank].unlink(missing_ok=True)
            with suppress(OSError):
                self._files[self.rank].parent.rmdir()  # by the last one
        else:
            said = f"{error if isinstance(error, SftError) else repr(error)}"[: SIZE // 8]
            self._say(**{"stopped" if isinstance(error, Interrupted) else "failed": said})
            self._sync()
        self._handle.close()

    # The thread

    def _watch(self) -> None:
        left = GRACE
        while not self._over.wait(BEAT_S):
            self._say(beats=self._beat.beats + 1)
            if self._beat.beats % SYNC == 0:
                self._sync()
            if self.found is None:
                self.found = self._look()
                continue
            left -= not self._beat.busy or not self.steady  # who works alone is not waiting for anybody
            if left <= 0:
                self._end(self.found)

    def _look(self) -> SftError | None:
        """What keeps this process from going on, if anything does."""
        for rank, file in enumerate(self._files):
            if rank != self.rank and (found := self._judge(rank, file)):
                return found
        return self._stuck()

    def _judge(self, rank: int, file: Path) -> SftError | None:
        alive, beat = _read(file)
        if beat is None:  # not begun, or left as it should
            self._seen.pop(rank, None)
            return None
        if beat.failed or beat.stopped:
            return TrainingError(beat.failed) if beat.failed else Interrupted(beat.stopped)
        seen = self._seen.setdefault(rank, _Seen(beat))
        seen.silent = seen.silent + 1 if beat.beats == seen.beat.beats else 0
        seen.still = seen.still + 1 if beat.places == seen.beat.places else 0
        seen.beat = beat
        if not alive:
            return _lost(rank, beat, "is gone without a word (killed, perhaps because memory ran out)")
        if seen.silent >= (SILENT_AT_WORK if beat.busy else SILENT):
            return _lost(rank, beat, f"has not answered for {seen.silent * BEAT_S:.0f} s (stopped, or its machine "
                                     "hangs)")
        return None

    def _stuck(self) -> SftError | None:
        furthest = max([self._beat.places, *(seen.beat.places for seen in self._seen.values())])
        for rank, seen in self._seen.items():
            beat, stays_s = seen.beat, seen.still * BEAT_S
            if beat.places < furthest and not beat.busy and stays_s >= beat.patience_s:
                return _lost(rank, beat, f"has not moved for {stays_s:.0f} s, and the others wait for it")
        return None

    def _end(self, error: SftError) -> None:
        """End this process: its main thread waits inside of a collective for one who will not come."""
        if not any(seen.beat.failed or seen.beat.stopped for seen in self._seen.values()):
            tell_failure(self._files[0].parents[1], error)
        print(f"process {self.rank} ends: {error}", file=sys.stderr)
        self._say(failed=str(error)[: SIZE // 8])
        self._sync()
        leave_hard(error.exit_code)

    def _say(self, **what: object) -> None:
        with self._write_lock:
            self._beat = self._beat._replace(**what)  # type: ignore[arg-type]
            os.pwrite(self._handle.fileno(), json.dumps(self._beat).encode().ljust(SIZE), 0)

    def _sync(self) -> None:
        """For readers on other machines: NFS keeps what is written for half a minute."""
        os.fsync(self._handle.fileno())


def _read(file: Path) -> tuple[bool, Beat | None]:
    """Whether its process lives, and what it says; nothing where there is no file."""
    try:
        with file.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                alive = False
            except BlockingIOError:
                alive = True
            said = stream.read()
        return alive, Beat(*json.loads(said)) if file.exists() else None
    except FileNotFoundError:
        return False, None


def _lost(rank: int, beat: Beat, what: str) -> TrainingError:
    return TrainingError(f"process {rank} of this run (pid {beat.pid} on {beat.host}) {what}; it was {beat.doing}. The "
                         "run ends, and its last checkpoint is kept: start the run again, it continues from there")


_own: Pulse | None = None


@contextmanager
def watched(out: Path, compiling: bool) -> Iterator[None]:
    """Watch the other processes of this run, if there are any, and be watched by them.

    Args:
        out: the run's folder, which all of them see.
        compiling: layers are compiled, which one process may do minutes after another.

    Raises:
        TrainingError: instead of an error of a library when another process is the reason.
    """
    global _own
    state = PartialState()
    if state.num_processes == 1:
        yield
        return
    (token,) = broadcast_object_list([secrets.token_hex(4)])
    if state.is_main_process:
        shutil.rmtree(out / PULSE, ignore_errors=True)  # of a launch that was killed
    state.wait_for_everyone()
    own = _own = Pulse(out / PULSE, token, state.process_index, state.num_processes,
                       COMPILING_LAG_S if compiling else LAG_S)
    try:
        yield
    except BaseException as error:
        reason = error if isinstance(error, SftError) else own.lost() or error
        own.leave(reason)
        if reason is error:
            raise
        raise reason from error
    else:
        own.leave(None)
    finally:
        _own = None


def at(doing: str, *, long: bool = False) -> None:
    """Say where the main thread is: "in step 5"; all processes must call this equally often.

    Args:
        doing: ends the sentence "it was …".
        long: may take a while, and the others wait in `turn`.
    """
    if _own is not None:
        _own.at(doing, long)


def steady() -> None:
    """From now on no place takes much longer than it did before."""
    if _own is not None:
        _own.steady = True


def turn() -> None:
    """Wait, outside of any collective, until the first process has come here too.

    Raises:
        TrainingError, Interrupted: another process has ended or does not answer.
    """
    if _own is not None:
        _own.turn()


@contextmanager
def first_before_others() -> Iterator[None]:
    """The first process does it, then all others do."""
    first = _own is None or _own.rank == 0
    if not first:
        turn()
    yield
    if first:
        turn()


def tell_failure(out: Path, error: SftError) -> None:
    """Leave the reason in the run's folder, where `launch` finds it."""
    said = {"kind": type(error).__name__, "message": str(error)}
    write_json(out / FAILED / f"{os.getppid()}-{os.getpid()}.json", said)


def leave_hard(code: int) -> None:
    """End this process without the destructors of process groups, which may wait for collectives of the others."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
