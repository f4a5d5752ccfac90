"""Keys, sealed bodies and the identity: against vectors that another implementation made."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from libproto import sealing, wire
from libproto.codec import REQUEST, RESPONSE
from libproto.errors import MisuseError
from libproto.framing import PREFIX
from libproto.messages import SEAL_LEN, Flag, HelloRequest, HelloResponse, Opcode
from libproto.sealing import KeyPair, Opener, Sealer, ServerKey, WeakKey, fingerprint, is_signed
from tests.libproto.vectors import ENCRYPTION

LOW_ORDER = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
"""Every point of low order on the curve, and those that are the same modulo its prime."""


def of(name: str) -> bytes:
    return bytes.fromhex(ENCRYPTION[name])


def keys(side: str = "client") -> sealing.Keys:
    other = {"client": "server", "server": "client"}[side]
    pair = KeyPair(of(f"{side}_private"))
    assert pair.public == of(f"{side}_public")
    return pair.agree(of(f"{other}_public"), of("client_nonce"), of("server_nonce"))


def head(body_len: int) -> bytes:
    word = PREFIX | Flag.ENCRYPTED
    return wire.head(
        word, body_len, ENCRYPTION["opcode"], ENCRYPTION["status"], ENCRYPTION["req_id"]
    )


def test_both_sides_make_the_keys_of_the_vector() -> None:
    for side in ("client", "server"):
        made = keys(side)
        assert made.client_to_server == of("client_to_server_key")
        assert made.server_to_client == of("server_to_client_key")


def test_frames_are_sealed_as_in_the_vector() -> None:
    plaintext = of("plaintext")
    ours = head(len(plaintext) + SEAL_LEN)
    assert of("frame_counter_0").startswith(ours)
    sealer, opener = Sealer(keys().client_to_server), Opener(keys("server").client_to_server)
    for number in (0, 1):
        sealed = of(f"ciphertext_counter_{number}")
        assert sealer.seal(ours, plaintext) == sealed
        assert opener.open(ours, sealed) == plaintext


def test_no_two_frames_of_a_connection_are_sealed_with_one_nonce() -> None:
    raw = bytes(of("client_to_server_key"))
    sealer = Sealer(bytearray(raw))
    ours = head(SEAL_LEN)
    for number in range(300):
        sealed = sealer.seal(ours, b"")
        AESGCM(raw).decrypt(bytes(4) + number.to_bytes(8, "big"), sealed, ours)
        with pytest.raises(InvalidTag):
            AESGCM(raw).decrypt(bytes(4) + (number + 1).to_bytes(8, "big"), sealed, ours)


def test_the_directions_have_a_key_each() -> None:
    made = keys()
    assert made.client_to_server != made.server_to_client
    sealed = Sealer(made.client_to_server).seal(head(SEAL_LEN), b"")
    assert Opener(made.server_to_client).open(head(SEAL_LEN), sealed) is None


@given(st.binary(max_size=200), st.integers(0, 22 * 8 - 1), st.data())
def test_a_bit_that_was_changed_anywhere_does_not_open(
    body: bytes, header_bit: int, data: st.DataObject
) -> None:
    raw = bytes(of("client_to_server_key"))
    ours = head(len(body) + SEAL_LEN)
    sealed = Sealer(bytearray(raw)).seal(ours, body)
    assert len(sealed) == len(body) + SEAL_LEN
    assert Opener(bytearray(raw)).open(ours, sealed) == body
    assert Opener(bytearray(raw)).open(flipped(ours, header_bit), sealed) is None
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    assert Opener(bytearray(raw)).open(ours, flipped(sealed, bit)) is None


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(st.integers(0, SEAL_LEN))
def test_a_tag_that_was_cut_does_not_open(kept: int) -> None:
    raw = bytes(of("client_to_server_key"))
    sealed = Sealer(bytearray(raw)).seal(head(SEAL_LEN), b"")
    opened = Opener(bytearray(raw)).open(head(SEAL_LEN), sealed[:kept])
    assert opened == (b"" if kept == SEAL_LEN else None)


def test_replayed_and_reordered_frames_do_not_open_and_count_all_the_same() -> None:
    raw = bytes(of("client_to_server_key"))
    sealer, opener = Sealer(bytearray(raw)), Opener(bytearray(raw))
    first, second, third, fourth = (sealer.seal(head(SEAL_LEN), b"") for _ in range(4))
    assert opener.open(head(SEAL_LEN), first) == b""
    assert opener.open(head(SEAL_LEN), first) is None, "replayed"
    assert opener.open(head(SEAL_LEN), second) is None, "late"
    assert opener.open(head(SEAL_LEN), fourth) == b""
    assert opener.open(head(SEAL_LEN), third) is None
    assert opener.count == 5


@pytest.mark.parametrize("public", LOW_ORDER, ids=lambda public: public.hex()[:8])
def test_a_key_of_low_order_is_refused(public: bytes) -> None:
    with pytest.raises(WeakKey):
        KeyPair().agree(public, bytes(16), bytes(16))


def test_a_key_pair_is_for_one_connection_and_another_length_is_refused() -> None:
    pair, other = KeyPair(), KeyPair()
    with pytest.raises(MisuseError):
        pair.agree(other.public[:31], bytes(16), bytes(16))
    pair.agree(other.public, bytes(16), bytes(16))
    with pytest.raises(MisuseError):
        pair.agree(other.public, bytes(16), bytes(16))


def test_fresh_pairs_differ() -> None:
    assert len({KeyPair().public for _ in range(50)}) == 50


def test_keys_are_overwritten_and_a_direction_that_was_closed_does_nothing() -> None:
    made = keys()
    sealer, opener = Sealer(made.client_to_server), Opener(made.server_to_client)
    assert not any(made.client_to_server)
    assert not any(made.server_to_client)
    sealer.close()
    opener.close()
    with pytest.raises(MisuseError):
        sealer.seal(head(SEAL_LEN), b"")
    other = Sealer(keys().server_to_client).seal(head(SEAL_LEN), b"")
    assert opener.open(head(SEAL_LEN), other) is None


def test_the_hello_of_the_vector_is_signed() -> None:
    key = ServerKey(Ed25519PrivateKey.from_private_bytes(of("identity_private")))
    assert key.identity == of("identity")
    request, response = of("hello_request"), of("hello_response")
    fields = RESPONSE[Opcode.HELLO].decode(response, 0, len(response))
    answer = HelloResponse._make(fields)
    unsigned = RESPONSE[Opcode.HELLO].encode(*fields[:-1], b"")[:-2]
    assert answer.signature == of("identity_signature") == key.sign(request, unsigned)
    assert answer.identity == key.identity
    assert answer.public_key == of("server_public")
    asked = HelloRequest._make(REQUEST[Opcode.HELLO].decode(request, 0, len(request)))
    assert asked.public_key == of("client_public")
    assert is_signed(key.identity, request, unsigned, answer.signature)


@given(st.data())
def test_a_hello_that_was_changed_is_not_signed(data: st.DataObject) -> None:
    request, response = of("hello_request"), of("hello_response")[:-66]
    identity, signature = of("identity"), of("identity_signature")
    parts = [identity, request, response, signature]
    which = data.draw(st.integers(0, 3))
    parts[which] = flipped(parts[which], data.draw(st.integers(0, 8 * len(parts[which]) - 1)))
    assert is_signed(identity, request, response, signature)
    assert not is_signed(*parts)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_no_signature_and_no_identity_are_no_signed_hello(length: int) -> None:
    request, response = of("hello_request"), of("hello_response")[:-66]
    assert not is_signed(of("identity"), request, response, b"")
    assert not is_signed(bytes(length), request, response, of("identity_signature"))


def test_an_identity_is_kept_as_pem() -> None:
    key = ServerKey.generate()
    again = ServerKey.from_pem(key.to_pem())
    assert again.identity == key.identity
    assert is_signed(key.identity, b"a", b"b", again.sign(b"a", b"b"))
    for wrong in (b"", b"-----BEGIN PRIVATE KEY-----\n", key.to_pem()[:-40]):
        with pytest.raises(ValueError, match="PEM"):
            ServerKey.from_pem(wrong)


def test_a_fingerprint_is_short_and_of_one_identity() -> None:
    one, other = ServerKey.generate(), ServerKey.generate()
    assert fingerprint(one.identity) != fingerprint(other.identity)
    assert fingerprint(of("identity")) == "SHA256:nLJGP58hf_R5eo0CaIVWud4xWLa5Z274nGj7l9Mfclk"


HOLDER = """
import gc, sys
from libproto.sealing import KeyPair, Opener, Sealer
private, public, client_nonce, server_nonce = map(bytes.fromhex, sys.argv[1:])
keys = KeyPair(private).agree(public, client_nonce, server_nonce)
pair = [Sealer(keys.client_to_server), Opener(keys.server_to_client)]
sealed = pair[0].seal(bytes(22), b"body")
pair[1].open(bytes(22), sealed)
print("open", flush=True)
sys.stdin.readline()
for each in pair:
    each.close()
del keys, pair, each
gc.collect()
print("closed", flush=True)
sys.stdin.readline()
"""


def times_in_memory(pid: int, *secrets: bytes) -> int:
    """How often they are anywhere in the memory of a process that can be written."""
    found = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in where.split("-"))
            memory.seek(start)
            try:
                data = memory.read(end - start)
            except OSError:  # a page of the kernel's
                continue
            found += sum(data.count(secret) for secret in secrets)
    return found


def test_the_keys_of_a_connection_are_nowhere_in_memory_after_its_end() -> None:
    """The child is not told them, so what is found there it has made; both directions are wiped."""
    words = ["client_private", "server_public", "client_nonce", "server_nonce"]
    secrets = of("client_to_server_key"), of("server_to_client_key")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, *(ENCRYPTION[word] for word in words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        assert times_in_memory(child.pid, *secrets) >= 2, "where ciphers have them, they are found"
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "closed\n"
        assert times_in_memory(child.pid, *secrets) == 0
        child.stdin.write("\n")
