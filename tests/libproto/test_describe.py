"""Frames as text, and the document against the table."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libproto.codec import REQUEST, RESPONSE
from libproto.describe import document, explain
from libproto.fields import fields_of
from libproto.framing import assemble
from libproto.messages import MESSAGES, Opcode, RoomEntry
from tests.libproto.vectors import INVALID, VALID, name_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "PROTOCOL.md"


@pytest.mark.parametrize("vector", VALID, ids=name_of)
def test_valid_vectors_are_explained(vector: dict[str, Any]) -> None:
    text, good = explain(bytes.fromhex(vector["frame"]))
    assert good
    assert "PROBLEM" not in text
    assert f"{Opcode(vector['opcode']).name} {vector['direction']}" in text.splitlines()[0]
    assert re.search(rf"^  req_id +{vector['req_id']}$", text, re.MULTILINE)
    assert re.search(r"^  checksum +0x[0-9A-F]{8} ok$", text, re.MULTILINE)
    for name, value in vector["fields"].items():
        if not isinstance(value, list):
            assert re.search(rf"^    {name} .*{re.escape(str(value))}", text, re.MULTILINE)
            continue
        for item in value:
            for item_name, item_value in item.items():
                shown = re.escape(repr(item_value))
                assert re.search(rf"\b{item_name} {shown}(,|$)", text, re.MULTILINE)


PROBLEMS = {
    "wrong magic": "the magic is 0x4E54, expected 0x4E53; nothing from here on can be read",
    "wrong version": "the version is 2, expected 1; nothing from here on can be read",
    "wrong header_len": "the header_len is 40, expected 32; nothing from here on can be read",
    "length bomb": "at byte 0: the stream ends in a body: 0 of 4294967295 bytes",
    "reserved not zero": "the reserved bytes are 000001000000, not 0",
    "unknown flag": "the flags 0x80 are reserved",
    "checksum mismatch": "the checksum is 0x00000001, expected 0x",
    "status in a request": "the status of a request is 0",
    "req_id 0": "the req_id of a request is not 0",
    "unknown opcode": "there is no opcode 0x0777",
    "push opcode in a request": "the req_id of a push is 0",
    "missing byte": "HEARTBEAT request: bytes of the body: 1 missing",
    "left-over byte": "HEARTBEAT request: bytes of the body: 1 left over",
    "string longer than its body": "USER_LOOKUP request: bytes of the body: 65532 missing",
    "string not UTF-8": "USER_LOOKUP request: a string is not UTF-8",
    # seen from outside, this is a response; and its body is not one
    "response flag in a request": "HEARTBEAT response: bytes of the body: 8 missing",
}


@pytest.mark.parametrize("vector", INVALID, ids=name_of)
def test_invalid_vectors_have_one_clear_problem(vector: dict[str, Any]) -> None:
    text, good = explain(bytes.fromhex(vector["frame"]))
    assert not good
    problems = [line for line in text.splitlines() if "PROBLEM" in line]
    assert len(problems) == 1
    assert f"PROBLEM: {PROBLEMS[vector['name']]}" in problems[0]


def test_a_stream_is_explained_frame_by_frame() -> None:
    frames = [bytes.fromhex(vector["frame"]) for vector in VALID]
    text, good = explain(b"".join(frames))
    assert good
    position = 0
    blocks = text.rstrip("\n").split("\n\n")
    for number, (frame, block) in enumerate(zip(frames, blocks, strict=True), 1):
        alone = explain(frame)[0].rstrip("\n")
        assert block == alone.replace("frame 1 at byte 0", f"frame {number} at byte {position}")
        position += len(frame)


def test_a_bad_frame_does_not_hide_the_next_and_a_cut_end_is_said() -> None:
    good_frame = REQUEST[Opcode.DEPOSIT].frame(1, 0, 5)
    bad_frame = good_frame[:-1] + b"\x06"
    text, good = explain(bad_frame + good_frame + good_frame[:30])
    assert not good
    assert "bad, expected 0x" in text
    assert "frame 2 at byte 40: DEPOSIT request" in text
    assert "at byte 80: the stream ends in a header: 30 of 32 bytes" in text
    text, good = explain(good_frame[:-3])
    assert not good
    assert "the stream ends in a body: 5 of 8 bytes" in text


def test_sealed_bodies_are_shown_as_hex() -> None:
    for flags, word in ((1, "encrypted"), (2, "compressed"), (3, "encrypted")):
        text, good = explain(assemble(Opcode.DEPOSIT, 1, flags, 0, b"\xab\xcd\xef"))
        assert good
        assert f"body, {word}\n    abcdef" in text


def test_responses_that_cannot_be() -> None:
    text, good = explain(assemble(Opcode.PAYMENT, 1, 4, 0, b""))
    assert not good
    assert "a push has no response" in text
    text, good = explain(assemble(Opcode.DEPOSIT, 1, 4, 99, bytes(6)))
    assert not good
    assert "there is no status 99" in text
    # the answer to an unknown opcode carries that opcode
    _, good = explain(assemble(0x0777, 1, 4, 1, bytes(6)))
    assert good


def test_lists_are_shown_item_by_item() -> None:
    rooms = (RoomEntry(1, 2, 9), RoomEntry(7, 3, 42))
    text, _ = explain(RESPONSE[Opcode.ROOM_LIST].frame(1, 0, rooms))
    assert "rooms  2 items\n      room_id 1, member_count 2, last_seq 9\n      room_id 7," in text


def test_text_of_the_peer_cannot_steer_a_terminal() -> None:
    text, _ = explain(REQUEST[Opcode.CHAT_SEND].frame(1, 0, 1, "a\x1b[2Jb\nc"))
    assert "\x1b" not in text
    assert "'a\\x1b[2Jb\\nc'" in text


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(VALID + INVALID))))
def test_anything_is_explained(pieces: list[Any]) -> None:
    stream = b"".join(
        piece if isinstance(piece, bytes) else bytes.fromhex(piece["frame"]) for piece in pieces
    )
    text, good = explain(stream)
    assert good == ("PROBLEM" not in text)


def test_the_document_is_fresh() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_the_document_holds_every_message() -> None:
    text = document()
    for message in MESSAGES:
        heading = f"#### 0x{message.opcode:04X} {message.name}\n"
        section = text.split(heading)[1].split("\n#")[0]
        for body in (message.request, message.response, message.push):
            for field in fields_of(body) if body else ():
                assert f"`{field.name}` {field.kind.name}" in section
    assert "`>HBBHIHHQI6x`" in text
    assert "$" not in text
