"""One client's connection: from its frames to their responses, and what it waits for. Hot path.

The checks come in the order that the protocol gives: the frame (framing has done the first ones),
encryption as agreed, flags and reserved bits, opcode, state, body. Here, and nowhere else, an
error becomes a frame. A frame that was opened and inflated comes here as if it had been sent so.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from libnet.transport import (
    ANSWER_FIRST,
    HIGH_MARK,
    LINGER_S,
    LOW_MARK,
    TOO_FAST,
    FrameProtocol,
)
from libproto import wire
from libproto.codec import REQUEST, error_frame
from libproto.errors import PeerError, Status
from libproto.framing import PREFIX, Decoder, Fault
from libproto.messages import BY_OPCODE, HEADER_LEN, SEAL_LEN, Capability, Flag, Opcode, State
from libproto.sealing import Keys, Opener, Sealer
from libproto.session import verdict
from libproto.wrapping import Unwrapper, Wrapper
from server.archive.protocol import Kind as Asked
from server.config import is_loopback
from server.core.errors import EventsFull, LeavesFull, StateRefusal, Superseded
from server.core.session import Session
from server.files.channel import Kind
from server.region import machine
from server.worker.bad_frames import bad_frame
from server.worker.fatal import FATAL, die
from server.worker.overload import Share
from server.worker.rates import PATIENCE_S, REFUSED_S, TIMER_S, Pace
from server.worker.refusal import Refused, history_unreadable
from server.worker.requests import Request, Table
from server.worker.services import Services
from server.worker.turns import Steps, Turns

MAX_BODY_LEN: Final = 65536  # bytes
ANSWER_LEN: Final = MAX_BODY_LEN - SEAL_LEN
"""Bytes of the longest answer: it may have to be sealed."""
OUTSIDE_HIGH: Final = 16 * 1024  # bytes of output that wait for a peer that is not logged in
OUTSIDE_BUFFERS: Final = 8 * 1024
"""Bytes, twice of which the kernel keeps in each direction for one that is not logged in."""
BUFFERS: Final = 128 * 1024  # the same for one that is
FAILED_LOGINS_MAX: Final = 3
BAD_CHECKSUMS_MAX: Final = 3
RETRY_ASK_MS: Final = 100
RETRY_SHUTDOWN_MS: Final = 1000
RETRY_CONNECT_MS: Final = 1000

_HEADER_LEN = HEADER_LEN
_FLAGGED: Final = int(Flag.POSSIBLE_DUPLICATE)
_LOGIN: Final = int(Opcode.LOGIN)
_RESPONSE: Final = int(Flag.RESPONSE)
_RESPONSE_HEAD: Final = PREFIX | _RESPONSE
_BUSY: Final = int(Status.ERR_SERVER_BUSY)

_STATE_DETAIL: Final = {
    State.CONNECTED: "say HELLO first",
    State.GREETED: "LOGIN first",
    State.AUTHENTICATED: "already logged in",
}
Execute = Callable[[], bytes | None]
"""Executes a request, and answers the frame that answers it, if that comes at once."""

_ANSWERED: Final = (Refused, PeerError, StateRefusal)  # with an error response
_Error = Refused | PeerError | StateRefusal


class Greeting(NamedTuple):
    """What a HELLO leaves for the LOGIN or REGISTER after it."""

    username: str
    hello_bodies: bytes
    iterations: int  # as it was answered


class Connection(FrameProtocol):
    """A connection of this worker."""

    def __init__(self, services: Services, table: Table, peer: str) -> None:
        """table: the requests that are allowed, by state; see dispatch.py. peer: the address at
        the other end."""
        FrameProtocol.__init__(self, services.loop, MAX_BODY_LEN)
        self.services: Final = services
        self.peer: Final = peer
        self._table = table
        self._view = services.state.region.words
        self._words = machine.words_of(self._view)
        self._connections = services.connections
        self._durable = services.durable
        self._served = services.served
        self.enter(State.CONNECTED)
        self.session: Session | None = None
        self.greeting: Greeting | None = None
        self.capabilities = 0
        self.sealed = False
        """It is encrypted: it has had its one HELLO, and ends with its one session."""
        self._stream = self.decoder
        self.turns: Turns | None = None  # of requests for files
        self.uploads: set[tuple[int, int]] | None = None
        """User and file_id of what was begun here: kept for as long as the connection lasts."""
        self._failed_logins = 0
        self._bad_checksums = 0
        self._active = True  # a valid frame has come since the last look at the deadlines
        self._quiet_since = self._outside_since = services.loop.time()
        self._pace = Pace()

    # ---- FrameProtocol

    def opened(self) -> None:
        self.limit_waiting(OUTSIDE_HIGH, OUTSIDE_HIGH // 4, OUTSIDE_BUFFERS)
        refusal = self._connections.add(self)
        if refusal:
            self._turn_away(refusal)

    def make_way(self) -> None:
        """It has not logged in, and another one gets its place."""
        self._turn_away("closed before login: too many connections are not logged in")

    def _turn_away(self, detail: str) -> None:
        self.push(error_frame(Opcode.HELLO, 0, Status.ERR_SERVER_BUSY, detail, RETRY_CONNECT_MS))
        if self._connections.crowded:
            self.flush()
            self.abort()
        else:
            self.finish()

    def lost(self) -> None:
        self.end_session()
        if self.uploads and self.services.files is not None:
            for user, file_id in self.uploads:
                self.services.files.tell(Kind.RELEASE, user, file_id)
        self._connections.remove(self)
        if self.sealed:
            self.services.counters.count("encrypted", -1)
            self.forget_keys()

    def sends(self, frames: list[bytes]) -> None:
        self._served.sent(frames, self)

    def relieved(self) -> None:
        self.services.subscriptions.relieved(self)
        if self.turns is not None:
            self.turns.go_on()
        self.flush()

    def handle(self, frame: Decoder) -> bytes | None:
        # No error overtakes an answer that is parked: it goes through `when_durable` as well.
        opcode, req_id, flags = frame.opcode, frame.req_id, frame.flags
        refused = self._guard() if self._guarded else None
        if frame.fault or flags & ~_FLAGGED or frame.status or not req_id:
            return self._when_durable(0, self._bad_frame(opcode, req_id, flags, frame.fault))
        request = self._allowed[opcode] if opcode < len(self._allowed) else None
        if request is None:
            return self._when_durable(0, self._not_allowed(opcode, req_id))
        self._words[request.record] += 1
        self._words[request.record + 1] += _HEADER_LEN + frame.end - frame.start
        share = request.share
        if share.part > 0.0 and share.takes():
            return self._shed(opcode, req_id, share)
        try:
            if refused is not None:
                raise refused
            answer = request.serve(self, frame)
            self._active = True
            return answer
        except EventsFull as error:
            fields = request.decode(frame.buf, frame.start, frame.end)
            execute = self._deferred(request, req_id, flags, fields)
            self._wait_for_place(opcode, req_id, execute, to_leave=isinstance(error, LeavesFull))
            return None
        except _ANSWERED as error:
            return self._error_response(opcode, req_id, error)
        except FATAL as error:
            die(error)

    def _shed(self, opcode: int, req_id: int, share: Share) -> bytes | None:
        """Refuse a request, as the worker is overloaded: at next to no cost, and unread."""
        self._words[share.counter] += 1
        self._active = True
        if opcode == _LOGIN:
            self.greeting = None
            self._back_outside()
        answer = wire.frame(_RESPONSE_HEAD, opcode, _BUSY, req_id, share.body)
        return self._durable.when_durable(self, 0, answer)

    # ---- answers that come later

    def _deferred(
        self, request: Request, req_id: int, flags: int, fields: tuple[Any, ...]
    ) -> Execute:
        """A request to be executed later. Apart from `handle`, whose variables would be cells of a
        closure otherwise, for every frame."""
        return lambda: request.execute(self, req_id, flags, fields)

    def _wait_for_place(
        self, opcode: int, req_id: int, execute: Execute, *, to_leave: bool
    ) -> None:
        """Its event has no place: try again as there are some. No frame is handled before."""

        def attempt(late: bool) -> bool:
            def once_more() -> bytes | None:
                if self.session is None:  # another login has ended it meanwhile
                    raise Superseded
                return self.services.places.in_turn(execute)

            try:
                self._go_on(opcode, req_id, once_more, waits=not late)
            except EventsFull:
                self.pending += 1
                return False
            return True

        self._active = True
        self._wait()
        self.services.places.wait(attempt, to_leave=to_leave)

    def _wait(self) -> None:
        """A request waits, and `_go_on` follows: no frame is handled before."""
        self.pending += 1
        self.pause(ANSWER_FIRST)

    def _go_on(self, opcode: int, req_id: int, then: Execute, *, waits: bool = False) -> None:
        """Answer a request that has waited. waits: as for `complete`."""
        self.pending -= 1
        frame = self.complete(opcode, req_id, then, waits=waits)
        if frame:
            self.push(frame)
        self.flush()
        self.settle()

    def _when_durable(self, txn: int, answer: bytes) -> bytes | None:
        return self._durable.when_durable(self, txn, answer)

    def resume_when_durable(
        self, txn: int, opcode: int, req_id: int, then: Execute
    ) -> bytes | None:
        """What `then` answers, once everything up to `txn` is durable. No frame is handled before;
        where the connection is lost before, `then` is not called."""
        return self._durable.resume_when_durable(
            self, txn, lambda: self.complete(opcode, req_id, then)
        )

    def resume_after(self, delay_s: float, opcode: int, req_id: int, then: Execute) -> bytes | None:
        """What `then` answers, after a while. No frame is handled before; where the connection is
        lost before, `then` is not called."""
        self._wait()
        self.services.loop.call_later(delay_s, self._go_on, opcode, req_id, then)
        return None

    def resume_when_answered(
        self,
        kind: Asked,
        fields: tuple[int, int, int, int],
        opcode: int,
        req_id: int,
        then: Callable[[bytes], bytes | None],
    ) -> bytes | None:
        """Ask the archive, and answer what `then` makes of its answer. No frame is handled before;
        where the connection is lost before, `then` is not called. Refused."""

        def answer(data: bytes) -> bytes | None:
            if not data:
                raise history_unreadable()
            return then(data)

        def answered(data: bytes) -> None:
            self._go_on(opcode, req_id, lambda: answer(data))

        services = self.services
        assert services.archive is not None, "who asks has looked"
        if self._words[services.archive_failed]:
            raise history_unreadable()
        if not services.archive.ask(kind, fields, answered):
            raise Refused(Status.ERR_SERVER_BUSY, "too many ask for older history", RETRY_ASK_MS)
        self._wait()
        return None

    def in_turn(self, opcode: int, req_id: int, steps: Steps) -> bytes | None:
        """Execute a request that others may overtake, in its turn; its answer, if that comes at
        once. Refused."""
        if self.turns is None:
            self.turns = Turns(self)
        return self.turns.add(opcode, req_id, steps)

    def complete(
        self, opcode: int, req_id: int, then: Execute, *, waits: bool = False
    ) -> bytes | None:
        """The answer of a request that has waited, also if that is an error; None if the connection
        is lost. waits: EventsFull is raised, for a caller that goes on waiting."""
        if self.transport is None:
            return None
        self.now = self.services.now()
        try:
            return then()
        except _ANSWERED as error:
            if waits and isinstance(error, EventsFull):
                raise
            return self._error_response(opcode, req_id, error)
        except FATAL as error:
            die(error)

    # ---- errors

    def _not_allowed(self, opcode: int, req_id: int) -> bytes:
        """No request at all, or not one of this state."""
        if opcode not in REQUEST:
            self.services.counters.count("unknown_opcode")
            return error_frame(opcode, req_id, Status.ERR_BAD_PACKET, "no such request")
        self._words[self._served.record(opcode)] += 1
        self._active = True
        return self._refuse(opcode, req_id, verdict(self.state, opcode), _STATE_DETAIL[self.state])

    def _guard(self) -> Refused | None:
        """What stands in the way of a request that is otherwise in order. Of any frame: what its
        peer sends too fast is read no faster than it may."""
        if self._connections.draining:
            self.services.counters.count("shed")
            return Refused(Status.ERR_SERVER_BUSY, "the server is stopping", RETRY_SHUTDOWN_MS)
        wait_us = self.services.rates.request(
            self._pace, self.session.user if self.session is not None else 0, self.peer
        )
        if wait_us:
            self.pause(TOO_FAST)
            least = REFUSED_S if wait_us < 0 else TIMER_S  # timers are as much too early
            seconds = min(abs(wait_us) / 1e6, PATIENCE_S) + least
            self.services.loop.call_later(seconds, self.resume, TOO_FAST)
        if wait_us >= 0:
            return None
        wait_ms = -wait_us // 1000 + 1
        return Refused(Status.ERR_SERVER_BUSY, "rate limit", wait_ms, bad_input=True)

    def _refuse(
        self, opcode: int, req_id: int, status: int, detail: str, retry_after_ms: int = 0
    ) -> bytes:
        services, session = self.services, self.session
        services.log.debug(
            "refused",
            session=session and session.id,
            user=session and session.user,
            req_id=req_id,
            opcode=BY_OPCODE[opcode].name,
            status=Status(status).name,
            detail=detail,
        )
        if status == Status.ERR_LIMIT and session is not None:
            services.audit.write(
                "over_limit", detail, user=session.name, peer=self.peer,
                opcode=BY_OPCODE[opcode].name,
            )  # fmt: skip
        if opcode == _LOGIN and status == Status.ERR_UNAUTHORIZED:
            self._failed_logins += 1
            if self._failed_logins == FAILED_LOGINS_MAX:
                self.last()
        return error_frame(opcode, req_id, status, detail, retry_after_ms)

    def _error_response(self, opcode: int, req_id: int, error: _Error) -> bytes | None:
        if opcode == _LOGIN and self.state == State.GREETED and self.greeting is None:
            self._back_outside()  # the nonce is spent
        if not isinstance(error, PeerError) and not (
            isinstance(error, Refused) and error.bad_input
        ):
            self._active = True
        if isinstance(error, Refused):
            answer = self._refuse(opcode, req_id, error.status, error.detail, error.retry_after_ms)
            return self._when_durable(error.after_txn, answer)
        if isinstance(error, Superseded):
            self.superseded()
        retry = 0 if isinstance(error, PeerError) else error.retry_after_ms
        detail = error.detail if isinstance(error, PeerError) else str(error)
        refusal = self._refuse(opcode, req_id, error.status, detail, retry)
        if isinstance(error, StateRefusal) and error.shows_more:
            state = self.services.state
            event, txn = state.events.head(), state.log.head()
            return self._durable.when_shown(self, event, refusal, txn)
        return self._when_durable(0, refusal)

    def _bad_frame(self, opcode: int, req_id: int, flags: int, fault: int) -> bytes:
        bad = bad_frame(flags, fault)
        self.services.counters.count(bad.counter)
        ends = bad.ends
        if fault == Fault.CHECKSUM:
            self._bad_checksums += 1
            ends = self._bad_checksums == BAD_CHECKSUMS_MAX
        if ends:
            self.last()
        return error_frame(opcode, req_id, bad.status, bad.detail)

    # ---- encryption and compression

    @property
    def is_private(self) -> bool:
        """Nobody between the two ends can read it, or it does not leave this machine."""
        return self.sealed or is_loopback(self.peer)

    def greet(self, answer: bytes, keys: Keys | None, *, compressed: bool) -> None:
        """Send the answer to HELLO, and go on as it has agreed. keys: overwritten here."""
        self.push(answer)
        self.flush()
        if keys is None and not compressed:
            if self.wrapper is not None:  # an earlier HELLO has agreed on more
                self.agree(None, self._stream)
            return
        sealer = opener = None
        if keys is not None:
            opener, sealer = Opener(keys.client_to_server), Sealer(keys.server_to_client)
            self.sealed = True
            self.services.counters.count("encrypted")
        wrapper = Wrapper(sealer, _RESPONSE if compressed else None)
        self.agree(wrapper, Unwrapper(self._stream, opener, compressed))

    def forget_keys(self) -> None:
        """Nothing is sealed or opened any more."""
        if self.wrapper is not None:
            self.wrapper.close()
        if isinstance(self.decoder, Unwrapper):
            self.decoder.close()

    def _back_outside(self) -> None:
        """In CONNECTED, where an encrypted connection has nothing left to do."""
        self.enter(State.CONNECTED)
        if self.sealed:
            self.last()

    # ---- the session

    def enter(self, state: State) -> None:
        """Be in another state of the protocol's session (libproto.session)."""
        self.state = state
        self._allowed = self._table[state]
        self.guard()

    def guard(self) -> None:
        """Something may stand in the way of its requests from now on, or nothing any more."""
        rates = self.services.rates
        limited = rates.inside if self.state == State.AUTHENTICATED else rates.outside
        self._guarded = limited or self._connections.draining

    def live_session(self) -> Session:
        """Its session, for a request that needs one. Superseded where a later LOGIN took its
        place, of which this worker may not have heard yet."""
        session = self.session
        assert session is not None, "the table of states lets nobody else come here"
        if not self.services.state.sessions.is_live(session):
            raise Superseded
        return session

    def begin_session(self, session: Session) -> None:
        """It is logged in."""
        services = self.services
        self.session = session
        self._pace.user = ()
        self.enter(State.AUTHENTICATED)
        self.limit_waiting(HIGH_MARK, LOW_MARK, BUFFERS)
        services.subscriptions.add(self, session, bool(self.capabilities & Capability.PAYMENTS))
        self._connections.is_inside(self)
        services.counters.count("sessions")
        services.log.debug("login", session=session.id, user=session.user, username=session.name)

    def end_session(self) -> None:
        """Out of all rooms, in CONNECTED again; nothing where there is no session."""
        session, services = self.session, self.services
        if session is None:
            return
        if self.turns is not None:
            self._end_turns(self.turns)
        services.subscriptions.remove(self)
        self.session = None
        self.enter(State.CONNECTED)
        self.greeting = None
        self.limit_waiting(OUTSIDE_HIGH, OUTSIDE_HIGH // 4, OUTSIDE_BUFFERS)
        self._outside_since = services.loop.time()
        self._connections.is_outside(self)
        services.log.debug("session_ended", session=session.id, user=session.user)
        services.subscriptions.wake(services.state.sessions.end(session, services.now()))
        services.counters.count("sessions", -1)

    def _end_turns(self, turns: Turns) -> None:
        """What waits for its turn is not executed any more."""
        for opcode, req_id in turns.end():
            if not self.closing:
                status, detail = Status.ERR_UNAUTHORIZED, "the session ended before its turn"
                self.push(error_frame(opcode, req_id, status, detail))

    def superseded(self) -> None:
        """A later login has taken the place of its session: seen by a request, or by the word that
        tells of it, whichever comes first."""
        if self.session is not None:
            self.services.counters.count("superseded")
            self.end_session()

    @property
    def begins(self) -> bool:
        """It has no session, and has asked for something: a login comes next, it seems."""
        return self.state != State.AUTHENTICATED and self.arrived > 0

    # ---- deadlines

    def check_deadlines(self, now: float) -> bool:
        """Finish it where it is idle for too long, or not logged in in time; True the first time.
        now: the loop's seconds."""
        settings = self.services.settings
        if self._active:
            self._active = False
            self._quiet_since = now
        outside = self.state != State.AUTHENTICATED
        if now - self._quiet_since <= settings.idle_timeout and not (
            outside and now - self._outside_since > settings.handshake_timeout
        ):
            return False
        first = not self.closing
        self.finish(LINGER_S)
        return first
