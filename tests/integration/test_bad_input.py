"""Every row of the protocol's table "Bad input", over a socket, but for the limits of connections
and of the request rate (test_limits.py).

After each, four connections that were opened before it, one on every worker and all in one room,
show that nothing of theirs has changed: each speaks, all hear everything in one order without a
gap, and their money is what it was.
"""

import struct
from collections.abc import Iterator

import pytest

from libproto.errors import Status
from libproto.framing import checksum
from libproto.messages import HEADER_LEN, Capability, EventKind, Flag, Opcode
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import DEADLINE_S, NONCE, SALT, Lobby, Received, Wire, request
from tests.libproto.vectors import INVALID, name_of

WORKERS = 4
ROOM = 200
MONEY = 12_345
MAX_BODY_LEN = 65536
CHECKSUMS_MAX = 3

HEADER = struct.Struct(">HBBHIHHQI6s")


class Bystanders:
    """Connections that bad input of others must not disturb."""

    def __init__(self, lobby: Lobby) -> None:
        self.wires = [lobby.enter(worker=slot) for slot in range(WORKERS)]
        self._seq = 0
        for wire in self.wires:
            wire.ok(Opcode.DEPOSIT, MONEY)
            self._seq = wire.ok(Opcode.JOIN_ROOM, ROOM).last_seq + 1
            self._joined_at = self._seq
        for before, wire in enumerate(self.wires):
            for _ in self.wires[before:]:
                assert wire.push().body.kind == EventKind.JOINED

    def undisturbed(self) -> None:
        for speaker in self.wires:
            self._seq += 1
            assert speaker.ok(Opcode.CHAT_SEND, ROOM, f"number {self._seq}").room_seq == self._seq
            for wire in self.wires:
                event = wire.push().body
                assert (event.room_seq, event.message) == (self._seq, f"number {self._seq}")
        for wire in self.wires:
            assert wire.ok(Opcode.BALANCE).balance == MONEY
            assert not wire.pushes
        assert len(self.wires[0].ok(Opcode.ROOM_MEMBERS, ROOM, 0).members) == WORKERS


@pytest.fixture(scope="module")
def opened_before(shared_server: RunningServer) -> Iterator[Bystanders]:
    with Lobby(shared_server) as lobby:
        yield Bystanders(lobby)


@pytest.fixture(autouse=True)
def bystanders(opened_before: Bystanders) -> Iterator[Bystanders]:
    """They are not disturbed, whatever the test did."""
    yield opened_before
    opened_before.undisturbed()


def frame(
    opcode: int = Opcode.HEARTBEAT,
    body: bytes = bytes(8),
    *,
    magic: int = 0x4E53,
    version: int = 1,
    flags: int = 0,
    header_len: int = HEADER_LEN,
    body_len: int | None = None,
    status: int = 0,
    req_id: int = 77,
    reserved: bytes = bytes(6),
) -> bytes:
    """A frame with a right checksum, whatever else it is."""
    size = len(body) if body_len is None else body_len

    def packed(crc: int) -> bytes:
        head = HEADER.pack(
            magic, version, flags, header_len, size, opcode, status, req_id, crc, reserved
        )
        return head + body

    return packed(checksum(packed(0)))


def spoiled(data: bytes) -> bytes:
    """The same with a wrong checksum."""
    return data[:22] + bytes([data[22] ^ 1]) + data[23:]


def head_of(data: bytes) -> tuple[int, int]:
    """opcode and req_id, as any reader finds them."""
    *_, opcode, _, req_id, _, _ = HEADER.unpack_from(data)
    return opcode, req_id


def check_refusal(answer: Received, data: bytes, status: int) -> None:
    assert (answer.opcode, answer.req_id) == head_of(data)
    assert answer.status == status
    assert answer.flags == Flag.RESPONSE
    assert answer.body.retry_after_ms == 0  # so is the body of every refusal: it decodes
    assert answer.body.detail


def check_stays(wire: Wire) -> None:
    """Still logged in, and answered."""
    wire.ok(Opcode.HEARTBEAT, 5)
    wire.ok(Opcode.BALANCE)


def counted(name: str) -> str:
    """The counter of a row."""
    by_name = {
        "wrong magic": "bad_header",
        "wrong version": "bad_header",
        "wrong header_len": "bad_header",
        "length bomb": "bad_header",
        "checksum mismatch": "bad_checksum",
        "unknown opcode": "unknown_opcode",
        "push opcode in a request": "unknown_opcode",
        "missing byte": "errors_HEARTBEAT",
        "left-over byte": "errors_HEARTBEAT",
        "string longer than its body": "errors_USER_LOOKUP",
        "string not UTF-8": "errors_USER_LOOKUP",
    }
    return by_name.get(name, "bad_frame")


Vector = dict[str, str]
vectors = pytest.mark.parametrize("vector", INVALID, ids=map(name_of, INVALID))


@vectors
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte-by-byte"])
def test_every_invalid_vector(lobby: Lobby, vector: dict[str, object], cut: bool) -> None:
    data = bytes.fromhex(str(vector["frame"]))
    wire = lobby.enter()
    counter = counted(str(vector["name"]))
    before = lobby.counters()[counter]
    if cut:
        for at in range(min(len(data), HEADER_LEN) - 1):
            wire.send_raw(data[at : at + 1])
        wire.send_raw(data[HEADER_LEN - 1 :])
    else:
        wire.send_raw(data)
    check_refusal(wire.answer(), data, int(str(vector["status"])))
    assert lobby.counters()[counter] == before + 1
    if vector["connection"] == "closed":
        wire.expect_end()
    else:
        check_stays(wire)


def test_many_bad_and_good_frames_in_one_segment(lobby: Lobby) -> None:
    """All in one write; every one is answered, in order."""
    staying = [
        (bytes.fromhex(str(vector["frame"])), int(str(vector["status"])))
        for vector in INVALID
        if vector["connection"] == "stays"
    ]
    wire = lobby.enter()
    sent: list[tuple[bytes, int]] = []
    for number, (data, status) in enumerate(staying, 1000):
        sent += [(data, status), (request(Opcode.HEARTBEAT, number, number), Status.OK)]
    wire.send_raw(b"".join(data for data, _ in sent))
    for data, status in sent:
        answer = wire.answer()
        if status:
            check_refusal(answer, data, status)
        else:
            assert (answer.opcode, answer.req_id) == head_of(data)
            assert answer.body.client_time == answer.req_id
    check_stays(wire)


def test_a_stream_of_requests_byte_by_byte(lobby: Lobby) -> None:
    wire = lobby.enter()
    data = b"".join(request(Opcode.USER_LOOKUP, number, "nobody") for number in range(1, 6))
    for at in range(len(data)):
        wire.send_raw(data[at : at + 1])
    for number in range(1, 6):
        answer = wire.answer()
        assert (answer.req_id, answer.status) == (number, Status.ERR_NOT_FOUND)
    check_stays(wire)


# ---- the header


def test_a_body_over_the_maximum_is_refused_before_it_is_sent(lobby: Lobby) -> None:
    wire = lobby.enter()
    data = frame(body=b"", body_len=MAX_BODY_LEN + 1)
    wire.send_raw(data)
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    wire.expect_end()


def test_a_body_of_the_maximum_is_read(lobby: Lobby) -> None:
    wire = lobby.enter()
    data = frame(body=bytes(MAX_BODY_LEN))
    wire.send_raw(data)
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    check_stays(wire)


def test_the_answer_is_not_lost_to_a_reset(lobby: Lobby) -> None:
    """What still arrives is discarded, though far more than one read of it; and nothing that
    comes after the bad header is executed."""
    username = lobby.new_user()
    wire = lobby.enter(username)
    data = frame(magic=0x4854)
    deposits = b"".join(request(Opcode.DEPOSIT, number, 1) for number in range(1, 20_000))
    wire.send_raw(data + deposits)
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    wire.expect_end()
    assert lobby.enter(username).ok(Opcode.BALANCE) == (0, 0)


def test_the_server_gives_up_on_a_client_that_does_not_close(lobby: Lobby) -> None:
    """It discards for a moment only: then the connection is gone, though the client holds it."""
    wire = lobby.enter()
    wire.send_raw(frame(version=2))
    wire.answer()
    wire.expect_end()
    user = wire.user
    other = lobby.enter()
    wait_until(lambda: not other.ok(Opcode.USER_NAME, user).online, "the session is cleaned up")


FATAL_BYTES = {0, 1, 2, 4, 5}  # magic, version, header_len
LENGTH_BYTES = range(6, 10)


def test_every_bit_of_the_header_flipped(lobby: Lobby) -> None:
    """The checksum covers all of it; what is before it in the order of checks closes. Of body_len,
    only the bits that lead over the maximum are tried: the others ask for more bytes."""
    good = request(Opcode.HEARTBEAT, 0x0102030405060708, 9)
    for bit in range(HEADER_LEN * 8):
        place, mask = bit >> 3, 0x80 >> (bit & 7)
        if place in LENGTH_BYTES and mask << 8 * (9 - place) <= MAX_BODY_LEN:
            continue
        data = good[:place] + bytes([good[place] ^ mask]) + good[place + 1 :]
        with Wire(lobby.server.connect()) as wire:
            wire.send_raw(data)
            if place in FATAL_BYTES or place in LENGTH_BYTES:
                check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
                wire.expect_end()
            else:
                check_refusal(wire.answer(), data, Status.ERR_CHECKSUM_FAIL)
                assert wire.status(Opcode.HEARTBEAT, 1) == Status.OK


# ---- the checksum


def test_the_third_checksum_failure_closes(lobby: Lobby) -> None:
    """The third of the connection, good frames between them or not."""
    wire = lobby.enter()
    before = lobby.counters()["bad_checksum"]
    for number in range(1, CHECKSUMS_MAX + 1):
        data = spoiled(request(Opcode.DEPOSIT, 500 + number, 100))
        wire.send_raw(data)
        check_refusal(wire.answer(), data, Status.ERR_CHECKSUM_FAIL)
        if number < CHECKSUMS_MAX:
            check_stays(wire)
            assert wire.ok(Opcode.BALANCE) == (0, 0)  # dropped
    wire.expect_end()
    assert lobby.counters()["bad_checksum"] == before + CHECKSUMS_MAX


def test_frames_behind_the_third_checksum_failure_are_not_executed(lobby: Lobby) -> None:
    username = lobby.new_user()
    wire = lobby.enter(username)
    bad = spoiled(request(Opcode.HEARTBEAT, 9, 9))
    wire.send_raw(bad * CHECKSUMS_MAX + request(Opcode.DEPOSIT, 10, 100))
    for _ in range(CHECKSUMS_MAX):
        check_refusal(wire.answer(), bad, Status.ERR_CHECKSUM_FAIL)
    wire.expect_end()
    assert lobby.enter(username).ok(Opcode.BALANCE) == (0, 0)


# ---- the order of the checks

ORDER = [
    ("a checksum before flags", spoiled(frame(flags=0x80)), Status.ERR_CHECKSUM_FAIL, False),
    ("a checksum before ENCRYPTED", spoiled(frame(flags=1)), Status.ERR_CHECKSUM_FAIL, False),
    ("a checksum before the opcode", spoiled(frame(0x0777)), Status.ERR_CHECKSUM_FAIL, False),
    ("magic before the checksum", spoiled(frame(magic=1)), Status.ERR_BAD_PACKET, True),
    (
        "body_len before the checksum",
        spoiled(frame(body=b"", body_len=1 << 31)),
        Status.ERR_BAD_PACKET,
        True,
    ),
    ("ENCRYPTED before flags", frame(flags=0x81), Status.ERR_BAD_PACKET, True),
    ("ENCRYPTED before reserved", frame(flags=1, reserved=b"\1" * 6), Status.ERR_BAD_PACKET, True),
    ("ENCRYPTED before req_id", frame(flags=1, req_id=0), Status.ERR_BAD_PACKET, True),
    ("an opcode before the state", frame(0x0777), Status.ERR_BAD_PACKET, False),
    ("a push before the state", frame(Opcode.PAYMENT), Status.ERR_BAD_PACKET, False),
    ("the state before the body", frame(Opcode.DEPOSIT, b"\0"), Status.ERR_UNAUTHORIZED, False),
    ("the state before LOGIN's body", frame(Opcode.LOGIN, b""), Status.ERR_UNAUTHORIZED, False),
]


@pytest.mark.parametrize(
    ("data", "status", "closed"), [row[1:] for row in ORDER], ids=[row[0] for row in ORDER]
)
def test_the_order_of_the_checks(lobby: Lobby, data: bytes, status: Status, closed: bool) -> None:
    """On a connection that has not logged in."""
    wire = lobby.open()
    wire.send_raw(data)
    check_refusal(wire.answer(), data, status)
    if closed:
        wire.expect_end()
    else:
        wire.ok(Opcode.HEARTBEAT, 5)


# ---- flags, reserved, encryption and compression

STAYING = {
    "reserved first byte": frame(reserved=b"\1\0\0\0\0\0"),
    "reserved last byte": frame(reserved=b"\0\0\0\0\0\1"),
    **{f"flag {bit:#x}": frame(flags=bit) for bit in (0x10, 0x20, 0x40, 0x80)},
    "RESPONSE": frame(flags=Flag.RESPONSE),
    "RESPONSE of a duplicate": frame(flags=Flag.RESPONSE | Flag.POSSIBLE_DUPLICATE),
    "COMPRESSED was not granted": frame(flags=Flag.COMPRESSED),
    "status": frame(status=0xFFFF),
    "req_id 0": frame(req_id=0),
}


@pytest.mark.parametrize("data", STAYING.values(), ids=STAYING.keys())
def test_wrong_flags_reserved_status_and_req_id(lobby: Lobby, data: bytes) -> None:
    wire = lobby.enter()
    before = lobby.counters()["bad_frame"]
    wire.send_raw(data)
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    check_stays(wire)
    assert lobby.counters()["bad_frame"] == before + 1


def test_possible_duplicate_is_ignored_on_other_requests(lobby: Lobby) -> None:
    wire = lobby.enter()
    flags = Flag.POSSIBLE_DUPLICATE
    assert wire.call(Opcode.HEARTBEAT, 5, flags=flags).body.client_time == 5
    assert wire.call(Opcode.BALANCE, flags=flags).body == (0, 0)


def test_an_encrypted_frame_where_it_was_not_agreed(lobby: Lobby) -> None:
    wire = lobby.enter()
    before = lobby.counters()["bad_sealing"]
    data = frame(flags=Flag.ENCRYPTED, body=bytes(24))
    wire.send_raw(data + request(Opcode.DEPOSIT, 3, 100))
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    wire.expect_end()
    assert lobby.counters()["bad_sealing"] == before + 1


# ---- malformed bodies

MALFORMED = {
    "JOIN_ROOM short": (Opcode.JOIN_ROOM, bytes(3)),
    "JOIN_ROOM long": (Opcode.JOIN_ROOM, bytes(5)),
    "LOGOUT with a body": (Opcode.LOGOUT, b"\0"),
    "BALANCE with a body": (Opcode.BALANCE, b"\0"),
    "CHAT_SEND without its text": (Opcode.CHAT_SEND, struct.pack(">I", ROOM)),
    "CHAT_SEND cut inside its text": (Opcode.CHAT_SEND, struct.pack(">IH", ROOM, 4) + b"abc"),
    "CHAT_SEND with more than its text": (
        Opcode.CHAT_SEND,
        struct.pack(">IH", ROOM, 2) + b"abc",
    ),
    "CHAT_SEND with half a character": (
        Opcode.CHAT_SEND,
        struct.pack(">IH", ROOM, 1) + "é".encode()[:1],
    ),
    "CHAT_SEND with a surrogate": (
        Opcode.CHAT_SEND,
        struct.pack(">IH", ROOM, 3) + b"\xed\xa0\x80",
    ),
    "TRANSFER short": (Opcode.TRANSFER, bytes(11)),
    "DEPOSIT long": (Opcode.DEPOSIT, bytes(9)),
    "TXN_HISTORY empty": (Opcode.TXN_HISTORY, b""),
}


@pytest.mark.parametrize(("opcode", "body"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_body(lobby: Lobby, opcode: Opcode, body: bytes) -> None:
    wire = lobby.enter()
    counter = f"errors_{opcode.name}"
    before = lobby.counters()[counter]
    data = frame(opcode, body)
    wire.send_raw(data)
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    check_stays(wire)
    assert lobby.counters()[counter] == before + 1


# ---- HELLO

PLAIN, ENCRYPTED = 0, int(Capability.ENCRYPTION)
KEY = bytes(range(32))
BAD_HELLOS = {
    "a username with a blank": (PLAIN, "t", "al ice", NONCE, b""),
    "a username that is not ASCII": (PLAIN, "t", "älice", NONCE, b""),
    "a username with a newline behind it": (PLAIN, "t", "alice\n", NONCE, b""),
    "a username of 33 bytes": (PLAIN, "t", "a" * 33, NONCE, b""),
    "no nonce": (PLAIN, "t", "alice", b"", b""),
    "a nonce of 15 bytes": (PLAIN, "t", "alice", bytes(15), b""),
    "a nonce of 65 bytes": (PLAIN, "t", "alice", bytes(65), b""),
    "a key without encryption": (PLAIN, "t", "alice", NONCE, KEY),
    "encryption without a key": (ENCRYPTED, "t", "alice", NONCE, b""),
    "a key of 31 bytes": (ENCRYPTED, "t", "alice", NONCE, KEY[:31]),
    "a key of 33 bytes": (ENCRYPTED, "t", "alice", NONCE, KEY + b"\0"),
}


@pytest.mark.parametrize("fields", BAD_HELLOS.values(), ids=BAD_HELLOS.keys())
def test_a_bad_hello_changes_nothing(lobby: Lobby, fields: tuple[object, ...]) -> None:
    """Neither in CONNECTED nor in GREETED, where the nonce of the HELLO before it stays good."""
    username = lobby.new_user()
    before = lobby.counters()["errors_HELLO"]
    wire = lobby.open()
    assert wire.status(Opcode.HELLO, *fields) == Status.ERR_BAD_PACKET
    assert wire.status(Opcode.REGISTER, "x", SALT, 4096, KEY, KEY) == Status.ERR_UNAUTHORIZED
    wire.hello(username)
    assert wire.status(Opcode.HELLO, *fields) == Status.ERR_BAD_PACKET
    assert wire.login(username).status == Status.OK
    check_stays(wire)
    assert lobby.counters()["errors_HELLO"] == before + 2


def test_a_malformed_login_leaves_the_nonce_good(lobby: Lobby) -> None:
    username = lobby.new_user()
    wire = lobby.open()
    wire.hello(username)
    data = frame(Opcode.LOGIN, b"\0")
    wire.send_raw(data)
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    assert wire.login(username).status == Status.OK


@pytest.mark.parametrize("size", [16, 64])
def test_hellos_at_the_limits_are_good(lobby: Lobby, size: int) -> None:
    wire = lobby.open()
    assert wire.hello("a" * 32, nonce=bytes(size)).status == Status.OK
    assert wire.hello("", nonce=bytes(size)).status == Status.OK


# ---- other streams that are none


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"SSH-2.0-OpenSSH_9.6 with more than a header's worth\r\n",
    ],
    ids=["http", "tls", "ssh"],
)
def test_another_protocol(lobby: Lobby, data: bytes) -> None:
    wire = lobby.open()
    wire.send_raw(data)
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    wire.expect_end()


@pytest.mark.parametrize("cut", [1, HEADER_LEN - 1, HEADER_LEN, HEADER_LEN + 7])
def test_a_client_that_goes_away_inside_a_frame(lobby: Lobby, cut: int) -> None:
    """It half-closes: what came whole is answered, and then the stream ends."""
    wire = lobby.enter()
    wire.send_raw(request(Opcode.HEARTBEAT, 6, 6) + request(Opcode.HEARTBEAT, 7, 7)[:cut])
    wire.sock.shutdown(1)
    answer = wire.answer()
    assert (answer.req_id, answer.status) == (6, Status.OK)
    wire.expect_end(DEADLINE_S)
