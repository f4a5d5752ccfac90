"""What the state can refuse, each with the status that it is answered with. None of these has
changed anything."""

from typing import ClassVar, Final

from libproto.errors import Status
from server.region.locks import NothingChanged


class StateRefusal(NothingChanged):
    """A refusal that a request is answered with."""

    status: ClassVar[Status]
    shows_more: ClassVar[bool] = False  # it tells of what was done before, which must be durable
    retry_after_ms = 0  # until the same request may be taken; 0: not unchanged


class NameTaken(StateRefusal):
    """The username is registered, or (not `same`) one that looks like it."""

    status = Status.ERR_ALREADY_EXISTS

    def __init__(self, *, same: bool) -> None:
        super().__init__(
            "the username is taken" if same else "a username that looks like this one is taken"
        )


class ClientTaken(StateRefusal):
    """The client's record says that its client_id was used for what this LOGIN does not know of."""

    status = Status.ERR_ALREADY_EXISTS

    def __init__(self) -> None:
        super().__init__(
            "requests from next_req_id on were sent under this client_id before: draw a new one"
        )


class GivenAway(NothingChanged):
    """The client's record was given away between the halves of a LOGIN."""


RETRY_MS: Final = 1000


class Busy(StateRefusal):
    """There is no place now; the same request may be taken later."""

    status = Status.ERR_SERVER_BUSY
    retry_after_ms = RETRY_MS


class TableFull(Busy):
    """A table of the region is full; `setting` is the one that sizes it."""

    def __init__(self, setting: str, retry_after_ms: int = RETRY_MS) -> None:
        super().__init__(f"the server's table is full: its operator can raise {setting}")
        self.setting = setting
        self.retry_after_ms = retry_after_ms


class TooManySessions(Busy):
    """The user has as many sessions as one user may have."""

    def __init__(self) -> None:
        super().__init__("too many sessions of this user: end some")


class TooManyClients(Busy):
    """The user has as many client records as one user may have, and none can be given away now."""

    def __init__(self, retry_after_ms: int = RETRY_MS) -> None:
        super().__init__("too many clients of this user, all in use until just now")
        self.retry_after_ms = retry_after_ms


class JournalFailed(Busy):
    """Nothing can be made durable any more."""

    def __init__(self) -> None:
        super().__init__("the server cannot write its journal, and takes no transactions")


class DiskFull(Busy):
    """The journal has no space for what would come; there may be some again."""

    def __init__(self) -> None:
        super().__init__("the server's disk is full: its operator can make space on it")


class HistoriesBehind(Busy):
    """The archive cannot write, or lags too far: no event is made but leaves."""

    def __init__(self) -> None:
        super().__init__("the server cannot keep more messages: its histories are behind")


class EventsFull(Busy):
    """No event has a place: those in the ring are not durable yet."""

    retry_after_ms = 100

    def __init__(self) -> None:
        super().__init__("the server cannot keep more messages just now")


class LeavesFull(EventsFull):
    """Not even a leave has a place in the ring. It is not refused: it waits for as long as that
    takes."""


class Superseded(StateRefusal):
    """The session has ended: a later LOGIN has taken its place, or its user or the operator has
    ended it."""

    status = Status.ERR_UNAUTHORIZED

    def __init__(self) -> None:
        super().__init__(
            "this session has ended: by a later LOGIN, another password or the operator"
        )


class NoSuchUser(StateRefusal):
    """There is no user of that id."""

    status = Status.ERR_NOT_FOUND

    def __init__(self) -> None:
        super().__init__("no such user")


class NotAdmitted(StateRefusal):
    """A LOGIN whose proof was right, and which may not be: the user was disabled, or has another
    password since."""

    status = Status.ERR_UNAUTHORIZED


class TooLittle(StateRefusal):
    """The balance is too low."""

    status = Status.ERR_INSUFFICIENT_FUNDS
    shows_more = True

    def __init__(self, balance: int, amount: int) -> None:
        super().__init__(f"balance {balance} is below {amount}")


class NotJoined(StateRefusal):
    """The session has not joined the room."""

    status = Status.ERR_UNAUTHORIZED

    def __init__(self) -> None:
        super().__init__("join the room first")


class NoSuchRoom(StateRefusal):
    """There is no room of that number."""

    status = Status.ERR_NOT_FOUND
    shows_more = True

    def __init__(self) -> None:
        super().__init__("no such room")


class NoSuchOffer(StateRefusal):
    """No offer of that entry_id is on the board."""

    status = Status.ERR_NOT_FOUND
    shows_more = True

    def __init__(self) -> None:
        super().__init__("no such offer is on the board")


class NoSuchText(StateRefusal):
    """No event of that number has a text that can be deleted, or it was deleted before."""

    status = Status.ERR_NOT_FOUND
    shows_more = True

    def __init__(self) -> None:
        super().__init__("there is no such text, or it was deleted before")


class NotAllowed(StateRefusal):
    """The user may not do that in the room."""

    status = Status.ERR_UNAUTHORIZED
    shows_more = True


class WrongChange(StateRefusal):
    """What is asked for has no meaning for the user, the room or the offer."""

    status = Status.ERR_BAD_PACKET
    shows_more = True


class LimitReached(StateRefusal):
    """A limit would be passed."""

    status = Status.ERR_LIMIT
    shows_more = True


class OutcomeUnknown(StateRefusal):
    """The request is too old to be told whether it was executed; it was not executed now."""

    status = Status.ERR_TIMEOUT
    shows_more = True

    def __init__(self) -> None:
        super().__init__("outcome unknown")


class OtherRequest(StateRefusal):
    """The req_id was used for another request."""

    status = Status.ERR_BAD_PACKET
    shows_more = True

    def __init__(self) -> None:
        super().__init__("this req_id was used for another request")
