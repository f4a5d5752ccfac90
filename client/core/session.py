"""The client without any input or output, and without a clock; both shells are thin around it.

The core encodes requests and gives out their req_ids, matches responses to them, decodes pushes,
and follows the session with `libproto.session`. A shell moves bytes, keeps time, and wakes whoever
waits for an answer.

**Req_ids.** Those of numbered requests (`NUMBERED`) count from 1: the server keeps the outcomes of
the last 64 of them, so other requests must not use them up; these count from 2^63. A numbered
request waits (`may_send`) while one still in flight would fall out of the 64.

**Requests that nobody waits for any more.** A call that timed out is `abandoned`: its late answer
still moves the session and settles the numbered request, but it is given to nobody. If the request
is repeated on the same connection, two answers bear the same req_id; the first is the older one's.

**Unanswered numbered requests** are kept over the loss of a connection, until an answer tells what
became of them, so that they can be repeated. The refusal of a repeated one does not always tell:
it may have been refused for a reason that came before the look at the recorded outcome.

`client.core.resume` is a core that goes on over a lost connection; what it does otherwise than this
one stands there.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

from client.core import auth, calls
from client.core.auth import Greeting, Keys, agreed_wrapper
from client.core.calls import Call
from client.core.credentials import Credentials
from client.core.numbers import NUMBERED, Numbers
from client.core.pushes import MAKERS, LogReplaced, OutcomesUnknown, Push
from client.core.repeats import REFUSED_BEFORE_THE_RECORD
from client.core.security import Security
from client.errors import (
    AlreadyExists,
    ClientError,
    ClientIdTaken,
    ConnectionLost,
    MisuseError,
    ProtocolViolation,
    ReqIdTaken,
    RequestFailed,
    ServerBusy,
)
from libproto import __version__
from libproto import errors as wire
from libproto.codec import ERROR, PUSH, REQUEST, RESPONSE
from libproto.errors import PeerError, Status
from libproto.framing import Decoder, Fault, Frame
from libproto.messages import (
    HEADER_LEN,
    OUTCOME_WINDOW,
    SEAL_LEN,
    Capability,
    Flag,
    GoingAway,
    HelloResponse,
    LoginResponse,
    Opcode,
    State,
)
from libproto.session import after
from libproto.wrapping import Wrapper

CLIENT_NAME = f"tradechat/{__version__}"
MAX_BODY_LEN = 65536
"""Longest body, in bytes, until HELLO has told the server's own limit."""
OTHER_REQ_IDS = 1 << 63
"""Where the req_ids of requests that are not numbered begin."""


_GOING_AWAY = int(Opcode.GOING_AWAY)
_RESPONSE = int(Flag.RESPONSE)
FLAGGED = int(Flag.POSSIBLE_DUPLICATE)


class Answered(NamedTuple):
    """The answer to the request `req_id`: a result, or an error if that is not None."""

    req_id: int
    result: Any
    error: ClientError | None


class Request(NamedTuple):
    """A request that was sent; `repeated`: with POSSIBLE_DUPLICATE."""

    call: Call[Any]
    repeated: bool


class ClientCore:
    """One client, over any number of connections: its session and what became of its requests.

    Not thread-safe. `loss` says why calls fail, and is None while they do not: while there is a
    connection, or one is being established again. `steady` says that no such thing is under way,
    and `reconnects` how often it was done.
    """

    steady = True
    reconnects = 0
    moving = False
    """Whether another connection takes the place of one that the server will close."""
    going_away: GoingAway | None = None
    """What the server has said if it will close this connection."""
    unfit: ClientError | None = None
    """Why the connection is to be lost, once what the core has given out is told."""
    again_after_s: float | None = None
    """In how many seconds `again` is to be called."""

    def __init__(self, numbers: Numbers, payments: bool, client_name: str) -> None:
        self.numbers = numbers
        self.credentials = Credentials()
        self.iterations = 0  # of the password, as HELLO told them
        """As whom to log in, if a call does not say so."""
        self.client_name = client_name
        self.security = Security()
        """What it requires of a connection."""
        self.wrapper: Wrapper | None = None
        """What frames go through before they are sent, since HELLO was answered; None: nothing."""
        self.spent = False
        """The connection is encrypted: another HELLO needs another connection."""
        self.capabilities = int(Capability.PAYMENTS) if payments else 0
        self.state = State.CONNECTED
        self.loss: ClientError | None = ConnectionLost("not connected: call connect() first")
        self.user_id = 0
        self.session_id = 0
        self.log_id = 0
        self.resumed = False
        self.username = ""
        self.server_name = ""
        self.heartbeat_s = 0
        self.idle_timeout_s = 0
        self.max_body_len = MAX_BODY_LEN
        self.unanswered: dict[int, Call[Any]] = {}
        """Numbered requests by req_id of which it is not known whether they were executed."""
        self.outbox: list[bytes] = []
        """Frames of the core's own, for the shell to send after whatever it told the core."""
        self._events: list[Answered | Push] = []  # to be given out before the next answer
        self._decoder = Decoder(MAX_BODY_LEN)
        self._pending: dict[int, Request] = {}
        self._abandoned: dict[int, list[Request]] = {}
        self._in_flight: set[int] = set()  # req_ids of pending numbered requests
        self._next_other = OTHER_REQ_IDS
        self._silent_beats = 0

    # ---- the connection

    @property
    def client_id(self) -> int:
        """What the numbered requests are known by; 0 before the first login, or for good."""
        return self.numbers.client_id

    @property
    def linked(self) -> bool:
        """Whether there is a connection, as far as is known; it may not be steady yet."""
        return self.loss is None

    @property
    def logged_in(self) -> bool:
        """Whether there is a session, or one is being resumed."""
        return self.state == State.AUTHENTICATED

    @property
    def login_in_flight(self) -> bool:
        """Whether a LOGIN was sent on this connection and not answered. Until the server is done
        with it, nothing else may be sent under its client_id, on no connection: it would supersede
        the session that a later one has begun."""
        sent = (*self._pending.values(), *(r for late in self._abandoned.values() for r in late))
        return any(request.call.opcode == Opcode.LOGIN for request in sent)

    @property
    def beat_s(self) -> int:
        """How often `beat` is due; 0 before a HELLO was answered."""
        return self.heartbeat_s

    def begin(self, decoder: Decoder) -> None:
        """A connection is there; its frames come from `decoder`, which is kept to the limits."""
        self._decoder = decoder
        self.loss = self.going_away = None
        self.state = State.CONNECTED
        self._silent_beats = 0
        self.heartbeat_s = 0
        self.max_body_len = decoder.max_body_len
        self.wrapper, self.spent, self.unfit = None, False, None

    @property
    def rests(self) -> bool:
        """Whether nothing is lost if the connection ends: nobody is logged in on it, and what comes
        next needs another one anyway."""
        return self.spent and self.state != State.AUTHENTICATED

    def part(self) -> list[int]:
        """Another connection takes the place of this one, on which nobody is logged in; `begin`
        follows. Gives the req_ids of the calls that fail with it."""
        failed = list(self._pending)
        self._pending.clear()
        self._abandoned.clear()
        self._in_flight.clear()
        return failed

    def lose(self, reason: ClientError) -> list[int]:
        """The connection was lost, or has to be given up. If `loss` is None after this, another
        one is wanted; in any case, gives the req_ids of the calls that fail with `failure`."""
        return self.end(reason)

    def pause_s(self, now_s: float) -> float:
        """How long to wait before the next connection is tried; `now_s` is monotonic."""
        del now_s
        return 0.0

    def again(self) -> None:
        """What had to wait for `again_after_s` is due."""

    def end(self, reason: ClientError) -> list[int]:
        """The connection is over; gives the req_ids of the calls that fail with `failure` by that.

        Only the first reason counts. A ConnectionLost gets the unanswered numbered requests.
        """
        if self.loss is not None:
            return []
        if isinstance(reason, ConnectionLost):
            reason.req_ids = self.unanswered_req_ids
        self.loss = reason
        self.state = State.CONNECTED
        failed = list(self._pending)
        self._pending.clear()
        self._abandoned.clear()
        self._in_flight.clear()
        return failed

    @property
    def unanswered_req_ids(self) -> tuple[int, ...]:
        """Of the numbered requests of which it is not known if they were executed, ascending."""
        return tuple(sorted(self.unanswered))

    def failure(self) -> ClientError:
        """The reason why there is no connection, for one more caller to raise."""
        assert self.loss is not None
        return copy.copy(self.loss)

    def beat(self, client_time: int) -> tuple[int, bytes]:
        """The req_id and frame of a sign of life that is due, whose answer nobody waits for.

        Raises ConnectionLost if the server was silent for longer than it lets a client be.
        """
        silent_s = self._silent_beats * self.beat_s
        if silent_s > self.idle_timeout_s:
            raise ConnectionLost(f"the server was silent for {silent_s} s")
        self._silent_beats += 1
        req_id, frame = self.request(self._sign_of_life(client_time))
        self.abandon(req_id)
        return req_id, frame

    def _sign_of_life(self, client_time: int) -> Call[Any]:
        return calls.heartbeat(client_time)

    def hello(self, username: str) -> Call[Greeting]:
        """The HELLO that comes before a REGISTER or a LOGIN."""
        return auth.hello(username, self.client_name, self.capabilities, self.security)

    def login(self, greeting: Greeting, keys: Keys) -> Call[LoginResponse]:
        """The LOGIN of this client after a HELLO."""
        self.numbers.identify()
        self.iterations = keys.iterations
        return auth.login(greeting, keys, self.client_id, self.numbers.next)

    def password_changed(self, password: str, keys: Keys) -> None:
        """It is another one now; keys: its own."""
        self.iterations = keys.iterations
        if self.username == self.credentials.username:
            self.credentials = replace(self.credentials, password=password)

    def _log_replaced(self, log_id: int) -> None:
        """What was known of the server's state may not be there any more."""
        self._events.append(LogReplaced(self.log_id, log_id))

    def give_up_client_id(self, refusal: AlreadyExists) -> None:
        """The server knows of numbers that this client did not draw: take a fresh client_id.
        ClientIdTaken if it was not ours to choose."""
        if self.numbers.is_given:
            raise ClientIdTaken(
                f"client_id {self.client_id:#x} is in use beyond req_id {self.numbers.next - 1}: "
                f"{refusal.detail}"
            )
        unknown = self.numbers.renew()
        self.unanswered.clear()
        if unknown:
            self._events.append(OutcomesUnknown(unknown))

    # ---- requests

    def may_send(self, call: Call[Any], req_id: int | None) -> bool:
        """Whether a request can be sent now and leaves those in flight among the last 64. Behind a
        HELLO that may agree on encryption nothing is, before its answer."""
        if self.security.encrypts and not self.spent and self._greets:
            return False
        if call.opcode not in NUMBERED or not (self.numbers.takes_part and self._in_flight):
            return True
        number = self.numbers.next if req_id is None else req_id
        return number - min(self._in_flight) < OUTCOME_WINDOW

    @property
    def _greets(self) -> bool:
        """Whether a HELLO was sent and not answered."""
        return any(request.call.opcode == Opcode.HELLO for request in self._pending.values())

    def request(
        self, call: Call[Any], req_id: int | None = None, possible_duplicate: bool = False
    ) -> tuple[int, bytes]:
        """Make the frame of a call, which is to be sent in this order; gives its req_id too.

        `req_id` is what `numbers` gave to a numbered request; without it, it is drawn here.
        `possible_duplicate` repeats it. MisuseError if the wire cannot carry it; then nothing
        changes. Raises `loss` if there is no connection.
        """
        if self.loss is not None:
            raise self.failure()
        numbered = call.opcode in NUMBERED
        if not numbered:
            number = self._next_other
        else:
            number = self.numbers.draw() if req_id is None else self.numbers.take(req_id)
            if number in self._pending:
                raise MisuseError(
                    f"req_id {number} is in flight; it can be repeated when that failed"
                )
        possible_duplicate |= call.recordable
        flags = FLAGGED if possible_duplicate else 0
        try:
            frame = REQUEST[call.opcode].frame(number, flags, *call.fields)
        except wire.MisuseError as error:
            raise MisuseError(str(error)) from error
        most = self.max_body_len - (SEAL_LEN if self.spent else 0)
        if len(frame) - HEADER_LEN > most:
            raise MisuseError(
                f"{call.opcode.name}: a body of {len(frame) - HEADER_LEN} bytes, the server takes "
                f"at most {most}"
            )
        self._pending[number] = Request(call, possible_duplicate)
        if numbered:
            call.req_id, call.sent = number, True
            self._in_flight.add(number)
            self.unanswered[number] = call
            self._forget_before(self.numbers.next - OUTCOME_WINDOW)
        else:
            self._next_other += 1
        return number, frame

    def _forget_before(self, oldest: int) -> None:
        """Of what is out of the server's window nothing can be learned any more."""
        if len(self.unanswered) > OUTCOME_WINDOW:
            for req_id in [n for n in self.unanswered if n < oldest]:
                if req_id not in self._in_flight:
                    del self.unanswered[req_id]

    def abandon(self, req_id: int) -> None:
        """Nobody waits for this answer any more. Nothing happens if it has come."""
        request = self._pending.pop(req_id, None)
        if request is not None:
            self._in_flight.discard(req_id)
            self._abandoned.setdefault(req_id, []).append(request)

    def retract(self, req_id: int) -> None:
        """The frame of this request was not sent after all, not a byte of it."""
        self._abandoned.pop(req_id, None)
        request = self._pending.pop(req_id, None)
        if request is not None:
            self._in_flight.discard(req_id)
            if not request.repeated:
                request.call.sent = False
                self.unanswered.pop(req_id, None)

    # ---- what the server sends

    def take(self, frame: Frame) -> Sequence[Answered | Push]:
        """Take one frame, as `receive` does; gives what there is to hand out by that, in order."""
        event = self.receive(frame)
        given, self._events = self._events, []
        return given if event is None else [*given, event]

    def receive(self, frame: Frame) -> Answered | Push | None:
        """Take one frame: an answer, a push, or None for an answer nobody waits for any more, and
        for GOING_AWAY, which is kept in `going_away`.

        Raises ProtocolViolation, or ServerBusy where the server refused the whole connection; in
        both cases the shell has to end the connection with it.
        """
        opcode, req_id, flags, status, buf, start, end, fault = frame
        self._silent_beats = 0
        if fault:
            _violation(f"a frame with a bad {Fault(fault).name.lower()}")
        try:
            if flags & _RESPONSE:
                return self._response(opcode, req_id, flags, status, buf, start, end)
            if flags or req_id or status or opcode not in PUSH:
                _violation(f"neither a response nor a push: opcode {opcode:#06x}")
            if opcode == _GOING_AWAY:
                self.going_away = GoingAway._make(PUSH[opcode].decode(buf, start, end))
                return None
            return MAKERS[opcode](PUSH[opcode].decode(buf, start, end))
        except PeerError as error:
            raise ProtocolViolation(f"the server sent {error.detail}") from error

    def _response(
        self, opcode: int, req_id: int, flags: int, status: int, buf: bytes, start: int, end: int
    ) -> Answered | None:
        if flags & ~(_RESPONSE | FLAGGED):
            _violation(f"flags {flags:#04x} that were not agreed")
        late = self._abandoned.get(req_id)
        request = late[0] if late else self._pending.get(req_id)
        if request is None or request.call.opcode != opcode:
            self._check_refusal(opcode, req_id, status, buf, start, end)
            _violation(f"a response to nothing: opcode {opcode:#06x}, req_id {req_id}")
        result: Any = None
        error: RequestFailed | ReqIdTaken | None = None
        if status == Status.OK:
            fields = RESPONSE[opcode].decode(buf, start, end)
            if opcode in NUMBERED:
                fields = (*fields, req_id, bool(flags & FLAGGED))
                error = self._taken(req_id, flags, request)
            result = request.call.result(fields)
            self._succeeded(request.call, result)
        elif status in RequestFailed.by_status:
            retry_after_ms, detail = ERROR.decode(buf, start, end)
            error = RequestFailed.by_status[status](detail, retry_after_ms, req_id)
        else:
            _violation(f"status {status}, which there is not")
        self.state = after(self.state, opcode, status)
        if opcode in NUMBERED:
            self._settle(req_id, request, status)
        if self._withhold(req_id, request, bool(late), result, error):
            return None
        if late:
            del late[0]
            if not late:
                del self._abandoned[req_id]
            return None
        del self._pending[req_id]
        self._in_flight.discard(req_id)
        return Answered(req_id, result, error)

    def _taken(self, req_id: int, flags: int, request: Request) -> ReqIdTaken | None:
        """The error that a recorded outcome is where the request was never sent before."""
        if not flags & FLAGGED or request.repeated or request.call.recordable:
            return None
        self.numbers.disown(req_id)
        return ReqIdTaken(
            f"{request.call.opcode.name} was not executed: the server knows of another request "
            f"with req_id {req_id} of client_id {self.client_id:#x}; is there another program, or "
            "an earlier run, with this client_id?",
            req_id,
        )

    def _withhold(
        self,
        req_id: int,
        request: Request,
        late: bool,
        result: Any,
        error: RequestFailed | ReqIdTaken | None,
    ) -> bool:
        """See an answer before it counts; True if it is not to count and the request stays
        pending. Nothing here; `late`: nobody waits for the answer any more."""
        del req_id, request, late, result, error
        return False

    @staticmethod
    def _check_refusal(
        opcode: int, req_id: int, status: int, buf: bytes, start: int, end: int
    ) -> None:
        """The one response without a request: the server is full, and closes."""
        if (opcode, req_id, status) == (Opcode.HELLO, 0, Status.ERR_SERVER_BUSY):
            retry_after_ms, detail = ERROR.decode(buf, start, end)
            raise ServerBusy(detail, retry_after_ms)

    def _settle(self, req_id: int, request: Request, status: int) -> None:
        if status != Status.OK:
            if self.unanswered.get(req_id) is not request.call:
                return  # it was sent again since
            if request.repeated and status in REFUSED_BEFORE_THE_RECORD:
                return
        self.unanswered.pop(req_id, None)

    def _succeeded(self, call: Call[Any], result: Any) -> None:
        """What the answers of the session tell about it."""
        if call.opcode == Opcode.HELLO:
            self._agree(result)
            self._welcomed(result.answer)
        elif call.opcode == Opcode.LOGIN:
            if self.log_id and result.log_id != self.log_id:
                self._log_replaced(result.log_id)
            self.log_id = result.log_id
            if result.user_id != self.user_id:
                self.unanswered.clear()  # they were another user's
                if self.user_id:
                    self.numbers.begin_anew()
            self.security.confirm()
            self.username = call.fields[0]
            self.user_id, self.session_id = result.user_id, result.session_id
            self.resumed = bool(result.resumed)

    def _agree(self, greeting: Greeting) -> None:
        """What comes and goes from here on is as HELLO has agreed it."""
        self.spent |= greeting.keys is not None
        self.wrapper = agreed_wrapper(greeting, self._decoder)

    def _welcomed(self, answer: HelloResponse) -> None:
        """What HELLO was answered with."""
        self.server_name = answer.server_name
        self.heartbeat_s = answer.heartbeat_s
        self.idle_timeout_s = answer.idle_timeout_s
        self.max_body_len = self._decoder.max_body_len = answer.max_body_len


def _violation(what: str) -> NoReturn:
    raise ProtocolViolation(f"the server sent {what}")
