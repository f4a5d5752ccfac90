"""One client's connection as its worker holds it: where it stands, and what it is owed."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from libnet.transport import FrameProtocol
from libproto.codec import PUSH
from libproto.errors import Status
from libproto.messages import Opcode, State
from server.archive.protocol import Kind
from server.core.errors import Superseded
from server.core.session import Session

if TYPE_CHECKING:
    from server.worker.process import Worker

_gap = PUSH[Opcode.ROOM_GAP].frame

MAX_BODY_LEN: Final = 65536  # bytes
PENDING_MAX: Final = 1024  # answers that wait for durability: with more no further request is taken
RETRY_ASK_MS: Final = 100
RETRY_UNREADABLE_MS: Final = 5000
DIRECT: Final = 0  # the "room" of direct messages in what a connection is owed


class Refused(Exception):
    """A handler's refusal: becomes the error response in dispatch, and nowhere else."""

    def __init__(
        self, status: int, detail: str, retry_after_ms: int = 0, after_txn: int = 0
    ) -> None:
        """after_txn: what it shows must be durable before it leaves: everything up to there."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.after_txn = after_txn


def _unreadable() -> Refused:
    return Refused(
        Status.ERR_SERVER_BUSY, "older history cannot be read just now", RETRY_UNREADABLE_MS
    )


class Greeting(NamedTuple):
    """What a HELLO leaves for the LOGIN after it."""

    username: str
    hello_bodies: bytes


class Connection(FrameProtocol):
    """The state of one connection. `Peer` in dispatch.py handles its frames."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker.loop, MAX_BODY_LEN)
        self.worker: Final = worker
        self.enter(State.CONNECTED)
        self.session: Session | None = None
        self.greeting: Greeting | None = None
        self.capabilities = 0
        self.failed_logins = 0
        self.bad_checksums = 0
        self.active = True  # a valid frame has come since the last sweep
        self.quiet_since = self.outside_since = worker.loop.time()
        self.tokens = float(worker.settings.rate_limit)  # of the session's request rate
        self.tokens_at = 0  # microseconds
        self.joined: set[int] = set()  # rooms
        self.owed: dict[int, int] = {}  # by room: the first event missed while it did not read
        self.direct_told = 0  # number of the latest direct message told

    # ---- FrameProtocol

    def opened(self) -> None:
        self.worker.connected(self)

    def lost(self) -> None:
        self.worker.disconnected(self)

    def relieved(self) -> None:
        """It reads again: name exactly what it missed, and go on."""
        fanout = self.worker.fanout
        for room, first in self.owed.items():
            last = self.direct_told if room == DIRECT else fanout.delivered(room)
            self.out.append(_gap(0, 0, room, first, last))
            fanout.gaps += 1
        self.owed.clear()
        self.flush()

    # ---- answers that wait for durability

    def park(self, txn: int, answer: bytes) -> None:
        """The answer leaves once everything up to `txn` is durable; later ones may overtake it."""
        self.pending += 1
        self.worker.park(txn, self, answer)
        if self.pending >= PENDING_MAX:
            self.hold()

    def after(self, txn: int, answer: bytes) -> bytes | None:
        """The answer, if everything up to `txn` is durable and none is parked before it."""
        worker = self.worker
        if not self.pending and txn <= worker.words[worker.released]:
            return answer
        self.park(txn, answer)
        return None

    def resume_after(
        self, txn: int, opcode: int, req_id: int, then: Callable[[], bytes | None]
    ) -> bytes | None:
        """What `then` answers, once everything up to `txn` is durable. No frame is handled before;
        where the connection is lost before, `then` is not called."""
        worker = self.worker
        if txn <= worker.words[worker.released]:
            return then()
        self.pending += 1
        self.hold()
        worker.park(txn, self, lambda: self.complete(opcode, req_id, then))
        return None

    def ask(
        self,
        kind: Kind,
        fields: tuple[int, int, int, int],
        opcode: int,
        req_id: int,
        then: Callable[[bytes], bytes | None],
    ) -> bytes | None:
        """Ask the archive, and answer what `then` makes of its answer. No frame is handled before;
        where the connection is lost before, `then` is not called. Refused."""

        def answer(data: bytes) -> bytes | None:
            if not data:
                raise _unreadable()
            return then(data)

        def answered(data: bytes) -> None:
            self.pending -= 1
            frame = self.complete(opcode, req_id, lambda: answer(data))
            if frame:
                self.out.append(frame)
            self.flush()
            self.settle()

        worker = self.worker
        assert worker.archive is not None, "who asks has looked"
        if worker.words[worker.archive_failed]:
            raise _unreadable()
        if not worker.archive.ask(kind, fields, answered):
            raise Refused(Status.ERR_SERVER_BUSY, "too many ask for older history", RETRY_ASK_MS)
        self.pending += 1
        self.hold()
        return None

    def complete(self, opcode: int, req_id: int, then: Callable[[], bytes | None]) -> bytes | None:
        """Do what a request has waited for."""
        raise NotImplementedError

    # ---- the session

    def enter(self, state: State) -> None:
        """Be in another state of the protocol's session (libproto.session)."""
        self.state = state

    @property
    def watches(self) -> bool:
        """Wants PAYMENT pushes."""
        return self.worker.wants_payments(self.capabilities)

    def live_session(self) -> Session:
        """Its session, for a request that needs one. Superseded where a later LOGIN took its
        place, of which this worker may not have heard yet."""
        session = self.session
        assert session is not None, "the table of states lets nobody else come here"
        if not self.worker.state.sessions.is_live(session):
            raise Superseded
        return session

    def begin_session(self, session: Session) -> None:
        self.session = session
        self.enter(State.AUTHENTICATED)
        self.worker.fanout.add(self, session)

    def end_session(self) -> None:
        """Out of all rooms, in CONNECTED again; nothing where there is no session."""
        session = self.session
        if session is None:
            return
        worker = self.worker
        worker.fanout.remove(self, session)
        self.session = None
        self.owed.clear()
        self.enter(State.CONNECTED)
        self.greeting = None
        self.outside_since = worker.loop.time()
        worker.end_session(session)
