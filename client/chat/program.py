"""The line chat of `tradechat-cli`: a person at a terminal, or a script through pipes.

A connection that is lost is established again by the client; that it was, and what is unknown by
that, is said here. After as long as a command may wait for its answer, the chat ends.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from prompt_toolkit.patch_stdout import patch_stdout

from client.aio import AsyncClient
from client.chat.command import UsageError
from client.chat.lines import Interrupted, PipeLines, Source, TerminalLines
from client.chat.person import Chat
from client.errors import ClientError, ConnectionLost
from client.terminal.display import Screen
from client.terminal.position import InboxPosition

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


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
        was_lost = self._timer is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if lost is None:
            if was_lost:  # else the server asked for another connection, and nobody noticed
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
