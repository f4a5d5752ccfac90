"""One client's connection as its worker holds it: where it stands, and what it is owed."""

from typing import TYPE_CHECKING, Final, NamedTuple

from libnet.transport import FrameProtocol
from libproto.codec import PUSH
from libproto.messages import Opcode, State
from server.state.errors import Superseded
from server.state.session import Session

if TYPE_CHECKING:
    from server.worker import Worker

_gap = PUSH[Opcode.ROOM_GAP].frame

MAX_BODY_LEN: Final = 65536  # bytes
DIRECT: Final = 0  # the "room" of direct messages in what a connection is owed


class Refused(Exception):
    """A handler's refusal: becomes the error response in dispatch, and nowhere else."""

    def __init__(self, status: int, detail: str, retry_after_ms: int = 0) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_ms = retry_after_ms


class Greeting(NamedTuple):
    """What a HELLO leaves for the LOGIN after it."""

    username: str
    request_body: bytes
    response_body: bytes


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
