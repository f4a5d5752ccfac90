"""The books say what the region says that wrote the records, and no wrong record gets by."""

import gc
import itertools
import struct
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW
from server.core.events import SlotKind
from server.journal.books import Books
from server.journal.errors import Inconsistent
from server.journal.format import EVENT_HEAD, EventHead
from server.journal.money import ROW_WORDS
from server.region.layout import OUTCOME_WORDS
from server.region.records import (
    FIRST_CHANGE,
    MONEY_WORDS,
    OFFSETS,
    RECORD_SIZE,
    RecordKind,
    UserState,
)
from tests.server.journal.history import (
    BOARDED,
    CHATTY,
    FLOOR,
    OPERATED,
    ROOM_STEPS,
    VARIED,
    History,
    Step,
    folded,
    history,
    in_window,
    truth_of,
)

DEPOSIT, WITHDRAW, TRANSFER = RecordKind.DEPOSIT, RecordKind.WITHDRAW, RecordKind.TRANSFER
KINDS, AFTER_DAMAGE = set(RecordKind), {RecordKind.NEW_FLOOR, RecordKind.EVENTS_LOST}
OF_ROOMS = {kind for kind in RecordKind if kind >= FIRST_CHANGE} | {
    RecordKind.OFFER_TAKEN,
    RecordKind.TEXT,
    RecordKind.BLOCK,
}
OF_OPERATORS = {
    RecordKind.PAID_IN,
    RecordKind.PAID_OUT,
    RecordKind.VERIFIER,
    RecordKind.USER_SET,
}
REGISTER, NEW_CLIENT = RecordKind.REGISTER, RecordKind.NEW_CLIENT


@settings(max_examples=80, deadline=None)
@given(ROOM_STEPS, st.lists(st.integers(1, 20), min_size=1))
@example([Step("deposit"), Step("join"), Step("say", ahead=-63), Step("deposit", ahead=2)], [20])
@example(list(BOARDED), [3])
@example(list(OPERATED), [3])
def test_any_history_makes_the_same_books(steps: list[Step], sizes: list[int]) -> None:
    """After every step, and in batches of whatever size: transactions and events of several steps
    one after the other do not stand in the order in which they were made."""
    with history(*steps) as worked:
        one_by_one = Books()
        for (txn, event), shown in zip(worked.moments[1:], worked.shown[1:], strict=True):
            one_by_one.apply(worked.records(one_by_one.txn + 1, txn))
            events = worked.events(one_by_one.event + 1, event)
            one_by_one.apply_events(b"".join(events), event + 1)
            assert truth_of(one_by_one) == shown
        assert vars(one_by_one) == vars(worked.books())
        in_batches, moment, turn = Books(), 0, 0
        while moment + 1 < len(worked.moments):
            moment = min(moment + sizes[turn % len(sizes)], len(worked.moments) - 1)
            txn, event = worked.moments[moment]
            in_batches.apply(worked.records(in_batches.txn + 1, txn))
            events = worked.events(in_batches.event + 1, event)
            in_batches.apply_events(b"".join(events), event + 1)
            assert in_batches.balances == worked.books(moment).balances
            turn += 1
        assert in_window(truth_of(in_batches)) == in_window(worked.shown[-1])


def test_the_varied_history_is_varied() -> None:
    """What the other tests rely on."""
    with history(*VARIED) as worked:
        records = [worked.record(txn) for txn in range(1, worked.head + 1)]
        assert {record[1] for record in records} == KINDS - AFTER_DAMAGE - OF_ROOMS - OF_OPERATORS
        clients = [record[6] for record in records if record[1] == NEW_CLIENT]
        assert len(clients) > len(set(clients)), "no slot was used again"
        assert any(record[13] == 0 for record in records if record[1] in (DEPOSIT, WITHDRAW))
        req_ids = [record[12] for record in records if record[1] == TRANSFER]
        assert req_ids != sorted(req_ids)


def test_the_boarded_history_has_every_change() -> None:
    with history(*BOARDED) as worked:
        records = [worked.record(txn) for txn in range(1, worked.head + 1)]
        assert {record[1] for record in records} >= OF_ROOMS
        assert any(record[1] == RecordKind.TEXT for record in records)
        opened = [record for record in records if record[1] == RecordKind.ROOM_OPENED]
        assert len(opened) > len({record[14] for record in opened}), "no number was used again"


def test_the_operated_history_has_all_that_operators_do() -> None:
    with history(*OPERATED) as worked:
        records = [worked.record(txn) for txn in range(1, worked.head + 1)]
        assert {record[1] for record in records} >= OF_OPERATORS | {RecordKind.TEXT}
        books = folded(worked.records(1, worked.head))
        assert books.states[3] == UserState.DELETED
        assert books.balances[3] == 0
        assert len(books.keys) == 4, "one was asked for twice, and one of a user who was deleted"
        assert books.supply == 2000 + 507 - 30 - 507


def test_the_chatty_history_is_chatty() -> None:
    with history(*CHATTY) as worked:
        events = [EventHead._make(EVENT_HEAD.unpack_from(each)) for each in _events(worked)]
        kinds = {SlotKind.MESSAGE, SlotKind.JOINED, SlotKind.LEFT, SlotKind.DIRECT, 7}
        assert {event.kind for event in events} == kinds
        assert {bool(event.client_id) for event in events if not event.kind} == {True, False}
        assert any(event.txn for event in events)
        req_ids = [event.req_id for event in events if event.client_id]
        assert req_ids != sorted(req_ids)
        assert {event.room for event in events} == {0, 1, 2, 3}


def _events(worked: History) -> list[bytes]:
    return worked.events(1, worked.moment[1])


def test_records_that_are_in_it_already_are_left_out() -> None:
    with history(*VARIED) as worked:
        whole = folded(worked.records(1, worked.head))
        for txn in range(worked.head + 1):
            books = folded(worked.records(1, txn))
            books.apply(worked.records(1, max(txn // 2, 1)))
            books.apply(worked.records(max(1, txn // 2), worked.head))
            assert vars(books) == vars(whole)


def test_times_are_those_of_the_registrations() -> None:
    with history(Step("register")) as worked:
        books = folded(worked.records(1, worked.head))
        times = [
            worked.record(txn)[2]
            for txn in range(1, worked.head + 1)
            if worked.record(txn)[1] == REGISTER
        ]
        assert books.registered == books.last_seen == [0, *times]
        assert books.user_ids == {b"user1": 1, b"user2": 2, b"user3": 3}


def test_a_slot_that_another_client_gets_has_no_outcomes() -> None:
    with history(clients=2) as worked:
        before = folded(worked.records(1, worked.head))
        assert max(before.newest) > 0
        worked.do(Step("logout", 0))
        worked.do(Step("login", 0, 2, 3))
        books = folded(worked.records(1, worked.head))
        assert books.slots == {(1, 8): 0, (2, 7): 1}
        assert books.newest[0] == 0
        assert truth_of(books) == worked.truths[-1]


def test_the_supply_of_a_full_ledger() -> None:
    with history(Step("register"), Step("login", 2, 1)) as worked:
        supply = sum(worked.region.column("accounts", "balance"))
        worked.do(Step("deposit", 2, amount=MAX_BALANCE - supply))
        books = folded(worked.records(1, worked.head))
        assert books.supply == sum(books.balances) == MAX_BALANCE
        worked.do(Step("withdraw", 0, amount=7))
        assert folded(worked.records(1, worked.head)).supply == MAX_BALANCE - 7


# ---- records that do not follow


def _of_kind(worked: History, kind: RecordKind, nth: int = -1) -> int:
    """txn_id of a record of a kind."""
    found = [txn for txn in range(1, worked.head + 1) if worked.record(txn)[1] == kind]
    return found[nth]


def _set(kind: RecordKind, /, **values: int) -> Callable[[list[int]], None]:
    def plant(record: list[int]) -> None:
        for field, value in values.items():
            record[OFFSETS[kind][field]] = value % 2**64

    return plant


def _add(kind: RecordKind, /, **values: int) -> Callable[[list[int]], None]:
    def plant(record: list[int]) -> None:
        for field, value in values.items():
            at = OFFSETS[kind][field]
            record[at] = (record[at] + value) % 2**64

    return plant


def _named(name: bytes) -> Callable[[list[int]], None]:
    def plant(record: list[int]) -> None:
        at = OFFSETS[REGISTER]["name"]
        record[at : at + 4] = struct.unpack("<4Q", name.ljust(32, b"\0"))

    return plant


# Its last transfer is of user 1 to user 2, with client 7 in slot 0.
LAST = (
    Step("transfer", 1, 1, 30, -63),
    Step("register"),
    Step("login", 2, 2),
    Step("deposit", 1, amount=5),
    Step("withdraw", 1, amount=6),
    Step("transfer", 0, 2, 70, 5),
)
WRONG: tuple[tuple[str, RecordKind, Callable[[list[int]], None], str], ...] = (
    ("a number too high", TRANSFER, _add(TRANSFER, txn_id=1), "number"),
    ("no number", DEPOSIT, _set(DEPOSIT, txn_id=2**64 - 1), "number"),
    ("a time before", TRANSFER, _add(TRANSFER, time=-60_000_000), "its time"),
    ("no such kind", WITHDRAW, _set(WITHDRAW, kind=7), "no kind 7"),
    ("kind 0", TRANSFER, _set(TRANSFER, kind=0), "no kind 0"),
    ("a transfer's supply", TRANSFER, _add(TRANSFER, supply=1), "supply"),
    ("a deposit's supply", DEPOSIT, _add(DEPOSIT, supply=-1), "supply"),
    ("a withdrawal's supply", WITHDRAW, _add(WITHDRAW, supply=1), "supply"),
    ("a registration's supply", REGISTER, _add(REGISTER, supply=1), "supply"),
    ("a client's supply", NEW_CLIENT, _add(NEW_CLIENT, supply=1), "supply"),
    ("a transfer by the world", TRANSFER, _set(TRANSFER, from_user=0), "a transfer"),
    ("a transfer to the world", TRANSFER, _set(TRANSFER, to_user=0), "a transfer"),
    ("a transfer to oneself", TRANSFER, _set(TRANSFER, to_user=1), "a transfer"),
    ("a deposit from a user", DEPOSIT, _set(DEPOSIT, from_user=1), "a deposit"),
    ("a deposit to the world", DEPOSIT, _set(DEPOSIT, to_user=0), "a deposit"),
    ("a withdrawal to a user", WITHDRAW, _set(WITHDRAW, to_user=1), "a withdrawal"),
    ("a withdrawal by the world", WITHDRAW, _set(WITHDRAW, from_user=0), "a withdrawal"),
    ("nothing moved", TRANSFER, _set(TRANSFER, amount=0), "amount of 0"),
    ("an unknown payee", TRANSFER, _set(TRANSFER, to_user=4), "no user 4"),
    ("an unknown payer", TRANSFER, _set(TRANSFER, from_user=4), "no user 4"),
    ("the payer's chain", TRANSFER, _add(TRANSFER, from_previous=-1), "chained"),
    ("the payee's chain", TRANSFER, _add(TRANSFER, to_previous=1), "chained"),
    ("a deposit's chain", DEPOSIT, _set(DEPOSIT, to_previous=0), "chained"),
    ("a chain of the world", DEPOSIT, _set(DEPOSIT, from_previous=1), "chained"),
    ("a withdrawal's chain to the world", WITHDRAW, _set(WITHDRAW, to_previous=1), "chained"),
    ("the payer's balance", TRANSFER, _add(TRANSFER, from_balance=1), "pays 70"),
    ("the payee's balance", TRANSFER, _add(TRANSFER, to_balance=-1), "gets 70"),
    ("an amount that does not fit", TRANSFER, _add(TRANSFER, amount=1), "pays 71"),
    (
        "a balance below 0",
        TRANSFER,
        _add(TRANSFER, amount=1000, from_balance=-1000, to_balance=1000),
        "pays 1070",
    ),
    (
        "a balance above the limit",
        DEPOSIT,
        _add(DEPOSIT, amount=2**63, to_balance=2**63, supply=2**63),
        "above its limit",
    ),
    ("a balance of the paying world", DEPOSIT, _set(DEPOSIT, from_balance=1), "world"),
    ("a balance of the paid world", WITHDRAW, _set(WITHDRAW, to_balance=1), "world"),
    ("a slot that nobody has", TRANSFER, _set(TRANSFER, client_slot=4), "slot 3"),
    ("another's slot", TRANSFER, _set(TRANSFER, client_slot=2), "slot 1"),
    ("another client_id", TRANSFER, _set(TRANSFER, client_id=8), "slot 0"),
    ("a client without a slot", TRANSFER, _set(TRANSFER, client_slot=0), "no slot"),
    ("a request once more", TRANSFER, _set(TRANSFER, req_id=70), "request 70"),
    ("a request too old", TRANSFER, _set(TRANSFER, req_id=6), "request 6"),
    ("a request below the floor", TRANSFER, _set(TRANSFER, req_id=FLOOR - 1), "is older than its"),
    ("a user too many", REGISTER, _add(REGISTER, user_id=1), "user 4 is registered after 2"),
    ("a user again", REGISTER, _add(REGISTER, user_id=-1), "user 2 is registered after 2"),
    ("a taken name", REGISTER, _named(b"user1"), "taken"),
    ("no name", REGISTER, _named(b""), "not a name"),
    ("a name with a hole", REGISTER, _named(b"a\0b"), "not a name"),
    ("a name that is no text", REGISTER, _named(b"\xff"), "not a name"),
    ("a client of nobody", NEW_CLIENT, _set(NEW_CLIENT, user_id=4), "no user 4"),
    ("a client of the world", NEW_CLIENT, _set(NEW_CLIENT, user_id=0), "no user 0"),
    ("a client without an id", NEW_CLIENT, _set(NEW_CLIENT, client_id=0), "not new"),
    ("a known client", NEW_CLIENT, _set(NEW_CLIENT, user_id=1, client_id=7), "not new"),
    ("a slot too many", NEW_CLIENT, _set(NEW_CLIENT, client_slot=4), "slot 3 is used after 2"),
    ("no floor", NEW_CLIENT, _set(NEW_CLIENT, floor=0), "no floor"),
    ("no slot", NEW_CLIENT, _set(NEW_CLIENT, client_slot=0), "slot -1"),
)


@pytest.mark.parametrize(
    ("kind", "plant", "why"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
@pytest.mark.parametrize("alone", [False, True])
def test_a_record_that_does_not_follow_is_told(
    kind: RecordKind, plant: Callable[[list[int]], None], why: str, alone: bool
) -> None:
    """In the middle of a batch, or a batch of its own."""
    with history(*LAST) as worked:
        txn = _of_kind(worked, kind)
        record = list(worked.record(txn))
        plant(record)
        books = folded(worked.records(1, txn - 1)) if alone else Books()
        before = b"" if alone else worked.records(1, txn - 1)
        records = before + struct.pack("<20Q", *record) + worked.records(txn + 1, worked.head)
        with pytest.raises(Inconsistent) as caught:
            books.apply(records)
        assert caught.value.txn == txn
        assert why in caught.value.why
        assert str(caught.value) == f"transaction {txn} does not follow: {caught.value.why}"


def test_a_record_that_is_missing_or_out_of_order_is_told() -> None:
    with history(*LAST) as worked:
        for txn in range(1, worked.head):
            books = folded(worked.records(1, txn - 1))
            with pytest.raises(Inconsistent) as caught:
                books.apply(worked.records(txn + 1, worked.head))
            assert caught.value.txn == txn
            twice = worked.records(1, txn) + worked.records(txn, worked.head)
            with pytest.raises(Inconsistent) as caught:
                folded(twice)
            assert caught.value.txn == txn + 1


def test_any_other_number_in_a_record_of_money_is_told() -> None:
    """All that is in it is checked, but for the time and the req_id of one without a client."""
    with history(*LAST) as worked:
        fields = list(OFFSETS[TRANSFER])[:MONEY_WORDS]
        for kind in (DEPOSIT, WITHDRAW, TRANSFER):
            txn = _of_kind(worked, kind)
            whole = worked.records(1, worked.head)
            for at, field in enumerate(fields):
                if field in ("time", "req_id"):
                    continue
                changed = bytearray(whole)
                changed[(txn - 1) * RECORD_SIZE + at * 8] ^= 0x40
                with pytest.raises(Inconsistent) as caught:
                    folded(bytes(changed))
                assert caught.value.txn == txn, field


def test_the_error_may_be_collected_as_a_circle() -> None:
    """It keeps the frames that it passed, and these what they read from. CPython 3.11 crashes where
    that is a memoryview with an iterator over it."""
    with history(*LAST) as worked:
        records = worked.records(2, worked.head)
    for _ in range(20):
        with pytest.raises(Inconsistent) as caught:
            Books().apply(memoryview(records))
        circle: list[object] = [caught.value]
        circle.append(circle)
        del caught, circle
        gc.collect()


# ---- events that do not follow


def _changed(event: bytes, **values: int) -> bytes:
    head = EventHead._make(EVENT_HEAD.unpack_from(event))._replace(**values)
    return EVENT_HEAD.pack(*head) + event[EVENT_HEAD.size :]


def _head(event: bytes) -> EventHead:
    return EventHead._make(EVENT_HEAD.unpack_from(event))


def _until(worked: History, number: int) -> Books:
    """All transactions, and the events before one."""
    books = folded(worked.records(1, worked.head))
    books.apply_events(b"".join(worked.events(1, number - 1)), number)
    return books


def test_an_event_that_does_not_follow_is_told() -> None:
    with history(*CHATTY) as worked:
        written = [each for each in _events(worked) if _head(each).word > 3]
        for event in written:
            head = _head(event)
            number, following = head.word, head.word + 1
            wrong = [
                ("comes next", _changed(event, word=number - 1)),
                ("comes next", _changed(event, word=following)),
                ("comes after", _changed(event, seq=head.seq + 1)),
                ("comes after", _changed(event, seq=head.seq - 1)),
                ("its end is missing", event + b"12345678"),
                ("its end is missing", event[:-8]),
                ("its end is missing", _changed(event, frame_len=head.frame_len + 8)),
                ("its end is missing", _changed(event, frame_len=2**64 - 1)),
            ]
            if not head.room:
                wrong.append(("no user 9", _changed(event, user=9)))
            for why, changed in wrong:
                books = _until(worked, number)
                with pytest.raises(Inconsistent, match=why) as caught:
                    books.apply_events(changed, following)
                assert "event" in str(caught.value)
                assert caught.value.txn == 0
            _until(worked, number).apply_events(event, following)


def test_a_message_that_was_executed_before_is_told() -> None:
    with history(*CHATTY) as worked:
        books, told = worked.books(), 0
        for event in _events(worked):
            head = _head(event)
            slot = books.slots.get((head.sender, head.client_id))
            if slot is None or head.txn:
                continue
            at = slot * ROW_WORDS + head.req_id % OUTCOME_WINDOW * OUTCOME_WORDS
            if books.outcomes[at] != head.req_id:
                continue  # a later request stands there
            number = books.event + 1
            seq = books.last_seq(head.room) if head.room else books.direct_seqs[head.user]
            again = _changed(event, word=number, seq=seq + 1)
            with pytest.raises(Inconsistent, match=f"request {head.req_id} was executed before"):
                worked.books().apply_events(again, number + 1)
            told += 1
        assert told > 3


def _message(number: int, seq: int, req_id: int) -> bytes:
    head = EventHead(
        number, 0, 1, seq, 1, 0, 0, 0, 5, sender=1, client_slot=1, client_id=7, req_id=req_id,
        digest=req_id + 1, txn=0,
    )  # fmt: skip
    return EVENT_HEAD.pack(*head)


def test_outcomes_are_stored_whatever_the_order() -> None:
    """A batch has its transactions first: what a client asked for in another order is folded to the
    same record, and an older request never overwrites a newer one."""
    with history() as worked:
        records = worked.records(1, worked.head)
        slot = folded(records).slots[1, 7]
        newest = folded(records).newest[slot]
    requests = [newest + n for n in (1, 2, 64, 65, 66, 130)]
    known: list[list[int]] = []
    for order in itertools.permutations(requests):
        books = folded(records)
        for seq, req_id in enumerate(order, 1):
            books.apply_events(_message(seq, seq, req_id), seq + 1)
        assert books.newest[slot] == max(requests)
        row = books.outcomes[slot * ROW_WORDS : (slot + 1) * ROW_WORDS].tolist()
        rows = [row[at : at + OUTCOME_WORDS] for at in range(0, ROW_WORDS, OUTCOME_WORDS)]
        # All but the room_seq, which is by the order.
        known.append([each[0] for each in rows])
        for req_id in requests:
            if req_id + OUTCOME_WINDOW > max(requests):
                assert rows[req_id % OUTCOME_WINDOW][0] == req_id
    in_window = [{n for n in row if n + OUTCOME_WINDOW > max(requests)} for row in known]
    assert all(each == in_window[0] for each in in_window)


def test_a_message_below_the_floor_or_of_nobody_leaves_no_outcome() -> None:
    with history() as worked:
        books = folded(worked.records(1, worked.head))
        before = books.outcomes.tolist()
        slot = books.slots[1, 7]
        books.apply_events(_message(1, 1, books.floors[slot] - 1), 2)
        del books.slots[1, 7]  # it was given away
        books.apply_events(_message(2, 2, books.newest[slot] + 1), 3)
        assert books.outcomes.tolist() == before


# ---- starts


def test_numbers_are_left_out_after_each_crash() -> None:
    """Of every room and inbox, those without events included; and they add up."""
    with history(*CHATTY) as worked:
        books = worked.books()
        rooms = {room: books.last_seq(room) for room in range(1, 9)}
        inboxes = books.direct_seqs[1:]
        assert rooms[8] == 0
        for start, (ring, skip) in enumerate(((16, 0), (32, 16), (8, 32), (8, 0), (8, 8)), 1):
            books.begin(ring, skip, 77 if start > 1 else books.epoch)
            assert books.ring == ring
            if start == 1:
                skipped = 0
            elif start == 2:  # another epoch: all begin anew
                rooms, inboxes, skipped = dict.fromkeys(rooms, 0), [0] * len(inboxes), 16
            else:
                skipped += skip
            assert books.skips == skipped
            assert {room: books.last_seq(room) for room in rooms} == {
                room: seq + skipped for room, seq in rooms.items()
            }
            assert books.direct_seqs[1:] == inboxes
        number, seq = books.event + 1, books.last_seq(5) + 1
        message = EVENT_HEAD.pack(*EventHead(number, 0, 5, seq, *[0] * 11))
        unskipped = _changed(message, seq=seq - 56)
        with pytest.raises(Inconsistent, match=f"number {seq - 56} comes after {seq - 1}"):
            books.apply_events(unskipped, number + 1)
        books.apply_events(message, number + 1)
        assert (books.rooms[5], books.last_seq(5)) == (1, 57)
        direct = _changed(message, word=number + 1, kind=16, room=0, user=1, seq=57)
        books.apply_events(direct, number + 2)
        assert books.direct_seqs[1] == 1
