"""What an encrypted connection is made of: keys for the two of it, sealed frames, the identity.

Each side draws an X25519 key for the one connection (`KeyPair`), and HELLO carries the public
halves. What both make of them are two keys of AES-256-GCM, one for each direction. A frame is
sealed with the key and a counter of its direction, so that one which is altered, repeated, left out
or moved does not open. The first 22 bytes of the header are sealed with it, the rest is covered by
that: the checksum follows from all else, and the reserved bytes are 0.

A server has one Ed25519 key for all its life, its identity. It signs both HELLO bodies, so that
whoever knows the identity knows who has made the other key of the connection.

Keys are in `bytearray`s that are overwritten as soon as the cipher has them, and the cipher
overwrites its own when it is let go of (`close`). Out of reach are the shared secret, which
`cryptography` gives as `bytes` and which is freed without that, and what it computes in between.

This module takes a while to load: what needs it on some connections only imports it there.
"""

import base64
import hashlib
from struct import Struct
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from libproto.errors import MisuseError
from libproto.messages import IDENTITY_LEN, PUBLIC_KEY_LEN, SIGNATURE_LEN

SIGNED: Final = b"tradechat v1 hello"
FINGERPRINT: Final = "SHA256:"

_INFO: Final = b"tradechat v1"
_AES_KEY_LEN: Final = 32
_COUNTER: Final = Struct(">4xQ")


class WeakKey(ValueError):
    """A public key of low order: whoever sent it would know the shared secret without a key."""


class Keys(NamedTuple):
    """Of one connection. To be given to a `Sealer` and an `Opener`, which overwrite them."""

    client_to_server: bytearray
    server_to_client: bytearray


class KeyPair:
    """The X25519 key of one side of one connection."""

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes | None = None) -> None:
        """private: drawn where it is not given, as it is by tests alone."""
        self._private: X25519PrivateKey | None = (
            X25519PrivateKey.generate()
            if private is None
            else X25519PrivateKey.from_private_bytes(private)
        )
        self.public: Final = self._private.public_key().public_bytes_raw()

    def agree(self, public: bytes, client_nonce: bytes, server_nonce: bytes) -> Keys:
        """The keys of the connection, with the other side's public key; once. WeakKey."""
        if len(public) != PUBLIC_KEY_LEN:
            raise MisuseError(f"a public key of {len(public)} bytes: it has {PUBLIC_KEY_LEN}")
        private, self._private = self._private, None
        if private is None:
            raise MisuseError("a key pair is for one connection")
        try:
            secret = private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise WeakKey("the public key is of low order") from error
        both = bytearray(2 * _AES_KEY_LEN)
        HKDF(SHA256(), len(both), client_nonce + server_nonce, _INFO).derive_into(secret, both)
        keys = Keys(both[:_AES_KEY_LEN], both[_AES_KEY_LEN:])
        wipe(both)
        return keys


def wipe(key: bytearray) -> None:
    """Overwrite a key."""
    key[:] = bytes(len(key))


class _Direction:
    """One direction of a connection: its key, and how many frames have gone."""

    __slots__ = ("_cipher", "count")

    def __init__(self, key: bytearray) -> None:
        """key: overwritten, as the cipher has it now."""
        self._cipher: AESGCM | None = AESGCM(key)
        self.count = 0
        wipe(key)

    def close(self) -> None:
        """Let go of the key: nothing is sealed or opened with it any more."""
        self._cipher = None


class Sealer(_Direction):
    """Seals what one side sends."""

    __slots__ = ()

    def seal(self, head: bytes, body: bytes) -> bytes:
        """The sealed body of the next frame. head: the first 22 bytes of its header, as they are
        sent. MisuseError: it was closed."""
        if self._cipher is None:
            raise MisuseError("the keys of this connection are gone")
        count = self.count
        sealed = self._cipher.encrypt(_COUNTER.pack(count), body, head)
        self.count = count + 1
        return sealed


class Opener(_Direction):
    """Opens what the other side has sealed."""

    __slots__ = ()

    def open(self, head: bytes, sealed: bytes) -> bytes | None:
        """The body of the next frame, or None where it does not open."""
        count = self.count
        self.count = count + 1
        if self._cipher is None:
            return None
        try:
            return self._cipher.decrypt(_COUNTER.pack(count), sealed, head)
        except InvalidTag:
            return None

    def skip(self) -> None:
        """A frame came that is not to be opened: it counts all the same."""
        self.count += 1


class ServerKey:
    """The identity of a server, with its private key."""

    __slots__ = ("_private", "identity")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.identity: Final = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "ServerKey":
        """A new one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, text: bytes) -> "ServerKey":
        """What `to_pem` gave. ValueError."""
        try:
            private = serialization.load_pem_private_key(text, None)
        except (ValueError, TypeError) as error:
            raise ValueError("it is not a private key in PEM without a password") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("it is not a key of Ed25519")
        return cls(private)

    def to_pem(self) -> bytes:
        """The private key, for a file that nobody else can read."""
        return self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, request_body: bytes, response_body: bytes) -> bytes:
        """The signature of a HELLO. response_body: up to and with its `identity`."""
        return self._private.sign(SIGNED + request_body + response_body)


def is_signed(identity: bytes, request_body: bytes, response_body: bytes, signature: bytes) -> bool:
    """Did the server of that identity sign this HELLO? response_body: up to and with `identity`."""
    if len(identity) != IDENTITY_LEN or len(signature) != SIGNATURE_LEN:
        return False
    try:
        key = Ed25519PublicKey.from_public_bytes(identity)
        key.verify(signature, SIGNED + request_body + response_body)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(identity: bytes) -> str:
    """What people compare: "SHA256:" and 43 characters of base64, those of URLs."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(identity).digest())
    return FINGERPRINT + digest.decode().rstrip("=")
