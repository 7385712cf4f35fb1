"""A small server that speaks what huggingface_hub asks of the hub to make a model repository and to send files there.

Its repositories lie in memory. `refuse` is the status that all changes are answered with instead."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_secretsecret"
COMMIT = "0" * 40


@dataclass
class Hub:
    """What the server was told. `repos`: id → path → content."""

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    visibility: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    refuse: int | None = None
    pages: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, value: object = None, body: bytes = b"", **headers: str) -> None:
        body = json.dumps(value).encode() if value is not None else body
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or self.hub.refuse:
            self._answer(self.hub.refuse or 401, {"error": "not for you"})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.visibility.setdefault(name, asked.get("visibility", "public"))
            there = name in self.hub.repos
            self.hub.repos.setdefault(name, {})
            self._answer(409 if there else 200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            self._answer(200, {"files": [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False} for one in json.loads(body)["files"]]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer(200, {"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]]})
        elif "/commit/" in path:
            self._commit(path.removeprefix("/api/models/").partition("/commit/")[0], body)
        else:
            self._answer(404, {"error": path})

    def _commit(self, name: str, body: bytes) -> None:
        files = self.hub.repos[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self._answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT,
                           "success": True})

    def do_PUT(self) -> None:
        body = self._body()
        self.hub.large[hashlib.sha256(body).hexdigest()] = body
        self._answer(200, body=b"")

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        kind, _, rest = path.removeprefix("/api/").partition("/")
        name = rest.partition("/revision/")[0].partition("/tree/")[0]
        if path.startswith("/api/") and name in self.hub.pages:
            self._answer(200, {"id": name, "cardData": self.hub.pages[name], "siblings": [], "sha": COMMIT})
        elif kind == "models" and name in self.hub.repos:
            files = self.hub.repos[name]
            tree = [{"type": "file", "path": file, "size": len(body), "oid": COMMIT} for file, body in files.items()]
            self._answer(200, tree if "/tree/" in path else {
                "id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
        else:
            self._answer(404, {"error": path}, X_Error_Code="RepoNotFound")


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running server."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
