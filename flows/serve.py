"""`sft serve`: a certified server for one model, until it is told to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

from flows import console
from flows.place import look, workspace
from infra.serving import Address
from sft_core.config.data import ModelSection
from sft_core.errors import Interrupted, OrchestrationError
from sft_core.stopping import sleep
from tasks.mirror import asked_mirror
from tasks.serve import Up, served

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOOK_EVERY_S = 0.5


class How(NamedTuple):
    """What the options of the command say besides the model. `anyway`: also without its certificate."""

    template: str
    engine: Literal["auto", "transformers", "vllm"]
    anyway: bool


def run_serve(model: ModelSection, at: Address, how: How, mirror: Path | None) -> bool:
    """Serve until Ctrl-C or SIGTERM; whether the certificate passed, or was not asked for.

    Raises:
        OrchestrationError: the server ended by itself.
    """
    place = asked_mirror(workspace(), mirror)
    with served(model, how.template, at, how.engine, place, look) as up:
        made = up.certificate
        if not made.passed:
            console.table(f"Parity of {model.path}", made.table())
        console.lines(f"parity   {'pass' if made.passed else 'FAIL'}: {made.why}")
        if not (made.passed or how.anyway):
            console.lines("not served: answers would not be those that were evaluated; --anyway serves it all the same")
            return False
        console.lines(*_how_to(up, at))
        try:
            _wait(up)
        except Interrupted:
            console.lines("ended")
    return True


def _how_to(up: Up, at: Address) -> list[str]:
    body = json.dumps({"model": up.name, "messages": [{"role": "user", "content": "Hello!"}]})
    open_to_all = [] if at.host in LOOPBACK else [
        f"note     everybody who reaches {at.host}:{at.port} may ask it, without a password"]
    return [f"serving  {up.name} ({up.what}) at {up.url}; its log is {up.service.log}", *open_to_all,
            f"ask      curl {up.url}/chat/completions -H 'Content-Type: application/json' -d '{body}'",
            f"measure  sft eval '{up.url}#{up.name}' --suite format", "end      Ctrl-C"]


def _wait(up: Up) -> None:
    while up.service.process.poll() is None:
        sleep(LOOK_EVERY_S)
    tail = "\n".join(up.service.log.read_text(errors="replace").splitlines()[-15:])
    raise OrchestrationError(f"the server of {up.name} ended by itself; give the command again; the end of "
                             f"{up.service.log}:\n{tail}")
