"""A headless Chromium or Chrome, driven over its pipe: no package and no port is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any

PATIENCE = 60.0  # seconds for one answer, on a machine that is busy
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",  # as root, in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-software-rasterizer",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)


def browser() -> str | None:
    """A browser's path: TILTRL_BROWSER, or what is on PATH; None where there is none."""
    return os.environ.get("TILTRL_BROWSER") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a browser, and all that it reported."""

    def __init__(self, to: int, answers: Queue[dict[str, Any]]):
        self.events: list[dict[str, Any]] = []
        self._to, self._answers, self._count, self._session = to, answers, 0, ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: Path) -> None:
        """Load a file, and wait until it has loaded."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def value(self, expression: str) -> Any:
        """What an expression in the page is worth."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def view(self, width: int, dark: bool = False, medium: str = "screen") -> None:
        """Be so wide, light or dark, a screen or paper."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=medium, features=[scheme])

    def picture(self, path: Path, height: int | None = None) -> None:
        """Write what the page looks like, all of it or its first pixels, as a PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height or 1 << 14), "scale": 1}
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def told(self, *methods: str) -> list[dict[str, Any]]:
        """The events of these kinds so far."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def _next(self) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=PATIENCE)
        except Empty:
            raise AssertionError(f"the browser gave no answer within {PATIENCE:.0f} seconds") from None
        if "method" in answer:
            self.events.append(answer)
        return answer


@contextmanager
def opened(path: str, profile: Path) -> Iterator[Page]:
    """A page of a browser that is started for it, and ended."""
    (commands, to), (back, answers) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (commands, answers)]  # above the 3 and 4 that it listens on
    wired = 'read=$1 write=$2; shift 2; exec "$@" 3<&"$read" 4>&"$write"'
    words = ["bash", "-c", wired, "bash", *map(str, high), path, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(words, pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for end in (commands, answers, *high):
        os.close(end)
    queue: Queue[dict[str, Any]] = Queue()
    reader = threading.Thread(target=_read, args=(back, queue), daemon=True)
    reader.start()
    try:
        yield Page(to, queue)
    finally:
        os.close(to)  # on which it ends
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(20)
        os.close(back)


def _read(back: int, queue: Queue[dict[str, Any]]) -> None:
    rest = b""
    while chunk := os.read(back, 1 << 16):
        *messages, rest = (rest + chunk).split(b"\0")
        for message in messages:
            queue.put(json.loads(message))
