"""The table agrees with itself."""

import pytest

from libproto.errors import Status
from libproto.fields import fields_of
from libproto.messages import (
    BY_OPCODE,
    MESSAGES,
    NEVER,
    NONCE_LEN,
    RESERVED,
    USERNAME_PATTERN,
    Capability,
    Flag,
    Message,
    Opcode,
)


def test_every_opcode_has_a_row_and_no_reserved_one() -> None:
    opcodes = [message.opcode for message in MESSAGES]
    assert len(opcodes) == len(set(opcodes))
    assert set(Opcode) == set(opcodes)
    assert not RESERVED.keys() & set(opcodes)
    assert opcodes == sorted(opcodes)
    assert {opcode: BY_OPCODE[opcode] for opcode in opcodes} == BY_OPCODE


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_a_row_is_a_request_with_a_response_or_a_push(message: Message) -> None:
    assert message.name == message.opcode.name
    assert (message.request is None) == (message.response is None)
    assert (message.request is None) != (message.push is None)
    assert (message.push is not None) == (message.rules == NEVER)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_bodies_are_named_after_their_message(message: Message) -> None:
    camel = message.name.title().replace("_", "")
    for body, suffix in (
        (message.request, "Request"),
        (message.response, "Response"),
        (message.push, ""),
    ):
        if body is not None:
            assert body.__name__ == camel + suffix
            fields_of(body)


def test_the_numbered_requests() -> None:
    assert [message.name for message in MESSAGES if message.numbered] == [
        "CHAT_SEND",
        "DIRECT_SEND",
        "ROOM_OPEN",
        "ROOM_SET",
        "ROOM_ROLE",
        "DEPOSIT",
        "WITHDRAW",
        "TRANSFER",
        "TRANSFER_IN_ROOM",
        "BOARD_ADD",
        "BOARD_REMOVE",
        "BOARD_TAKE",
        "FILE_END",
        "LINK_FETCH",
    ]


def test_bits() -> None:
    assert [(flag.name, flag.value) for flag in Flag] == [
        ("ENCRYPTED", 1),
        ("COMPRESSED", 2),
        ("RESPONSE", 4),
        ("POSSIBLE_DUPLICATE", 8),
    ]
    assert [(bit.name, bit.value) for bit in Capability] == [
        ("ENCRYPTION", 1),
        ("COMPRESSION", 2),
        ("PAYMENTS", 4),
    ]


@pytest.mark.parametrize("name", ["a", "Alice_9.x-", "x" * 32])
def test_valid_usernames(name: str) -> None:
    assert USERNAME_PATTERN.match(name)
    assert USERNAME_PATTERN.fullmatch(name)


@pytest.mark.parametrize("name", ["", "x" * 33, "a b", "a\n", "é", "a\0", "a/b", "\u0661"])
def test_invalid_usernames(name: str) -> None:
    assert not USERNAME_PATTERN.match(name)
    assert not USERNAME_PATTERN.fullmatch(name)


def test_nonce_lengths() -> None:
    assert [length in NONCE_LEN for length in (15, 16, 64, 65)] == [False, True, True, False]


def test_statuses_of_rules() -> None:
    allowed = {Status.OK, Status.ERR_BAD_PACKET, Status.ERR_UNAUTHORIZED}
    assert {rule for message in MESSAGES for rule in message.rules} == allowed
