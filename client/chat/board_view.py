"""The board of a room as a buffer of the screen: opened, followed, and what is done with the entry
under the cursor."""

from collections.abc import Awaitable, Callable
from functools import partial

from client.amounts import format_amount
from client.chat import entries
from client.chat.board import Board
from client.chat.command import UsageError
from client.chat.model import Buffer
from client.chat.person import Chat
from client.core.room_events import MessageDeleted, read_event
from client.errors import ClientError, NotFound
from client.terminal.advice import at_stake, explain
from libproto.messages import BoardEntry, ChatBroadcast


async def show(chat: Chat, wanted: str = "") -> None:
    """Look at the board of the room, as it is now; of it, what has a text. Raises what the calls
    do."""
    room = chat.room
    is_new = chat.model.board(room) is None
    buffer = chat.model.open_board(room)
    assert buffer.board is not None, "it was opened as a board"
    buffer.board.find(wanted)
    try:
        await _read(buffer, lambda after: chat.lasting(partial(chat.client.board, room, after)))
    except BaseException:
        if is_new:
            chat.model.close(buffer)
        raise
    if buffer in chat.model.buffers:  # else the room was left meanwhile
        chat.model.switch(buffer)
    chat.face.refresh()


async def _read(buffer: Buffer, ask: Callable[[int], Awaitable[tuple[BoardEntry, ...]]]) -> None:
    """ask: for the entries after a number."""
    board = buffer.board
    assert board is not None, "it was opened as a board"
    found: list[BoardEntry] = []
    board.reading()
    while page := await ask(found[-1].entry_id if found else 0):
        found += page
    board.read(found)


async def follow(chat: Chat, event: ChatBroadcast) -> None:
    """Do to the board what an event of its room says, and show that, where it is looked at."""
    buffer = chat.model.board(event.room_id)
    if buffer is None or buffer.board is None:
        return
    said = read_event(event)
    if buffer.board.follow(said, event):
        chat.model.add(buffer, entries.of_event(chat.model, event), is_read=True)
        chat.face.refresh()
    elif isinstance(said, MessageDeleted):  # perhaps the text of an entry
        await read_again(chat, event.room_id)


async def read_again(chat: Chat, room: int, *, is_new: bool = False) -> None:
    """Read a board again that is open. is_new: the room has begun anew, and its numbers too."""
    buffer = chat.model.board(room)
    if buffer is None or buffer.board is None:
        return
    if is_new:
        buffer.board = Board(buffer.board.wanted)
    try:
        await _read(buffer, partial(chat.client.board, room))
    except ClientError as error:
        chat.face.complain(f"the board may have changed: {explain(error)}; /board reads it again")
        return
    chat.face.refresh()


def question(entry: BoardEntry) -> str:
    """What is asked before an offer is taken: what others wrote is last."""
    price = format_amount(entry.price)
    return f"pay {entry.username} {price} and take #{entry.entry_id}? {entry.text}"


async def take(chat: Chat, buffer: Buffer, entry: BoardEntry) -> None:
    """Pay for an offer, as it was shown, and take it, if the person says yes. UsageError."""
    if not entry.price:
        raise UsageError(f"#{entry.entry_id} is a note, which has no price")
    if entry.user_id == chat.client.user_id:
        raise UsageError(f"#{entry.entry_id} is your own: d takes it off the board")
    if not await chat.agrees(question(entry)):
        return
    with at_stake("payment", "/txns", chat.face):
        try:
            done = await chat.lasting(lambda: chat.client.board_take(buffer.room, entry))
        except NotFound as error:
            raise UsageError(_too_late(buffer, entry.entry_id)) from error
    _remove(buffer, entry.entry_id)
    chat.show_receipt(f"took #{entry.entry_id} for", entry.price, done.balance, done.txn_id)


async def drop(chat: Chat, buffer: Buffer, entry: BoardEntry) -> None:
    """Take an entry of one's own off the board, if the person says yes. UsageError."""
    number = entry.entry_id
    if entry.user_id != chat.client.user_id:
        raise UsageError(f"#{number} is not yours: /drop {number} is for moderators")
    if not await chat.agrees(f"take your #{number} off the board? {entry.text}"):
        return
    with at_stake("change", "/board", chat.face):
        try:
            await chat.lasting(lambda: chat.client.board_remove(buffer.room, number))
        except NotFound as error:
            raise UsageError(_too_late(buffer, number)) from error
    _remove(buffer, number)


def _remove(buffer: Buffer, entry_id: int) -> None:
    if buffer.board is not None:
        buffer.board.remove(entry_id)


def _too_late(buffer: Buffer, entry_id: int) -> str:
    """Why an entry is not there any more, as far as it was seen."""
    _remove(buffer, entry_id)
    taker = buffer.board.takers.get(entry_id) if buffer.board is not None else None
    who = f"{taker} has taken #{entry_id}" if taker else f"#{entry_id} was taken, or taken off,"
    return f"{who} meanwhile: nothing was done"


def close(chat: Chat, buffer: Buffer) -> None:
    """Leave the view, for its room."""
    room = chat.model.room(buffer.room)
    chat.model.close(buffer)
    if room is not None:
        chat.model.switch(room)
    chat.face.refresh()
