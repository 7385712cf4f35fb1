"""Offline nothing outside this machine is tried: the `sft` of every test watches for it, and one run has no network."""

import subprocess
from collections.abc import Callable
from pathlib import Path


def test_who_watches_sees_connections_and_names(start: Callable[..., subprocess.Popen[str]], home: Path) -> None:
    tries = ("import socket, urllib.request as u\n"
             "for ask in (lambda: socket.create_connection(('192.0.2.1', 9), 0.1), lambda: u.urlopen('http://x.invalid'),\n"
             "            lambda: socket.create_connection(('127.0.0.1', 9), 0.1)):\n"
             "    try: ask()\n"
             "    except OSError: pass\n")
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {tries!r}], check=True)"
    process = start(program=("-c", child))
    assert process.wait() == 0, process.communicate()
    reached = home.with_name("reached")
    said = [line.split()[:2] for line in reached.read_text().splitlines()]
    assert said == [["socket.getaddrinfo", "192.0.2.1"], ["socket.connect", "192.0.2.1"],
                    ["socket.getaddrinfo", "x.invalid"]]
    reached.unlink()


def test_a_run_needs_no_network(sft: Callable[..., subprocess.CompletedProcess[str]], config: Path, home: Path,
                                no_network: tuple[str, ...]) -> None:
    """Its servers are on loopback."""
    done = sft("run", config, "--set", "train.epochs=0.1", within=no_network, PREFECT_API_URL="")
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(home.glob("runs/*/verdict.json"))
