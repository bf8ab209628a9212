"""As much of the Hugging Face hub as its library needs to create, upload, look up and download, on this machine."""

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
from urllib.parse import unquote, urlsplit

TOKEN = "hf_dGhpcyBpcyBub3QgYSB0b2tlbg"


@dataclass
class Repository:
    """What one holds; its commits are only ever the last one's name."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    messages: list[str] = field(default_factory=list)
    sizes: dict[str, int | None] = field(default_factory=dict)  # told instead of the true ones

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class Hub:
    """Its address, what it holds, and what it was asked for."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: frozenset[str] = frozenset()  # names of files that are taken by LFS only
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuses: int = 0  # a status that every request gets
    dislikes: str = ""  # what is wrong with every card


@contextmanager
def stand_in() -> Iterator[Hub]:
    """A hub that knows one token, and a user `owner`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._route()

        do_GET = do_POST = do_PUT = do_HEAD

        def _route(self) -> None:
            body = self._body()
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if hub.refuses:
                return self._say({"error": "no"}, hub.refuses)
            if path.startswith("/objects/"):
                hub.objects[path.removeprefix("/objects/")] = body
                return self._say({})
            if self.command == "POST" and not known:
                code = {"X-Error-Message": "Invalid credentials in Authorization header"}
                return self._say({"error": "Invalid credentials"}, 401, code)
            if path == "/api/repos/create":
                return self._create(json.loads(body))
            if path == "/api/validate-yaml":
                errors = [{"message": hub.dislikes}] if hub.dislikes else []
                return self._say({"errors": errors, "warnings": []}, 400 if errors else 200)
            if path.startswith("/api/models/"):
                owner, name, *rest = path.removeprefix("/api/models/").split("/")
            else:
                _, owner, name, *rest = path.split("/") + [""] * 2
            id = f"{owner}/{name.removesuffix('.git')}"
            found = hub.repositories.get(id)
            if found is None or (found.private and not known):
                return self._say(
                    {"error": "Repository not found"}, 404 if known else 401, {"X-Error-Code": "RepoNotFound"}
                )
            match rest:
                case [] | ["revision", _]:
                    if rest and rest[1] not in ("main", found.commit):
                        return self._say({"error": "no"}, 404, {"X-Error-Code": "RevisionNotFound"})
                    files = [
                        {"rfilename": file, "size": found.sizes.get(file, len(content))}
                        for file, content in found.files.items()
                    ]
                    self._say({"id": id, "sha": found.commit, "private": found.private, "siblings": files, "tags": []})
                case ["preupload", _]:
                    modes = [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if file["path"] in hub.large else "regular",
                            "shouldIgnore": False,
                        }
                        for file in json.loads(body)["files"]
                    ]
                    self._say({"files": modes})
                case ["info", "lfs", "objects", "batch", *_]:
                    objects = [
                        item | {"actions": {"upload": {"href": f"{hub.url}/objects/{item['oid']}"}}}
                        for item in json.loads(body)["objects"]
                    ]
                    self._say({"transfer": "basic", "objects": objects})
                case ["commit", _]:
                    for line in body.splitlines():
                        self._apply(found, json.loads(line))
                    url = f"{hub.url}/{id}/commit/{found.commit}"
                    self._say({"commitUrl": url, "commitOid": found.commit, "success": True})
                case ["resolve", _, file, *_]:
                    self._send(found, file)
                case _:
                    self._say({"error": "not here"}, 404)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _create(self, asked: dict[str, Any]) -> None:
            id = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "owner":
                return self._say({"error": "no rights"}, 403)
            if id in hub.repositories:
                return self._say({"error": "You already created this model repo", "url": f"{hub.url}/{id}"}, 409)
            hub.repositories[id] = Repository(
                private=asked.get("visibility") == "private" or bool(asked.get("private"))
            )
            self._say({"url": f"{hub.url}/{id}"})

        def _apply(self, found: Repository, line: dict[str, Any]) -> None:
            value = line["value"]
            match line["key"]:
                case "header":
                    found.messages.append(value["summary"])
                case "file":
                    found.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    found.files[value["path"]] = hub.objects[value["oid"]]
                case "deletedFile":
                    del found.files[value["path"]]

        def _send(self, found: Repository, file: str) -> None:
            if file not in found.files:
                return self._say({"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})
            content = found.files[file]
            more = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": found.commit}
            self._answer(content, 200, "application/octet-stream", more)

        def _say(self, value: Any, status: int = 200, more: dict[str, str] | None = None) -> None:
            self._answer(json.dumps(value).encode(), status, "application/json", more or {})

        def _answer(self, content: bytes, status: int, kind: str, more: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
