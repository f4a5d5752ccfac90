"""Commands of the chat about files: of the room that is looked at; `get` fetches any one."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from client.chat.command import UsageError
from client.chat.person import Chat
from client.errors import ClientError
from client.terminal.advice import at_stake
from client.terminal.files import file_line, place_of, progress_text, shared_in, size_of, told

_STEP = 25  # percent, of transfers that take more than a moment
_LONG = 1 << 20  # bytes


class _Steps:
    """Says now and then how far a long transfer has come."""

    def __init__(self, chat: Chat, what: str) -> None:
        self._chat, self._what, self._next = chat, what, _STEP

    def __call__(self, done: int, size: int) -> None:
        if size > _LONG and self._next * size <= 100 * done < 100 * size:
            self._chat.face.remark(f"{self._what}: {progress_text(done, size)}")
            self._next = 100 * done // size // _STEP * _STEP + _STEP


@asynccontextmanager
async def _usable(path: str) -> AsyncIterator[None]:
    try:
        yield
    except ClientError:  # some of which are OSErrors, too
        raise
    except OSError as error:
        raise UsageError(told(error, path)) from error


async def send(chat: Chat, path: str) -> None:
    """Share a file in the room."""
    room, path = chat.room, os.path.expanduser(path)
    with at_stake("file", "/files", chat.face):
        async with _usable(path):
            sent = await chat.client.send_file(room, path, progress=_Steps(chat, path))
    chat.face.remark(f"shared as file {sent.file_id}, {size_of(sent.size)}")


async def get(chat: Chat, file_id: int, path: str | None) -> None:
    """Fetch a file, into the current directory under its own name, or to a path."""
    place = place_of(file_id, await _name_of(chat, file_id), path)
    async with _usable(place):
        found = await chat.client.fetch_file(file_id, place, progress=_Steps(chat, place))
    chat.face.remark(f"fetched {place}, {size_of(found.size)}")


async def _name_of(chat: Chat, file_id: int) -> str:
    """The name that a file has in the room that is looked at; empty if it is of another one."""
    for shared in shared_in(await _history(chat)):
        if shared.file.file_id == file_id:
            return shared.file.name
    return ""


async def _history(chat: Chat) -> list[Any]:
    try:
        room = chat.room
    except UsageError:
        return []
    found: list[Any] = []
    after = 0
    while page := (await chat.lasting(partial(chat.client.history, room, after))).events:
        found += page
        after = page[-1].room_seq
    return found


async def list_files(chat: Chat) -> None:
    """The files of the room."""
    room = chat.room  # UsageError where there is none
    shown = shared_in(await _history(chat))
    for shared in shown:
        chat.face.result(file_line(shared))
    if not shown:
        chat.face.remark(f"nobody has shared a file in room {room}")


async def link(chat: Chat, url: str) -> None:
    """Have the server fetch a link and share it."""
    room = chat.room
    with at_stake("link", "/files", chat.face):
        done = await chat.client.fetch_link(room, url, timeout_s=max(chat.client.timeout_s, 90.0))
    chat.face.remark(f"shared as file {done.file_id}, {size_of(done.size)}")
