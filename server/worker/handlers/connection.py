"""HELLO, REGISTER, LOGIN, LOGOUT, HEARTBEAT: who somebody is."""

import hmac
import os
from typing import Any

from libproto import scram, words
from libproto.codec import REQUEST, RESPONSE
from libproto.errors import Status
from libproto.framing import Decoder, assemble
from libproto.messages import (
    KEY_LEN,
    NONCE_LEN,
    PUBLIC_KEY_LEN,
    SALT_LEN,
    USERNAME_PATTERN,
    Capability,
    Flag,
    Opcode,
    State,
)
from libproto.sealing import KeyPair, WeakKey
from libproto.texts import CLIENT_NAME_MAX, may_be_registered, may_be_shown
from server import __version__
from server.core.errors import ClientTaken, GivenAway, NameTaken
from server.worker.connection import MAX_BODY_LEN, Connection, Greeting
from server.worker.refusal import Refused
from server.worker.requests import Decode, Handler, Hot, Request
from server.worker.services import Services

_hello_request = REQUEST[Opcode.HELLO].encode
_hello_response = RESPONSE[Opcode.HELLO].encode
_register_response = RESPONSE[Opcode.REGISTER].frame
_password_response = RESPONSE[Opcode.PASSWORD].frame
_login_response = RESPONSE[Opcode.LOGIN].frame
_logout_response = RESPONSE[Opcode.LOGOUT].frame

_ENCRYPTION, _COMPRESSION = int(Capability.ENCRYPTION), int(Capability.COMPRESSION)
CAPABILITIES = _ENCRYPTION | _COMPRESSION | int(Capability.PAYMENTS)  # that are granted
SERVER_NAME = f"tradechat/{__version__}"
_NONCE_SIZE = 32
ITERATIONS_MAX = 10_000_000  # of a verifier
_EMPTY_LEN = 2  # bytes of a field of bytes that is empty
_RESPONSE = int(Flag.RESPONSE)
_HEARTBEAT = int(Opcode.HEARTBEAT)


CLEAR_REFUSED = (
    "this server takes encrypted connections only: ask for encryption in HELLO (tradechat-cli "
    "--encrypt require)"
)


def _bad(detail: str) -> Refused:
    return Refused(Status.ERR_BAD_PACKET, detail, bad_input=True)


def _refused_clear(services: Services, detail: str) -> Refused:
    services.counters.count("refused_clear")
    return Refused(Status.ERR_UNAUTHORIZED, detail)


def hello(
    services: Services,
    connection: Connection,
    req_id: int,
    flags: int,
    capabilities: int,
    client_name: str,
    username: str,
    client_nonce: bytes,
    public_key: bytes,
) -> None:
    del flags
    if connection.sealed:
        raise Refused(Status.ERR_BAD_PACKET, "an encrypted connection has one HELLO: connect anew")
    if username and not USERNAME_PATTERN.match(username):
        raise _bad("the username is not valid")
    if len(client_nonce) not in NONCE_LEN:
        raise _bad("the nonce is not of 16 to 64 bytes")
    encrypts = bool(capabilities & _ENCRYPTION)
    if len(public_key) != (PUBLIC_KEY_LEN if encrypts else 0):
        raise _bad("the public key has the wrong length")
    if len(client_name.encode()) > CLIENT_NAME_MAX or not may_be_shown(client_name):
        raise _bad("the client_name is too long, or not a text to be shown")
    settings, users = services.settings, services.state.users
    if not encrypts and settings.require_encryption == "on":
        raise _refused_clear(services, CLEAR_REFUSED)
    nonce, ours, keys = os.urandom(_NONCE_SIZE), b"", None
    if encrypts:
        pair = KeyPair()
        ours = pair.public
        try:
            keys = pair.agree(public_key, client_nonce, nonce)
        except WeakKey as error:
            raise _bad("the public key is of low order") from error
    user = users.find(username) if username else 0
    if user:
        verifier, _ = users.verifier(user)
        salt, iterations = verifier.salt, verifier.iterations
    else:
        salt = hmac.digest(users.salt_secret(), username.encode(), "sha256")[:SALT_LEN]
        iterations = (
            services.unknown.iterations(username) if username else (settings.scram_iterations)
        )
    granted = capabilities & CAPABILITIES
    identity = services.key.identity if encrypts else b""
    fields = (
        granted,
        SERVER_NAME,
        MAX_BODY_LEN,
        settings.heartbeat,
        settings.idle_timeout,
        nonce,
        salt,
        iterations,
        ours,
        identity,
    )
    request = _hello_request(capabilities, client_name, username, client_nonce, public_key)
    body = _hello_response(*fields, b"")
    if encrypts:
        signature = services.key.sign(request, body[:-_EMPTY_LEN])
        body = _hello_response(*fields, signature)
    connection.greeting = Greeting(username, request + body, iterations)
    connection.capabilities = granted
    connection.enter(State.GREETED)
    answer = assemble(Opcode.HELLO, req_id, _RESPONSE, Status.OK, body)
    connection.greet(answer, keys, compressed=bool(granted & _COMPRESSION))


def register(
    services: Services,
    connection: Connection,
    req_id: int,
    flags: int,
    username: str,
    salt: bytes,
    iterations: int,
    stored_key: bytes,
    server_key: bytes,
) -> bytes | None:
    del flags
    if not connection.is_private:
        raise _refused_clear(
            services,
            "REGISTER needs an encrypted connection where it comes from another machine: who "
            "listens in could log in with what it holds",
        )
    if not may_be_registered(username):
        raise Refused(Status.ERR_BAD_PACKET, "the username is not valid, or reserved")
    if len(salt) != SALT_LEN or len(stored_key) != KEY_LEN or len(server_key) != KEY_LEN:
        raise Refused(Status.ERR_BAD_PACKET, "salt or keys have the wrong length")
    # A name that nobody has is answered as users of before are, who may have fewer.
    answered = connection.greeting.iterations if connection.greeting else 0
    if iterations not in (answered, services.settings.scram_iterations):
        raise Refused(Status.ERR_BAD_PACKET, "the iterations are not those that HELLO answered")
    if services.settings.registration != "open":
        raise Refused(Status.ERR_UNAUTHORIZED, "registration is closed")
    services.rates.check_registration(connection.peer)
    verifier = scram.Verifier(salt, iterations, stored_key, server_key)
    try:
        user = services.state.users.register(username, verifier, connection.now)
    except NameTaken as error:
        raise Refused(error.status, str(error), after_txn=services.state.log.head()) from error
    services.audit.write("register", "done", user=username, peer=connection.peer, user_id=user)
    answer = _register_response(req_id, 0, user)
    # Nobody logs in, or is looked up, who might not be there after a power cut.
    head = services.state.log.head()
    return connection.resume_when_durable(head, Opcode.REGISTER, req_id, lambda: answer)


def password(
    services: Services,
    connection: Connection,
    req_id: int,
    flags: int,
    salt: bytes,
    iterations: int,
    stored_key: bytes,
    server_key: bytes,
) -> bytes | None:
    del flags
    session = connection.live_session()
    if not connection.is_private:
        raise _refused_clear(
            services,
            "PASSWORD needs an encrypted connection where it comes from another machine: who "
            "listens in could log in with what it holds",
        )
    if len(salt) != SALT_LEN or len(stored_key) != KEY_LEN or len(server_key) != KEY_LEN:
        raise Refused(Status.ERR_BAD_PACKET, "salt or keys have the wrong length")
    least = services.settings.scram_iterations
    if not least <= iterations <= ITERATIONS_MAX:
        detail = f"the iterations are {least} to {ITERATIONS_MAX}, not {iterations}"
        raise Refused(Status.ERR_BAD_PACKET, detail)
    verifier = scram.Verifier(salt, iterations, stored_key, server_key)
    done = services.state.operators.set_verifier(session.user, verifier, connection.now, by=session)
    services.subscriptions.wake(done.touched)
    services.audit.write(
        "password", "done", user=session.name, peer=connection.peer, txn_id=done.txn
    )
    answer = _password_response(req_id, 0)
    return services.durable.when_durable(connection, done.txn, answer)


def login(
    services: Services,
    connection: Connection,
    req_id: int,
    flags: int,
    username: str,
    proof: bytes,
    client_id: int,
    next_req_id: int,
) -> bytes | None:
    """A guesser waits before it is looked at, whatever it is: see guesses.py."""
    del flags
    greeting, connection.greeting = connection.greeting, None  # a nonce is good for one LOGIN
    wait = services.guesses.wait_us(username, connection.peer)
    if wait < 0:
        detail = "too many logins have failed: try again later"
        raise Refused(Status.ERR_SERVER_BUSY, detail, -wait // 1000 + 1)
    if not wait:
        return _login(
            services, connection, req_id, greeting, username, proof, client_id, next_req_id
        )
    return connection.resume_after(
        wait / 1e6,
        Opcode.LOGIN,
        req_id,
        lambda: _login(
            services, connection, req_id, greeting, username, proof, client_id, next_req_id
        ),
    )


def _login(
    services: Services,
    connection: Connection,
    req_id: int,
    greeting: Greeting | None,
    username: str,
    proof: bytes,
    client_id: int,
    next_req_id: int,
) -> bytes | None:
    users = services.state.users
    user = users.find(username) if USERNAME_PATTERN.match(username) else 0
    verifier, version = users.verifier(user) if user else (services.nobody, 0)
    valid = False
    if greeting is not None:
        message = scram.auth_message(greeting.hello_bodies, username, client_id, next_req_id)
        proved = scram.proof_is_valid(verifier.stored_key, message, proof)
        valid = proved and user != 0 and greeting.username == username
    if not valid:
        services.guesses.failed(username, connection.peer)
        services.audit.write("login", "wrong", user=username, peer=connection.peer)
        raise Refused(Status.ERR_UNAUTHORIZED, "wrong username or password")
    if not next_req_id:
        raise Refused(Status.ERR_BAD_PACKET, "next_req_id is 0: it is 1 for a new client")
    signature = scram.server_signature(verifier.server_key, message)
    sessions, log = services.state.sessions, services.state.log

    def begin() -> bytes | None:
        try:
            new = client_id != 0 and sessions.introduce(
                user, client_id, next_req_id, connection.now, version
            )
        except ClientTaken as error:
            raise _taken(services, error) from error
        # That there is this user, and this client, must be durable before anybody can rely on it.
        return connection.resume_when_durable(log.head(), Opcode.LOGIN, req_id, lambda: enter(new))

    def enter(new: bool) -> bytes | None:
        try:
            session, touched = sessions.login(
                user,
                username,
                client_id,
                next_req_id,
                connection.capabilities,
                connection.now,
                introduced=True,
                version=version,
            )
        except GivenAway:
            return begin()
        except ClientTaken as error:
            raise _taken(services, error) from error
        connection.begin_session(session)
        services.audit.write(
            "login", "done", user=username, peer=connection.peer, session=session.id
        )
        services.subscriptions.wake(touched)
        resumed = client_id != 0 and not new
        return _login_response(req_id, 0, user, session.id, resumed, services.log_id, signature)

    return begin()


def _taken(services: Services, error: ClientTaken) -> Refused:
    """Its answer shows what was executed under the client_id: that must be durable."""
    return Refused(error.status, str(error), after_txn=services.state.log.head())


def logout(services: Services, connection: Connection, req_id: int, flags: int) -> bytes:
    del services, flags
    connection.live_session()
    connection.end_session()
    if connection.sealed:
        connection.last()
    return _logout_response(req_id, 0)


class Heartbeat(Request):
    """HEARTBEAT: the clocks of both sides."""

    __slots__ = ()

    def __init__(self, record: int, decode: Decode, services: Services) -> None:
        del services
        Request.__init__(self, record, decode)

    def serve(self, connection: Any, frame: Decoder) -> bytes | None:
        mine: Connection = connection
        client_time = words.word(_HEARTBEAT, frame.buf, frame.start, frame.end)
        return words.pair(_HEARTBEAT, frame.req_id, 0, client_time, mine.now)


HANDLERS: dict[Opcode, Handler] = {
    Opcode.HELLO: hello,
    Opcode.REGISTER: register,
    Opcode.PASSWORD: password,
    Opcode.LOGIN: login,
    Opcode.LOGOUT: logout,
}
HOT: dict[Opcode, Hot] = {Opcode.HEARTBEAT: Heartbeat}
