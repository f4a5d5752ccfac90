"""`tradechat-cli`: a chat when it is given no command, else one command and its answer.

Standard output has what was asked for and nothing else; what goes on and what went wrong is on
standard error.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from client.aio import AsyncClient
from client.blocking import Client
from client.cli.commands import BY_NAME, Command
from client.cli.identity import Identity, identity, inbox_file, state_directory
from client.cli.options import EXIT_OK, PROGRAM, CannotBegin, read_options, read_password
from client.errors import ClientError, ClientIdTaken, Unauthorized
from client.terminal.advice import explain, hint
from client.terminal.display import Screen
from client.terminal.position import InboxPosition
from libcli import output
from libcli.arguments import EXIT_USAGE
from libcli.output import EXIT_FAILED
from libproto.errors import MisuseError

LOGIN_HINT = "check both, or create the user with --register"
REGISTER_HINT = "ask who runs the server"


@contextmanager
def _identity(options: argparse.Namespace, screen: Screen) -> Iterator[Identity | None]:
    """The client_id that this program holds; None if it has to draw one for itself."""
    with ExitStack() as stack:
        held = None
        try:
            held = stack.enter_context(
                identity(os.environ, options.host, options.port, options.user)
            )
        except OSError as error:
            screen.remark(
                f"cannot keep what payments are numbered by, in {state_directory(os.environ)}: "
                f"{error.strerror}; a number of its own is used for this run"
            )
        yield held


def _numbering(held: Identity | None) -> dict[str, Any]:
    """What a client is told of its client_id."""
    if held is None:
        return {}

    def keep(next_req_id: int) -> None:
        try:
            held.keep(next_req_id)
        except OSError as error:
            raise CannotBegin(
                "nothing was moved: the number of the request cannot be kept in "
                f"{state_directory(os.environ)}: {error.strerror}"
            ) from error

    return {
        "client_id": held.client_id,
        "next_req_id": held.next_req_id,
        "keep_next_req_id": keep,
    }


def _run(command: Command, options: argparse.Namespace, password: str, screen: Screen) -> None:
    if not command.moves_money:
        _run_as(command, options, password, screen, {"client_id": 0})
        return
    with _identity(options, screen) as held:
        try:
            _run_as(command, options, password, screen, _numbering(held))
        except ClientIdTaken:  # by the login: nothing was done yet
            if held is None:
                raise
            held.renew()
            options.register = False
            _run_as(command, options, password, screen, _numbering(held))


def _run_as(
    command: Command,
    options: argparse.Namespace,
    password: str,
    screen: Screen,
    numbering: Mapping[str, Any],
) -> None:
    client = Client(options.host, options.port, timeout_s=options.timeout, **numbering)
    with client:
        if options.register:
            with hint(Unauthorized, REGISTER_HINT):
                options.user_id = client.register(options.user, password)
        if command.logs_in:
            with hint(Unauthorized, LOGIN_HINT):
                client.login(options.user, password)
        command.run(client, options, screen)


async def _chat(options: argparse.Namespace, password: str, screen: Screen) -> int:
    with _identity(options, screen) as held:
        try:
            return await _chat_as(options, password, screen, _numbering(held))
        except ClientIdTaken:  # by the login: nothing was done yet
            if held is None:
                raise
            held.renew()
            options.register = False
            return await _chat_as(options, password, screen, _numbering(held))


async def _chat_as(
    options: argparse.Namespace, password: str, screen: Screen, numbering: Mapping[str, Any]
) -> int:
    from client.chat.program import (  # takes a while to load, and no command needs it
        Outage,
        converse,
    )

    client = AsyncClient(
        options.host,
        options.port,
        timeout_s=options.timeout,
        payments=True,
        reconnect=True,
        on_reconnect=lambda lost: outage.tell(lost),
        **numbering,
    )
    outage = Outage(client, screen)
    async with client:
        if options.register:
            with hint(Unauthorized, REGISTER_HINT):
                await client.register(options.user, password)
        with hint(Unauthorized, LOGIN_HINT):
            await client.login(options.user, password)
        path = inbox_file(os.environ, options.host, options.port, options.user)
        return await converse(client, screen, options.join, outage, InboxPosition(path))


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Answers the exit code."""
    return output.run(PROGRAM, lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = read_options(arguments, os.environ)
    screen = Screen(as_json=options.json)

    def fail(text: str, code: int) -> int:
        screen.complain(f"{PROGRAM}: {text}")
        return code

    try:
        if options.command is None and sys.stdin is None:
            raise CannotBegin("there is no standard input to take lines from: give a command")
        password = read_password(options, os.environ)
        if options.command is None:
            return asyncio.run(_chat(options, password, screen))
        _run(BY_NAME[options.command], options, password, screen)
    except (CannotBegin, MisuseError) as error:
        return fail(str(error), EXIT_USAGE)
    except ClientError as error:
        return fail(explain(error), EXIT_FAILED)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
