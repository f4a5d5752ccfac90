"""HELLO, REGISTER and LOGIN: their requests, the SCRAM computations, and what is checked of the
answers. `client.core.login` says in which order they are sent.
"""

import hmac
import secrets
from typing import Any, NamedTuple

from client.core.calls import Call
from client.core.security import OPEN, Security
from client.errors import MisuseError, NotEncrypted, ProtocolViolation
from libproto import scram
from libproto.codec import REQUEST, RESPONSE
from libproto.framing import Decoder
from libproto.messages import (
    IDENTITY_LEN,
    MIN_ITERATIONS,
    NONCE_LEN,
    PUBLIC_KEY_LEN,
    SALT_LEN,
    Capability,
    HelloResponse,
    LoginResponse,
    Opcode,
)
from libproto.wrapping import Unwrapper, Wrapper

_LENGTH = 2  # bytes before those of a field of bytes
MAX_ITERATIONS = 10_000_000
"""Of PBKDF2. A computation that cannot be stopped must not be as long as a server likes."""


class Greeting(NamedTuple):
    """What HELLO gives to the REGISTER and the LOGIN after it."""

    username: str
    answer: HelloResponse
    hello_bodies: bytes
    keys: Any = None
    """The `libproto.sealing.Keys` of the connection; None: it is not encrypted."""


def hello(
    username: str, client_name: str, capabilities: int, security: Security = OPEN
) -> Call[Greeting]:
    """The HELLO that comes before a REGISTER or a LOGIN of this user, with a fresh nonce, and a
    fresh key where encryption is required. The result raises NotEncrypted and IdentityChanged."""
    capabilities |= security.capabilities
    pair = None
    if security.encrypts:
        from libproto.sealing import KeyPair  # it loads slowly, and not every client needs it

        pair = KeyPair()
    nonce = secrets.token_bytes(32)
    fields = (capabilities, client_name, username, nonce, b"" if pair is None else pair.public)

    def result(answered: tuple[Any, ...]) -> Greeting:
        answer = HelloResponse._make(answered)
        if answer.capabilities & ~capabilities:
            raise ProtocolViolation("HELLO granted capabilities that were not asked for")
        if len(answer.server_nonce) not in NONCE_LEN or len(answer.salt) != SALT_LEN:
            raise ProtocolViolation("HELLO answered a nonce or a salt of the wrong length")
        request_body = REQUEST[Opcode.HELLO].encode(*fields)
        response_body = RESPONSE[Opcode.HELLO].encode(*answer)
        keys = None
        if pair is not None:
            _check_identity(answer, request_body, response_body, security)
            keys = _agreed(pair, answer, nonce)
        return Greeting(username, answer, request_body + response_body, keys)

    return Call(Opcode.HELLO, fields, result)


def _check_identity(
    answer: HelloResponse, request_body: bytes, response_body: bytes, security: Security
) -> None:
    from libproto.sealing import fingerprint, is_signed

    if not answer.capabilities & Capability.ENCRYPTION:
        raise NotEncrypted(
            "the server did not grant encryption: it cannot, or somebody in between has taken the "
            "wish for it out; encrypt='off' goes on without it, for everybody on the way to read"
        )
    if len(answer.public_key) != PUBLIC_KEY_LEN or len(answer.identity) != IDENTITY_LEN:
        raise ProtocolViolation("HELLO answered a public key or an identity of the wrong length")
    signed = response_body[: -len(answer.signature) - _LENGTH]
    if not is_signed(answer.identity, request_body, signed, answer.signature):
        raise ProtocolViolation(
            "the signature of HELLO is not that of the identity in it: it was changed on its way"
        )
    security.check(fingerprint(answer.identity))


def _agreed(pair: Any, answer: HelloResponse, nonce: bytes) -> Any:
    from libproto.sealing import WeakKey

    try:
        return pair.agree(answer.public_key, nonce, answer.server_nonce)
    except WeakKey as error:
        raise ProtocolViolation(f"HELLO answered an invalid key: {error}") from error


def agreed_wrapper(greeting: Greeting, decoder: Decoder) -> Wrapper | None:
    """What is sent goes through this from here on, as HELLO has agreed it; None: through nothing.
    The decoder is told of what comes."""
    compresses = bool(greeting.answer.capabilities & Capability.COMPRESSION)
    sealer = opener = None
    if greeting.keys is not None:
        from libproto.sealing import Opener, Sealer

        sealer = Sealer(greeting.keys.client_to_server)
        opener = Opener(greeting.keys.server_to_client)
    if isinstance(decoder, Unwrapper):
        decoder.agree(opener, compresses)
    elif compresses or opener is not None:
        raise MisuseError("the decoder of this client cannot open encrypted frames")
    agreed = compresses or sealer is not None
    return Wrapper(sealer, 0 if compresses else None) if agreed else None


def register(greeting: Greeting, password: str) -> Call[int]:
    """The REGISTER of a password, under a fresh salt; gives the user_id. Slow: it is PBKDF2."""
    _check_iterations(greeting)
    salt = secrets.token_bytes(SALT_LEN)
    verifier = scram.make_verifier(password, salt, greeting.answer.iterations)
    return Call(Opcode.REGISTER, (greeting.username, *verifier), lambda fields: fields[0])


def change(password: str, iterations: int) -> tuple[Call[None], "Keys"]:
    """The PASSWORD of a new password, under a fresh salt, and its keys. Slow: it is PBKDF2."""
    salt = secrets.token_bytes(SALT_LEN)
    salted = scram.salted_password(password, salt, iterations)
    client, server = scram.client_key(salted), scram.server_key(salted)
    fields = salt, iterations, scram.stored_key(client), server
    return Call(Opcode.PASSWORD, fields, lambda _: None), Keys(salt, iterations, client, server)


class Keys(NamedTuple):
    """What proves a password, and the server's knowledge of it, under one salt."""

    salt: bytes
    iterations: int
    client_key: bytes
    server_key: bytes


def derive(greeting: Greeting, password: str) -> Keys:
    """The keys of a password under the salt of a HELLO. Slow: it is PBKDF2."""
    _check_iterations(greeting)
    salt, iterations = greeting.answer.salt, greeting.answer.iterations
    salted = scram.salted_password(password, salt, iterations)
    return Keys(salt, iterations, scram.client_key(salted), scram.server_key(salted))


def login(greeting: Greeting, keys: Keys, client_id: int, next_req_id: int) -> Call[LoginResponse]:
    """The LOGIN that proves the password and checks the server's own proof.

    next_req_id: greater than every req_id of a numbered request under this client_id so far.
    """
    message = scram.auth_message(greeting.hello_bodies, greeting.username, client_id, next_req_id)
    proof = scram.client_proof(keys.client_key, message)
    signature = scram.server_signature(keys.server_key, message)

    def result(answered: tuple[Any, ...]) -> LoginResponse:
        response = LoginResponse._make(answered)
        if not hmac.compare_digest(response.server_signature, signature):
            raise ProtocolViolation(
                "the server's signature is wrong: it does not know this user's key, so it is not "
                "the server that the user registered with"
            )
        return response

    fields = (greeting.username, proof, client_id, next_req_id)
    return Call(Opcode.LOGIN, fields, result)


def _check_iterations(greeting: Greeting) -> None:
    if not MIN_ITERATIONS <= greeting.answer.iterations <= MAX_ITERATIONS:
        raise ProtocolViolation(
            f"the server asks for {greeting.answer.iterations} iterations of PBKDF2, allowed are "
            f"{MIN_ITERATIONS} to {MAX_ITERATIONS}"
        )
