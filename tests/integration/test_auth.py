"""Registering and proving who one is; and that the answers tell nobody who exists."""

import os
from pathlib import Path

import pytest

from libproto.errors import Status
from libproto.messages import Capability, Opcode
from tests.helpers.server import RunningServer, StartServer
from tests.helpers.wire import NONCE, SALT, Lobby, registration

ITERATIONS = 4096
ANOTHER = "another one"
KEY = bytes(range(32))
ANOTHER = "another password"


# ---- who exists is told to nobody


def test_hello_for_an_unknown_user(lobby: Lobby) -> None:
    """A salt that is stable for that name, on every worker and connection, another one for another
    name; and all else as for a user who exists."""
    known, unknown = lobby.new_user(), lobby.name()
    salts = set()
    for worker in range(4):
        wire = lobby.open_on(worker)
        answer = wire.hello(unknown).body
        salts.add(answer.salt)
        real = wire.hello(known).body
        assert len(answer.salt) == len(real.salt) == 16
        assert len(answer.server_nonce) == len(real.server_nonce)
        assert answer._replace(salt=b"", server_nonce=b"") == real._replace(
            salt=b"", server_nonce=b""
        )
    assert len(salts) == 1
    assert lobby.open().hello(lobby.name()).body.salt not in salts


def test_unknown_salts_are_another_servers_own(lobby: Lobby, start_server: StartServer) -> None:
    with Lobby(start_server()) as other:
        name = lobby.name()
        assert lobby.open().hello(name).body.salt != other.open().hello(name).body.salt


def test_whatever_is_wrong_the_answer_is_the_same(lobby: Lobby) -> None:
    """Wrong password, no such user, another user than HELLO named, a proof of a wrong length, a
    name that is none: one answer, but for its req_id."""
    known, second, unknown = lobby.new_user(), lobby.new_user(), lobby.name()
    answers = []
    for greeted, named, password in (
        (known, known, "wrong"),
        (unknown, unknown, "wrong"),
        (known, second, "correct horse"),
        (known, unknown, "correct horse"),
        ("", known, "correct horse"),
        (known, known.upper(), "correct horse"),
    ):
        wire = lobby.open()
        wire.hello(greeted)
        answers.append(wire.login(named, password))
    for proof in (b"", KEY[:31], KEY + b"\0"):
        wire = lobby.open()
        wire.hello(known)
        answers.append(wire.call(Opcode.LOGIN, known, proof, 0, 1))
    for name in ("", "no such name", "x" * 33, "ü"):
        wire = lobby.open()
        wire.hello(known)
        answers.append(wire.call(Opcode.LOGIN, name, wire.proof(known), 0, 1))
    assert {(answer.status, answer.raw) for answer in answers} == {
        (Status.ERR_UNAUTHORIZED, answers[0].raw)
    }


def test_the_proof_is_for_its_client_and_its_next_req_id(lobby: Lobby) -> None:
    """Nobody in between changes them."""
    username = lobby.new_user()
    for sent in ((7, 6), (6, 5), (5, 7), (0, 5)):
        wire = lobby.open()
        wire.hello(username)
        proof = wire.proof(username, client_id=7, next_req_id=5)
        assert wire.status(Opcode.LOGIN, username, proof, *sent) == Status.ERR_UNAUTHORIZED
    wire = lobby.open()
    wire.hello(username)
    proof = wire.proof(username, client_id=7, next_req_id=5)
    wire.ok(Opcode.LOGIN, username, proof, 7, 5)


@pytest.mark.parametrize("client_id", [0, 7])
def test_next_req_id_0(lobby: Lobby, client_id: int) -> None:
    """Refused after a right proof only; it supersedes nobody, and makes no client known."""
    username = lobby.new_user()
    there = lobby.enter(username, client_id=client_id)
    for _ in range(2):
        wire = lobby.open()
        for _ in range(5):  # it does not count toward the third
            wire.hello(username)
            refused = wire.login(username, client_id=client_id, next_req_id=0)
            assert refused.status == Status.ERR_BAD_PACKET
            assert wire.status(Opcode.BALANCE) == Status.ERR_UNAUTHORIZED
            wire.hello(username)
            refused = wire.login(username, client_id=client_id + 1, next_req_id=0)
            assert refused.status == Status.ERR_BAD_PACKET
        # the nonce is spent
        proof = wire.proof(username, client_id=client_id)
        assert wire.status(Opcode.LOGIN, username, proof, client_id, 1) == Status.ERR_UNAUTHORIZED
    wrong = lobby.open()
    wrong.hello(username)
    refused = wrong.login(username, "wrong", client_id=client_id, next_req_id=0)
    assert refused.status == Status.ERR_UNAUTHORIZED
    there.ok(Opcode.BALANCE)
    wire = lobby.open()
    wire.hello(username)
    assert wire.login(username, client_id=client_id + 1).body.resumed == 0


def test_log_id_is_the_servers(lobby: Lobby, start_server: StartServer) -> None:
    """One for everybody on every worker, and not another server's."""
    found = set()
    for worker in range(4):
        wire = lobby.open_on(worker)
        username = lobby.new_user()
        wire.hello(username)
        found.add(wire.login(username).body.log_id)
    assert len(found) == 1
    assert 0 not in found
    with Lobby(start_server()) as other:
        username, wire = other.new_user(), other.open()
        wire.hello(username)
        assert wire.login(username).body.log_id not in found


# ---- the nonce


def test_the_server_nonce_is_fresh(lobby: Lobby) -> None:
    wire = lobby.open()
    nonces = [wire.hello("somebody").body.server_nonce for _ in range(50)]
    assert len(set(nonces)) == len(nonces)
    assert all(16 <= len(nonce) <= 64 for nonce in nonces)


def test_a_nonce_is_good_for_one_login(lobby: Lobby) -> None:
    """A proof that was overheard is worth nothing: neither again after LOGOUT, nor after a LOGIN
    that failed, nor on another connection."""
    username = lobby.new_user()
    wire, thief = lobby.open(), lobby.open()
    wire.hello(username)
    proof = wire.proof(username)
    thief.hello(username)
    assert thief.status(Opcode.LOGIN, username, proof, 0, 1) == Status.ERR_UNAUTHORIZED
    wire.ok(Opcode.LOGIN, username, proof, 0, 1)
    wire.ok(Opcode.LOGOUT)
    assert wire.status(Opcode.LOGIN, username, proof, 0, 1) == Status.ERR_UNAUTHORIZED

    again = lobby.open()
    again.hello(username)
    proof = again.proof(username)
    assert again.status(Opcode.LOGIN, username, KEY, 0, 1) == Status.ERR_UNAUTHORIZED
    assert again.status(Opcode.LOGIN, username, proof, 0, 1) == Status.ERR_UNAUTHORIZED


def test_the_proof_covers_both_hello_bodies(lobby: Lobby) -> None:
    """Who changes a HELLO on the way, its capabilities for one, makes the proof worthless."""
    username = lobby.new_user()
    honest, relay = lobby.open(), lobby.open()
    honest.hello(username, capabilities=4)
    relay.hello(username, capabilities=0)
    proof = relay.proof(username)
    relay.hello(username, capabilities=4)
    assert relay.status(Opcode.LOGIN, username, proof, 0, 1) == Status.ERR_UNAUTHORIZED
    assert honest.login(username).status == Status.OK


# ---- registering


def test_register_and_login_on_one_hello(lobby: Lobby) -> None:
    """With the salt just registered, not the one that HELLO told for a user unknown to it."""
    username = lobby.name()
    wire = lobby.open()
    hello = wire.hello(username).body
    user = wire.register(username).body.user_id
    assert hello.salt != SALT
    answer = wire.login(username, salt=SALT)
    assert (answer.status, answer.body.user_id, answer.body.resumed) == (Status.OK, user, 0)
    assert lobby.open().hello(username).body.salt == SALT


def test_register_on_a_hello_without_a_name(lobby: Lobby) -> None:
    """Several users on one connection; LOGIN names the user of a HELLO, so it needs its own."""
    wire = lobby.open()
    wire.hello("")
    names = [lobby.name() for _ in range(3)]
    users = [wire.register(name).body.user_id for name in names]
    assert users == sorted(set(users))
    wire.hello(names[1])
    assert wire.login(names[1]).body.user_id == users[1]


def test_usernames_are_case_sensitive_and_may_be_anything_allowed(lobby: Lobby) -> None:
    suffix = "x" + os.urandom(4).hex()  # with a letter, to be another in the other case
    names = [f"Aa.-_{suffix}", f"{suffix:_<32}", f"_{suffix}-", f"{suffix}.X"]
    wire = lobby.open()
    wire.hello("")
    users = [wire.register(name).body.user_id for name in names]
    assert len(set(users)) == len(names)
    reader = lobby.enter()
    for name, user in zip(names, users, strict=True):
        assert reader.ok(Opcode.USER_LOOKUP, name)[:2] == (user, name)
        assert reader.status(Opcode.USER_LOOKUP, name.swapcase()) == Status.ERR_NOT_FOUND
        login = lobby.open()
        login.hello(name.swapcase())
        assert login.login(name.swapcase()).status == Status.ERR_UNAUTHORIZED


def test_a_name_that_looks_like_anothers(lobby: Lobby) -> None:
    """On whichever worker; it is not the other one either, and is not told from one that nobody
    has in anything but REGISTER."""
    suffix = os.urandom(4).hex()
    lobby.open().hello("")
    wire = lobby.open_on(0)
    wire.hello("")
    assert wire.register(f"Corn-il0.{suffix}").status == Status.OK
    for worker in range(4):
        other = lobby.open_on(worker)
        for name in (f"corn-il0.{suffix}", f"Com-ILO.{suffix}", f"com-1lo.{suffix}"):
            other.hello(name)
            assert other.register(name).status == Status.ERR_ALREADY_EXISTS
            assert other.login(name).status == Status.ERR_UNAUTHORIZED
            if name[:3] == "Com":  # before the third
                other = lobby.open_on(worker)
        reader = lobby.enter()
        assert reader.status(Opcode.USER_LOOKUP, f"com-1lo.{suffix}") == Status.ERR_NOT_FOUND


@pytest.mark.parametrize(
    "name", ["-a", ".a", "a.", "Admin", "system", "tradechat", "SERVER", "adrnin"]
)
def test_a_name_that_nobody_may_have(lobby: Lobby, name: str) -> None:
    """Nobody registers it; and to say HELLO with it, or to look for it, is not wrong."""
    wire = lobby.open()
    assert wire.hello(name).status == Status.OK
    assert wire.register(name).status == Status.ERR_BAD_PACKET
    assert wire.login(name).status == Status.ERR_UNAUTHORIZED
    assert lobby.enter().status(Opcode.USER_LOOKUP, name) == Status.ERR_NOT_FOUND


NAME = "somebody"
BAD_REGISTERS = {
    "no name": ("", SALT, ITERATIONS, KEY, KEY),
    "a name that is none": ("some body", SALT, ITERATIONS, KEY, KEY),
    "a name of 33 bytes": ("n" * 33, SALT, ITERATIONS, KEY, KEY),
    "a name with a newline": (f"{NAME}\n", SALT, ITERATIONS, KEY, KEY),
    "a salt of 15 bytes": (NAME, SALT[:15], ITERATIONS, KEY, KEY),
    "a salt of 17 bytes": (NAME, SALT + b"\0", ITERATIONS, KEY, KEY),
    "fewer iterations": (NAME, SALT, ITERATIONS - 1, KEY, KEY),
    "more iterations": (NAME, SALT, ITERATIONS + 1, KEY, KEY),
    "no iterations": (NAME, SALT, 0, KEY, KEY),
    "a stored key of 31 bytes": (NAME, SALT, ITERATIONS, KEY[:31], KEY),
    "a server key of 33 bytes": (NAME, SALT, ITERATIONS, KEY, KEY + b"\0"),
    "no keys": (NAME, SALT, ITERATIONS, b"", b""),
}


@pytest.mark.parametrize("fields", BAD_REGISTERS.values(), ids=BAD_REGISTERS.keys())
def test_a_bad_registration(lobby: Lobby, fields: tuple[object, ...]) -> None:
    """It registers nobody, and the connection stays GREETED."""
    wire = lobby.open()
    wire.hello("")
    assert wire.status(Opcode.REGISTER, *fields) == Status.ERR_BAD_PACKET
    assert wire.register(lobby.name()).status == Status.OK
    assert lobby.enter().status(Opcode.USER_LOOKUP, NAME) == Status.ERR_NOT_FOUND


def test_a_name_that_is_taken(lobby: Lobby) -> None:
    """On whichever worker; the password and the money of who has it stay."""
    username = lobby.new_user()
    lobby.enter(username).ok(Opcode.DEPOSIT, 50)
    for worker in range(4):
        wire = lobby.open_on(worker)
        wire.hello(username)
        answer = wire.register(username, password=ANOTHER)
        assert answer.status == Status.ERR_ALREADY_EXISTS
        assert wire.login(username).status == Status.OK
        assert wire.ok(Opcode.BALANCE).balance == 50


def test_one_of_many_gets_a_name(lobby: Lobby) -> None:
    """Registrations of one name, sent before any is answered, over all workers."""
    username = lobby.name()
    wires = [lobby.open_on(slot % 4) for slot in range(12)]
    for wire in wires:
        wire.hello(username)
    fields = registration(username, ITERATIONS)
    for wire in wires:
        wire.send(Opcode.REGISTER, *fields)
    statuses = [wire.answer().status for wire in wires]
    assert sorted(statuses) == [Status.OK] + [Status.ERR_ALREADY_EXISTS] * (len(wires) - 1)


def test_closed_registration(start_server: StartServer) -> None:
    with Lobby(start_server("--registration", "closed")) as lobby:
        wire = lobby.open()
        wire.hello("somebody")
        assert wire.register("somebody").status == Status.ERR_UNAUTHORIZED
        assert wire.login("somebody").status == Status.ERR_UNAUTHORIZED  # stayed GREETED till now
        assert lobby.open().hello("somebody").body.salt != SALT


def test_iterations_are_a_setting(start_server: StartServer) -> None:
    """HELLO answers it, for unknown users too, and REGISTER must keep to it."""
    with Lobby(start_server("--scram-iterations", "5000")) as lobby:
        wire = lobby.open()
        assert wire.hello("somebody").body.iterations == 5000
        fields = ("somebody", SALT, ITERATIONS, KEY, KEY)
        assert wire.status(Opcode.REGISTER, *fields) == Status.ERR_BAD_PACKET
        assert wire.register("somebody").status == Status.OK
        assert wire.login("somebody", salt=SALT).status == Status.OK


def test_a_password_is_changed_by_its_user(start_server: StartServer) -> None:
    """All other sessions end, what was proved by the one before is refused; after a kill, too."""
    server = start_server()
    with Lobby(server) as lobby:
        name = lobby.name()
        wire = lobby.open()
        wire.hello(name)
        wire.register(name)
        mine, other = lobby.enter(name), lobby.enter(name)
        late = lobby.open()
        late.hello(name)
        fields = registration(name, ITERATIONS, ANOTHER)[1:]
        for bad in (
            (SALT[1:], *fields[1:]), (*fields[:2], KEY[1:], KEY), (SALT, ITERATIONS - 1, KEY, KEY),
            (SALT, 2**32 - 1, KEY, KEY),
        ):  # fmt: skip
            assert mine.status(Opcode.PASSWORD, *bad) == Status.ERR_BAD_PACKET
        mine.ok(Opcode.PASSWORD, *fields)
        mine.ok(Opcode.BALANCE)
        assert other.status(Opcode.BALANCE) == Status.ERR_UNAUTHORIZED
        assert late.login(name).status == Status.ERR_UNAUTHORIZED
        server.crash()
    with RunningServer(server.data) as server, Lobby(server) as lobby:
        wire = lobby.open()
        wire.hello(name)
        assert wire.login(name).status == Status.ERR_UNAUTHORIZED
        wire.hello(name)
        assert wire.login(name, password=ANOTHER).status == Status.OK
        assert server.stop() == 0


def test_hello_does_not_tell_who_exists_after_the_iterations_have_changed(tmp_path: Path) -> None:
    """Users of before have fewer; so have names that nobody has, as many of them as of these."""
    data = tmp_path / "data"
    with RunningServer(data, "--scram-iterations", "4096") as server, Lobby(server) as lobby:
        for number in range(4):
            wire = lobby.open()
            wire.hello(f"old{number}")
            wire.register(f"old{number}")
        assert server.stop() == 0
    with RunningServer(data, "--scram-iterations", "5000") as server, Lobby(server) as lobby:
        wire = lobby.open()
        told = [wire.hello(f"nobody{n}").body.iterations for n in range(20)]
        assert set(told) == {4096}, "there is nobody who has more"
        assert wire.hello("old1").body.iterations == 4096
        assert wire.hello("").body.iterations == 5000, "of a new password"
        for name, iterations in (("new1", 4096), ("new2", 5000)):  # as answered, and the setting
            wire.hello(name)
            assert wire.register(name, 4097).status == Status.ERR_BAD_PACKET
            assert wire.register(name, iterations).status == Status.OK
            wire.hello(name)
            assert wire.login(name).status == Status.OK
            wire.ok(Opcode.LOGOUT)
        assert server.stop() == 0


ALL = Capability.ENCRYPTION | Capability.COMPRESSION | Capability.PAYMENTS


@pytest.mark.parametrize("capabilities", [0, *Capability, ALL])
def test_hello_answers_the_same_whoever_is_asked_for(lobby: Lobby, capabilities: int) -> None:
    """In every field, but for the salt, which is as stable and as long."""

    def told(name: str) -> tuple[list[object], bytes]:
        with lobby.open() as wire:
            body = wire.hello(name, capabilities=capabilities).body
        fields = body._asdict()
        for fresh in ("server_nonce", "salt", "public_key", "signature"):
            fields[fresh] = len(fields[fresh])
        return [*fields.values()], body.salt

    names = lobby.new_user(), lobby.name(), "x", "n" * 32, ""
    answers = [told(name) for name in names]
    assert all(fields == answers[0][0] for fields, _ in answers)
    assert [told(name)[1] for name in names] == [salt for _, salt in answers]
    assert len({salt for _, salt in answers}) == len(names)


# ---- what HELLO grants and tells


def test_what_hello_tells(start_server: StartServer) -> None:
    flags = ("--heartbeat", "7", "--idle-timeout", "21")
    with Lobby(start_server(*flags)) as lobby:
        body = lobby.open().hello("somebody").body
        assert (body.heartbeat_s, body.idle_timeout_s) == (7, 21)
        assert body.max_body_len >= 65536
        assert body.server_name


@pytest.mark.parametrize("asked", [0, 4, 0xFFFFFFFE & ~1])
def test_hello_grants_no_more_than_was_asked(lobby: Lobby, asked: int) -> None:
    """PAYMENT pushes where they are asked for; bits that nobody knows never."""
    body = lobby.open().hello("somebody", capabilities=asked, nonce=NONCE).body
    assert body.capabilities & ~asked == 0
    assert body.capabilities & ~7 == 0
    assert body.capabilities & 4 == asked & 4
    assert body.public_key == b""
