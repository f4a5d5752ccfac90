"""The commands of `tradechat-cli`: one table, `COMMANDS`, makes parser, help and calls."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from client.amounts import parse_amount
from client.blocking import Client
from client.core.calls import Receipt
from client.core.gaps import Found, FoundDirect, read_inbox, read_range
from client.errors import ConnectionLost
from client.terminal import display
from client.terminal.advice import at_stake
from client.terminal.arguments import (
    HISTORY_COUNT,
    TXNS_COUNT,
    read_count,
    read_room,
    read_text,
    read_user,
)
from client.terminal.display import Screen
from libproto.messages import LIST_MAX, ChatBroadcast, DirectMessage, RoomGap

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

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        settings: dict[str, Any] = {"type": typed(self.read), "help": self.about or None}
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
    Command("listen", (_ROOM, _STOP), "print a room's events as they happen", _listen),
    Command("rooms", (), "print the rooms that have members or events", _rooms),
    Command("who", (_ROOM,), "print the members of a room", _who),
    Command("history", (_ROOM, _EVENTS), "print the last events of a room", _history),
    Command("inbox", (_EVENTS,), "print the last messages to you alone", _inbox),
    Command("register", (), "register the user", _register, logs_in=False),
)

BY_NAME = {command.name: command for command in COMMANDS}
