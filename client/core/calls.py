"""The one description of the calls: name, arguments, message, result, and what they are for.

Each function is a call of both clients: its name, its arguments and its docstring are those of the
method, and what it returns is the request and what makes the result of the answer. The methods of
`Client` and `AsyncClient` are written from here by `python -m client.facades`. REGISTER and LOGIN
take several requests: `client.core.login` describes them.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from libproto.messages import (
    LIST_MAX,
    BalanceResponse,
    ChatSendResponse,
    DepositResponse,
    DirectSendResponse,
    HeartbeatResponse,
    JoinRoomResponse,
    Member,
    Opcode,
    RoomEntry,
    RoomHistoryResponse,
    Transaction,
    TransferResponse,
    UserLookupResponse,
    UserNameResponse,
    WithdrawResponse,
)

R = TypeVar("R")


class Call(NamedTuple, Generic[R]):
    """One request, and what the caller gets of the fields of its OK response."""

    opcode: Opcode
    fields: tuple[Any, ...]
    result: Callable[[tuple[Any, ...]], R]


def _nothing(_: tuple[Any, ...]) -> None:
    return None


def _first(fields: tuple[Any, ...]) -> Any:
    return fields[0]


def _second(fields: tuple[Any, ...]) -> Any:
    return fields[1]


# ---- the session


def logout() -> Call[None]:
    """End the session and leave all rooms; the connection stays, for another login."""
    return Call(Opcode.LOGOUT, (), _nothing)


def heartbeat(client_time: int) -> Call[HeartbeatResponse]:
    """Ask for the server's time. What keeps the connection alive is sent without this."""
    return Call(Opcode.HEARTBEAT, (client_time,), HeartbeatResponse._make)


# ---- chat


def join(room_id: int) -> Call[JoinRoomResponse]:
    """Join a room: its events after `last_seq` will be pushed. NotFound: no such room."""
    return Call(Opcode.JOIN_ROOM, (room_id,), JoinRoomResponse._make)


def leave(room_id: int) -> Call[None]:
    """Leave a room. NotFound if it is not joined."""
    return Call(Opcode.LEAVE_ROOM, (room_id,), _nothing)


def send(room_id: int, message: str) -> Call[ChatSendResponse]:
    """Say something in a joined room; Unauthorized if it is not joined."""
    return Call(Opcode.CHAT_SEND, (room_id, message), ChatSendResponse._make)


def history(room_id: int, after_seq: int = 0, limit: int = LIST_MAX) -> Call[RoomHistoryResponse]:
    """Events of a room after `after_seq`, ascending, at most 256; none is the end."""
    return Call(Opcode.ROOM_HISTORY, (room_id, after_seq, limit), RoomHistoryResponse._make)


def rooms(after_room_id: int = 0) -> Call[tuple[RoomEntry, ...]]:
    """Rooms with members or events, ascending, at most 256; none is the end."""
    return Call(Opcode.ROOM_LIST, (after_room_id,), _first)


def members(room_id: int, after_user_id: int = 0) -> Call[tuple[Member, ...]]:
    """Members of a room by ascending user_id, at most 256; none is the end."""
    return Call(Opcode.ROOM_MEMBERS, (room_id, after_user_id), _first)


def direct(to_user: int, message: str) -> Call[DirectSendResponse]:
    """Say something to one user, on all their connections; NotFound if there is none."""
    return Call(Opcode.DIRECT_SEND, (to_user, message), DirectSendResponse._make)


def lookup(username: str) -> Call[UserLookupResponse]:
    """Find a user by name; NotFound."""
    return Call(Opcode.USER_LOOKUP, (username,), UserLookupResponse._make)


def user_name(user_id: int) -> Call[UserNameResponse]:
    """Find a user by id; NotFound."""
    return Call(Opcode.USER_NAME, (user_id,), UserNameResponse._make)


# ---- ledger: amounts are in minor units


def deposit(amount: int) -> Call[DepositResponse]:
    """Bring money in from outside."""
    return Call(Opcode.DEPOSIT, (amount,), DepositResponse._make)


def withdraw(amount: int) -> Call[WithdrawResponse]:
    """Take money out; InsufficientFunds."""
    return Call(Opcode.WITHDRAW, (amount,), WithdrawResponse._make)


def transfer(to_user: int, amount: int) -> Call[TransferResponse]:
    """Pay another user; InsufficientFunds, NotFound."""
    return Call(Opcode.TRANSFER, (to_user, amount), TransferResponse._make)


def balance() -> Call[BalanceResponse]:
    """One's own balance, and the last transaction that changed it."""
    return Call(Opcode.BALANCE, (), BalanceResponse._make)


def transactions(before_txn_id: int = 0, limit: int = LIST_MAX) -> Call[tuple[Transaction, ...]]:
    """One's own transactions, newest first, at most 256; 0: from the newest."""
    return Call(Opcode.TXN_HISTORY, (before_txn_id, limit), _second)
