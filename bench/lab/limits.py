"""What this machine allows a load program."""

import resource
from typing import Final

from bench.lab.cli import BenchFailed

_SPARE_FILES: Final = 256


class CannotRun(BenchFailed):
    """This machine does not allow what is to be run; the text says what to do."""


def allow_files(connections: int, instead: str) -> None:
    """Raise this process's limit of open files, which all others inherit, as far as it may be.
    CannotRun where so many connections are not possible. instead: what else can be done."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if most != resource.RLIM_INFINITY and most < wanted:
        raise CannotRun(
            f"{connections} connections need {wanted} open files, and the hard limit is {most}: "
            f"raise it (ulimit -Hn, or nofile in /etc/security/limits.conf) and log in again, or "
            f"{instead}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
