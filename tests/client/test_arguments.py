"""What people give: read, or refused in a sentence that names it."""

import pytest

from client.terminal.arguments import read_count, read_room, read_text, read_user


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("20", 20), ("007", 7)])
def test_a_count(text: str, count: int) -> None:
    assert read_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "+1", "1.0", "1e3", "x", " 1", "\u0661", "9" * 50])
def test_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="is no whole number from 1"):
        read_count(text)


@pytest.mark.parametrize(("text", "room"), [("1", 1), ("256", 256), ("4294967295", 2**32 - 1)])
def test_a_room(text: str, room: int) -> None:
    assert read_room(text) == room


@pytest.mark.parametrize("text", ["", "0", "-7", "4294967296", "lobby", "9" * 50])
def test_no_room(text: str) -> None:
    with pytest.raises(ValueError, match="is no room: rooms are numbered from 1"):
        read_room(text)


@pytest.mark.parametrize("text", ["alice", "A.b-c_9", "x" * 32])
def test_a_user(text: str) -> None:
    assert read_user(text) == text


@pytest.mark.parametrize("text", ["", "al ice", "\u00e4lice", "alice\n", "x" * 33, "@alice"])
def test_no_user(text: str) -> None:
    with pytest.raises(ValueError, match="is no username"):
        read_user(text)


def test_a_text() -> None:
    assert read_text(" any \u00e4 ") == " any \u00e4 "
    with pytest.raises(ValueError, match="no text"):
        read_text("")


def test_a_long_one_is_not_repeated_whole() -> None:
    with pytest.raises(ValueError, match="is no username") as refused:
        read_user("x" * 100_000)
    assert len(str(refused.value)) < 200
