"""The oldest transaction that is kept, against chains that are told one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.ledger import previous_of
from server.core.trail import MARK_EVERY, Trail, Trails
from server.region.records import MONEY_WORDS, OFFSETS, RecordKind

AT = OFFSETS[RecordKind.TRANSFER]
ME, OTHER = 1, 2


class Log:
    """Transfers between two users and others; what is below `first` is dropped."""

    def __init__(self) -> None:
        self.records: list[tuple[int, ...]] = []
        self.first = 1
        self.last = {ME: 0, OTHER: 0}
        self.mine: list[int] = []
        self.reads = 0

    def append(self, payer: int, payee: int) -> None:
        record = [0] * (MONEY_WORDS + 1)
        txn = len(self.records) + 1
        for name, value in (("txn_id", txn), ("from_user", payer), ("to_user", payee)):
            record[AT[name]] = value
        record[AT["from_previous"]] = self.last.get(payer, 0)
        record[AT["to_previous"]] = self.last.get(payee, 0)
        self.last |= {payer: txn, payee: txn}
        if ME in (payer, payee):
            self.mine.append(txn)
        self.records.append(tuple(record))

    def read(self, txn: int) -> tuple[int, ...] | None:
        self.reads += 1
        return self.records[txn - 1] if self.first <= txn <= len(self.records) else None

    @property
    def expected(self) -> int:
        kept = [txn for txn in self.mine if txn >= self.first]
        if len(kept) == len(self.mine):
            return 0
        return kept[0] if kept else self.mine[-1] + 1


def known(trail: Trail, log: Log, steps: int) -> int:
    while not trail.walk(log.read, ME, log.last[ME], steps):
        pass
    return trail.oldest


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400), st.integers(1, 50)), max_size=12))
def test_the_oldest_that_is_kept(steps: list[tuple[int, int, int]]) -> None:
    log, trail = Log(), Trail()
    for kind, count, pace in steps:
        for _ in range(count if kind < 4 else 0):
            log.append(*((ME, OTHER), (OTHER, ME), (3, OTHER), (0, ME))[kind])
        if kind == 4:
            log.first = min(len(log.records) + 1, log.first + count)
        if log.mine:
            assert known(trail, log, pace) == log.expected


def test_what_was_walked_is_not_walked_again() -> None:
    """Neither for who asks again, nor when the oldest ones are dropped."""
    log, trail = Log(), Trail()
    for _ in range(100 * MARK_EVERY):
        log.append(ME, OTHER)
    assert known(trail, log, 1000) == 0
    log.reads = 0
    assert known(trail, log, 1000) == 0
    assert log.reads <= 2
    for first in range(2, 10 * MARK_EVERY, 7):
        log.first, log.reads = first, 0
        assert known(trail, log, 1000) == first
        assert log.reads <= 2 * MARK_EVERY


def test_a_long_walk_is_taken_in_parts() -> None:
    log = Log()
    for _ in range(10):
        log.append(0, ME)
    trails = Trails(log.read)
    found = [trails.walk(ME, 10, 3) for _ in range(4)]
    assert [trail is None for trail in found] == [True, True, True, False]
    assert found[-1] is not None
    assert (found[-1].at, found[-1].oldest) == (1, 0)


def test_the_chain_is_the_users_own() -> None:
    log = Log()
    log.append(ME, OTHER)
    log.append(3, OTHER)
    log.append(OTHER, ME)
    assert [previous_of(log.records[2], user) for user in (ME, OTHER)] == [1, 2]
