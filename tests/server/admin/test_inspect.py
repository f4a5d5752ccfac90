"""The inspector's view: what is in use, named and typed; secrets hidden; what changes, said."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial
from itertools import chain, count, islice, product, repeat
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.codec import PUSH
from libproto.messages import EventKind, Opcode, TxnKind
from server.admin.inspect import (
    GUARDS,
    SECRETS,
    Mark,
    Time,
    Value,
    decode,
    decode_txn,
    read,
    used_indices,
)
from server.admin.sums import summary
from server.core.ledger import DONE
from server.core.session import Session
from server.core.state import State
from server.region import status
from server.region.layout import (
    OUTCOME_FIELDS,
    OUTCOME_WORDS,
    SEGMENTS,
    WORD,
    Kind,
    Layout,
    WorkerState,
)
from server.region.records import RECORD_WORDS, RecordKind
from server.region.region import Region
from server.region.status import STALE_S, Status
from tests.helpers.region import (
    SMALL,
    STARTED_US,
    VERIFIER,
    children,
    login,
    monotonic_us,
    register,
    say,
    set_word,
    small_region,
    state_of,
)
from tests.helpers.server import wait_until

NOW = STARTED_US + 5
U64_MAX = 2**64 - 1


def values(region: Region, segment: str, index: int = 0) -> dict[str, Value]:
    found = read(region, segment, index)
    assert found.index == index
    assert found.values is not None
    return found.values


def contains_bytes(value: Value, wanted: bytes) -> bool:
    if isinstance(value, bytes):
        return wanted in value
    if isinstance(value, Mapping):
        return any(contains_bytes(each, wanted) for each in value.values())
    if isinstance(value, list | tuple):
        return any(contains_bytes(each, wanted) for each in value)
    return False


@contextmanager
def busy_region() -> Iterator[tuple[Region, State, Session]]:
    """A region in which ann (client 77) and bob have traded and spoken; and an inspector's view."""
    with small_region() as region:
        state = state_of(region)
        ann, bob = register(state, "ann", "bob")
        session = login(state, ann, 77)
        login(state, bob)
        execute = state.ledger.execute
        assert execute(session, TxnKind.DEPOSIT, 0, 1000, 1, 0, NOW)[0] == DONE
        assert execute(session, TxnKind.TRANSFER, bob, 250, 2, 0, NOW)[0] == DONE
        for room in (1, 64, 70):
            state.memberships.join(session, room, NOW)
        state.audience.present(64, 2, 1)
        say(state, session, 64, "hello", NOW)
        seen = Region.attach(region.name)
        try:
            yield seen, state, session
        finally:
            seen.close()


# ---- what is there


def test_every_segment_can_be_read() -> None:
    with busy_region() as (region, _, _):
        for segment in SEGMENTS:
            for index in range(region.layout[segment.name].records):
                found = values(region, segment.name, index)
                assert list(found) == [field.name for field in segment.fields]
                assert used_indices(region, segment.name) is not None


def test_what_is_in_use() -> None:
    with busy_region() as (region, _, _):
        used = {segment.name: used_indices(region, segment.name) for segment in SEGMENTS}
        index = used.pop("name_index")
        assert {values(region, "name_index", place)["user"] for place in index} == {1, 2}
        assert len(used.pop("client_buckets")) == 1
        assert used == {
            "header": [0],
            "registry": [0],
            "log": [0],
            "events": [0],
            "journal": [0],
            "archive": [0],
            "files": [0],
            "repairs": [0],
            "workers": [0, 1, 2],
            "status": [0, 1, 2],
            "deliveries": [0, 1, 2],
            "served": [],
            "counters": [0, 1, 2],
            "users": [1, 2],
            "accounts": [1, 2],
            "account_locks": [],
            "operator_keys": [],
            "clients": [0],
            "sessions": [0, 1],
            "rooms": [1, 64, 70],
            "roles": [],
            "offers": [],
            "deletions": [],
            "blocks": [],
            "presence": [64],
            "crowd": [],
            "allowances": [],
            "txn_ring": [5, 4, 3, 2, 1],
            "event_ring": [4, 3, 2, 1],
        }


def test_a_ring_that_went_round_is_shown_from_the_newest_on() -> None:
    with busy_region() as (region, state, session):
        for _ in range(SMALL.event_ring):
            say(state, session, 64, "again", NOW)
        used = used_indices(region, "event_ring")
        assert len(used) == SMALL.event_ring
        numbers = [values(region, "event_ring", index)["word"] for index in used]
        assert numbers == list(range(SMALL.event_ring + 4, 4, -1))


def test_a_lock_that_is_taken_is_in_use() -> None:
    with busy_region() as (region, state, _):
        account = state.locks.account(5)
        state.locks.hold(account)
        assert used_indices(region, "account_locks") == [5]
        assert values(region, "account_locks", 5) == {"lock": 0}
        state.locks.release(account)
        assert values(region, "account_locks", 5) == {"lock": 1}


def test_a_user_an_account_a_client_a_session() -> None:
    with busy_region() as (region, _, session):
        assert values(region, "users", 1) == {
            "word": 1,
            "name": "ann",
            "salt": VERIFIER.salt,
            "iterations": VERIFIER.iterations,
            "stored_key": Mark.HIDDEN,
            "server_key": Mark.HIDDEN,
            "version": 0,
            "other_salt": bytes(16),
            "other_iterations": 0,
            "other_stored_key": Mark.HIDDEN,
            "other_server_key": Mark.HIDDEN,
            "role": "USER",
            "state": "ACTIVE",
            "last_seen": Time(STARTED_US),
            "direct_seq": 0,
            "first_session": 1,
            "watchers": 0,
            "clients": 1,
        }
        assert values(region, "accounts", 1) == {"balance": 750, "last_txn": 5, "closed": 0}
        client = values(region, "clients", 0)
        outcomes = client["outcomes"]
        assert isinstance(outcomes, list)
        message = outcomes.pop()
        digest = message.pop("digest")
        assert digest
        assert message == {
            "req_id": 3,
            "txn_id": 0,
            "balance": NOW,
            "target": Opcode.CHAT_SEND << 32 | 64,
            "amount": 0,
            "seq": 2,
        }
        since = client.pop("idle_since")
        assert isinstance(since, int)
        assert 0 < since <= monotonic_us()
        assert client == {
            "user": 1,
            "client_id": 77,
            "session": 1,
            "kept_until": 0,
            "floor": 1,
            "marks": 0,
            "next": 0,
            "newest": 3,
            "outcomes": [
                dict(zip(OUTCOME_FIELDS, (1, 4, 1000, 1 << 32, 1000, 0, 0), strict=True)),
                dict(zip(OUTCOME_FIELDS, (2, 5, 750, 3 << 32 | 2, 250, 0, 0), strict=True)),
            ],
        }
        found = values(region, "sessions", session.slot)
        assert (found["id"], found["user"], found["mark"]) == (session.id, 1, 0)
        assert found["rooms"] == [1, 64, 70]
        assert values(region, "users", 3)["name"] == ""
        assert values(region, "users", 3)["last_seen"] is None


def test_rooms_and_events() -> None:
    with busy_region() as (region, _, _):
        assert values(region, "rooms", 64) == {
            "last_seq": 2,
            "oldest_seq": 0,
            "last_event": 4,
            "members": 1,
            "kept": 0,
            "opened": 0,
            "first_seq": 0,
            "access": "PUBLIC",
            "owner": 0,
            "closed": None,
            "offers": 0,
            "likeness": 0,
            "name": "",
            "topic": "",
        }
        assert values(region, "presence", 64) == {"connections": [0, 0, 1]}
        assert values(region, "event_ring", 2)["kind"] == "JOINED"
        frame = PUSH[Opcode.CHAT_BROADCAST].frame(
            0, 0, 64, 2, NOW, EventKind.MESSAGE, 1, "ann", "hello"
        )
        found = values(region, "event_ring", 4)
        assert found.pop("digest") != 0
        assert found == {
            "word": 4,
            "kind": "MESSAGE",
            "room": 64,
            "seq": 2,
            "user": 1,
            "session": 0,
            "previous": 2,
            "frame_len": len(frame),
            "time": Time(NOW),
            "sender": 1,
            "client_slot": 1,
            "client_id": 77,
            "req_id": 3,
            "txn": 0,
            "frame": frame,
        }


def test_records_of_the_log_by_their_kind() -> None:
    with busy_region() as (region, _, _):
        assert values(region, "txn_ring", 1)["record"] == {
            "txn_id": 1,
            "kind": "REGISTER",
            "time": Time(STARTED_US),
            "supply": 0,
            "user_id": 1,
            "iterations": VERIFIER.iterations,
            "name": "ann",
            "salt": VERIFIER.salt,
            "stored_key": Mark.HIDDEN,
            "server_key": Mark.HIDDEN,
        }
        assert values(region, "txn_ring", 3)["record"] == {
            "txn_id": 3,
            "kind": "NEW_CLIENT",
            "time": Time(STARTED_US),
            "supply": 0,
            "user_id": 1,
            "client_id": 77,
            "client_slot": 1,
            "floor": 1,
        }
        assert values(region, "txn_ring", 5)["record"] == {
            "txn_id": 5,
            "kind": "TRANSFER",
            "time": Time(NOW),
            "supply": 1000,
            "from_user": 1,
            "to_user": 2,
            "amount": 250,
            "from_balance": 750,
            "to_balance": 250,
            "from_previous": 4,
            "to_previous": 0,
            "client_id": 77,
            "req_id": 2,
            "client_slot": 1,
            "room": 0,
            "room_seq": 0,
            "event": 0,
            "digest": 0,
        }
        assert values(region, "txn_ring", 6)["record"] is None
        assert values(region, "workers")["intent"] is None


def test_an_intent_that_stands_is_shown() -> None:
    with busy_region() as (region, state, _):
        set_word(state.region, "workers", 0, "intent", 9)
        intent = values(region, "workers")["intent"]
        assert isinstance(intent, Mapping)
        assert (intent["txn_id"], intent["kind"], intent["amount"]) == (9, "TRANSFER", 250)


def test_words_with_a_meaning_of_their_own() -> None:
    with busy_region() as (region, state, _):
        for code, name in ((0, "STARTING"), (1, "SERVING"), (2, "DRAINING"), (4, 4)):
            set_word(state.region, "header", 0, "state", code)
            assert values(region, "header")["state"] == name
        assert values(region, "log")["durable"] is None
        set_word(state.region, "log", 0, "durable", 4)
        assert values(region, "log")["durable"] == 4
        started = values(region, "header")["started"]
        assert isinstance(started, Time)
        assert started == STARTED_US


def test_a_status_that_is_old_is_shown_as_stale() -> None:
    """In a record and in the summary; one that was never made is that of no worker, which is not in
    the summary."""
    now = monotonic_us()
    with busy_region() as (region, state, _):
        for slot, age_s in enumerate((STALE_S - 20, STALE_S + 1)):
            told = now - int(age_s * 1e6)
            status.publish(state.region, slot, Status(told, WorkerState.BUSY, 1, 2, 3, 4, 5, 6))
        shown = [values(region, "status", slot) for slot in range(3)]
        workers = summary(region)["workers"]
    assert [each["state"] for each in shown] == ["BUSY", "STALE", "STOPPED"]
    assert isinstance(workers, list)
    assert [each["state"] for each in workers] == ["BUSY", "STALE"]
    assert [each["age_ms"] // 10_000 for each in workers] == [1, 3]


# ---- what is not shown


def test_secrets_are_never_shown() -> None:
    """Wherever they stand: the user, the record of the registration, the intent it left."""
    with busy_region() as (region, state, _):
        register(state, "cyd")  # its payload is still in the worker's intent
        set_word(state.region, "workers", 0, "intent", 6)
        at = region.layout["header"].at(0, "salt_secret") * 8
        secret_of_region = bytes(region.bytes[at : at + 32])
        shown = 0
        for segment in SEGMENTS:
            for index in range(region.layout[segment.name].records):
                found = values(region, segment.name, index)
                for secret in (VERIFIER.stored_key, VERIFIER.server_key, secret_of_region):
                    assert not contains_bytes(found, secret[:8]), f"{segment.name}[{index}]"
                shown += list(found.values()).count(Mark.HIDDEN)
        assert shown == 1 + 4 * (SMALL.accounts + 1)
        intent = values(region, "workers")["intent"]
        assert isinstance(intent, Mapping)
        assert intent["stored_key"] == intent["server_key"] == Mark.HIDDEN


def test_every_secret_of_the_tables_is_known_by_its_name() -> None:
    blobs = {
        field.name for segment in SEGMENTS for field in segment.fields if field.kind is Kind.BLOB
    }
    assert blobs - SECRETS == {"salt", "other_salt", "frame", "intent_event"}, (
        "a new blob: is it a secret?"
    )


@given(st.lists(st.integers(0, U64_MAX), min_size=RECORD_WORDS, max_size=RECORD_WORDS))
def test_of_a_record_of_unknown_kind_only_the_number_is_shown(words: list[int]) -> None:
    if words[1] in list(RecordKind):
        words[1] += 100
    words[0] |= 1
    assert decode_txn(words) == {"txn_id": words[0], "kind": words[1]}


# ---- whatever the words are


@pytest.mark.parametrize("segment", [segment.name for segment in SEGMENTS])
@settings(max_examples=5)  # of each segment, which are read alike
@given(data=st.data())
def test_any_words_are_read_without_an_error(segment: str, data: st.DataObject) -> None:
    placed = Layout(SMALL)[segment]
    word = st.integers(0, U64_MAX) | st.sampled_from([0, 1, 2, 3, 16, 17, 18])
    words = data.draw(st.lists(word, min_size=placed.stride, max_size=placed.stride))
    found = decode(placed, words, words)
    assert found is not None
    assert list(found) == [field.name for field in placed.segment.fields]
    for value in found.values():
        assert not isinstance(value, str) or value.isprintable()


@given(st.sets(st.integers(0, SMALL.rooms)))
def test_bits_are_read_as_they_are_set(rooms: set[int]) -> None:
    placed = Layout(SMALL)["sessions"]
    words = [0] * placed.stride
    for room in rooms:
        words[placed.offsets["rooms"] + (room >> 6)] |= 1 << (room & 63)
    found = decode(placed, words, words)
    assert found is not None
    assert found["rooms"] == sorted(rooms)


# ---- what changes meanwhile


def test_the_guards_are_fields_of_their_segments() -> None:
    layout = Layout(SMALL)
    for segment, names in GUARDS.items():
        assert set(names) <= layout[segment].offsets.keys()


@pytest.mark.parametrize(
    ("segment", "field"), [(segment, field) for segment in GUARDS for field in GUARDS[segment]]
)
def test_a_record_that_changed_is_not_shown(segment: str, field: str) -> None:
    placed = Layout(SMALL)[segment]
    before = [7] * placed.stride
    after = list(before)
    after[placed.offsets[field]] += 1
    assert decode(placed, before, after) is None
    assert decode(placed, before, before) is not None


def test_an_outcome_that_changed_is_not_shown() -> None:
    placed = Layout(SMALL)["clients"]
    before = [0] * placed.stride
    first = placed.offsets["outcomes"]
    before[first : first + 2 * OUTCOME_WORDS] = range(1, 2 * OUTCOME_WORDS + 1)
    after = list(before)
    after[first + OUTCOME_WORDS + 2] = 99  # of the second, which is being written
    found = decode(placed, before, after)
    assert found is not None
    assert found["outcomes"] == [
        dict(zip(OUTCOME_FIELDS, range(1, OUTCOME_WORDS + 1), strict=True)),
        Mark.CHANGING,
    ]


def test_an_intent_that_changed_is_not_shown() -> None:
    placed = Layout(SMALL)["workers"]
    before = [3] * placed.stride
    after = list(before)
    after[placed.offsets["intent"]] = 0
    found = decode(placed, before, after)
    assert found is not None
    assert (found["pid"], found["intent"]) == (3, Mark.CHANGING)


def test_a_counter_that_changed_is_right_in_itself() -> None:
    placed = Layout(SMALL)["counters"]
    before, after = [1] * placed.stride, [2] * placed.stride
    found = decode(placed, before, after)
    assert found is not None
    assert set(found.values()) == {1}


SLOT = 5


def publish(region: Region, number: int) -> Iterator[None]:
    """Publish into SLOT of the event ring as a worker does: word to 0, payload, word. It has made
    one store more at each step."""
    placed, words = region.layout["event_ring"], region.words
    words[placed.at(SLOT)] = 0
    yield
    for at in range(placed.at(SLOT, "room"), placed.at(SLOT, "frame_len")):
        words[at] = number
        yield
    frame, frame_words = placed.at(SLOT, "frame"), placed.lengths["frame"]
    words[placed.at(SLOT, "frame_len")] = frame_words * WORD
    yield
    for at in range(frame, frame + frame_words):
        words[at] = number
        yield
    words[placed.at(SLOT)] = number
    yield


def shown_whole(region: Region) -> int | None:
    """The number that SLOT is shown with, in all its fields; 0 while it has none; None where it is
    said to have changed."""
    entry = read(region, "event_ring", SLOT)
    if entry.values is None:
        return None
    number = entry.values["word"]
    assert isinstance(number, int)
    if number:
        assert {entry.values[name] for name in ("room", "seq", "user", "previous")} == {number}
        frame_words = region.layout["event_ring"].lengths["frame"]
        assert entry.values["frame"] == number.to_bytes(WORD, "little") * frame_words
    return number


class Copied:
    """A view that is copied word by word, as memoryview does it; told of each load beforehand."""

    def __init__(self, view: memoryview, about_to_load: Callable[[], None]) -> None:
        self._view = view
        self._about_to_load = about_to_load

    def __getitem__(self, place: slice) -> "Copied":
        return Copied(self._view[place], self._about_to_load)

    def tolist(self) -> list[int]:
        words = []
        for at in range(len(self._view)):
            self._about_to_load()
            words.append(self._view[at])
        return words


def _go_on(stores: Iterator[None], turns: Iterator[int]) -> None:
    deque(islice(stores, next(turns)), 0)


def test_a_slot_is_not_shown_torn_wherever_its_writer_is() -> None:
    """It is in the middle of an event when the read begins, at each store, and goes on before each
    load: by one store, to around the end of this event, and to around that of the next one."""
    with small_region() as region:
        steps, loads = sum(1 for _ in publish(region, 1)), 2 * region.layout["event_ring"].stride
        seen = copy(region)
        found: Counter[int | None] = Counter()
        for begun, at in product(range(steps), range(loads)):
            left = steps - begun
            for more in {1, left - 1, left, left + 1, left + steps - 1, left + steps}:
                deque(publish(region, 1), 0)
                stores = chain(publish(region, 2), publish(region, 3))
                deque(islice(stores, begun), 0)
                # What happens before each load, and after the last.
                turns = chain(repeat(0, at), [more], repeat(0, loads - at))
                go_on = partial(_go_on, stores, turns)
                seen.words = cast(memoryview, Copied(region.words, go_on))
                found[shown_whole(seen)] += 1
                assert list(turns) == [0], "as many loads as were expected"
        assert found.keys() == {None, 0, 1, 2, 3}


def test_a_slot_that_is_written_all_the_time_is_never_shown_torn() -> None:
    """By another process, which publishes into it over and over and pauses for as long."""
    with small_region() as region, children() as started:

        def write() -> None:
            for number in count(1):
                began = time.monotonic_ns()
                deque(publish(region, number), 0)
                end = 2 * time.monotonic_ns() - began
                while time.monotonic_ns() < end + 100_000:
                    pass

        started.start(write)
        seen = Region.attach(region.name)
        whole, changed = set[int](), 0

        def enough() -> bool:
            nonlocal changed
            for _ in range(100):
                number = shown_whole(seen)
                if number is None:
                    changed += 1
                elif number:
                    whole.add(number)
            return changed > 10 and len(whole) > 10

        try:
            wait_until(enough, "seen whole and seen changing", 60)
        finally:
            seen.close()


def test_no_such_record_or_segment() -> None:
    with small_region() as region:
        with pytest.raises(IndexError):
            read(region, "users", SMALL.accounts + 1)
        with pytest.raises(KeyError):
            read(region, "nothing", 0)
        with pytest.raises(KeyError):
            used_indices(region, "nothing")
