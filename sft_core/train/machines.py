"""Several machines at one run: the one that has it calls (`called`), others that said `sft join` come (`help_out`).

They share the workspace under the same path (job.json, prepared data, base model and checkpoints lie there), on a disk
whose file locks hold among them, and have the same code. In the run's folder `machines/` is `call.json`, and for each
place a file that whoever has it holds locked: 0 is the caller's. The kernel frees a place with its process, so a
machine that died has left, and a call whose place 0 is free is over. When all places are taken the caller writes where
they meet, and each machine starts its processes by torchrun.
"""

from __future__ import annotations

import fcntl
import logging
import secrets
import shutil
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import torch

from sft_core.config.train import TrainSection
from sft_core.locks import is_held, locked
from sft_core.stage import read_json, write_json
from sft_core.stopping import sleep
from sft_core.versions import code_version

FOLDER, CALL = "machines", "call.json"
LOOK_S = 0.5
TELL_EVERY_S = 600.0
SIOCGIFADDR = 0x8915  # Linux
log = logging.getLogger("sft")


class Call(NamedTuple):
    """What the caller says."""

    token: str
    machines: int
    processes: int
    """On each machine."""
    made_with: str
    address: str
    port: int = 0
    """Where they meet; 0 as long as places are free."""


class Meeting(NamedTuple):
    """How this machine takes part."""

    command: Sequence[str]
    """Starts its processes."""
    is_over: Callable[[], bool]
    """Whether another machine has left: its processes have ended."""


@contextmanager
def called(out: Path, section: TrainSection, address: str | None) -> Iterator[Meeting]:
    """Wait until all machines of this run have come. They are free again after the block.

    Args:
        out: the run's folder.
        section: says how many.
        address: of this machine, for the others; None: of the interface by which it reaches others.

    Raises:
        Interrupted: a signal asked to stop the wait.
    """
    if section.machines == 1:
        # Its own name need not be one that it finds.
        yield Meeting(_torchrun(["--standalone", "--local-addr", "127.0.0.1"], section.processes, out), lambda: False)
        return
    folder = out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
    folder.mkdir(parents=True)
    call = Call(secrets.token_hex(4), section.machines, section.processes, made_with(), address or _own_address())
    own = _take(folder, call, 0)
    assert own is not None, "nobody knows of it yet"
    with own:
        write_json(folder / CALL, call._asdict())
        _gather(folder, call)
        call = call._replace(port=_free_port(call.address))
        write_json(folder / CALL, call._asdict())
        yield _meeting(out, call, 0)


def help_out(folders: Callable[[], Sequence[Path]], follow: Callable[[Meeting], int]) -> None:
    """Give this machine to one run after the other, until a signal asks to stop.

    Args:
        folders: of the runs that may call.
        follow: takes part to the end, or until a signal; returns the exit code of the command.

    Raises:
        Interrupted: a signal asked to stop.
    """
    refused: set[str] = set()
    while True:
        for out in folders():
            if (call := _call_of(out / FOLDER)) is None or call.port or call.token in refused:
                continue
            if why := _unfit(call):
                refused.add(call.token)
                log.warning("%s calls for machines, and this one cannot come: %s", out, why)
                continue
            _come(out, call, follow)
        sleep(LOOK_S)


def _come(out: Path, call: Call, follow: Callable[[Meeting], int]) -> None:
    """Take a place, wait for the others, take part; nothing where all places have been taken."""
    folder = out / FOLDER
    number, place = next(((n, one) for n in range(1, call.machines) if (one := _take(folder, call, n))), (0, None))
    if place is None:
        return
    with place:
        log.info("machine %d of %d of %s", number + 1, call.machines, out)
        while (now := _call_of(folder)) is not None and now.token == call.token and not now.port:
            sleep(LOOK_S)
        if now is not None and now.token == call.token:
            code = follow(_meeting(out, now, number))
            log.info("%s is over here%s", out, f", with code {code}: see the machine that has it" if code else "")


def made_with() -> str:
    """Code and torch that all machines must have in common."""
    return f"code {code_version('sft_core.train.launch')}, torch {torch.__version__}"


def _unfit(call: Call) -> str | None:
    if call.made_with != made_with():
        return f"it has {call.made_with}, here is {made_with()}; install the same on both"
    if (gpus := torch.cuda.device_count()) and gpus < call.processes:
        return f"train.processes is {call.processes}, here are {gpus} GPUs"
    return None


def _gather(folder: Path, call: Call) -> None:
    waited, missing = 0.0, call.machines - 1
    while (free := sum(not is_held(_place(folder, call, n)) for n in range(1, call.machines))):
        if free != missing or waited % TELL_EVERY_S == 0:
            missing = free
            log.info("waiting for %d more of %d machines (train.machines); say `sft join` on them, with the same "
                     "SFT_HOME", free, call.machines)
        sleep(LOOK_S)
        waited += LOOK_S


def _call_of(folder: Path) -> Call | None:
    """What is called for there; None where nobody does, or who did is gone."""
    try:
        call = Call(**read_json(folder / CALL))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return call if is_held(_place(folder, call, 0)) else None


def _place(folder: Path, call: Call, number: int) -> Path:
    return folder / f"{call.token}-{number}"


def _take(folder: Path, call: Call, number: int) -> IO[str] | None:
    """The held file of this place; None where another has it, or the call is over."""
    try:
        handle = _place(folder, call, number).open("a", encoding="utf-8")
    except FileNotFoundError:
        return None
    if locked(handle):
        return handle
    handle.close()
    return None


def _meeting(out: Path, call: Call, number: int) -> Meeting:
    """Places are ranks, so that the caller's first process is the first of all and writes the events."""
    nodes = ["--nnodes", str(call.machines), "--node-rank", str(number), "--rdzv-backend", "static", "--master-addr",
             call.address, "--master-port", str(call.port), "--rdzv-id", call.token]
    others = [_place(out / FOLDER, call, n) for n in range(call.machines) if n != number]
    return Meeting([*_over(_interface(_own_address(call.address))), *_torchrun(nodes, call.processes, out)],
                   lambda: not all(map(is_held, others)))


def _torchrun(nodes: Sequence[str], processes: int, out: Path) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *nodes, "--nproc-per-node", str(processes), "-m",
            "sft_core.train.launch", "--watched", str(out / "job.json")]


def _over(interface: str | None) -> list[str]:
    """Starts a command whose collectives go over this interface, where the environment does not say which. By itself
    gloo takes that of the machine's own name, which is often loopback."""
    if interface is None:
        return []
    names = " ".join(f'{name}="${{{name}:-$0}}"' for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"))
    return ["sh", "-c", f'export {names}; exec "$@"', interface]


def _own_address(other: str = "192.0.2.1") -> str:
    """The address that this machine has for another, by default one that is nobody's (RFC 5737); no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((other, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _interface(address: str) -> str | None:
    """The interface that has this IPv4 address; None where none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                found = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
