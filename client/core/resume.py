"""A core that goes on over other connections, without any input or output, and without a clock.

**Reconnecting**, if the program asks for it. From the answer to a LOGIN until a LOGOUT, one
that is reset, closed, refused at the door (ServerBusy) or silent is established again: at once the
first time, then with growing pauses (`Backoff`), until it is there or the client is closed. On the
new connection, in this order:

1. The same user logs in again with the same client_id. What is kept for that are the two SCRAM keys
   and not the password; with another salt they are worth nothing, and that is `ReloginFailed`.
2. Numbered requests that only move money, and whose callers still wait, are repeated with
   POSSIBLE_DUPLICATE, by req_id, and joined rooms are joined again. Where a room is in the epoch it
   was in, what was missed is fetched from its history, and given to the program before the pushes
   that come meanwhile; what the history does not hold is given as a RoomGap. Else a RoomRestarted
   or a RoomRefused is given.
3. When the rooms are joined and the payments answered, the others are repeated in the order in
   which they were made. What says something (`SPOKEN`) is a numbered request too; it is answered
   before the next is sent, so that a refusal for the moment does not change the order of what is
   said.
4. New requests wait till here. They do not wait for histories, which may be long: only LEAVE_ROOM
   and LOGOUT are sent after the program was given what was missed.

So each call is executed once and answered once, and each event of a room is given once, in order.
What cannot be known is said: a numbered request under client_id 0, which must not be repeated,
fails with ConnectionLost. A call's deadline stays what it was: it ends in CallTimeout, its req_id
is not repeated any more by this client, and stays among `unanswered` until the program repeats it
itself.

Payments that were missed are read from TXN_HISTORY, if the program wants PAYMENT pushes, and given
as these (`client.core.payments`). Not made up for are direct messages (INBOX_HISTORY has them):
where the number of the next one shows that some are missing, a RoomGap of room 0 names them.

**Moving**, always. A server that will close a connection says so before (GOING_AWAY), and serves it
until then. Another one is established beside it and greeted. Then new requests wait, those under
way are answered (or, after a moment, are taken to the new connection), and `move` does there what
is said above; the old connection is closed when the LOGIN is answered. Direct messages that came in
between are read from the inbox, too; for that its end is looked for before, if no message has told
it. Nothing was lost, so nobody is told. Until the LOGIN is sent, nothing has changed: what fails
before is tried again.

A room that was closed, or that this user was banned from, is left with the event that says so: a
RoomRefused follows it, and nobody tries to join it again.

**Superseded.** Where the same client_id logs in elsewhere, this session's requests are answered
ERR_UNAUTHORIZED, and its connection is closed after a while. A client that took this for a lost
connection would supersede the other one, and so on for ever. So the sign of life is a request that
tells, it is sent often enough to be answered before the server closes, and the first such answer
ends the client with `Superseded`. What may be refused so for want of a right, too
(`REFUSED_BY_RIGHT`), tells nothing: a request that tells is sent behind it, and until that is
answered the refusal is kept.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from client.core import calls
from client.core.auth import Greeting, Keys
from client.core.backoff import Backoff
from client.core.calls import Call
from client.core.catching_up import CatchingUpCore
from client.core.numbers import NUMBERED, Numbers
from client.core.pushes import Push, RoomRefused
from client.core.repeats import (
    NOT_REPEATED,
    OF_MEMBERS,
    REFUSED_BEFORE_THE_RECORD,
    REFUSED_BY_RIGHT,
    SPOKEN,
)
from client.core.retry import RetryPolicy
from client.core.session import FLAGGED, Answered, Request
from client.errors import (
    AlreadyExists,
    BadPacket,
    ChecksumFailed,
    ClientError,
    ClientIdTaken,
    ConnectionLost,
    OutcomeUnknown,
    ReloginFailed,
    ReqIdTaken,
    RequestFailed,
    ServerBusy,
    Superseded,
    Unauthorized,
)
from libproto.codec import REQUEST
from libproto.framing import Decoder, Frame
from libproto.messages import JoinRoomResponse, LoginResponse, Opcode, State
from libproto.wrapping import Wrapper

ATTEMPT_S = 5.0
"""How long one attempt may take, from the first packet to the answer to LOGIN."""
PROBE_S = 5
"""Longest time between two signs of life: half of the time a server leaves a superseded session."""


class ResumingCore(CatchingUpCore):
    """The core that the module's text tells of."""

    def __init__(
        self,
        numbers: Numbers,
        payments: bool,
        client_name: str,
        *,
        reconnects: bool = True,
        policy: RetryPolicy | None = None,
        payments_after: int | None = None,
    ) -> None:
        """reconnects: a connection that is lost is established again; else it only moves. policy:
        how often, if not as its defaults say. payments_after: txn_id up to which an earlier run was
        given the payments."""
        super().__init__(numbers, payments, client_name, payments_after)
        self.policy = policy or RetryPolicy()
        self.backoff = Backoff(first_s=self.policy.pause_s_first, max_s=self.policy.pause_s_max)
        self._reconnects = reconnects
        self._has_link = False
        self._holding = False  # nothing more is sent on this connection
        self._interruption: ClientError | None = None
        self._succeeded_before = False  # the connection that was lost had been in use
        self._offered: Keys | None = None  # by the LOGIN under way
        self._keys: Keys | None = None
        self._joining: set[int] = set()  # rooms whose JOIN_ROOM is not answered
        self._unsent: set[int] = set()  # pending, but not sent on this connection
        self._repeated: set[int] = set()  # numbered requests whose answers are waited for

    # ---- the connection

    @property
    def linked(self) -> bool:
        return self.loss is None and self._has_link

    @property
    def logged_in(self) -> bool:
        return super().logged_in or not self.steady

    @property
    def beat_s(self) -> int:
        return min(self.heartbeat_s, PROBE_S) if self._reconnects else self.heartbeat_s

    def _sign_of_life(self, client_time: int) -> Call[Any]:
        if self.state != State.AUTHENTICATED or not self._reconnects:
            return super()._sign_of_life(client_time)
        return calls.user_name(self.user_id)

    def begin(self, decoder: Decoder) -> None:
        super().begin(decoder)
        self._has_link = True
        if not self.steady:
            self._ask(self.hello(self.username), self._greeted)

    def lose(self, reason: ClientError) -> list[int]:
        if self.loss is not None or not self._has_link:
            return []
        resumable = self._reconnects and self._keys is not None
        if not resumable or type(reason) not in (ConnectionLost, ServerBusy):
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
        self._has_link = self.steady = self.moving = self._holding = False
        self.state = State.CONNECTED
        self.wrapper, self.spent = None, False
        self.again_after_s = None
        self._abandoned.clear()
        self._stop_catching_up()
        for each in (self.outbox, self._events, self._own, self._later):
            each.clear()
        self._repeated.clear()
        self._joining.clear()

    def _may_repeat(self, request: Request) -> bool:
        if request.call.opcode in NUMBERED:
            return self.client_id != 0
        return request.call.opcode not in NOT_REPEATED

    # ---- moving

    @property
    def may_move(self) -> bool:
        """Whether the session is one that `move` can take along: none, or one that has begun."""
        return self.linked and self.steady and self.state != State.GREETED

    def hold(self) -> None:
        """Send nothing more on this connection, until `move`."""
        self._holding = True

    def release(self) -> None:
        """It stays after all."""
        self._holding = False

    @property
    def at_rest(self) -> bool:
        """Whether everything is answered."""
        return not (self._pending or self._own)

    @property
    def may_leave(self) -> bool:
        """Whether what is not answered may be sent again on another connection."""
        return all(map(self._may_repeat, self._pending.values()))

    def move(
        self, decoder: Decoder, greeting: Greeting, wrapper: Wrapper | None, spent: bool
    ) -> None:
        """Go on over a connection on which HELLO was answered, for this user; its frames come from
        `decoder`, and go through `wrapper`. To be called if `may_move` and `may_leave`."""
        logged_in = self.state == State.AUTHENTICATED
        self._interrupt()
        self._unsent = set(self._pending)
        super().begin(decoder)
        self._has_link = True
        self.state = State.GREETED
        self.wrapper, self.spent = wrapper, spent
        self._welcomed(greeting.answer)
        self.steady, self.moving = not logged_in, logged_in
        if logged_in:
            self._greeted(greeting, None)

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

    @property
    def caught_up(self) -> bool:
        """Whether the program was given all that was missed, too."""
        return self.steady and not (self.rooms.catching_up() or self.payments.catching_up)

    def may_send(self, call: Call[Any], req_id: int | None) -> bool:
        may = self._has_link and self.steady and not self._holding
        return may and not self._waits_for_history(call) and super().may_send(call, req_id)

    def _waits_for_history(self, call: Call[Any]) -> bool:
        """Whether it ends what the program is given, and some of that is yet to come."""
        if call.opcode == Opcode.LEAVE_ROOM:
            return self.rooms.catching_up(call.fields[0])
        return call.opcode == Opcode.LOGOUT and self.rooms.catching_up()

    def password_changed(self, password: str, keys: Keys) -> None:
        super().password_changed(password, keys)
        self._keys = keys

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
            return self._pushed(event)
        given, self._events = self._events, []
        return given if event is None else [*given, event]

    def _succeeded(self, call: Call[Any], result: Any) -> None:
        if call.opcode == Opcode.LOGIN and not self.steady and result.user_id != self.user_id:
            raise ReloginFailed(f"user {self.username!r} is another user now")
        super()._succeeded(call, result)

    def _withhold(
        self,
        req_id: int,
        request: Request,
        late: bool,
        result: Any,
        error: RequestFailed | ReqIdTaken | None,
    ) -> bool:
        if isinstance(error, Unauthorized) and self._may_be_superseded(request.call):
            if request.call.opcode not in REFUSED_BY_RIGHT:
                raise Superseded(f"another login took the place of this session: {error.detail}")
            if not late:
                self._make_sure(partial(self._refused, req_id, request, error))
                return True
            if step := self._own.pop(req_id, None):
                self._make_sure(partial(step, result, error))
        elif step := self._own.pop(req_id, None):
            assert not isinstance(error, ReqIdTaken), "the core's own requests are not numbered"
            step(result, error)
        elif error is None:
            self._follow(request.call, result)
        if req_id in self._repeated:
            if isinstance(error, RequestFailed) and self._tells_nothing(error) and not late:
                self._unsent.add(req_id)
                self._postpone(partial(self._repeat, req_id), error)
                return True
            self._repeated.discard(req_id)
        self._proceed()
        return False

    @staticmethod
    def _tells_nothing(error: RequestFailed) -> bool:
        """Whether a repeated request is to be repeated again. One that is not authorized is not:
        it is for the program to see, and it may have been executed before."""
        return error.status in REFUSED_BEFORE_THE_RECORD and not isinstance(error, Unauthorized)

    def _may_be_superseded(self, call: Call[Any]) -> bool:
        """Whether a request is not authorized perhaps because the session is over."""
        if self.state != State.AUTHENTICATED or not self._reconnects:
            return False
        return call.opcode not in OF_MEMBERS or call.fields[0] in self.rooms

    def _make_sure(self, proceed: Callable[[], None]) -> None:
        """Ask whether the session is over, and proceed if it is not."""
        self._ask(calls.user_name(self.user_id), lambda *_: proceed())

    def _refused(self, req_id: int, request: Request, error: RequestFailed) -> None:
        """The session is there: the refusal is one of the request."""
        if self._pending.get(req_id) is request:
            self._repeated.discard(req_id)
            self._fail(req_id, error)
        elif request in (late := self._abandoned.get(req_id, [])):
            late.remove(request)
            if not late:
                del self._abandoned[req_id]

    def _follow(self, call: Call[Any], result: Any) -> None:
        """What the program's own requests change."""
        match call.opcode:
            case Opcode.LOGIN:
                self._keys = self._offered
                self.rooms.user_id = self.user_id
                self._make_up_payments()
            case Opcode.LOGOUT:
                self._keys = None
                self.rooms.clear()
            case Opcode.JOIN_ROOM:
                self.rooms.joined(call.fields[0], result)
            case Opcode.LEAVE_ROOM:
                self.rooms.left(call.fields[0])

    # ---- resuming

    def _greeted(self, greeting: Greeting, error: RequestFailed | None) -> None:
        self._check(error)
        keys, answer = self._keys, greeting.answer
        assert keys is not None
        if (answer.salt, answer.iterations) != (keys.salt, keys.iterations):
            raise ReloginFailed(
                f"the salt of user {self.username!r} is another one now: the user was registered "
                "anew, or is not known any more"
            )
        self._ask(super().login(greeting, keys), self._logged_in)

    def _log_replaced(self, log_id: int) -> None:
        super()._log_replaced(log_id)
        self.rooms.forget_positions()
        self.payments.forget()
        for req_id in self._unsent_numbered():
            lost = ConnectionLost(
                "the connection was lost, and the server has another log now: it was not repeated",
                (req_id,),
            )
            self._fail(req_id, lost)

    def give_up_client_id(self, refusal: AlreadyExists) -> None:
        super().give_up_client_id(refusal)
        for req_id in self._unsent_numbered():
            self._fail(req_id, OutcomeUnknown(refusal.detail, 0, req_id))

    def _unsent_numbered(self) -> list[int]:
        return [n for n in sorted(self._unsent) if self._pending[n].call.opcode in NUMBERED]

    def _fail(self, req_id: int, error: ClientError) -> None:
        """The call that waits fails, and is not repeated."""
        self._unsent.discard(req_id)
        self._in_flight.discard(req_id)
        del self._pending[req_id]
        self._events.append(Answered(req_id, None, error))

    def _logged_in(self, _: LoginResponse, error: RequestFailed | None) -> None:
        if isinstance(error, AlreadyExists):
            try:
                self.give_up_client_id(error)
            except ClientIdTaken as taken:
                raise ReloginFailed(str(taken)) from taken
            if self.spent:
                self.unfit = ConnectionLost("another client_id needs another connection")
                return
            self._ask(self.hello(self.username), self._greeted)
            return
        self._check(error)
        for req_id in self._unsent_numbered():
            if self._pending[req_id].call.opcode not in SPOKEN:
                self._repeated.add(req_id)
                self._repeat(req_id)
        self._joining.update(self.rooms.joined_ids())
        for room_id in self.rooms.joined_ids():
            self._rejoin(room_id)
        if self.moving and self.rooms.direct_seen is not None:
            self.rooms.hold_inbox()
            self._read_inbox()
        self._make_up_payments()

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
        self._ask(calls.join(room_id), partial(self._rejoined, room_id))

    def _rejoined(
        self, room_id: int, result: JoinRoomResponse, error: RequestFailed | None
    ) -> None:
        if isinstance(error, ServerBusy | ChecksumFailed):
            self._postpone(partial(self._rejoin, room_id), error)
            return
        self._joining.discard(room_id)
        if error is not None:
            self.rooms.left(room_id)
            self._events.append(RoomRefused(room_id, error.status, error.detail))
        else:
            self._events += self.rooms.rejoined(room_id, result)
            self._fetch(room_id)

    def _repeat(self, req_id: int) -> None:
        """Send a pending request again; if nobody waits for it any more, it is done."""
        request = self._pending.get(req_id)
        if request is None:
            self._repeated.discard(req_id)
            return
        numbered = request.call.opcode in NUMBERED
        self._unsent.discard(req_id)
        self._pending[req_id] = Request(request.call, numbered)
        frame = REQUEST[request.call.opcode].frame(
            req_id, FLAGGED if numbered else 0, *request.call.fields
        )
        self.outbox.append(frame)

    def again(self) -> None:
        self.again_after_s = None
        later, self._later = self._later, []
        for action in later:
            action()
        self._proceed()

    def _proceed(self) -> None:
        """When everything is answered that has to be, the rest follows, in the order in which it
        was asked for; what says something is answered before the next is sent."""
        if self.steady or self.state != State.AUTHENTICATED:
            return
        if self._joining or self._repeated:
            return
        for req_id in [n for n in self._pending if n in self._unsent]:
            call = self._pending[req_id].call
            if self._waits_for_history(call):
                return
            if call.opcode in SPOKEN:
                self._repeated.add(req_id)
                self._repeat(req_id)
                return
            self._repeat(req_id)
        self.reconnects += not self.moving
        self.steady, self.moving = True, False
