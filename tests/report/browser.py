"""A headless Chromium to look at a page with, driven through its DevTools pipe: nothing but the browser itself is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
# DevTools reads from file 3 and writes to file 4.
START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"


def chromium() -> str | None:
    """Where a Chromium is: POLYTASK_CHROMIUM, else one on the path; None where there is none."""
    return os.environ.get("POLYTASK_CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page in a headless browser, for use in a ``with`` statement.

    Attributes:
        requests: The addresses that the page asked for.
        complaints: What its console said.
    """

    def __init__(self, executable: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.profile = tempfile.TemporaryDirectory(prefix="polytask-browser-", ignore_cleanup_errors=True)
        hear, self.write = os.pipe()
        self.read, say = os.pipe()
        command = [executable, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "about:blank"]
        # Neither end is 3 or 4 once they are moved out of the way.
        moved = [os.dup(os.dup(os.dup(end))) for end in (hear, say)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, moved), *command],
            pass_fds=moved,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (hear, say, *moved):
            os.close(end)
        self.held, self.n_asked, self.session = b"", 0, None
        targets = self.ask("Target.getTargets")["targetInfos"]
        target = next(info["targetId"] for info in targets if info["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.read)
        os.close(self.write)
        self.profile.cleanup()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the DevTools protocol; events on the way are kept."""
        self.n_asked += 1
        message = {"id": self.n_asked, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._heard()
            if heard.get("id") == self.n_asked:
                assert "error" not in heard, heard
                return dict(heard["result"])

    def open(self, page: Path, width: int, *, dark: bool = False) -> None:
        """Show a file in a window of so many pixels, and wait until it is there."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=page.as_uri())
        while self._heard().get("method") != "Page.loadEventFired":
            pass

    def value(self, script: str) -> Any:
        """What an expression of JavaScript is in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, place: Path, top: int = 0, height: int | None = None) -> None:
        """A picture of the page, or of a part of it, as a PNG file."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "height": height or size["height"] - top, "scale": 1}
        import base64

        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        place.write_bytes(base64.b64decode(shot["data"]))

    def _heard(self) -> Mapping[str, Any]:
        while b"\0" not in self.held:
            piece = os.read(self.read, 1 << 16)
            assert piece, "the browser has ended"
            self.held += piece
        message, _, self.held = self.held.partition(b"\0")
        heard: dict[str, Any] = json.loads(message)
        given = heard.get("params", {})
        if heard.get("method") == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif heard.get("method") == "Runtime.consoleAPICalled":
            self.complaints.append(str(given["args"]))
        elif heard.get("method") == "Log.entryAdded":
            self.complaints.append(given["entry"]["text"])
        elif heard.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(given["exceptionDetails"]))
        return heard
