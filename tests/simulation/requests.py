"""What clients ask for: requests of the kinds that a seed has, whose fields mostly make sense."""

from random import Random
from typing import Final

from libproto.messages import MESSAGES, Opcode

NUMBERED: Final = frozenset(message.opcode for message in MESSAGES if message.numbered)
MONEY: Final = frozenset(
    {
        Opcode.DEPOSIT,
        Opcode.WITHDRAW,
        Opcode.TRANSFER,
        Opcode.TRANSFER_IN_ROOM,
        Opcode.BOARD_TAKE,
    }
)
ROOMS: Final = 2
"""Rooms that are talked in: few, so that clients meet."""


NAMED: Final = 2
"""Rooms, after those, that are opened by name."""
_OF_TWO: Final = frozenset(
    {
        Opcode.TRANSFER,
        Opcode.TRANSFER_IN_ROOM,
        Opcode.DIRECT_SEND,
        Opcode.ROOM_ROLE,
        Opcode.BLOCK,
    }
)


class Request:
    """Something that a client has asked for."""

    def __init__(self, opcode: int, req_id: int, fields: tuple[int | str, ...], shown: int) -> None:
        """shown: the newest transaction that anybody had been shown before."""
        self.opcode, self.req_id, self.fields, self.shown = opcode, req_id, fields, shown
        self.tries = self.refused = 0

    @property
    def number(self) -> int:
        """Its first field, where that is one."""
        return int(self.fields[0])

    def __repr__(self) -> str:
        return f"{Opcode(self.opcode).name} {self.req_id} {self.fields}"


def draw(
    random: Random,
    opcode: Opcode,
    text: str,
    others: list[int],
    offers: dict[int, tuple[int, int]],
    owned: list[int],
) -> tuple[int | str, ...] | None:
    """The fields of a request; None: it makes no sense now. others: users. offers: by entry_id, the
    room and the price. owned: rooms that it has opened."""
    amount, room = random.choice((1, 2, 5, 100)), random.randint(1, ROOMS)
    any_room = random.randint(1, ROOMS + NAMED)
    room = any_room if random.random() < 0.3 else room
    if owned and random.random() < 0.8:
        any_room = random.choice(owned)
    if opcode in _OF_TWO and not others:
        return None
    match opcode:
        case Opcode.BALANCE:
            return ()
        case Opcode.DEPOSIT:
            return (10 * amount,)
        case Opcode.WITHDRAW:
            return (amount,)
        case Opcode.TRANSFER:
            return random.choice(others), amount
        case Opcode.TRANSFER_IN_ROOM:
            return room, random.choice(others), amount, text
        case Opcode.CHAT_SEND:
            return room, text
        case Opcode.DIRECT_SEND:
            return random.choice(others), text
        case Opcode.JOIN_ROOM | Opcode.LEAVE_ROOM:
            return (room,)
        case Opcode.ROOM_HISTORY:
            return room, random.choice((0, 0, 1, 5, 20)), random.choice((1, 10, 100))
        case Opcode.INBOX_HISTORY:
            return random.choice((0, 1, 5)), 100
        case Opcode.BOARD_ADD:
            return room, amount, text
        case Opcode.ROOM_OPEN:
            return (f"hall-{random.randint(1, 3)}",)
        case Opcode.ROOM_SET:
            return any_room, text, random.choice((0, 0, 1, 2))
        case Opcode.ROOM_ROLE:
            role = random.choice((0, 1, 2, 3, 4))
            return any_room, random.choice(others), role, random.choice((0, 1))
        case Opcode.BLOCK:
            return random.choice(others), random.randint(0, 1)
        case Opcode.TXN_HISTORY:
            return random.choice((0, 1, 5, 50)), random.choice((1, 100))
        case Opcode.ROOM_LIST | Opcode.HEARTBEAT:
            return (0,)
        case Opcode.BOARD_TAKE | Opcode.BOARD_REMOVE:
            if not offers:
                return None
            entry = random.choice(sorted(offers))
            where, price = offers[entry]
            return (where, entry, price) if opcode == Opcode.BOARD_TAKE else (where, entry)
    raise AssertionError(opcode)
