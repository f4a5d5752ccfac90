"""Documents that are made from the tables that the code runs on: written, or checked for being up
to date, by `python -m server.state doc` and `python -m server.journal doc`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from server.state.records import BY_KIND, RecordKind


def run(
    package: str,
    about: str,
    output: Path,
    document: Callable[[], str],
    arguments: Sequence[str] | None = None,
) -> int:
    """The command line `python -m PACKAGE doc`; the exit code: 0 good, 1 a stale document, 2 usage.

    output: where the document is, if nothing else is said.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    doc = commands.add_parser("doc", help="write the document")
    doc.add_argument("--check", action="store_true", help="only say whether it is up to date")
    doc.add_argument("--output", type=Path, default=output, metavar="PATH")
    options = parser.parse_args(arguments)
    path, text = options.output, document()
    try:
        if not options.check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{path} is not what the tables say: run `python -m {package} doc`\n")
            return 1
    except OSError as error:
        doc.error(f"{path}: {error.strerror}")
    return 0


def kinds_by_fields() -> list[list[RecordKind]]:
    """The kinds, those of the same fields together."""
    groups: list[list[RecordKind]] = []
    for kind, fields in BY_KIND.items():
        for group in groups:
            if BY_KIND[group[0]] == fields:
                group.append(kind)
                break
        else:
            groups.append([kind])
    return groups


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
