"""The calls of `AnyClient`, written by `python -m client.facades`.

Change them where they are described: `client.core.calls`, `.files`, `.login`, `.paging`.
"""

from collections.abc import Awaitable
from typing import Protocol

from client.core.calls import (
    BoardAdded,
    DirectSent,
    LinkFetched,
    Receipt,
    RoomChange,
    RoomInfo,
    RoomOpened,
    RoomReceipt,
    Sent,
)
from client.core.files import FileFetched, FileSent, Progress, Source, Target
from client.core.numbers import Outcome, Unanswered
from client.core.once import Once
from client.core.paging import Items
from client.core.pushes import RoomRestarted
from libproto.messages import (
    LIST_MAX,
    BalanceResponse,
    BoardEntry,
    ChatBroadcast,
    DirectMessage,
    HeartbeatResponse,
    InboxHistoryResponse,
    JoinRoomResponse,
    LoginResponse,
    Member,
    RoomAccess,
    RoomEntry,
    RoomGap,
    RoomHistoryResponse,
    RoomRole,
    Transaction,
    TxnHistoryResponse,
    UserLookupResponse,
    UserNameResponse,
)


class AnyClient(Protocol):
    """What `Client` and `AsyncClient` have in common, for functions that take either.

    A call gives its result, or with an AsyncClient what is to be awaited for it.
    """

    host: str
    port: int
    timeout_s: float

    def connect(self, *, timeout_s: float | None = None) -> Awaitable[None] | None:
        """Connect; again after a loss, too."""

    def close(self) -> Awaitable[None] | None:
        """Close the connection, and make no other."""

    def new_req_id(self) -> int:
        """A number for one numbered request, to be taken before the call."""

    @property
    def unanswered(self) -> tuple[Unanswered, ...]:
        """The numbered requests whose outcome this program was not given."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection that can be used, as far as is known."""

    @property
    def client_id(self) -> int:
        """What this client's numbered requests are known by."""

    @property
    def user_id(self) -> int:
        """Of the last login; 0 before."""

    @property
    def username(self) -> str:
        """Of the last login; empty before."""

    # ---- who one is

    def register(
        self, username: str, password: str, *, timeout_s: float | None = None
    ) -> Awaitable[int] | int:
        """Create a user; gives its user_id. The connection is not logged in by that.

        Raises AlreadyExists, and Unauthorized where registration is closed.
        """

    def login(
        self,
        username: str | None = None,
        password: str | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Awaitable[LoginResponse] | LoginResponse:
        """Log in, and check that the server knows the user's key too. None: what the client was
        given when it was made; `connect` has logged in where it was given both.

        Raises Unauthorized if user or password are wrong, ProtocolViolation if the server's own
        proof is; the connection is closed then. ClientIdTaken if a client_id that was given is in
        use beyond next_req_id; one that was drawn is drawn anew. Another session with it ends.
        """

    def change_password(
        self, password: str, *, timeout_s: float | None = None
    ) -> Awaitable[None] | None:
        """Give the user who is logged in another password. All other sessions of the user end.

        Only on an encrypted connection, or on the server's own machine; else Unauthorized.
        """

    def logout(self, *, timeout_s: float | None = None) -> Awaitable[None] | None:
        """End the session and leave all rooms; the connection stays, for another login."""

    def heartbeat(
        self, *, timeout_s: float | None = None
    ) -> Awaitable[HeartbeatResponse] | HeartbeatResponse:
        """Ask for the server's time. What keeps the connection alive is sent without this."""

    # ---- chat

    def join(
        self, room_id: int, *, timeout_s: float | None = None
    ) -> Awaitable[JoinRoomResponse] | JoinRoomResponse:
        """Join a room: its events after `last_seq` will be pushed. NotFound: no such room."""

    def leave(self, room_id: int, *, timeout_s: float | None = None) -> Awaitable[None] | None:
        """Leave a room. NotFound if it is not joined."""

    def send(
        self,
        room_id: int,
        message: str,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[Sent] | Sent:
        """Say something in a joined room; Unauthorized if it is not joined.

        It is said once, whatever happens: `req_id` and `possible_duplicate` as with `deposit`.
        """

    def delete(
        self, room_id: int, room_seq: int, *, timeout_s: float | None = None
    ) -> Awaitable[int] | int:
        """Delete the text of an event of a room: of a message, a note, an offer or a file;
        gives the number of the event that says so. One's own, or any as moderator or owner of
        the room.

        From then on it is shown without its text. NotFound: no such event, or it was deleted
        before; Unauthorized without the right. Repeating it is harmless.
        """

    def history(
        self,
        room_id: int,
        after_seq: int = 0,
        limit: int = LIST_MAX,
        *,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomHistoryResponse] | RoomHistoryResponse:
        """Events of a room after `after_seq`, ascending, at most 256; none is the end."""

    def rooms(
        self, after_room_id: int = 0, *, timeout_s: float | None = None
    ) -> Awaitable[tuple[RoomEntry, ...]] | tuple[RoomEntry, ...]:
        """Rooms with members or events, ascending, at most 256; none is the end."""

    def members(
        self, room_id: int, after_user_id: int = 0, *, timeout_s: float | None = None
    ) -> Awaitable[tuple[Member, ...]] | tuple[Member, ...]:
        """Members of a room by ascending user_id, at most 256; none is the end."""

    def direct(
        self,
        to_user: int,
        message: str,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[DirectSent] | DirectSent:
        """Say something to one user: to all their connections, and to their inbox, which keeps it
        for one who is away. NotFound if there is no such user.

        It is said once, whatever happens: `req_id` and `possible_duplicate` as with `deposit`.
        """

    def inbox_history(
        self, after_seq: int = 0, limit: int = LIST_MAX, *, timeout_s: float | None = None
    ) -> Awaitable[InboxHistoryResponse] | InboxHistoryResponse:
        """Direct messages to oneself after `after_seq`, ascending, at most 256; none is the end.

        The server keeps the newest. In another `epoch` than before, the numbers began anew: ask
        again from 0.
        """

    def lookup(
        self, username: str, *, timeout_s: float | None = None
    ) -> Awaitable[UserLookupResponse] | UserLookupResponse:
        """Find a user by name; NotFound."""

    def user_name(
        self, user_id: int, *, timeout_s: float | None = None
    ) -> Awaitable[UserNameResponse] | UserNameResponse:
        """Find a user by id; NotFound."""

    # ---- rooms with a name, and who may do what in them

    def open_room(
        self,
        name: str,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomOpened] | RoomOpened:
        """Find the room of a name, or make it, as its owner: `created` tells which. It is not
        joined by that. name: text of 1 to 64 bytes; "Gold" and "gold" are the same.

        LimitReached: nobody owns more than 8 rooms. `req_id` and `possible_duplicate` as with
        `deposit`: two calls with one req_id make one room.
        """

    def room_info(
        self, room_id: int, *, timeout_s: float | None = None
    ) -> Awaitable[RoomInfo] | RoomInfo:
        """Name, topic, owner and access of a room, and what the caller is in it. NotFound: no
        such room, or it is closed.
        """

    def set_room(
        self,
        room_id: int,
        topic: str,
        access: RoomAccess,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomChange] | RoomChange:
        """Set the topic of a named room, text of at most 256 bytes, and who may join it; what
        is to stay is said again, `room_info` tells it.

        Moderators set the topic, the owner both. RoomAccess.CLOSED closes the room: its members
        leave, its name is free, and its roles and its board are gone; there is no way back.
        Unauthorized without the right, and in a numbered room. `req_id` and
        `possible_duplicate` as with `deposit`.
        """

    def set_role(
        self,
        room_id: int,
        user_id: int,
        role: RoomRole,
        seconds: int = 0,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomChange] | RoomChange:
        """Set what another user is in a named room. seconds: how long a mute or a ban lasts, 0:
        for good; then the role before it is back.

        Moderators set NONE, MEMBER, MUTED and BANNED of those below them; the owner sets all,
        and gives the room away with OWNER. Unauthorized without the right, and in a numbered
        room; NotFound: no such user; LimitReached: a new owner has 8 rooms. `req_id` and
        `possible_duplicate` as with `deposit`.
        """

    def invite(
        self,
        room_id: int,
        user_id: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomChange] | RoomChange:
        """Let a user join a room that is by invitation: as `set_role` with MEMBER."""

    def kick(
        self,
        room_id: int,
        user_id: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomChange] | RoomChange:
        """Put a user out of a room; after a second they may join again. As `set_role` with BANNED
        for that second: a member is one again after it, and a mute is over with it.
        """

    def ban(
        self,
        room_id: int,
        user_id: int,
        seconds: int = 0,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomChange] | RoomChange:
        """Put a user out of a room, and keep them out for some seconds, 0: for good. As
        `set_role` with BANNED.
        """

    def mute(
        self,
        room_id: int,
        user_id: int,
        seconds: int = 0,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomChange] | RoomChange:
        """Let a user read but not write in a room, for some seconds, 0: for good. As `set_role`
        with MUTED.
        """

    def pardon(
        self,
        room_id: int,
        user_id: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomChange] | RoomChange:
        """End a ban or a mute now. As `set_role` with NONE: what the user was before is over,
        too; who shall be a member of a room by invitation is invited again.
        """

    def block(self, user_id: int, *, timeout_s: float | None = None) -> Awaitable[None] | None:
        """Get no direct messages and no Payment pushes from a user any more, who is not told.
        It lasts until `unblock`. NotFound: no such user; LimitReached: nobody blocks more than
        256.
        """

    def unblock(self, user_id: int, *, timeout_s: float | None = None) -> Awaitable[None] | None:
        """Undo `block`; nothing happens to one who is not blocked."""

    # ---- boards: offers in a room that others can take; prices are in minor units (cents)

    def board_add(
        self,
        room_id: int,
        price: int,
        text: str,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[BoardAdded] | BoardAdded:
        """Put an offer on the board of a joined room. price: minor units, what somebody pays to
        take it; 0: a note, which nobody can take. text: 1 to 256 bytes.

        Unauthorized if the room is not joined; LimitReached if the board is full. `req_id` and
        `possible_duplicate` as with `deposit`.
        """

    def board(
        self,
        room_id: int,
        after_entry_id: int = 0,
        limit: int = LIST_MAX,
        contains: str = "",
        *,
        timeout_s: float | None = None,
    ) -> Awaitable[tuple[BoardEntry, ...]] | tuple[BoardEntry, ...]:
        """The entries of the board of a joined room whose text contains `contains`, in whatever
        case, by ascending entry_id, at most 256; none is the end. Unauthorized if the room is
        not joined.
        """

    def board_remove(
        self,
        room_id: int,
        entry_id: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomChange] | RoomChange:
        """Take an entry off the board of a joined room: one's own, or any as moderator or owner
        of the room. NotFound: it is not there any more. `req_id` and `possible_duplicate` as
        with `deposit`.
        """

    def board_take(
        self,
        room_id: int,
        entry: BoardEntry | int,
        price: int | None = None,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomReceipt] | RoomReceipt:
        """Pay the price of an offer to its owner and take it off the board, in one step: of two
        who take it, one gets it and the other NotFound.

        entry: what `board` lists, or its entry_id with the price that is expected; BadPacket if
        the offer has another price, or is one's own. As `transfer`; Unauthorized if the room is
        not joined.
        """

    # ---- files, sent and fetched in parts, of any size

    def send_file(
        self,
        room_id: int,
        source: Source,
        name: str | None = None,
        media_type: str | None = None,
        progress: Progress | None = None,
        once: Once | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Awaitable[FileSent] | FileSent:
        """Share a file in a joined room. source: a path, or a binary file object that can seek,
        whose bytes from its position on are sent.

        name: what it is called in the room, 1 to 128 bytes without "/" or a leading dot; None:
        that of the source. media_type: such as "image/png"; None: after the name. progress: is
        called with the bytes that the server has and with all there are.

        Parts are sent several at a time, and read as they are sent: the memory it takes does not
        depend on the size. `timeout_s` is that of each request. What raises CallTimeout or
        ConnectionLost is gone on with by calling this again, within an hour, also in another run
        of the program; where that exception has a `req_id`, everything was sent, and
        `retry(req_id)` shares it. once: so that several runs of the program share it once between
        them: see `Once`. FileChanged if the file changes meanwhile, BadPacket if it is
        too large, ServerBusy if the server has no space; Unauthorized if the room is not joined.
        """

    def fetch_file(
        self,
        file_id: int,
        to: Target,
        sha256: bytes | None = None,
        progress: Progress | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Awaitable[FileFetched] | FileFetched:
        """Fetch a file of a room whose history one may read. file_id: of its event, `FileShared`.
        to: a path where nothing is, or a binary file object to write to.

        What is there is never overwritten: FileExistsError. A file grows beside `to`, under a
        name with its number and ".part", is synced, and gets its name when it is whole; one that
        was left half done is gone on with by calling this again, also in another run of the
        program. sha256: WrongContents if it is not that; what it is, the result tells. progress:
        is called with the bytes that have arrived, and with all there are.

        Parts are fetched several at a time, and written as they come. `timeout_s` is that of
        each request. NotFound: no such file, or it is kept no longer.
        """

    def fetch_link(
        self,
        room_id: int,
        url: str,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[LinkFetched] | LinkFetched:
        """Have the server fetch an http or https link, and share it in a joined room as a file.

        It does so for hosts that its operator allows; NotFound for any other one, and whatever
        is wrong at that host. It may take a minute: give it the `timeout_s`. It is shared once:
        `req_id` and `possible_duplicate` as with `deposit`.
        """

    # ---- lists, read to their end in as many requests as it takes

    def iter_rooms(
        self, after_room_id: int = 0, *, timeout_s: float | None = None
    ) -> Items[RoomEntry]:
        """Every room with members or events, ascending, as `rooms` gives them in parts."""

    def iter_members(
        self, room_id: int, after_user_id: int = 0, *, timeout_s: float | None = None
    ) -> Items[Member]:
        """Every member of a room by ascending user_id, as `members` gives them in parts."""

    def iter_history(
        self,
        room_id: int,
        after_seq: int = 0,
        epoch: int | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Items[ChatBroadcast | RoomGap | RoomRestarted]:
        """The events of a room after `after_seq`, ascending, to the newest one there is.

        A RoomGap is in the place of events that the server keeps no longer, those before the first
        included. A number that is absent without one was never given to an event. `epoch`: that of
        `after_seq`, as `join` or `history` told it. If the room is in another one by now, a
        RoomRestarted is given and then the events from the first on.
        """

    def iter_inbox(
        self, after_seq: int = 0, epoch: int | None = None, *, timeout_s: float | None = None
    ) -> Items[DirectMessage | RoomGap | RoomRestarted]:
        """Direct messages to oneself after `after_seq`, ascending, to the newest one there is.

        RoomGap, RoomRestarted and `epoch` are as those of `iter_history`; the room is 0.
        """

    def iter_board(
        self,
        room_id: int,
        contains: str = "",
        after_entry_id: int = 0,
        *,
        timeout_s: float | None = None,
    ) -> Items[BoardEntry]:
        """Every entry of the board of a joined room whose text contains `contains`, in whatever
        case, by ascending entry_id, as `board` gives them in parts.
        """

    def iter_transactions(
        self, before_txn_id: int = 0, *, timeout_s: float | None = None
    ) -> Items[Transaction]:
        """One's own transactions, newest first, to the oldest that the server keeps. before_txn_id:
        only those that are older, 0: from the newest.

        Those that come meanwhile are newer than the first, and not among them. Whether there were
        older ones than the last, the `oldest_txn_id` of `transactions` tells.
        """

    # ---- ledger: amounts are in minor units (cents)

    def deposit(
        self,
        amount: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[Receipt] | Receipt:
        """Bring money in from outside.

        `req_id`: a number of `new_req_id()`, for this request alone; without it, the client draws
        one. With it the request can be made again, by `retry(req_id)`, until its outcome is known:
        it is executed once. `possible_duplicate`: it was perhaps sent before, by an earlier run of
        the program with this client_id.

        Raises Unauthorized where deposits are closed, and OutcomeUnknown. After
        CallTimeout, ConnectionLost or an interrupt, the exception's `req_id` is what `retry` takes.
        """

    def withdraw(
        self,
        amount: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[Receipt] | Receipt:
        """Take money out. `req_id`, `possible_duplicate` and errors as with `deposit`, and
        InsufficientFunds.
        """

    def transfer(
        self,
        to_user: int,
        amount: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[Receipt] | Receipt:
        """Pay another user, named by user_id, which `lookup` tells.

        `req_id`, `possible_duplicate` and errors as with `deposit`; also InsufficientFunds, and
        NotFound if there is no such user. So that one payment is made, whatever happens:

            req_id = client.new_req_id()
            try:
                client.transfer(bob, 1250, req_id=req_id)
            except (CallTimeout, ConnectionLost):
                client.retry(req_id)  # once connected again; executed once, however often asked
        """

    def transfer_in_room(
        self,
        room_id: int,
        to_user: int,
        amount: int,
        note: str = "",
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> Awaitable[RoomReceipt] | RoomReceipt:
        """Pay another user, and say so in a joined room, in one step: both happen or neither.

        The payee need not be in the room. note: text of at most 256 bytes. As `transfer`, and
        Unauthorized if the room is not joined.
        """

    def retry(self, req_id: int, *, timeout_s: float | None = None) -> Awaitable[Outcome] | Outcome:
        """Learn what became of a numbered request, by making it again under its req_id.

        If it was executed, the result is the recorded outcome (`recorded` is True), and nothing is
        executed now; if not, it is executed now, or refused. The result is what the call itself
        would have given. May be repeated. Raises OutcomeUnknown where nobody can tell any more: the
        transactions and the histories show it.
        """

    def balance(
        self, *, timeout_s: float | None = None
    ) -> Awaitable[BalanceResponse] | BalanceResponse:
        """One's own balance, and the last transaction that changed it."""

    def transactions(
        self, before_txn_id: int = 0, limit: int = LIST_MAX, *, timeout_s: float | None = None
    ) -> Awaitable[TxnHistoryResponse] | TxnHistoryResponse:
        """One's own transactions, newest first, at most 256; none is the end. before_txn_id: only
        those that are older, 0: from the newest.

        The result's `oldest_txn_id` is the oldest that the server still keeps: 0 if it keeps all of
        them, so that the end is that of everything; else there were older ones.
        """
