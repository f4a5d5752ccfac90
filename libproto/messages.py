"""THE TABLE: every message of the protocol, once.

Each body is a NamedTuple class whose fields stand in wire order; each row of `MESSAGES` joins the
bodies of one opcode with the states in which it is allowed. The encoders and decoders, the check
of the session state, and the protocol document are all made from these rows. Amounts are unsigned
minor units (cents), times are microseconds since the Unix epoch.
"""

import re
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

from libproto.errors import Status
from libproto.fields import U8, U16, U32, U64, Body, Bytes, Str

MAGIC = 0x4E53
"""The first two bytes of a frame, "NS"."""
VERSION = 1
HEADER_LEN = 32
LIST_MAX = 256
"""The most items that one list holds."""
USERNAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,32}\Z")
"""A valid username; case-sensitive. Use `match` or `fullmatch`."""
MAX_BALANCE = 2**63 - 1
OUTCOME_WINDOW = 64
"""How many req_ids back, the newest included, the server keeps the outcomes of a client."""
NONCE_LEN = range(16, 65)
"""Lengths that a nonce may have, for `in`."""
KEY_LEN = 32
"""Bytes of StoredKey, ServerKey, client_proof and server_signature."""
SALT_LEN = 16
MIN_ITERATIONS = 4096
PUBLIC_KEY_LEN = 32
CHUNK_MAX = 60 * 1024
"""Bytes of a file in one FILE_PUT or one answer to FILE_GET."""
SHA256_LEN = 32
FILE_NAME_MAX = 128
"""Bytes of UTF-8 of the name of a file."""
MEDIA_TYPE_MAX = 64
URL_MAX = 2048
FILES_WAITING_MAX = 16
"""Requests of one connection for files and for older histories that wait; one more is refused."""
IDENTITY_LEN = 32
SIGNATURE_LEN = 64
SEAL_LEN = 16
"""Bytes that a sealed body is longer than what it holds: the tag of AES-GCM."""


class Flag(IntFlag):
    """The flags byte of the header; the other bits are 0."""

    ENCRYPTED = 0x01
    COMPRESSED = 0x02
    RESPONSE = 0x04
    POSSIBLE_DUPLICATE = 0x08


class Capability(IntFlag):
    """Asked for by the HELLO request, granted by its response."""

    ENCRYPTION = 1
    COMPRESSION = 2
    PAYMENTS = 4


class State(IntEnum):
    """Where a connection is; see `libproto.session`."""

    CONNECTED = 0
    GREETED = 1
    AUTHENTICATED = 2


class EventKind(IntEnum):
    """`kind` of a CHAT_BROADCAST."""

    MESSAGE = 0
    JOINED = 1
    LEFT = 2
    SYSTEM = 3
    OFFER_ADDED = 4
    OFFER_REMOVED = 5
    OFFER_TAKEN = 6
    PAYMENT = 7
    FILE = 8
    ROOM_CHANGED = 9


class RoomAccess(IntEnum):
    """`access` of a room."""

    PUBLIC = 0
    INVITED = 1
    CLOSED = 2


class RoomRole(IntEnum):
    """`role` of a user in a room."""

    NONE = 0
    MEMBER = 1
    MODERATOR = 2
    OWNER = 3
    MUTED = 4
    BANNED = 5


class TxnKind(IntEnum):
    """`kind` of a transaction."""

    DEPOSIT = 1
    WITHDRAW = 2
    TRANSFER = 3


class Opcode(IntEnum):
    """What a frame is about."""

    HELLO = 0x0001
    LOGIN = 0x0002
    LOGOUT = 0x0003
    HEARTBEAT = 0x0004
    REGISTER = 0x0005
    GOING_AWAY = 0x0006
    PASSWORD = 0x0007
    JOIN_ROOM = 0x0101
    LEAVE_ROOM = 0x0102
    CHAT_SEND = 0x0103
    CHAT_BROADCAST = 0x0104
    ROOM_GAP = 0x0105
    ROOM_HISTORY = 0x0106
    ROOM_LIST = 0x0107
    ROOM_MEMBERS = 0x0108
    DIRECT_SEND = 0x0109
    DIRECT_MESSAGE = 0x010A
    USER_LOOKUP = 0x010B
    USER_NAME = 0x010C
    INBOX_HISTORY = 0x010D
    ROOM_OPEN = 0x010E
    ROOM_INFO = 0x010F
    ROOM_SET = 0x0110
    ROOM_ROLE = 0x0111
    BLOCK = 0x0112
    CHAT_DELETE = 0x0113
    DEPOSIT = 0x0201
    WITHDRAW = 0x0202
    TRANSFER = 0x0203
    BALANCE = 0x0204
    TXN_HISTORY = 0x0205
    TRANSFER_IN_ROOM = 0x0206
    PAYMENT = 0x0207
    BOARD_ADD = 0x0301
    BOARD_LIST = 0x0302
    BOARD_REMOVE = 0x0303
    BOARD_TAKE = 0x0304
    FILE_BEGIN = 0x0401
    FILE_PUT = 0x0402
    FILE_END = 0x0403
    FILE_GET = 0x0404
    LINK_FETCH = 0x0405


RESERVED: dict[int, str] = {}
"""Opcodes that are kept for messages to come, by number: no other message may have them."""


# --- Connection -------------------------------------------------------------------------------


class ErrorBody(NamedTuple):
    """The body of every response whose status is not OK."""

    retry_after_ms: U32
    detail: Str


class HelloRequest(NamedTuple):
    capabilities: U32
    client_name: Str
    username: Str
    client_nonce: Bytes
    public_key: Bytes


class HelloResponse(NamedTuple):
    capabilities: U32
    server_name: Str
    max_body_len: U32
    heartbeat_s: U16
    idle_timeout_s: U16
    server_nonce: Bytes
    salt: Bytes
    iterations: U32
    public_key: Bytes
    identity: Bytes
    signature: Bytes


class LoginRequest(NamedTuple):
    username: Str
    client_proof: Bytes
    client_id: U64
    next_req_id: U64


class LoginResponse(NamedTuple):
    user_id: U32
    session_id: U64
    resumed: U8
    log_id: U64
    server_signature: Bytes


class LogoutRequest(NamedTuple):
    pass


class LogoutResponse(NamedTuple):
    pass


class HeartbeatRequest(NamedTuple):
    client_time: U64


class HeartbeatResponse(NamedTuple):
    client_time: U64
    server_time: U64


class RegisterRequest(NamedTuple):
    username: Str
    salt: Bytes
    iterations: U32
    stored_key: Bytes
    server_key: Bytes


class RegisterResponse(NamedTuple):
    user_id: U32


class PasswordRequest(NamedTuple):
    salt: Bytes
    iterations: U32
    stored_key: Bytes
    server_key: Bytes


class PasswordResponse(NamedTuple):
    pass


class GoingAway(NamedTuple):
    reconnect_within_ms: U32
    reason: Str


# --- Chat -------------------------------------------------------------------------------------


class JoinRoomRequest(NamedTuple):
    room_id: U32


class JoinRoomResponse(NamedTuple):
    room_id: U32
    last_seq: U64
    member_count: U32
    epoch: U64


class LeaveRoomRequest(NamedTuple):
    room_id: U32


class LeaveRoomResponse(NamedTuple):
    room_id: U32


class ChatSendRequest(NamedTuple):
    room_id: U32
    message: Str


class ChatSendResponse(NamedTuple):
    room_seq: U64
    time: U64


class ChatBroadcast(NamedTuple):
    """One event of a room: a push, and the item of a ROOM_HISTORY answer."""

    room_id: U32
    room_seq: U64
    time: U64
    kind: U8
    from_user: U32
    from_name: Str
    message: Str


class RoomGap(NamedTuple):
    room_id: U32
    first_seq: U64
    last_seq: U64


class RoomHistoryRequest(NamedTuple):
    room_id: U32
    after_seq: U64
    limit: U16


class RoomHistoryResponse(NamedTuple):
    room_id: U32
    epoch: U64
    oldest_seq: U64
    events: tuple[ChatBroadcast, ...]


class RoomListRequest(NamedTuple):
    after_room_id: U32


class RoomEntry(NamedTuple):
    room_id: U32
    member_count: U32
    last_seq: U64


class RoomListResponse(NamedTuple):
    rooms: tuple[RoomEntry, ...]


class RoomMembersRequest(NamedTuple):
    room_id: U32
    after_user_id: U32


class Member(NamedTuple):
    user_id: U32
    username: Str


class RoomMembersResponse(NamedTuple):
    members: tuple[Member, ...]


class DirectSendRequest(NamedTuple):
    to_user: U32
    message: Str


class DirectSendResponse(NamedTuple):
    time: U64


class DirectMessage(NamedTuple):
    seq: U64
    time: U64
    from_user: U32
    from_name: Str
    message: Str


class UserLookupRequest(NamedTuple):
    username: Str


class UserLookupResponse(NamedTuple):
    user_id: U32
    username: Str
    online: U8
    last_seen: U64


class UserNameRequest(NamedTuple):
    user_id: U32


class UserNameResponse(NamedTuple):
    user_id: U32
    username: Str
    online: U8
    last_seen: U64


class InboxHistoryRequest(NamedTuple):
    after_seq: U64
    limit: U16


class InboxHistoryResponse(NamedTuple):
    epoch: U64
    oldest_seq: U64
    messages: tuple[DirectMessage, ...]


class RoomOpenRequest(NamedTuple):
    name: Str


class RoomOpenResponse(NamedTuple):
    room_id: U32
    created: U8


class RoomInfoRequest(NamedTuple):
    room_id: U32


class RoomInfoResponse(NamedTuple):
    name: Str
    topic: Str
    owner: U32
    access: U8
    role: U8


class RoomSetRequest(NamedTuple):
    room_id: U32
    topic: Str
    access: U8


class RoomSetResponse(NamedTuple):
    room_seq: U64


class RoomRoleRequest(NamedTuple):
    room_id: U32
    user_id: U32
    role: U8
    seconds: U32


class RoomRoleResponse(NamedTuple):
    room_seq: U64


class BlockRequest(NamedTuple):
    user_id: U32
    on: U8


class BlockResponse(NamedTuple):
    pass


class ChatDeleteRequest(NamedTuple):
    room_id: U32
    room_seq: U64


class ChatDeleteResponse(NamedTuple):
    room_seq: U64


# --- Ledger -----------------------------------------------------------------------------------


class DepositRequest(NamedTuple):
    amount: U64


class DepositResponse(NamedTuple):
    txn_id: U64
    balance: U64


class WithdrawRequest(NamedTuple):
    amount: U64


class WithdrawResponse(NamedTuple):
    txn_id: U64
    balance: U64


class TransferRequest(NamedTuple):
    to_user: U32
    amount: U64


class TransferResponse(NamedTuple):
    txn_id: U64
    balance: U64


class BalanceRequest(NamedTuple):
    pass


class BalanceResponse(NamedTuple):
    balance: U64
    last_txn_id: U64


class TxnHistoryRequest(NamedTuple):
    before_txn_id: U64
    limit: U16


class Transaction(NamedTuple):
    txn_id: U64
    time: U64
    kind: U8
    from_user: U32
    to_user: U32
    amount: U64
    balance: U64
    req_id: U64


class TxnHistoryResponse(NamedTuple):
    oldest_txn_id: U64
    transactions: tuple[Transaction, ...]


class TransferInRoomRequest(NamedTuple):
    room_id: U32
    to_user: U32
    amount: U64
    note: Str


class TransferInRoomResponse(NamedTuple):
    txn_id: U64
    balance: U64
    room_seq: U64


class Payment(NamedTuple):
    txn_id: U64
    time: U64
    from_user: U32
    from_name: Str
    amount: U64
    balance: U64


# --- Boards -----------------------------------------------------------------------------------


class BoardAddRequest(NamedTuple):
    room_id: U32
    price: U64
    text: Str


class BoardAddResponse(NamedTuple):
    entry_id: U64
    room_seq: U64


class BoardListRequest(NamedTuple):
    room_id: U32
    after_entry_id: U64
    limit: U16
    contains: Str


class BoardEntry(NamedTuple):
    entry_id: U64
    time: U64
    user_id: U32
    username: Str
    price: U64
    text: Str


class BoardListResponse(NamedTuple):
    entries: tuple[BoardEntry, ...]


class BoardRemoveRequest(NamedTuple):
    room_id: U32
    entry_id: U64


class BoardRemoveResponse(NamedTuple):
    room_seq: U64


class BoardTakeRequest(NamedTuple):
    room_id: U32
    entry_id: U64
    price: U64


class BoardTakeResponse(NamedTuple):
    txn_id: U64
    balance: U64
    room_seq: U64


# --- Files ------------------------------------------------------------------------------------


class FileBeginRequest(NamedTuple):
    room_id: U32
    size: U64
    sha256: Bytes
    media_type: Str
    name: Str


class FileBeginResponse(NamedTuple):
    file_id: U64
    received: U64


class FilePutRequest(NamedTuple):
    file_id: U64
    offset: U64
    data: Bytes


class FilePutResponse(NamedTuple):
    received: U64


class FileEndRequest(NamedTuple):
    file_id: U64


class FileEndResponse(NamedTuple):
    room_seq: U64


class FileGetRequest(NamedTuple):
    file_id: U64
    offset: U64
    length: U32


class FileGetResponse(NamedTuple):
    size: U64
    offset: U64
    data: Bytes


class LinkFetchRequest(NamedTuple):
    room_id: U32
    url: Str


class LinkFetchResponse(NamedTuple):
    file_id: U64
    size: U64
    room_seq: U64


# --- The rows ---------------------------------------------------------------------------------

Rules = tuple[Status, Status, Status]
"""What a request is answered in CONNECTED, GREETED and AUTHENTICATED; OK: it is handled."""

_OK = Status.OK
_BAD = Status.ERR_BAD_PACKET
_UNAUTHORIZED = Status.ERR_UNAUTHORIZED

GREETING: Rules = (_OK, _OK, _BAD)
PROVING: Rules = (_UNAUTHORIZED, _OK, _BAD)
ALWAYS: Rules = (_OK, _OK, _OK)
USERS: Rules = (_UNAUTHORIZED, _UNAUTHORIZED, _OK)
NEVER: Rules = (_BAD, _BAD, _BAD)


@dataclass(frozen=True, slots=True)
class Message:
    """One opcode: a request with its response, or a push.

    `rules` is indexed by `State`. `numbered` marks the requests that are executed exactly once:
    their req_ids increase.
    """

    opcode: Opcode
    name: str
    request: Body | None
    response: Body | None
    push: Body | None
    rules: Rules
    numbered: bool


def _pair(
    opcode: Opcode, request: Body, response: Body, rules: Rules = USERS, numbered: bool = False
) -> Message:
    return Message(opcode, opcode.name, request, response, None, rules, numbered)


def _push(opcode: Opcode, push: Body) -> Message:
    return Message(opcode, opcode.name, None, None, push, NEVER, False)


MESSAGES: tuple[Message, ...] = (
    _pair(Opcode.HELLO, HelloRequest, HelloResponse, GREETING),
    _pair(Opcode.LOGIN, LoginRequest, LoginResponse, PROVING),
    _pair(Opcode.LOGOUT, LogoutRequest, LogoutResponse),
    _pair(Opcode.HEARTBEAT, HeartbeatRequest, HeartbeatResponse, ALWAYS),
    _pair(Opcode.REGISTER, RegisterRequest, RegisterResponse, PROVING),
    _push(Opcode.GOING_AWAY, GoingAway),
    _pair(Opcode.PASSWORD, PasswordRequest, PasswordResponse),
    _pair(Opcode.JOIN_ROOM, JoinRoomRequest, JoinRoomResponse),
    _pair(Opcode.LEAVE_ROOM, LeaveRoomRequest, LeaveRoomResponse),
    _pair(Opcode.CHAT_SEND, ChatSendRequest, ChatSendResponse, numbered=True),
    _push(Opcode.CHAT_BROADCAST, ChatBroadcast),
    _push(Opcode.ROOM_GAP, RoomGap),
    _pair(Opcode.ROOM_HISTORY, RoomHistoryRequest, RoomHistoryResponse),
    _pair(Opcode.ROOM_LIST, RoomListRequest, RoomListResponse),
    _pair(Opcode.ROOM_MEMBERS, RoomMembersRequest, RoomMembersResponse),
    _pair(Opcode.DIRECT_SEND, DirectSendRequest, DirectSendResponse, numbered=True),
    _push(Opcode.DIRECT_MESSAGE, DirectMessage),
    _pair(Opcode.USER_LOOKUP, UserLookupRequest, UserLookupResponse),
    _pair(Opcode.USER_NAME, UserNameRequest, UserNameResponse),
    _pair(Opcode.INBOX_HISTORY, InboxHistoryRequest, InboxHistoryResponse),
    _pair(Opcode.ROOM_OPEN, RoomOpenRequest, RoomOpenResponse, numbered=True),
    _pair(Opcode.ROOM_INFO, RoomInfoRequest, RoomInfoResponse),
    _pair(Opcode.ROOM_SET, RoomSetRequest, RoomSetResponse, numbered=True),
    _pair(Opcode.ROOM_ROLE, RoomRoleRequest, RoomRoleResponse, numbered=True),
    _pair(Opcode.BLOCK, BlockRequest, BlockResponse),
    _pair(Opcode.CHAT_DELETE, ChatDeleteRequest, ChatDeleteResponse),
    _pair(Opcode.DEPOSIT, DepositRequest, DepositResponse, numbered=True),
    _pair(Opcode.WITHDRAW, WithdrawRequest, WithdrawResponse, numbered=True),
    _pair(Opcode.TRANSFER, TransferRequest, TransferResponse, numbered=True),
    _pair(Opcode.BALANCE, BalanceRequest, BalanceResponse),
    _pair(Opcode.TXN_HISTORY, TxnHistoryRequest, TxnHistoryResponse),
    _pair(Opcode.TRANSFER_IN_ROOM, TransferInRoomRequest, TransferInRoomResponse, numbered=True),
    _push(Opcode.PAYMENT, Payment),
    _pair(Opcode.BOARD_ADD, BoardAddRequest, BoardAddResponse, numbered=True),
    _pair(Opcode.BOARD_LIST, BoardListRequest, BoardListResponse),
    _pair(Opcode.BOARD_REMOVE, BoardRemoveRequest, BoardRemoveResponse, numbered=True),
    _pair(Opcode.BOARD_TAKE, BoardTakeRequest, BoardTakeResponse, numbered=True),
    _pair(Opcode.FILE_BEGIN, FileBeginRequest, FileBeginResponse),
    _pair(Opcode.FILE_PUT, FilePutRequest, FilePutResponse),
    _pair(Opcode.FILE_END, FileEndRequest, FileEndResponse, numbered=True),
    _pair(Opcode.FILE_GET, FileGetRequest, FileGetResponse),
    _pair(Opcode.LINK_FETCH, LinkFetchRequest, LinkFetchResponse, numbered=True),
)

BY_OPCODE: dict[int, Message] = {int(message.opcode): message for message in MESSAGES}
