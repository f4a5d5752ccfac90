"""Exit codes, in one home: those of the server, and those by which its processes tell the master
how they ended. docs/SETTINGS.md has the first group as a table.
"""

from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """How a process of the server ended."""

    OK = 0
    FAILED = 1  # of a child: an error of the program, logged with its traceback
    USAGE = 2
    NOT_STARTED = 3
    DAMAGED = 5
    JOURNAL = 6
    DATA_REFUSED = 65  # EX_DATAERR; of the journal
    INSIDE_LOCK = 70  # EX_SOFTWARE; of a worker: the state may be half-changed
    IO_FAILED = 74  # EX_IOERR; of the journal
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141  # as a shell shows a program that SIGPIPE ended; see libcli.output


OF_THE_SERVER: Final = {
    Exit.OK: "stopped in order, or shown what was asked for",
    Exit.FAILED: "what was asked for (`--print-config`, `--help`) cannot be written",
    Exit.USAGE: "wrong usage or configuration; nothing was started",
    Exit.NOT_STARTED: "could not start: the reason is on standard error, nothing is left behind",
    Exit.DAMAGED: "the shared state was found damaged, and there is no journal to rebuild it from",
    Exit.JOURNAL: "the journal cannot be written; everything that was answered is safe, with "
    "`async` but for the last moments",
    Exit.INTERRUPTED: "interrupted a second time while stopping",
    Exit.OUTPUT_CLOSED: "nobody reads what was asked for any more",
}
"""What a user of the server is told, by exit code."""


def table() -> str:
    """The exit codes of the server, as a table of Markdown."""
    rows = [f"| {code:d} | {meaning} |" for code, meaning in OF_THE_SERVER.items()]
    return "\n".join(["| exit code | meaning |", "|-----------|---------|", *rows]) + "\n"
