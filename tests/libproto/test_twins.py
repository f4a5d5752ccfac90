"""The twins in C, wire.pxd, words.pxd, calls.pxd: each function answers as the Python beside it.

They are compiled into a module of this test, which gives them on under their names.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libproto import calls, wire, words
from libproto.codec import PUSH, REQUEST, RESPONSE
from libproto.errors import MisuseError, PeerError
from libproto.framing import PREFIX
from libproto.messages import EventKind, Opcode
from tests.helpers.twins import in_c

GIVEN_ON = """
from libproto import calls, wire, words

def head(word, body_len, opcode, status, req_id):
    return wire.head(word, body_len, opcode, status, req_id)

def crc(before, data, size):
    return wire.wire_crc(before, data, size)

def header(data, pos):
    return wire.header(data, pos)

def checksum(data, start, end):
    return wire.checksum(data, start, end)

def frame(word, opcode, status, req_id, body):
    return wire.frame(word, opcode, status, req_id, body)

def pair(opcode, req_id, flags, first, second):
    return words.pair(opcode, req_id, flags, first, second)

def word(opcode, buf, start, end):
    return words.word(opcode, buf, start, end)

def transfer(buf, start, end):
    return words.transfer(buf, start, end)

def request(opcode, req_id, flags, fields):
    return calls.request(opcode, req_id, flags, fields)

def answered(opcode, buf, start, end):
    return calls.pair(opcode, buf, start, end)

def event(buf, start, end):
    return calls.event(buf, start, end)

def said(room, seq, time, user, name, text):
    return calls.said(room, seq, time, user, name, text)

def chat_send(buf, start, end):
    return words.chat_send(buf, start, end)

def transfer_in_room(buf, start, end):
    return words.transfer_in_room(buf, start, end)

def transferred_in_room(req_id, flags, txn, balance, seq):
    return words.transferred_in_room(req_id, flags, txn, balance, seq)

def broadcast(room, seq, time, kind, user, name, message):
    return words.broadcast(room, seq, time, kind, user, name, message)
"""

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module in C."""
    root = tmp_path_factory.mktemp("twins")
    with in_c(root, GIVEN_ON, "from libproto cimport calls, wire, words\n") as module:
        yield module


def test_they_are_in_c(twin: Any) -> None:
    assert twin.__file__.endswith(".so")


@given(
    u32,
    st.one_of(st.binary(max_size=300), st.binary(min_size=48, max_size=900)),
    st.integers(0, 15),
)
@example(0, b"", 0)
@example(0, b"123456789", 0)
def test_the_checksum_is_that_of_zlib(twin: Any, before: int, data: bytes, skipped: int) -> None:
    """From any value on, for any length; what is in memory before it makes no difference."""
    data = data[skipped:]
    assert twin.crc(before, data, len(data)) == crc32(data, before)


@given(st.binary(min_size=32, max_size=200), st.integers(0, 168))
def test_a_header_is_read(twin: Any, data: bytes, pos: int) -> None:
    pos %= len(data) - 31
    assert twin.header(data, pos) == wire.header(data, pos)


@given(st.binary(max_size=40), st.binary(min_size=32, max_size=60), st.sampled_from([0, 2000]))
def test_a_frame_is_checked_where_it_lies(twin: Any, before: bytes, raw: bytes, more: int) -> None:
    raw += bytes(range(200)) * (more // 200)
    data = before + raw + b"after"
    start, end = len(before), len(before) + len(raw)
    found = twin.checksum(data, start, end)
    assert found == wire.checksum(data, start, end) == crc32(raw[26:], crc32(raw[:22]))


@given(st.integers(0, 255), u16, u16, u64, st.binary(max_size=100))
@example(15, 2**16 - 1, 2**16 - 1, 2**64 - 1, b"\xff" * 33)
def test_a_frame_is_made(
    twin: Any, flags: int, opcode: int, status: int, req_id: int, body: bytes
) -> None:
    given = (PREFIX | flags, opcode, status, req_id, body)
    assert twin.frame(*given) == wire.frame(*given)
    word, opcode, status, req_id, body = given
    head = word, len(body), opcode, status, req_id
    assert twin.head(*head) == wire.head(*head) == wire.frame(*given)[:22]


@pytest.mark.parametrize("wrong", [-1, 2**64, "1", None])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_frame_with_a_wrong_field_is_refused(twin: Any, place: int, wrong: Any) -> None:
    given: list[Any] = [PREFIX, 4, 0, 1, b""]
    given[place] = wrong
    for frame in (twin.frame, wire.frame):
        with pytest.raises((struct.error, OverflowError, TypeError)):
            frame(*given)


@given(st.sampled_from(words.PAIRS), u64, st.integers(0, 15), u64, u64)
@example(Opcode.TRANSFER, 2**64 - 1, 15, 2**64 - 1, 2**64 - 1)
def test_a_response_of_two_words(
    twin: Any, opcode: Opcode, req_id: int, flags: int, first: int, second: int
) -> None:
    expected = RESPONSE[opcode].frame(req_id, flags, first, second)
    assert twin.pair(opcode, req_id, flags, first, second) == expected
    assert words.pair(opcode, req_id, flags, first, second) == expected


def test_flags_that_there_are_not_are_refused(twin: Any) -> None:
    for pair in (twin.pair, words.pair):
        with pytest.raises(MisuseError):
            pair(Opcode.BALANCE, 1, 16, 2, 3)


def said(call: Callable[..., Any], *given: Any) -> Any:
    """What a call answers, or how it refuses."""
    try:
        return call(*given)
    except PeerError as error:
        return error.status, error.detail
    except MisuseError as error:
        return str(error)


@given(st.sampled_from(words.WORDS), st.binary(max_size=40), st.integers(0, 40), st.integers(0, 12))
@example(Opcode.DEPOSIT, b"\xff" * 8, 0, 8)
@example(Opcode.DEPOSIT, b"\xff" * 9, 0, 9)
@example(Opcode.DEPOSIT, bytes(8), 0, 8)
@example(Opcode.WITHDRAW, bytes(range(9)), 1, 8)
def test_a_request_of_one_word(
    twin: Any, opcode: Opcode, buf: bytes, start: int, length: int
) -> None:
    start = min(start, len(buf))
    given = (opcode, buf, start, min(start + length, len(buf)))
    expected = said(lambda code, *body: REQUEST[code].decode(*body)[0], *given)
    assert said(twin.word, *given) == said(words.word, *given) == expected


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 16))
@example(b"\xff" * 12, 0, 12)
@example(bytes(range(200, 213)), 1, 12)
def test_a_request_to_transfer(twin: Any, buf: bytes, start: int, length: int) -> None:
    start = min(start, len(buf))
    given = (buf, start, min(start + length, len(buf)))
    expected = said(REQUEST[Opcode.TRANSFER].decode, *given)
    assert said(twin.transfer, *given) == said(words.transfer, *given) == expected


numbers = st.one_of(st.integers(-1, 2), u32, u64, st.sampled_from([2**32, 2**64]))
texts = st.text(max_size=80)
asked = st.one_of(
    st.tuples(st.just(Opcode.TRANSFER), st.tuples(numbers, numbers)),
    st.tuples(st.sampled_from(words.WORDS), st.tuples(numbers)),
    st.tuples(st.just(Opcode.BALANCE), st.just(())),
    st.tuples(st.just(Opcode.CHAT_SEND), st.tuples(numbers, texts)),
    st.tuples(st.just(Opcode.JOIN_ROOM), st.tuples(numbers)),
    st.tuples(st.sampled_from(list(REQUEST)), st.lists(numbers, max_size=3).map(tuple)),
)


@given(asked, u64, st.integers(0, 16))
@example((Opcode.TRANSFER, (2**32 - 1, 2**64 - 1)), 2**64 - 1, 15)
@example((Opcode.TRANSFER, (2**32, 1)), 1, 0)
@example((Opcode.CHAT_SEND, (2**32 - 1, "\u20ac" * 21845)), 1, 8)
@example((Opcode.CHAT_SEND, (1, "." * 2**16)), 1, 0)
@example((Opcode.CHAT_SEND, (1, "\ud800")), 1, 0)
@example((Opcode.CHAT_SEND, (1, b"bytes")), 1, 0)
@example((Opcode.BALANCE, (1,)), 1, 0)
@example((Opcode.DEPOSIT, (1.5,)), 1, 0)
def test_a_request_is_made(twin: Any, what: tuple[Opcode, Any], req_id: int, flags: int) -> None:
    opcode, fields = what
    expected = said(lambda: REQUEST[opcode].frame(req_id, flags, *fields))
    assert said(twin.request, opcode, req_id, flags, fields) == expected
    assert said(calls.request, opcode, req_id, flags, fields) == expected


@given(st.sampled_from(words.PAIRS), st.binary(max_size=40), st.integers(0, 40), st.integers(0, 20))
@example(Opcode.TRANSFER, bytes(range(240, 256)), 0, 16)
@example(Opcode.BALANCE, bytes(range(17)), 1, 16)
@example(Opcode.CHAT_SEND, bytes(17), 0, 17)
def test_a_response_is_read(twin: Any, opcode: Opcode, buf: bytes, start: int, length: int) -> None:
    start = min(start, len(buf))
    given = (opcode, buf, start, min(start + length, len(buf)))
    expected = said(lambda code, *body: RESPONSE[code].decode(*body), *given)
    assert said(twin.answered, *given) == said(calls.pair, *given) == expected


@given(
    st.tuples(u32, u64, u64, st.sampled_from(EventKind), u32, texts, texts),
    st.binary(max_size=5),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    st.integers(-3, 3),
)
@example((1, 2**64 - 1, 3, EventKind.MESSAGE, 4, "ann", "hello"), b"before", [], 0)
@example((1, 2, 3, EventKind.MESSAGE, 4, "ann", "hello"), b"", [(27, 255)], 0)
@example((1, 2, 3, EventKind.MESSAGE, 4, "ann", "hello"), b"", [(26, 4)], 0)
@example((1, 2, 3, EventKind.MESSAGE, 4, "", ""), b"", [(25, 255)], -2)
def test_an_event_is_read_or_refused(
    twin: Any, fields: Any, before: bytes, damage: list[tuple[int, int]], more: int
) -> None:
    """Damaged, too, and cut anywhere; where its message begins, the rest is the message."""
    body = bytearray(PUSH[Opcode.CHAT_BROADCAST].encode(*fields))
    for place, value in damage:
        body[place % len(body)] = value
    buf = before + bytes(body) + b"after"
    start, end = len(before), max(len(before), len(before) + len(body) + more)
    decoded = said(PUSH[Opcode.CHAT_BROADCAST].decode, buf, start, end)
    found = said(twin.event, buf, start, end)
    assert said(calls.event, buf, start, end) == found
    if len(decoded) == 2:  # status and detail
        assert found == decoded
    else:
        assert (*found[:3], buf[found[3] : end].decode()) == (*decoded[:2], decoded[3], decoded[6])


@given(u32, u64, u64, u32, texts, texts)
@example(2**32 - 1, 2**64 - 1, 2**64 - 1, 2**32 - 1, "\u20ac", "\u20ac" * 21845)
@example(1, 2, 3, 4, "ann", "." * 2**16)
def test_what_was_said(
    twin: Any, room: int, seq: int, time: int, user: int, name: str, text: str
) -> None:
    fields = (room, seq, time, EventKind.MESSAGE, user, name, text)
    expected = said(PUSH[Opcode.CHAT_BROADCAST].encode, *fields)
    for call in (twin.said, calls.said):
        assert said(call, room, seq, time, user, name, text) == expected


@given(u32, st.text(max_size=40), st.integers(-1, 1), st.binary(max_size=3))
@example(2**32 - 1, "", 0, b"")
def test_a_request_to_send(twin: Any, room: int, message: str, more: int, before: bytes) -> None:
    body = REQUEST[Opcode.CHAT_SEND].encode(room, message)
    buf = before + body + b"after"
    given = (buf, len(before), len(before) + len(body) + more)
    expected = said(lambda *body: REQUEST[Opcode.CHAT_SEND].decode(*body)[0], *given)
    assert said(twin.chat_send, *given) == said(words.chat_send, *given) == expected
    if not more:
        assert buf[given[1] + words.MESSAGE_AT : given[2]].decode() == message


@given(u32, u32, u64, st.text(max_size=40), st.integers(-1, 1), st.binary(max_size=3))
@example(2**32 - 1, 2**32 - 1, 2**64 - 1, "", 0, b"")
@example(1, 2, 3, "", -1, b"")
def test_a_request_to_pay_in_a_room(
    twin: Any, room: int, to_user: int, amount: int, note: str, more: int, before: bytes
) -> None:
    body = REQUEST[Opcode.TRANSFER_IN_ROOM].encode(room, to_user, amount, note)
    buf = before + body + b"after"
    given = (buf, len(before), len(before) + len(body) + more)
    expected = said(lambda *body: REQUEST[Opcode.TRANSFER_IN_ROOM].decode(*body)[:3], *given)
    assert said(twin.transfer_in_room, *given) == expected
    assert said(words.transfer_in_room, *given) == expected
    if not more:
        assert buf[given[1] + words.NOTE_AT : given[2]].decode() == note


@given(u64, st.integers(0, 255), u64, u64, u64)
@example(1, 16, 1, 1, 1)
def test_what_was_paid_in_a_room(
    twin: Any, req_id: int, flags: int, txn: int, balance: int, seq: int
) -> None:
    given = (req_id, flags, txn, balance, seq)
    expected = said(RESPONSE[Opcode.TRANSFER_IN_ROOM].frame, *given)
    assert said(twin.transferred_in_room, *given) == expected
    assert said(words.transferred_in_room, *given) == expected


@given(u32, u64, u64, st.integers(0, 255), u32, st.text(max_size=40), st.text(max_size=300))
@example(2**32 - 1, 2**64 - 1, 2**64 - 1, 255, 2**32 - 1, "\U0001f600", "\U0001f600" * 9)
def test_a_message_that_is_pushed(
    twin: Any, room: int, seq: int, time: int, kind: int, user: int, name: str, message: str
) -> None:
    fields = (room, seq, time, kind, user, name)
    expected = PUSH[Opcode.CHAT_BROADCAST].frame(0, 0, *fields, message)
    assert twin.broadcast(*fields, message.encode()) == expected
    assert words.broadcast(*fields, message.encode()) == expected


@pytest.mark.parametrize(
    "given", [(2**32, 1, 1, 256, 2**32, "n", b"m"), (1, 1, 1, 0, 1, "n", b"m" * 2**16)]
)
def test_a_message_that_cannot_be_carried(twin: Any, given: tuple[Any, ...]) -> None:
    for broadcast in (twin.broadcast, words.broadcast):
        with pytest.raises(MisuseError):
            broadcast(*given)
