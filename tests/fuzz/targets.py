"""What reads bytes that others made, each as a function of bytes: whatever they are, it answers or
refuses them as it says it does. Anything else is a finding.

The bytes are a script, so that little of them says much: which message, how a stream is cut, what
is changed in a recording. Numbers in it are taken modulo what there is.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from client.core.calls import Call
from client.core.numbers import Numbers
from client.core.pushes import MAKERS
from client.core.session import ClientCore
from client.errors import ClientError
from libproto import wire
from libproto.errors import PeerError
from libproto.framing import Decoder, Fault, assemble
from libproto.messages import HEADER_LEN, Flag, Opcode, State
from libproto.sealing import Opener, Sealer
from libproto.wrapping import Unwrapper, Wrapper, inflate
from server.archive.segments import Scan as Scan
from server.journal import load, snapshot
from server.journal.books import Books
from server.journal.errors import JournalError
from server.journal.format import crc64
from server.journal.reader import Batch, Reader
from server.region.layout import WORD
from tests.client.test_core import ROWS, any_call
from tests.fuzz.files import StoredFiles
from tests.libproto.strategies import CODECS
from tests.libproto.vectors import VALID

MAX_BODY: Final = 2048
KEY: Final = bytes(range(32))
JOURNAL: Final = Path("/data/journal")
HISTORIES: Final = Path("/data/rooms")
Target = Callable[[bytes], None]
NAMES: Final = tuple(sorted(CODECS))


class Script:
    """Bytes, taken from the front; zeros where there are none left."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._data)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        self._at += size
        return found.ljust(size, b"\0")

    def rest(self) -> bytes:
        found, self._at = self._data[self._at :], len(self._data)
        return found


# ---- frames


def frames(decoder: Decoder) -> list[tuple[object, ...]]:
    """All that it has, as what was said; no more than there can be."""
    found: list[tuple[object, ...]] = []
    while (frame := decoder.next()) is not None:
        *head, buf, start, end, fault = frame
        assert end - start <= decoder.max_body_len, "a body over the limit"
        found.append((*head, buf[start:end], fault))
        if fault == Fault.HEADER:
            assert decoder.dead
            break
    return found


def framing(data: bytes) -> None:
    """A stream gives the same frames however it is cut; those without a fault are what they say."""
    script = Script(data)
    cut = script.number(1) + 1
    stream = script.rest()
    whole = Decoder(MAX_BODY)
    whole.feed(stream)
    found = frames(whole)
    pieces, told = Decoder(MAX_BODY), list[tuple[object, ...]]()
    for at in range(0, len(stream), cut):
        pieces.feed(stream[at : at + cut])
        told += frames(pieces)
        assert pieces.buffered < HEADER_LEN + MAX_BODY + cut, "more is kept than a frame"
    assert told == found, "it depends on how the stream is cut"
    for opcode, req_id, flags, status, body, fault in found:
        if fault == Fault.NONE:
            again = assemble(*_ints(opcode, req_id, flags, status), _bytes(body))
            assert again in stream, "what was not there"


def _ints(*numbers: object) -> tuple[int, int, int, int]:
    first, second, third, fourth = (int(str(number)) for number in numbers)
    return first, second, third, fourth


def _bytes(body: object) -> bytes:
    assert isinstance(body, bytes)
    return body


# ---- bodies


def codec(data: bytes) -> None:
    """A body decodes to fields that encode to the same bytes, or is refused."""
    script = Script(data)
    _, _, of = CODECS[NAMES[script.number(1) % len(NAMES)]]
    body = script.rest()
    try:
        fields = of.decode(body, 0, len(body))
    except PeerError:
        return
    assert of.encode(*fields) == body, "it has two forms"


# ---- sealed and compressed streams


@cache
def recorded(compressed: bool) -> tuple[list[bytes], list[tuple[object, ...]]]:
    """Frames as one side seals them, and as the other one reads them."""
    plain = [bytes.fromhex(vector["frame"]) for vector in VALID[:12]]
    plain += [assemble(Opcode.CHAT_SEND, 7, 0, 0, b"again and again " * 64)]
    wrapper = Wrapper(Sealer(bytearray(KEY)), 0 if compressed else None)
    sealed = [wrapper.wrap(frame) for frame in plain]
    reader = unwrapper(compressed)
    reader.feed(b"".join(sealed))
    return sealed, frames(reader)


def unwrapper(compressed: bool) -> Unwrapper:
    return Unwrapper(Decoder(1 << 16), Opener(bytearray(KEY)), compressed)


def sealing(data: bytes) -> None:
    """Of a sealed stream that somebody edits no frame comes out that was not sent, in its place."""
    script = Script(data)
    compressed = bool(script.number(1) & 1)
    sealed, sent = recorded(compressed)
    stream = list(edited(script, list(sealed)))
    reader = unwrapper(compressed)
    reader.feed(b"".join(stream))
    for place, frame in enumerate(frames(reader)):
        if frame[-1] in (Fault.NONE, Fault.INFLATION):
            assert place < len(sent), "a frame after the last"
            assert frame == sent[place], "a frame that was not sent there"


def edited(script: Script, stream: list[bytes]) -> Iterator[bytes]:
    """The frames of a stream, some changed with a right checksum, dropped, repeated or moved."""
    while not script.ended and stream:
        at, edit = script.number(1) % len(stream), script.number(1) % 6
        frame = stream[at]
        if edit == 0:
            del stream[at]
        elif edit == 1:
            stream.insert(at, stream[script.number(1) % len(stream)])
        elif edit == 2:
            stream[at] = stream[at - 1]
        elif edit == 3:
            stream[at] = frame[: script.number(2) % (len(frame) + 1)]
        elif edit == 4:
            stream.insert(at, script.take(script.number(1) % 64))
        elif frame:
            place = script.number(2) % len(frame)
            changed = bytearray(frame)
            changed[place] ^= script.number(1) or 1
            stream[at] = summed(bytes(changed))
    yield from stream


def summed(frame: bytes) -> bytes:
    """With the checksum that it should have, where it is a whole frame."""
    if len(frame) < HEADER_LEN:
        return frame
    crc = wire.checksum(frame, 0, len(frame))
    return frame[: wire.CHECKSUM_AT] + crc.to_bytes(4) + frame[wire.CHECKSUM_AT + 4 :]


def inflation(data: bytes) -> None:
    """What was compressed is never longer than it may be."""
    script = Script(data)
    most = script.number(2)
    found = inflate(script.rest(), most)
    assert found is None or len(found) <= most


# ---- the client's session


@cache
def rows() -> tuple[Call[Any], ...]:
    """One call of each kind."""
    return tuple(any_call(name) for name in sorted(ROWS))


def session(data: bytes) -> None:
    """Whatever a server sends, the client's core gives it out, or ends the connection with a
    ClientError."""
    script = Script(data)
    core = ClientCore(Numbers(5), True, "fuzz")
    decoder = Decoder(MAX_BODY)
    core.begin(decoder)
    core.state = State.AUTHENTICATED
    every, asked = rows(), list[tuple[int, int]]()
    while not script.ended:
        kind, which = script.number(1) % 4, script.number(1)
        body = script.take(script.number(1))
        if kind == 0:
            call = every[which % len(every)]
            if core.linked and core.may_send(call, None):
                req_id, _ = core.request(call)
                asked.append((call.opcode, req_id))
            continue
        if kind == 1 and asked:
            opcode, req_id = asked[which % len(asked)]
            status, flags = which >> 4 if which & 8 else 0, Flag.RESPONSE | which & 1
            decoder.feed(assemble(opcode, req_id, flags, status, body))
        elif kind == 2:
            decoder.feed(assemble(sorted(MAKERS)[which % len(MAKERS)], 0, 0, 0, body))
        else:
            decoder.feed(body)
        try:
            while (frame := decoder.next()) is not None:
                core.take(frame)
        except ClientError as error:
            core.end(error)
            return


# ---- files


@cache
def directory() -> dict[Path, bytes]:
    """The files of a data directory, with few of the zeros that are kept for what comes."""
    archives = sorted((Path(__file__).parents[1] / "data").glob("format-*.tar.gz"))
    found: dict[Path, bytes] = {}
    with tarfile.open(archives[-1]) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                path, content = Path("/") / member.name, file.read()
                if path.suffix in (".journal", ".rooms"):
                    content = content.rstrip(b"\0") + bytes(1024)
                found[path] = content
    return found


def changed_files(script: Script, kind: str) -> StoredFiles:
    """The directory, with bytes of one file of a kind changed."""
    disk = StoredFiles(directory())
    paths = sorted(path for path in disk.files if path.suffix == kind)
    path = paths[script.number(1) % len(paths)]
    content = disk.files[path] = bytearray(disk.files[path])
    if script.number(1) == 1:
        del content[script.number(2) % len(content) :]
    while not script.ended and content:
        at, value = script.number(2) % len(content), script.take(script.number(1) % 9)
        content[at : at + len(value)] = value
    return disk


@cache
def log_id() -> int:
    disk = StoredFiles(directory())
    return Reader(disk, JOURNAL, 0).newest_head().log_id


def journal(data: bytes) -> None:
    """A journal that is not what was written is refused in words, or read."""
    disk = changed_files(Script(data), ".journal")
    places = JOURNAL, Path("/data/snapshots")
    try:
        load.load(disk, *places, log_id(), None, lambda *_: None)
    except JournalError as error:
        _in_words(error)


@cache
def batches() -> tuple[Batch, ...]:
    """All that the journal has."""
    return tuple(Reader(StoredFiles(directory()), JOURNAL, log_id()).batches())


def records(data: bytes) -> None:
    """Records that do not follow from those before them are refused in words, whatever their
    checksums say."""
    script, every = Script(data), list(batches())
    while not script.ended:
        place, part = divmod(script.number(1), 2)
        batch = every[place % len(every)]
        content = bytearray(batch.events if part else batch.records)
        at, value = script.number(2), script.take(script.number(1) % 9)
        if content and value:
            at %= len(content)
            content[at : at + len(value)] = value[: len(content) - at]
        changed = memoryview(bytes(content))
        every[place % len(every)] = (
            replace(batch, events=changed) if part else replace(batch, records=changed)
        )
    books = Books()
    try:
        for batch in every:
            load.fold(books, batch)
    except JournalError as error:
        _in_words(error)


def snapshots(data: bytes) -> None:
    """So is a snapshot, also one whose checksum is right."""
    script = Script(data)
    right = bool(script.number(1) & 1)
    disk = changed_files(script, ".snapshot")
    (path,) = (path for path in disk.files if path.suffix == ".snapshot")
    if right:
        disk.files[path] = bytearray(_snapshot_summed(bytes(disk.files[path])))
    try:
        snapshot.read(disk, path, log_id())
    except JournalError as error:
        _in_words(error)


def _snapshot_summed(data: bytes) -> bytes:
    found = snapshot._head(data)
    if found is None:
        return data
    size = found[0].size
    crc = int(crc64(data[size:], crc64(data[: size - WORD])))
    return data[: size - WORD] + crc.to_bytes(WORD, "little") + data[size:]


def histories(data: bytes) -> None:
    """So are the histories of rooms."""
    disk = changed_files(Script(data), ".rooms")
    try:
        for _ in Scan(disk, HISTORIES).batches():
            pass
    except JournalError as error:
        _in_words(error)


def _in_words(error: JournalError) -> None:
    if not str(error):
        raise AssertionError("a refusal that says nothing")


_TARGETS: Final[tuple[Target, ...]] = (
    *(framing, codec, sealing, inflation, session),
    *(journal, records, snapshots, histories),
)
TARGETS: Final = {target.__name__: target for target in _TARGETS}
