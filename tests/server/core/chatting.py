"""What the tests of memberships, events and chat have in common."""

from typing import Any

from libproto.codec import PUSH
from libproto.framing import Decoder
from libproto.messages import ChatBroadcast, EventKind, Opcode
from server.core.session import Session
from server.core.state import State
from server.region.region import Region
from tests.helpers.region import (
    SMALL,
    login,
    register,
    state_of,
)

NAMES = ("ann", "bob", "cyd")
MESSAGE, JOINED, LEFT = EventKind.MESSAGE, EventKind.JOINED, EventKind.LEFT
RING = SMALL.event_ring
PLENTY = 1 << 20  # bytes of a history
BROADCAST = PUSH[Opcode.CHAT_BROADCAST]


def pushed(frame: bytes) -> tuple[int, tuple[Any, ...]]:
    """Opcode and fields of a push frame, which must be a whole and sound one."""
    decoder = Decoder(1 << 16)
    decoder.feed(frame)
    found = decoder.next()
    assert found is not None
    opcode, req_id, flags, status, buf, start, end, fault = found
    assert (req_id, flags, status, fault, decoder.buffered) == (0, 0, 0, 0, 0)
    return opcode, PUSH[opcode].decode(buf, start, end)


def chat(body: bytes) -> ChatBroadcast:
    return ChatBroadcast(*BROADCAST.decode(body, 0, len(body)))


def history(state: State, room: int, after: int = 0, limit: int = 256) -> list[ChatBroadcast]:
    return [chat(body) for body in state.events.history(room, after, limit, PLENTY)[1]]


def seen(state: State, room: int) -> list[tuple[int, int, str, str]]:
    """(room_seq, kind, name, message) of all the history of a room."""
    return [(e.room_seq, e.kind, e.from_name, e.message) for e in history(state, room)]


def three(region: Region) -> tuple[State, list[Session]]:
    """Ann, Bob and Cyd are logged in, each on a worker of their own."""
    states = [state_of(region, worker) for worker in range(3)]
    register(states[0], *NAMES)
    return states[0], [login(states[user - 1], user, 7) for user in (1, 2, 3)]


def talk(state: State, session: Session, room: int, count: int) -> None:
    for _ in range(count):
        state.chat.send(session, room, f"m{state.events.last_seq(room) + 1}", 1)
