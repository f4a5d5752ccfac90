"""How what was found is shown: JSON lines, blocks of lines, aligned tables. All on standard output.

OutputClosed and OutputFailed are raised by all of it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from libcli.output import put
from server.admin.inspect import Entry, Value
from server.admin.values import as_cell, as_text, plain
from server.region.records import COMMON

_CHANGED: Final = "changed while it was read"


def put_json(value: Mapping[str, Value]) -> None:
    put(orjson.dumps(plain(value)).decode() + "\n")


def entry_object(segment: str, entry: Entry) -> dict[str, Value]:
    about: dict[str, Value] = {"segment": segment, "index": entry.index}
    return about | ({"changed": True} if entry.values is None else entry.values)


def put_block(title: str, entry: Entry) -> None:
    """A record as lines, with nothing cut."""
    put(f"{title}\n")
    if entry.values is None:
        put(f"  {_CHANGED}\n")
        return
    put_lines(
        [
            (name, as_text(value, "\n" if name == "outcomes" else " "))
            for name, value in entry.values.items()
        ],
        "  ",
    )


def put_records(entries: Sequence[Entry]) -> None:
    """Records as a table. One that changed has that said in the place of its fields."""
    rows: list[list[str]] = []
    heading = ["index", ""]
    for entry in entries:
        if entry.values is None:
            rows.append([str(entry.index), _CHANGED])
            continue
        values = entry.values
        record = values.get("record")
        if isinstance(record, Mapping):  # of the txn log: what all have, then what its kind has
            common = {field.name: record.get(field.name) for field in COMMON}
            rest = {name: each for name, each in record.items() if name not in common}
            values = {**common, "fields": rest}
        heading = ["index", *values]
        rows.append([str(entry.index), *(as_cell(name, value) for name, value in values.items())])
    put_table([heading, *rows])


def put_table(rows: Sequence[Sequence[str]]) -> None:
    """Show `aligned` rows."""
    for line in aligned(rows):
        put(line + "\n")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns: numbers to the right, the rest to the left. The first row is the heading,
    and a row that is not as long keeps to none."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    columns = list(zip(*whole, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(map(_is_number, column[1:])) for column in columns]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numeric, strict=False)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _is_number(cell: str) -> bool:
    """Is it one, or the sign that there is none?"""
    return cell in ("", "-") or cell.replace(".", "", 1).isdigit()


def put_lines(pairs: Sequence[tuple[str, str]], indent: str = "") -> None:
    """Names and values; a value of several lines goes on under its first."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        for i, line in enumerate(value.split("\n")):
            put(f"{indent}{'' if i else name:{width}}  {line}".rstrip() + "\n")
