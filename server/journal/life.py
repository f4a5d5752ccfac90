"""What the processes that bring something to disk have in common, the journal's and the archive's:
when they end, and how.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from libnet.wakeup import Wakeup
from server.child import Report, enter, limit_of
from server.config import Settings
from server.early import STOP_SIGNALS
from server.exits import Exit
from server.journal.errors import JournalError

POLL_S: Final = 0.01  # before it sleeps for longer
LAST_S: Final = 5.0  # beside the graceful timeout: how long workers are waited for at the end


def now_us() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1000


class Stop:
    """Told to end, and no worker left; or told so long ago that it is waited for none."""

    def __init__(self, workers: int, patience_s: float, wakeup: Wakeup) -> None:
        """workers: a pipe that is at its end when no worker is left. wakeup: of this process: it is
        set when the signal comes."""
        self._workers, self._patience_s, self._wakeup = workers, patience_s, wakeup
        self._told_at = 0.0
        signal.signal(signal.SIGTERM, self._told)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _told(self, *_: object) -> None:
        self._told_at = self._told_at or time.monotonic()
        self._wakeup.set()

    def watch(self, poll: select.poll) -> None:
        """Once told, have this end when no worker is left."""
        if self._told_at:
            poll.register(self._workers, 0)

    def __bool__(self) -> bool:
        if not self._told_at:
            return False
        return self.alone or time.monotonic() - self._told_at > self._patience_s

    @property
    def alone(self) -> bool:
        """No worker is left."""
        poll = select.poll()
        poll.register(self._workers, 0)
        return bool(poll.poll(0))


@dataclass(frozen=True, slots=True)
class Ends:
    """What one does where it cannot go on."""

    directory: Path  # that it writes to
    give_up: Callable[[int], None]  # tells the workers; of the errno
    unusable: Callable[[JournalError], None]  # these three log it
    unwritable: Callable[[OSError], None]
    crashed: Callable[[BaseException], None]
    unwritable_code: Exit


def live(
    title: str,
    settings: Settings,
    master: int,
    report: Report,
    serve: Callable[[], None],
    ends: Ends,
) -> NoReturn:
    """The whole life of such a process, after its fork. Ends the process.

    title: as ps shows it. Before it serves the master is told why it cannot, and logs that; later
    it logs it itself."""
    code = Exit.FAILED
    try:
        enter(settings, title, master)
        serve()
        code = Exit.OK
    except JournalError as error:
        ends.give_up(errno.EIO)
        report.fails(str(error))
        if report.served:
            ends.unusable(error)
        code = Exit.DATA_REFUSED
    except OSError as error:
        ends.give_up(error.errno or errno.EIO)
        if report.served:
            ends.unwritable(error)
        else:
            reason = limit_of(error) or error.strerror
            report.fails(f"{ends.directory} cannot be written: {reason}")
        code = ends.unwritable_code
    except BaseException as error:  # noqa: BLE001 - it is told or logged
        if not report.served and (limit := limit_of(error)):
            report.fails(limit)
        else:
            ends.crashed(error)
    finally:
        os._exit(code)
