"""A small web server in a thread, whose answers a test chooses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What the server says to a request for one path."""

    body: bytes = b""
    status: int = 200
    kind: str = "application/octet-stream"
    length: int | None = None  # Content-Length; None: of the body
    says_length: bool = True
    stalls: bool = False  # sends the body, then nothing more until the server is closed
    to: str = ""  # Location


@dataclass
class Site:
    """Where it is, what it answers by path, and which paths it was asked for."""

    url: str
    answers: dict[str, Answer]
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve(answers: dict[str, Answer]) -> Iterator[Site]:
    """Answers on this machine alone; a path without an answer is a 404."""
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            answer = site.answers.get(self.path, Answer(b"<html>not here</html>", 404, "text/html"))
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            if answer.to:
                self.send_header("Location", answer.to)
            if answer.says_length:
                self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
            self.end_headers()
            self.wfile.write(answer.body)
            if answer.stalls:
                self.wfile.flush()
                closing.wait(30)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that gives up is what some tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        site = Site(f"http://127.0.0.1:{server.server_port}", answers)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            closing.set()
            server.shutdown()
            thread.join()
