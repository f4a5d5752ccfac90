"""What a program does first: while it is loaded, a signal that ends it ends it at once.

Where a module is imported, the KeyboardInterrupt that Python raises at SIGINT becomes a traceback.
So this module uses only what every interpreter has loaded before it: `signal` would first import
other modules for some milliseconds.
"""

import _signal  # type: ignore[import-not-found] # the part of `signal` that is in C has no stub
from os import _exit

TYPE_CHECKING = False  # as type checkers know it, without the import of `typing`
if TYPE_CHECKING:
    from types import FrameType


def end(number: int, _: "FrameType | None") -> None:
    """A handler: the process ends with the exit code that a shell shows for this signal."""
    _exit(128 + number)


def end_at_signals() -> None:
    """Those of them that would call a function of Python; one that is ignored stays so."""
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        if callable(_signal.getsignal(number)):
            _signal.signal(number, end)
