"""The commands of `tradechat-cli`: one table, `COMMANDS`, makes parser, help and calls."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any, cast

from client.amounts import parse_amount
from client.blocking import Client
from client.cli.command import KEY, Argument, Command, done_as, once, room_of
from client.cli.file_commands import FILE_COMMANDS
from client.cli.passwd import passwd
from client.cli.room_commands import ROOM_COMMANDS
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
    read_place,
    read_seq,
    read_text,
    read_user,
)
from client.terminal.display import Screen
from client.terminal.room_lines import users_of
from libproto.messages import LIST_MAX, ChatBroadcast, DirectMessage, RoomGap

CHECK_COMMAND = "`tradechat-cli txns`"


def _balance(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    del options
    found = client.balance()
    screen.result(display.balance_line(found.balance), found._asdict())


def _deposit(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    with at_stake("deposit", CHECK_COMMAND, screen):
        done = client.deposit(options.amount, **once(options))
    _show_receipt("deposited", options, done, screen)


def _withdraw(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    with at_stake("withdrawal", CHECK_COMMAND, screen):
        done = client.withdraw(options.amount, **once(options))
    _show_receipt("withdrew", options, done, screen)


def _pay(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    payee = client.lookup(options.payee).user_id
    with at_stake("payment", CHECK_COMMAND, screen):
        done = client.transfer(payee, options.amount, **once(options))
    _show_receipt(f"paid {options.payee}", options, done, screen)


def _show_receipt(what: str, options: argparse.Namespace, done: Receipt, screen: Screen) -> None:
    line = display.receipt_line(what, options.amount, done.balance)
    fields: dict[str, Any] = {"txn_id": done.txn_id, "balance": done.balance}
    if options.key is not None:
        fields["recorded"] = done.recorded
        if done.recorded:
            line.append(" (by an earlier run)")
    with done_as(f"{display.text_of(line)}, transaction {done.txn_id}"):
        screen.result(line, fields)


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
    room = room_of(client, options.room)
    client.join(room)
    with at_stake("message", "`tradechat-cli history`", screen):
        sent = client.send(room, " ".join(options.text), **once(options))
    with done_as(f"the message is event {sent.room_seq} of room {room}"):
        screen.result(
            [f"sent to room {room} as event {sent.room_seq}"],
            {"room_id": room, **sent._asdict()},
        )


def _listen(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    room = room_of(client, options.room)
    last = client.join(room).last_seq
    screen.remark(f"listening to room {room}")
    left, names = options.count or -1, {client.user_id: client.username}
    for event in _events(client, room, options.after, last, screen):
        if not _show_event(event, screen, _named(client, event, names)):
            continue
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
                raise ConnectionLost(f"room {room} is not joined any more: {push.detail}")


def _history(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    room = room_of(client, options.room)
    listed = client.rooms(room - 1)
    last = listed[0].last_seq if listed and listed[0].room_id == room else 0
    if not last:
        client.history(room, limit=1)  # NotFound where there is no such room
    names = {client.user_id: client.username}
    reading = read_back(room, last, options.limit)
    try:
        ask = next(reading)
        while True:
            ask = reading.send(client.history(room, *ask))
    except StopIteration as done:
        for event in done.value[0]:
            _show_event(event, screen, _named(client, event, names), dated=True)


def _read(client: Client, room: int, first: int, last: int) -> Found:
    reading = read_range(room, first, last)
    try:
        ask = next(reading)
        while True:
            ask = reading.send(client.history(room, *ask))
    except StopIteration as done:
        return cast(Found, done.value)


def _named(
    client: Client, event: ChatBroadcast | RoomGap, names: dict[int, str]
) -> Mapping[int, str]:
    """The names of the users whom a line about an event names; they are looked up once."""
    if isinstance(event, ChatBroadcast):
        for user in users_of(event):
            if user not in names:
                names[user] = client.user_name(user).username
    return names


def _show_event(
    event: ChatBroadcast | RoomGap,
    screen: Screen,
    names: Mapping[int, str],
    *,
    dated: bool = False,
) -> bool:
    """Whether there was something to show: what is not known here is not, but in JSON."""
    if isinstance(event, RoomGap):
        line = display.gap_line(event)
    elif screen.as_json or display.is_shown(event):
        line = display.event_line(event, dated=dated, names=names)
    else:
        return False
    screen.result(line, display.event_fields(event))
    return True


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


def _who(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    for member in client.iter_members(room_of(client, options.room)):
        screen.result([member.username], member._asdict())


def _register(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    del client
    screen.result(
        [f"registered {options.user} as user {options.user_id}"],
        {"user_id": options.user_id, "username": options.user},
    )


_AMOUNT = Argument("AMOUNT", "amount", parse_amount, "like 12.50")
_USER = Argument("USER", "payee", read_user, "who gets it")
_ROOM = Argument("ROOM", "room", read_place, "its number, or its name")
_TEXT = Argument("TEXT", "text", read_text, "the message", many=True)
_EVENTS = Argument("--limit", "limit", read_count, f"at most N ({HISTORY_COUNT})", HISTORY_COUNT)
_TXNS = Argument("--limit", "limit", read_count, f"at most N ({TXNS_COUNT})", TXNS_COUNT)
_STOP = Argument("--count", "count", read_count, "end after N events")
_AFTER = Argument("--after", "after", read_seq, "begin with the events after number N")
COMMANDS: tuple[Command, ...] = (
    Command("balance", (), "print the balance", _balance),
    Command("deposit", (_AMOUNT, KEY), "put money in", _deposit, is_once=True),
    Command("withdraw", (_AMOUNT, KEY), "take money out", _withdraw, is_once=True),
    Command("pay", (_USER, _AMOUNT, KEY), "pay somebody", _pay, is_once=True),
    Command("txns", (_TXNS,), "print the last transactions, newest first", _txns),
    Command("send", (_ROOM, _TEXT, KEY), "say something in a room", _send, is_once=True),
    Command(
        "listen",
        (_ROOM, _STOP, _AFTER),
        "print a room's events as they happen",
        _listen,
        lasts=True,
    ),
    *ROOM_COMMANDS,
    *FILE_COMMANDS,
    Command("who", (_ROOM,), "print the members of a room", _who),
    Command(
        "history",
        (_ROOM, _EVENTS),
        "print what was said last in a room, without joining it",
        _history,
    ),
    Command("inbox", (_EVENTS,), "print the last messages to you alone", _inbox),
    Command("passwd", (), "change the password: asked for, or the first line of input", passwd),
    Command("register", (), "register the user", _register, logs_in=False),
)

BY_NAME = {command.name: command for command in COMMANDS}
