"""Python imports this at its start: every connection and every look-up beyond this machine is written down.

Whoever makes it: the commands of tests, and all that they start."""

import os
import sys

FILE = os.environ.get("SFT_TEST_REACHED", "")
HERE = {"", "localhost", "0.0.0.0", "::", "::1", os.uname().nodename}


def _look(event: str, given: tuple[object, ...]) -> None:
    if event == "socket.connect" and isinstance(given[1], tuple):
        host = given[1][0]
    elif event == "socket.getaddrinfo":
        host = given[0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if name not in HERE and not name.startswith("127."):
        with open(FILE, "a", encoding="utf-8") as file:
            file.write(f"{event} {name} by {' '.join(sys.argv[:3])}\n")


if FILE:
    sys.addaudithook(_look)
