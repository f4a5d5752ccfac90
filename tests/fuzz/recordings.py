"""Sessions as a client has them with a real server, recorded: what it sends in each state."""

import hashlib
import os
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from libproto.errors import Status
from libproto.messages import HEADER_LEN, Capability, Opcode, RoomAccess, RoomRole
from tests.fuzz.targets import summed
from tests.helpers.server import RunningServer
from tests.helpers.wire import SALT, Wire, registration, request

ROOM: Final = 3
ITERATIONS: Final = 4096
KEY: Final = bytes(range(32))
FILE: Final = b"what is shared " * 3000
CAPABILITIES: Final = (0, Capability.ENCRYPTION, Capability.COMPRESSION, 7)


class Begin(StrEnum):
    """How far a connection has come before what was recorded."""

    CONNECTED = "connected"
    GREETED = "greeted"
    LOGGED_IN = "logged in"
    IN_A_ROOM = "in a room"
    UPLOADING = "uploading"


class Recording(NamedTuple):
    """Plain frames, one after the other."""

    begin: Begin
    frames: list[bytes]
    file: int = 0  # of what is uploaded


class Recorder(Wire):
    """Keeps what it sends."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__(server.connect())
        self.kept: list[bytes] = []

    def send(self, opcode: int, *fields: object, flags: int = 0, req_id: int = 0) -> int:
        sent = super().send(opcode, *fields, flags=flags, req_id=req_id)
        self.kept.append(request(opcode, sent, *fields, flags=flags))
        return sent


def begin(wire: Wire, to: Begin, username: str, capabilities: int) -> int:
    """Come so far; the file_id of an upload that was begun, or 0. AssertionError."""
    if to == Begin.CONNECTED:
        return 0
    assert wire.hello(username, capabilities=capabilities).status == Status.OK
    if to == Begin.GREETED:
        return 0
    answer = wire.login(username)
    assert answer.status == Status.OK, answer.body
    if to == Begin.LOGGED_IN:
        return 0
    wire.ok(Opcode.JOIN_ROOM, ROOM)
    if to == Begin.IN_A_ROOM:
        return 0
    file = os.urandom(6) * 10_000
    sha = hashlib.sha256(file).digest()
    return int(wire.ok(Opcode.FILE_BEGIN, ROOM, len(file), sha, "text/plain", "a.txt").file_id)


def of_file(frame: bytes, recorded: int, file: int) -> bytes:
    """The frame, about this file instead of the recorded one."""
    start, end = HEADER_LEN, HEADER_LEN + 8
    if int.from_bytes(frame[10:12]) in _OF_FILES and frame[start:end] == recorded.to_bytes(8):
        was_right = summed(frame) == frame
        frame = frame[:start] + file.to_bytes(8) + frame[end:]
        return summed(frame) if was_right else frame
    return frame


_OF_FILES: Final = (Opcode.FILE_PUT, Opcode.FILE_END, Opcode.FILE_GET)


def _stranger(wire: Wire, _: int) -> None:
    wire.hello("somebody", capabilities=0)
    wire.call(Opcode.HEARTBEAT, 1)
    wire.call(Opcode.LOGIN, "somebody", KEY, 5, 1)
    wire.hello("nobody", capabilities=0)
    wire.call(Opcode.REGISTER, *registration("newcomer", ITERATIONS))
    wire.call(Opcode.BALANCE)


def _guest(wire: Wire, _: int) -> None:
    wire.call(Opcode.REGISTER, *registration("guest", ITERATIONS))
    wire.call(Opcode.LOGIN, "guest", KEY, 5, 1)
    wire.call(Opcode.HEARTBEAT, 2**63)


def _trader(wire: Wire, _: int) -> None:
    wire.call(Opcode.DEPOSIT, 1000)
    wire.call(Opcode.TRANSFER, 1, 10)
    wire.call(Opcode.WITHDRAW, 1)
    for opcode, fields in (
        (Opcode.BALANCE, ()), (Opcode.TXN_HISTORY, (0, 20)), (Opcode.USER_LOOKUP, ("alice",)),
        (Opcode.USER_NAME, (1,)), (Opcode.DIRECT_SEND, (1, "for you")), (Opcode.BLOCK, (1, 1)),
        (Opcode.BLOCK, (1, 0)), (Opcode.INBOX_HISTORY, (0, 10)), (Opcode.ROOM_LIST, (0,)),
        (Opcode.HEARTBEAT, (3,)), (Opcode.LOGOUT, ()),
    ):  # fmt: skip
        wire.call(opcode, *fields)


def _changes_password(wire: Wire, _: int) -> None:
    wire.call(Opcode.BALANCE)
    wire.call(Opcode.PASSWORD, SALT, ITERATIONS, KEY, KEY)
    wire.call(Opcode.BALANCE)
    wire.call(Opcode.PASSWORD, *registration("", ITERATIONS)[1:])


def _talker(wire: Wire, _: int) -> None:
    wire.call(Opcode.CHAT_SEND, ROOM, "hello")
    wire.call(Opcode.CHAT_SEND, ROOM, "a longer one " * 100)
    wire.call(Opcode.ROOM_HISTORY, ROOM, 0, 50)
    wire.call(Opcode.ROOM_MEMBERS, ROOM, 0)
    wire.call(Opcode.TRANSFER_IN_ROOM, ROOM, 1, 1, "for that")
    wire.call(Opcode.CHAT_DELETE, ROOM, 1)
    wire.call(Opcode.LEAVE_ROOM, ROOM)
    wire.call(Opcode.JOIN_ROOM, ROOM)


def _owner(wire: Wire, _: int) -> None:
    room = wire.call(Opcode.ROOM_OPEN, "gold").body.room_id
    wire.call(Opcode.JOIN_ROOM, room)
    wire.call(Opcode.ROOM_INFO, room)
    wire.call(Opcode.ROOM_SET, room, "what it is for", RoomAccess.INVITED)
    wire.call(Opcode.ROOM_ROLE, room, 1, RoomRole.MEMBER, 0)
    offer = wire.call(Opcode.BOARD_ADD, room, 5, "an offer").body.entry_id
    wire.call(Opcode.BOARD_LIST, room, 0, 10, "")
    wire.call(Opcode.BOARD_TAKE, room, offer, 5)
    wire.call(Opcode.BOARD_REMOVE, room, offer)
    wire.call(Opcode.CHAT_DELETE, room, 2)


def _uploader(wire: Wire, file: int) -> None:
    for at in (0, 20_000, 40_000):
        wire.call(Opcode.FILE_PUT, file, at, bytes(20_000))
    wire.call(Opcode.FILE_END, file)
    wire.call(Opcode.FILE_GET, file, 0, 30_000)
    sha = hashlib.sha256(FILE).digest()
    wire.call(Opcode.FILE_BEGIN, ROOM, len(FILE), sha, "text/plain", "b.txt")
    wire.call(Opcode.LINK_FETCH, ROOM, "http://127.0.0.1/x")


_SCRIPTS: Final[tuple[tuple[Begin, Callable[[Wire, int], None]], ...]] = (
    (Begin.CONNECTED, _stranger), (Begin.GREETED, _guest), (Begin.LOGGED_IN, _trader),
    (Begin.IN_A_ROOM, _talker), (Begin.IN_A_ROOM, _owner), (Begin.UPLOADING, _uploader),
    (Begin.LOGGED_IN, _changes_password),
)  # fmt: skip


def record(server: RunningServer, user: str) -> list[Recording]:
    """Have each session once; the last one changes the user's password, and back."""
    found = []
    for start, script in _SCRIPTS:
        wire = Recorder(server)
        with wire:
            file = begin(wire, start, user, 0)
            wire.kept.clear()
            script(wire, file)
            found.append(Recording(start, wire.kept, file))
    return found
