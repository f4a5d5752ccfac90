"""`tradechat-cli`: a chat when it is given no command, else one command and its answer.

Standard output has what was asked for and nothing else; what goes on and what went wrong is on
standard error.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from client.aio import AsyncClient
from client.blocking import Client
from client.cli.command import KEYED_REQ_ID, Command
from client.cli.commands import BY_NAME
from client.cli.identity import Identity, Key, identity, kept_file, state_directory
from client.cli.options import (
    EXIT_IDENTITY,
    EXIT_OK,
    EXIT_OUTPUT,
    EXIT_REFUSED,
    EXIT_UNKNOWN,
    EXIT_UNREACHABLE,
    PROGRAM,
    CannotBegin,
    read_options,
    read_password,
)
from client.cli.outage import BlockingOutage
from client.cli.trust import Introduction
from client.core.once import Once
from client.errors import (
    BadPacket,
    CallTimeout,
    ClientError,
    ClientIdTaken,
    ConnectionLost,
    FileChanged,
    IdentityChanged,
    KnownServersUnusable,
    NotEncrypted,
    ProtocolViolation,
    RequestFailed,
    Unauthorized,
)
from client.terminal.advice import explain, hint, is_unknown
from client.terminal.display import Screen
from client.terminal.position import InboxPosition
from libcli import output
from libcli.arguments import EXIT_USAGE
from libproto.errors import MisuseError

T = TypeVar("T")

LOGIN_HINT = "check both, or create the user with --register"
KEY_HINT = "if the --key was used for something else, take another one"
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

    return {
        "client_id": held.client_id,
        "next_req_id": held.next_req_id,
        "keep_next_req_id": _keeping(held.keep),
    }


def _keeping(keep: Callable[[T], None]) -> Callable[[T], None]:
    """What keeps a number, and says what it means if it cannot."""

    def kept(number: T) -> None:
        try:
            keep(number)
        except OSError as error:
            raise CannotBegin(
                "nothing was done: the number of the request cannot be kept in "
                f"{state_directory(os.environ)}: {error.strerror}"
            ) from error

    return kept


def _run(command: Command, options: argparse.Namespace, password: str, screen: Screen) -> None:
    if not command.is_once:
        _run_as(command, options, password, screen, {"client_id": 0})
        return
    if options.key is not None:
        _run_keyed(command, options, password, screen)
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


def _run_keyed(
    command: Command, options: argparse.Namespace, password: str, screen: Screen
) -> None:
    """The request of a key. Where an earlier run has perhaps sent it, the login says so: then it is
    not carried out by a server that has no record of it."""
    try:
        key = Key(os.environ, options.host, options.port, options.user, options.key)
        is_used = key.is_used
        options.once = Once(KEYED_REQ_ID, key.mark, _keeping(key.note), is_repeated=is_used)
    except OSError as error:
        raise CannotBegin(
            f"nothing was done: keys cannot be kept in {state_directory(os.environ)}: "
            f"{error.strerror}"
        ) from error
    numbering = {"client_id": key.client_id, "keep_next_req_id": _keeping(key.keep)}
    if not is_used:
        try:
            _run_as(command, options, password, screen, {**numbering, "next_req_id": KEYED_REQ_ID})
            return
        except ClientIdTaken:  # by the login: it was sent before, from another machine perhaps
            options.register, options.once = False, replace(options.once, is_repeated=True)
    with hint(BadPacket, KEY_HINT), hint(FileChanged, KEY_HINT):
        _run_as(command, options, password, screen, {**numbering, "next_req_id": KEYED_REQ_ID + 1})


def _run_as(
    command: Command,
    options: argparse.Namespace,
    password: str,
    screen: Screen,
    numbering: Mapping[str, Any],
) -> None:
    outage = BlockingOutage(screen, options.give_up_after)
    lasting: dict[str, Any] = (
        {"reconnect": True, "on_reconnect": outage.tell} if command.lasts else {}
    )
    client = Client(
        options.host,
        options.port,
        timeout_s=options.timeout,
        **options.trust,
        **lasting,
        **numbering,
    )
    outage.client = client
    introduction = Introduction(client, options, screen)
    with outage, client:
        try:
            if options.register:
                with hint(Unauthorized, REGISTER_HINT):
                    options.user_id = client.register(options.user, password)
            if command.logs_in:
                with hint(Unauthorized, LOGIN_HINT):
                    client.login(options.user, password)
        finally:
            introduction.say()
        try:
            command.run(client, options, screen)
        except ConnectionLost as error:
            if is_unknown(error):
                raise
            raise outage.reason or error from None


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
    # They take a while to load, and no command needs them.
    from client.chat.memory import Memory
    from client.chat.outage import Outage
    from client.chat.program import Start, converse
    from client.chat.settings import Settings, config_file

    outage = Outage(options.give_up_after)
    settings = Settings(config_file(os.environ))
    for problem in settings.load():
        screen.complain(f"{PROGRAM}: {problem}")
    inbox, paid, typed, kept = (
        kept_file(os.environ, options.host, options.port, options.user, what)
        for what in ("inbox", "paid", "typed", "chat")
    )
    payments = InboxPosition(paid)
    client = AsyncClient(
        options.host,
        options.port,
        timeout_s=options.timeout,
        payments=True,
        payments_after=payments.seq,
        reconnect=True,
        on_reconnect=outage.tell,
        **options.trust,
        **numbering,
    )
    outage.client = client
    introduction = Introduction(client, options, screen)
    history = typed if settings["input_history"] else None
    start = Start(
        options.join,
        options.plain,
        options.stop_on_error,
        history,
        Memory(kept),
        payments,
        password,
    )
    async with client:
        try:
            if options.register:
                with hint(Unauthorized, REGISTER_HINT):
                    await client.register(options.user, password)
            with hint(Unauthorized, LOGIN_HINT):
                await client.login(options.user, password)
        finally:
            introduction.say()
        return await converse(client, screen, start, outage, InboxPosition(inbox), settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Answers the exit code."""
    return output.run(PROGRAM, lambda: _main(arguments), failed=EXIT_OUTPUT)


def exit_code(error: ClientError) -> int:
    """The exit code for what ended a command."""
    if is_unknown(error):
        return EXIT_UNKNOWN
    if isinstance(error, IdentityChanged | NotEncrypted | KnownServersUnusable):
        return EXIT_IDENTITY
    if isinstance(error, CallTimeout | ConnectionLost | ProtocolViolation):
        return EXIT_UNREACHABLE
    return EXIT_REFUSED


def _fields(error: Exception) -> dict[str, Any]:
    """What a program may want to know of an error, beside its text and the exit code."""
    fields: dict[str, Any] = {"error": type(error).__name__}
    if isinstance(error, RequestFailed):
        fields |= {"status": error.status.name, "retry_after_ms": error.retry_after_ms}
    if isinstance(error, ClientError) and is_unknown(error):
        fields["req_id"] = getattr(error, "req_id", 0)
    return fields


def _main(arguments: Sequence[str] | None) -> int:
    options = read_options(arguments, os.environ)
    screen = Screen(as_json=options.json)

    def fail(error: Exception, text: str, code: int) -> int:
        screen.failed(f"{PROGRAM}: {text}", {**_fields(error), "exit_code": code})
        return code

    try:
        if options.command is None and sys.stdin is None:
            raise CannotBegin("there is no standard input to take lines from: give a command")
        password = read_password(options, os.environ)
        if options.command is None:
            return asyncio.run(_chat(options, password, screen))
        _run(BY_NAME[options.command], options, password, screen)
    except (CannotBegin, MisuseError) as error:
        return fail(error, str(error), EXIT_USAGE)
    except ClientError as error:
        return fail(error, explain(error), exit_code(error))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
