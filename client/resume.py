"""A core that goes on over lost connections, without any input or output, and without a clock.

From the answer to a LOGIN until a LOGOUT, a connection that is reset, closed, refused at the door
(ServerBusy) or silent is established again: at once the first time, then with growing pauses
(`Backoff`), until it is there or the client is closed. On the new connection, in this order:

1. The same user logs in again with the same client_id. What is kept for that are the two SCRAM keys
   and not the password; with another salt they are worth nothing, and that is `ReloginFailed`.
2. Ledger requests whose callers still wait are repeated with POSSIBLE_DUPLICATE, by req_id, and
   joined rooms are joined again. Where a room is in the epoch it was in, what was missed is
   fetched from its history, and given to the program before the pushes that come meanwhile; what
   the history does not hold is given as a RoomGap. Else a RoomRestarted or a RoomRefused is given.
3. When all of that is answered, the other requests that may be sent twice are repeated: all but
   CHAT_SEND and DIRECT_SEND. New requests wait till here.

So each call is answered once, and each event of a room is given once, in order. What cannot be
known is said: a CHAT_SEND or DIRECT_SEND under way fails with ConnectionLost, as what it said may
have been heard or not; so does a ledger request under client_id 0, which must not be repeated. A
call's deadline stays what it was: it ends in CallTimeout, its req_id is not repeated any more by
this client, and stays among `unanswered` until the program repeats it itself.

Not made up for: payments (TXN_HISTORY has them) and direct messages, which nobody keeps. Where the
number of the next direct message shows that some are missing, a RoomGap of room 0 names them.

**Superseded.** Where the same client_id logs in elsewhere, this session's requests are answered
ERR_UNAUTHORIZED, and its connection is closed after a while. A client that took this for a lost
connection would supersede the other one, and so on for ever. So the sign of life is a request that
tells, it is sent often enough to be answered before the server closes, and the first such answer
ends the client with `Superseded`.
"""

import copy
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from client import core, gaps
from client.core import (
    FLAGGED,
    LEDGER,
    REFUSED_BEFORE_THE_RECORD,
    Answered,
    Call,
    Calls,
    ClientCore,
    Greeting,
    Keys,
    Push,
    Request,
    RoomRefused,
    RoomRestarted,
)
from client.errors import (
    BadPacket,
    ChecksumFailed,
    ClientError,
    ConnectionLost,
    ReloginFailed,
    RequestFailed,
    ServerBusy,
    Superseded,
    Unauthorized,
)
from libproto.codec import REQUEST
from libproto.framing import Decoder, Frame
from libproto.messages import (
    ChatBroadcast,
    DirectMessage,
    JoinRoomResponse,
    LoginResponse,
    Opcode,
    RoomGap,
    RoomHistoryResponse,
    State,
)

ATTEMPT_S = 5.0
"""How long one attempt may take, from the first packet to the answer to LOGIN."""
PAUSE_S_FIRST = 0.05
"""Longest pause before the second attempt in a row; it doubles with each."""
PAUSE_S_MAX = 5.0
"""Longest pause, if the server does not ask for more."""
RESET_S = 1.0
"""A connection that lasted so long is followed by an attempt at once, a shorter one by the first
pause, so that a server which takes every login and then fails is not overrun."""
PROBE_S = 5
"""Longest time between two signs of life: half of the time a server leaves a superseded session."""
AGAIN_S = 0.1
"""How long what the server refused for the moment waits, if the server does not ask for more."""

_NOT_REPEATED = frozenset(
    {Opcode.HELLO, Opcode.REGISTER, Opcode.LOGIN, Opcode.CHAT_SEND, Opcode.DIRECT_SEND}
)
_OF_MEMBERS = frozenset({Opcode.CHAT_SEND, Opcode.ROOM_HISTORY})
"""Requests that are ERR_UNAUTHORIZED in a room that is not joined, too."""

_random = secrets.SystemRandom()

Step = Callable[[Any, RequestFailed | None], None]
"""What is done with the answer to one of the core's own requests: its result, or its error."""


class Backoff:
    """The pauses between attempts: none, then between half and all of a time that doubles from
    PAUSE_S_FIRST to PAUSE_S_MAX. By how much is drawn, so that the clients of a server that went
    away do not all come back at the same moments."""

    def __init__(self, draw: Callable[[], float] = _random.random) -> None:
        """draw: gives a number from 0 to 1."""
        self._draw = draw
        self._attempts = 0
        self._last_at_s = 0.0

    def pause_s(self, now_s: float, succeeded: bool, at_least_s: float) -> float:
        """The pause before the next attempt. `succeeded`: the last attempt led to a connection that
        has been in use; `now_s` is monotonic."""
        if succeeded:
            self._attempts = 0 if now_s - self._last_at_s >= RESET_S else 1
        pause_s = 0.0
        if self._attempts:
            longest = min(PAUSE_S_MAX, PAUSE_S_FIRST * 2 ** min(self._attempts - 1, 16))
            pause_s = longest * (1 + self._draw()) / 2
        self._attempts += 1
        pause_s = max(pause_s, at_least_s)
        self._last_at_s = now_s + pause_s
        return pause_s


class _Room:
    """A joined room: its epoch, and the number up to which the program was given its events.
    While it catches up to `target`, what is pushed waits in `held`."""

    __slots__ = ("epoch", "held", "seen", "target")

    def __init__(self, epoch: int, seen: int) -> None:
        self.epoch = epoch
        self.seen = seen
        self.target: int | None = None
        self.held: list[ChatBroadcast | RoomGap] = []


class Rooms:
    """What the program was given of each joined room, and what it is still to be given."""

    def __init__(self) -> None:
        self._rooms: dict[int, _Room] = {}
        self._direct_seen = 0  # number of the latest direct message; 0 before the first

    def __contains__(self, room_id: int) -> bool:
        return room_id in self._rooms

    def joined_ids(self) -> list[int]:
        return sorted(self._rooms)

    def joined(self, room_id: int, answer: JoinRoomResponse) -> None:
        """The program has joined a room; a second time changes nothing."""
        self._rooms.setdefault(room_id, _Room(answer.epoch, answer.last_seq))

    def left(self, room_id: int) -> None:
        self._rooms.pop(room_id, None)

    def clear(self) -> None:
        self._rooms.clear()
        self._direct_seen = 0

    def interrupt(self) -> None:
        """The connection was lost: what was held back will be in the history."""
        for room in self._rooms.values():
            room.target = None
            room.held.clear()

    def pushed(self, push: Push) -> Sequence[Push]:
        """What the program is given by a push, just now."""
        match push:
            case ChatBroadcast() | RoomGap() if room := self._rooms.get(push.room_id):
                if room.target is not None:
                    room.held.append(push)
                    return ()
                return self._new(room, push)
            case DirectMessage(seq=last) | RoomGap(room_id=0, last_seq=last):
                first = last if isinstance(push, DirectMessage) else push.first_seq
                missed = RoomGap(0, self._direct_seen + 1, first - 1)
                known, self._direct_seen = self._direct_seen, last
                return (missed, push) if known and missed.first_seq <= missed.last_seq else (push,)
        return (push,)

    @staticmethod
    def _new(room: _Room, push: ChatBroadcast | RoomGap) -> Sequence[ChatBroadcast | RoomGap]:
        """As much of a push as the program was not given before."""
        last = push.room_seq if isinstance(push, ChatBroadcast) else push.last_seq
        if last <= room.seen:
            return ()
        if isinstance(push, RoomGap):
            push = push._replace(first_seq=max(push.first_seq, room.seen + 1))
        room.seen = last
        return (push,)

    # ---- after a reconnection

    def rejoined(self, room_id: int, answer: JoinRoomResponse) -> Sequence[Push]:
        """The room was joined again: what the program is given by that."""
        room = self._rooms[room_id]
        if answer.epoch != room.epoch:
            self._rooms[room_id] = _Room(answer.epoch, answer.last_seq)
            return (RoomRestarted(room_id, answer.epoch, answer.last_seq),)
        if answer.last_seq > room.seen:
            room.target = answer.last_seq
        return ()

    def wanted(self, room_id: int) -> gaps.Ask | None:
        """What to ask the room's history for; None where nothing is missing."""
        room = self._rooms[room_id]
        return None if room.target is None else gaps.ask(room.seen, room.target)

    def answered(self, room_id: int, answer: RoomHistoryResponse) -> Sequence[Push]:
        """What was `wanted` has come: what the program is given by that."""
        room = self._rooms[room_id]
        assert room.target is not None
        found, seen = gaps.read_answer(room_id, room.seen, room.target, answer)
        return [*found, *self._caught_up(room, seen)]

    def not_told(self, room_id: int) -> Sequence[Push]:
        """What was `wanted` cannot be had: the program is told so."""
        room = self._rooms[room_id]
        assert room.target is not None
        gap = RoomGap(room_id, room.seen + 1, room.target)
        return [gap, *self._caught_up(room, room.target)]

    def _caught_up(self, room: _Room, seen: int) -> Iterable[Push]:
        room.seen = seen
        if seen != room.target:
            return []
        held, room.held, room.target = room.held, [], None
        return [event for push in held for event in self._new(room, push)]


class ResumingCore(ClientCore):
    """The core that the module's text tells of."""

    def __init__(self, client_id: int | None, payments: bool, client_name: str) -> None:
        super().__init__(client_id, payments, client_name)
        self.backoff = Backoff()
        self.rooms = Rooms()
        self._has_link = False
        self._interruption: ClientError | None = None
        self._succeeded_before = False  # the connection that was lost had been in use
        self._offered: Keys | None = None  # by the LOGIN under way
        self._keys: Keys | None = None
        self._events: list[Push] = []
        self._own: dict[int, Step] = {}
        self._unsent: set[int] = set()  # pending, but not sent on this connection
        self._repeated: set[int] = set()  # ledger requests that have to be answered first
        self._later: list[Callable[[], None]] = []

    # ---- the connection

    @property
    def linked(self) -> bool:
        return self.loss is None and self._has_link

    @property
    def beat_s(self) -> int:
        return min(self.heartbeat_s, PROBE_S)

    def _sign_of_life(self, client_time: int) -> Call[Any]:
        if self.state != State.AUTHENTICATED:
            return super()._sign_of_life(client_time)
        return Calls.USER_NAME(self.user_id)

    def begin(self, decoder: Decoder) -> None:
        super().begin(decoder)
        self._has_link = True
        if not self.steady:
            call = core.hello(self.username, self.client_name, self.capabilities)
            self._ask(call, self._greeted)

    def lose(self, reason: ClientError) -> list[int]:
        if self.loss is not None or not self._has_link:
            return []
        if self._keys is None or type(reason) not in (ConnectionLost, ServerBusy):
            return self.end(reason)
        self._interrupt()
        failed = [n for n, request in self._pending.items() if not self._may_repeat(request)]
        for req_id in failed:
            del self._pending[req_id]
            self._in_flight.discard(req_id)
        self._unsent = set(self._pending)
        if isinstance(reason, ConnectionLost):
            reason.req_ids = tuple(n for n in self.unanswered_req_ids if n not in self._pending)
        self._interruption = reason
        return failed

    def _interrupt(self) -> None:
        self._succeeded_before = self.steady
        self._has_link = self.steady = False
        self.state = State.CONNECTED
        self.again_after_s = None
        self._abandoned.clear()
        self.rooms.interrupt()
        for each in (self.outbox, self._events, self._own, self._repeated, self._later):
            each.clear()

    def _may_repeat(self, request: Request) -> bool:
        if request.call.opcode in LEDGER:
            return self.client_id != 0
        return request.call.opcode not in _NOT_REPEATED

    def pause_s(self, now_s: float) -> float:
        asked_ms = getattr(self._interruption, "retry_after_ms", 0)
        succeeded, self._succeeded_before = self._succeeded_before, False
        return self.backoff.pause_s(now_s, succeeded, asked_ms / 1000)

    def end(self, reason: ClientError) -> list[int]:
        failed = super().end(reason)
        self._interrupt()
        self.steady = True
        self._keys = None
        self._unsent.clear()
        self.rooms.clear()
        return failed

    def failure(self) -> ClientError:
        reason = self.loss or self._interruption
        assert reason is not None
        return copy.copy(reason)

    # ---- requests

    def may_send(self, call: Call[Any], req_id: int | None) -> bool:
        return self._has_link and self.steady and super().may_send(call, req_id)

    def login(self, greeting: Greeting, keys: Keys) -> Call[LoginResponse]:
        self._offered = keys
        return super().login(greeting, keys)

    def abandon(self, req_id: int) -> None:
        if req_id in self._unsent:  # no answer will come
            self._unsent.discard(req_id)
            self._pending.pop(req_id, None)
            self._in_flight.discard(req_id)
        else:
            super().abandon(req_id)

    def retract(self, req_id: int) -> None:
        self._unsent.discard(req_id)
        super().retract(req_id)

    # ---- what the server sends

    def take(self, frame: Frame) -> Sequence[Answered | Push]:
        event = self.receive(frame)
        if event is not None and not isinstance(event, Answered):
            return self.rooms.pushed(event)
        given: list[Answered | Push] = [*self._events]
        self._events.clear()
        if event is not None:
            given.append(event)
        return given

    def _succeeded(self, call: Call[Any], result: Any) -> None:
        if call.opcode == Opcode.LOGIN and not self.steady and result.user_id != self.user_id:
            raise ReloginFailed(f"user {self.username!r} is another user now")
        super()._succeeded(call, result)

    def _withhold(
        self, req_id: int, request: Request, late: bool, result: Any, error: RequestFailed | None
    ) -> bool:
        if isinstance(error, Unauthorized) and self._is_superseded(request.call):
            raise Superseded(f"another login took the place of this session: {error.detail}")
        if step := self._own.pop(req_id, None):
            step(result, error)
        elif error is None:
            self._follow(request.call, result)
        if req_id in self._repeated:
            if error is not None and error.status in REFUSED_BEFORE_THE_RECORD and not late:
                self._unsent.add(req_id)
                self._postpone(partial(self._repeat, req_id), error)
                return True
            self._repeated.discard(req_id)
        self._proceed()
        return False

    def _is_superseded(self, call: Call[Any]) -> bool:
        if self.state != State.AUTHENTICATED:
            return False
        return call.opcode not in _OF_MEMBERS or call.fields[0] in self.rooms

    def _follow(self, call: Call[Any], result: Any) -> None:
        """What the program's own requests change."""
        match call.opcode:
            case Opcode.LOGIN:
                self._keys = self._offered
            case Opcode.LOGOUT:
                self._keys = None
                self.rooms.clear()
            case Opcode.JOIN_ROOM:
                self.rooms.joined(call.fields[0], result)
            case Opcode.LEAVE_ROOM:
                self.rooms.left(call.fields[0])

    # ---- resuming

    def _ask(self, call: Call[Any], step: Step) -> None:
        """A request of the core's own."""
        req_id, frame = self.request(call)
        self.abandon(req_id)
        self._own[req_id] = step
        self.outbox.append(frame)

    def _greeted(self, greeting: Greeting, error: RequestFailed | None) -> None:
        self._check(error)
        keys, answer = self._keys, greeting.answer
        assert keys is not None
        if (answer.salt, answer.iterations) != (keys.salt, keys.iterations):
            raise ReloginFailed(
                f"the salt of user {self.username!r} is another one now: the user was registered "
                "anew, or is not known any more"
            )
        self._ask(core.login(greeting, keys, self.client_id), self._logged_in)

    def _logged_in(self, _: LoginResponse, error: RequestFailed | None) -> None:
        self._check(error)
        for req_id in sorted(self._unsent):
            if self._pending[req_id].call.opcode in LEDGER:
                self._repeated.add(req_id)
                self._repeat(req_id)
        for room_id in self.rooms.joined_ids():
            self._rejoin(room_id)

    @staticmethod
    def _check(error: RequestFailed | None) -> None:
        """What a refusal of HELLO or LOGIN means for the connection."""
        if isinstance(error, Unauthorized | BadPacket):
            raise ReloginFailed(f"the server refused to take the login again: {error.detail}")
        if isinstance(error, ServerBusy):
            raise error
        if error is not None:
            raise ConnectionLost(str(error))

    def _rejoin(self, room_id: int) -> None:
        self._ask(Calls.JOIN(room_id), partial(self._rejoined, room_id))

    def _rejoined(
        self, room_id: int, result: JoinRoomResponse, error: RequestFailed | None
    ) -> None:
        if isinstance(error, ServerBusy | ChecksumFailed):
            self._postpone(partial(self._rejoin, room_id), error)
        elif error is not None:
            self.rooms.left(room_id)
            self._events.append(RoomRefused(room_id, error.status, error.detail))
        else:
            self._events += self.rooms.rejoined(room_id, result)
            self._fetch(room_id)

    def _fetch(self, room_id: int) -> None:
        ask = self.rooms.wanted(room_id)
        if ask is not None:
            self._ask(Calls.HISTORY(room_id, *ask), partial(self._fetched, room_id))

    def _fetched(
        self, room_id: int, result: RoomHistoryResponse, error: RequestFailed | None
    ) -> None:
        if isinstance(error, ServerBusy | ChecksumFailed):
            self._postpone(partial(self._fetch, room_id), error)
        elif error is not None:
            self._events += self.rooms.not_told(room_id)
        else:
            self._events += self.rooms.answered(room_id, result)
            self._fetch(room_id)

    def _repeat(self, req_id: int) -> None:
        """Send a pending request again; if nobody waits for it any more, it is done."""
        request = self._pending.get(req_id)
        if request is None:
            self._repeated.discard(req_id)
            return
        ledger = request.call.opcode in LEDGER
        self._unsent.discard(req_id)
        self._pending[req_id] = Request(request.call, ledger)
        frame = REQUEST[request.call.opcode].frame(
            req_id, FLAGGED if ledger else 0, *request.call.fields
        )
        self.outbox.append(frame)

    def _postpone(self, action: Callable[[], None], error: RequestFailed) -> None:
        """The server refused it for the moment."""
        self._later.append(action)
        asked_s = max(AGAIN_S, error.retry_after_ms / 1000)
        self.again_after_s = max(asked_s, self.again_after_s or 0.0)

    def again(self) -> None:
        self.again_after_s = None
        later, self._later = self._later, []
        for action in later:
            action()
        self._proceed()

    def _proceed(self) -> None:
        """When everything is answered that has to be, the rest follows."""
        if self.steady or self.state != State.AUTHENTICATED:
            return
        if self._own or self._repeated or self._later:
            return
        self.steady = True
        self.reconnects += 1
        for req_id in sorted(self._unsent):
            self._repeat(req_id)
