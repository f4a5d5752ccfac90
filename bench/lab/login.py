"""How a connection of bench begins: HELLO, then REGISTER or LOGIN; without I/O.

All users of bench have one password, so that setting up a thousand of them does not cost a thousand
PBKDF2.
"""

import functools
import os
from typing import Any, Final, NamedTuple

from client.core.session import OTHER_REQ_IDS as OTHER_REQ_IDS
from libproto import scram
from libproto.codec import REQUEST
from libproto.messages import SALT_LEN, HelloResponse, Opcode

MAX_BODY_LEN: Final = 1 << 20  # bytes, of a frame
_CLIENT_NAME: Final = "tradechat-bench"
_PASSWORD: Final = "benchmark"  # noqa: S105 - of accounts that live as long as a run
_NONCE_LEN: Final = 16

Fields = tuple[Any, ...]


@functools.cache
def _client_key(salt: bytes, iterations: int) -> bytes:
    return scram.client_key(scram.salted_password(_PASSWORD, salt, iterations))


@functools.cache
def verifier(iterations: int) -> scram.Verifier:
    """What every user is registered with."""
    return scram.make_verifier(_PASSWORD, os.urandom(SALT_LEN), iterations)


class Greeting(NamedTuple):
    """The fields of a HELLO request, and what follows from its answer."""

    username: str
    fields: Fields

    def login(self, body: bytes, answer: HelloResponse, client_id: int, next_req_id: int) -> Fields:
        """The fields of the LOGIN. body: that of the HELLO's answer. next_req_id: greater than
        every req_id of a numbered request under this client_id so far."""
        client = client_id, next_req_id
        hello = REQUEST[Opcode.HELLO].encode(*self.fields) + body
        message = scram.auth_message(hello, self.username, *client)
        proof = scram.client_proof(_client_key(answer.salt, answer.iterations), message)
        return self.username, proof, *client


def greet(username: str) -> Greeting:
    """The HELLO before a LOGIN of this user; "" is before a REGISTER."""
    return Greeting(username, (0, _CLIENT_NAME, username, os.urandom(_NONCE_LEN), b""))
