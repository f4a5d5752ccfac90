"""What a client asks of a connection beside its messages: encryption, and who the server is.

Whoever stands between client and server can take the wish for encryption out of HELLO, or answer it
with keys of their own. So a client that requires encryption goes on without it nowhere, and a
server is known by its identity: told beforehand (a pin), or kept from the first login on. Of a
server that was never seen, the first login proves that it has the user's key; its identity counts
as seen from then on, and not before.
"""

import ipaddress
import re
from typing import Final, Protocol

from client.errors import BadArgument, IdentityChanged
from libproto.messages import Capability

AUTO: Final = "auto"
REQUIRE: Final = "require"
OFF: Final = "off"
CHOICES: Final = (AUTO, REQUIRE, OFF)
_FINGERPRINT: Final = re.compile(r"(?:SHA256:)?[A-Za-z0-9_-]{43}")


class Keeps(Protocol):
    """Where identities are kept; see `client.known`."""

    def find(self) -> str | None:
        """The fingerprint of this server, if it was seen."""

    def keep(self, fingerprint: str) -> None:
        """It was seen."""

    @property
    def place(self) -> str:
        """What keeps it, for people."""


def is_loopback(host: str) -> bool:
    """Whether a host surely is this machine; a name other than localhost may not be."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def read_encrypt(name: str, value: object) -> str:
    """BadArgument."""
    if value not in CHOICES:
        raise BadArgument(name, value, f"one of {', '.join(CHOICES)}")
    return str(value)


def read_pin(name: str, value: object) -> str:
    """A fingerprint, as people write it. BadArgument."""
    if not isinstance(value, str) or not _FINGERPRINT.fullmatch(value):
        raise BadArgument(name, value, "a fingerprint, as `tradechat-admin identity` shows it")
    return value if value.startswith("SHA256:") else f"SHA256:{value}"


class Security:
    """What one client requires. It is for all its connections: the identity that one of them had
    is that of the next."""

    def __init__(
        self,
        *,
        encrypts: bool = False,
        pin: str | None = None,
        known: Keeps | None = None,
        compresses: bool = False,
        where: str = "",
    ) -> None:
        """where: the server's host and port, for people."""
        self.encrypts: Final = encrypts
        self.compresses: Final = compresses
        self.fingerprint = ""
        """Of the server, once it is known; empty without encryption."""
        self.is_new = False
        """It was never seen before, and its login was the first."""
        self._pin = pin
        self._known = known
        self._where = where
        self._kept = False

    @property
    def capabilities(self) -> int:
        """What HELLO asks for by it."""
        asked = int(Capability.ENCRYPTION) if self.encrypts else 0
        return asked | (int(Capability.COMPRESSION) if self.compresses else 0)

    def check(self, fingerprint: str) -> None:
        """A server shows this identity, and has signed with it. IdentityChanged."""
        expected, place = self._pin, "the pin that this client was given"
        if expected is None and self.fingerprint:
            expected, place = self.fingerprint, "the connection before"
        if expected is None and self._known is not None:
            expected, place = self._known.find(), self._known.place
        if expected is not None and fingerprint != expected:
            raise IdentityChanged(self._where, expected, fingerprint, place)
        if not self.fingerprint:
            self.is_new, self._kept = expected is None, expected is not None
        self.fingerprint = fingerprint

    def confirm(self) -> None:
        """The server that was checked has proved that it has the user's key."""
        if self.fingerprint and not self._kept:
            self._kept = True
            if self._known is not None:
                self._known.keep(self.fingerprint)


OPEN: Final = Security()
"""Requires nothing."""
