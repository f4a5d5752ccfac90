"""The txn log: one order without holes, in a ring that is reused only once durable."""

import errno
import struct

import pytest

from libproto.messages import MAX_BALANCE
from server.core.errors import DiskFull, JournalFailed, TableFull
from server.core.log import NO_JOURNAL, TxnLog
from server.core.state import State
from server.region.records import MONEY_WORDS, OFFSETS, RECORD_WORDS, RecordKind
from server.region.region import Region
from tests.helpers.region import (
    Recovery,
    check_quiet,
    image,
    lock_value,
    set_durable,
    small_region,
    state_of,
    watched,
    word,
)

RING = 8
AT = OFFSETS[RecordKind.DEPOSIT]


def deposit(amount: int, time: int = 5) -> bytes:
    """The payload of a deposit of user 1; its fields are easy to tell apart."""
    fields = [0] * (MONEY_WORDS - 1)
    for name, value in (("kind", RecordKind.DEPOSIT), ("time", time), ("to_user", 1)):
        fields[AT[name] - 1] = value
    fields[AT["amount"] - 1] = amount
    return struct.pack(f"={len(fields)}Q", *fields)


def append(state: State, amount: int = 1) -> int:
    txn = state.log.append(deposit(amount), amount, ())
    if txn > 0:
        state.log.done()
    return txn


def in_intent(region: Region, state: State) -> int:
    return region.words[state.log.intent]


def test_ids_are_in_sequence_from_one_whoever_appends() -> None:
    with small_region(txn_ring=RING) as region:
        states = [state_of(region, worker) for worker in range(3)]
        assert states[0].log.head() == 0
        appended = [append(states[n % 3]) for n in range(3 * RING)]
        assert appended == list(range(1, 3 * RING + 1))
        assert states[2].log.head() == 3 * RING
        check_quiet(region)


def test_a_record_is_read_back_as_it_was_appended() -> None:
    with small_region(txn_ring=RING) as region:
        state = state_of(region)
        for amount in (50, 70):
            append(state, amount)
        for txn, amount, supply in ((1, 50, 50), (2, 70, 120)):
            record = state_of(region, 1).log.read(txn)
            assert record is not None
            assert len(record) == RECORD_WORDS
            shown = {name: record[AT[name]] for name in AT}
            assert shown == dict.fromkeys(AT, 0) | {
                "txn_id": txn,
                "kind": RecordKind.DEPOSIT,
                "time": 5,
                "supply": supply,
                "to_user": 1,
                "amount": amount,
            }


def test_the_supply_goes_down_and_has_a_limit() -> None:
    with small_region(txn_ring=RING) as region:
        log = state_of(region).log
        supplies: list[int] = []
        for change in (5, -3, MAX_BALANCE - 2, -1, 0):
            supply, head = sum(supplies[-1:]), log.head()
            # From what is just too much to the most that a change may be.
            for too_much in (
                {min(MAX_BALANCE + 1 - supply, MAX_BALANCE), MAX_BALANCE} if supply else ()
            ):
                assert log.append(deposit(1), too_much, ()) == log.LIMIT
                assert log.intended() is None
            assert log.head() == head
            txn = log.append(deposit(1), change, ())
            log.done()
            record = log.read(txn)
            assert record is not None
            supplies.append(record[AT["supply"]])
        assert supplies == [5, 2, MAX_BALANCE, MAX_BALANCE - 1, MAX_BALANCE - 1]


def test_time_does_not_go_back() -> None:
    """Whatever the clock does: neither in the record nor in what a repair would do again."""
    with small_region(txn_ring=RING) as region:
        states = [state_of(region, worker) for worker in range(2)]
        newest = 0
        for n, time in enumerate((5, 9, 3, 9, 8, 10, 1, *range(20, 0, -1), 21)):
            log, newest = states[n % 2].log, max(newest, time)
            txn = log.append(deposit(1, time), 1, ())
            record = log.read(txn)
            assert record is not None
            assert record[AT["time"]] == newest
            intended = log.intended()
            assert intended is not None
            assert intended[AT["time"]] == newest
            log.done()


def test_why_there_is_no_place() -> None:
    with small_region(txn_ring=RING) as region:
        state = state_of(region)
        set_durable(region, 0)
        assert isinstance(state.log.refusal(), TableFull)
        region.journal.full = errno.ENOSPC
        assert isinstance(state.log.refusal(), DiskFull)
        region.log.limit = 0
        assert isinstance(state.log.refusal(), JournalFailed), "whatever the disk has"


def test_the_ring_keeps_the_newest() -> None:
    with small_region(txn_ring=RING) as region:
        state = state_of(region)
        for head in range(1, 3 * RING):
            append(state)
            for txn in range(1, head + 2):
                record = state.log.read(txn)
                assert (record is not None) == (head - RING < txn <= head), (txn, head)
                assert record is None or record[0] == txn


def test_the_intent_stands_until_the_change_is_applied() -> None:
    with small_region() as region:
        state = state_of(region, 1)
        append(state)
        payload = deposit(77)
        txn = state.log.append(payload, 77, ())
        assert in_intent(region, state) == txn == 2
        at = (state.log.intent + 1) * 8
        assert bytes(region.bytes[at : at + len(payload)]) == payload
        assert lock_value(state.locks.log) == 1
        state.log.done()
        assert in_intent(region, state) == 0


@pytest.mark.parametrize("durable", range(6))
def test_a_slot_is_reused_once_it_is_durable(durable: int) -> None:
    with small_region(txn_ring=RING) as region:
        state = state_of(region)
        set_durable(region, durable)
        for n in range(RING + durable):
            assert append(state) == n + 1
        before = image(region)
        assert append(state) == TxnLog.FULL
        assert image(region) == before
        check_quiet(region)
        set_durable(region, durable + 1)
        assert append(state) == RING + durable + 1
        assert append(state) == TxnLog.FULL


def test_without_a_journal_the_ring_is_never_full() -> None:
    with small_region(txn_ring=RING) as region:
        assert word(region, "log", 0, "durable") == NO_JOURNAL
        state = state_of(region)
        assert [append(state) for _ in range(5 * RING)][-1] == 5 * RING


def test_full_leaves_the_caller_its_locks() -> None:
    with small_region(txn_ring=RING) as region:
        state = state_of(region)
        set_durable(region, 0)
        for _ in range(RING):
            append(state)
        account = state.locks.account(1)
        account.acquire()
        assert state.log.append(deposit(1), 1, (account,)) == TxnLog.FULL
        assert lock_value(account) == 0
        account.release()


def test_at_every_instant_a_reader_sees_whole_records_or_none() -> None:
    with small_region(txn_ring=4) as region:
        reader = state_of(region, 1).log
        instants = 0

        def look() -> None:
            nonlocal instants
            instants += 1
            head = reader.head()
            for txn in range(1, head + 2):
                record = reader.read(txn)
                if record is None:
                    assert txn <= head - 3 or txn > head, "that slot is not being reused"
                else:
                    told = record[AT["txn_id"]], record[AT["amount"]], record[AT["supply"]]
                    assert told == (txn, 1000 + txn, sum(range(1001, 1001 + txn)))

        writer = state_of(watched(region, look))
        for txn in range(1, 12):
            assert append(writer, 1000 + txn) == txn
        assert instants > 11 * MONEY_WORDS


@pytest.mark.parametrize("instant", range(6))
def test_a_reader_that_is_lapped_at_any_instant_sees_the_old_record_or_none(instant: int) -> None:
    with small_region(txn_ring=4) as region:
        writer = state_of(region)
        loads = 0

        def lap() -> None:
            nonlocal loads
            loads += 1
            if loads == 1 + instant:
                for _ in range(4):
                    append(writer, 7)

        reader = state_of(watched(region, loaded=lap), 1)
        for _ in range(6):
            append(writer, 5)
        loads = 0
        record = reader.log.read(4)
        assert record is None or (record[0], record[AT["amount"]]) == (4, 5)
        assert instant >= loads or writer.log.head() == 10


def test_a_recovery_while_it_waits_takes_the_locks_and_appends_nothing() -> None:
    with small_region() as region:
        other = state_of(region, 1)
        append(other)
        recovery = Recovery(region, 0, lambda: other.locks.release(other.locks.log))
        state = recovery.state
        account = state.locks.account(1)
        account.acquire()
        other.locks.hold(other.locks.log)
        assert state.log.append(deposit(9), 9, (account,)) == TxnLog.AGAIN
        assert recovery.came
        check_quiet(region)
        assert state.log.head() == 1
        assert append(state) == 2
