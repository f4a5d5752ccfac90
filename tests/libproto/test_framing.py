"""The decoder: any cut of any stream, every fault, and the checksum against its oracle."""

import struct
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import crcmod.predefined
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libproto.codec import REQUEST
from libproto.errors import PeerError, Status
from libproto.framing import Decoder, Fault, Frame, assemble, checksum
from libproto.messages import HEADER_LEN, State
from libproto.session import verdict
from tests.libproto.vectors import INVALID, VALID, name_of

MAX = 65536
oracle = crcmod.predefined.mkCrcFun("crc-32")


def seal(head: bytes, rest: bytes) -> bytes:
    """A frame of 22 header bytes and what follows the checksum, with the oracle's checksum."""
    return head + struct.pack(">I", oracle(head + rest)) + rest


def decode(pieces: Iterable[bytes], max_body_len: int = MAX) -> list[Frame]:
    decoder = Decoder(max_body_len)
    frames = []
    for piece in pieces:
        decoder.feed(piece)
        while (frame := decoder.next()) is not None:
            frames.append(frame)
    return frames


def contents(frames: list[Frame]) -> list[tuple[Any, ...]]:
    """Frames without where their bodies lie."""
    return [(*f[:4], f[4][f[5] : f[6]], f[7]) for f in frames]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@st.composite
def any_frame(draw: st.DrawFn) -> tuple[bytes, tuple[Any, ...]]:
    """A frame with a good header, its other faults included, and what the decoder gives for it."""
    opcode, status = draw(st.integers(0, 0xFFFF)), draw(st.integers(0, 0xFFFF))
    req_id, flags = draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 255))
    # longer bodies, which take another way, are cheaper to make than to draw
    body = draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 1, 1, 30, 120]))
    reserved = draw(st.sampled_from([bytes(6), bytes(6), b"\0\0\0\0\0\1", b"\1\0\0\0\0\0"]))
    head = struct.pack(">HBBHIHHQ", 0x4E53, 1, flags, 32, len(body), opcode, status, req_id)
    frame = seal(head, reserved + body)
    fault = Fault.RESERVED if flags > 15 or any(reserved) else Fault.NONE
    if draw(st.integers(0, 4)) == 0:
        frame = frame[:22] + struct.pack(">I", checksum(frame) ^ 1) + frame[26:]
        fault = Fault.CHECKSUM
    return frame, (opcode, req_id, flags, status, body, fault)


streams = st.lists(any_frame(), max_size=6)


@given(streams, st.lists(st.integers(0, 10**6), max_size=12), st.binary(max_size=31))
def test_any_cut_gives_the_same_frames(
    frames: list[tuple[bytes, tuple[Any, ...]]], places: list[int], trailing: bytes
) -> None:
    stream = b"".join(raw for raw, _ in frames)
    expected = [content for _, content in frames]
    assert contents(decode([stream])) == expected
    assert contents(decode(stream[i : i + 1] for i in range(len(stream)))) == expected
    assert contents(decode(cut(stream, places))) == expected
    assert contents(decode(cut(stream + trailing, places))) == expected


@given(streams, st.lists(st.integers(0, 10**6), max_size=12))
def test_feeding_ahead_of_reading_gives_the_same_frames(
    frames: list[tuple[bytes, tuple[Any, ...]]], places: list[int]
) -> None:
    stream = b"".join(raw for raw, _ in frames)
    decoder = Decoder(MAX)
    for piece in cut(stream, places):
        decoder.feed(piece)
    left = len(stream)
    for raw, content in frames:
        assert decoder.buffered == left
        frame = decoder.next()
        assert frame is not None
        assert contents([frame]) == [content]
        left -= len(raw)
    assert decoder.buffered == 0
    assert decoder.next() is None


@given(streams, st.integers(0, 10**6))
def test_whole_frames_that_wait_are_counted(
    frames: list[tuple[bytes, tuple[Any, ...]]], place: int
) -> None:
    stream, half = b"".join(raw for raw, _ in frames), bytes(HEADER_LEN - 1)
    decoder = Decoder(MAX)
    decoder.feed(stream + half[: place % HEADER_LEN])
    for given_already in range(len(frames)):
        assert decoder.waiting == len(frames) - given_already
        assert decoder.next() is not None
    assert decoder.waiting == 0


@given(any_frame(), st.integers(0, 10**6))
def test_what_is_held_is_counted(frame: tuple[bytes, tuple[Any, ...]], place: int) -> None:
    raw, _ = frame
    first, second = cut(raw, [place % len(raw)])
    decoder = Decoder(MAX)
    decoder.feed(first)
    assert decoder.next() is None
    assert decoder.buffered == len(first)
    decoder.feed(second)
    assert decoder.next() is not None
    assert decoder.buffered == 0


@pytest.mark.parametrize("vector", VALID, ids=name_of)
@pytest.mark.parametrize("size", [10**6, 1, 7, 32, 33])
def test_vectors(vector: dict[str, Any], size: int) -> None:
    raw = bytes.fromhex(vector["frame"])
    stream = raw + raw + raw[:-1]
    content = (
        *(vector[key] for key in ("opcode", "req_id", "flags", "status")),
        bytes.fromhex(vector["body"]),
        Fault.NONE,
    )
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    assert contents(decode(pieces)) == [content, content]
    assert checksum(raw) == int.from_bytes(raw[22:26], "big")


def answered(raw: bytes) -> tuple[Status, str] | None:
    """What a server answers to one frame by the checks of this library, and what it does then."""
    decoder = Decoder(MAX)
    decoder.feed(raw)
    frame = decoder.next()
    if frame is None:
        return None
    opcode, req_id, flags, status, buf, start, end, fault = frame
    if fault == Fault.HEADER:
        return Status.ERR_BAD_PACKET, "closed"
    if fault == Fault.CHECKSUM:
        return Status.ERR_CHECKSUM_FAIL, "stays"
    if fault == Fault.RESERVED or flags & ~8 or status or not req_id:
        return Status.ERR_BAD_PACKET, "stays"
    allowed = verdict(State.AUTHENTICATED, opcode)
    if allowed != Status.OK:
        return allowed, "stays"
    try:
        REQUEST[opcode].decode(buf, start, end)
    except PeerError as error:
        return error.status, "stays"
    return Status.OK, "stays"


@pytest.mark.parametrize("vector", INVALID, ids=name_of)
@pytest.mark.parametrize("trailing", [b"", bytes(100), b"\xff" * 100])
def test_invalid_vectors_get_their_status(vector: dict[str, Any], trailing: bytes) -> None:
    raw = bytes.fromhex(vector["frame"])
    assert answered(raw + trailing) == (Status(vector["status"]), vector["connection"])


FATAL = {
    "magic": struct.pack(">HBBHIHHQ", 0x4E52, 1, 0, 32, 8, 4, 0, 9),
    "version 0": struct.pack(">HBBHIHHQ", 0x4E53, 0, 0, 32, 8, 4, 0, 9),
    "version 2": struct.pack(">HBBHIHHQ", 0x4E53, 2, 0, 32, 8, 4, 0, 9),
    "header_len": struct.pack(">HBBHIHHQ", 0x4E53, 1, 0, 33, 8, 4, 0, 9),
    "body_len": struct.pack(">HBBHIHHQ", 0x4E53, 1, 0, 32, MAX + 1, 4, 0, 9),
    "length bomb": struct.pack(">HBBHIHHQ", 0x4E53, 1, 0, 32, 2**32 - 1, 4, 0, 9),
}


@pytest.mark.parametrize("head", FATAL.values(), ids=FATAL)
def test_a_bad_header_is_fatal_before_any_body(head: bytes) -> None:
    header = seal(head, bytes(6))
    decoder = Decoder(MAX)
    good = assemble(4, 1, 0, 0, bytes(8))
    decoder.feed(good + header[:31])
    assert decoder.next() is not None
    assert decoder.next() is None
    assert not decoder.dead
    decoder.feed(header[31:])
    frame = decoder.next()
    assert frame is not None
    opcode, req_id, _, _, buf, start, end, fault = frame
    assert (opcode, req_id, buf[start:end], fault) == (4, 9, b"", Fault.HEADER)
    assert decoder.dead
    for _ in range(3):
        decoder.feed(good)
        assert decoder.next() is None
        assert decoder.buffered == 0


def test_the_longest_body_is_allowed() -> None:
    decoder = Decoder(8)
    decoder.feed(assemble(4, 1, 0, 0, bytes(8)) + assemble(4, 2, 0, 0, bytes(9)))
    frames = [decoder.next(), decoder.next()]
    assert [frame and frame[7] for frame in frames] == [Fault.NONE, Fault.HEADER]


def test_whole_frames_are_taken_in_place() -> None:
    raw = assemble(4, 1, 0, 0, bytes(8))
    data = raw * 3 + raw[:10]
    frames = decode([data])
    assert len(frames) == 3
    assert all(frame[4] is data for frame in frames)


def test_a_body_in_many_pieces_costs_linear_time() -> None:
    def cost_s(length: int) -> float:
        raw = assemble(4, 1, 0, 0, bytes(length))
        pieces = [raw[i : i + 256] for i in range(0, len(raw), 256)]
        began = time.process_time()
        frames = decode(pieces, length)
        elapsed_s = time.process_time() - began
        assert [frame[7] for frame in frames] == [Fault.NONE]
        return elapsed_s

    # 8 times as long: copying what is held with every piece would cost 64 times as much
    short, long = (min(cost_s(length) for _ in range(3)) for length in (1 << 20, 8 << 20))
    assert long < 24 * short


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_random_bytes_give_frames_or_a_fault(pieces: list[bytes]) -> None:
    frames = decode(pieces)
    assert all(frame[7] in tuple(Fault) for frame in frames)


@given(any_frame(), st.integers(0, 10**6), st.integers(1, 255), st.binary(max_size=100))
def test_one_changed_byte_is_never_missed(
    frame: tuple[bytes, tuple[Any, ...]], place: int, change: int, trailing: bytes
) -> None:
    raw, content = frame
    if content[-1] == Fault.CHECKSUM:  # it is found in a frame that was good
        raw = seal(raw[:22], raw[26:])
    at = place % len(raw)
    changed = raw[:at] + bytes([raw[at] ^ change]) + raw[at + 1 :]
    frames = decode([changed + trailing])
    if frames:  # a greater body_len may wait for more
        assert frames[0][7] in (Fault.HEADER, Fault.CHECKSUM)


@given(st.binary(min_size=HEADER_LEN, max_size=4000))
def test_checksum_is_crc_32(data: bytes) -> None:
    assert checksum(data) == oracle(data[:22] + data[26:])


def test_checksum_check_value() -> None:
    assert checksum(b"123456789".ljust(22, b"\0") + bytes(10)) == oracle(
        b"123456789".ljust(28, b"\0")
    )
    assert oracle(b"123456789") == 0xCBF43926
