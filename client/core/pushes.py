"""What comes unasked: the server's pushes, and what a client that reconnects says by itself."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from client.errors import ClientError
from libproto.codec import PUSH
from libproto.errors import Status
from libproto.messages import ChatBroadcast, DirectMessage, Opcode, Payment, RoomGap


class RoomRestarted(NamedTuple):
    """After a reconnection: the server began anew without its old state. The room counts its events
    from 1 again, in another epoch; what is given next comes after `last_seq`."""

    room_id: int
    epoch: int
    last_seq: int


class RoomRefused(NamedTuple):
    """The room is not joined any more, and is not joined again by itself: it was closed, this user
    was banned, or the server did not let this client join it again after a reconnection. `status`
    and `detail` say why. Said once; the event of the closing or the ban comes before it."""

    room_id: int
    status: Status
    detail: str


class PaymentGap(NamedTuple):
    """Payments from one txn_id to another were not given: the program took its pushes too slowly,
    or it was away for so long that they are too many, or too old for the server. TXN_HISTORY has
    those that are kept."""

    first_txn_id: int
    last_txn_id: int


class LogReplaced(NamedTuple):
    """After a login: the server's log is another one than before, as an operator has replaced its
    data. What is known of balances, transactions and rooms may not be there any more. What
    `unanswered` lists was not repeated; `retry` of it raises OutcomeUnknown if the other log cannot
    tell what became of it. If the transactions do not show it, make the call itself again."""

    log_id_before: int
    log_id: int


class OutcomesUnknown(NamedTuple):
    """After a login: the server did not take the client_id any more; the client has a fresh one.
    What became of these requests can be learned from the transactions and histories alone."""

    req_ids: tuple[int, ...]


Push = (
    ChatBroadcast
    | RoomGap
    | DirectMessage
    | Payment
    | RoomRestarted
    | RoomRefused
    | PaymentGap
    | LogReplaced
    | OutcomesUnknown
)
"""What comes unasked. From RoomRestarted on, it is the client that says it, not the server."""


class Disconnected(NamedTuple):
    """The connection was lost, and is being established again."""

    reason: ClientError


class Reconnected(NamedTuple):
    """There is another connection, and what was missed is being made up for.
    Without a Disconnected before it, the server has asked for that. reconnects: how often the
    client has reconnected by now."""

    reconnects: int


Event = Push | Disconnected | Reconnected
"""What `events` gives: what comes unasked, and what becomes of the connection."""

MAKERS: dict[int, Callable[[Iterable[Any]], Push]] = {
    Opcode.CHAT_BROADCAST: ChatBroadcast._make,
    Opcode.ROOM_GAP: RoomGap._make,
    Opcode.DIRECT_MESSAGE: DirectMessage._make,
    Opcode.PAYMENT: Payment._make,
}
"""What makes a push of the fields of its body, by opcode."""
assert MAKERS.keys() | {Opcode.GOING_AWAY} == PUSH.keys(), "that one is the client's own business"
