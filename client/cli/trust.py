"""What the command line says and asks of the server's identity."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from client.cli.command import typed
from client.core.security import CHOICES, read_pin
from client.errors import BadArgument
from client.known import KnownServer
from client.terminal.display import Screen

Add = Callable[..., None]
ENCRYPT_VARIABLE = "TRADECHAT_ENCRYPT"
PIN_VARIABLE = "TRADECHAT_PIN"


class Shown(Protocol):
    """What is asked of a client."""

    @property
    def server_fingerprint(self) -> str: ...
    @property
    def server_is_new(self) -> bool: ...


def read_encrypt(text: str) -> str:
    """How to encrypt. ValueError."""
    if text not in CHOICES:
        raise ValueError(f"{text[:40]!r} is none of {', '.join(CHOICES)}")
    return text


def read_fingerprint(text: str) -> str:
    """The fingerprint of a server. ValueError."""
    try:
        return read_pin("pin", text)
    except BadArgument as error:
        raise ValueError(f"{text[:60]!r} is not {error.rule}") from error


def add_flags(add: Add) -> None:
    """The flags about it."""
    add(
        "--encrypt",
        "auto (as it is): only encrypted, unless the host is this machine; require; off "
        f"({ENCRYPT_VARIABLE})",
        choices=CHOICES,
        metavar="HOW",
    )
    add(
        "--pin",
        "the server's fingerprint, as tradechat-admin identity shows it: no other server is used "
        f"({PIN_VARIABLE})",
        type=typed(read_fingerprint),
        metavar="SHA256:...",
    )
    add(
        "--known-servers",
        "file of the servers that were seen, with their fingerprints",
        type=Path,
        metavar="FILE",
    )


def arguments_of(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the client. settings: what the URL says; the options have it too."""
    given = {
        "encrypt": options.encrypt,
        "pin": options.pin,
        "compress": settings.get("compress"),
        "known_servers": options.known_servers,
    }
    return {name: value for name, value in given.items() if value is not None}


class Introduction:
    """Says once who a server is that was never seen."""

    def __init__(self, client: Shown, options: argparse.Namespace, screen: Screen) -> None:
        self._client, self._options, self._screen = client, options, screen
        self._said = False

    def say(self) -> None:
        """Say it, if it is known by now."""
        client, options = self._client, self._options
        if self._said or not (client.server_is_new and client.server_fingerprint):
            return
        self._said = True
        path = KnownServer(options.host, options.port, options.known_servers).path
        self._screen.remark(
            f"first time at {options.host} port {options.port}: the server's fingerprint is "
            f"{client.server_fingerprint}; compare it with what `tradechat-admin identity` shows "
            f"there. After a login it is kept in {path}"
        )
