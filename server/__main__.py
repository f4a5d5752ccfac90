"""`tradechat-server`: signals held before all else, then the program. Exit codes are those of
server/exits.py."""

import signal
import sys

from server.early import hold_signals, write_line
from server.exits import Exit


def main() -> int:
    """The console script. Answers the exit code."""
    former = hold_signals()  # what is asked for from now on is not lost
    try:
        # Imported here because it takes long, and fails where a limit allows next to nothing.
        from server import program
    except (ImportError, OSError, MemoryError) as error:
        write_line(2, f"tradechat-server: cannot start: the program cannot be loaded: {error}")
        return Exit.NOT_STARTED
    return program.run(lambda: signal.pthread_sigmask(signal.SIG_SETMASK, former))


if __name__ == "__main__":
    sys.exit(main())
