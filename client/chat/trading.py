"""Commands of the chat about rooms with a name, boards, and users that one blocks. All but `join`
are about the room that is looked at, and each says what became of it."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from client.amounts import format_amount
from client.chat import board_view
from client.chat.command import UsageError
from client.chat.model import Buffer, Kind
from client.chat.person import Chat
from client.core.calls import RoomInfo
from client.errors import NotFound
from client.terminal import display, room_lines
from client.terminal.advice import at_stake
from client.terminal.room_lines import ACCESSES, ROLES
from client.terminal.style import Line, Style
from libproto.messages import BoardEntry, EventKind, RoomAccess, RoomRole

T = TypeVar("T")

BOARD_ACTIONS = ("find", "show", "stats", "clear")
BOARD_EVENTS = (EventKind.OFFER_ADDED, EventKind.OFFER_REMOVED, EventKind.OFFER_TAKEN)
DROP_MINE = "mine"


# ---- rooms


async def list_rooms(chat: Chat) -> None:
    """Every room, with its name, topic, and how many are in it."""
    after = 0
    while page := await chat.lasting(partial(chat.client.rooms, after)):
        for room in page:
            try:
                info = await _info(chat, room.room_id)
            except NotFound:  # it was closed meanwhile
                continue
            chat.named_room(room.room_id, info.name)
            buffer = chat.model.room(room.room_id) if chat.face.keeps_lines else None
            unread = buffer.unread if buffer is not None else 0
            chat.face.result(room_lines.room_line(room, info, unread))
        after = page[-1].room_id


async def _info(chat: Chat, room: int) -> RoomInfo:
    return await chat.lasting(lambda: chat.client.room_info(room))


async def who(chat: Chat, room: int | str | None) -> None:
    """The members of a room: when they were last heard here, and what they offer."""
    number = await chat.room_of(room)
    members = await chat.meet(number)
    buffer = chat.model.room(number)
    offers: dict[str, int] = {}
    if buffer is not None:
        for entry in await _board(chat, number):
            if entry.price:
                offers[entry.username] = offers.get(entry.username, 0) + 1
    for member in members:
        line: Line = [(Style.PERSON, member.username)]
        if (heard := _last_heard(buffer, member.username)) is not None:
            line.append((Style.QUIET, f", last heard {display.moment(heard)}"))
        if count := offers.get(member.username):
            line.append(f", {count} open offer{'' if count == 1 else 's'}")
        chat.face.result(line)


def _last_heard(buffer: Buffer | None, name: str) -> int | None:
    """When somebody last did something in a room, of what is known here; wire time."""
    if buffer is None:
        return None
    return max((entry.time_us for entry in buffer.entries if entry.who == name), default=None)


async def topic(chat: Chat, text: str | None) -> None:
    """Show the topic, or set it."""
    room = chat.room
    info = await _info(chat, room)
    if text is None:
        chat.face.result([info.topic] if info.topic else [(Style.QUIET, "there is no topic")])
        return
    await _change(chat, lambda: chat.client.set_room(room, text, info.access))


async def access(chat: Chat, word: str) -> None:
    """Say who may join."""
    room = chat.room
    info = await _info(chat, room)
    await _change(chat, lambda: chat.client.set_room(room, info.topic, ACCESSES[word]))


async def close(chat: Chat) -> None:
    """Close the room for good."""
    room = chat.room
    info = await _info(chat, room)
    if await chat.agrees(f"close room {info.name or room} for good?"):
        await _change(chat, lambda: chat.client.set_room(room, info.topic, RoomAccess.CLOSED))


async def role(chat: Chat, user: str, word: str) -> None:
    """Set what a user is in the room."""
    if word != "owner" or await chat.agrees(f"give the room away to {user}?"):
        await _set_role(chat, user, ROLES[word])


async def invite(chat: Chat, user: str) -> None:
    await _set_role(chat, user, RoomRole.MEMBER)


async def kick(chat: Chat, user: str) -> None:
    await _set_role(chat, user, RoomRole.BANNED, 1)


async def ban(chat: Chat, user: str, seconds: int | None) -> None:
    await _set_role(chat, user, RoomRole.BANNED, seconds or 0)


async def mute(chat: Chat, user: str, seconds: int | None) -> None:
    await _set_role(chat, user, RoomRole.MUTED, seconds or 0)


async def pardon(chat: Chat, user: str) -> None:
    await _set_role(chat, user, RoomRole.NONE)


async def _set_role(chat: Chat, user: str, role: RoomRole, seconds: int = 0) -> None:
    room = chat.room
    found = await chat.lasting(lambda: chat.client.lookup(user))
    await _change(chat, lambda: chat.client.set_role(room, found.user_id, role, seconds))


async def _change(chat: Chat, ask: Callable[[], Awaitable[T]]) -> T:
    """Make a change that an event of the room will show."""
    with at_stake("change", "/history", chat.face):
        return await chat.lasting(ask)


# ---- boards


async def board(chat: Chat, action: str | None, text: str | None) -> None:
    """Show the board, or do something with it. UsageError."""
    match action, text:
        case None, _ if chat.face.keeps_lines:
            await board_view.show(chat)
        case "find", _ if chat.model.active.kind is Kind.BOARD:
            await board_view.show(chat, text or "")
        case None, _:
            await _list(chat, "")
        case "find", str():
            await _list(chat, text)
        case "show", str():
            await _show(chat, text)
        case "stats", None:
            for line in room_lines.stats_lines(await _board(chat, chat.room)):
                chat.face.result(line)
            await _show_changes(chat, chat.room)
        case "clear", None:
            await _clear(chat)
        case _:
            raise UsageError("write /board, /board find TEXT, /board show ID, /board stats or "
                             "/board clear")  # fmt: skip


async def _board(chat: Chat, room: int, contains: str = "") -> list[BoardEntry]:
    found: list[BoardEntry] = []

    async def ask() -> tuple[BoardEntry, ...]:
        after = found[-1].entry_id if found else 0
        return await chat.client.board(room, after, contains=contains)

    while page := await chat.lasting(ask):
        found += page
    return found


async def _show_changes(chat: Chat, room: int) -> None:
    """How many entries were made in all, and the last change of the board, by the history."""
    made, last, after = 0, None, 0
    page = await chat.lasting(lambda: chat.client.history(room))
    is_whole, since = page.oldest_seq <= 1, page.events[0].time if page.events else 0
    while page.events:
        for event in page.events:
            if event.kind in BOARD_EVENTS:
                made += event.kind == EventKind.OFFER_ADDED
                last = event
        after = page.events[-1].room_seq
        page = await chat.lasting(partial(chat.client.history, room, after))
    when = "in all" if is_whole else f"since {display.moment(since)}"
    chat.face.result([f"{made} made {when}"])
    if last is not None:
        await chat.learn_names([last])
        told: Line = [(Style.QUIET, f"{display.moment(last.time)} ")]
        chat.face.result(["last change ", *told, *room_lines.said_line(last, chat.model.names)])


async def _list(chat: Chat, contains: str) -> None:
    found = await _board(chat, chat.room, contains)
    for entry in found:
        chat.face.result(room_lines.entry_line(entry))
    if not found:
        chat.face.remark("nothing is on the board" if not contains else "nothing is found")


async def _show(chat: Chat, text: str) -> None:
    number = text.removeprefix("#")
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise UsageError(f"{text[:40]!r} is not the number of an entry")
    entry = await _entry(chat, int(number))
    chat.face.result(room_lines.entry_line(entry))
    chat.face.result([(Style.QUIET, f"put up {display.moment(entry.time)}")])


async def _entry(chat: Chat, entry_id: int) -> BoardEntry:
    """UsageError if it is not there."""
    room = chat.room
    found = await chat.lasting(lambda: chat.client.board(room, max(entry_id - 1, 0), 1))
    if not found or found[0].entry_id != entry_id:
        raise UsageError(f"there is no entry {entry_id} on the board: /board lists them")
    return found[0]


async def offer(chat: Chat, price: int, text: str) -> None:
    """Put up an offer; a price of 0 makes a note."""
    room = chat.room
    await _change(chat, lambda: chat.client.board_add(room, price, text))


async def note(chat: Chat, text: str) -> None:
    await offer(chat, 0, text)


async def take(chat: Chat, entry_id: int) -> None:
    """Pay for an offer, and take it off the board; a person is asked first."""
    room = chat.room
    entry = await _entry(chat, entry_id)
    if not entry.price:
        raise UsageError(f"#{entry_id} is a note, which has no price")
    price = format_amount(entry.price)
    if not await chat.agrees(f"take {entry.text!r} of {entry.username} for {price}?"):
        return
    with at_stake("payment", "/txns", chat.face):
        done = await chat.lasting(lambda: chat.client.board_take(room, entry))
    chat.show_receipt(f"took #{entry_id} for", entry.price, done.balance, done.txn_id)


async def drop(chat: Chat, which: str) -> None:
    """Take an entry off the board, or all of one's own."""
    room = chat.room
    if which == DROP_MINE:
        own = [e for e in await _board(chat, room) if e.user_id == chat.client.user_id]
        await _remove(chat, room, own)
        return
    await _change(chat, lambda: chat.client.board_remove(room, int(which)))


async def _clear(chat: Chat) -> None:
    """Take off the board all that this person may: all of a moderator's room, else their own."""
    room = chat.room
    info, found = await _info(chat, room), await _board(chat, room)
    if info.role not in (RoomRole.OWNER, RoomRole.MODERATOR):
        found = [entry for entry in found if entry.user_id == chat.client.user_id]
    count = f"{len(found)} entr{'y' if len(found) == 1 else 'ies'}"
    if found and not await chat.agrees(f"take {count} off the board?"):
        return
    await _remove(chat, room, found)


async def _remove(chat: Chat, room: int, found: list[BoardEntry]) -> None:
    removed = 0
    for entry in found:
        try:
            await _change(chat, partial(chat.client.board_remove, room, entry.entry_id))
        except NotFound:  # it was taken meanwhile
            continue
        removed += 1
    count = f"{removed} entr{'y' if removed == 1 else 'ies'}"
    chat.face.remark(f"{count} taken off the board")


# ---- blocks


async def block(chat: Chat, user: str) -> None:
    """Hear no more of a user."""
    found = await chat.lasting(lambda: chat.client.lookup(user))
    await chat.lasting(lambda: chat.client.block(found.user_id))
    chat.face.remark(f"{user} is blocked: no messages to you alone, and no notices of payments")


async def unblock(chat: Chat, user: str) -> None:
    found = await chat.lasting(lambda: chat.client.lookup(user))
    await chat.lasting(lambda: chat.client.unblock(found.user_id))
    chat.face.remark(f"{user} is not blocked")
