"""A password that a person changes: `/passwd` in the chat, and `tradechat-cli passwd`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client, Unauthorized
from tests.client.conftest import register
from tests.client.programs import PASSWORD, run
from tests.client.screens import OnScreen
from tests.helpers.addresses import own_address
from tests.helpers.server import RunningServer

NEW = "another one altogether"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("passwd") / "data") as made:
        yield made


def logs_in(server: RunningServer, user: str, password: str) -> bool:
    with Client("127.0.0.1", server.port) as client:
        try:
            client.login(user, password)
        except Unauthorized:
            return False
        return True


def type_hidden(chat: OnScreen, question: str, answer: str) -> None:
    chat.expect(question)
    chat.press(answer)
    chat.expect("*" * len(answer))
    chat.press("\r")


@pytest.mark.parametrize("plain", [False, True])
def test_in_the_chat(shared: RunningServer, tmp_path: Path, plain: bool) -> None:
    """Nothing of what is typed is shown, nor kept, and the chat goes on by the new one."""
    user = f"ann-{plain:d}"
    register(shared, user)
    flags = ("--plain",) if plain else ()
    with OnScreen(
        shared.port, *flags, "--user", user, "--room", "7", XDG_STATE_HOME=str(tmp_path)
    ) as chat:
        chat.expect("[room 7] >" if plain else "[room 7]")
        chat.say("/passwd")
        type_hidden(chat, "Password:", PASSWORD)
        type_hidden(chat, "New password:", NEW)
        type_hidden(chat, "The same again:", NEW)
        chat.expect("the password is changed")
        assert not logs_in(shared, user, PASSWORD)
        assert logs_in(shared, user, NEW)
        chat.press("\x1f")  # undo: an answer is not to come back
        chat.say("/passwd")
        type_hidden(chat, "Password:", PASSWORD)
        chat.expect("that is not your password")
        chat.say("/passwd")
        type_hidden(chat, "Password:", NEW)
        type_hidden(chat, "New password:", "one")
        type_hidden(chat, "The same again:", "other")
        chat.expect("these were not the same")
        chat.say("/quit")
        assert chat.end() == 0
        assert NEW.encode() not in chat.written
        assert PASSWORD.encode() not in chat.written
    assert logs_in(shared, user, NEW)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or NEW.encode() not in path.read_bytes(), path


def test_a_script_is_not_asked(shared: RunningServer) -> None:
    register(shared, "bob")
    done = run(shared.port, "--user", "bob", text="/passwd\n")
    assert done.code == 1
    assert "tradechat-cli passwd" in done.err
    assert logs_in(shared, "bob", PASSWORD)


def test_the_command(shared: RunningServer) -> None:
    register(shared, "cat")
    done = run(shared.port, "--user", "cat", "passwd", text=f"{NEW}\n")
    assert (done.code, done.lines) == (
        0,
        ["the password is changed; all other sessions have ended"],
    )
    assert logs_in(shared, "cat", NEW)
    nothing = run(shared.port, "--user", "cat", "passwd", text="\n", TRADECHAT_PASSWORD=NEW)
    assert nothing.code != 0
    assert logs_in(shared, "cat", NEW)


def test_the_command_from_another_machine(tmp_path: Path) -> None:
    """In the clear it is refused, in a sentence; encrypted it is done."""
    host = own_address()
    flags = ("--host", "0.0.0.0", "--require-encryption", "off")  # noqa: S104 - as is tested
    with RunningServer(tmp_path / "data", *flags, "--registration", "open") as server:
        register(server, "dan")
        known = ("--known-servers", str(tmp_path / "known"))
        there = ("--user", "dan", "--host", host, *known)
        clear = run(server.port, *there, "--encrypt", "off", "passwd", text=f"{NEW}\n")
        assert clear.code == 1
        assert "encrypted" in clear.err
        assert "Traceback" not in clear.err
        assert logs_in(server, "dan", PASSWORD)
        sealed = run(server.port, *there, "passwd", text=f"{NEW}\n")
        assert sealed.code == 0, sealed.err
        assert logs_in(server, "dan", NEW)
