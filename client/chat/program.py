"""The line chat of `tradechat-cli`: a person at a terminal, or a script through pipes.

One table, `COMMANDS`, makes the parsing of commands, /help and completion. Commands are executed
one after the other, each to its answer; what others do comes in between, from a task of its own
that also fetches what the server had to leave out. A message counts as sent once it has come back
as an event of its room, so what a script prints stands in the order of its lines.

A connection that is lost is established again by the client; that it was, and what is unknown by
that, is said here. After as long as a command may wait for its answer, the chat ends.

At a terminal the input line stays below what comes in, and vanishes when it is done: a message is
seen as everybody sees it, a command is repeated above its result.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, assert_never, cast

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout

from client.aio import AsyncClient
from client.amounts import parse_amount
from client.chat.inbox import InboxView
from client.core.gaps import Found, read_range
from client.core.pushes import (
    LogReplaced,
    OutcomesUnknown,
    PaymentGap,
    RoomRefused,
    RoomRestarted,
)
from client.errors import CallTimeout, ClientError, ConnectionLost, RequestFailed
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

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
LINE_MAX = 1 << 20  # bytes; far more than any message may have
_READ_SIZE = 65536


class UsageError(ValueError):
    """A line that is no command, or one that lacks something; the text says what to write."""


# ---- the commands


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a command. `kind` names the words that complete it."""

    name: str
    read: Callable[[str], Any]
    kind: str = ""
    optional: bool = False
    rest: bool = False  # takes what is left of the line, blanks and all

    def __str__(self) -> str:
        return f"[{self.name}]" if self.optional else self.name


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. `run` gets the chat and an argument per parameter, None where absent."""

    name: str
    parameters: tuple[Parameter, ...]
    about: str
    run: Callable[..., Awaitable[None]]

    @property
    def usage(self) -> str:
        """How it is written: /pay USER AMOUNT."""
        return " ".join([f"/{self.name}", *map(str, self.parameters)])

    def arguments(self, text: str) -> list[Any]:
        """Return the arguments that `text`, the line after the name, gives. UsageError."""
        found: list[Any] = []
        for parameter in self.parameters:
            text = text.lstrip()
            word = text if parameter.rest else text.split(maxsplit=1)[0] if text else ""
            text = text[len(word) :]
            if not word and parameter.optional:
                found.append(None)
                continue
            if not word:
                raise UsageError(f"{parameter.name} is missing: {self.usage}")
            try:
                found.append(parameter.read(word))
            except ValueError as error:
                raise UsageError(f"{error}; {self.usage}") from error
        if text.strip():
            raise UsageError(f"{text.strip()!r} is too much: {self.usage}")
        return found


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


# ---- the chat


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


# ---- where lines come from


class Interrupted(Exception):
    """Ctrl-C on an empty input line."""


class Source(Protocol):
    """Where lines come from."""

    async def read_line(self) -> str | None:
        """Return the next line without its end, or None after the last. Interrupted."""


class PipeLines:
    """The lines of a descriptor that is no terminal, read without a thread: one that waited for a
    line would hold up the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = bytearray()
        self._at_end = False

    async def read_line(self) -> str | None:
        """UsageError: the line is not UTF-8."""
        while not self._at_end and b"\n" not in self._held:
            if len(self._held) > LINE_MAX:
                self._held.clear()
                self._at_end = True
                raise UsageError(f"a line is longer than {LINE_MAX} bytes: the rest is not read")
            await self._readable()
            data = os.read(self._descriptor, _READ_SIZE)
            self._held += data
            self._at_end = not data
        if not self._held:
            return None
        end = self._held.find(b"\n")
        line = bytes(self._held if end < 0 else self._held[:end])
        del self._held[: len(line) + 1]
        try:
            return line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise UsageError("a line is not UTF-8 text, and was passed over") from error

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, ready.set)
        except PermissionError:  # a regular file: epoll has no use for it, it is always readable
            return
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._descriptor)


class TerminalLines:
    """The lines of a person, edited with history and completion."""

    def __init__(self, chat: Chat) -> None:
        keys = KeyBindings()

        @keys.add("c-c")
        @keys.add("<sigint>")
        def drop_or_end(event: KeyPressEvent) -> None:
            """As in a shell: drop what was typed; on an empty line, end."""
            if event.app.current_buffer.text:
                event.app.current_buffer.reset()
            else:
                event.app.exit(exception=Interrupted())

        self._chat = chat
        self._session: PromptSession[str] = PromptSession(
            completer=CommandCompleter(chat),
            complete_while_typing=False,
            erase_when_done=True,
            key_bindings=keys,
        )

    async def read_line(self) -> str | None:
        rooms = self._chat.rooms
        try:
            line = await self._session.prompt_async(f"[room {rooms[-1]}] > " if rooms else "> ")
        except EOFError:  # Ctrl-D
            return None
        if line.startswith("/") and not line.startswith("//"):
            self._chat.screen.remark((Style.QUIET, f"> {line}"))
        return line


class CommandCompleter(Completer):
    """Completes commands and, by the kind of the parameter, what stands behind them."""

    def __init__(self, chat: Chat) -> None:
        self._words: dict[str, Callable[[], Iterable[str]]] = {
            "": tuple,
            "room": lambda: map(str, chat.rooms),
            "user": lambda: sorted(chat.people - {chat.client.username}),
            "command": lambda: BY_NAME,
        }

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        del complete_event
        line = document.text_before_cursor
        if not line.startswith("/"):
            return
        *before, word = line.split(" ")
        if not before:
            for command in COMMANDS:
                if command.name.startswith(word[1:]):
                    yield Completion(f"/{command.name}", -len(word), command.usage, command.about)
            return
        named = BY_NAME.get(before[0][1:])
        place = len(before) - 1
        if named is not None and place < len(named.parameters):
            for choice in self._words[named.parameters[place].kind]():
                if choice.startswith(word):
                    yield Completion(choice, -len(word))


# ---- the whole


class Outage:
    """What is said when the connection is lost and there again; too long without one closes the
    client. `tell` is the client's on_reconnect."""

    def __init__(self, client: AsyncClient, screen: Screen) -> None:
        self._client = client
        self._screen = screen
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self.look: Callable[[], Coroutine[Any, Any, None]] | None = None
        """What is done when the connection is there again."""
        self.reason = "the connection was closed"
        """Why the chat ends, if it ends by this."""

    def tell(self, lost: ClientError | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if lost is None:
            self._screen.remark("connected again")
            if self.look is not None:
                self._looking = asyncio.ensure_future(self.look())
            return
        self._screen.remark("connection lost, reconnecting…")
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._client.timeout_s, self._give_up, lost)

    def _give_up(self, lost: ClientError) -> None:
        self.reason = f"{lost}, and it did not come back within {self._client.timeout_s:g} s"
        self._closing = asyncio.ensure_future(self._client.close())


async def converse(
    client: AsyncClient,
    screen: Screen,
    room: int | None,
    outage: Outage,
    position: InboxPosition,
) -> int:
    """Show what came while the person was away, by `position`, and chat until the input ends,
    /quit, or the client is down (which is raised); the client has logged in, and tells `outage`.
    Answers the exit code: at a terminal 0, through pipes 1 if a line failed."""
    chat = Chat(client, screen, position)
    screen.remark(
        f"logged in as {client.username} to {client.server_name}; /help lists the commands"
    )
    await chat.inbox.catch_up()
    outage.look = chat.inbox.look_again
    following = asyncio.create_task(chat.follow())
    try:
        if room is not None:
            await chat.execute(f"/join {room}")
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            await _attend(chat, PipeLines(sys.stdin.fileno()), following, outage)
            return EXIT_FAILED if chat.failed else 0
        with patch_stdout(raw=True):  # raw: the colours are ours, the rest is escaped
            await _attend(chat, TerminalLines(chat), following, outage)
        return 0
    except Interrupted:
        return EXIT_INTERRUPTED
    finally:
        outage.look = None
        following.cancel()
        await asyncio.wait({following})


async def _attend(
    chat: Chat, source: Source, following: asyncio.Task[None], outage: Outage
) -> None:
    """Execute line after line, until the last. Whatever ends `following` ends this too."""
    while not chat.ended:
        reading = asyncio.ensure_future(source.read_line())
        try:
            await asyncio.wait({reading, following}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            [line] = await asyncio.gather(reading, return_exceptions=True)
        if following.done():
            following.result()
            raise ConnectionLost(outage.reason)
        if isinstance(line, UsageError):
            chat.complain(str(line))
            continue
        if isinstance(line, BaseException):
            raise line
        if line is None:
            return
        await chat.execute(line)
