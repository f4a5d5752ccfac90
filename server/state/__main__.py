"""The command line: `python -m server.state doc` writes the layout document, or checks it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from server.state import describe, document


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    about = "The shared region of tradechat, for people."
    output = Path("docs/LAYOUT.md")
    return document.run("server.state", about, output, describe.document, arguments)


if __name__ == "__main__":
    sys.exit(main())
