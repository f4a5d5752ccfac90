"""Servers that were seen: a file with the fingerprint of each, by host and port.

A line is `host:port SHA256:...`, an IPv6 address in brackets; the first one of a server counts.
Lines that begin with # and empty ones say nothing. There is no secret in it; but who can change it
decides whom a client trusts, so it is its owner's alone.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from client.errors import KnownServersUnusable

FILE: Final = "known-servers"


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where programs of this user keep what is to outlive them (XDG Base Directory)."""
    given = environ.get("XDG_STATE_HOME", "")
    home = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
    return home / "tradechat"


class KnownServer:
    """One server, in the file. Nothing is read before it is asked for."""

    def __init__(self, host: str, port: int, path: Path | None = None) -> None:
        """path: of the file; None: `known-servers` in the user's state directory."""
        self._name = f"[{host}]:{port}" if ":" in host else f"{host.lower()}:{port}"
        self._given = path

    @property
    def path(self) -> Path:
        """Where the file is, or would be."""
        return self._given or state_directory(os.environ) / FILE

    @property
    def place(self) -> str:
        """What keeps it, for people."""
        return f"the line of {self._name} in {self.path}"

    def find(self) -> str | None:
        """The fingerprint that it had. KnownServersUnusable."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, RuntimeError) as error:
            raise self._unusable("read", error) from error
        for line in text.splitlines():
            name, _, fingerprint = line.strip().partition(" ")
            if name == self._name:
                return fingerprint.strip()
        return None

    def keep(self, fingerprint: str) -> None:
        """Add it, for good. KnownServersUnusable."""
        try:
            path = self.path
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(fd, f"{self._name} {fingerprint}\n".encode())  # one write: one line
                os.fsync(fd)
            finally:
                os.close(fd)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
            raise self._unusable("written", error) from error

    def _unusable(self, what: str, error: Exception) -> KnownServersUnusable:
        reason = getattr(error, "strerror", None) or str(error)
        return KnownServersUnusable(
            f"the file that tells servers apart cannot be {what} ({self._given or FILE}: {reason}):"
            " give the client the server's fingerprint as a pin, or another file"
        )
