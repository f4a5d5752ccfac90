"""The command line: `python -m server.documents` writes the documents that are made from tables, or
checks that they are up to date.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from server import documents
from server.documents import events, example, journal, layout, man, metrics, settings

DOCUMENTS: Final[dict[str, tuple[Path, Callable[[], str]]]] = {
    "layout": (Path("docs/LAYOUT.md"), layout.document),
    "events": (Path("docs/EVENTS.md"), events.document),
    "metrics": (Path("docs/METRICS.md"), metrics.document),
    "settings": (Path("docs/SETTINGS.md"), settings.document),
    "man-server": (Path("docs/man/tradechat-server.1"), man.server),
    "man-admin": (Path("docs/man/tradechat-admin.1"), man.admin),
    "example": (Path("deploy/tradechat.toml"), example.document),
    "journal": (Path("docs/JOURNAL.md"), journal.document),
}
"""Name -> where it is in a checkout, and what makes its text."""

PROGRAM: Final = f"python -m {documents.__name__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 good, 1 a stale document, 2 usage."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Write the documents that are made from the server's tables."
    )
    parser.add_argument("name", nargs="?", choices=DOCUMENTS, help="the document; all if not named")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help="where the named document is, if not in docs/"
    )
    options = parser.parse_args(arguments)
    if options.output is not None and options.name is None:
        parser.error("--output needs the name of a document")
    exit_code = 0
    for name in [options.name] if options.name else DOCUMENTS:
        path, document = DOCUMENTS[name]
        path = options.output or path
        text = document()
        try:
            if not options.check:
                path.write_text(text, encoding="utf-8")
            elif not path.exists() or path.read_text(encoding="utf-8") != text:
                sys.stderr.write(f"{path} is not what the tables say: run `{PROGRAM} {name}`\n")
                exit_code = 1
        except OSError as error:
            parser.error(f"{path}: {error.strerror}")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
