"""A fake OpenAI-compatible server on loopback, for tests: it says what a function of the request says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    request_queue_size = 64
    """Of more connections at once the kernel drops some, which come back after a second."""


@contextmanager
def serve(say: Callable[[dict[str, Any], int], Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """URL and the requests so far. `say(body, number)` gives a text, or (status, headers, raw body or its pieces)."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({**body, "key": self.headers.get("Authorization"), "path": self.path})
            said = say(body, len(seen))
            if isinstance(said, str):
                said = (200, {}, json.dumps({
                    "choices": [{"message": {"content": said}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 2}}))
            status, headers, raw = said
            try:
                self.send_response(status)
                length = {"Content-Length": str(len(raw.encode()))} if isinstance(raw, str) else {}
                for name, value in {**length, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in [raw] if isinstance(raw, str) else raw:
                    self.wfile.write(piece.encode() if isinstance(piece, str) else piece)
            except OSError:
                pass  # the client has given up

        def log_message(self, *args: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
