"""What a client raises: one tree, a class for each way in which a call can go wrong.

    ClientError
    ├── MisuseError (ValueError)        the program asked for what there is not; nothing was sent
    │   ├── BadArgument                 a value: names the argument, the value and the rule
    │   │   └── BadUrl                  a URL: says what is wrong, and nothing of what it holds
    │   ├── NotLoggedIn                 a call that needs a login first
    │   └── WrongPlace                  a call from another process, thread or event loop, or a copy
    ├── RequestFailed                   the server refused it, one subclass for each status
    │   ├── BadPacket                   an argument that the server does not allow
    │   ├── ChecksumFailed              damaged on its way
    │   ├── Unauthorized                not logged in, wrong password, no right to it in a room
    │   ├── NotFound                    no such room, user, entry of a board or file
    │   ├── InsufficientFunds           the balance is below the amount
    │   ├── ServerBusy                  overload or a rate limit: `retry_after_ms`
    │   ├── OutcomeUnknown              nobody can tell any more whether it was executed
    │   ├── AlreadyExists               the username is taken
    │   ├── LimitReached                an amount, a balance or another limit
    │   └── InternalError               the server failed
    ├── ReqIdTaken                      the req_id is another request's; this one was not executed
    ├── ClientIdTaken                   a client_id that the program gave is used by somebody else
    ├── CallTimeout (TimeoutError)      no answer before the deadline
    ├── ConnectionLost (ConnectionError)
    │   ├── Superseded                  the same user and client_id logged in elsewhere
    │   └── ReloginFailed               the server does not take the login any more
    ├── NotEncrypted                    encryption is required, and was not granted
    ├── IdentityChanged                 the server shows another identity than the one it had
    ├── KnownServersUnusable            the file of servers that were seen cannot be used
    ├── FileFailed                      of a file that was sent or fetched
    │   ├── FileChanged                 it changed while it was sent
    │   └── WrongContents               what was fetched has another SHA-256
    └── ProtocolViolation               not the protocol, or not the server that knows this user

Three kinds are told apart. The server refused the request (`RequestFailed`): it is answered, and
but for `OutcomeUnknown` nothing happened. No answer came (`CallTimeout`, `ConnectionLost`): whether
the request was executed is unknown, and `retry(req_id)` tells, or executes it. What came is not the
protocol (`ProtocolViolation`): the connection is closed.

Every exception that comes out of a numbered request (what moves money or says something),
KeyboardInterrupt and CancelledError included, has the attribute `req_id`: the number that `retry`
takes.
"""

from typing import Any, ClassVar

from libproto import errors
from libproto.errors import Status
from libproto.messages import Opcode


class ClientError(Exception):
    """Base of what a client raises. `req_id` is that of the numbered request, 0 if it is not about
    one that was sent."""

    req_id: int = 0


class MisuseError(ClientError, errors.MisuseError):
    """The program asked for what the client or the protocol does not have; nothing was sent."""


class BadArgument(MisuseError):
    """An argument is not what the call takes: `argument` is its name, `value` what was given, and
    `rule` what is taken, with its unit."""

    def __init__(self, argument: str, value: Any, rule: str) -> None:
        super().__init__(argument, value, rule)
        self.argument = argument
        self.value = value
        self.rule = rule

    def __str__(self) -> str:
        try:
            shown = repr(self.value)
        except Exception:  # noqa: BLE001 - of a class of the program's, or of a number too long to show
            shown = "(cannot be shown)"
        if len(shown) > _SHOWN_MAX:
            shown = shown[:_SHOWN_MAX] + "..."
        return f"{self.argument}={shown} ({type(self.value).__name__}): it takes {self.rule}"


_SHOWN_MAX = 80  # characters of a value


class BadUrl(BadArgument):
    """A URL, or an environment variable with one, is not what `client.core.address` reads. `value`
    is None, as a URL may hold a password, and `rule` says what is wrong."""

    def __str__(self) -> str:
        return f"{self.argument}: {self.rule}"


class NotLoggedIn(MisuseError):
    """The call needs a session: log in first."""


class WrongPlace(MisuseError):
    """A client is used by the process that connected it, and by one event loop if it is an
    AsyncClient. It cannot be copied or pickled: make one in each place."""


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
    """Not logged in, wrong username or password, the session was superseded; or no right to it: in
    a room that is not joined, or as one who is muted or banned."""


class NotFound(RequestFailed, status=Status.ERR_NOT_FOUND):
    """No such room, user, entry of a board or file, or a room that is not joined."""


class InsufficientFunds(RequestFailed, status=Status.ERR_INSUFFICIENT_FUNDS):
    """The balance is below the amount."""


class ServerBusy(RequestFailed, status=Status.ERR_SERVER_BUSY):
    """Overload, rate limit or shutdown. Refused at the door, the connection is closed as well."""


class OutcomeUnknown(RequestFailed, status=Status.ERR_TIMEOUT):
    """The server no longer knows whether this request was executed; it was not just now."""


class AlreadyExists(RequestFailed, status=Status.ERR_ALREADY_EXISTS):
    """The username is taken."""


class LimitReached(RequestFailed, status=Status.ERR_LIMIT):
    """The change would pass a limit, the receiver's included; nothing changed."""


class InternalError(RequestFailed, status=Status.ERR_INTERNAL):
    """The server failed."""


assert RequestFailed.by_status.keys() == set(Status) - {Status.OK}


class ReqIdTaken(ClientError):
    """The server has an outcome under this req_id that is not of this request: another program uses
    this client_id, or an earlier run of this one used the number. This request was not executed.

    Where it is the same request from an earlier run, repeat it with possible_duplicate=True.
    """

    def __init__(self, message: str, req_id: int) -> None:
        super().__init__(message, req_id)
        self.req_id = req_id

    def __str__(self) -> str:
        return str(self.args[0])


class ClientIdTaken(ClientError):
    """The login was refused: the server knows of req_ids of this client_id that are not below
    `next_req_id`. Another program uses the client_id, or the number was not kept. With a fresh
    client_id nothing that is unanswered under this one may be repeated: its outcome is unknown."""


class CallTimeout(ClientError, TimeoutError):
    """The call's deadline passed. The outcome of a numbered request is unknown: retry(req_id).

    `req_id` is 0 if the request was not sent, `opcode` None if the wait was not for an answer.
    """

    def __init__(self, message: str, req_id: int = 0, opcode: Opcode | None = None) -> None:
        super().__init__(message)
        self.req_id = req_id
        self.opcode = opcode


class ConnectionLost(ClientError, ConnectionError):
    """There is no connection: it never came about, was lost, or was closed.

    `req_ids` are those of the numbered requests that were left unanswered.
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


class NotEncrypted(ClientError):
    """The client requires encryption, and the server does not grant it: it cannot, or somebody in
    between has taken the wish for it out. Nothing but the username was sent."""


class IdentityChanged(ClientError):
    """The server shows another identity than the one it had, or than the pin that the program gave.
    Somebody may stand in between. `expected` and `found` are fingerprints, `place` says where the
    expected one is kept. Nothing but the username was sent."""

    def __init__(self, where: str, expected: str, found: str, place: str) -> None:
        super().__init__(where, expected, found, place)
        self.where = where
        self.expected = expected
        self.found = found
        self.place = place

    def __str__(self) -> str:
        return (
            f"THE IDENTITY OF THE SERVER {self.where} IS NOT THE ONE IT WAS: it shows "
            f"{self.found}, and {self.place} says {self.expected}. Somebody may be reading and "
            "changing what you send, or the server's key was made anew. Ask who runs it for its "
            "fingerprint (tradechat-admin identity), by another way"
        )


class KnownServersUnusable(ClientError):
    """The file that tells which server is which cannot be read or written, so a server that was
    never seen cannot be told from one that was."""


class FileFailed(ClientError):
    """A file was not sent or fetched, for a reason that is neither the server's nor the disk's."""


class FileChanged(FileFailed):
    """The file changed while it was sent, or since an earlier run sent it under the same number;
    nothing was shared. Send it again."""


class WrongContents(FileFailed):
    """What was fetched has not the SHA-256 that it was to have; it was removed."""


class ProtocolViolation(ClientError):
    """The server sent what the protocol does not allow, or does not hold the user's key."""


def name_req_id(error: BaseException, req_id: int) -> None:
    """Have an exception that comes out of a numbered request say which: as an attribute, and as a
    note to what is not ours, as KeyboardInterrupt or CancelledError."""
    if getattr(error, "req_id", 0):
        return
    error.req_id = req_id  # type: ignore[attr-defined]  # exceptions take attributes
    if not isinstance(error, ClientError):
        error.add_note(
            f"whether the request with req_id {req_id} was executed is unknown: "
            f"retry({req_id}) tells, or executes it"
        )
