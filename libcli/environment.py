"""Which environment variables are meant for a program, among those that only look like it.

Variables are named TRADECHAT_... here. Three kinds of them were not set by somebody who wanted to
tell the program something, and to take them literally would keep it from starting:

- Kubernetes and Docker links put variables about every service into every container. Those of a
  service called `tradechat` are TRADECHAT_PORT=tcp://10.0.0.1:7878, TRADECHAT_SERVICE_HOST and so
  on; those of a service `tradechat-web` begin with TRADECHAT_WEB_.
- An empty variable is what is left where a template had no value.
- A misspelt name would silently do nothing.

They are passed over, and the program says so.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

PREFIX: Final = "TRADECHAT_"
EVERY_PROGRAMS: Final = frozenset(
    PREFIX + name
    # Of the clients; PURE, of every program; of the tests, and of developers
    # (CONTRIBUTING).
    for name in (
        *("URL", "HOST", "PORT", "USER", "PASSWORD", "ENCRYPT", "PIN"),
        *("PURE", "CHECK_LOCKS", "CRASH_POINTS", "TESTS"),
    )
)
"""Variables that some program of the house reads, beside the server's settings."""

_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://\S+", re.IGNORECASE)
_LINKED_NAME: Final = re.compile(r"/[^/]+/[^/]+")
# What a platform calls its variables, behind the name of the service. Docker's links add _NAME and
# _ENV_..., the variables of the container that is linked to.
_PLATFORM: Final = re.compile(
    r"TRADECHAT_(\w+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
    r"|TRADECHAT_(\w+_)?ENV_\w+"
)


class PassedOver(NamedTuple):
    """A variable that is not used; the text says why and what to do, and does not show its value:
    what is misspelt may be a password."""

    variable: str
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.variable} is passed over: {self.reason}; {self.advice}"


def sift(
    environ: Mapping[str, str], read: Collection[str], *, cutoff: float = 0.0
) -> tuple[dict[str, str], list[PassedOver]]:
    """Return the variables to take values from, and those passed over that somebody should hear of.

    read: the names that this program reads. cutoff: how alike a name that nothing reads must be to
    one of them to be taken for a misspelling: 0 for any, 1 for none (difflib's ratio of what is
    behind the prefix).
    """
    used: dict[str, str] = {}
    passed_over: list[PassedOver] = []
    for name, value in environ.items():
        if not name.upper().startswith(PREFIX):
            continue
        if name in read:
            found = _unmeant(name, value, environ)
            if found is None:
                used[name] = value
            else:
                passed_over.append(found)
        elif name not in EVERY_PROGRAMS and not _PLATFORM.fullmatch(name):
            nearest = _nearest(name, read, cutoff)
            if nearest:
                advice = f"did you mean {nearest}?"
                passed_over.append(PassedOver(name, "no setting has this name", advice))
    return used, passed_over


def _unmeant(name: str, value: str, environ: Mapping[str, str]) -> PassedOver | None:
    if not value:
        return PassedOver(name, "it is empty", "unset it, or give it a value")
    linked = _ADDRESS.fullmatch(environ.get(PREFIX + "PORT", "")) is not None
    if (name == PREFIX + "PORT" and linked) or (
        name == PREFIX + "NAME" and linked and _LINKED_NAME.fullmatch(value)
    ):
        return PassedOver(
            name,
            "a container platform set it for a service called tradechat",
            "call the service something else, set enableServiceLinks: false in its pod, or use the "
            "flag or the file for this setting",
        )
    return None


def _nearest(name: str, read: Collection[str], cutoff: float) -> str:
    """The name that is most like it, or none."""
    suffixes = {each.removeprefix(PREFIX): each for each in sorted(read)}
    wanted = name.upper().removeprefix(PREFIX).replace("-", "_")
    found = difflib.get_close_matches(wanted, suffixes, n=1, cutoff=cutoff)
    return suffixes[found[0]] if found else ""
