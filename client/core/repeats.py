"""Which requests are repeated on another connection, in what order, and what a refusal tells."""

from client.core.numbers import NUMBERED
from libproto.errors import Status
from libproto.messages import Opcode

NOT_REPEATED = frozenset({Opcode.HELLO, Opcode.REGISTER, Opcode.LOGIN})
"""Requests that only mean something on the connection that they were sent on."""

SPOKEN = NUMBERED - {Opcode.DEPOSIT, Opcode.WITHDRAW, Opcode.TRANSFER}
"""Numbered requests whose order others see, and which may need a room."""

OF_MEMBERS = frozenset(
    {
        Opcode.CHAT_SEND,
        Opcode.TRANSFER_IN_ROOM,
        Opcode.BOARD_ADD,
        Opcode.BOARD_LIST,
        Opcode.BOARD_REMOVE,
        Opcode.BOARD_TAKE,
        Opcode.FILE_BEGIN,
        Opcode.LINK_FETCH,
    }
)
"""Requests in a room, the first of their fields, that are ERR_UNAUTHORIZED if it is not joined."""

REFUSED_BY_RIGHT = OF_MEMBERS | {
    Opcode.JOIN_ROOM,
    Opcode.ROOM_HISTORY,
    Opcode.CHAT_DELETE,
    Opcode.ROOM_SET,
    Opcode.ROOM_ROLE,
    Opcode.FILE_END,
    Opcode.FILE_GET,
    Opcode.DEPOSIT,
    Opcode.WITHDRAW,
    Opcode.PASSWORD,
}
"""Requests that are ERR_UNAUTHORIZED for want of a right, too: of who is banned, or muted."""

REFUSED_BEFORE_THE_RECORD = frozenset(
    {
        Status.ERR_SERVER_BUSY,
        Status.ERR_UNAUTHORIZED,
        Status.ERR_CHECKSUM_FAIL,
        Status.ERR_INTERNAL,
    }
)
"""What a request may be answered before the server looks whether it was executed before."""
