"""What a load has sent and was told, as plain records. The verdict is a function of these.

Times are `time.monotonic()` seconds of the machine that the load ran on. Users are meant by the
server's user_id.
"""

from dataclasses import dataclass, field

from libproto.errors import Status
from libproto.messages import ChatBroadcast, RoomGap, Transaction, TxnKind


@dataclass(slots=True)
class Request:
    """A DEPOSIT, WITHDRAW or TRANSFER, over all its repetitions."""

    user: int
    kind: TxnKind
    payee: int  # 0 but for a transfer
    amount: int
    req_id: int
    sent: float  # for the first time
    repeats: int = 0
    answered: float = 0.0
    status: Status | None = None  # None: the outcome is unknown
    recorded: bool = False  # the answer told the outcome of an earlier sending
    txn_id: int = 0
    balance: int = 0


@dataclass(slots=True)
class Read:
    """A BALANCE and its answer."""

    user: int
    sent: float
    answered: float
    balance: int
    last_txn_id: int


@dataclass(slots=True)
class Message:
    """A CHAT_SEND, over all its repetitions. No two have the same text."""

    user: int
    room: int
    text: str
    room_seq: int = 0  # 0: not acknowledged
    sent: float = 0.0  # for the first time
    answered: float = 0.0
    req_id: int = 0
    repeats: int = 0
    recorded: bool = False  # the answer told the outcome of an earlier sending


@dataclass(slots=True)
class Take(Request):
    """A BOARD_TAKE, over all its repetitions: a transfer to the owner of the offer."""

    room: int = 0
    entry: int = 0
    room_seq: int = 0


@dataclass(slots=True)
class Posting:
    """A BOARD_ADD or BOARD_REMOVE, over all its repetitions. No two add the same text."""

    user: int
    room: int
    price: int
    text: str  # "": it is removed
    req_id: int
    entry: int = 0  # 0: not known yet
    repeats: int = 0
    status: Status | None = None  # None: the outcome is unknown
    recorded: bool = False
    room_seq: int = 0


@dataclass(slots=True)
class Membership:
    """One JOIN_ROOM of one connection, and what was pushed after it, as it came."""

    user: int
    room: int
    last_seq: int
    epoch: int
    before: int | None  # the last number that the user had, if it means to miss none; else None
    pushes: list[ChatBroadcast | RoomGap] = field(default_factory=list)
    open: bool = False  # to the end of the run


@dataclass(slots=True)
class Missed:
    """Numbers that a user was told it has missed, and what ROOM_HISTORY had of them."""

    user: int
    room: int
    first: int
    last: int
    found: list[ChatBroadcast | RoomGap] | None = None
    """In order; a RoomGap is what the server keeps no longer. None: it was never told."""
    asked: float = 0.0
    """When the first of it was asked for."""


@dataclass(slots=True)
class History:
    """Everything of one run."""

    users: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    postings: list[Posting] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    missed: list[Missed] = field(default_factory=list)
    log: dict[int, list[Transaction]] = field(default_factory=dict)
    """TXN_HISTORY of each user, ascending; what was read up to the end of the run."""
    balances: dict[int, int] = field(default_factory=dict)
    """BALANCE of each user at the end, when all was answered."""
    last_seqs: dict[int, int] = field(default_factory=dict)
    """Of each room at the end, when nobody spoke any more."""
    kept: dict[int, Missed] = field(default_factory=dict)
    """What ROOM_HISTORY has of each room at the end, from its first number on."""
    boards: dict[int, list[tuple[int, int, int, str]]] = field(default_factory=dict)
    """BOARD_LIST of each room at the end: entry_id, owner, price and text, ascending."""
    complete: bool = False
    """The run has come to its end in order: log, balances and last_seqs are there."""
    unexpected: list[str] = field(default_factory=list)
    """Answers and pushes that the protocol does not allow."""
    unfinished: list[str] = field(default_factory=list)
    """Why the run did not come to its end in order, where it should have."""
