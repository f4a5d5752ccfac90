"""Lines about files, how far a transfer has come, and where a file that was fetched is put."""

import os
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from client.core.room_events import FileShared, MessageDeleted, read_event
from client.terminal.style import Line, Style
from libproto.messages import ChatBroadcast
from libproto.texts import may_name_a_file

_SHOW_EACH_S = 0.1
_STEP = 1024
_DELETED = (Style.QUIET, "(deleted)")


class Shared(NamedTuple):
    """A file of a room, and who shared it."""

    file: FileShared
    event: ChatBroadcast


def shared_in(events: Iterable[Any]) -> list[Shared]:
    """The files among the events of a room. A name that was deleted is empty, also where the event
    that tells of it comes only after that of the file."""
    found: dict[int, Shared] = {}
    for event in events:
        if not isinstance(event, ChatBroadcast):
            continue
        match read_event(event):
            case FileShared() as file:
                found[event.room_seq] = Shared(file, event)
            case MessageDeleted(seq) if seq in found:
                found[seq] = found[seq]._replace(file=found[seq].file._replace(name=""))
    return list(found.values())


def file_line(shared: Shared) -> Line:
    """`file 17 alice: report.pdf (application/pdf, 12.5 KiB)`."""
    file = shared.file
    return [
        (Style.QUIET, f"file {file.file_id} "),
        (Style.PERSON, shared.event.from_name),
        ": ",
        file.name or _DELETED,
        (Style.QUIET, f" ({file.media_type}, {size_of(file.size)})"),
    ]


def file_fields(shared: Shared) -> dict[str, Any]:
    """The same for JSON."""
    event = shared.event
    return {
        **shared.file._asdict(),
        "room_id": event.room_id,
        "room_seq": event.room_seq,
        "time": event.time,
        "user_id": event.from_user,
        "username": event.from_name,
    }


def size_of(size: int) -> str:
    """As people say it: 17 bytes, 1.5 KiB."""
    if size < _STEP:
        return f"{size} byte{'' if size == 1 else 's'}"
    value, units = size / _STEP, iter(("KiB", "MiB", "GiB"))
    unit = next(units)
    while value >= _STEP and (larger := next(units, "")):
        value, unit = value / _STEP, larger
    return f"{value:.1f} {unit}"


def place_of(file_id: int, name: str, path: str | None) -> str:
    """Where a file goes: the path that the user gives, in which a directory stands for the file's
    own name in it; without one, into the current directory.

    The name is somebody else's: it is used only where it surely is one of a file in that directory.
    """
    own = name if _is_plain(name) else f"file-{file_id}"
    if path is None:
        return own
    path = os.path.expanduser(path)
    return os.path.join(path, own) if os.path.isdir(path) or path.endswith(os.sep) else path


def _is_plain(name: str) -> bool:
    return (
        may_name_a_file(name)
        and os.path.basename(name) == name
        and not set('\\:*?"<>|') & set(name)
        and not name.startswith("-")
        and name.isprintable()
    )


def told(error: OSError, path: str) -> str:
    """What went wrong with a file of one's own."""
    if isinstance(error, FileExistsError):
        return (
            f"{error.filename or path} is there already, and is not overwritten: give another path"
        )
    return f"{error.filename or path}: {error.strerror or error}"


class Bar:
    """How far a transfer has come, on standard error where that is a terminal: one line, which is
    gone when it has ended."""

    def __init__(self, *, quiet: bool = False) -> None:
        stream = sys.stderr
        self._shows = not quiet and stream is not None and stream.isatty()
        self._next = 0.0
        self._width = 0

    def __call__(self, done: int, size: int) -> None:
        now = time.monotonic()
        if not self._shows or now < self._next:
            return
        self._next = now + _SHOW_EACH_S
        self._write(progress_text(done, size))

    def _write(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)

    def close(self) -> None:
        if self._width:
            self._write("")
            sys.stderr.write("\r")
            sys.stderr.flush()
            self._width = 0


def progress_text(done: int, size: int) -> str:
    """`1.5 MiB of 3.0 MiB, 50 %`."""
    percent = 100 * done // size if size else 100
    return f"{size_of(done)} of {size_of(size)}, {percent} %"
