"""The dissector for Wireshark shows what is on the wire: tshark reads captures with it, and what it
shows is compared with what the codecs decode."""

import io
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from client import Client, InsufficientFunds, NotFound, RoomAccess, RoomRole
from libproto.codec import ERROR, PUSH, REQUEST, RESPONSE, Codec, error_frame
from libproto.dissector import KINDS, dissector, shown_name
from libproto.errors import Status
from libproto.fields import Body, fields_of
from libproto.framing import Decoder, checksum
from libproto.messages import HEADER_LEN, MESSAGES, Flag, Opcode
from tests.client.peer import PASSWORD
from tests.helpers.capture import Chunk, cut, recording, write_capture
from tests.helpers.server import RunningServer
from tests.libproto.vectors import VALID

TSHARK = shutil.which("tshark")
PORT = 7878
RUN_S = 120
NAMES = {int(opcode): opcode.name for opcode in Opcode}

needs_tshark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")


class Shown(NamedTuple):
    """A frame as tshark shows it: values by name, in their order; texts of its expert infos."""

    to_server: bool
    title: str
    values: list[tuple[str, str]]
    experts: list[str]

    def one(self, name: str) -> str:
        [value] = [value for each, value in self.values if each == f"tradechat.{name}"]
        return value


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dissector") / "tradechat.lua"
    path.write_text(dissector(), encoding="utf-8")
    return path


def tshark(script: Path, capture: Path, *options: str) -> str:
    assert TSHARK is not None
    done = subprocess.run(
        [TSHARK, "-n", "-X", f"lua_script:{script}", "-r", str(capture), *options],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Lua" not in done.stderr, done.stderr
    assert "Lua Error" not in done.stdout
    return done.stdout


def dissected(script: Path, capture: Path, port: int, *options: str) -> list[Shown]:
    """Every frame of a capture, as tshark shows it."""
    found: list[Shown] = []
    text = tshark(script, capture, "-T", "pdml", "-Y", "tradechat", *options)
    for packet in ElementTree.fromstring(text):  # noqa: S314 - made by the program we started
        [to_port] = [
            each.get("show") for each in packet.iter("field") if each.get("name") == "tcp.dstport"
        ]
        found += (
            _shown(proto, to_port == str(port))
            for proto in packet.findall("proto")
            if proto.get("name") == "tradechat"
        )
    return found


def _shown(proto: ElementTree.Element, to_server: bool) -> Shown:
    values, experts, title = [], [], ""
    for field in proto.iter("field"):
        name, value = field.get("name", ""), field.get("value", "")
        if name == "_ws.expert.message":
            experts.append(field.get("show", ""))
        elif name == "tradechat.message_name":
            title = field.get("show", "")
        elif name.startswith("tradechat."):
            shown = field.get("show", "") if name == "tradechat.checksum.status" else value
            values.append((name, shown))
    return Shown(to_server, title, values, experts)


# --- what is expected


def _codec(opcode: int, flags: int, status: int) -> Codec:
    if flags & Flag.RESPONSE:
        return ERROR if status else RESPONSE[opcode]
    return PUSH.get(opcode) or REQUEST[opcode]


def _flat(body: Body, values: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    """The fields of a body by what the dissector calls them, and their bytes in hex."""
    for field, value in zip(fields_of(body), values, strict=True):
        name = f"tradechat.{shown_name(body, field)}"
        if field.item is not None:
            yield "tradechat.count", f"{len(value):04x}"
            for item in value:
                yield from _flat(field.item, item)
        elif field.kind.size:
            yield name, f"{value:0{2 * field.kind.size}x}"
        else:
            yield name, (value.encode() if isinstance(value, str) else value).hex()


def _expected(chunks: list[Chunk], to_server: bool) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Title and body of every frame of one direction."""
    decoder = Decoder(1 << 20)
    decoder.feed(b"".join(data for way, data in chunks if way == to_server))
    while (frame := decoder.next()) is not None:
        opcode, _, flags, status, buf, start, end, fault = frame
        assert not fault
        codec = _codec(opcode, flags, status)
        way = "response" if flags & Flag.RESPONSE else "push" if opcode in PUSH else "request"
        title = f"{NAMES[opcode]} {way}" + (f" {Status(status).name}" if status else "")
        yield title, list(_flat(codec.body, codec.decode(buf, start, end)))
    assert not decoder.buffered


BODY_FIELDS = {"tradechat.count"} | {
    f"tradechat.{shown_name(body, field)}"
    for codec in (*REQUEST.values(), *RESPONSE.values(), *PUSH.values(), ERROR)
    for body in (codec.body, *(f.item for f in fields_of(codec.body) if f.item is not None))
    for field in fields_of(body)
    if field.item is None
}


def _compare(shown: list[Shown], chunks: list[Chunk]) -> None:
    for to_server in (True, False):
        mine = [each for each in shown if each.to_server == to_server]
        expected = list(_expected(chunks, to_server))
        assert [each.title for each in mine] == [title for title, _ in expected]
        for each, (title, fields) in zip(mine, expected, strict=True):
            assert [pair for pair in each.values if pair[0] in BODY_FIELDS] == fields, title
            assert each.one("checksum.status") == "1"
            assert each.experts == ([] if " ERR_" not in title else [title.split()[-1]])


# --- a real session


@needs_tshark
def test_a_real_session(server: RunningServer, script: Path, tmp_path: Path) -> None:
    """Recorded between a client and a server; the dissector finds out by itself what it is."""
    with recording(server.port) as (port, chunks):  # noqa: SIM117 - closed before it ends
        with Client(port=server.port) as bob, Client(port=port, payments=True) as ann:
            bob.register("bob", PASSWORD)
            bob.login("bob", PASSWORD)
            ann.register("ann", PASSWORD)
            ann.login("ann", PASSWORD)
            ann.deposit(100_000)
            ann.withdraw(5)
            ann.join(7)
            bob.join(7)
            ann.send(7, "Grüße, \N{GRINNING FACE}!")
            bob.send(7, "x" * 4000)  # more than one segment
            ann.transfer(bob.user_id, 1250)
            bob.transfer(ann.user_id, 1)
            ann.transfer_in_room(7, bob.user_id, 5, "lunch")
            with suppress(InsufficientFunds):
                ann.transfer(bob.user_id, 10**9)
            with suppress(NotFound):
                ann.lookup("nobody")
            ann.direct(bob.user_id, "psst")
            bob.direct(ann.user_id, "hello")
            ann.next_push(30)
            ann.inbox_history()
            list(ann.iter_history(7))
            list(ann.iter_transactions())
            ann.rooms()
            ann.members(7)
            ann.user_name(bob.user_id)
            ann.balance()
            ann.heartbeat()
            market = ann.open_room("market").room_id
            ann.room_info(market)
            ann.set_room(market, "old things", RoomAccess.PUBLIC)
            ann.set_role(market, bob.user_id, RoomRole.MODERATOR)
            for client in (ann, bob):
                client.join(market)
            lamp, book = (
                client.board_add(market, 5, text).entry_id
                for client, text in ((bob, "a lamp"), (ann, "a book"))
            )
            ann.board(market)
            ann.board_take(market, lamp, 5)
            ann.board_remove(market, book)
            shared = ann.send_file(market, io.BytesIO(b"x" * 70_000), name="x.bin")
            ann.fetch_file(shared.file_id, to=tmp_path / "x.bin")
            with suppress(NotFound):
                ann.fetch_link(market, "http://elsewhere.invalid/")
            ann.change_password("another password")
            ann.delete(market, ann.send(market, "a slip of the tongue").room_seq)
            ann.block(bob.user_id)
            ann.leave(7)
            ann.logout()
    capture = tmp_path / "session.pcap"
    write_capture(capture, chunks, port)
    shown = dissected(script, capture, port)
    _compare(shown, chunks)
    seen = Counter(each.title.split()[0] for each in shown)
    absent = {"GOING_AWAY", "ROOM_GAP"}  # the next test has them
    assert {m.name for m in MESSAGES} - seen.keys() - absent == set()
    listed = tshark(script, capture, "-Y", 'tradechat.note == "lunch"')
    assert listed.count("TRANSFER_IN_ROOM request #") == 1


# --- every message


def _sample(body: Body, depth: int = 0) -> tuple[Any, ...]:
    """Values that differ from each other."""
    made: list[Any] = []
    for number, field in enumerate(fields_of(body), 1):
        if field.item is not None:
            made.append(tuple(field.item(*_sample(field.item, each)) for each in range(3)))
        elif (body, field.name) in KINDS:
            made.append([int(each) for each in KINDS[body, field.name][1]][depth % 3])
        elif field.kind.size:
            made.append((1 << 8 * field.kind.size) - number - depth)
        elif field.kind.name == "str":
            made.append(["", "text", "Grüße\N{GRINNING FACE}"][(number + depth) % 3])
        else:
            made.append(bytes(range(number + depth)))
    return tuple(made)


def _every_message() -> list[Chunk]:
    chunks = []
    for number, message in enumerate(MESSAGES, 1):
        if message.request is not None and message.response is not None:
            codec = REQUEST[message.opcode]
            chunks.append(Chunk(True, codec.frame(number, 0, *_sample(message.request))))
            codec = RESPONSE[message.opcode]
            chunks.append(Chunk(False, codec.frame(number, 0, *_sample(message.response))))
        else:
            assert message.push is not None
            chunks.append(Chunk(False, PUSH[message.opcode].frame(0, 0, *_sample(message.push))))
    chunks += (
        Chunk(False, error_frame(Opcode.DEPOSIT, 9, status, "no", 1500))
        for status in Status
        if status
    )
    chunks += (
        Chunk(vector["direction"] == "request", bytes.fromhex(vector["frame"]))
        for vector in VALID
        if not vector["flags"] & (Flag.ENCRYPTED | Flag.COMPRESSED)
    )
    return chunks


@needs_tshark
@pytest.mark.parametrize("size", [1, 33, 10**6], ids=["bytes", "pieces", "frames"])
def test_every_message(script: Path, tmp_path: Path, size: int) -> None:
    """Wherever the frames are cut."""
    chunks = _every_message()
    capture = tmp_path / "every.pcap"
    write_capture(capture, cut(chunks, size), PORT)
    _compare(dissected(script, capture, PORT), chunks)


@needs_tshark
def test_many_frames_in_one_segment(script: Path, tmp_path: Path) -> None:
    frames = [data for to_server, data in _every_message() if to_server]
    chunks = [Chunk(True, b"".join(frames))]
    capture = tmp_path / "joined.pcap"
    write_capture(capture, chunks, PORT)
    _compare(dissected(script, capture, PORT), chunks)


# --- what is wrong, or cannot be read


def _frame(opcode: int, flags: int, body: bytes, *, reserved: int = 0, status: int = 0) -> bytes:
    """A frame whose checksum is right, whatever else is not."""
    head = struct.pack(">HBBHIHHQ", 0x4E53, 1, flags, HEADER_LEN, len(body), opcode, status, 7)
    tail = reserved.to_bytes(6, "big")
    return head + struct.pack(">I", checksum(head + bytes(4) + tail + body)) + tail + body


DEPOSIT = (5).to_bytes(8, "big")
GOOD = _frame(Opcode.DEPOSIT, 0, DEPOSIT)


def _each(script: Path, tmp_path: Path, *frames: bytes) -> list[Shown]:
    """What is shown of frames; a good one behind each is shown as such."""
    capture = tmp_path / "each.pcap"
    write_capture(capture, [Chunk(True, frame + GOOD) for frame in frames], PORT)
    shown = dissected(script, capture, PORT)
    assert len(shown) == 2 * len(frames)
    for good in shown[1::2]:
        assert (good.title, good.experts) == ("DEPOSIT request", [])
        assert good.one("amount") == DEPOSIT.hex()
    return shown[::2]


@needs_tshark
def test_a_bad_checksum_is_marked(script: Path, tmp_path: Path) -> None:
    """In whatever byte of the frame a bit is wrong."""
    # Without the header's first ten bytes: what is wrong there is no frame of ours.
    positions = [3, *range(10, len(GOOD))]
    frames = [GOOD[:at] + bytes([GOOD[at] ^ 1]) + GOOD[at + 1 :] for at in positions]
    for frame, shown in zip(frames, _each(script, tmp_path, *frames), strict=True):
        assert shown.one("checksum.status") == "0"
        [bad] = [each for each in shown.experts if "checksum" in each]
        assert bad == f"Bad checksum, should be 0x{checksum(frame):08x}"
    listed = tshark(script, tmp_path / "each.pcap", "-Y", "tradechat.checksum.bad")
    assert listed.count("[bad checksum]") == len(frames)


@needs_tshark
def test_an_encrypted_body_is_named_as_such(script: Path, tmp_path: Path) -> None:
    """And not decoded, even where its bytes could be a body."""
    frames = [
        _frame(Opcode.DEPOSIT, Flag.ENCRYPTED, DEPOSIT),
        _frame(Opcode.DEPOSIT, Flag.ENCRYPTED | Flag.COMPRESSED, DEPOSIT),
        _frame(Opcode.DEPOSIT, Flag.ENCRYPTED | Flag.RESPONSE, DEPOSIT * 2),
        _frame(Opcode.DEPOSIT, Flag.ENCRYPTED | Flag.RESPONSE, DEPOSIT * 2, status=5),
    ]
    shown = _each(script, tmp_path, *frames)
    assert [each.title for each in shown] == [
        "DEPOSIT request [encrypted]",
        "DEPOSIT request [encrypted]",
        "DEPOSIT response [encrypted]",
        "DEPOSIT response ERR_INSUFFICIENT_FUNDS [encrypted]",
    ]
    for frame, each in zip(frames, shown, strict=True):
        assert each.one("encrypted") == frame[HEADER_LEN:].hex()
        assert [name for name, _ in each.values if name in BODY_FIELDS] == []
        assert each.one("checksum.status") == "1"


@needs_tshark
def test_a_compressed_body_is_inflated(script: Path, tmp_path: Path) -> None:
    body = REQUEST[Opcode.CHAT_SEND].encode(7, "x" * 1000)
    good, bad = _each(
        script,
        tmp_path,
        _frame(Opcode.CHAT_SEND, Flag.COMPRESSED, zlib.compress(body)),
        _frame(Opcode.CHAT_SEND, Flag.COMPRESSED, b"no stream"),
    )
    assert good.experts == []
    assert good.one("message") == ("x" * 1000).encode().hex()
    assert bad.experts == ["The body does not inflate"]


WRONG = [
    (_frame(Opcode.DEPOSIT, 0, DEPOSIT[:7]), "The body ends in a field"),
    (_frame(Opcode.DEPOSIT, 0, DEPOSIT + b"x"), "The body goes on after its last field"),
    (_frame(Opcode.DEPOSIT, 0, b""), "There is no body"),
    (_frame(Opcode.BALANCE, 0, b"x"), "The body goes on after its last field"),
    (_frame(Opcode.CHAT_SEND, 0, bytes(4) + b"\0\x09short"), "The body ends in a field"),
    (_frame(Opcode.CHAT_SEND, 0, bytes(4) + b"\0"), "The body ends in a field"),
    (_frame(Opcode.ROOM_LIST, 4, b"\0\x05" + bytes(16)), "The body ends in a field"),
    (_frame(Opcode.ROOM_LIST, 4, b"\xff\xff"), "The body ends in a field"),
    (_frame(Opcode.DEPOSIT, 0x40, DEPOSIT), "Reserved flags are set"),
    (_frame(Opcode.DEPOSIT, 0, DEPOSIT, reserved=1), "Reserved bytes are not 0"),
    (_frame(0x7777, 0, b"what"), "Unknown opcode"),
    (_frame(Opcode.DEPOSIT, 4, b"", status=77), "Unknown status"),
]


@needs_tshark
def test_what_is_wrong_is_said(script: Path, tmp_path: Path) -> None:
    shown = _each(script, tmp_path, *(frame for frame, _ in WRONG))
    for each, (_, said) in zip(shown, WRONG, strict=True):
        assert said in each.experts


@needs_tshark
def test_a_stream_that_is_none_of_ours_is_not_taken_for_one(script: Path, tmp_path: Path) -> None:
    capture = tmp_path / "other.pcap"
    write_capture(capture, [Chunk(True, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 9)], 9999)
    assert dissected(script, capture, 9999) == []
    write_capture(capture, [Chunk(True, GOOD), Chunk(True, b"GET / HTTP/1.1\r\n" * 9)], PORT)
    _, bad = dissected(script, capture, PORT)
    assert bad.experts == ["Not the header of a frame"]
    far = struct.pack(">HBBHI", 0x4E53, 1, 0, HEADER_LEN, 2**32 - 1)
    write_capture(capture, [Chunk(True, far + bytes(60))], PORT)
    [bad] = dissected(script, capture, PORT)
    assert bad.experts == ["Not the header of a frame"]


@needs_tshark
def test_another_port_is_a_preference(script: Path, tmp_path: Path) -> None:
    """A capture that begins in the middle of a frame, so that nothing else tells what it is."""
    capture = tmp_path / "port.pcap"
    write_capture(capture, [Chunk(True, GOOD[:1]), Chunk(True, GOOD[1:])], 9998)
    assert dissected(script, capture, 9998) == []
    [shown] = dissected(script, capture, 9998, "-o", "tradechat.ports:7878,9998")
    assert shown.title == "DEPOSIT request"
    [shown] = dissected(script, capture, 9998, "-d", "tcp.port==9998,tradechat")
    assert shown.title == "DEPOSIT request"


def test_the_table_is_in_it() -> None:
    """Wherever there is no tshark, too."""
    text = dissector()
    for message in MESSAGES:
        assert f'[0x{int(message.opcode):04X}] = "{message.name}"' in text
    assert "${" not in text
