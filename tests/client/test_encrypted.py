"""Clients over encrypted connections, and whoever stands in between."""

import asyncio
import json
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client import (
    AsyncClient,
    BadArgument,
    BadUrl,
    CallTimeout,
    Client,
    ClientError,
    ConnectionLost,
    IdentityChanged,
    KnownServersUnusable,
    NotEncrypted,
    ProtocolViolation,
    Unauthorized,
)
from client.cli.options import EXIT_IDENTITY
from client.core.security import is_loopback
from client.known import KnownServer
from libproto.codec import REQUEST, RESPONSE
from libproto.errors import Status
from libproto.framing import assemble
from libproto.messages import HEADER_LEN, Capability, Flag, HelloResponse, Opcode
from libproto.sealing import ServerKey, fingerprint
from tests.client.conftest import Make
from tests.client.meddler import Impostor, Meddler, opcode_of
from tests.client.programs import PASSWORD, run
from tests.client.relay import Relay
from tests.client.turns import until
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby
from tests.libproto.test_wrapping import remake

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    data = tmp_path_factory.mktemp("encrypted") / "data"
    with RunningServer(data, "--require-encryption", "on") as made:
        known = data.parent / "known"
        with Client(HOST, made.port, encrypt="require", known_servers=known) as client:
            for name in ("alice", "bob"):
                client.register(name, PASSWORD)
        yield made
    assert made.process.returncode == 0, made.log_text()


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that serves clear connections, too."""
    with RunningServer(tmp_path_factory.mktemp("lenient") / "data") as made:
        yield made


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return tmp_path / "state" / "known"


@pytest.fixture
def pin(server: RunningServer) -> str:
    return fingerprint(ServerKey.from_pem((server.data / "server.key").read_bytes()).identity)


def balance_of(server: RunningServer, name: str, pin: str) -> int:
    with Client(HOST, server.port, pin=pin) as client:
        client.login(name, PASSWORD)
        return client.balance().balance


# ---- what a program sees of it


def test_everything_is_as_on_a_clear_connection(
    make: Make, server: RunningServer, known: Path, pin: str
) -> None:
    with make(HOST, server.port, encrypt="require", known_servers=known) as client:
        assert client.encrypted
        assert client.server_fingerprint == ""
        user = client.register(f"user{id(client)}", PASSWORD)
        client.login(f"user{id(client)}", PASSWORD)
        assert (client.server_fingerprint, client.server_is_new) == (pin, True)
        client.deposit(100)
        client.join(9)
        client.send(9, "hello")
        assert client.history(9).events[-1].message == "hello"
        client.logout()
        assert client.connected
        client.heartbeat()
        client.login(f"user{id(client)}", PASSWORD)
        assert client.balance().balance == 100
        assert client.user_id == user


def test_login_again_after_a_wrong_password(make: Make, server: RunningServer, pin: str) -> None:
    with make(HOST, server.port, pin=pin) as client:
        for _ in range(5):  # more than a clear connection is given
            with pytest.raises(Unauthorized):
                client.login("alice", "wrong")
        client.login("alice", PASSWORD)
        client.balance()


def test_compressed_answers(make: Make, server: RunningServer, pin: str) -> None:
    with make(HOST, server.port, pin=pin, compress=True) as client:
        client.login("alice", PASSWORD)
        client.join(11)
        for _ in range(20):
            client.send(11, "much of the same " * 50)
        assert len(client.history(11).events) >= 20
        with pytest.raises(ClientError, match="a body of"):
            client.send(11, "x" * 65530)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("::ffff:127.0.0.1", True), ("192.0.2.2", False), ("example.org", False),
        ("127.0.0.1.example.org", False), ("localhost.example.org", False), ("::", False),
        ("0.0.0.0", False),  # noqa: S104 - an address that a client may be given
    ],
)  # fmt: skip
def test_auto_requires_it_beyond_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    assert Client(host, 1).encrypted is not expected
    assert Client(host, 1, encrypt="off").encrypted is False
    assert Client(host, 1, encrypt="require").encrypted is True
    assert Client(host, 1, pin="A" * 43).encrypted is True


def test_a_url_says_it_too(pin: str, server: RunningServer) -> None:
    url = f"tradechat://alice:{PASSWORD.replace(' ', '%20')}@{HOST}:{server.port}"
    with Client(f"{url}?encrypt=require&pin={pin}") as client:
        assert client.balance().balance >= 0
    with pytest.raises(BadUrl):
        Client(f"{url}?encrypt=maybe")
    with pytest.raises(BadUrl):
        Client(f"{url}?pin=SHA256:short")


def test_wrong_arguments() -> None:
    for wrong in ({"encrypt": "yes"}, {"pin": "x"}, {"pin": 5}, {"known_servers": 5}):
        with pytest.raises(BadArgument):
            Client(HOST, 1, **wrong)
    with pytest.raises(BadArgument):
        Client(HOST, 1, encrypt="off", pin="A" * 43)


def test_who_asks_for_nothing_is_told_what_to_do(make: Make, server: RunningServer) -> None:
    with make(HOST, server.port) as client, pytest.raises(Unauthorized, match="--encrypt require"):
        client.login("alice", PASSWORD)


def test_a_call_while_it_reconnects_makes_no_connection_of_its_own(
    make_lasting: Make, server: RunningServer, pin: str
) -> None:
    relay = Relay(server.port)
    with make_lasting(HOST, relay.port, pin=pin) as client:
        client.login("alice", PASSWORD)
        relay.close()
        wait_until(lambda: bool(client.reconnecting), "it notices")
        with ThreadPoolExecutor() as threads:
            waiting = [threads.submit(client.balance, timeout_s=60) for _ in range(3)]
            again = Relay(server.port, port=relay.port)  # which passes on one connection
            for each in waiting:
                assert each.result().balance >= 0
        assert again.passed[Opcode.HELLO] == 1
        assert client.reconnects == 1
    again.close()


# ---- servers that were seen


def test_a_server_is_known_from_the_first_login_on(
    server: RunningServer, known: Path, pin: str
) -> None:
    for is_new in (True, False, False):
        with Client(HOST, server.port, encrypt="require", known_servers=known) as client:
            client.login("alice", PASSWORD)
            assert client.server_is_new is is_new
    assert known.read_text() == f"{HOST}:{server.port} {pin}\n"
    assert stat.S_IMODE(known.stat().st_mode) == 0o600
    assert stat.S_IMODE(known.parent.stat().st_mode) == 0o700


def test_not_before_it_has_proved_that_it_knows_the_user(
    server: RunningServer, known: Path
) -> None:
    with Client(HOST, server.port, encrypt="require", known_servers=known) as client:
        with pytest.raises(Unauthorized):
            client.login("alice", "wrong")
        assert client.server_is_new
    assert not known.exists()


def test_another_identity_is_refused_before_anything_is_proved(
    make: Make, server: RunningServer, known: Path, pin: str
) -> None:
    known.parent.mkdir()
    other = fingerprint(ServerKey.generate().identity)
    known.write_text(f"# seen\n\nexample.org:7878 {pin}\n{HOST}:{server.port} {other}\n")
    before = known.read_text()
    with (
        make(HOST, server.port, encrypt="require", known_servers=known) as client,
        pytest.raises(IdentityChanged) as raised,
    ):
        client.login("alice", PASSWORD)
    assert (raised.value.expected, raised.value.found) == (other, pin)
    assert str(known) in str(raised.value)
    assert known.read_text() == before


def test_another_identity_than_the_pin_is_refused(make: Make, server: RunningServer) -> None:
    other = fingerprint(ServerKey.generate().identity)
    with make(HOST, server.port, pin=other) as client, pytest.raises(IdentityChanged):
        client.login("alice", PASSWORD)


def test_a_file_that_cannot_be_used_is_told(server: RunningServer, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "file" / "known"):
        (tmp_path / "file").touch()
        with (
            Client(HOST, server.port, encrypt="require", known_servers=place) as client,
            pytest.raises(KnownServersUnusable, match="pin"),
        ):
            client.login("alice", PASSWORD)


def test_names_of_servers_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "known"
    for number, (host, port) in enumerate([("Example.org", 1), ("::1", 1), ("example.org", 2)]):
        KnownServer(host, port, path).keep(f"SHA256:{number}")
    assert KnownServer("example.ORG", 1, path).find() == "SHA256:0"
    assert KnownServer("::1", 1, path).find() == "SHA256:1"
    assert KnownServer("example.org", 2, path).find() == "SHA256:2"
    assert KnownServer("example.org", 3, path).find() is None
    assert path.read_text().splitlines()[1] == "[::1]:1 SHA256:1"


# ---- whoever is in between


def test_an_impostor_fails_the_login_on_both_sides(
    make: Make, server: RunningServer, known: Path
) -> None:
    """Of a server that was never seen: the proof holds the keys of both sides."""
    with Lobby(server) as lobby, Impostor(server.port, ServerKey.generate()) as relay:
        before = lobby.counters()["errors_LOGIN"]
        with (
            make(HOST, relay.port, encrypt="require", known_servers=known) as client,
            pytest.raises(Unauthorized),
        ):
            client.login("alice", PASSWORD)
        assert lobby.counters()["errors_LOGIN"] == before + 1
    assert Opcode.LOGIN in relay.read
    assert not known.exists()


def test_an_impostor_is_given_no_proof_where_the_server_is_known(
    make: Make, server: RunningServer, pin: str
) -> None:
    with Impostor(server.port, ServerKey.generate()) as relay:
        with make(HOST, relay.port, pin=pin) as client, pytest.raises(IdentityChanged):
            client.login("alice", PASSWORD)
        with make(HOST, relay.port, pin=pin) as client, pytest.raises(IdentityChanged):
            client.register("carol", PASSWORD)
    assert not relay.read


def test_keys_that_were_swapped_are_not_signed(make: Make, server: RunningServer, pin: str) -> None:
    with (
        Impostor(server.port, None) as relay,
        make(HOST, relay.port, pin=pin) as client,
        pytest.raises(ProtocolViolation, match="signature"),
    ):
        client.login("alice", PASSWORD)
    assert not relay.read


@pytest.mark.parametrize("where", ["request", "answer", "both"])
def test_the_wish_for_encryption_cannot_be_taken_out(
    make: Make, lenient: RunningServer, where: str
) -> None:
    def asked(opcode: int, frame: bytes) -> list[bytes]:
        if opcode != Opcode.HELLO or where == "answer":
            return [frame]
        fields = REQUEST[Opcode.HELLO].decode(frame, HEADER_LEN, len(frame))
        wanted = fields[0] & ~Capability.ENCRYPTION
        body = REQUEST[Opcode.HELLO].encode(wanted, *fields[1:-1], b"")
        return [assemble(opcode, int.from_bytes(frame[14:22], "big"), 0, 0, body)]

    def answered(opcode: int, frame: bytes) -> list[bytes]:
        status = int.from_bytes(frame[12:14], "big")
        if opcode != Opcode.HELLO or where == "request" or status != Status.OK:
            return [frame]
        answer = HelloResponse._make(RESPONSE[Opcode.HELLO].decode(frame, HEADER_LEN, len(frame)))
        clear = answer._replace(
            capabilities=answer.capabilities & ~Capability.ENCRYPTION,
            public_key=b"",
            identity=b"",
            signature=b"",
        )
        body = RESPONSE[Opcode.HELLO].encode(*clear)
        req_id = int.from_bytes(frame[14:22], "big")
        return [assemble(opcode, req_id, Flag.RESPONSE, 0, body)]

    with (
        Meddler(lenient.port, asked, answered) as relay,
        make(HOST, relay.port, encrypt="require", known_servers="/dev/null") as client,
        pytest.raises(NotEncrypted),
    ):
        client.login("alice", PASSWORD)
    assert set(relay.seen) == {Opcode.HELLO}


def test_a_signature_that_was_dropped_is_missed(
    make: Make, server: RunningServer, pin: str
) -> None:
    def answered(opcode: int, frame: bytes) -> list[bytes]:
        if opcode != Opcode.HELLO:
            return [frame]
        answer = HelloResponse._make(RESPONSE[Opcode.HELLO].decode(frame, HEADER_LEN, len(frame)))
        body = RESPONSE[Opcode.HELLO].encode(*answer._replace(signature=b""))
        return [assemble(opcode, int.from_bytes(frame[14:22], "big"), Flag.RESPONSE, 0, body)]

    with (
        Meddler(server.port, answers=answered) as relay,
        make(HOST, relay.port, pin=pin) as client,
        pytest.raises(ProtocolViolation, match="signature"),
    ):
        client.login("alice", PASSWORD)


def altered(frame: bytes) -> bytes:
    """Payee and amount are other ones, and the checksum is right."""
    body = bytearray(frame[HEADER_LEN:])
    body[3] ^= 1
    body[11] ^= 0x7F
    return remake(frame[:HEADER_LEN], bytes(body))


ON_THE_WAY: dict[str, Callable[[bytes], list[bytes]]] = {
    "altered": lambda frame: [altered(frame)],
    "another req_id": lambda frame: [remake(frame[:21] + b"\x77" + frame[22:32], frame[32:])],
    "damaged": lambda frame: [frame[:-1] + bytes([frame[-1] ^ 1])] * 3,
}


@pytest.mark.parametrize("how", ON_THE_WAY)
def test_a_payment_that_was_changed_is_not_made(
    make: Make, server: RunningServer, pin: str, how: str
) -> None:
    """Seen on the clear wire: a relay changed payee and amount of a TRANSFER and answered OK."""

    def request(opcode: int, frame: bytes) -> list[bytes]:
        return ON_THE_WAY[how](frame) if opcode == Opcode.TRANSFER else [frame]

    before = balance_of(server, "bob", pin)
    with Meddler(server.port, request) as relay, make(HOST, relay.port, pin=pin) as client:
        client.login("alice", PASSWORD)
        client.deposit(1000)
        bob = client.lookup("bob").user_id
        with pytest.raises(ClientError) as raised:
            client.transfer(bob, 10)
        assert not isinstance(raised.value, CallTimeout)
    assert balance_of(server, "bob", pin) == before


def test_a_payment_that_is_repeated_on_the_way_is_made_once(
    make: Make, server: RunningServer, pin: str
) -> None:
    def request(opcode: int, frame: bytes) -> list[bytes]:
        return [frame] * (4 if opcode == Opcode.TRANSFER else 1)

    before = balance_of(server, "bob", pin)
    with (
        Meddler(server.port, request) as relay,
        make(HOST, relay.port, pin=pin, client_id=0) as client,
    ):
        client.login("alice", PASSWORD)
        client.deposit(1000)
        bob = client.lookup("bob").user_id
        try:
            client.transfer(bob, 10)
        except ClientError as error:  # the answer to the second came first to be seen
            assert isinstance(error, ConnectionLost | ProtocolViolation)  # noqa: PT017
    assert balance_of(server, "bob", pin) == before + 10


@pytest.mark.parametrize("how", ["dropped", "in another order"])
def test_requests_that_are_dropped_or_moved_end_the_connection(
    server: RunningServer, pin: str, how: str
) -> None:
    held: list[bytes] = []

    def request(opcode: int, frame: bytes) -> list[bytes]:
        if opcode == Opcode.DEPOSIT and not held:
            held.append(frame)
            return []
        if opcode == Opcode.BALANCE and how == "in another order":
            return [frame, *held]
        return [frame]

    async def program(port: int) -> None:
        async with AsyncClient(HOST, port, pin=pin) as client:
            await client.login("alice", PASSWORD)
            deposit = asyncio.create_task(client.deposit(5, timeout_s=30))
            await until(lambda: bool(held))
            with pytest.raises(ClientError) as raised:
                await client.balance(timeout_s=30)
            assert not isinstance(raised.value, CallTimeout)
            with pytest.raises(ClientError):
                await deposit

    before = balance_of(server, "alice", pin)
    with Meddler(server.port, request) as relay:
        asyncio.run(program(relay.port))
    assert balance_of(server, "alice", pin) == before


def test_an_answer_that_was_changed_is_no_answer(
    make: Make, server: RunningServer, pin: str
) -> None:
    def answered(opcode: int, frame: bytes) -> list[bytes]:
        if opcode != Opcode.BALANCE:
            return [frame]
        assert opcode_of(frame) == opcode
        return [remake(frame[:32], bytes([frame[32] ^ 1]) + frame[33:])]

    with (
        Meddler(server.port, answers=answered) as relay,
        make(HOST, relay.port, pin=pin) as client,
    ):
        client.login("alice", PASSWORD)
        with pytest.raises(ProtocolViolation):
            client.balance()
        assert not client.connected


# ---- tradechat-cli


def test_the_command_line_says_who_a_new_server_is_and_refuses_another(
    server: RunningServer, tmp_path: Path, pin: str
) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    words = ("--user", "alice", "--encrypt", "require", "balance")
    first = run(server.port, *words, **state)
    assert first.code == 0, first.err
    assert pin in first.err
    assert "tradechat-admin identity" in first.err
    kept = tmp_path / "tradechat" / "known-servers"
    assert kept.read_text() == f"{HOST}:{server.port} {pin}\n"
    again = run(server.port, *words, **state)
    assert (again.code, again.err) == (0, "")

    other = fingerprint(ServerKey.generate().identity)
    kept.write_text(f"{HOST}:{server.port} {other}\n")
    refused = run(server.port, *words, "--json", **state)
    assert refused.code == EXIT_IDENTITY
    said = json.loads(refused.err)
    assert (said["error"], said["exit_code"]) == ("IdentityChanged", EXIT_IDENTITY)
    assert run(server.port, *words, "--pin", pin, **state).code == 0
    wrong = run(server.port, *words, "--pin", other, **state)
    assert wrong.code == EXIT_IDENTITY
    assert "IS NOT THE ONE IT WAS" in wrong.err
    assert PASSWORD not in wrong.err


def test_the_command_line_where_encryption_is_required_and_not_asked_for(
    server: RunningServer, tmp_path: Path
) -> None:
    done = run(server.port, "--user", "alice", "balance", XDG_STATE_HOME=str(tmp_path))
    assert done.code == 1
    assert "--encrypt require" in done.err


def test_the_chat_says_who_a_new_server_is(server: RunningServer, tmp_path: Path, pin: str) -> None:
    words = ("--plain", "--user", "alice", "--encrypt", "require")
    done = run(server.port, *words, text="/balance\n", XDG_STATE_HOME=str(tmp_path))
    assert done.code == 0, done.err
    assert pin in done.out + done.err
