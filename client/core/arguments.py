"""What a program passes to the calls, checked before anything is sent.

Each function returns its value, or raises BadArgument, which names argument, value and rule.
"""

import inspect
import ipaddress
import re
from collections.abc import Callable
from typing import Any, TypeVar

from client.errors import BadArgument
from libproto.messages import USERNAME_PATTERN, RoomAccess, RoomRole

E = TypeVar("E", RoomAccess, RoomRole)
F = TypeVar("F", bound=Callable[..., object] | None)

U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
NAME_LEN_MAX = 64
"""Of a client_name, bytes."""
TIMEOUT_S_MAX = 1e8
"""Longest timeout, seconds; waits of operating systems have limits of their own."""
_NO_HOST = re.compile(r"[\x00-\x20\x7f/@?#\[\]]")
"""Characters that no name and no address has, but a URL, or something else in its place."""


def whole(name: str, value: Any, low: int, high: int, unit: str) -> int:
    """A whole number; True and 12.0 are none."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadArgument(name, value, f"{unit}, a whole number from {low} to {high}")
    return value


def amount(value: Any, name: str = "amount") -> int:
    """Of money. 0 is for the server to refuse, as what is over a limit of its own."""
    return whole(name, value, 0, U64_MAX, "minor units (cents)")


def access(value: Any) -> RoomAccess:
    """Who may join a room."""
    return _one_of(RoomAccess, "access", value)


def role(value: Any) -> RoomRole:
    """What somebody is in a room."""
    return _one_of(RoomRole, "role", value)


def _one_of(kind: type[E], name: str, value: Any) -> E:
    if not isinstance(value, bool) and value in tuple(kind):
        return kind(value)
    names = ", ".join(each.name for each in kind)
    raise BadArgument(name, value, f"a {kind.__name__}: {names}")


def room(value: Any, name: str = "room_id") -> int:
    """The number of a room."""
    return whole(name, value, 0, U32_MAX, "the number of a room")


def user(value: Any, name: str) -> int:
    """A user_id: `lookup` finds it by the name."""
    return whole(name, value, 0, U32_MAX, "a user_id, which lookup() gives")


def position(value: Any, name: str) -> int:
    """A place in a history."""
    return whole(name, value, 0, U64_MAX, "a number of the history")


def limit(value: Any) -> int:
    """How many items are wanted."""
    return whole("limit", value, 0, U16_MAX, "items")


def text(name: str, value: Any, *, secret: bool = False) -> str:
    """Text that the wire can carry. `secret`: no error shows it."""
    shown = "(not shown)" if secret and isinstance(value, str) else value
    if not isinstance(value, str):
        raise BadArgument(name, type(value) if secret else value, "text, a str")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:  # whose text would show it
        length = -1
    if length < 0:
        raise BadArgument(name, shown, "text without halves of surrogate pairs")
    if length > U16_MAX:
        raise BadArgument(name, shown, f"text of at most {U16_MAX} bytes")
    return value


def username(value: Any) -> str:
    """A username as the protocol allows it."""
    if not isinstance(value, str) or not USERNAME_PATTERN.fullmatch(value):
        raise BadArgument("username", value, "1 to 32 of the characters A-Z a-z 0-9 _ . -")
    return value


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadArgument(name, value, "True or False")
    return value


def seconds(name: str, value: Any) -> float:
    """A time to wait."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 <= value <= TIMEOUT_S_MAX:  # which no NaN is
        raise BadArgument(name, value, f"seconds, a number from 0 to {TIMEOUT_S_MAX:g}")
    return float(value)


def function(name: str, value: F) -> F:
    """What is to be called back, or None."""
    if value is not None and not callable(value):
        raise BadArgument(name, value, "a function, or None")
    return value


def plain_function(name: str, value: F) -> F:
    """What is to be called back where nobody could await what it returns, or None."""
    call = getattr(value, "__call__", None)  # noqa: B004 - of an object whose method it is
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call):
        raise BadArgument(name, value, "a plain function, or None: only AsyncClient awaits one")
    return function(name, value)


def host(value: Any) -> str:
    """Where the server is. What is no name and no address would only be not found."""
    if not isinstance(value, str) or not value:
        raise BadArgument("host", value, "a name or an address, a str that is not empty")
    if _NO_HOST.search(value) or (":" in value and not _is_ipv6(value)):
        raise BadArgument(
            "host",
            value,
            "a name or an address, without a port, brackets or blanks; or a URL, as "
            "tradechat://host:7878",
        )
    return value


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def name(argument: str, value: Any) -> str:
    """How a program calls itself."""
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > NAME_LEN_MAX:
        raise BadArgument(argument, value, f"text of at most {NAME_LEN_MAX} bytes")
    return text(argument, value)
