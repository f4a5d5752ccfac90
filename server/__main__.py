"""`tradechat-server`: signals held before all else, then the program. Exit codes are those of
server/exits.py."""

import signal
import sys
from collections.abc import Callable

from libcli.entry import run
from server.early import hold_signals, write_line
from server.exits import Exit


def load() -> Callable[[], int]:
    """Hold signals, then import the program; answers what runs it."""
    former = hold_signals()  # what is asked for from now on is not lost
    try:
        # Imported here because it takes long, and fails where a limit allows next to nothing.
        from server import program
    except (ImportError, OSError, MemoryError) as error:
        write_line(2, f"tradechat-server: cannot start: the program cannot be loaded: {error}")
        return lambda: Exit.NOT_STARTED
    return lambda: program.run(lambda: signal.pthread_sigmask(signal.SIG_SETMASK, former))


def main() -> int:
    """Run it. Answers the exit code."""
    return load()()


if __name__ == "__main__":
    sys.exit(run(load))
