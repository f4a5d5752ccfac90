"""Which hosts links may name, and which addresses the server connects to: no link leads into the
network of the operator, unless the operator has listed the host with that address."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from server.files.errors import FilesError

Address = IPv4Address | IPv6Address

# Beside those that `is_global` knows: it says nothing of what is inside of another address, and has
# known some of these since later versions only.
_INSIDE: Final = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/3",
        "::/16",  # unspecified, loopback, IPv4-compatible and IPv4-mapped
        "64:ff9b::/32",  # NAT64, also for local use
        "100::/16",
        "2001::/23",  # Teredo and others
        "2002::/16",  # 6to4
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/9",  # link-local and site-local
        "ff00::/8",
    )
)
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)
_PORT_MAX: Final = 65535
_USUAL_PORTS: Final = frozenset({80, 443})


class BadHost(FilesError):
    """A line of the list of hosts that says nothing that can be allowed."""


def is_outside(address: Address) -> bool:
    """Whether an address is one of the world: none of this machine, of a private network, of a
    link, of many receivers, and none that hides another one in itself."""
    return address.is_global and not any(
        address in network for network in _INSIDE if network.version == address.version
    )


@dataclass(frozen=True, slots=True)
class Allowed:
    """A host that links may name. ports: empty for the usual ones. address: what it is connected
    to, whatever a name server says; None: what that says, if it is outside."""

    host: str
    ports: frozenset[int]
    address: Address | None


def host_of(text: str) -> str:
    """A host as it is compared: lower case, an address in its usual form. BadHost."""
    host = text.lower().removesuffix(".")
    if text.startswith("[") and text.endswith("]"):
        host = text[1:-1]
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    # One whose last part is a number is an address to some: 0x7f.1, 127.1, 2130706433.
    if not _HOST.fullmatch(host) or re.fullmatch(r"0x[0-9a-f]*|[0-9]+", host.rpartition(".")[2]):
        raise BadHost(f"{text!r} is neither a host name nor an address")
    return host


def allowed_of(text: str) -> Allowed:
    """One of `--link-hosts`: HOST, HOST:PORT, HOST=ADDRESS or HOST:PORT=ADDRESS. BadHost."""
    place, equals, address_text = text.partition("=")
    found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?", place)
    if found is None:
        raise BadHost(f"{text!r} is not HOST, HOST:PORT, HOST=ADDRESS or HOST:PORT=ADDRESS")
    host, port = host_of(found[1]), int(found[2] or 0)
    if found[2] is not None and not 0 < port <= _PORT_MAX:
        raise BadHost(f"{text!r} has no port from 1 to {_PORT_MAX}")
    address = _address_of(host)
    if equals:
        try:
            address = ip_address(address_text.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise BadHost(f"{address_text!r} is not an address") from None
    return Allowed(host, frozenset({port} if port else ()), address)


def _address_of(host: str) -> Address | None:
    """Of a host that is an address: who lists that lists it with its address."""
    try:
        return ip_address(host)
    except ValueError:
        return None


class Hosts:
    """The list of hosts that are allowed. An empty one allows nothing."""

    def __init__(self, lines: list[str]) -> None:
        """BadHost."""
        self._hosts: dict[str, list[Allowed]] = {}
        for line in lines:
            allowed = allowed_of(line)
            self._hosts.setdefault(allowed.host, []).append(allowed)

    def find(self, host: str, port: int) -> Allowed | None:
        """None: it is not allowed."""
        return next(
            (each for each in self._hosts.get(host, ()) if port in (each.ports or _USUAL_PORTS)),
            None,
        )
