"""A server, and a user there, as one URL: `tradechat://alice@host:7878`.

    tradechat://[user[:password]@]host[:port][/][?option=value&...]

An IPv6 address stands in brackets. What would else be taken for a part of the URL is written as
%XX, in UTF-8: `%40` is an @. The options are arguments of the client: `timeout_s`, `reconnect`,
`payments`, `client_name`, `encrypt`, `pin` and `compress`.

No error says anything of what the URL holds: it may be a password, wherever it was put.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, unquote

from client.core import arguments
from client.core.security import CHOICES, read_encrypt, read_pin
from client.errors import BadArgument, BadUrl

SCHEME: Final = "tradechat"
URL_VARIABLE: Final = "TRADECHAT_URL"
"""The environment variable that a client takes its URL from, if it is not told where the server
is."""
HOST: Final = "127.0.0.1"
PORT: Final = 7878
_URL = re.compile(
    rf"{SCHEME}://"
    r"(?:(?P<user>[^@:/?#\[\]]*)(?P<secret>:[^@:/?#\[\]]*)?@)?"
    r"(?P<host>\[[^@\[\]/?#]*\]|[^@:/?#\[\]]*)"
    r"(?P<port>:[^@:/?#\[\]]*)?"
    r"/?"
    r"(?:\?(?P<options>[^#]*))?",
    re.IGNORECASE,
)
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNSEEN = re.compile(r"[\x00-\x20\x7f]")
_FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and as whom to log in there. What a URL does not name is None, but for the
    port. settings: arguments of the client, by name."""

    host: str
    port: int = PORT
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        """The URL, without the password and the settings."""
        host = f"[{quote(self.host, safe=':')}]" if ":" in self.host else quote(self.host)
        user = "" if self.username is None else f"{self.username}@"
        return f"{SCHEME}://{user}{host}:{self.port}"


def is_url(text: object) -> bool:
    """Whether it is meant as a URL; a host has no such characters."""
    return isinstance(text, str) and "://" in text


def read_url(text: object, name: str = "url") -> Address:
    """Return what a URL says. BadUrl, which names it by `name`, says what is wrong with it."""
    if not isinstance(text, str):
        raise BadUrl(name, None, "it is not text, a str")
    if _UNSEEN.search(text):
        raise BadUrl(name, None, "it has a blank or a control character: write it as %XX")
    found = _URL.fullmatch(text)
    if found is None:
        raise BadUrl(
            name,
            None,
            f"it does not have the form {SCHEME}://[user[:password]@]host[:port][/?options]; in a "
            "user or a password, characters as @ : / ? # are written as %XX",
        )
    user, secret, host, port, options = found.group("user", "secret", "host", "port", "options")
    read = _Reader(name)
    return Address(
        read.host(host),
        read.port(port),
        None if user is None else read.username(user),
        None if secret is None else read.password(secret[1:]),
        MappingProxyType(read.settings(options)),
    )


class _Reader:
    """Reads the parts of a URL; the errors name the URL."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _wrong(self, problem: str) -> BadUrl:
        return BadUrl(self._name, None, problem)

    def _decoded(self, part: str, text: str) -> str:
        if _ESCAPE.search(text):
            raise self._wrong(f"its {part} has a % that no two hex digits follow")
        try:
            return unquote(text, errors="strict")
        except UnicodeDecodeError:  # whose text would show it
            pass
        raise self._wrong(f"its {part} is not UTF-8 where it is written as %XX")

    def host(self, text: str) -> str:
        if not text:
            raise self._wrong("it names no host")
        if not text.startswith("["):
            host = self._decoded("host", text)
            if ":" in host or _UNSEEN.search(host):
                raise self._wrong("its host is neither a name nor an address")
            return host
        host = self._decoded("host", text[1:-1])
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            pass
        raise self._wrong("its host, in brackets, is not an IPv6 address")

    def port(self, text: str | None) -> int:
        if text is None:
            return PORT
        digits = text[1:]
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 5):
            raise self._wrong("its port is not a number from 1 to 65535")
        port = int(digits)
        if not 1 <= port <= 65535:
            raise self._wrong("its port is not a number from 1 to 65535")
        return port

    def username(self, text: str) -> str:
        try:
            return arguments.username(self._decoded("user", text))
        except BadUrl:
            raise
        except BadArgument as error:
            rule = error.rule
        raise self._wrong(f"its user is not {rule}")

    def password(self, text: str) -> str:
        if not text:
            raise self._wrong("its password is empty: leave the : out, to be asked for it")
        return self._decoded("password", text)

    def settings(self, options: str | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for option in (options or "").split("&") if options else ():
            key, is_set, value = option.partition("=")
            if key not in _SETTINGS or not is_set:
                raise self._wrong(f"its options are {', '.join(_SETTINGS)}, as option=value")
            if key in found:
                raise self._wrong(f"it has the option {key} more than once")
            about, read = _SETTINGS[key]
            try:
                found[key] = read(self._decoded(f"option {key}", value))
            except BadUrl:
                raise
            except (BadArgument, ValueError, KeyError):
                found[key] = None
            if found[key] is None:
                raise self._wrong(f"its option {key} is not {about}")
        return found


def _seconds(text: str) -> float:
    return arguments.seconds("timeout_s", float(text))


def _client_name(text: str) -> str:
    return arguments.name("client_name", text)


def _encrypt(text: str) -> str:
    return read_encrypt("encrypt", text)


def _pin(text: str) -> str:
    return read_pin("pin", text)


_SETTINGS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "timeout_s": ("a number of seconds", _seconds),
    "reconnect": (f"one of {', '.join(_FLAGS)}", _FLAGS.__getitem__),
    "payments": (f"one of {', '.join(_FLAGS)}", _FLAGS.__getitem__),
    "encrypt": (f"one of {', '.join(CHOICES)}", _encrypt),
    "pin": ("a fingerprint", _pin),
    "compress": (f"one of {', '.join(_FLAGS)}", _FLAGS.__getitem__),
    "client_name": (f"text of at most {arguments.NAME_LEN_MAX} bytes", _client_name),
}
