"""A headless Chromium for a test, driven over the WebDriver protocol (W3C): no library is needed
for the few commands that a test of one page takes.
"""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

from tests.helpers import leaks
from tests.helpers.server import lasting_port, wait_until

CHROMIUM: Final = shutil.which("chromium")
DRIVER: Final = shutil.which("chromedriver")
TAB, ENTER = "\ue004", "\ue007"  # keys, as WebDriver has them
_WAIT_S = 60.0


class Browser:
    """A session."""

    def __init__(self, driver: str) -> None:
        self._at = driver

    def _call(self, method: str, path: str, **body: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own driver
            self._at + path,
            json.dumps(body).encode() if method == "POST" else None,
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=_WAIT_S) as answer:  # noqa: S310
            return json.load(answer)["value"]

    def begin(self, profile: Path) -> None:
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        options = {"binary": CHROMIUM, "args": [*arguments, f"--user-data-dir={profile}"]}
        made = self._call(
            "POST",
            "/session",
            capabilities={
                "alwaysMatch": {
                    "goog:chromeOptions": options,
                    "goog:loggingPrefs": {"browser": "ALL"},
                }
            },
        )
        self._at += f"/session/{made['sessionId']}"

    def end(self) -> None:
        self._call("DELETE", "")

    def open(self, url: str) -> None:
        self._call("POST", "/url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns, run in the page."""
        return self._call("POST", "/execute/sync", script=script, args=[*arguments])

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, on whatever has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", actions=[{"type": "key", "id": "k", "actions": actions}])

    def emulate(self, **features: str) -> None:
        """Media features: prefers_color_scheme="dark"."""
        made = [{"name": n.replace("_", "-"), "value": value} for n, value in features.items()]
        self._call(
            "POST",
            "/goog/cdp/execute",
            cmd="Emulation.setEmulatedMedia",
            params={"features": made},
        )

    def accessible(self) -> list[tuple[str, str]]:
        """The page as a screen reader has it: role and name of each node, in order."""
        found = self._call(
            "POST", "/goog/cdp/execute", cmd="Accessibility.getFullAXTree", params={}
        )
        return [
            (str(node["role"]["value"]), str(node.get("name", {}).get("value", "")))
            for node in found["nodes"]
            if not node.get("ignored")
        ]

    def complaints(self) -> list[str]:
        """What the browser has logged since this was asked last."""
        logged = self._call("POST", "/se/log", type="browser")
        return [str(entry["message"]) for entry in logged]


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser whose profile is in this folder; nothing of it is left."""
    assert DRIVER is not None
    port = lasting_port()
    with subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL) as driver:
        browser = Browser(f"http://127.0.0.1:{port}")

        def answers() -> bool:
            try:
                return bool(browser._call("GET", "/status")["ready"])
            except (URLError, ConnectionError):
                return False

        try:
            wait_until(answers, "the driver is ready", _WAIT_S)
            browser.begin(folder / "profile")
            try:
                yield browser
            finally:
                browser.end()
        finally:
            driver.terminate()
            driver.wait()
            for process in leaks.descendants().values():
                if "chrom" in process.name:
                    leaks.wait_gone(process.pid)
