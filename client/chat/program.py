"""The chat of `tradechat-cli`: on a screen for a person at a terminal, else line after line."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from client.aio import AsyncClient
from client.chat.commands import execute
from client.chat.ends import Interrupted, Terminated
from client.chat.incoming import Incoming
from client.chat.line_face import LineFace
from client.chat.memory import Memory
from client.chat.model import COUNTED, Model
from client.chat.outage import Outage
from client.chat.person import Chat
from client.chat.screen_face import ScreenFace
from client.chat.script import attend_script
from client.chat.settings import Settings
from client.errors import NotFound
from client.terminal.display import Screen
from client.terminal.position import InboxPosition
from client.terminal.room_lines import plain_name
from client.terminal.style import Style

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Start:
    """How a chat is to begin. room: to be joined. plain: line after line at a terminal, too.
    stop_on_error: a script ends at the first line that fails. history: the file of what was typed
    before; None: nothing of it is kept. memory: what was kept the last time. paid: up to
    which payment was shown. password: that has logged in."""

    room: int | str | None = None
    plain: bool = False
    stop_on_error: bool = False
    history: Path | None = None
    memory: Memory | None = None
    paid: InboxPosition = field(default_factory=InboxPosition)
    password: str = field(default="", repr=False)


async def converse(
    client: AsyncClient,
    screen: Screen,
    start: Start,
    outage: Outage,
    position: InboxPosition,
    settings: Settings,
) -> int:
    """Show what came while the person was away, by `position`, and chat until the input ends,
    /quit, or the client is down (which is raised); the client has logged in, and tells `outage`.
    Answers the exit code: at a terminal 0, through pipes 1 if a line failed."""
    is_person = sys.stdin.isatty() and sys.stdout.isatty()
    is_dumb = os.environ.get("TERM", "dumb") in ("dumb", "")
    model = Model(client.username)

    def apply() -> None:
        model.highlights = settings["highlight"]
        model.ignored = frozenset(settings["ignore"])

    settings.watch(apply)
    lines = LineFace(screen, settings, for_a_person=is_person)
    on_screen = ScreenFace(model, settings)
    has_screen = is_person and not is_dumb and not start.plain
    chat = Chat(client, model, on_screen if has_screen else lines, settings, outage, position)
    chat.asks = is_person and not is_dumb
    chat.password = start.password

    async def attend() -> None:
        if not chat.asks:
            await attend_script(chat, start.stop_on_error, is_person)
            return
        from client.chat.lines import attend_person  # these load the editor of input lines
        from client.chat.on_screen import attend_screen
        from client.chat.typed import history_of

        if has_screen:
            await attend_screen(chat, on_screen, history_of(start.history))
        else:
            await attend_person(chat, lines, history_of(start.history))

    try:
        await _run(chat, start, attend)
        return EXIT_FAILED if chat.failed and not is_person else 0
    except Interrupted:
        return EXIT_INTERRUPTED
    except Terminated as end:
        return 128 + end.number
    finally:
        if start.paid.seq is None and client.payments_after is not None:
            start.paid.advance(0, client.payments_after)  # of the first run: none was shown
        if is_person:
            _discard_input()
        if chat.asks and start.memory is not None:
            _keep(chat, start.memory)
        if chat.in_doubt:
            screen.complain(f"it is not known whether this was carried out: {chat.in_doubt}")
        for line in chat.unsent:
            screen.complain(f"not sent: {line}")


async def _run(chat: Chat, start: Start, attend: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Attend to what is typed and what comes, until one of both ends. Terminated."""
    incoming, outage = Incoming(chat, start.paid), chat.outage
    client = chat.client
    chat.face.remark(
        f"logged in as {client.username} to {client.server_name}; /help lists the commands"
    )
    with _until_signal() as signalled:
        following = asyncio.create_task(incoming.follow())
        attending = asyncio.create_task(_attend(chat, start, attend))
        try:
            ending: set[asyncio.Future[Any]] = {following, attending, signalled}
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            outage.stop()
            for task in (following, attending):
                task.cancel()
            lost, ended = await asyncio.gather(following, attending, return_exceptions=True)
    if not signalled.cancelled():
        raise Terminated(signalled.result())
    if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
        raise outage.reason or ended
    if isinstance(lost, BaseException) and not isinstance(lost, asyncio.CancelledError):
        raise outage.reason or lost


async def _rejoin(chat: Chat, memory: Memory) -> None:
    """Join the rooms of the last time, and count what was said in them since."""
    kept = {}
    for room, newest in memory.rooms.items():
        name = memory.names.get(room, "")
        number = await _find(chat, room, name) if name else room
        if number:
            kept[number] = newest
            await execute(chat, f"/join {number}")
        else:
            chat.face.complain(f"room {name} is not there any more: /join {name} opens it anew")
    for room, (epoch, seq) in kept.items():
        buffer = chat.model.room(room)
        if buffer is None or buffer is chat.model.active or chat.epochs.get(room) != epoch:
            continue
        new = [each for each in buffer.entries if each.seq > seq and each.sort in COUNTED]
        buffer.unread = len(new)
        buffer.mentions = sum(each.is_mention for each in new)
    chat.face.refresh()


async def _find(chat: Chat, room: int, name: str) -> int:
    """The number that the room of a name has now: its number may be another room's, and the name
    that of another number. 0: there is none."""

    async def is_it(number: int) -> bool:
        try:
            info = await chat.lasting(lambda: chat.client.room_info(number))
        except NotFound:
            return False
        return plain_name(info.name) == plain_name(name)

    if await is_it(room):
        return room
    after = 0
    while page := await chat.lasting(partial(chat.client.rooms, after)):
        for each in page:
            if await is_it(each.room_id):
                return each.room_id
        after = page[-1].room_id
    return 0


def _keep(chat: Chat, memory: Memory) -> None:
    """Keep for the next time what is known now."""
    memory.rooms = {
        room: (chat.epochs[room], chat.seen.get(room, 0))
        for room in chat.model.rooms
        if room in chat.epochs
    }
    known = ((room, chat.model.room(room)) for room in memory.rooms)
    memory.names = {room: buffer.called for room, buffer in known if buffer and buffer.called}
    memory.unsent = chat.unsent
    memory.save()


async def _attend(
    chat: Chat, start: Start, attend: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    await chat.inbox.catch_up()
    if chat.asks and start.memory is not None:
        for line in start.memory.unsent:
            chat.face.remark((Style.WRONG, f"not sent the last time: {line}"))
        if chat.settings["rejoin"]:
            await _rejoin(chat, start.memory)
    if start.room is not None:
        await execute(chat, f"/join {start.room}")
    await attend()


@contextmanager
def _until_signal() -> Iterator[asyncio.Future[int]]:
    """A future that has the number of the signal which asks the program to end."""
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[int] = loop.create_future()

    def arrived(number: int) -> None:
        if not signalled.done():
            signalled.set_result(number)

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    with suppress(NotImplementedError):  # a system without
        for number in numbers:
            loop.add_signal_handler(number, arrived, number)
    try:
        yield signalled
    finally:
        signalled.cancel()
        with suppress(NotImplementedError):  # likewise
            for number in numbers:
                loop.remove_signal_handler(number)


def _discard_input() -> None:
    """Drop what was typed and not read: it was meant for the chat, not for the shell."""
    try:
        import termios  # not at the top: there is none on some systems
    except ImportError:
        return
    with suppress(termios.error, OSError, ValueError):  # the terminal may be gone
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
