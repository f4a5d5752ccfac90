"""What every process that the master forks does first, and what ends it: so that none outlives the
master, and a terminal's SIGINT, which goes to the whole group, is the master's alone.
"""

import ctypes
import os
import signal
from typing import Any, Final

import setproctitle

import liblog
from server.config import Settings

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""Blocked over a fork, so that one that comes before the child can act on it is kept for it."""
_PR_SET_PDEATHSIG: Final = 1

log = liblog.get("child")


def follow_parent(parent: int, number: signal.Signals) -> None:
    """Get this signal when the parent ends; end at once where it has ended before. parent: its
    process id, taken before the fork."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(0)


def enter(settings: Settings, title: str, master: int, **bound: Any) -> None:
    """Be a process of the server. title: as ps shows it. bound: on every line of its log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent(master, signal.SIGTERM)
    setproctitle.setproctitle(f"tradechat: {title}")
    open_log(settings, **bound)


def open_log(settings: Settings, **bound: Any) -> None:
    """Set up the log of this process. Where --log-file cannot be opened any more (its directory was
    removed, say) the process does its work all the same, and logs to standard error."""
    try:
        liblog.configure(settings.log_level, settings.log_format, settings.log_file, **bound)
    except OSError as error:
        liblog.configure(settings.log_level, settings.log_format, None, **bound)
        log.error(
            "log_file_unusable",
            path=str(settings.log_file),
            reason=error.strerror,
            advice="make the file writable and restart the server: until then this process logs to "
            "standard error",
        )
