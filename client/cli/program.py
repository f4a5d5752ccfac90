"""`tradechat-cli`: a chat when it is given no command, else one command and its answer.

Standard output has what was asked for and nothing else; what goes on and what went wrong is on
standard error. One table, `COMMANDS`, makes the parser, the help and the calls.

A password is taken from a file, the environment or a prompt, never from a flag, which every user
of the machine could read in the list of processes.
"""

import argparse
import asyncio
import getpass
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from client.aio import AsyncClient
from client.amounts import parse_amount
from client.blocking import Client
from client.cli.identity import Identity, identity, inbox_file, state_directory
from client.core.calls import Receipt
from client.core.gaps import Found, FoundDirect, read_inbox, read_range
from client.errors import ClientError, ClientIdTaken, ConnectionLost, Unauthorized
from client.terminal import display
from client.terminal.advice import at_stake, explain, hint
from client.terminal.arguments import (
    HISTORY_COUNT,
    TXNS_COUNT,
    read_count,
    read_room,
    read_text,
    read_user,
)
from client.terminal.display import Screen
from client.terminal.position import InboxPosition
from libcli import output
from libcli.arguments import EXIT_USAGE, Parser
from libcli.environment import sift
from libcli.output import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_PIPE
from libproto import __version__
from libproto.errors import MisuseError
from libproto.messages import LIST_MAX, ChatBroadcast, DirectMessage, RoomGap

PROGRAM = "tradechat-cli"
EXIT_OK = 0

HOST = "127.0.0.1"
PORT = 7878
TIMEOUT_S = 10.0
HOST_VARIABLE = "TRADECHAT_HOST"
PORT_VARIABLE = "TRADECHAT_PORT"
USER_VARIABLE = "TRADECHAT_USER"
PASSWORD_VARIABLE = "TRADECHAT_PASSWORD"  # noqa: S105 - its name
VARIABLES = (HOST_VARIABLE, PORT_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE)
LIKE_A_MISSPELLING = 0.7  # of one of these; the server's settings, which are many, are not

CHECK_COMMAND = "`tradechat-cli txns`"
LOGIN_HINT = "check both, or create the user with --register"
REGISTER_HINT = "ask who runs the server"

EXAMPLES = f"""\
examples:
  {PROGRAM} --user alice --register             register, then chat
  {PROGRAM} --user alice --room 7               chat, in room 7 to begin with
  {PROGRAM} --user alice pay bob 12.50          one payment
  {PROGRAM} --user alice txns --limit 3 --json  one JSON object a line, amounts in cents
  {PROGRAM} --user alice listen 7 | grep bob
  printf '/join 7\\nhello\\n' | {PROGRAM} --user alice --password-file FILE

exit codes: {EXIT_OK} done; {EXIT_FAILED} the server refused it, or there is no connection;
or the output cannot be written; {EXIT_USAGE} usage; {EXIT_INTERRUPTED} Ctrl-C;
{EXIT_PIPE} nobody reads the output any more
"""


class CannotBegin(Exception):
    """What was given does not do; the text says why and what to do."""


# ---- the commands


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command, or with dashes an option with a value."""

    name: str
    dest: str
    read: Callable[[str], Any]
    about: str = ""
    default: Any = None
    many: bool = False

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        settings: dict[str, Any] = {"type": _typed(self.read), "help": self.about or None}
        if self.name.startswith("-"):
            parser.add_argument(
                self.name, dest=self.dest, metavar="N", default=self.default, **settings
            )
        else:
            nargs = "+" if self.many else None
            parser.add_argument(self.dest, metavar=self.name, nargs=nargs, **settings)


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. `logs_in` is False where the user need not be there yet; `moves_money`
    marks what has a client_id, so that it could be repeated."""

    name: str
    arguments: tuple[Argument, ...]
    about: str
    run: Callable[[Client, argparse.Namespace, Screen], None]
    moves_money: bool = False
    logs_in: bool = True


def _balance(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    del options
    found = client.balance()
    screen.result(display.balance_line(found.balance), found._asdict())


def _deposit(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    with at_stake("deposit", CHECK_COMMAND, screen):
        done = client.deposit(options.amount)
    screen.result(display.receipt_line("deposited", options.amount, done.balance), _receipt(done))


def _withdraw(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    with at_stake("withdrawal", CHECK_COMMAND, screen):
        done = client.withdraw(options.amount)
    screen.result(display.receipt_line("withdrew", options.amount, done.balance), _receipt(done))


def _receipt(done: Receipt) -> dict[str, int]:
    return {"txn_id": done.txn_id, "balance": done.balance}


def _pay(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    payee = client.lookup(options.payee).user_id
    with at_stake("payment", CHECK_COMMAND, screen):
        done = client.transfer(payee, options.amount)
    screen.result(
        display.receipt_line(f"paid {options.payee}", options.amount, done.balance),
        _receipt(done),
    )


def _txns(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    names = {0: "", client.user_id: client.username}
    wanted, before = options.limit, 0
    while wanted:
        answer = client.transactions(before, min(wanted, LIST_MAX))
        page = answer.transactions
        if not page:
            if answer.oldest_txn_id:
                screen.remark(display.OLDER_ARE_GONE)
            break
        for entry in page:
            for user in (entry.from_user, entry.to_user):
                if user not in names:
                    names[user] = client.user_name(user).username
            screen.result(
                display.transaction_line(entry, client.user_id, names),
                display.transaction_fields(entry, names),
            )
        wanted, before = wanted - len(page), page[-1].txn_id


def _send(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    client.join(options.room)
    sent = client.send(options.room, " ".join(options.text))
    screen.result(
        [f"sent to room {options.room} as event {sent.room_seq}"],
        {"room_id": options.room, **sent._asdict()},
    )


def _listen(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    client.join(options.room)
    screen.remark(f"listening to room {options.room}")
    shown = 0
    for push in client.pushes():
        events: Found = []
        if isinstance(push, ChatBroadcast):
            events = [push]
        elif isinstance(push, RoomGap) and push.room_id:
            events = _read(client, options.room, push.first_seq, push.last_seq)
        for event in events:
            _show_event(event, screen)
            shown += 1
            if shown == options.count:
                return
    raise ConnectionLost("the connection was closed")


def _history(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    last = client.join(options.room).last_seq
    for event in _read(client, options.room, max(1, last - options.limit + 1), last):
        _show_event(event, screen, dated=True)


def _read(client: Client, room: int, first: int, last: int) -> Found:
    reading = read_range(room, first, last)
    try:
        ask = next(reading)
        while True:
            ask = reading.send(client.history(room, *ask))
    except StopIteration as done:
        return cast(Found, done.value)


def _show_event(event: ChatBroadcast | RoomGap, screen: Screen, *, dated: bool = False) -> None:
    if isinstance(event, RoomGap):
        line = display.gap_line(event)
    else:
        line = display.event_line(event, dated=dated)
    screen.result(line, display.event_fields(event))


def _inbox(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    reading = read_inbox(0, None)
    found: FoundDirect = []
    try:
        ask = next(reading)
        while True:
            ask = reading.send(client.inbox_history(*ask))
    except StopIteration as done:
        found, _, _ = done.value
    for each in found[-options.limit :]:
        assert isinstance(each, DirectMessage), "from the beginning nothing is missing"
        screen.result(display.direct_line(each, dated=True), each._asdict())


def _rooms(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    del options
    after = 0
    while page := client.rooms(after):
        for room in page:
            screen.result(display.room_line(room), room._asdict())
        after = page[-1].room_id


def _who(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    after = 0
    while page := client.members(options.room, after):
        for member in page:
            screen.result([member.username], member._asdict())
        after = page[-1].user_id


def _register(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    del client
    screen.result(
        [f"registered {options.user} as user {options.user_id}"],
        {"user_id": options.user_id, "username": options.user},
    )


_AMOUNT = Argument("AMOUNT", "amount", parse_amount, "like 12.50")
_USER = Argument("USER", "payee", read_user, "who gets it")
_ROOM = Argument("ROOM", "room", read_room)
_TEXT = Argument("TEXT", "text", read_text, "the message", many=True)
_EVENTS = Argument("--limit", "limit", read_count, f"at most N ({HISTORY_COUNT})", HISTORY_COUNT)
_TXNS = Argument("--limit", "limit", read_count, f"at most N ({TXNS_COUNT})", TXNS_COUNT)
_STOP = Argument("--count", "count", read_count, "end after N events")

COMMANDS: tuple[Command, ...] = (
    Command("balance", (), "print the balance", _balance),
    Command("deposit", (_AMOUNT,), "put money in", _deposit, moves_money=True),
    Command("withdraw", (_AMOUNT,), "take money out", _withdraw, moves_money=True),
    Command("pay", (_USER, _AMOUNT), "pay somebody", _pay, moves_money=True),
    Command("txns", (_TXNS,), "print the last transactions, newest first", _txns),
    Command("send", (_ROOM, _TEXT), "say something in a room", _send),
    Command("listen", (_ROOM, _STOP), "print a room's events, one's own joining included", _listen),
    Command("rooms", (), "print the rooms that have members or events", _rooms),
    Command("who", (_ROOM,), "print the members of a room", _who),
    Command("history", (_ROOM, _EVENTS), "print the last events of a room", _history),
    Command("inbox", (_EVENTS,), "print the last messages to you alone", _inbox),
    Command("register", (), "register the user", _register, logs_in=False),
)

BY_NAME = {command.name: command for command in COMMANDS}


# ---- what is given


def _typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader whose refusals argparse repeats word by word."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed


def _read_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError(f"{text[:40]!r} is no port: it is a number from 1 to 65535")
    return int(text)


def _read_timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise ValueError(f"{text[:40]!r} is no timeout: it is a number of seconds, over 0")
    return seconds


def _add_options(parser: argparse.ArgumentParser, *, again: bool) -> None:
    """The options that may stand before a command and behind it. `again`: those behind, which say
    nothing where they are absent."""
    group = parser.add_argument_group("options of every command")

    def add(flag: str, about: str, default: object = None, **settings: Any) -> None:
        missing = argparse.SUPPRESS if again else default
        group.add_argument(flag, help=about, default=missing, **settings)

    port, timeout, user = _typed(_read_port), _typed(_read_timeout), _typed(read_user)
    add("--host", f"where the server is ({HOST_VARIABLE}, or {HOST})", metavar="HOST")
    add("--port", f"its port ({PORT_VARIABLE}, or {PORT})", type=port, metavar="PORT")
    add("--user", f"username ({USER_VARIABLE})", type=user, metavar="NAME")
    add(
        "--password-file",
        f"file whose first line is the password; else {PASSWORD_VARIABLE}, else a prompt",
        metavar="FILE",
    )
    add("--register", "register the user first", default=False, action="store_true")
    add(
        "--timeout",
        f"seconds to wait for an answer ({TIMEOUT_S:g})",
        default=TIMEOUT_S,
        type=timeout,
        metavar="S",
    )
    add("--json", "one JSON object per line", default=False, action="store_true")


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog=PROGRAM,
        description="Chat in rooms and move money. Without a command: a chat, at a terminal or"
        " through pipes; /help in it lists what it can do.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "--room", dest="join", type=_typed(read_room), metavar="N", help="join a room (chat)"
    )
    _add_options(parser, again=False)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for command in COMMANDS:
        made = commands.add_parser(
            command.name, help=command.about, description=command.about, allow_abbrev=False
        )
        for argument in command.arguments:
            argument.add_to(made)
        _add_options(made, again=True)
    return parser


def read_options(arguments: Sequence[str] | None, environ: Mapping[str, str]) -> argparse.Namespace:
    """Return what flags and environment say. SystemExit comes from argparse.

    Variables that were not meant for this program are passed over, and said on standard error.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    environ, passed_over = sift(environ, VARIABLES, cutoff=LIKE_A_MISSPELLING)
    for variable in passed_over:
        if variable.variable != PASSWORD_VARIABLE:  # an empty one is refused where it is read
            output.complain(f"{PROGRAM}: {variable}")

    def from_environment(name: str, variable: str, read: Callable[[str], Any], default: Any) -> Any:
        given = getattr(options, name)
        if given is not None:
            return given
        if variable not in environ:
            return default
        try:
            return read(environ[variable])
        except ValueError as error:
            parser.error(f"{variable}: {error}")

    options.host = from_environment("host", HOST_VARIABLE, str, HOST)
    options.port = from_environment("port", PORT_VARIABLE, _read_port, PORT)
    options.user = from_environment("user", USER_VARIABLE, read_user, None)
    if options.user is None:
        parser.error(f"who are you? Give --user NAME or set {USER_VARIABLE}")
    if options.command is None and options.json:
        parser.error("--json goes with a command: the chat is for people")
    if options.command is not None and options.join is not None:
        parser.error("--room goes with the chat: a command names its room behind it")
    options.register |= options.command == "register"
    return options


def read_password(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Return the password, asked for where nothing holds it. CannotBegin."""
    if options.password_file is not None:
        try:
            with open(options.password_file, encoding="utf-8") as file:
                password = file.readline().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise CannotBegin(
                f"cannot read the password file {options.password_file}: {why}"
            ) from error
    elif PASSWORD_VARIABLE in environ:
        password = environ[PASSWORD_VARIABLE]
    else:
        password = _ask_password(f"Password for {options.user}: ")
        if options.register and password != _ask_password("The same again: "):
            raise CannotBegin("the two passwords differ: nothing was registered, start again")
    if not password:
        raise CannotBegin("the password is empty: choose one")
    return password


def _ask_password(prompt: str) -> str:
    try:
        # getpass asks there too, and would else take a line from the input.
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        raise CannotBegin(
            "there is no terminal to ask for the password: set "
            f"{PASSWORD_VARIABLE} or give --password-file FILE"
        ) from error
    try:
        return getpass.getpass(prompt)
    except EOFError as error:
        raise CannotBegin("no password was given") from error


# ---- what is done


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
