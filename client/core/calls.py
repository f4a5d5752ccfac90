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
from client.errors import ProtocolViolation
from libproto.messages import (
    LIST_MAX,
    BalanceResponse,
    BoardEntry,
    HeartbeatResponse,
    InboxHistoryResponse,
    JoinRoomResponse,
    Member,
    Opcode,
    RoomAccess,
    RoomEntry,
    RoomHistoryResponse,
    RoomRole,
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
    """The outcome of a transfer in a room, or of taking an offer: as a `Receipt`, and `room_seq`,
    the number of its event in the room."""

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


class RoomOpened(NamedTuple):
    """The outcome of opening a room: its number, and whether it was made by that, or was there.
    req_id and recorded: as in a `Receipt`."""

    room_id: int
    created: bool
    req_id: int
    recorded: bool


class RoomInfo(NamedTuple):
    """What a room is. name and topic: empty in a numbered room. owner: user_id, 0 for nobody.
    role: what the caller is in it."""

    name: str
    topic: str
    owner: int
    access: RoomAccess
    role: RoomRole


class RoomChange(NamedTuple):
    """The outcome of a change of a room or of its board: `room_seq`, the number of its event.
    req_id and recorded: as in a `Receipt`."""

    room_seq: int
    req_id: int
    recorded: bool


class BoardAdded(NamedTuple):
    """The outcome of putting an entry on a board: its number, which no other gets, and that of its
    event. req_id and recorded: as in a `Receipt`."""

    entry_id: int
    room_seq: int
    req_id: int
    recorded: bool


class LinkFetched(NamedTuple):
    """The outcome of fetching a link into a room: the file that was made of it, its bytes, and the
    number of its event. req_id and recorded: as in a `Receipt`."""

    file_id: int
    size: int
    room_seq: int
    req_id: int
    recorded: bool


def _opened(fields: tuple[Any, ...]) -> RoomOpened:
    room_id, created, req_id, recorded = fields
    return RoomOpened(room_id, bool(created), req_id, recorded)


def _info(fields: tuple[Any, ...]) -> RoomInfo:
    name, topic, owner, access, role = fields
    try:
        return RoomInfo(name, topic, owner, RoomAccess(access), RoomRole(role))
    except ValueError as error:
        raise ProtocolViolation(f"the server sent a room that there is not: {error}") from error


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


def delete(room_id: int, room_seq: int) -> Call[int]:
    """Delete the text of an event of a room: of a message, a note, an offer or a file;
    gives the number of the event that says so. One's own, or any as moderator or owner of
    the room.

    From then on it is shown without its text. NotFound: no such event, or it was deleted
    before; Unauthorized without the right. Repeating it is harmless.
    """
    fields = (check.room(room_id), check.position(room_seq, "room_seq"))
    return Call(Opcode.CHAT_DELETE, fields, _first)


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


# ---- rooms


def open_room(name: str) -> Call[RoomOpened]:
    """Find the room of a name, or make it, as its owner: `created` tells which. It is not
    joined by that. name: text of 1 to 64 bytes; "Gold" and "gold" are the same.

    LimitReached: nobody owns more than 8 rooms. `req_id` and `possible_duplicate` as with
    `deposit`: two calls with one req_id make one room.
    """
    return Call(Opcode.ROOM_OPEN, (check.text("name", name),), _opened)


def room_info(room_id: int) -> Call[RoomInfo]:
    """Name, topic, owner and access of a room, and what the caller is in it. NotFound: no
    such room, or it is closed."""
    return Call(Opcode.ROOM_INFO, (check.room(room_id),), _info)


def set_room(room_id: int, topic: str, access: RoomAccess) -> Call[RoomChange]:
    """Set the topic of a named room, text of at most 256 bytes, and who may join it; what
    is to stay is said again, `room_info` tells it.

    Moderators set the topic, the owner both. RoomAccess.CLOSED closes the room: its members
    leave, its name is free, and its roles and its board are gone; there is no way back.
    Unauthorized without the right, and in a numbered room. `req_id` and
    `possible_duplicate` as with `deposit`.
    """
    fields = (check.room(room_id), check.text("topic", topic), check.access(access))
    return Call(Opcode.ROOM_SET, fields, RoomChange._make)


def set_role(room_id: int, user_id: int, role: RoomRole, seconds: int = 0) -> Call[RoomChange]:
    """Set what another user is in a named room. seconds: how long a mute or a ban lasts, 0:
    for good; then the role before it is back.

    Moderators set NONE, MEMBER, MUTED and BANNED of those below them; the owner sets all,
    and gives the room away with OWNER. Unauthorized without the right, and in a numbered
    room; NotFound: no such user; LimitReached: a new owner has 8 rooms. `req_id` and
    `possible_duplicate` as with `deposit`.
    """
    fields = (
        check.room(room_id),
        check.user(user_id, "user_id"),
        check.role(role),
        check.whole("seconds", seconds, 0, check.U32_MAX, "seconds"),
    )
    return Call(Opcode.ROOM_ROLE, fields, RoomChange._make)


def invite(room_id: int, user_id: int) -> Call[RoomChange]:
    """Let a user join a room that is by invitation: as `set_role` with MEMBER."""
    return set_role(room_id, user_id, RoomRole.MEMBER)


def kick(room_id: int, user_id: int) -> Call[RoomChange]:
    """Put a user out of a room; after a second they may join again. As `set_role` with BANNED
    for that second: a member is one again after it, and a mute is over with it."""
    return set_role(room_id, user_id, RoomRole.BANNED, 1)


def ban(room_id: int, user_id: int, seconds: int = 0) -> Call[RoomChange]:
    """Put a user out of a room, and keep them out for some seconds, 0: for good. As
    `set_role` with BANNED."""
    return set_role(room_id, user_id, RoomRole.BANNED, seconds)


def mute(room_id: int, user_id: int, seconds: int = 0) -> Call[RoomChange]:
    """Let a user read but not write in a room, for some seconds, 0: for good. As `set_role`
    with MUTED."""
    return set_role(room_id, user_id, RoomRole.MUTED, seconds)


def pardon(room_id: int, user_id: int) -> Call[RoomChange]:
    """End a ban or a mute now. As `set_role` with NONE: what the user was before is over,
    too; who shall be a member of a room by invitation is invited again."""
    return set_role(room_id, user_id, RoomRole.NONE)


def block(user_id: int) -> Call[None]:
    """Get no direct messages and no Payment pushes from a user any more, who is not told.
    It lasts until `unblock`. NotFound: no such user; LimitReached: nobody blocks more than
    256."""
    return Call(Opcode.BLOCK, (check.user(user_id, "user_id"), 1), _nothing)


def unblock(user_id: int) -> Call[None]:
    """Undo `block`; nothing happens to one who is not blocked."""
    return Call(Opcode.BLOCK, (check.user(user_id, "user_id"), 0), _nothing)


# ---- boards


def board_add(room_id: int, price: int, text: str) -> Call[BoardAdded]:
    """Put an offer on the board of a joined room. price: minor units, what somebody pays to
    take it; 0: a note, which nobody can take. text: 1 to 256 bytes.

    Unauthorized if the room is not joined; LimitReached if the board is full. `req_id` and
    `possible_duplicate` as with `deposit`.
    """
    fields = (check.room(room_id), check.amount(price, "price"), check.text("text", text))
    return Call(Opcode.BOARD_ADD, fields, BoardAdded._make)


def board(
    room_id: int, after_entry_id: int = 0, limit: int = LIST_MAX, contains: str = ""
) -> Call[tuple[BoardEntry, ...]]:
    """The entries of the board of a joined room whose text contains `contains`, in whatever
    case, by ascending entry_id, at most 256; none is the end. Unauthorized if the room is
    not joined."""
    fields = (
        check.room(room_id),
        check.position(after_entry_id, "after_entry_id"),
        check.limit(limit),
        check.text("contains", contains),
    )
    return Call(Opcode.BOARD_LIST, fields, _first)


def board_remove(room_id: int, entry_id: int) -> Call[RoomChange]:
    """Take an entry off the board of a joined room: one's own, or any as moderator or owner
    of the room. NotFound: it is not there any more. `req_id` and `possible_duplicate` as
    with `deposit`."""
    fields = (check.room(room_id), check.position(entry_id, "entry_id"))
    return Call(Opcode.BOARD_REMOVE, fields, RoomChange._make)


def board_take(
    room_id: int, entry: BoardEntry | int, price: int | None = None
) -> Call[RoomReceipt]:
    """Pay the price of an offer to its owner and take it off the board, in one step: of two
    who take it, one gets it and the other NotFound.

    entry: what `board` lists, or its entry_id with the price that is expected; BadPacket if
    the offer has another price, or is one's own. As `transfer`; Unauthorized if the room is
    not joined.
    """
    if isinstance(entry, BoardEntry):
        price = entry.price if price is None else price
        entry = entry.entry_id
    fields = (
        check.room(room_id),
        check.position(entry, "entry"),
        check.amount(price, "price"),
    )
    return Call(Opcode.BOARD_TAKE, fields, RoomReceipt._make)


# ---- files


def fetch_link(room_id: int, url: str) -> Call[LinkFetched]:
    """Have the server fetch an http or https link, and share it in a joined room as a file.

    It does so for hosts that its operator allows; NotFound for any other one, and whatever
    is wrong at that host. It may take a minute: give it the `timeout_s`. It is shared once:
    `req_id` and `possible_duplicate` as with `deposit`.
    """
    return Call(Opcode.LINK_FETCH, (check.room(room_id), check.text("url", url)), LinkFetched._make)


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
