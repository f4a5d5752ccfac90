"""The end of a worker that must not run on."""

import os
from typing import Final, NoReturn

import liblog
from server.exits import Exit
from server.region.locks import InsideLock, MasterGone

FATAL: Final = (InsideLock, MasterGone)

log = liblog.get("worker")


def die(error: BaseException) -> NoReturn:
    """The state may be half-changed, or the master is gone: no code of this process may run on.
    Not even an exit handler."""
    try:
        if not isinstance(error, MasterGone):
            log.error("worker_crashed_in_lock", exc_info=error)
    finally:  # also where there is no memory for a line
        os._exit(Exit.INSIDE_LOCK)
