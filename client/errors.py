"""What a client raises: one class for each way in which a call can go wrong.

Three kinds are told apart. The server refused the request (`RequestFailed`): it is answered, and
but for `OutcomeUnknown` nothing happened. No answer came (`CallTimeout`, `ConnectionLost`): whether
the request was executed is unknown, and a ledger request can be repeated under its req_id. What
came is not the protocol (`ProtocolViolation`): the connection is closed.

Values that the wire cannot carry, and calls that make no sense, are `libproto.errors.MisuseError`.
"""

from typing import ClassVar

from libproto.errors import Status
from libproto.messages import Opcode


class ClientError(Exception):
    """Base of what a client raises."""


class RequestFailed(ClientError):
    """The server answered with a status that is not OK; there is a subclass for each.

    `retry_after_ms` is how long to wait before the same request is worth another try, 0 if it is
    not; `req_id` is the request's.
    """

    status: Status
    by_status: ClassVar[dict[int, type["RequestFailed"]]] = {}

    def __init_subclass__(cls, *, status: Status) -> None:
        super().__init_subclass__()
        cls.status = status
        cls.by_status[status] = cls

    def __init__(self, detail: str, retry_after_ms: int = 0, req_id: int = 0) -> None:
        super().__init__(detail, retry_after_ms, req_id)
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.req_id = req_id

    def __str__(self) -> str:
        return f"{self.status.name}: {self.detail}"


class BadPacket(RequestFailed, status=Status.ERR_BAD_PACKET):
    """An argument is not valid, or the request is not for this moment."""


class ChecksumFailed(RequestFailed, status=Status.ERR_CHECKSUM_FAIL):
    """The request was damaged on its way, and dropped."""


class Unauthorized(RequestFailed, status=Status.ERR_UNAUTHORIZED):
    """Not logged in, wrong username or password, not a member, or the session was superseded."""


class NotFound(RequestFailed, status=Status.ERR_NOT_FOUND):
    """No such room or user, a room that is not joined, or nobody online to receive it."""


class InsufficientFunds(RequestFailed, status=Status.ERR_INSUFFICIENT_FUNDS):
    """The balance is below the amount."""


class ServerBusy(RequestFailed, status=Status.ERR_SERVER_BUSY):
    """Overload, rate limit or shutdown. Refused at the door, the connection is closed as well."""


class OutcomeUnknown(RequestFailed, status=Status.ERR_TIMEOUT):
    """The server no longer knows whether this ledger request was executed; it was not just now."""


class AlreadyExists(RequestFailed, status=Status.ERR_ALREADY_EXISTS):
    """The username is taken."""


class LimitReached(RequestFailed, status=Status.ERR_LIMIT):
    """The change would pass a limit, the receiver's included; nothing changed."""


class InternalError(RequestFailed, status=Status.ERR_INTERNAL):
    """The server failed."""


assert RequestFailed.by_status.keys() == set(Status) - {Status.OK}


class CallTimeout(ClientError, TimeoutError):
    """The call's deadline passed. The outcome of a ledger request is unknown: `req_id` repeats it.

    `req_id` is 0 if the request was not sent, `opcode` None if the wait was not for an answer.
    """

    def __init__(self, message: str, req_id: int = 0, opcode: Opcode | None = None) -> None:
        super().__init__(message)
        self.req_id = req_id
        self.opcode = opcode


class ConnectionLost(ClientError, ConnectionError):
    """There is no connection: it never came about, was lost, or was closed.

    `req_ids` are those of the ledger requests that were left unanswered.
    """

    def __init__(self, message: str, req_ids: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.req_ids = req_ids


class Superseded(ConnectionLost):
    """Somebody logged in elsewhere with the same user and client_id. This client stays down: were
    it to come back, the two would supersede each other for ever."""


class ReloginFailed(ConnectionLost):
    """The connection is there again, but the server does not take the login that it took before:
    the user is not known any more, or was registered anew."""


class ProtocolViolation(ClientError):
    """The server sent what the protocol does not allow, or does not hold the user's key."""
