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
from libproto.framing import Decoder
from libproto.messages import SALT_LEN, Capability, HelloResponse, Opcode
from libproto.sealing import KeyPair, Opener, Sealer
from libproto.wrapping import Unwrapper, Wrapper

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
    pair: KeyPair | None = None  # None: encryption is not asked for

    def agree(self, answer: HelloResponse, decoder: Decoder) -> Wrapper | None:
        """What follows from the answer for what is sent, and for the decoder. Who the server is, is
        not looked at: it is the one under test. ValueError: it did not agree."""
        if self.pair is None:
            return None
        if not answer.capabilities & Capability.ENCRYPTION or not isinstance(decoder, Unwrapper):
            raise ValueError("the server does not encrypt")
        keys = self.pair.agree(answer.public_key, self.fields[3], answer.server_nonce)
        decoder.agree(Opener(keys.server_to_client), False)
        return Wrapper(Sealer(keys.client_to_server))

    def login(self, body: bytes, answer: HelloResponse, client_id: int, next_req_id: int) -> Fields:
        """The fields of the LOGIN. body: that of the HELLO's answer. next_req_id: greater than
        every req_id of a numbered request under this client_id so far."""
        client = client_id, next_req_id
        hello = REQUEST[Opcode.HELLO].encode(*self.fields) + body
        message = scram.auth_message(hello, self.username, *client)
        proof = scram.client_proof(_client_key(answer.salt, answer.iterations), message)
        return self.username, proof, *client


def greet(username: str, *, encrypts: bool = False) -> Greeting:
    """The HELLO before a LOGIN of this user; "" is before a REGISTER."""
    nonce = os.urandom(_NONCE_LEN)
    if not encrypts:
        return Greeting(username, (0, _CLIENT_NAME, username, nonce, b""))
    pair = KeyPair()
    asked = int(Capability.ENCRYPTION)
    return Greeting(username, (asked, _CLIENT_NAME, username, nonce, pair.public), pair)


def decoder(*, encrypts: bool = False) -> Decoder:
    """Of a connection that is to be greeted so."""
    made = Decoder(MAX_BODY_LEN)
    return Unwrapper(made, None, False) if encrypts else made
