"""Encoders and decoders: the vectors, round trips, and everything that must be refused."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.codec import ERROR, PUSH, REQUEST, RESPONSE, Codec, error_frame
from libproto.errors import MisuseError, PeerError, Status
from libproto.fields import fields_of
from libproto.framing import Decoder, assemble, checksum
from libproto.messages import LIST_MAX, MESSAGES, RESERVED, Flag, Member, Opcode, RoomEntry
from tests.libproto.strategies import CODECS, values
from tests.libproto.vectors import EVERY_VALID, VALID, codec_of, name_of, values_of

# Of each codec so many, all of them being made by the same code.
some = settings(max_examples=30)
every_codec = pytest.mark.parametrize("codec", [row[2] for row in CODECS.values()], ids=CODECS)


def test_every_codec_has_a_vector_and_only_reserved_opcodes_wait_for_theirs() -> None:
    missing = {id(codec): name for name, (_, _, codec) in CODECS.items()}
    for vector in VALID:
        missing.pop(id(codec_of(vector)), None)
    assert not missing
    waiting = {v["opcode"] for v in EVERY_VALID if v not in VALID}
    assert waiting == RESERVED.keys()
    assert (len(VALID), len(EVERY_VALID)) == (94, 94)


@pytest.mark.parametrize("vector", VALID, ids=name_of)
def test_vectors_decode_to_their_fields(vector: dict[str, Any]) -> None:
    codec = codec_of(vector)
    body = bytes.fromhex(vector["body"])
    fields = codec.decode(body, 0, len(body))
    assert fields == values_of(codec.body, vector["fields"])
    assert type(fields) is tuple


@pytest.mark.parametrize("vector", VALID, ids=name_of)
def test_vectors_encode_to_their_bytes(vector: dict[str, Any]) -> None:
    codec = codec_of(vector)
    fields = values_of(codec.body, vector["fields"])
    assert codec.encode(*fields).hex() == vector["body"]
    if vector["status"]:
        retry_after_ms, detail = fields
        frame = error_frame(
            vector["opcode"], vector["req_id"], vector["status"], detail, retry_after_ms
        )
    else:
        frame = codec.frame(vector["req_id"], vector["flags"], *fields)
    assert frame.hex() == vector["frame"]


def test_every_body_of_the_table_has_its_codec() -> None:
    for message in MESSAGES:
        for codecs, body in (
            (REQUEST, message.request),
            (RESPONSE, message.response),
            (PUSH, message.push),
        ):
            codec = codecs.get(message.opcode)
            assert (codec.body if codec else None) is body


@every_codec
@given(data=st.data())
@some
def test_round_trip(codec: Codec, data: st.DataObject) -> None:
    fields = data.draw(values(codec.body))
    body = codec.encode(*fields)
    before, after = data.draw(st.binary(max_size=9)), data.draw(st.binary(max_size=9))
    decoded = codec.decode(before + body + after, len(before), len(before) + len(body))
    assert decoded == fields
    assert type(decoded) is tuple
    for field, value in zip(fields_of(codec.body), decoded, strict=True):
        if field.item is not None:
            assert all(type(item) is field.item for item in value)


@pytest.mark.parametrize(("opcode", "own_flags", "codec"), CODECS.values(), ids=CODECS)
@given(data=st.data())
@some
def test_frames(opcode: int, own_flags: int, codec: Codec, data: st.DataObject) -> None:
    fields = data.draw(values(codec.body))
    req_id = data.draw(st.integers(0, 2**64 - 1))
    flags = data.draw(st.integers(0, 15))
    body = codec.encode(*fields)
    frame = codec.frame(req_id, flags, *fields)
    header = (0x4E53, 1, flags | own_flags, 32, len(body), opcode, 0, req_id, checksum(frame))
    assert frame == struct.pack(">HBBHIHHQI6x", *header) + body
    decoder = Decoder(len(body))
    decoder.feed(frame)
    assert decoder.next() == (opcode, req_id, flags | own_flags, 0, frame, 32, len(frame), 0)


@every_codec
@given(data=st.data())
@some
def test_cut_or_longer_bodies_are_refused(codec: Codec, data: st.DataObject) -> None:
    body = codec.encode(*data.draw(values(codec.body)))
    # what follows the body in the buffer is no part of it, and neither is the end of the buffer
    follows = data.draw(st.binary(max_size=70))
    wrong = [*range(len(body)), *range(len(body) + 1, len(body) + len(follows) + 1)]
    if not wrong:
        return
    end = data.draw(st.sampled_from(wrong))
    for buf in (body + follows, (body + follows)[:end]):
        with pytest.raises(PeerError) as caught:
            codec.decode(buf, 0, end)
        assert caught.value.status == Status.ERR_BAD_PACKET


@every_codec
@given(data=st.data())
@some
def test_random_bytes_are_a_body_or_refused(codec: Codec, data: st.DataObject) -> None:
    body = data.draw(st.binary(max_size=60))
    follows = data.draw(st.binary(max_size=9))
    refused = None
    try:
        fields = codec.decode(body + follows, 0, len(body))
    except PeerError as error:
        refused = error
    if refused is None:
        assert codec.encode(*fields) == body
    else:
        assert refused.status == Status.ERR_BAD_PACKET


@every_codec
@given(data=st.data())
@settings(max_examples=20)
def test_values_out_of_range_are_misuse(codec: Codec, data: st.DataObject) -> None:
    fields = data.draw(values(codec.body))
    cases: list[tuple[Any, ...]] = [(*fields, 0)]
    for index, field in enumerate(fields_of(codec.body)):
        cases.append(fields[:index] + fields[index + 1 :])
        wrong: list[Any]
        if field.item is not None:
            wrong = [None, (None,), ((),), (("x",) * 99,)]
        elif field.kind.name == "str":
            wrong = [None, 1, b"x", "x" * 65536, "é" * 32768, "\ud800"]
        elif field.kind.name == "bytes":
            wrong = [None, 1, "x", "", bytes(65536)]
        else:
            wrong = [None, -1, 256**field.kind.size, "1", 1.0]
        cases += [(*fields[:index], value, *fields[index + 1 :]) for value in wrong]
    for case in cases:
        with pytest.raises(MisuseError):
            codec.encode(*case)
        with pytest.raises(MisuseError):
            codec.frame(1, 0, *case)
    for req_id, flags in ((-1, 0), (2**64, 0), (1, 16), (1, 256), (1, -1)):
        with pytest.raises(MisuseError):
            codec.frame(req_id, flags, *fields)


@pytest.mark.parametrize(
    ("opcode", "item"),
    [(Opcode.ROOM_LIST, RoomEntry(1, 2, 3)), (Opcode.ROOM_MEMBERS, Member(1, "a"))],
)
def test_lists_hold_at_most_their_maximum(opcode: Opcode, item: tuple[Any, ...]) -> None:
    codec = RESPONSE[opcode]
    full = codec.encode((item,) * LIST_MAX)
    assert codec.decode(full, 0, len(full)) == ((item,) * LIST_MAX,)
    with pytest.raises(MisuseError):
        codec.encode((item,) * (LIST_MAX + 1))
    longer = (LIST_MAX + 1).to_bytes(2, "big") + full[2:] + codec.encode((item,))[2:]
    with pytest.raises(PeerError, match="257"):
        codec.decode(longer, 0, len(longer))


def test_longest_strings() -> None:
    fields = (1, "x" * 65535)
    body = REQUEST[Opcode.CHAT_SEND].encode(*fields)
    assert REQUEST[Opcode.CHAT_SEND].decode(body, 0, len(body)) == fields


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x9c"]
)
def test_utf8_is_strict(text: bytes) -> None:
    body = len(text).to_bytes(2, "big") + text
    with pytest.raises(PeerError, match="UTF-8"):
        REQUEST[Opcode.USER_LOOKUP].decode(body, 0, len(body))


def test_a_letter_cut_by_the_end_of_the_body_is_a_short_body() -> None:
    body = b"\x00\x03\xe2\x9c"
    with pytest.raises(PeerError, match="1 missing"):
        REQUEST[Opcode.USER_LOOKUP].decode(body, 0, len(body))


@given(
    opcode=st.integers(0, 0xFFFF),
    req_id=st.integers(0, 2**64 - 1),
    status=st.sampled_from(list(Status)[1:]),
    detail=st.text(st.characters(codec="utf-8")),
    retry_after_ms=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([0, 8]),
)
def test_error_frames(
    opcode: int, req_id: int, status: Status, detail: str, retry_after_ms: int, flags: int
) -> None:
    frame = error_frame(opcode, req_id, status, detail, retry_after_ms, flags)
    decoder = Decoder(65536)
    decoder.feed(frame)
    answer = decoder.next()
    assert answer is not None
    assert answer[:4] == (opcode, req_id, flags | Flag.RESPONSE, status)
    assert answer[7] == 0
    assert ERROR.decode(frame, answer[5], answer[6]) == (retry_after_ms, detail)


def test_assemble_refuses_what_no_header_can_carry() -> None:
    for opcode, req_id, flags, status in (
        (65536, 1, 0, 0),
        (1, -1, 0, 0),
        (1, 1, 16, 0),
        (1, 1, -1, 0),
        (1, 1, 0, 65536),
    ):
        with pytest.raises(MisuseError):
            assemble(opcode, req_id, flags, status, b"")
