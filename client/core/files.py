"""Sending and fetching files: in parts, several of them under way at a time, without sockets.

A transfer is a generator. It yields what it wants done: a `Call` to be answered, a list of calls to
be made at the same time, a function to be computed where it may wait for a disk, or a `Pause`. It
is sent the result; of a list, each call's result or error. What goes wrong is thrown into it. Each
client does these in its own way. It holds at most `WINDOW` parts in memory, whatever the size.

Whatever the server has of a file it keeps for an hour, so who sends the same file again goes on
from there, in another connection or another run of the program. A file that is fetched grows under
another name, beside its own, and gets its own when it is whole; that one is taken up again, too.
"""

import os
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256 as sha256_of
from math import inf
from mimetypes import guess_type
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

from client.core import arguments as check
from client.core import once as sharing
from client.core.calls import Call, RoomChange
from client.core.once import Once
from client.core.resume import ResumingCore
from client.core.retry import Attempts
from client.errors import (
    BadArgument,
    BadPacket,
    ClientError,
    FileChanged,
    ProtocolViolation,
    ServerBusy,
    WrongContents,
)
from libproto.messages import (
    CHUNK_MAX,
    SHA256_LEN,
    FileBeginResponse,
    FileGetResponse,
    Opcode,
)
from libproto.texts import is_media_type, may_name_a_file

WINDOW: Final = 8
"""Parts of a file that are under way at a time; the server takes 16 requests about files."""
_HASHED_LEN: Final = 1 << 20  # bytes read at a time
_NAME_LEN: Final = 100  # bytes of a name that are in that of its part
_UNKNOWN: Final = "application/octet-stream"

Source = str | os.PathLike[str] | BinaryIO
"""A path, or a binary file object that can be read and told where to go on."""
Target = str | os.PathLike[str] | BinaryIO
"""A path where nothing is, or a binary file object that can be written."""
Progress = Callable[[int, int], object]
"""Is given the bytes that have been transferred, and all there are."""


class FileSent(NamedTuple):
    """A file that was shared in a room: `room_seq`, the number of its event there; its bytes, and
    their SHA-256. recorded: an earlier sending has shared it, and nothing was shared just now."""

    file_id: int
    room_seq: int
    size: int
    sha256: bytes
    recorded: bool = False


class FileFetched(NamedTuple):
    """A file that was fetched: its bytes, and their SHA-256."""

    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


R = TypeVar("R")
Wanted = Call[Any] | list[Call[Any]] | Callable[[], Any] | Pause
Transfer = Generator[Wanted, Any, R]


# ---- the requests


def _begin(
    room_id: int, size: int, sha256: bytes, media_type: str, name: str
) -> Call[FileBeginResponse]:
    fields = (room_id, size, sha256, media_type, name)
    return Call(Opcode.FILE_BEGIN, fields, FileBeginResponse._make)


def _put(file_id: int, offset: int, data: bytes) -> Call[int]:
    return Call(Opcode.FILE_PUT, (file_id, offset, data), lambda fields: int(fields[0]))


def _get(file_id: int, offset: int) -> Call[FileGetResponse]:
    return Call(Opcode.FILE_GET, (file_id, offset, CHUNK_MAX), FileGetResponse._make)


# ---- sending


@dataclass(slots=True)
class _Sending:
    """What is sent, and where to."""

    file: BinaryIO
    ours: bool  # it is closed here
    start: int
    size: int = 0
    sha256: bytes = b""

    def hash(self) -> None:
        digest = sha256_of()
        self.file.seek(self.start)
        while data := _bytes(self.file.read(_HASHED_LEN)):
            digest.update(data)
            self.size += len(data)
        self.sha256 = digest.digest()

    def parts(self, offset: int) -> list[tuple[int, bytes]]:
        """Some that come next; fewer than there should be if the file was made shorter."""
        self.file.seek(self.start + offset)
        found: list[tuple[int, bytes]] = []
        while len(found) < WINDOW and offset < self.size:
            data = self.file.read(min(CHUNK_MAX, self.size - offset))
            if not data:
                break
            found.append((offset, data))
            offset += len(data)
        return found

    def close(self) -> None:
        if self.ours:
            self.file.close()


def _bytes(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise BadArgument("source", type(data), "a path, or a file opened for reading in binary")
    return data


def send_file(
    core: ResumingCore,
    room_id: int,
    source: Source,
    name: str | None = None,
    media_type: str | None = None,
    progress: Progress | None = None,
    once: Once | None = None,
) -> Transfer[FileSent]:
    """Share a file in a joined room. source: a path, or a binary file object that can seek,
    whose bytes from its position on are sent.

    name: what it is called in the room, 1 to 128 bytes without "/" or a leading dot; None:
    that of the source. media_type: such as "image/png"; None: after the name. progress: is
    called with the bytes that the server has and with all there are.

    Parts are sent several at a time, and read as they are sent: the memory it takes does not
    depend on the size. `timeout_s` is that of each request. What raises CallTimeout or
    ConnectionLost is gone on with by calling this again, within an hour, also in another run
    of the program; where that exception has a `req_id`, everything was sent, and
    `retry(req_id)` shares it. once: so that several runs of the program share it once between
    them: see `Once`. FileChanged if the file changes meanwhile, BadPacket if it is
    too large, ServerBusy if the server has no space; Unauthorized if the room is not joined.
    """
    check.room(room_id)
    if isinstance(source, str | os.PathLike):
        path: str | None = os.fspath(source)
    else:
        if not (hasattr(source, "read") and hasattr(source, "seek") and hasattr(source, "tell")):
            raise BadArgument("source", source, "a path, or a binary file object that can seek")
        named = getattr(source, "name", None)
        path = named if isinstance(named, str) else None
    if name is None:
        name = os.path.basename(path or "")
    if not may_name_a_file(check.text("name", name)):
        raise BadArgument(
            "name", name, 'text of 1 to 128 bytes without "/", control characters or a leading dot'
        )
    if media_type is None:
        guessed, encoding = guess_type(name)
        media_type = _UNKNOWN if guessed is None or encoding is not None else guessed
    if not is_media_type(check.text("media_type", media_type)):
        raise BadArgument("media_type", media_type, 'a media type, such as "image/png"')
    check.function("progress", progress)
    if once is not None and not isinstance(once, Once):
        raise BadArgument("once", once, "a Once, or None")
    return _send(core, room_id, source, (media_type, name), progress, once)


def _opened(source: Source) -> _Sending:
    if isinstance(source, str | os.PathLike):
        return _Sending(open(source, "rb"), True, 0)
    return _Sending(source, False, source.tell())


def _send(
    core: ResumingCore,
    room_id: int,
    source: Source,
    called: tuple[str, str],  # media type and name
    progress: Progress | None,
    once: Once | None,
) -> Transfer[FileSent]:
    sending = _opened(source)
    try:
        yield sending.hash
        wanted = sharing.Wanted(room_id, sending.size, sending.sha256, *called)
        if once is not None:
            before = yield from sharing.earlier(once, wanted, core.user_id, core.numbers)
            if before is not None:
                file_id, change = before
                return _sent(file_id, change, sending)
        begin = partial(_begin, *wanted)
        begun: FileBeginResponse = yield begin()
        yield from _send_parts(core, sending, begin, begun, progress)
        if once is not None and once.keep is not None:
            yield partial(once.keep, wanted.mark(begun.file_id))
        try:
            change = yield sharing.end(begun.file_id, once)
        except BadPacket as error:
            again: FileBeginResponse = yield begin()
            if again.file_id == begun.file_id:  # the server has lost some of it
                yield from _send_parts(core, sending, begin, again, progress)
                change = yield sharing.end(begun.file_id, once)
            else:
                raise FileChanged(f"{wanted.name}: it changed while it was sent") from error
    finally:
        sending.close()
    return _sent(begun.file_id, change, sending)


def _sent(file_id: int, change: RoomChange, sending: _Sending) -> FileSent:
    return FileSent(file_id, change.room_seq, sending.size, sending.sha256, change.recorded)


def _send_parts(
    core: ResumingCore,
    sending: _Sending,
    begin: Callable[[], Call[FileBeginResponse]],
    begun: FileBeginResponse,
    progress: Progress | None,
) -> Transfer[None]:
    received, attempts = begun.received, Attempts(core.policy)
    stuck = 0
    if progress is not None:
        progress(received, sending.size)
    while received < sending.size:
        parts: list[tuple[int, bytes]] = yield partial(sending.parts, received)
        if not parts:
            raise FileChanged("the file was made shorter while it was sent")
        results = yield [_put(begun.file_id, offset, data) for offset, data in parts]
        before, error = received, None
        for result in results:
            if isinstance(result, BaseException):
                error = result
                break
            received = result
        if received > before:
            attempts, stuck = Attempts(core.policy), 0
            if progress is not None:
                progress(received, sending.size)
        if error is None:
            continue
        if isinstance(error, ServerBusy):
            yield from _wait(attempts, error)
        elif not isinstance(error, BadPacket):
            raise error
        else:  # one was made again on another connection, or comes behind one that was refused
            stuck += 1
            if stuck > 2:
                raise error
        again: FileBeginResponse = yield begin()
        if again.file_id != begun.file_id:
            raise error
        received = again.received


def _wait(attempts: Attempts, busy: ServerBusy) -> Transfer[None]:
    pause_s = attempts.pause_s(busy.retry_after_ms, inf)
    if pause_s is None:
        raise busy
    yield Pause(pause_s)


# ---- fetching


def fetch_file(
    core: ResumingCore,
    file_id: int,
    to: Target,
    sha256: bytes | None = None,
    progress: Progress | None = None,
) -> Transfer[FileFetched]:
    """Fetch a file of a room whose history one may read. file_id: of its event, `FileShared`.
    to: a path where nothing is, or a binary file object to write to.

    What is there is never overwritten: FileExistsError. A file grows beside `to`, under a
    name with its number and ".part", is synced, and gets its name when it is whole; one that
    was left half done is gone on with by calling this again, also in another run of the
    program. sha256: WrongContents if it is not that; what it is, the result tells. progress:
    is called with the bytes that have arrived, and with all there are.

    Parts are fetched several at a time, and written as they come. `timeout_s` is that of
    each request. NotFound: no such file, or it is kept no longer.
    """
    check.position(file_id, "file_id")
    if sha256 is not None and not (isinstance(sha256, bytes) and len(sha256) == SHA256_LEN):
        raise BadArgument("sha256", sha256, f"{SHA256_LEN} bytes, or None")
    if not isinstance(to, str | os.PathLike) and not hasattr(to, "write"):
        raise BadArgument("to", to, "a path, or a binary file object that can be written")
    check.function("progress", progress)
    return _fetch(core, file_id, to, sha256, progress)


@dataclass(slots=True)
class _Fetching:
    """What is fetched, as far as it has come."""

    file: BinaryIO
    part: Path | None  # its name until it is whole; None: a file object of the program's
    received: int = 0
    hash: Any = field(default_factory=sha256_of)

    def take_up(self) -> None:
        """What an earlier run has left."""
        while data := self.file.read(_HASHED_LEN):
            self.hash.update(data)
            self.received += len(data)

    def write(self, parts: list[bytes]) -> None:
        for data in parts:
            self.file.write(data)
            self.hash.update(data)
            self.received += len(data)

    def begin_anew(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.hash, self.received = sha256_of(), 0

    def finish(self, to: str) -> None:
        """FileExistsError, and the part stays."""
        assert self.part is not None
        self.file.flush()
        os.fsync(self.file.fileno())
        try:
            os.link(self.part, to)  # which overwrites nothing
        except FileExistsError:
            raise
        except OSError:  # no links on this file system
            if os.path.lexists(to):
                raise FileExistsError(17, os.strerror(17), to) from None
            os.rename(self.part, to)
        else:
            os.unlink(self.part)

    def close(self) -> None:
        if self.part is not None:
            self.file.close()


def part_of(to: str, log_id: int, file_id: int) -> Path:
    """The name of a file until it is whole: of this file of this server, and of no other."""
    directory, name = os.path.split(to)
    start = name.encode("utf-8", "surrogateescape")[:_NAME_LEN].decode("utf-8", "ignore")
    return Path(directory, f".{start}.{log_id:016x}-{file_id}.part")


def _taken_up(to: Target, log_id: int, file_id: int) -> _Fetching:
    if not isinstance(to, str | os.PathLike):
        return _Fetching(to, None)
    path = os.fspath(to)
    if os.path.lexists(path):
        raise FileExistsError(17, os.strerror(17), path)
    part = part_of(path, log_id, file_id)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return _Fetching(os.fdopen(os.open(part, flags, 0o666), "r+b"), part)


def _fetch(
    core: ResumingCore, file_id: int, to: Target, sha256: bytes | None, progress: Progress | None
) -> Transfer[FileFetched]:
    fetching = _taken_up(to, core.log_id, file_id)
    try:
        if fetching.part is not None:
            yield fetching.take_up
        size = yield from _fetch_parts(core, file_id, fetching, progress)
        digest: bytes = fetching.hash.digest()
        if sha256 is not None and digest != sha256:
            if fetching.part is not None:
                fetching.begin_anew()
            raise WrongContents(f"file {file_id} has the SHA-256 {digest.hex()}")
        if fetching.part is not None:
            assert isinstance(to, str | os.PathLike)
            yield partial(fetching.finish, os.fspath(to))
    except BaseException:
        empty = fetching.received == 0
        fetching.close()
        if empty and fetching.part is not None:
            with suppress(OSError):
                os.unlink(fetching.part)
        raise
    fetching.close()
    return FileFetched(size, digest)


def _fetch_parts(
    core: ResumingCore, file_id: int, fetching: _Fetching, progress: Progress | None
) -> Transfer[int]:
    first: FileGetResponse = yield _get(file_id, fetching.received)
    size, attempts = first.size, Attempts(core.policy)
    if fetching.received > size:  # left by something else
        yield fetching.begin_anew
        first = yield _get(file_id, 0)
    results: list[FileGetResponse | BaseException] = [first]
    while True:
        parts, offset, error = _in_order(results, size, fetching.received)
        if parts:
            yield partial(fetching.write, parts)
            attempts = Attempts(core.policy)
        if progress is not None and (parts or offset == size):
            progress(offset, size)
        if isinstance(error, ServerBusy):
            yield from _wait(attempts, error)
        elif error is not None:
            raise error
        if offset == size:
            return size
        ends = min(size, offset + WINDOW * CHUNK_MAX)
        results = yield [_get(file_id, at) for at in range(offset, ends, CHUNK_MAX)]


def _in_order(
    results: list[FileGetResponse | BaseException], size: int, offset: int
) -> tuple[list[bytes], int, ClientError | None]:
    """The parts that follow one another from `offset` on, where they end, and what came instead of
    the next."""
    parts: list[bytes] = []
    for result in results:
        if isinstance(result, ClientError):
            return parts, offset, result
        if isinstance(result, BaseException):
            raise result
        if result.size != size or result.offset + len(result.data) > size:
            raise ProtocolViolation("the server sent another size of a file than before")
        if result.offset != offset:
            if parts:  # the one before was shorter than was asked for: it is asked for again
                return parts, offset, None
            raise ProtocolViolation("the server sent another part of a file than was asked for")
        if not result.data and offset < size:
            raise ProtocolViolation("the server sent no data before the end of the file")
        parts.append(result.data)
        offset += len(result.data)
    return parts, offset, None
