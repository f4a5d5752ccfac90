"""The server that a script breaks: one of its own, or one that is named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

from bench.faults.processes import started
from bench.process import Server

_INSPECT_S: Final = 20.0
_END_S: Final = 30.0
_ERRORS_MAX: Final = 10


class OwnServer(Server):
    """A server of the script's own, in a temporary directory."""

    def __init__(self, name: str, *flags: str) -> None:
        self.name = name
        super().__init__("--name", name, *flags)
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def wait(self) -> int:
        """Until it has ended; its exit code. subprocess.TimeoutExpired."""
        return self._process.wait(_END_S)

    def errors(self) -> list[str]:
        """The newest errors that it has logged."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        errors = [line for line in lines if json.loads(line)["level"] == "error"]
        return errors[-_ERRORS_MAX:]

    def files_left(self) -> list[str]:
        """What is in its directory beside its data and its log."""
        folder = Path(self._directory.name)
        return sorted(str(path) for path in folder.iterdir() if path.name not in ("data", "log"))


class Target:
    """Where the server is, and which process is its master."""

    def __init__(
        self, host: str, port: int, pid: int, name: str, own: OwnServer | None = None
    ) -> None:
        """pid: of the master, 0 if not known. name: of its region; "" is by its port."""
        self.host, self.port, self.pid = host, port, pid
        self.own = own
        self._name = name
        self._started = started(pid) if pid else 0

    def ended(self) -> str:
        """How it has ended, in words; "" while it runs, as far as can be seen."""
        if not self.pid or (self._started and started(self.pid) == self._started):
            return ""
        return f"the server has ended{f', exit code {self.own.wait()}' if self.own else ''}"

    def repairs(self) -> dict[str, Any]:
        """The server's own count of its repairs; empty where it cannot be read."""
        named = ("--name", self._name) if self._name else ("--port", str(self.port))
        command = [sys.executable, "-m", "server.admin_cli", "inspect", "repairs", *named, "--json"]
        told = subprocess.run(  # noqa: S603 - our own program
            command, stdout=subprocess.PIPE, timeout=_INSPECT_S, check=False
        )
        if told.returncode:
            return {}
        found: dict[str, Any] = json.loads(told.stdout)
        return {name: value for name, value in found.items() if name not in ("segment", "index")}
