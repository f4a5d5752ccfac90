"""The one description of the calls: name, arguments, message, result, and what they are for.

Each function is a call of both clients: its name, its arguments and its docstring are those of the
method, and what it returns is the request and what makes the result of the answer. The methods of
`Client` and `AsyncClient` are written from here by `python -m client.facades`. REGISTER and LOGIN
take several requests: `client.core.login` describes them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from client.core import arguments as check
from libproto.messages import (
    LIST_MAX,
    BalanceResponse,
    HeartbeatResponse,
    InboxHistoryResponse,
    JoinRoomResponse,
    Member,
    Opcode,
    RoomEntry,
    RoomHistoryResponse,
    TxnHistoryResponse,
    UserLookupResponse,
    UserNameResponse,
)

R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Call(Generic[R]):
    """One request, and what the caller gets of the fields of its OK response.

    `req_id` is that of a numbered request, once it has one; `sent` says that it was sent, and
    `recordable` that it was made before, so that a recorded outcome may be its answer.
    """

    opcode: Opcode
    fields: tuple[Any, ...]
    result: Callable[[tuple[Any, ...]], R]
    req_id: int = 0
    sent: bool = False
    recordable: bool = False


class Receipt(NamedTuple):
    """The outcome of a deposit, a withdrawal or a transfer.

    txn_id: of the transaction, which orders all of them. balance: the caller's own after it, minor
    units. req_id: of the request. recorded: whether this is the outcome of an earlier sending of
    this request, so that nothing was executed just now.
    """

    txn_id: int
    balance: int
    req_id: int
    recorded: bool


class RoomReceipt(NamedTuple):
    """The outcome of a transfer in a room: as a `Receipt`, and `room_seq`, the number of its event
    in the room."""

    txn_id: int
    balance: int
    room_seq: int
    req_id: int
    recorded: bool


class Sent(NamedTuple):
    """The outcome of a message to a room.

    room_seq: its number in the room. time: when it was executed, microseconds since the Unix epoch.
    req_id and recorded: as in a `Receipt`.
    """

    room_seq: int
    time: int
    req_id: int
    recorded: bool


class DirectSent(NamedTuple):
    """The outcome of a message to a user: as of one to a room, without a number."""

    time: int
    req_id: int
    recorded: bool


def _nothing(_: tuple[Any, ...]) -> None:
    return None


def _first(fields: tuple[Any, ...]) -> Any:
    return fields[0]


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
    return Call(Opcode.JOIN_ROOM, (check.room(room_id),), JoinRoomResponse._make)


def leave(room_id: int) -> Call[None]:
    """Leave a room. NotFound if it is not joined."""
    return Call(Opcode.LEAVE_ROOM, (check.room(room_id),), _nothing)


def send(room_id: int, message: str) -> Call[Sent]:
    """Say something in a joined room; Unauthorized if it is not joined.

    It is said once, whatever happens: `req_id` and `possible_duplicate` as with `deposit`.
    """
    fields = (check.room(room_id), check.text("message", message))
    return Call(Opcode.CHAT_SEND, fields, Sent._make)


def history(room_id: int, after_seq: int = 0, limit: int = LIST_MAX) -> Call[RoomHistoryResponse]:
    """Events of a room after `after_seq`, ascending, at most 256; none is the end."""
    fields = (check.room(room_id), check.position(after_seq, "after_seq"), check.limit(limit))
    return Call(Opcode.ROOM_HISTORY, fields, RoomHistoryResponse._make)


def rooms(after_room_id: int = 0) -> Call[tuple[RoomEntry, ...]]:
    """Rooms with members or events, ascending, at most 256; none is the end."""
    return Call(Opcode.ROOM_LIST, (check.room(after_room_id, "after_room_id"),), _first)


def members(room_id: int, after_user_id: int = 0) -> Call[tuple[Member, ...]]:
    """Members of a room by ascending user_id, at most 256; none is the end."""
    fields = (check.room(room_id), check.user(after_user_id, "after_user_id"))
    return Call(Opcode.ROOM_MEMBERS, fields, _first)


def direct(to_user: int, message: str) -> Call[DirectSent]:
    """Say something to one user: to all their connections, and to their inbox, which keeps it
    for one who is away. NotFound if there is no such user.

    It is said once, whatever happens: `req_id` and `possible_duplicate` as with `deposit`.
    """
    fields = (check.user(to_user, "to_user"), check.text("message", message))
    return Call(Opcode.DIRECT_SEND, fields, DirectSent._make)


def inbox_history(after_seq: int = 0, limit: int = LIST_MAX) -> Call[InboxHistoryResponse]:
    """Direct messages to oneself after `after_seq`, ascending, at most 256; none is the end.

    The server keeps the newest. In another `epoch` than before, the numbers began anew: ask
    again from 0.
    """
    fields = (check.position(after_seq, "after_seq"), check.limit(limit))
    return Call(Opcode.INBOX_HISTORY, fields, InboxHistoryResponse._make)


def lookup(username: str) -> Call[UserLookupResponse]:
    """Find a user by name; NotFound."""
    return Call(Opcode.USER_LOOKUP, (check.text("username", username),), UserLookupResponse._make)


def user_name(user_id: int) -> Call[UserNameResponse]:
    """Find a user by id; NotFound."""
    return Call(Opcode.USER_NAME, (check.user(user_id, "user_id"),), UserNameResponse._make)


# ---- ledger: amounts are in minor units


def deposit(amount: int) -> Call[Receipt]:
    """Bring money in from outside.

    `req_id`: a number of `new_req_id()`, for this request alone; without it, the client draws
    one. With it the request can be made again, by `retry(req_id)`, until its outcome is known:
    it is executed once. `possible_duplicate`: it was perhaps sent before, by an earlier run of
    the program with this client_id.

    Raises Unauthorized where deposits are closed, and OutcomeUnknown. After
    CallTimeout, ConnectionLost or an interrupt, the exception's `req_id` is what `retry` takes.
    """
    return Call(Opcode.DEPOSIT, (check.amount(amount),), Receipt._make)


def withdraw(amount: int) -> Call[Receipt]:
    """Take money out. `req_id`, `possible_duplicate` and errors as with `deposit`, and
    InsufficientFunds."""
    return Call(Opcode.WITHDRAW, (check.amount(amount),), Receipt._make)


def transfer(to_user: int, amount: int) -> Call[Receipt]:
    """Pay another user, named by user_id, which `lookup` tells.

    `req_id`, `possible_duplicate` and errors as with `deposit`; also InsufficientFunds, and
    NotFound if there is no such user. So that one payment is made, whatever happens:

        req_id = client.new_req_id()
        try:
            client.transfer(bob, 1250, req_id=req_id)
        except (CallTimeout, ConnectionLost):
            client.retry(req_id)  # once connected again; executed once, however often asked
    """
    fields = (check.user(to_user, "to_user"), check.amount(amount))
    return Call(Opcode.TRANSFER, fields, Receipt._make)


def transfer_in_room(room_id: int, to_user: int, amount: int, note: str = "") -> Call[RoomReceipt]:
    """Pay another user, and say so in a joined room, in one step: both happen or neither.

    The payee need not be in the room. note: text of at most 256 bytes. As `transfer`, and
    Unauthorized if the room is not joined.
    """
    fields = (
        check.room(room_id),
        check.user(to_user, "to_user"),
        check.amount(amount),
        check.text("note", note),
    )
    return Call(Opcode.TRANSFER_IN_ROOM, fields, RoomReceipt._make)


def balance() -> Call[BalanceResponse]:
    """One's own balance, and the last transaction that changed it."""
    return Call(Opcode.BALANCE, (), BalanceResponse._make)


def transactions(before_txn_id: int = 0, limit: int = LIST_MAX) -> Call[TxnHistoryResponse]:
    """One's own transactions, newest first, at most 256; none is the end. before_txn_id: only
    those that are older, 0: from the newest.

    The result's `oldest_txn_id` is the oldest that the server still keeps: 0 if it keeps all of
    them, so that the end is that of everything; else there were older ones.
    """
    fields = (check.position(before_txn_id, "before_txn_id"), check.limit(limit))
    return Call(Opcode.TXN_HISTORY, fields, TxnHistoryResponse._make)
