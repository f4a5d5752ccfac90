"""The chat on a screen, from its beginning to its end."""

import asyncio
from contextlib import suppress

from prompt_toolkit.application import Application
from prompt_toolkit.history import History

from client.chat.ends import SIGHUP, Terminated
from client.chat.person import Chat
from client.chat.screen import ChatScreen
from client.chat.screen_face import ScreenFace
from client.chat.screen_keys import bindings
from client.chat.worker import Worker


async def attend_screen(chat: Chat, face: ScreenFace, history: History) -> None:
    """Show the chat until the person ends it. Interrupted."""
    worker = Worker(chat)
    screen = ChatScreen(chat, face, worker, history)
    screen.app.key_bindings = bindings(screen)
    working = asyncio.create_task(worker.run())
    measuring = asyncio.create_task(screen.measure())
    working.add_done_callback(lambda _: _exit(screen.app))
    try:
        try:
            await screen.app.run_async()
        except (EOFError, OSError) as error:  # the terminal went away
            raise Terminated(SIGHUP) from error
        if not working.done() and not chat.outage.is_out:
            draining = asyncio.ensure_future(worker.drained())
            await asyncio.wait(
                {draining, working},
                timeout=chat.client.timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            draining.cancel()
        if working.done():
            working.result()
    finally:
        screen.close()
        for task in (working, measuring):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        drafts = [screen.input.text, *(each.draft for each in chat.model.buffers)]
        chat.unsent = [*worker.unsent, *filter(str.strip, drafts)]


def _exit(app: Application[None]) -> None:
    if app.is_running and not app.is_done:
        app.exit()
