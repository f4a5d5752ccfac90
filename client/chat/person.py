"""What one person does and sees in the chat: the commands, and what others do.

One table, `COMMANDS`, makes the parsing of commands, /help and completion. Commands are executed
one after the other, each to its answer; what others do comes in between, from a task of its own
that also fetches what the server had to leave out. A message counts as sent once it has come back
as an event of its room, so what a script prints stands in the order of its lines.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, assert_never, cast

from client.aio import AsyncClient
from client.amounts import parse_amount
from client.chat.command import Command, Parameter, UsageError
from client.chat.inbox import InboxView
from client.core.gaps import Found, read_range
from client.core.pushes import (
    LogReplaced,
    OutcomesUnknown,
    PaymentGap,
    RoomRefused,
    RoomRestarted,
)
from client.errors import CallTimeout, ConnectionLost, RequestFailed
from client.terminal import display
from client.terminal.advice import at_stake, explain
from client.terminal.arguments import (
    HISTORY_COUNT,
    TXNS_COUNT,
    read_count,
    read_room,
    read_text,
    read_user,
)
from client.terminal.display import Screen, Style
from client.terminal.position import InboxPosition
from libproto.errors import MisuseError
from libproto.messages import (
    LIST_MAX,
    ChatBroadcast,
    DirectMessage,
    Member,
    Payment,
    RoomGap,
    Transaction,
)


class Chat:
    """What one person does and sees over a connection that has logged in."""

    def __init__(
        self, client: AsyncClient, screen: Screen, position: InboxPosition | None = None
    ) -> None:
        """position: up to where the inbox was read; None: nothing of it is known, nor kept."""
        self.client = client
        self.screen = screen
        self.rooms: list[int] = []
        """The rooms joined; the last is the current one, which lines go to."""
        self.people: set[str] = set()
        """Names seen, for completion."""
        self.inbox = InboxView(client, screen, self.people, position or InboxPosition())
        self.failed = False
        """Whether a line was not carried out."""
        self.ended = False
        """Whether /quit was said."""
        self._seen: dict[int, int] = {}  # room -> newest room_seq shown, or known before
        self._moved = asyncio.Event()  # set whenever _seen has grown
        self._names = {0: "", client.user_id: client.username}

    @property
    def room(self) -> int:
        """The current room. UsageError where none is joined."""
        if not self.rooms:
            raise UsageError("no room is joined: /join ROOM")
        return self.rooms[-1]

    async def execute(self, line: str) -> None:
        """Do what a line says. What the server refuses is said and noted; a connection that is
        lost for good is raised."""
        try:
            if line.startswith("/") and not line.startswith("//"):
                command, arguments = parse(line)
                await command.run(self, *arguments)
            elif line.strip():
                await self.say(line.removeprefix("/"))
        except (UsageError, MisuseError) as error:
            self.complain(str(error))
        except (RequestFailed, CallTimeout) as error:
            self.complain(explain(error))
        except ConnectionLost as error:
            if not (self.client.connected or self.client.reconnecting):
                raise
            unknown = getattr(error, "__notes__", ("whether this was said is unknown",))
            self.complain(f"the connection was lost: {'; '.join(unknown)}")

    def complain(self, text: str) -> None:
        """Say that a line was not carried out, and why."""
        self.failed = True
        self.screen.complain(text)

    # -- what comes in

    async def follow(self) -> None:
        """Show what others do, until the client is down."""
        async for push in self.client.pushes():
            match push:
                case ChatBroadcast():
                    self._show(push)
                    self._advance(push.room_id, push.room_seq)
                case RoomGap(room_id=0):
                    await self.inbox.missed(push)
                case RoomGap():
                    await self._fill(push)
                case RoomRestarted():
                    self._seen[push.room_id] = push.last_seq
                    self._moved.set()
                    self.screen.complain(
                        f"room {push.room_id} began anew: what was said before is gone"
                    )
                case RoomRefused():
                    self.rooms = [room for room in self.rooms if room != push.room_id]
                    self.screen.complain(
                        f"room {push.room_id} could not be joined again: {push.detail}"
                    )
                case DirectMessage():
                    await self.inbox.pushed(push)
                case Payment():
                    self.people.add(push.from_name)
                    self.screen.show(display.payment_line(push))
                case LogReplaced():
                    self.screen.complain(
                        "the data of the server was replaced while it was away: balances, "
                        "transactions and messages may be others than were shown here"
                    )
                case OutcomesUnknown():
                    self.screen.complain(
                        "the server does not know this program's payments of before any more: "
                        "whether those without an answer were carried out is unknown; look with "
                        "/txns before you repeat one"
                    )
                case PaymentGap():
                    self.screen.complain(
                        "payments came faster than they could be shown, and some are missing: "
                        "look with /txns"
                    )
                case _:
                    assert_never(push)

    def _show(self, event: ChatBroadcast | RoomGap, *, dated: bool = False) -> None:
        if isinstance(event, RoomGap):
            self.screen.show(display.gap_line(event))
        else:
            self.people.add(event.from_name)
            self.screen.show(display.event_line(event, dated=dated))

    def _advance(self, room: int, seq: int) -> None:
        self._seen[room] = max(seq, self._seen.get(room, 0))
        self._moved.set()

    async def _fill(self, gap: RoomGap) -> None:
        """Show what the server left out, in its place."""
        found: Found = [gap]
        try:
            found = await self._read(gap.room_id, gap.first_seq, gap.last_seq)
        except (RequestFailed, CallTimeout) as error:
            self.screen.complain(explain(error))
        for event in found:
            self._show(event)
        self._advance(gap.room_id, gap.last_seq)

    async def _read(self, room: int, first: int, last: int) -> Found:
        reading = read_range(room, first, last)
        try:
            ask = next(reading)
            while True:
                ask = reading.send(await self.client.history(room, *ask))
        except StopIteration as done:
            return cast(Found, done.value)

    # -- what the person does

    async def say(self, text: str) -> None:
        room = self.room
        with at_stake("message", "/history", self.screen):
            sent = await self.client.send(room, text)
        try:
            async with asyncio.timeout(self.client.timeout_s):
                while self._seen.get(room, 0) < sent.room_seq:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            self.screen.remark(f"sent to room {room}, which has not shown it yet")

    async def join(self, room: int) -> None:
        joined = await self.client.join(room)
        self._advance(room, joined.last_seq)
        if room in self.rooms:
            self.rooms.remove(room)
        self.rooms.append(room)
        count = joined.member_count
        self.screen.remark(f"joined room {room}, {count} member{'' if count == 1 else 's'}")
        await self._meet(room)

    async def _meet(self, room: int) -> list[Member]:
        """The members of a room, whose names complete from now on."""
        members: list[Member] = []
        while page := await self.client.members(room, members[-1].user_id if members else 0):
            members += page
        self.people.update(member.username for member in members)
        return members

    async def leave(self, room: int | None) -> None:
        room = room or self.room
        await self.client.leave(room)
        if room in self.rooms:
            self.rooms.remove(room)
        self.screen.remark(f"left room {room}")

    async def list_rooms(self) -> None:
        after = 0
        while page := await self.client.rooms(after):
            for room in page:
                self.screen.show(display.room_line(room))
            after = page[-1].room_id

    async def who(self, room: int | None) -> None:
        for member in await self._meet(room or self.room):
            self.screen.show([(Style.PERSON, member.username)])

    async def message(self, user: str, text: str) -> None:
        found = await self.client.lookup(user)
        await self.client.direct(found.user_id, text)
        self.people.add(user)
        self.screen.show([(Style.PLACE, f"[you -> {user}]"), f" {text}"])

    async def history(self, count: int | None) -> None:
        room = self.room
        last = self._seen[room]
        first = max(1, last - (count or HISTORY_COUNT) + 1)
        for event in await self._read(room, first, last):
            self._show(event, dated=True)

    async def show_inbox(self, count: int | None) -> None:
        await self.inbox.show_last(count or HISTORY_COUNT)

    async def balance(self) -> None:
        self.screen.show(display.balance_line((await self.client.balance()).balance))

    async def deposit(self, amount: int) -> None:
        with at_stake("deposit", "/txns", self.screen):
            done = await self.client.deposit(amount)
        self.screen.show(display.receipt_line("deposited", amount, done.balance))

    async def withdraw(self, amount: int) -> None:
        with at_stake("withdrawal", "/txns", self.screen):
            done = await self.client.withdraw(amount)
        self.screen.show(display.receipt_line("withdrew", amount, done.balance))

    async def pay(self, user: str, amount: int) -> None:
        found = await self.client.lookup(user)
        with at_stake("payment", "/txns", self.screen):
            done = await self.client.transfer(found.user_id, amount)
        self.people.add(user)
        self.screen.show(display.receipt_line(f"paid {user}", amount, done.balance))

    async def transactions(self, count: int | None) -> None:
        wanted, before = count or TXNS_COUNT, 0
        while wanted:
            answer = await self.client.transactions(before, min(wanted, LIST_MAX))
            page = answer.transactions
            if not page:
                if answer.oldest_txn_id:
                    self.screen.remark(display.OLDER_ARE_GONE)
                break
            await self._name_users(page)
            for entry in page:
                line = display.transaction_line(entry, self.client.user_id, self._names)
                self.screen.show(line)
            wanted, before = wanted - len(page), page[-1].txn_id

    async def _name_users(self, entries: Iterable[Transaction]) -> None:
        for entry in entries:
            for user in (entry.from_user, entry.to_user):
                if user not in self._names:
                    self._names[user] = (await self.client.user_name(user)).username

    async def help(self, name: str | None) -> None:
        if name is None:
            width = max(len(command.usage) for command in COMMANDS)
            for command in COMMANDS:
                self.screen.show([f"{command.usage:{width}}  {command.about}"])
            self.screen.show([f"{'TEXT':{width}}  say it in the current room; //TEXT says /TEXT"])
            return
        found = BY_NAME.get(name.removeprefix("/"))
        if found is None:
            raise UsageError(f"there is no command {name}: /help lists them")
        self.screen.show([f"{found.usage}: {found.about}"])

    async def quit(self) -> None:
        self.ended = True


_ROOM = Parameter("ROOM", read_room, "room")
_ANY_ROOM = Parameter("ROOM", read_room, "room", optional=True)
_USER = Parameter("USER", read_user, "user")
_AMOUNT = Parameter("AMOUNT", parse_amount)
_COUNT = Parameter("N", read_count, optional=True)
_TEXT = Parameter("TEXT", read_text, rest=True)
_COMMAND = Parameter("CMD", str, "command", optional=True)

COMMANDS: tuple[Command, ...] = (
    Command("join", (_ROOM,), "join a room and make it the current one", Chat.join),
    Command("leave", (_ANY_ROOM,), "leave a room, or the current one", Chat.leave),
    Command("rooms", (), "list the rooms that have members or events", Chat.list_rooms),
    Command("who", (_ANY_ROOM,), "list the members of a room, or of the current one", Chat.who),
    Command("msg", (_USER, _TEXT), "send a message to one person", Chat.message),
    Command(
        "inbox", (_COUNT,), f"show the last N ({HISTORY_COUNT}) messages to you", Chat.show_inbox
    ),
    Command(
        "history",
        (_COUNT,),
        f"show the last N events of the current room ({HISTORY_COUNT})",
        Chat.history,
    ),
    Command("balance", (), "show your balance", Chat.balance),
    Command("deposit", (_AMOUNT,), "put money in, like 12.50", Chat.deposit),
    Command("withdraw", (_AMOUNT,), "take money out", Chat.withdraw),
    Command("pay", (_USER, _AMOUNT), "pay somebody", Chat.pay),
    Command("txns", (_COUNT,), f"show your last N transactions ({TXNS_COUNT})", Chat.transactions),
    Command("help", (_COMMAND,), "list the commands, or explain one", Chat.help),
    Command("quit", (), "end the chat", Chat.quit),
)

BY_NAME = {command.name: command for command in COMMANDS}


def parse(line: str) -> tuple[Command, list[Any]]:
    """Return the command that a line starting with one slash names, and its arguments.

    UsageError."""
    name, _, rest = line[1:].partition(" ")
    command = BY_NAME.get(name)
    if command is None:
        raise UsageError(
            f"there is no command /{name}: /help lists them, //{name} sends it as text"
        )
    return command, command.arguments(rest)
