"""Waiting for what is put into an inbox: of a thread, and of a task."""

import asyncio
import threading
import time
from functools import partial
from typing import Any

from client.core.inbox import Inbox
from client.errors import CallTimeout
from client.io.thread import Ticket


def left(deadline: float) -> float:
    """Seconds until then, by time.monotonic()."""
    return max(0.0, deadline - time.monotonic())


def wait_for_item(inbox: Inbox, deadline: float | None) -> Any:
    """The next item; None if there will be none, CallTimeout if there was none by the deadline
    (time.monotonic() seconds; None waits for ever). Nothing may be called between its return and
    that of whoever called it: see `Inbox.take`."""
    late = False
    while True:
        ended = inbox.ended
        item = inbox.take()
        if item is not None or ended:
            return item
        if late:
            raise CallTimeout("no push came in time")
        late = not _wait_for_change(inbox, deadline)


def _wait_for_change(inbox: Inbox, deadline: float | None) -> bool:
    ticket = Ticket()
    inbox.when_changed(ticket.settle)
    try:
        if not inbox.idle:
            return True
        return ticket.wait(threading.TIMEOUT_MAX if deadline is None else left(deadline))
    finally:
        inbox.forget(ticket.settle)


async def next_item(inbox: Inbox) -> Any:
    """The next item; None if there will be none. A cancel takes none away."""
    loop = asyncio.get_running_loop()
    while True:
        ended = inbox.ended
        item = inbox.take()
        if item is not None or ended:
            return item
        changed = loop.create_future()
        wake = partial(_wake, loop, changed)
        inbox.when_changed(wake)
        try:
            if inbox.idle:
                await changed
        finally:
            inbox.forget(wake)


def _wake(loop: asyncio.AbstractEventLoop, changed: "asyncio.Future[None]") -> None:
    if not changed.done() and not loop.is_closed():
        changed.set_result(None)
