"""What a core asks for by itself, so that the program is given what it missed: the histories of its
rooms, its inbox, its payments. Without any input or output, and without a clock.

`client.core.resume` says when; here is how each of them is read, and that what the server refuses
for the moment is asked for again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from client.core import calls
from client.core.calls import Call
from client.core.numbers import Numbers
from client.core.payments import Payments
from client.core.pushes import Push
from client.core.rooms import Rooms
from client.core.session import ClientCore
from client.errors import ChecksumFailed, RequestFailed, ServerBusy
from libproto.messages import (
    Capability,
    InboxHistoryResponse,
    Opcode,
    Payment,
    RoomHistoryResponse,
    State,
    TxnHistoryResponse,
    UserNameResponse,
)

AGAIN_S = 0.1
"""How long what the server refused for the moment waits, if the server does not ask for more."""

Step = Callable[[Any, RequestFailed | None], None]
"""What is done with the answer to one of the core's own requests: its result, or its error."""


class CatchingUpCore(ClientCore):
    """A core with requests of its own."""

    def __init__(
        self, numbers: Numbers, payments: bool, client_name: str, payments_after: int | None
    ) -> None:
        super().__init__(numbers, payments, client_name)
        self.rooms = Rooms()
        self.payments = Payments(payments_after)
        self._own: dict[int, Step] = {}
        self._later: list[Callable[[], None]] = []

    def _pushed(self, push: Push) -> Sequence[Push]:
        """What the program is given by a push, just now."""
        if isinstance(push, Payment):
            return self.payments.pushed(push)
        return self.rooms.pushed(push)

    def _stop_catching_up(self) -> None:
        """The connection is over."""
        self.rooms.interrupt()
        self.payments.interrupt()

    # ---- requests

    def _ask(self, call: Call[Any], step: Step) -> None:
        """A request of the core's own."""
        req_id, frame = self.request(call)
        self.abandon(req_id)
        self._own[req_id] = step
        self.outbox.append(frame)

    def _postpone(self, action: Callable[[], None], error: RequestFailed) -> None:
        """The server refused it for the moment."""
        self._later.append(action)
        asked_s = max(AGAIN_S, error.retry_after_ms / 1000)
        self.again_after_s = max(asked_s, self.again_after_s or 0.0)

    # ---- rooms

    def _fetch(self, room_id: int) -> None:
        ask = self.rooms.wanted(room_id)
        if ask is not None:
            self._ask(calls.history(room_id, *ask), partial(self._fetched, room_id))

    def _fetched(
        self, room_id: int, result: RoomHistoryResponse, error: RequestFailed | None
    ) -> None:
        if isinstance(error, ServerBusy | ChecksumFailed):
            self._postpone(partial(self._fetch, room_id), error)
        elif error is not None:
            self._events += self.rooms.not_told(room_id)
        else:
            self._events += self.rooms.answered(room_id, result)
            self._fetch(room_id)

    # ---- the inbox

    def prepare_move(self) -> None:
        """Learn where the inbox ends, if that is not known."""
        if self.state == State.AUTHENTICATED and self.rooms.direct_seen is None:
            self._find_inbox_end(0)

    def _find_inbox_end(self, after_seq: int) -> None:
        def found(result: InboxHistoryResponse, error: RequestFailed | None) -> None:
            if error is not None:
                return  # then the next message that is pushed begins the count
            if result.messages:
                self._find_inbox_end(result.messages[-1].seq)
            else:
                self.rooms.inbox_ends_at(max(after_seq, result.oldest_seq - 1))

        self._ask(calls.inbox_history(after_seq), found)

    def _read_inbox(self) -> None:
        assert self.rooms.direct_seen is not None
        self._ask(calls.inbox_history(self.rooms.direct_seen), self._inbox_answered)

    def _inbox_answered(self, result: InboxHistoryResponse, error: RequestFailed | None) -> None:
        if isinstance(error, ServerBusy | ChecksumFailed):
            self._postpone(self._read_inbox, error)
        elif error is not None:
            self._events += self.rooms.inbox_read()
        else:
            self._events += self.rooms.inbox_answered(result)
            if result.messages:
                self._read_inbox()

    # ---- payments

    def _make_up_payments(self) -> None:
        """After a LOGIN: read those that were missed, if the program wants to be told of any."""
        if self.capabilities & Capability.PAYMENTS:
            self.payments.login(self.user_id)
            self._ask_payments()

    def _ask_payments(self) -> None:
        call = self.payments.wanted()
        if call is None:
            self._events += self.payments.finish()
        else:
            self._ask(call, partial(self._payments_answered, call))

    def _payments_answered(
        self,
        call: Call[Any],
        result: TxnHistoryResponse | UserNameResponse,
        error: RequestFailed | None,
    ) -> None:
        if isinstance(error, ServerBusy | ChecksumFailed):
            self._postpone(self._ask_payments, error)
            return
        if error is None and isinstance(result, TxnHistoryResponse):
            self.payments.answered(result)
        elif error is None and isinstance(result, UserNameResponse):
            self.payments.named(result)
        elif call.opcode == Opcode.USER_NAME:
            self.payments.named(UserNameResponse(call.fields[0], "", 0, 0))
        else:
            self._events += self.payments.give_up()
            return
        self._ask_payments()
