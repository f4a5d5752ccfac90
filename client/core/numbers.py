"""Who a client is to the server, and the numbers of those requests that are executed once.

A client is known by its user and a `client_id`, and each numbered request (`NUMBERED`: what moves
money, says something or changes a room) by a req_id that is used for no other. So a request may be
sent again: the server executes it once, and tells the recorded outcome after that. This holds as
long as no two programs share a client_id, and no number is drawn twice under one. So the client_id
is drawn at the first login, in the process that logs in; and where the server refuses a login
because it knows of numbers that this client did not draw, the client_id is given up.

The numbers go on when the client_id changes. Those below `floor` were drawn under an earlier one:
what became of requests under them can be learned no more, and they are never sent again.

Thread-safe: numbers are drawn in the threads of the program.
"""

import secrets
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from client.core.calls import (
    BoardAdded,
    Call,
    DirectSent,
    LinkFetched,
    Receipt,
    RoomChange,
    RoomOpened,
    RoomReceipt,
    Sent,
)
from client.errors import BadArgument, MisuseError, OutcomeUnknown
from libproto.codec import REQUEST
from libproto.fields import fields_of
from libproto.messages import BY_OPCODE, OUTCOME_WINDOW, Opcode

NUMBERED = frozenset(opcode for opcode, message in BY_OPCODE.items() if message.numbered)
"""The requests that are executed once."""
REQ_ID_MAX = (1 << 63) - 1
"""Greatest req_id of a numbered request."""

Outcome = (
    Receipt | RoomReceipt | Sent | DirectSent | RoomOpened | RoomChange | BoardAdded | LinkFetched
)
"""What became of a numbered request."""


class Unanswered(NamedTuple):
    """A numbered request that was sent and whose answer the program was not given; `retry(req_id)`
    tells what became of it. Of the rest, what the request has not is 0 or empty: `amount`, or the
    price, in minor units; `to_user`, the payee, or whose role it is; `room_id`; `text`, the
    message, note, entry, topic, link, or name of a room; `entry_id` of a board; `file_id`; and
    `access`, `role` and `seconds` as they are to be."""

    req_id: int
    opcode: Opcode
    amount: int = 0
    to_user: int = 0
    room_id: int = 0
    text: str = ""
    entry_id: int = 0
    access: int = 0
    role: int = 0
    seconds: int = 0
    file_id: int = 0


class Numbers:
    """The client_id of a client, its req_ids, and the calls that were made under them."""

    def __init__(
        self,
        client_id: int | None,
        next_req_id: int = 1,
        keep: Callable[[int], object] | None = None,
    ) -> None:
        """client_id: None to draw one at the first login; 0 takes no part in exactly-once.
        next_req_id: greater than every number drawn under this client_id. keep: is given the next
        number before one is used; what it raises comes out of the call, and nothing is sent."""
        self.client_id = client_id or 0
        self.takes_part = client_id != 0
        self.is_given = client_id is not None
        self.next = next_req_id
        self.floor = 1
        self._keep = keep
        self._lock = threading.RLock()  # a signal handler may interrupt us, and call us
        self._calls: dict[int, Call[Any]] = {}
        self._untold: dict[int, Call[Any]] = {}

    # ---- who

    def identify(self) -> None:
        """A login is about to be sent: from now on there is a client_id."""
        if self.takes_part and not self.client_id:
            self.client_id = secrets.randbits(64) or 1

    def renew(self) -> tuple[int, ...]:
        """Give the client_id up for a fresh one; returns the numbers of the requests whose outcome
        is unknown for good."""
        with self._lock:
            unknown = tuple(sorted(self._untold))
            self.client_id = secrets.randbits(64) or 1
            self.begin_anew()
            return unknown

    def begin_anew(self) -> None:
        """The numbers until now were another client's: of another client_id, or another user."""
        with self._lock:
            self.floor = self.next
            self._calls.clear()
            self._untold.clear()

    # ---- numbers

    def draw(self) -> int:
        """The next number; nobody gets it again."""
        with self._lock:
            number = self.next
            self._advance(number + 1)
            return number

    def _advance(self, beyond: int) -> None:
        if self._keep is not None:
            self._keep(beyond)
        self.next = beyond

    def take(self, req_id: int) -> int:
        """A number that the program names; those up to it are drawn by that. Raises as `check`."""
        with self._lock:
            self.check(req_id)
            if req_id >= self.next:
                self._advance(req_id + 1)
            return req_id

    def check(self, req_id: int) -> None:
        """OutcomeUnknown or BadArgument if no request may be sent under this number."""
        if isinstance(req_id, bool) or not isinstance(req_id, int) or not 0 < req_id <= REQ_ID_MAX:
            raise BadArgument("req_id", req_id, "a whole number from 1 to 2^63-1")
        if req_id < self.floor:
            raise OutcomeUnknown(
                "it was drawn for another user, or under a client_id that was given up",
                0,
                req_id,
            )

    def claim(self, call: Call[Any], req_id: int | None, repeated: bool) -> int:
        """Give a numbered request its number: a fresh one, or the one that the program names.

        repeated: it has been sent before, by an earlier run of the program perhaps. MisuseError if
        the number belongs to another request; then nothing changes.
        """
        with self._lock:
            if req_id is None:
                req_id = self.draw()
            else:
                self.check(req_id)
                known = self._calls.get(req_id)
                if known is not None and (known.opcode, known.fields) != (call.opcode, call.fields):
                    raise MisuseError(
                        f"req_id {req_id} belongs to another request, a {known.opcode.name} with "
                        f"{known.fields}: take a number for each with new_req_id()"
                    )
                repeated |= known is not None
                self.take(req_id)
            call.req_id = req_id
            call.recordable = repeated
            self._calls[req_id] = call
            self._untold[req_id] = call
            if len(self._calls) > 2 * OUTCOME_WINDOW:
                self._forget_before(self.next - OUTCOME_WINDOW)
            return req_id

    def _forget_before(self, oldest: int) -> None:
        """Of what is out of the server's window nothing can be learned any more."""
        for calls in (self._calls, self._untold):
            for req_id in [number for number in calls if number < oldest]:
                del calls[req_id]

    def recall(self, req_id: int) -> Call[Any]:
        """The call that was made under this number, to be made again."""
        self.check(req_id)
        if not self.takes_part:
            raise MisuseError("a client with client_id 0 cannot repeat: the server keeps nothing")
        known = self._calls.get(req_id)
        if known is None:
            raise MisuseError(
                f"no request was made under req_id {req_id}, or too many since; make the call "
                "itself with this req_id, and possible_duplicate=True if it may have been sent"
            )
        return Call(known.opcode, known.fields, known.result)

    def told(self, req_id: int) -> None:
        """The program is given the outcome of this request, or it was not sent."""
        with self._lock:
            self._untold.pop(req_id, None)

    def disown(self, req_id: int) -> None:
        """This number is another program's."""
        with self._lock:
            self._calls.pop(req_id, None)
            self._untold.pop(req_id, None)

    @property
    def unanswered(self) -> tuple[Unanswered, ...]:
        """The requests whose outcome the program was not given, ascending."""
        with self._lock:
            calls = sorted(self._untold.items())
        return tuple(_unanswered(req_id, call) for req_id, call in calls)


_SHOWN_AS = {
    "message": "text",
    "note": "text",
    "topic": "text",
    "name": "text",
    "url": "text",
    "price": "amount",
    "user_id": "to_user",
}


def _unanswered(req_id: int, call: Call[Any]) -> Unanswered:
    names = (field.name for field in fields_of(REQUEST[call.opcode].body))
    shown = {
        _SHOWN_AS.get(name, name): field for name, field in zip(names, call.fields, strict=True)
    }
    return Unanswered(req_id, call.opcode, **shown)


def retry(numbers: Numbers, req_id: int) -> Call[Outcome]:
    """Learn what became of a numbered request, by making it again under its req_id.

    If it was executed, the result is the recorded outcome (`recorded` is True), and nothing is
    executed now; if not, it is executed now, or refused. The result is what the call itself
    would have given. May be repeated. Raises OutcomeUnknown where nobody can tell any more: the
    transactions and the histories show it.
    """
    return numbers.recall(req_id)
