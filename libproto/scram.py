"""The SCRAM-SHA-256 computations (RFC 5802 section 3, RFC 7677), carried by HELLO and LOGIN.

The server keeps a `Verifier`, never the password: who reads it cannot log in with it, and a proof
that was overheard is worth nothing under the next nonce. The password is taken as its UTF-8 bytes,
with no normalisation. Keys, proofs and signatures are 32 bytes each.
"""

import hashlib
import hmac
from struct import Struct
from typing import Final, NamedTuple

from libproto.errors import MisuseError
from libproto.messages import KEY_LEN, MIN_ITERATIONS, SALT_LEN

_CLIENT = Struct(">2Q")


NEW_ITERATIONS: Final = 220_000
"""Of PBKDF2, for a new password where nothing says otherwise: about 50 ms of a core of today."""


class Verifier(NamedTuple):
    """What the server keeps of a user's password."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


def salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    """SaltedPassword: PBKDF2 with HMAC-SHA-256; slow on purpose, in proportion to `iterations`.

    MisuseError below MIN_ITERATIONS: a client must not let a server talk it into a weak hash.
    """
    if iterations < MIN_ITERATIONS:
        raise MisuseError(f"{iterations} iterations: at least {MIN_ITERATIONS} are needed")
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations, KEY_LEN)


def client_key(salted: bytes) -> bytes:
    """ClientKey of a SaltedPassword."""
    return hmac.digest(salted, b"Client Key", "sha256")


def stored_key(client: bytes) -> bytes:
    """StoredKey of a ClientKey."""
    return hashlib.sha256(client).digest()


def server_key(salted: bytes) -> bytes:
    """ServerKey of a SaltedPassword."""
    return hmac.digest(salted, b"Server Key", "sha256")


def make_verifier(password: str, salt: bytes, iterations: int) -> Verifier:
    """What a REGISTER carries. MisuseError if the salt or the iterations are not as required."""
    if len(salt) != SALT_LEN:
        raise MisuseError(f"a salt of {len(salt)} bytes: it has {SALT_LEN}")
    salted = salted_password(password, salt, iterations)
    return Verifier(salt, iterations, stored_key(client_key(salted)), server_key(salted))


def auth_message(hello_bodies: bytes, username: str, client_id: int, next_req_id: int) -> bytes:
    """AuthMessage: both HELLO bodies as transmitted (the request's, then the response's), and the
    username, client_id and next_req_id of the LOGIN."""
    return hello_bodies + username.encode() + _CLIENT.pack(client_id, next_req_id)


def client_proof(client: bytes, message: bytes) -> bytes:
    """The proof that a ClientKey's owner sends in LOGIN, for an AuthMessage."""
    return _xor(client, hmac.digest(stored_key(client), message, "sha256"))


def proof_is_valid(stored: bytes, message: bytes, proof: bytes) -> bool:
    """Whether a proof was made with the ClientKey behind a StoredKey; compares in constant time."""
    if len(proof) != KEY_LEN:
        return False
    client = _xor(proof, hmac.digest(stored, message, "sha256"))
    return hmac.compare_digest(stored_key(client), stored)


def server_signature(server: bytes, message: bytes) -> bytes:
    """What proves to the client that the server holds its ServerKey, for an AuthMessage."""
    return hmac.digest(server, message, "sha256")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
