"""Values of the region and of records as text: in a line, in a cell of a table, as JSON."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from server.admin.inspect import Mark, Time, Value

NONE: Final = "none"
TABLE_BLOB_MAX: Final = 16  # bytes of a blob in a table
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def plain(value: Value) -> object:
    """A value in the types that JSON has: times in RFC 3339, blobs in hex."""
    match value:
        case Time():
            return _time(value)
        case bytes():
            return value.hex()
        case Mark():
            return value.value
        case Mapping():
            return {name: plain(each) for name, each in value.items()}
        case str() | int() | None:
            return value
    return [plain(each) for each in value]


def as_text(value: Value, separator: str = " ") -> str:
    """A value in one line."""
    match value:
        case None:
            return NONE
        case Mapping():
            return " ".join(f"{name}={as_text(each)}" for name, each in value.items())
        case Time() | bytes() | Mark() | str() | int():
            return str(plain(value))
    return separator.join(as_text(each) for each in value) or NONE


def _time(time: Time) -> str:
    """RFC 3339, UTC; the number where the calendar does not reach."""
    try:
        moment = _EPOCH + timedelta(microseconds=time)
    except OverflowError:
        return str(int(time))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def as_cell(name: str, value: Value) -> str:
    """A value in a table: what is long is cut, what is many is counted."""
    if isinstance(value, bytes) and len(value) > TABLE_BLOB_MAX:
        return f"{value[:TABLE_BLOB_MAX].hex()}... ({len(value)} bytes)"
    if name == "outcomes" and isinstance(value, Sequence):
        return str(len(value))
    return as_text(value)
