"""Encrypted connections, over sockets: what is agreed, what is refused, and every row of the table
"Bad input" on one, but for the limits of connections and of the request rate."""

import re
import socket
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.framing import assemble
from libproto.messages import HEADER_LEN, SEAL_LEN, Capability, EventKind, Flag, Opcode
from libproto.sealing import KeyPair, ServerKey, fingerprint
from libproto.wrapping import COMPRESS_MIN
from tests.helpers.addresses import own_address
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import NONCE, SALT, Lobby, Wire, registration, request
from tests.integration.test_bad_input import (
    BAD_HELLOS,
    CHECKSUMS_MAX,
    MALFORMED,
    MAX_BODY_LEN,
    STAYING,
    check_refusal,
    check_stays,
    frame,
)
from tests.libproto.test_sealing import LOW_ORDER
from tests.libproto.test_wrapping import remake

ENCRYPTION, COMPRESSION = int(Capability.ENCRYPTION), int(Capability.COMPRESSION)
ROOM = 90


@pytest.fixture
def sealed(shared_server: RunningServer) -> Iterator[Lobby]:
    """Encrypted connections to the shared server."""
    with Lobby(shared_server, ENCRYPTION) as made:
        yield made


def sealed_as_it_is(wire: Wire, data: bytes) -> bytes:
    """A frame that is wrong in what the seal does not say, sealed: it opens."""
    assert wire.sealer is not None
    sealer = wire.sealer
    head = bytearray(data[:HEADER_LEN])
    head[3] |= Flag.ENCRYPTED
    head[6:10] = (len(data) - HEADER_LEN + 16).to_bytes(4, "big")
    return remake(bytes(head), sealer.seal(bytes(head[:22]), data[HEADER_LEN:]))


# ---- what is agreed


def test_everything_goes_over_an_encrypted_connection(sealed: Lobby, lobby: Lobby) -> None:
    alice, bob, clear = sealed.enter(), sealed.enter(), lobby.enter()
    for wire in (alice, bob, clear):
        wire.ok(Opcode.JOIN_ROOM, ROOM)
    alice.ok(Opcode.DEPOSIT, 500)
    assert alice.ok(Opcode.TRANSFER, bob.user, 200).balance == 300
    alice.ok(Opcode.CHAT_SEND, ROOM, "hello")
    for wire in (alice, bob, clear):
        while (event := wire.push().body).kind != EventKind.MESSAGE:
            pass
        assert event.message == "hello"
    assert bob.ok(Opcode.BALANCE).balance == 200


def test_after_hello_nothing_can_be_read_on_the_wire(sealed: Lobby) -> None:
    wire = sealed.open()
    name = sealed.new_user()
    wire.hello(name, capabilities=ENCRYPTION)
    assert wire.login(name).status == Status.OK
    hidden = "a text that nobody else is to read"
    wire.ok(Opcode.JOIN_ROOM, ROOM)
    wire.push()
    req_id = 50
    sent = wire.wrapped(request(Opcode.CHAT_SEND, req_id, ROOM, hidden))
    assert hidden.encode() not in sent
    wire.send_raw(sent)
    assert wire.readable(60)
    raw = wire.sock.recv(1 << 16)
    assert raw[:2] == b"NS"
    assert raw[3] & Flag.ENCRYPTED
    assert hidden.encode() not in raw


def test_the_identity_is_the_servers_on_every_connection_and_every_key_is_fresh(
    sealed: Lobby,
) -> None:
    wires = [sealed.open() for _ in range(8)]
    answers = [wire.hello(capabilities=ENCRYPTION).body for wire in wires]
    assert len({answer.public_key for answer in answers}) == len(wires)
    assert len({answer.server_nonce for answer in answers}) == len(wires)
    [identity] = {answer.identity for answer in answers}
    path = sealed.server.data / "server.key"
    assert ServerKey.from_pem(path.read_bytes()).identity == identity
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert fingerprint(identity) in sealed.server.log_text()


def test_encrypted_connections_are_counted(sealed: Lobby) -> None:
    before = sealed.counters()["encrypted"]
    wire = sealed.enter()
    assert sealed.counters()["encrypted"] == before + 1
    wire.close()
    wait_until(lambda: sealed.counters()["encrypted"] == before, "it is closed")


def test_compression_without_encryption(lobby: Lobby) -> None:
    wire = lobby.enter(capabilities=COMPRESSION)
    check_compresses(wire)


def test_compression_within_encryption(sealed: Lobby) -> None:
    wire = sealed.enter(capabilities=COMPRESSION)
    check_compresses(wire)


def check_compresses(wire: Wire) -> None:
    text = "a text that has much of the same, " * 40
    assert len(text) > COMPRESS_MIN
    wire.ok(Opcode.JOIN_ROOM, ROOM)
    wire.push()
    sent = wire.wrapped(request(Opcode.CHAT_SEND, 900, ROOM, text))
    assert len(sent) < 300
    wire.send_raw(sent)
    seqs = [wire.answer().body.room_seq]
    assert wire.push().body.message == text
    for _ in range(12):
        seqs.append(wire.ok(Opcode.CHAT_SEND, ROOM, text).room_seq)
        assert wire.push().body.message == text
    plain = request(Opcode.ROOM_HISTORY, 901, ROOM, seqs[0] - 1, 100)
    wire.send_raw(wire.wrapped(plain))
    assert wire.readable(60)
    wire.sock.setblocking(True)
    head = wire.sock.recv(HEADER_LEN, socket.MSG_PEEK | socket.MSG_WAITALL)
    assert head[3] & Flag.COMPRESSED
    assert int.from_bytes(head[6:10], "big") < 1000
    found = wire.answer().body.events
    assert [event.room_seq for event in found] == seqs
    assert {event.message for event in found} == {text}


def test_a_second_hello_agrees_anew_while_nothing_is_encrypted(lobby: Lobby) -> None:
    name = lobby.new_user()
    wire = lobby.open()
    wire.hello(name, capabilities=COMPRESSION)
    wire.ok(Opcode.HEARTBEAT, 1)
    wire.hello(name, capabilities=ENCRYPTION)
    assert wire.login(name).status == Status.OK
    check_stays(wire)


def test_the_longest_answer_has_room_for_its_seal(sealed: Lobby) -> None:
    """A history that would be just as long as a body may be: sealed, it would be longer."""
    wire = sealed.enter()

    def said(room: int, *texts: str) -> int:
        """The room_seq before the first of them."""
        wire.ok(Opcode.JOIN_ROOM, room)
        return min(int(wire.ok(Opcode.CHAT_SEND, room, text).room_seq) for text in texts) - 1

    def length(room: int, after: int, limit: int) -> int:
        """Of the body of that history, before it is sealed."""
        return len(wire.call(Opcode.ROOM_HISTORY, room, after, limit).raw)

    many = ["x" * 4096] * 15
    after = said(ROOM + 1, *many, "x")
    exact = "x" * (MAX_BODY_LEN + 1 - length(ROOM + 1, after, 16))
    after = said(ROOM + 2, *many, exact)
    assert length(ROOM + 2, after, 16) + SEAL_LEN <= MAX_BODY_LEN
    assert length(ROOM + 2, after + 1, 16) > len(exact)


# ---- one HELLO, one session


@pytest.mark.parametrize("state", ["GREETED", "AUTHENTICATED"])
def test_another_hello_is_refused(sealed: Lobby, state: str) -> None:
    name = sealed.new_user()
    wire = sealed.open()
    wire.hello(name, capabilities=ENCRYPTION)
    if state == "AUTHENTICATED":
        assert wire.login(name).status == Status.OK
    for capabilities, key in ((0, b""), (ENCRYPTION, KeyPair().public)):
        fields = (capabilities, "t", name, NONCE, key)
        assert wire.status(Opcode.HELLO, *fields) == Status.ERR_BAD_PACKET
    wire.ok(Opcode.HEARTBEAT, 1)


def test_logout_closes(sealed: Lobby) -> None:
    wire = sealed.enter()
    wire.send(Opcode.LOGOUT)
    wire.send(Opcode.HEARTBEAT, 1)  # which is not answered any more
    assert wire.answer().status == Status.OK
    wire.expect_end()


def test_a_failed_login_closes(sealed: Lobby) -> None:
    name = sealed.new_user()
    wire = sealed.open()
    wire.hello(name, capabilities=ENCRYPTION)
    wire.send(Opcode.LOGIN, name, wire.proof(name, "wrong"), 0, 1)
    wire.send(Opcode.HEARTBEAT, 1)
    assert wire.answer().status == Status.ERR_UNAUTHORIZED
    wire.expect_end()


def test_a_login_refused_for_another_reason_closes(sealed: Lobby) -> None:
    name = sealed.new_user()
    sealed.enter(name, client_id=7, next_req_id=1).ok(Opcode.DEPOSIT, 5)
    wire = sealed.open()
    wire.hello(name, capabilities=ENCRYPTION)
    wire.send(Opcode.LOGIN, name, wire.proof(name, client_id=7, next_req_id=1), 7, 1)
    wire.send(Opcode.HEARTBEAT, 1)
    assert wire.answer().status == Status.ERR_ALREADY_EXISTS
    wire.expect_end()


def test_a_login_with_a_bad_body_does_not_close(sealed: Lobby) -> None:
    name = sealed.new_user()
    wire = sealed.open()
    wire.hello(name, capabilities=ENCRYPTION)
    wire.send_raw(wire.wrapped(assemble(Opcode.LOGIN, 60, 0, 0, b"\0")))
    assert wire.answer().status == Status.ERR_BAD_PACKET
    assert wire.login(name).status == Status.OK


def test_one_that_registered_may_log_in_with_the_salt_it_gave(sealed: Lobby) -> None:
    name = sealed.name()
    wire = sealed.open()
    wire.hello(name, capabilities=ENCRYPTION)
    assert wire.register(name).status == Status.OK
    assert wire.login(name, salt=SALT).status == Status.OK
    check_stays(wire)


def test_a_superseded_session_is_told_before_it_is_closed(sealed: Lobby) -> None:
    name = sealed.new_user()
    old = sealed.enter(name, client_id=9)
    sealed.enter(name, client_id=9)
    assert old.status(Opcode.BALANCE) == Status.ERR_UNAUTHORIZED
    assert old.status(Opcode.HELLO, 0, "t", name, NONCE, b"") == Status.ERR_BAD_PACKET


# ---- bad input


def check_closed(wire: Wire, data: bytes, lobby: Lobby, counter: str, before: int) -> None:
    """Refused, in a sealed answer, and closed; the money that was asked for behind it is not
    paid."""
    answer = wire.answer()
    assert (answer.opcode, answer.req_id) == (
        int.from_bytes(data[10:12], "big"),
        int.from_bytes(data[14:22], "big"),
    )
    assert (answer.status, answer.flags) == (Status.ERR_BAD_PACKET, Flag.RESPONSE)
    wire.expect_end()
    assert lobby.counters()[counter] == before + 1


def test_a_clear_frame_closes(sealed: Lobby) -> None:
    wire = sealed.enter()
    before = sealed.counters()["bad_sealing"]
    data = request(Opcode.DEPOSIT, 500, 100)
    wire.send_raw(data + data)
    check_closed(wire, data, sealed, "bad_sealing", before)


@pytest.mark.parametrize("what", ["altered", "its header altered", "cut", "of another key"])
def test_a_frame_that_does_not_open_closes(sealed: Lobby, what: str) -> None:
    wire, other = sealed.enter(), sealed.enter()
    before = sealed.counters()["unopened"]
    good = wire.wrapped(request(Opcode.DEPOSIT, 500, 100))
    head, body = good[:HEADER_LEN], good[HEADER_LEN:]
    data = {
        "altered": remake(head, body[:7] + bytes([body[7] ^ 1]) + body[8:]),
        "its header altered": remake(head[:21] + bytes([head[21] ^ 1]) + head[22:], body),
        "cut": remake(head[:9] + bytes([len(body) - 1]) + head[10:], body[:-1]),
        "of another key": other.wrapped(request(Opcode.DEPOSIT, 500, 100)),
    }[what]
    wire.send_raw(data + wire.wrapped(request(Opcode.DEPOSIT, 501, 100)))
    check_closed(wire, data, sealed, "unopened", before)


def test_a_replayed_frame_closes_and_is_not_executed_again(sealed: Lobby) -> None:
    """Seen on the clear wire: a TRANSFER that was captured under client_id 0 was executed again."""
    name = sealed.new_user()
    wire, payee = sealed.enter(name), sealed.enter()
    wire.ok(Opcode.DEPOSIT, 100)
    before = sealed.counters()["unopened"]
    data = wire.wrapped(request(Opcode.TRANSFER, 77, payee.user, 10))
    wire.send_raw(data)
    assert wire.answer().body.balance == 90
    wire.send_raw(data)
    check_closed(wire, data, sealed, "unopened", before)
    assert sealed.enter(name).ok(Opcode.BALANCE).balance == 90


def test_a_captured_frame_is_worth_nothing_on_another_connection(sealed: Lobby) -> None:
    name = sealed.new_user()
    wire, payee = sealed.enter(name), sealed.enter()
    wire.ok(Opcode.DEPOSIT, 100)
    data = wire.wrapped(request(Opcode.TRANSFER, 77, payee.user, 10))
    later = sealed.enter(name)
    before = sealed.counters()["unopened"]
    later.send_raw(data)
    check_closed(later, data, sealed, "unopened", before)
    assert payee.ok(Opcode.BALANCE).balance == 0


def test_frames_in_another_order_close(sealed: Lobby) -> None:
    wire = sealed.enter()
    before = sealed.counters()["unopened"]
    first = wire.wrapped(request(Opcode.DEPOSIT, 500, 1))
    second = wire.wrapped(request(Opcode.DEPOSIT, 501, 1))
    wire.send_raw(second + first)
    check_closed(wire, second, sealed, "unopened", before)


def test_a_frame_that_was_left_out_closes(sealed: Lobby) -> None:
    wire = sealed.enter()
    wire.wrapped(request(Opcode.DEPOSIT, 500, 1))
    before = sealed.counters()["unopened"]
    data = wire.wrapped(request(Opcode.DEPOSIT, 501, 1))
    wire.send_raw(data)
    check_closed(wire, data, sealed, "unopened", before)


@pytest.mark.parametrize("place", [0, 2, 5, 6])
def test_a_bad_header_closes_with_a_sealed_answer(sealed: Lobby, place: int) -> None:
    wire = sealed.enter()
    before = sealed.counters()["bad_header"]
    good = wire.wrapped(request(Opcode.HEARTBEAT, 9, 9))
    data = good[:place] + bytes([good[place] ^ 0x40]) + good[place + 1 :]
    wire.send_raw(data)
    check_closed(wire, data, sealed, "bad_header", before)


def test_wrong_checksums_advance_the_counter_and_the_third_closes(sealed: Lobby) -> None:
    wire = sealed.enter()
    for number in range(1, CHECKSUMS_MAX + 1):
        data = bytearray(wire.wrapped(request(Opcode.DEPOSIT, 500 + number, 100)))
        data[22] ^= 1
        wire.send_raw(bytes(data))
        check_refusal(wire.answer(), bytes(data), Status.ERR_CHECKSUM_FAIL)
        if number < CHECKSUMS_MAX:
            check_stays(wire)
            assert wire.ok(Opcode.BALANCE) == (0, 0)
    wire.expect_end()


@pytest.mark.parametrize("data", STAYING.values(), ids=STAYING.keys())
def test_wrong_flags_reserved_status_and_req_id(sealed: Lobby, data: bytes) -> None:
    wire = sealed.enter()
    before = sealed.counters()["bad_frame"]
    wire.send_raw(sealed_as_it_is(wire, data))
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    check_stays(wire)
    assert sealed.counters()["bad_frame"] == before + 1


@pytest.mark.parametrize("data", STAYING.values(), ids=STAYING.keys())
def test_the_seal_is_looked_at_before_flags_reserved_status_and_req_id(
    sealed: Lobby, data: bytes
) -> None:
    wire = sealed.enter()
    before = sealed.counters()["bad_sealing"]
    wire.send_raw(data)
    check_closed(wire, data, sealed, "bad_sealing", before)


@pytest.mark.parametrize(("opcode", "body"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_body(sealed: Lobby, opcode: Opcode, body: bytes) -> None:
    wire = sealed.enter()
    data = frame(opcode, body)
    wire.send_raw(wire.wrapped(data))
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    check_stays(wire)


@pytest.mark.parametrize("opcode", [0x0777, Opcode.PAYMENT, 0xFFFF])
def test_an_unknown_opcode_and_that_of_a_push(sealed: Lobby, opcode: int) -> None:
    wire = sealed.enter()
    before = sealed.counters()["unknown_opcode"]
    data = frame(opcode)
    wire.send_raw(wire.wrapped(data))
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    check_stays(wire)
    assert sealed.counters()["unknown_opcode"] == before + 1


BOMB = zlib.compress(bytes(40 << 20), 9)
STREAMS = {
    "nothing": b"",
    "cut": zlib.compress(bytes(100))[:-1],
    "longer": zlib.compress(bytes(100)) + b"x",
    "one byte too long": zlib.compress(bytes(MAX_BODY_LEN + 1)),
    "a bomb": BOMB,
}


@pytest.mark.parametrize("body", STREAMS.values(), ids=STREAMS.keys())
@pytest.mark.parametrize("encrypted", [False, True], ids=["clear", "encrypted"])
def test_what_is_not_one_zlib_stream(
    sealed: Lobby, lobby: Lobby, body: bytes, encrypted: bool
) -> None:
    wire = (sealed if encrypted else lobby).enter(capabilities=COMPRESSION)
    before = lobby.counters()["bad_frame"]
    data = frame(Opcode.HEARTBEAT, body, flags=Flag.COMPRESSED)
    wire.send_raw(sealed_as_it_is(wire, data) if encrypted else data)
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)
    check_stays(wire)
    assert lobby.counters()["bad_frame"] == before + 1


def test_a_body_as_long_as_may_be_inflated_is_read(sealed: Lobby) -> None:
    wire = sealed.enter(capabilities=COMPRESSION)
    data = frame(Opcode.HEARTBEAT, zlib.compress(bytes(MAX_BODY_LEN)), flags=Flag.COMPRESSED)
    before = sealed.counters()["bad_frame"]
    wire.send_raw(sealed_as_it_is(wire, data))
    check_refusal(wire.answer(), data, Status.ERR_BAD_PACKET)  # as a HEARTBEAT of that length is
    assert sealed.counters()["bad_frame"] == before


@pytest.mark.parametrize("key", LOW_ORDER, ids=lambda key: key.hex()[:8])
def test_a_key_of_low_order_is_refused_and_the_connection_stays(lobby: Lobby, key: bytes) -> None:
    wire = lobby.open()
    assert wire.hello(capabilities=ENCRYPTION, key=key).status == Status.ERR_BAD_PACKET
    name = lobby.new_user()
    wire.hello(name, capabilities=ENCRYPTION)
    assert wire.login(name).status == Status.OK


@pytest.mark.parametrize("fields", BAD_HELLOS.values(), ids=BAD_HELLOS.keys())
def test_a_bad_hello_agrees_nothing(lobby: Lobby, fields: tuple[object, ...]) -> None:
    wire = lobby.open()
    assert wire.status(Opcode.HELLO, *fields) == Status.ERR_BAD_PACKET
    wire.ok(Opcode.HEARTBEAT, 1)


def test_one_byte_at_a_time_and_many_in_one_segment(sealed: Lobby) -> None:
    wire = sealed.enter()
    data = b"".join(wire.wrapped(request(Opcode.HEARTBEAT, n, n)) for n in range(100, 106))
    for at in range(len(data)):
        wire.send_raw(data[at : at + 1])
    many = b"".join(wire.wrapped(request(Opcode.HEARTBEAT, n, n)) for n in range(106, 400))
    wire.send_raw(many)
    for number in range(100, 400):
        assert wire.answer().body.client_time == number


# ---- where encryption is required


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("strict") / "data"
    with RunningServer(data, "--require-encryption", "on") as server:
        yield server


def test_a_clear_client_is_told_what_to_do(strict_server: RunningServer) -> None:
    with Lobby(strict_server, ENCRYPTION) as lobby:
        name = lobby.new_user()
        before = lobby.counters()["refused_clear"]
        wire = lobby.open()
        answer = wire.hello(name)
        assert answer.status == Status.ERR_UNAUTHORIZED
        assert re.search("encrypted connections only.*--encrypt require", answer.body.detail)
        assert lobby.counters()["refused_clear"] == before + 1
        assert wire.status(Opcode.LOGIN, name, bytes(32), 0, 1) == Status.ERR_UNAUTHORIZED
        assert lobby.enter(name).ok(Opcode.BALANCE) == (0, 0)


def test_beyond_loopback_it_is_required_and_nobody_is_registered_in_the_clear(
    tmp_path: Path,
) -> None:
    """An overheard REGISTER gives a login for good."""
    host = own_address()
    options = ("--host", "0.0.0.0", "--registration", "open")  # noqa: S104 - it is what is tested
    with RunningServer(tmp_path / "a", *options) as server, Wire(server.connect()) as wire:
        assert wire.hello().status == Status.ERR_UNAUTHORIZED
    lenient = (*options, "--require-encryption", "off")
    with RunningServer(tmp_path / "b", *lenient) as server, Lobby(server) as lobby:
        name = lobby.name()
        with Wire(socket.create_connection((host, server.port), 10)) as wire:
            hello = wire.hello(name)
            assert hello.status == Status.OK
            fields = registration(name, hello.body.iterations)
            answer = wire.call(Opcode.REGISTER, *fields)
            assert answer.status == Status.ERR_UNAUTHORIZED
            assert "encrypted" in answer.body.detail
        with Wire(socket.create_connection((host, server.port), 10)) as wire:
            wire.hello(name, capabilities=ENCRYPTION)
            assert wire.register(name).status == Status.OK
        assert lobby.new_user()  # from loopback it may be in the clear
