"""The index of the store: one line of text for each record, appended.

A line is the CRC-32 of the rest in hexadecimal digits, a blank, and a JSON object. A wrong line is
passed over: after a power cut any line may be missing that was not synced, also one before a line
that is there. What relies on a line has synced it; where it is damaged all the same, its content is
there, and counts as one that was found.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import orjson

from server.files.errors import Damaged

FORMAT: Final = 1
_DIGITS: Final = 8

HEAD, NUMBERS, BEGUN, ENDED, GONE = "head", "numbers", "begun", "ended", "gone"
PUBLISHED, OVER, FOUND, DROPPED = "published", "over", "found", "dropped"


@dataclass(frozen=True, slots=True)
class File:
    """A publication in a room, or what will be one."""

    file_id: int
    user: int
    room: int
    sha256: bytes
    size: int
    media_type: str
    name: str

    @property
    def key(self) -> tuple[int, int, bytes, int, str, str]:
        """Two FILE_BEGIN with the same are the same."""
        return self.user, self.room, self.sha256, self.size, self.media_type, self.name


def index_of(directory: Path) -> Path:
    return directory / "index"


def line_of(kind: str, **fields: Any) -> bytes:
    text = orjson.dumps({"kind": kind, **fields})
    return b"%08x %s\n" % (crc32(text), text)


def line_of_file(kind: str, file: File, at: int) -> bytes:
    return line_of(
        kind,
        id=file.file_id,
        user=file.user,
        room=file.room,
        sha256=file.sha256.hex(),
        size=file.size,
        type=file.media_type,
        name=file.name,
        at=at,
    )


def file_of(record: dict[str, Any]) -> File:
    return File(
        record["id"],
        record["user"],
        record["room"],
        bytes.fromhex(record["sha256"]),
        record["size"],
        record["type"],
        record["name"],
    )


def records_of(path: Path, data: bytes) -> tuple[list[dict[str, Any]], int]:
    """The records of an index, the first being its head, and how many lines are wrong that others
    follow. Damaged."""
    good = [_record(line) for line in data.split(b"\n")]
    found = [record for record in good if record is not None]
    if good[0] is None or good[0]["kind"] != HEAD:
        raise Damaged(path, "it does not begin as an index of files does")
    if good[0]["format"] != FORMAT:
        raise Damaged(path, f"it has format {good[0]['format']}, and this program reads {FORMAT}")
    last = max(at for at, record in enumerate(good) if record is not None)
    return found, last + 1 - len(found)


def _record(line: bytes) -> dict[str, Any] | None:
    """None: it is not one."""
    text = line[_DIGITS + 1 :]
    if line[: _DIGITS + 1] != b"%08x " % crc32(text):
        return None
    record: dict[str, Any] = orjson.loads(text)
    return record
