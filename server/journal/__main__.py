"""The command line: `python -m server.journal doc` writes the journal's document, or checks it."""

import argparse
import sys
from pathlib import Path

from server.journal.describe import COMMAND, document


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives the exit code: 0 good, 1 a stale document, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m server.journal", description="The data directory of tradechat, for people."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    doc = commands.add_parser("doc", help="write the document of the data directory")
    doc.add_argument("--check", action="store_true", help="only say whether it is up to date")
    doc.add_argument("--output", type=Path, default=Path("docs/JOURNAL.md"), metavar="PATH")
    options = parser.parse_args(arguments)
    path, text = options.output, document()
    try:
        if not options.check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{path} is not what the tables say: run `{COMMAND}`\n")
            return 1
    except OSError as error:
        doc.error(f"{path}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
