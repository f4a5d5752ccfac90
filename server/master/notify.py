"""What the service manager is told, where one started the server and asks for it (sd_notify(3))."""

import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"


def be_main(environ: MutableMapping[str, str] = os.environ) -> None:
    """This process is the service's main one from now on, in the place of the one that was started:
    it gives the signs of life that the manager waits for."""
    if "WATCHDOG_PID" in environ:
        environ["WATCHDOG_PID"] = str(os.getpid())


class ServiceManager:
    """systemd, or another one of its protocol; nothing is told where there is none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """environ: NOTIFY_SOCKET is where it listens; WATCHDOG_USEC, microseconds after which it
        takes the process WATCHDOG_PID for dead if that says nothing."""
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        usec = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Thrice as often as it must be: the machine may be slow.
        self._every_s = int(usec) / 3e6 if usec.isdigit() and is_ours else 0.0
        self._next = 0.0  # time.monotonic()

    def tell(self, state: str) -> None:
        """Tell it; a manager that does not listen any more is none."""
        if self._address:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
                sock.sendto(state.encode(), self._address)

    def tell_alive(self) -> None:
        """For the main loop, at every turn: tell it, as often as the manager wants to hear it."""
        now = time.monotonic()
        if self._every_s and now >= self._next:
            self._next = now + self._every_s
            self.tell(ALIVE)
