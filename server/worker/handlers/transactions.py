"""A user's own transactions: from the ring, and from the archive for what is older."""

from typing import Final

from libproto.codec import RESPONSE
from libproto.messages import LIST_MAX, Opcode
from server.archive.protocol import Kind, unpack_txns
from server.core import ledger
from server.worker.connection import Connection
from server.worker.requests import Handler
from server.worker.services import Services

STEPS_MAX: Final = 4096  # records that a worker looks at before it asks the archive
SLICE: Final = 512  # records that it looks at in one go, where there is no archive

_response = RESPONSE[Opcode.TXN_HISTORY].frame


def _answer(
    services: Services, connection: Connection, req_id: int, oldest: int,
    found: list[tuple[int, ...]],
) -> bytes | None:  # fmt: skip
    shown = max(oldest, found[0][0] if found else 0)
    return services.durable.when_durable(
        connection,
        min(shown, services.state.log.head()),
        _response(req_id, 0, oldest, found),
    )


def _has_all(services: Services, user: int) -> bool:
    """Does the ring have all transactions of a user?"""
    state, region = services.state, services.state.region
    ring = region.layout.capacities.txn_ring
    return not state.ledger.newest(user) or region.log.first == 1 >= state.log.head() - ring + 1


def _oldest_known(services: Services, user: int) -> int | None:
    """`oldest_txn_id` of a user; None where only the archive can tell."""
    journal = services.state.region.journal
    if _has_all(services, user) or journal.oldest == 1:
        return 0
    reached, oldest = services.oldest.get(user, (0, 0))
    return oldest if reached >= journal.oldest > 0 else None


class _InTheRing:
    """An answer where nothing is kept on disk: the ring is all there is. The way back may be as
    long as the ring, so it is gone in slices, and who is on the same worker waits for one of them
    at most."""

    __slots__ = (
        "_before", "_connection", "_items", "_limit", "_next", "_req_id", "_services", "_user",
    )  # fmt: skip

    def __init__(
        self, services: Services, connection: Connection, req_id: int, user: int, before: int,
        limit: int,
    ) -> None:  # fmt: skip
        self._services, self._connection, self._req_id = services, connection, req_id
        self._user, self._before, self._limit = user, before, limit
        self._items: list[tuple[int, ...]] = []
        self._next = services.state.ledger.newest(user)  # where it goes on; 0: nowhere

    def go_on(self) -> bytes | None:
        """The next slice; the answer, where it was the last."""
        state, user = self._services.state, self._user
        trail = self._services.trails.walk(user, state.ledger.newest(user), SLICE)
        if trail is not None and 0 < self._before <= trail.at:
            self._next = 0  # it has none that are older
        if self._next:
            left = self._limit - len(self._items)
            more, older = ledger.follow(state.log.read, user, self._next, self._before, left, SLICE)
            self._items += more
            self._next = older if older != self._next else 0  # else it has gone
        if self._next or trail is None:
            return self._connection.resume_after(0.0, Opcode.TXN_HISTORY, self._req_id, self.go_on)
        return _answer(self._services, self._connection, self._req_id, trail.oldest, self._items)


def txn_history(
    services: Services, connection: Connection, req_id: int, flags: int, before: int, limit: int
) -> bytes | None:
    del flags
    user, limit = connection.live_session().user, min(limit, LIST_MAX)
    if services.archive is None:
        return _InTheRing(services, connection, req_id, user, before, limit).go_on()
    # What takes longer than this the archive does, which has nobody waiting beside who asks.
    items, older = services.state.ledger.history(user, before, limit, STEPS_MAX)
    oldest = _oldest_known(services, user)

    def answer_older(data: bytes) -> bytes | None:
        reached, oldest, found = unpack_txns(data)
        services.oldest[user] = reached, oldest
        return _answer(services, connection, req_id, oldest, items + found)

    if older or oldest is None:
        fields = (user, older, before, limit - len(items))
        return connection.resume_when_answered(
            Kind.TXNS, fields, Opcode.TXN_HISTORY, req_id, answer_older
        )
    return _answer(services, connection, req_id, oldest, items)


HANDLERS: dict[Opcode, Handler] = {
    Opcode.TXN_HISTORY: txn_history,
}
