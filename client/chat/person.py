"""What one person does in the chat: what is typed, carried out, and what it answers.

Commands are executed one after the other, each to its answer. A call that meets a lost connection
waits for the next one, however long that takes, and is carried out once all the same. A message
counts as sent once it has come back as an event of its room, so what a script prints stands in the
order of its lines.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar, cast

from client.aio import AsyncClient
from client.amounts import format_amount
from client.chat import entries
from client.chat.command import UsageError
from client.chat.face import Face
from client.chat.inbox import InboxView
from client.chat.model import Buffer, Entry, Kind, Model, Sort
from client.chat.outage import Outage
from client.chat.room_log import RoomLog
from client.chat.settings import SETTINGS, Settings
from client.core.calls import Receipt, RoomReceipt
from client.core.gaps import Found, read_back, read_range
from client.errors import CallTimeout, ClientError, NotFound, ServerBusy, name_req_id
from client.terminal import display
from client.terminal.advice import at_stake, is_unknown
from client.terminal.arguments import HISTORY_COUNT, TXNS_COUNT
from client.terminal.position import InboxPosition
from client.terminal.room_lines import plain_name, users_of
from client.terminal.style import Line, Style
from libproto.messages import LIST_MAX, ChatBroadcast, Member, RoomGap, Transaction

BUSY_S = 60.0
"""How long a request that the server refuses for the moment is made again."""

T = TypeVar("T")


class Chat:
    """What one person does over a connection that has logged in."""

    def __init__(
        self,
        client: AsyncClient,
        model: Model,
        face: Face,
        settings: Settings | None = None,
        outage: Outage | None = None,
        position: InboxPosition | None = None,
    ) -> None:
        """position: up to where the inbox was read; None: nothing of it is known, nor kept."""
        self.client = client
        self.model = model
        self.face = face
        self.settings = settings or Settings()
        self.outage = outage or Outage()
        self.people: set[str] = set()
        """Names seen, for completion."""
        self.room_names: dict[int, str] = {}
        """Names of rooms, as far as they are known, for completion."""
        self.log = RoomLog(self.settings, self.face.complain)
        self.inbox = InboxView(
            client, model, face, self.people, position or InboxPosition(), self.lasting, self.log
        )
        self.epochs: dict[int, int] = {}
        """Room -> what dates its numbers."""
        self.failed = False
        """Whether a line was not carried out."""
        self.ended = False
        """Whether /quit was said."""
        self.in_doubt = ""
        """The line that ended with the chat, if it was sent: it is perhaps carried out."""
        self.unsent: list[str] = []
        """What was typed and not sent when the chat ended."""
        self.place = ""
        """Where the line that is carried out stands in a script, before what is said of it."""
        self.asks = False
        """Whether somebody is there to be asked."""
        self.password = ""
        """Of who is logged in."""
        self.seen: dict[int, int] = {}
        """Room -> newest room_seq shown, or known before."""
        self.on_rooms: Callable[[], object] = lambda: None
        """Called when rooms were joined or left."""
        self._moved = asyncio.Event()  # set whenever `seen` has grown
        self._names = model.names
        self._names[client.user_id] = client.username
        self._found: tuple[str, Entry] | None = None  # what /find has found last

    @property
    def room(self) -> int:
        """The room that is looked at. UsageError where none is."""
        buffer = self.model.active
        if buffer.kind not in (Kind.ROOM, Kind.BOARD):
            raise UsageError("no room is joined: /join ROOM" if not self.model.rooms else
                             "this is not a room: /buffer ROOM goes to one")  # fmt: skip
        return buffer.room

    @property
    def _room_of_messages(self) -> int:
        """The same, of messages that are looked at. UsageError."""
        if self.model.active.kind is Kind.BOARD:
            raise UsageError("this is a board: q goes to its room")
        return self.room

    # -- lines

    def fail(self, text: str) -> str:
        """Say that a line was not carried out, and why."""
        self.failed = True
        self.face.complain(f"{self.place}{text}")
        return text

    async def lasting(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Make a call. One that meets a lost connection, or a server that is busy for the moment,
        is made again, which carries out what is numbered once all the same."""
        busy_until = asyncio.get_running_loop().time() + BUSY_S
        sent = 0
        while True:
            try:
                await self.outage.over()
            except BaseException as error:  # it is given up
                if sent:
                    name_req_id(error, sent)
                raise
            losses = self.outage.losses
            try:
                return await ask()
            except CallTimeout as error:
                if losses == self.outage.losses and not self.client.reconnecting:
                    raise
                if is_unknown(error):
                    sent = error.req_id
                    ask = cast(Callable[[], Awaitable[T]], partial(self.client.retry, error.req_id))
            except ServerBusy as error:
                pause_s = error.retry_after_ms / 1000
                if not pause_s or asyncio.get_running_loop().time() + pause_s > busy_until:
                    raise
                await asyncio.sleep(pause_s)

    def advance(self, room: int, seq: int) -> None:
        """The events of a room were shown up to this one."""
        self.seen[room] = max(seq, self.seen.get(room, 0))
        self._moved.set()

    # -- what is said

    async def say(self, text: str) -> None:
        buffer = self.model.active
        if buffer.kind is Kind.DIRECT:
            await self.message(buffer.name, text)
            return
        room = self._room_of_messages
        with at_stake("message", "/history", self.face):
            sent = await self.lasting(lambda: self.client.send(room, text))
        try:
            async with asyncio.timeout(self.client.timeout_s):
                while self.seen.get(room, 0) < sent.room_seq:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            self.face.remark(f"sent to room {room}, which has not shown it yet")

    async def message(self, user: str, text: str) -> None:
        found = await self.lasting(lambda: self.client.lookup(user))
        with at_stake("message", "/inbox of whom it is for", self.face):
            sent = await self.lasting(lambda: self.client.direct(found.user_id, text))
        self.people.add(user)
        buffer = self.model.open_direct(user)
        entry = entries.of_sent_direct(self.client.username, user, text, sent.time)
        self.model.add(buffer, entry, is_read=True)
        self.face.shown(buffer, entry)
        self.log.write(buffer, entry)

    # -- rooms

    async def join(self, place: int | str) -> None:
        """Join a room by its number, or by its name, which opens one that is not there."""
        room, called = place, ""
        if isinstance(room, str):
            with at_stake("opening of the room", "/rooms", self.face):
                opened = await self.lasting(lambda: self.client.open_room(str(place)))
            room, called = opened.room_id, f" {place}"
            if opened.created:
                self.face.remark(f"opened room {room}{called}")
        await self._join(room, called)

    async def _join(self, room: int, called: str) -> None:
        is_new = self.model.room(room) is None
        buffer = self.model.open_room(room)  # the first event may come before the answer is seen
        try:
            joined = await self.lasting(lambda: self.client.join(room))
        except BaseException:
            if is_new:
                self.model.close(buffer)
            raise
        self.model.switch(buffer)
        if called:
            buffer.called = called.strip()
        self.advance(room, joined.last_seq)
        self.epochs[room] = joined.epoch
        count = joined.member_count
        self.face.remark(f"joined room {room}{called}, {count} member{'' if count == 1 else 's'}")
        await self.look_at(buffer)  # after it: what happens in the room meanwhile is shown below
        if is_new:
            buffer.older = joined.last_seq
            await self._show_backlog(buffer)
        await self.meet(room)
        self.on_rooms()

    async def look_at(self, buffer: Buffer) -> None:
        """Learn what a room is called, and what it is about, where a person is shown it. Where that
        cannot be now, it stays as it is."""
        if not self.asks:
            return
        with suppress(ClientError):
            while True:
                before = buffer.changes
                info = await self.client.room_info(buffer.room)
                if before == buffer.changes:  # else what came is perhaps newer than this
                    break
            buffer.called, buffer.topic = info.name, info.topic
            buffer.access, buffer.role = info.access, info.role
            self.named_room(buffer.room, info.name)
            self.face.refresh()

    def named_room(self, room: int, name: str) -> None:
        """The name of a room, which completes from now on; empty: it has none."""
        self.room_names.pop(room, None)
        if name:
            self.room_names[room] = name

    async def learn_rooms(self) -> None:
        """Learn the names of all rooms. Raises what the calls do."""
        after = 0
        while page := await self.client.rooms(after):
            for room in page:
                with suppress(NotFound):  # it was closed meanwhile
                    self.named_room(room.room_id, (await self.client.room_info(room.room_id)).name)
            after = page[-1].room_id

    async def _show_backlog(self, buffer: Buffer) -> None:
        if self.asks and self.settings["backlog"]:
            await self.fetch_older(buffer, self.settings["backlog"])
            for entry in [] if self.face.keeps_lines else buffer.entries:
                if entry.sort is not Sort.PRESENCE:
                    self.face.shown(buffer, entry, dated=True)

    async def fetch_older(self, buffer: Buffer, count: int) -> int:
        """Put older lines of a room before those that are there; how many."""
        found, older = await self._read_back(buffer.room, buffer.older, count)
        await self.learn_names(found)
        found = list(filter(self.is_shown, found))
        known = {entry.seq for entry in buffer.entries if entry.seq}
        made = [entries.of_event(self.model, event) for event in found]
        made = [entry for entry in made if entry.seq not in known and not self._ignores(entry.who)]
        self.people.update(entry.who for entry in made if entry.who)
        self.model.prepend(buffer, made, older)
        self.face.refresh()
        return len(made)

    def _ignores(self, name: str) -> bool:
        return name in self.model.ignored

    async def meet(self, room: int) -> list[Member]:
        """The members of a room, whose names complete from now on."""
        members: list[Member] = []

        async def ask() -> tuple[Member, ...]:
            return await self.client.members(room, members[-1].user_id if members else 0)

        while page := await self.lasting(ask):
            members += page
        names = [member.username for member in members]
        self.people.update(names)
        self.model.present(room, names)
        self.face.refresh()
        return members

    async def room_of(self, given: int | str | None) -> int:
        """The number of a room that somebody has named, or of the current one. UsageError."""
        if given is None or isinstance(given, int):
            return given or self.room
        wanted = plain_name(given.removeprefix("#"))

        def found() -> int:
            names = self.room_names.items()
            return next((room for room, name in names if plain_name(name) == wanted), 0)

        number = found()
        if not number:
            await self.lasting(self.learn_rooms)
            number = found()
        if not number:
            raise UsageError(f"there is no room called {given[:40]!r}: /rooms lists them")
        return number

    async def leave(self, room: int | str | None) -> None:
        active = self.model.active
        if room is None and active.kind in (Kind.DIRECT, Kind.BOARD):
            self.model.close(active)
            self.face.refresh()
            return
        number = await self.room_of(room)
        await self.lasting(lambda: self.client.leave(number))
        if buffer := self.model.room(number):
            self.model.close(buffer)
        self.face.remark(f"left room {number}")
        self.on_rooms()

    @staticmethod
    def is_shown(event: ChatBroadcast | RoomGap) -> bool:
        """False for what is not known here."""
        return isinstance(event, RoomGap) or display.is_shown(event)

    async def learn_names(self, found: Iterable[ChatBroadcast | RoomGap]) -> None:
        """Look up who events are about; where that cannot be now, they are shown by the number."""
        for event in found:
            users = users_of(event) if isinstance(event, ChatBroadcast) else ()
            for user in users:
                if user not in self._names:
                    with suppress(ClientError):
                        self._names[user] = (await self.client.user_name(user)).username

    async def history(self, count: int | None) -> None:
        room, wanted = self._room_of_messages, count or HISTORY_COUNT
        buffer = self.model.active
        if self.face.keeps_lines:
            if not await self.fetch_older(buffer, wanted):
                self.face.remark("there is nothing older")
            return
        found, _ = await self._read_back(room, self.seen[room], wanted)
        await self.learn_names(found)
        for event in filter(self.is_shown, found):
            self.face.shown(buffer, entries.of_event(self.model, event), dated=True)

    async def _read_back(self, room: int, last: int, count: int) -> tuple[Found, int]:
        reading = read_back(room, last, count)
        try:
            ask = next(reading)
            while True:
                ask = reading.send(await self.lasting(partial(self.client.history, room, *ask)))
        except StopIteration as done:
            return cast(tuple[Found, int], done.value)

    async def read_gap(self, gap: RoomGap) -> list[ChatBroadcast | RoomGap]:
        """What the server left out. Raises what the calls do."""
        reading = read_range(gap.room_id, gap.first_seq, gap.last_seq)
        try:
            ask = next(reading)
            while True:
                ask = reading.send(await self.client.history(gap.room_id, *ask))
        except StopIteration as done:
            return cast(Found, done.value)

    async def show_inbox(self, count: int | None) -> None:
        await self.inbox.show_last(count or HISTORY_COUNT)

    # -- money

    async def balance(self) -> None:
        found = await self.lasting(self.client.balance)
        self.model.learn_balance(*found)
        self.face.money(display.balance_line(found.balance))

    async def deposit(self, amount: int) -> None:
        with at_stake("deposit", "/txns", self.face):
            done = await self.lasting(lambda: self.client.deposit(amount))
        self.show_receipt("deposited", amount, done.balance, done.txn_id)

    async def withdraw(self, amount: int) -> None:
        if not await self._is_meant(amount, f"withdraw {format_amount(amount)}?"):
            return
        with at_stake("withdrawal", "/txns", self.face):
            done = await self.lasting(lambda: self.client.withdraw(amount))
        self.show_receipt("withdrew", amount, done.balance, done.txn_id)

    async def pay(self, user: str, amount: int, note: str | None) -> None:
        """Pay somebody; in a room, where it is shown, with the note. UsageError."""
        room = self.model.active.room
        if note is not None and not room:
            raise UsageError("a note is shown in a room, and this is none")
        found = await self.lasting(lambda: self.client.lookup(user))
        if not await self._is_meant(amount, f"pay {user} {format_amount(amount)}?"):
            return
        with at_stake("payment", "/txns", self.face):
            done: Receipt | RoomReceipt
            if room:
                done = await self.lasting(
                    lambda: self.client.transfer_in_room(room, found.user_id, amount, note or "")
                )
            else:
                done = await self.lasting(lambda: self.client.transfer(found.user_id, amount))
        self.people.add(user)
        self._names[found.user_id] = user
        self.show_receipt(f"paid {user}", amount, done.balance, done.txn_id)

    async def _is_meant(self, amount: int, question: str) -> bool:
        return amount <= self.settings["confirm_over"] or await self.agrees(
            question, "nothing was moved"
        )

    async def agrees(self, question: str, otherwise: str = "nothing was done") -> bool:
        """Whether who is there to be asked says yes, else `otherwise` is said; where nobody is,
        that is what was meant."""
        if not self.asks:
            return True
        answer = await self.face.ask(f"{question} [y/N] ")
        if answer.strip().lower() in ("y", "yes"):
            return True
        self.face.remark(otherwise)
        return False

    def show_receipt(self, what: str, amount: int, balance: int, txn_id: int) -> None:
        """Show what became of one's own money."""
        self.model.learn_balance(balance, txn_id)
        line = display.receipt_line(what, amount, balance)
        self.face.money([*line, (Style.QUIET, f", transaction {txn_id}")])

    async def transactions(self, count: int | None) -> None:
        wanted, before = count or TXNS_COUNT, 0
        while wanted:
            ask = partial(self.client.transactions, before, min(wanted, LIST_MAX))
            answer = await self.lasting(ask)
            page = answer.transactions
            if not page:
                if answer.oldest_txn_id:
                    self.face.remark(display.OLDER_ARE_GONE)
                break
            await self._name_users(page)
            for entry in page:
                line = display.transaction_line(entry, self.client.user_id, self._names)
                self.face.result(line)
            wanted, before = wanted - len(page), page[-1].txn_id

    async def _name_users(self, found: Iterable[Transaction]) -> None:
        for entry in found:
            for user in (entry.from_user, entry.to_user):
                if user not in self._names:
                    named = await self.lasting(partial(self.client.user_name, user))
                    self._names[user] = named.username

    # -- the chat itself

    async def buffer(self, name: str | None) -> None:
        if name is None:
            for number, buffer in enumerate(self.model.buffers, 1):
                self.face.result(_buffer_line(number, buffer, buffer is self.model.active))
            return
        found = self.model.named(name)
        if found is None:
            user = await self.lasting(lambda: self.client.lookup(name.removeprefix("@")))
            found = self.model.open_direct(user.username)
        self.model.switch(found)
        self.face.refresh()

    async def find(self, text: str) -> None:
        """Show the last line with this text; the same again, the one before."""
        buffer = self.model.active
        before = None
        if self._found is not None:
            wanted, entry = self._found
            if wanted == text and entry in buffer.entries:
                before = buffer.entries.index(entry)
        place = Model.find(buffer, text, before)
        while place is None and buffer.kind is Kind.ROOM and buffer.older:
            added = await self.fetch_older(buffer, LIST_MAX)
            place = Model.find(buffer, text, added)
        if place is None:
            self._found = None
            raise UsageError(f"{text!r} is not found here")
        self._found = text, buffer.entries[place]
        self.face.found(buffer, place)

    async def set(self, name: str | None, value: str | None) -> None:
        if name is None:
            for setting in SETTINGS:
                about = (Style.QUIET, f"  # {setting.about}")
                self.face.result([self.settings.line(setting.name), about])
            return
        if value is not None:
            self.settings.set(name, value)
        self.face.result([self.settings.line(name)])

    async def quit(self) -> None:
        self.ended = True


def _buffer_line(number: int, buffer: Buffer, is_active: bool) -> Line:
    unread = f", {buffer.unread} unread" if buffer.unread else ""
    return [
        f"{number} ",
        (Style.PLACE, buffer.title),
        (Style.QUIET, f"{', here' if is_active else ''}{unread}"),
    ]
