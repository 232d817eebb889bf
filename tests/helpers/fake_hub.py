"""A hub on 127.0.0.1: the few endpoints by which `huggingface_hub` creates a model repository and sends files.

    GET  /api/whoami-v2                        POST /api/validate-yaml          POST /api/repos/create
    GET  /api/models/REPO?blobs=true           POST /api/models/REPO/preupload/main
    POST /REPO.git/info/lfs/objects/batch      PUT  /lfs/SHA256                 POST /api/models/REPO/commit/main

Files with the endings of `LARGE` go the way of Git LFS. Xet, the hub's other way, must be switched off.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors", ".gguf")
TOKEN = "hf_" + "t" * 34


@dataclass
class FakeRepo:
    """A repository. files: bytes by name. commits: messages."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class FakeHub:
    """What the server holds, and how it behaves.

    Attributes:
        repos: by name. blobs: large files that arrived, by sha256. requests: method and path of each.
        fails: error code by a part of the path. drops: names whose content a commit loses. uploads_left: large files
            that are taken before every further one fails; None = all.
    """

    repos: dict[str, FakeRepo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fails: dict[str, int] = field(default_factory=dict)
    drops: tuple[str, ...] = ()
    uploads_left: int | None = None
    address: str = ""


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serves until the end of the block."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Nothing: the tests' output stays clean."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        code, value = self._route(path, body)
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        if code == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self, path: str, body: bytes) -> tuple[int, Any]:
        hub = self.hub
        for part, code in hub.fails.items():
            if part in path:
                return code, {"error": f"failed with {code}"}
        if path.startswith("/lfs/"):
            return self._upload(path.removeprefix("/lfs/"), body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/whoami-v2":
            return 200, {"name": "someone", "type": "user"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, self._batch(json.loads(body))
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                                    "shouldIgnore": False, "oid": None} for f in files]}  # fmt: skip
        if path.endswith("/commit/main"):
            return self._commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)
        return self._info(path.removeprefix("/api/models/"))

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
        if name in self.hub.repos:
            return 409, {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"}
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repos[name] = FakeRepo(private)
        return 200, {"url": f"{self.hub.address}/{name}", "name": name, "id": "1"}

    def _info(self, name: str) -> tuple[int, Any]:
        repo = self.hub.repos.get(name)
        if repo is None:
            return 404, {"error": "Repository not found"}
        return 200, {"id": name, "modelId": name, "private": repo.private, "sha": "0" * 40, "tags": [],
                     "siblings": [_sibling(path, data) for path, data in repo.files.items()]}  # fmt: skip

    def _batch(self, wanted: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for one in wanted["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    def _upload(self, sha256: str, body: bytes) -> tuple[int, Any]:
        if self.hub.uploads_left is not None:
            if self.hub.uploads_left == 0:
                return 400, {"error": "no more"}
            self.hub.uploads_left -= 1
        if hashlib.sha256(body).hexdigest() != sha256:
            return 400, {"error": "wrong hash"}
        self.hub.blobs[sha256] = body
        return 200, {}

    def _commit(self, name: str, body: bytes) -> tuple[int, Any]:
        repo = self.hub.repos[name]
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                repo.commits.append(value["summary"])
            elif key == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                repo.files[value["path"]] = self.hub.blobs[value["oid"]]
            elif key == "deletedFile":
                del repo.files[value["path"]]
        for lost in self.hub.drops:
            repo.files[lost] = b"?" * len(repo.files[lost])
        return 200, {
            "success": True,
            "commitUrl": f"{self.hub.address}/{name}/commit/{'0' * 40}",
            "commitOid": "0" * 40,
        }


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path, "size": len(data)}
    entry["blobId"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    if path.endswith(LARGE):
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
