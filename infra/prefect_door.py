"""Prefect's server behind a door: it answers under known names, and not to other web sites.

Prefect's own server takes requests of every origin and under every host name. So any page in a browser on this machine
could make deployments on it, and a worker runs what deployments say: a request without a content type is sent without
asking first, and a name that is made to lead to 127.0.0.1 is an origin of its own. MLflow refuses both by itself.

    python -m infra.prefect_door NAME,… server start …        as `prefect server start …`
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from ipaddress import ip_address
from typing import Any

_PLACE = re.compile(r"(?P<name>[\w.-]+|\[[\da-f:.]+\])(?::(?P<port>\d{1,5}))?", re.ASCII)
"""A host with its port, in small letters, and nothing else: what parsers of URLs make of more, each its own way."""
LOCAL = ("localhost", "127.0.0.1", "::1")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Any, Send], Awaitable[None]]


class Door:
    """An ASGI application that lets through to another what is asked under a known name, from no other site.

    Args:
        inside: the application.
        names: host names, besides those of this machine and addresses.
    """

    def __init__(self, inside: App, names: Iterable[str]) -> None:
        self._inside = inside
        self._names = {*LOCAL, *(name.lower() for name in names)}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        """Answer a request."""
        kind = scope["type"]
        why = None if kind == "lifespan" else self.refusal(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        if why is None:
            await self._inside(scope, receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": why.encode()})

    def refusal(self, headers: MutableMapping[str, str]) -> str | None:
        """Why a request with these headers (names in small letters) is refused; None where it is not."""
        host = _PLACE.fullmatch(headers.get("host", "").lower())
        if host is None or not self._known(host["name"].strip("[]")):
            return "this server is not asked under this host name; `sft up --allowed-hosts` names further ones"
        if (origin := headers.get("origin")) is None:
            return None
        asking = _PLACE.fullmatch(origin.lower().partition("://")[2])
        same = asking is not None and (
            asking[0] == host[0] or asking["name"].strip("[]") in self._names and asking["port"] == host["port"])
        return None if same else "requests of other web sites are refused"

    def _known(self, name: str) -> bool:
        """A name that was given, or an address: that no one can make lead elsewhere."""
        if name in self._names:
            return True
        try:
            return bool(ip_address(name))
        except ValueError:
            return False


def main() -> None:
    """Entry point: Prefect's command line, with its server behind a door."""
    from prefect.cli import app
    from prefect.server.api import server

    names, made = sys.argv[1].split(","), server.create_app

    def behind_door(*args: Any, **kwargs: Any) -> Any:
        """What is served (`final`); the server itself asks another one in its process, under a name of its own."""
        return Door(made(*args, **kwargs), names) if kwargs.get("final") else made(*args, **kwargs)

    server.create_app = behind_door
    sys.argv = ["prefect", *sys.argv[2:]]
    app()


if __name__ == "__main__":
    main()
