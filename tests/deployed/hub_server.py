"""A hub on this machine that speaks the protocol of the Hugging Face hub for sending: repositories, branches, blobs, commits.

`/api/repos/create`, `/api/models/NAME[/branch|preupload|commit]`, `/api/validate-yaml`, git-lfs' batch and its uploads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_letmein"  # noqa: S105 (of the hub that is played here)


class Hub(ThreadingHTTPServer):
    """What the hub knows."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.cuts: str | None = None
        """A part of paths at which the connection is cut."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, *, private: bool) -> None:
        self.repositories[name] = {"private": private, "branches": {"main": {}}, "commits": 0}


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub until the end of the block."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        self._handle(self._read())

    def do_PUT(self) -> None:
        self._handle(self._read())

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _handle(self, content: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.server.cuts is not None and self.server.cuts in path:
            self.close_connection = True
            self.connection.close()
        elif path.startswith("/upload/"):
            self.server.blobs[hashlib.sha256(content).hexdigest()] = content
            self._answer(200, {})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        else:
            self._answer(*self._serve(path, content))

    def _serve(self, path: str, content: bytes) -> tuple[int, dict[str, Any]]:
        hub = self.server
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            hub.add(name, private=asked.get("visibility", "private" if asked.get("private") else "public") == "private")
            return 200, {"url": f"{hub.address}/{name}", "name": name, "id": name}
        if path.endswith(".git/info/lfs/objects/batch"):
            found = [{**each, "actions": {"upload": {"href": f"{hub.address}/upload/{each['oid']}", "header": {}}}}
                     for each in json.loads(content)["objects"]]  # fmt: skip
            return 200, {"transfer": "basic", "objects": found}
        owner, name, *verb = path.removeprefix("/api/models/").split("/")
        repository = hub.repositories.get(f"{owner}/{name}")
        return self._serve_repository(f"{owner}/{name}", repository, verb, content)

    def _serve_repository(self, name: str, repository: Any, verb: list[str], content: bytes) -> tuple[int, dict[str, Any]]:
        if repository is None:
            return 404, {"error": "Repository not found"}
        if not verb:
            return 200, {"id": name, "private": repository["private"], "sha": "0" * 40, "siblings": [], "tags": []}
        if verb[0] == "branch":
            repository["branches"].setdefault(verb[1], {})
            return 200, {}
        if verb[0] == "preupload":
            files = json.loads(content)["files"]
            return 200, {"files": [{"path": each["path"], "uploadMode": "lfs" if each["path"].endswith(".onnx") else "regular",
                                    "shouldIgnore": False} for each in files]}  # fmt: skip
        return self._commit(name, repository, verb[1], content)

    def _commit(self, name: str, repository: Any, branch: str, content: bytes) -> tuple[int, dict[str, Any]]:
        files = repository["branches"][branch]
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        repository["commits"] += 1
        oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        return 200, {"commitUrl": f"{self.server.address}/{name}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
