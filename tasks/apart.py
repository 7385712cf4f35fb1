"""Calls in processes of their own: what they hold, CUDA's context included, goes back with them, and a crash is theirs.

The first one writes to our standard error, bars included; what the others say is read where one ends without a word.
"""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from infra.children import end_all, end_with_parent, last_line
from infra.settings import child_environment
from sft_core import errors
from sft_core.errors import EvalError, SftError
from sft_core.stopping import POLL_S, sleep, stop_on_signals

GRACE_S = 30.0
"""For the batch that a process is in when it is told to stop."""


class Call(NamedTuple):
    """A function without arguments that can be pickled (a `functools.partial`), and variables for its process."""

    make: Callable[[], Any]
    environment: Mapping[str, str]


class _Child(NamedTuple):
    """A process, and where it answers."""

    process: subprocess.Popen[bytes]
    files: Path

    def answer(self) -> Any:
        """What its call returned.

        Raises:
            SftError: what it raised. EvalError: it ended without a word.
        """
        if (answer := self.files / "answer").exists():
            return pickle.loads(answer.read_bytes())
        if (said := self.files / "error.json").exists():
            found = json.loads(said.read_text(encoding="utf-8"))
            kind: type[SftError] = getattr(errors, found["kind"])
            raise kind(found["message"])
        said_last = last_line(self.files / "output")
        last = f"; it said last: {said_last}" if said_last else ""
        raise EvalError(f"a process of the evaluation ended with code {self.process.returncode} and gave no answer "
                        f"(killed, perhaps because memory ran out; see what it printed){last}; start it again: it "
                        "continues behind its last batch")


def apart(calls: Sequence[Call]) -> list[Any]:
    """Make all calls at the same time, each in a process of its own; returns what they return, in their order.

    The processes end with this one, with a signal to it, and as soon as one of them fails.

    Raises:
        SftError: of the class and with the message that a call raised. EvalError: a process ended without a word.
        Interrupted: a signal asked to stop.
    """
    with TemporaryDirectory(prefix="sft-apart-") as scratch:
        children: list[_Child] = []
        try:
            for number, call in enumerate(calls):
                children.append(_start(call, Path(scratch) / str(number), shown=number == 0))
            while None in (codes := [child.process.poll() for child in children]):
                for child, code in zip(children, codes, strict=True):
                    if code:
                        child.answer()
                sleep(POLL_S)
            return [child.answer() for child in children]
        finally:
            end_all((child.process for child in children), GRACE_S)


def _start(call: Call, files: Path, *, shown: bool) -> _Child:
    files.mkdir()
    (files / "call").write_bytes(pickle.dumps(call.make))
    command = [sys.executable, "-m", "tasks.apart", str(files)]
    with (files / "output").open("wb") as hidden:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2 if shown else hidden,
                                   stderr=None if shown else hidden, env=child_environment(call.environment),
                                   start_new_session=True, preexec_fn=end_with_parent())
    return _Child(process, files)


def main(folder: str) -> int:
    """The process of one call; returns its exit code."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("sft").setLevel(logging.INFO)
    files = Path(folder)
    with stop_on_signals():
        try:
            answer = pickle.loads((files / "call").read_bytes())()
        except SftError as error:
            said = {"kind": type(error).__name__, "message": str(error)}
            (files / "error.json").write_text(json.dumps(said), encoding="utf-8")
            return error.exit_code
    (files / "draft").write_bytes(pickle.dumps(answer))
    (files / "draft").rename(files / "answer")  # whole or not at all
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
