"""The statuses, and the exceptions that carry them."""

from libproto.errors import LibprotoError, MisuseError, PeerError, Status


def test_statuses_are_those_of_the_wire() -> None:
    assert [(status.name, status.value) for status in Status] == [
        ("OK", 0),
        ("ERR_BAD_PACKET", 1),
        ("ERR_CHECKSUM_FAIL", 2),
        ("ERR_UNAUTHORIZED", 3),
        ("ERR_NOT_FOUND", 4),
        ("ERR_INSUFFICIENT_FUNDS", 5),
        ("ERR_SERVER_BUSY", 6),
        ("ERR_TIMEOUT", 7),
        ("ERR_ALREADY_EXISTS", 8),
        ("ERR_INTERNAL", 9),
        ("ERR_LIMIT", 10),
    ]


def test_peer_error_carries_its_status() -> None:
    error = PeerError(Status.ERR_BAD_PACKET, "why")
    assert (error.status, error.detail) == (Status.ERR_BAD_PACKET, "why")
    assert str(error) == "ERR_BAD_PACKET: why"


def test_the_two_parties_are_told_apart() -> None:
    assert issubclass(MisuseError, LibprotoError)
    assert issubclass(MisuseError, ValueError)
    assert issubclass(PeerError, LibprotoError)
    assert not issubclass(PeerError, ValueError)
