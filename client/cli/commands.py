"""The commands of `tradechat-cli`: one table, `COMMANDS`, makes parser, help and calls."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from client.amounts import parse_amount
from client.blocking import Client
from client.core.calls import Receipt
from client.core.gaps import Found, FoundDirect, read_back, read_inbox, read_range
from client.core.pushes import LogReplaced, RoomRefused, RoomRestarted
from client.errors import ConnectionLost
from client.terminal import display
from client.terminal.advice import at_stake
from client.terminal.arguments import (
    HISTORY_COUNT,
    TXNS_COUNT,
    read_count,
    read_key,
    read_room,
    read_seq,
    read_text,
    read_user,
)
from client.terminal.display import Screen
from libcli.output import OutputFailed
from libproto.messages import LIST_MAX, ChatBroadcast, DirectMessage, RoomGap

KEYED_REQ_ID = 1
"""The number under which the one request of a key is made."""
CHECK_COMMAND = "`tradechat-cli txns`"


def typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader whose refusals argparse repeats word by word."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command, or with dashes an option with a value."""

    name: str
    dest: str
    read: Callable[[str], Any]
    about: str = ""
    default: Any = None
    many: bool = False
    metavar: str = "N"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        settings: dict[str, Any] = {"type": typed(self.read), "help": self.about or None}
        if self.name.startswith("-"):
            parser.add_argument(
                self.name,
                dest=self.dest,
                metavar=self.metavar,
                default=self.default,
                **settings,
            )
        else:
            nargs = "+" if self.many else None
            parser.add_argument(self.dest, metavar=self.name, nargs=nargs, **settings)


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. `logs_in` is False where the user need not be there yet; `is_once` marks
    what has a client_id, so that it is carried out once; `lasts`, what goes on over a connection
    that is lost."""

    name: str
    arguments: tuple[Argument, ...]
    about: str
    run: Callable[[Client, argparse.Namespace, Screen], None]
    is_once: bool = False
    logs_in: bool = True
    lasts: bool = False


def _balance(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    del options
    found = client.balance()
    screen.result(display.balance_line(found.balance), found._asdict())


def _once(options: argparse.Namespace) -> dict[str, Any]:
    """How a request with a key of the caller's is made: under the one number of its client_id."""
    if options.key is None:
        return {}
    return {"req_id": KEYED_REQ_ID, "possible_duplicate": True}


def _deposit(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    with at_stake("deposit", CHECK_COMMAND, screen):
        done = client.deposit(options.amount, **_once(options))
    _show_receipt("deposited", options, done, screen)


def _withdraw(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    with at_stake("withdrawal", CHECK_COMMAND, screen):
        done = client.withdraw(options.amount, **_once(options))
    _show_receipt("withdrew", options, done, screen)


def _pay(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    payee = client.lookup(options.payee).user_id
    with at_stake("payment", CHECK_COMMAND, screen):
        done = client.transfer(payee, options.amount, **_once(options))
    _show_receipt(f"paid {options.payee}", options, done, screen)


def _show_receipt(what: str, options: argparse.Namespace, done: Receipt, screen: Screen) -> None:
    line = display.receipt_line(what, options.amount, done.balance)
    fields: dict[str, Any] = {"txn_id": done.txn_id, "balance": done.balance}
    if options.key is not None:
        fields["recorded"] = done.recorded
        if done.recorded:
            line.append(" (by an earlier run)")
    with _done(f"{display.text_of(line)}, transaction {done.txn_id}"):
        screen.result(line, fields)


@contextmanager
def _done(what: str) -> Iterator[None]:
    """Where this cannot be shown, it is told with the failure that it was done all the same."""
    try:
        yield
    except OutputFailed as error:
        error.add_note(f"this was done, and is not to be repeated: {what}")
        raise


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
    with at_stake("message", "`tradechat-cli history`", screen):
        sent = client.send(options.room, " ".join(options.text), **_once(options))
    with _done(f"the message is event {sent.room_seq} of room {options.room}"):
        screen.result(
            [f"sent to room {options.room} as event {sent.room_seq}"],
            {"room_id": options.room, **sent._asdict()},
        )


def _listen(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    last = client.join(options.room).last_seq
    screen.remark(f"listening to room {options.room}")
    left = options.count or -1
    for event in _events(client, options.room, options.after, last, screen):
        _show_event(event, screen)
        left -= 1
        if not left:
            return
    raise ConnectionLost("the connection was closed")


def _events(
    client: Client, room: int, after: int | None, last: int, screen: Screen
) -> Iterator[ChatBroadcast | RoomGap]:
    """The events of a joined room: those after `after` up to `last`, and then what comes."""
    if after is not None:
        yield from _read(client, room, after + 1, last)
    for push in client.pushes():
        match push:
            case ChatBroadcast():
                if after is None or push.room_seq > after:
                    yield push
            case RoomGap(room_id=room_id) if room_id:
                yield from _read(client, room, push.first_seq, push.last_seq)
            case RoomRestarted():
                screen.complain(f"room {room} began anew: its events are counted from 1 again")
                after = None
            case LogReplaced():
                screen.complain("the data of the server was replaced while it was away")
            case RoomRefused():
                raise ConnectionLost(f"room {room} could not be joined again: {push.detail}")


def _history(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    listed = client.rooms(options.room - 1)
    last = listed[0].last_seq if listed and listed[0].room_id == options.room else 0
    if not last:
        client.history(options.room, limit=1)  # NotFound where there is no such room
    reading = read_back(options.room, last, options.limit)
    try:
        ask = next(reading)
        while True:
            ask = reading.send(client.history(options.room, *ask))
    except StopIteration as done:
        for event in done.value[0]:
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
_AFTER = Argument("--after", "after", read_seq, "begin with the events after number N")
_KEY = Argument(
    "--key", "key", read_key,
    "carry it out once, however often it is run with this KEY: later runs print what the first did",
    metavar="KEY",
)  # fmt: skip

COMMANDS: tuple[Command, ...] = (
    Command("balance", (), "print the balance", _balance),
    Command("deposit", (_AMOUNT, _KEY), "put money in", _deposit, is_once=True),
    Command("withdraw", (_AMOUNT, _KEY), "take money out", _withdraw, is_once=True),
    Command("pay", (_USER, _AMOUNT, _KEY), "pay somebody", _pay, is_once=True),
    Command("txns", (_TXNS,), "print the last transactions, newest first", _txns),
    Command("send", (_ROOM, _TEXT, _KEY), "say something in a room", _send, is_once=True),
    Command(
        "listen",
        (_ROOM, _STOP, _AFTER),
        "print a room's events as they happen",
        _listen,
        lasts=True,
    ),
    Command("rooms", (), "print the rooms that have members or events", _rooms),
    Command("who", (_ROOM,), "print the members of a room", _who),
    Command(
        "history",
        (_ROOM, _EVENTS),
        "print what was said last in a room, without joining it",
        _history,
    ),
    Command("inbox", (_EVENTS,), "print the last messages to you alone", _inbox),
    Command("register", (), "register the user", _register, logs_in=False),
)

BY_NAME = {command.name: command for command in COMMANDS}
