"""The proofs: the project's vector, the example of RFC 7677, and what must not verify."""

from base64 import b64decode

import pytest

from libproto import scram
from libproto.errors import MisuseError
from tests.libproto.vectors import SCRAM

PASSWORD: str = SCRAM["password"]
SALT = bytes.fromhex(SCRAM["salt"])
ITERATIONS: int = SCRAM["iterations"]
MESSAGE = scram.auth_message(
    bytes.fromhex(SCRAM["hello_request"]) + bytes.fromhex(SCRAM["hello_response"]),
    SCRAM["username"],
    SCRAM["client_id"],
    SCRAM["next_req_id"],
)


def test_vector() -> None:
    salted = scram.salted_password(PASSWORD, SALT, ITERATIONS)
    client_key = scram.client_key(salted)
    assert client_key.hex() == SCRAM["client_key"]
    stored_key = scram.stored_key(client_key)
    assert stored_key.hex() == SCRAM["stored_key"]
    server_key = scram.server_key(salted)
    assert server_key.hex() == SCRAM["server_key"]
    proof = scram.client_proof(client_key, MESSAGE)
    assert proof.hex() == SCRAM["client_proof"]
    assert scram.proof_is_valid(stored_key, MESSAGE, proof)
    assert scram.server_signature(server_key, MESSAGE).hex() == SCRAM["server_signature"]


def test_verifier_of_the_vector() -> None:
    verifier = scram.make_verifier(PASSWORD, SALT, ITERATIONS)
    assert verifier == (
        SALT,
        ITERATIONS,
        bytes.fromhex(SCRAM["stored_key"]),
        bytes.fromhex(SCRAM["server_key"]),
    )


def test_example_of_rfc_7677() -> None:
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = (
        "n=user,r=rOprNGfwEbeRWgbNEkqO,"
        f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
    ).encode()
    salted = scram.salted_password("pencil", b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    client_key = scram.client_key(salted)
    proof = b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert scram.client_proof(client_key, message) == proof
    assert scram.proof_is_valid(scram.stored_key(client_key), message, proof)
    signature = b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert scram.server_signature(scram.server_key(salted), message) == signature


def test_what_must_not_verify() -> None:
    stored_key = bytes.fromhex(SCRAM["stored_key"])
    proof = bytes.fromhex(SCRAM["client_proof"])
    for at in range(len(proof)):
        changed = proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1 :]
        assert not scram.proof_is_valid(stored_key, MESSAGE, changed)
    for wrong in (b"", proof[:-1], proof + b"\0", bytes(32)):
        assert not scram.proof_is_valid(stored_key, MESSAGE, wrong)
    assert not scram.proof_is_valid(stored_key, MESSAGE + b"x", proof)
    assert not scram.proof_is_valid(bytes(32), MESSAGE, proof)


def test_auth_message_is_joined_in_order() -> None:
    client = bytes.fromhex("0102030405060708 0000000000000009")
    message = scram.auth_message(b"bodies", "bób", 0x0102030405060708, 9)
    assert message == b"bodiesb\xc3\xb3b" + client


def test_weak_parameters_are_refused() -> None:
    with pytest.raises(MisuseError, match="4095"):
        scram.salted_password(PASSWORD, SALT, 4095)
    with pytest.raises(MisuseError, match="15 bytes"):
        scram.make_verifier(PASSWORD, SALT[:15], ITERATIONS)
