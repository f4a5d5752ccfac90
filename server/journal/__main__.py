"""The command line: `python -m server.journal doc` writes the data directory's document, or checks
it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from server.journal import describe
from server.state import document


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    about = "The data directory of tradechat, for people."
    output = Path("docs/JOURNAL.md")
    return document.run("server.journal", about, output, describe.document, arguments)


if __name__ == "__main__":
    sys.exit(main())
