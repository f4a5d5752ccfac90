"""The commands of `tradechat-cli` about rooms with a name, boards, and users that one blocks."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from client.amounts import format_amount, parse_amount
from client.blocking import Client
from client.cli.command import KEY, Argument, Command, done_as, once, room_of
from client.core.calls import RoomChange
from client.errors import MisuseError, NotFound
from client.terminal import room_lines
from client.terminal.advice import at_stake
from client.terminal.arguments import (
    choice,
    read_count,
    read_entry,
    read_place,
    read_room_name,
    read_text,
    read_user,
)
from client.terminal.display import Screen
from client.terminal.room_lines import ACCESSES, ROLES
from libproto.messages import BoardEntry, RoomAccess, RoomRole

_CHECK_ROOM = "`tradechat-cli rooms`"
_CHECK_BOARD = "`tradechat-cli board list`"
_CHECK_TXNS = "`tradechat-cli txns`"


class Declined(MisuseError):
    """Somebody was asked, and did not say yes."""


def _is_person() -> bool:
    return bool(sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty())


def _make_sure(question: str) -> None:
    """Ask who sits at a terminal. Declined."""
    if _is_person() and input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise Declined("nothing was done")


# ---- rooms


def _rooms(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    del options
    for room in client.iter_rooms():
        try:
            info = client.room_info(room.room_id)
        except NotFound:  # it was closed meanwhile
            continue
        screen.result(room_lines.room_line(room, info), room_lines.room_fields(room, info))


def _open(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    with at_stake("opening", _CHECK_ROOM, screen):
        room = client.open_room(options.name, **once(options))
    how = "opened" if room.created else "there is"
    with done_as(f"the room is {room.room_id}"):
        fields = {"room_id": room.room_id, "created": room.created}
        screen.result([f"{how} room {room.room_id}"], fields)


def _topic(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    room = room_of(client, options.room)
    access = client.room_info(room).access
    with at_stake("change", _CHECK_ROOM, screen):
        done = client.set_room(room, " ".join(options.text), access, **once(options))
    _show_change(room, done, screen)


def _access(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    _set_access(client, options, screen, ACCESSES[options.access])


def _close(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    _make_sure(f"close room {options.room} for good?")
    _set_access(client, options, screen, RoomAccess.CLOSED)


def _set_access(
    client: Client, options: argparse.Namespace, screen: Screen, access: RoomAccess
) -> None:
    room = room_of(client, options.room)
    topic = client.room_info(room).topic
    with at_stake("change", _CHECK_ROOM, screen):
        done = client.set_room(room, topic, access, **once(options))
    _show_change(room, done, screen)


def _setting(role: RoomRole, seconds: int | None = None) -> Callable[..., None]:
    """A command that sets a role. seconds: how long, if the command does not say so."""

    def run(client: Client, options: argparse.Namespace, screen: Screen) -> None:
        lasts = getattr(options, "seconds", 0) if seconds is None else seconds
        _set_role(client, options, screen, role, lasts or 0)

    return run


def _role(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    if options.role == "owner":
        _make_sure(f"give room {options.room} away to {options.who}?")
    _set_role(client, options, screen, ROLES[options.role], 0)


def _set_role(
    client: Client, options: argparse.Namespace, screen: Screen, role: RoomRole, seconds: int
) -> None:
    room, user = room_of(client, options.room), client.lookup(options.who).user_id
    with at_stake("change", _CHECK_ROOM, screen):
        done = client.set_role(room, user, role, seconds, **once(options))
    _show_change(room, done, screen)


def _show_change(room: int, done: RoomChange, screen: Screen) -> None:
    with done_as(f"the change is event {done.room_seq} of room {room}"):
        fields = {"room_id": room, "room_seq": done.room_seq, "recorded": done.recorded}
        screen.result([f"done: event {done.room_seq} of room {room}"], fields)


# ---- boards


def _add(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    room = room_of(client, options.room)
    client.join(room)
    price = getattr(options, "price", 0)
    with at_stake("entry", _CHECK_BOARD, screen):
        done = client.board_add(room, price, " ".join(options.text), **once(options))
    with done_as(f"it is entry {done.entry_id} on the board of room {room}"):
        screen.result(
            [f"entry {done.entry_id} on the board of room {room}"],
            {"room_id": room, **done._asdict()},
        )


def _list(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    room = room_of(client, options.room)
    client.join(room)
    for entry in client.iter_board(room, options.find or ""):
        screen.result(room_lines.entry_line(entry), entry._asdict())


def _take(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    if options.key is not None and options.price is None:
        raise MisuseError("--key goes with --price: what an earlier run took is listed no more")
    room, price = room_of(client, options.room), options.price
    client.join(room)
    if price is None:
        entry = _entry(client, room, options.entry)
        price = entry.price
        if price > _confirm_over():
            _make_sure(f"take {entry.text!r} of {entry.username} for {format_amount(price)}?")
    with at_stake("payment", _CHECK_TXNS, screen):
        done = client.board_take(room, options.entry, price, **once(options))
    shown = f"took #{options.entry} for {format_amount(price)}, "
    shown += f"balance {format_amount(done.balance)}"
    with done_as(f"{shown}, transaction {done.txn_id}"):
        fields: dict[str, Any] = {"room_id": room, "entry_id": options.entry, "price": price}
        screen.result([shown], {**fields, **done._asdict()})


def _entry(client: Client, room: int, entry_id: int) -> BoardEntry:
    found = client.board(room, entry_id - 1, 1)
    if not found or found[0].entry_id != entry_id:
        raise NotFound(f"there is no entry {entry_id} on the board of room {room}")
    return found[0]


def _confirm_over() -> int:
    """Minor units: what a person is asked about before it is paid, as in the chat."""
    if not _is_person():
        return 0
    from client.chat.settings import Settings, config_file  # they take a while to load

    settings = Settings(config_file(os.environ))
    settings.load()
    over: int = settings["confirm_over"]
    return over


def _drop(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    room = room_of(client, options.room)
    client.join(room)
    with at_stake("removal", _CHECK_BOARD, screen):
        done = client.board_remove(room, options.entry, **once(options))
    _show_change(room, done, screen)


# ---- blocks


def _block(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    client.block(client.lookup(options.who).user_id)
    screen.result([f"{options.who} is blocked"], {"username": options.who, "blocked": True})


def _unblock(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    client.unblock(client.lookup(options.who).user_id)
    screen.result([f"{options.who} is not blocked"], {"username": options.who, "blocked": False})


_ROOM = Argument("ROOM", "room", read_place, "its number, or its name")
_NAME = Argument("NAME", "name", read_room_name, "text of at most 64 bytes")
_TOPIC = Argument("TEXT", "text", str, "the topic; an empty one removes it", many=True)
_WHO = Argument("USER", "who", read_user, "a username")
_ACCESS = Argument("ACCESS", "access", choice(*ACCESSES), "public or private")
_ROLE = Argument("ROLE", "role", choice(*ROLES), "none, member, moderator or owner")
_SECONDS = Argument("--seconds", "seconds", read_count, "for how long (for good)")
_PRICE = Argument("PRICE", "price", parse_amount, "like 12.50")
_FOR = Argument("--price", "price", parse_amount, "only for this, like 12.50", metavar="PRICE")
_TEXT = Argument("TEXT", "text", read_text, "what it is, at most 256 bytes", many=True)
_ENTRY = Argument("ID", "entry", read_entry, "the number of the entry")
_FIND = Argument("--find", "find", str, "only entries with this text", metavar="TEXT")

GROUPS = {"board": "the board of a room: offers that others can take"}
"""Commands that only stand before others."""

ROOM_COMMANDS: tuple[Command, ...] = (
    Command("rooms", (), "print the rooms that have members or events; or change one", _rooms),
    Command("rooms open", (_NAME, KEY), "find or make the room of a name", _open, is_once=True),
    Command("rooms topic", (_ROOM, _TOPIC, KEY), "set the topic", _topic, is_once=True),
    Command("rooms access", (_ROOM, _ACCESS, KEY), "say who may join", _access, is_once=True),
    Command("rooms role", (_ROOM, _WHO, _ROLE, KEY), "set a user's role", _role, is_once=True),
    Command(
        "rooms invite", (_ROOM, _WHO, KEY), "let a user join a private room",
        _setting(RoomRole.MEMBER), is_once=True,
    ),
    Command(
        "rooms kick", (_ROOM, _WHO, KEY), "put a user out, who may join again after a second",
        _setting(RoomRole.BANNED, 1), is_once=True,
    ),
    Command(
        "rooms ban", (_ROOM, _WHO, _SECONDS, KEY), "put a user out and keep them out",
        _setting(RoomRole.BANNED), is_once=True,
    ),
    Command(
        "rooms mute", (_ROOM, _WHO, _SECONDS, KEY), "let a user read, but not write",
        _setting(RoomRole.MUTED), is_once=True,
    ),
    Command(
        "rooms pardon", (_ROOM, _WHO, KEY), "end a ban or a mute, and any other role",
        _setting(RoomRole.NONE), is_once=True,
    ),
    Command("rooms close", (_ROOM, KEY), "close a room for good", _close, is_once=True),
    Command("board list", (_ROOM, _FIND), "print the entries of a board", _list),
    Command("board add", (_ROOM, _PRICE, _TEXT, KEY), "put up an offer", _add, is_once=True),
    Command("board note", (_ROOM, _TEXT, KEY), "put up what has no price", _add, is_once=True),
    Command(
        "board take", (_ROOM, _ENTRY, _FOR, KEY), "pay for an offer, and take it off the board",
        _take, is_once=True,
    ),
    Command("board drop", (_ROOM, _ENTRY, KEY), "take an entry off the board", _drop, is_once=True),
    Command("block", (_WHO,), "get no messages and no payment notices from a user", _block),
    Command("unblock", (_WHO,), "undo `block`", _unblock),
)  # fmt: skip
