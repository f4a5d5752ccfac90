"""`tradechat-cli passwd`: another password. It is asked for, or comes from standard input."""

import argparse
import sys

from client.blocking import Client
from client.errors import BadArgument
from client.terminal import password
from client.terminal.display import Screen


def _new() -> str:
    """BadArgument: none was given."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    try:
        given = password.ask("New password: ")
        if given != password.ask("The same again: "):
            raise BadArgument("password", None, "the same twice: nothing was changed")
    except (password.NoTerminal, password.NoPassword) as error:
        raise BadArgument("password", None, f"a password ({error})") from error
    return given


def passwd(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    """Give the user another password."""
    del options
    new = _new()
    if not new:
        raise BadArgument("password", None, "a password: nothing was changed")
    client.change_password(new)
    screen.result(
        ["the password is changed; all other sessions have ended"], {"username": client.username}
    )
