"""From a frame to its response: what every request passes through. Hot path.

The checks come in the order that the protocol gives: the frame (framing has done the first ones),
encryption as agreed, flags and reserved bits, opcode, state, body. Here, and nowhere else, an
error becomes a frame.
"""

from collections.abc import Callable
from typing import Any, Final

from libproto.codec import REQUEST, error_frame
from libproto.errors import PeerError, Status
from libproto.framing import Fault, Frame
from libproto.messages import BY_OPCODE, Flag, Opcode, State
from libproto.session import verdict
from server.core.errors import Busy, StateRefusal, Superseded
from server.region.counters import index_of
from server.region.locks import InsideLock, MasterGone
from server.worker.connection import Connection, Refused
from server.worker.handlers import HANDLERS, Handler

assert HANDLERS.keys() == REQUEST.keys(), "a handler for every request, and no other"

Decode = Callable[[bytes, int, int], tuple[Any, ...]]
Allowed = dict[State, dict[int, tuple[Decode, Handler, int]]]

_FLAGGED: Final = int(Flag.POSSIBLE_DUPLICATE)
_ENCRYPTED: Final = int(Flag.ENCRYPTED)
_LOGIN: Final = int(Opcode.LOGIN)
_UNAUTHORIZED: Final = Status.ERR_UNAUTHORIZED

# What is answered with these does not keep an idle connection open.
_NOT_VALID: Final = (Status.ERR_BAD_PACKET, Status.ERR_SERVER_BUSY)

FAILED_LOGINS_MAX: Final = 3
BAD_CHECKSUMS_MAX: Final = 3
RETRY_FULL_MS: Final = 1000
RETRY_SHUTDOWN_MS: Final = 1000

_REQUESTS: Final = {
    int(opcode): index_of(f"requests_{BY_OPCODE[opcode].name}") for opcode in HANDLERS
}
_ERRORS: Final = {int(opcode): index_of(f"errors_{BY_OPCODE[opcode].name}") for opcode in HANDLERS}


def allowed(counters: int) -> Allowed:
    """For a worker whose counters begin at this word: by state what is allowed in it, by opcode:
    decode, handler, the word that counts it."""
    return {
        state: {
            int(opcode): (REQUEST[opcode].decode, handler, counters + _REQUESTS[opcode])
            for opcode, handler in HANDLERS.items()
            if verdict(state, opcode) is Status.OK
        }
        for state in State
    }


_STATE_DETAIL: Final = {
    State.CONNECTED: "say HELLO first",
    State.GREETED: "LOGIN first",
    State.AUTHENTICATED: "already logged in",
}


class Peer(Connection):
    """A connection whose frames are answered."""

    def handle(self, frame: Frame) -> bytes | None:
        # No error overtakes an answer that is parked: it goes through `after` as well.
        opcode, req_id, flags, status, buf, start, end, fault = frame
        if fault or flags & ~_FLAGGED or status or not req_id:
            return self.after(0, self._bad_frame(opcode, req_id, flags, fault))
        entry = self.allowed.get(opcode)
        if entry is None:
            return self.after(0, self._not_allowed(opcode, req_id))
        decode, handler, counter = entry
        worker = self.worker
        worker.words[counter] += 1
        try:
            if worker.guarded:
                self._guard()
            answer = handler(self, req_id, flags, *decode(buf, start, end))
            self.active = True
            return answer
        except (Refused, PeerError, StateRefusal) as error:
            return self._answer_error(opcode, req_id, error)
        except (InsideLock, MasterGone) as error:
            worker.die(error)

    def complete(self, opcode: int, req_id: int, then: Callable[[], bytes | None]) -> bytes | None:
        if self.transport is None:
            return None
        self.now = self.worker.now()
        try:
            return then()
        except (Refused, PeerError, StateRefusal) as error:
            return self._answer_error(opcode, req_id, error)
        except (InsideLock, MasterGone) as error:
            self.worker.die(error)

    def enter(self, state: State) -> None:
        super().enter(state)
        self.allowed = self.worker.allowed[state]

    def _not_allowed(self, opcode: int, req_id: int) -> bytes:
        """No request at all, or not one of this state."""
        worker = self.worker
        counter = _REQUESTS.get(opcode)
        if counter is None:
            worker.count("unknown_opcode")
            return error_frame(opcode, req_id, Status.ERR_BAD_PACKET, "no such request")
        worker.words[worker.counters + counter] += 1
        return self._refuse(opcode, req_id, verdict(self.state, opcode), _STATE_DETAIL[self.state])

    def _guard(self) -> None:
        """What stands in the way of requests that are otherwise in order."""
        worker = self.worker
        if worker.draining:
            worker.count("shed")
            raise Refused(Status.ERR_SERVER_BUSY, "the server is stopping", RETRY_SHUTDOWN_MS)
        rate = worker.settings.rate_limit
        if rate and self.session is not None:
            elapsed_us = max(0, self.now - self.tokens_at)
            self.tokens = min(float(rate), self.tokens + elapsed_us * rate / 1e6)
            self.tokens_at = self.now
            if self.tokens < 1:
                worker.count("rate_limited")
                wait_ms = int((1 - self.tokens) * 1000 / rate) + 1
                raise Refused(Status.ERR_SERVER_BUSY, "rate limit", wait_ms)
            self.tokens -= 1

    def _refuse(
        self, opcode: int, req_id: int, status: int, detail: str, retry_after_ms: int = 0
    ) -> bytes:
        worker = self.worker
        worker.words[worker.counters + _ERRORS[opcode]] += 1
        if status not in _NOT_VALID:
            self.active = True
        session = self.session
        worker.log.debug(
            "refused",
            session=session and session.id,
            user=session and session.user,
            req_id=req_id,
            opcode=BY_OPCODE[opcode].name,
            status=Status(status).name,
            detail=detail,
        )
        if opcode == _LOGIN and status == _UNAUTHORIZED:
            self.failed_logins += 1
            if self.failed_logins == FAILED_LOGINS_MAX:
                self.ending = True
        return error_frame(opcode, req_id, status, detail, retry_after_ms)

    def _answer_error(
        self, opcode: int, req_id: int, error: Refused | PeerError | StateRefusal
    ) -> bytes | None:
        if isinstance(error, Refused):
            answer = self._refuse(opcode, req_id, error.status, error.detail, error.retry_after_ms)
            return self.after(error.after_txn, answer)
        if isinstance(error, Superseded):
            self.end_session()
        retry = RETRY_FULL_MS if isinstance(error, Busy) else 0
        detail = error.detail if isinstance(error, PeerError) else str(error)
        return self.after(0, self._refuse(opcode, req_id, error.status, detail, retry))

    def _bad_frame(self, opcode: int, req_id: int, flags: int, fault: int) -> bytes:
        """The rows of "Bad input" that concern the frame itself."""
        worker = self.worker
        status, detail = Status.ERR_BAD_PACKET, "flags, status, reserved bytes or req_id"
        if fault == Fault.HEADER:
            worker.count("bad_header")
            detail = "magic, version, header_len or body_len"
            self.ending = True
        elif fault == Fault.CHECKSUM:
            worker.count("bad_checksum")
            status, detail = Status.ERR_CHECKSUM_FAIL, "dropped"
            self.bad_checksums += 1
            self.ending = self.bad_checksums == BAD_CHECKSUMS_MAX
        elif flags & _ENCRYPTED:
            worker.count("bad_sealing")
            detail = "encryption was not agreed"
            self.ending = True
        else:
            worker.count("bad_frame")
            if flags & Flag.COMPRESSED:
                detail = "compression was not granted"
        return error_frame(opcode, req_id, status, detail)
