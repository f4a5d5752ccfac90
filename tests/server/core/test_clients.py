"""The records of clients: what a LOGIN asks of them, and when one is given away."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.messages import TxnKind
from server.core.clients import IDLE_LEAST_S, QUOTA, given_away
from server.core.errors import ClientTaken, GivenAway, TableFull
from server.core.ledger import DONE, RECORDED, TOO_OLD
from server.core.session import Session
from server.core.state import State
from server.region.region import Region
from tests.helpers.region import (
    RETENTION_S,
    STARTED_US,
    check_quiet,
    image,
    login,
    register,
    set_word,
    small_region,
    state_of,
    word,
)

US = 1_000_000
RETENTION_US, LEAST_US = RETENTION_S * US, int(IDLE_LEAST_S) * US
NAMES = ("ann", "bob", "cyd")


class World:
    """One worker's view of a region whose lived time is set by hand."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.clock_us = 7 * US
        self.state: State = state_of(region, clock_us=lambda: self.clock_us)
        register(self.state, *NAMES)

    def log_in(self, user: int, client_id: int, next_req_id: int = 0) -> Session:
        return login(self.state, user, client_id, next_req_id=next_req_id)

    def visit(self, user: int, client_id: int) -> int:
        """In and out; the client's slot + 1."""
        session = self.log_in(user, client_id)
        self.end(session)
        return session.client_slot

    def end(self, session: Session) -> None:
        self.state.sessions.end(session, STARTED_US)

    def deposit(self, session: Session, req_id: int, *, flagged: bool = False) -> int:
        answer = self.state.ledger.execute(
            session, TxnKind.DEPOSIT, 0, 5, req_id, flagged, STARTED_US
        )
        return answer[0]

    def refused(self, user: int, client_id: int) -> int:
        """There is no place, and nothing has changed; the milliseconds it told."""
        before = image(self.region)
        with pytest.raises(TableFull) as caught:
            self.log_in(user, client_id)
        assert caught.value.setting == "clients"
        assert image(self.region) == before
        check_quiet(self.region)
        return caught.value.retry_after_ms


@contextmanager
def world(**capacities: int) -> Iterator[World]:
    with small_region(**capacities) as region:
        yield World(region)


# ---- a retry after the record was given away


def test_what_was_sent_before_a_record_was_given_away_is_not_executed_again() -> None:
    """Others take both places; the client comes back, twice, and repeats."""
    with world(clients=2) as at:
        ann = at.log_in(1, 77)
        assert at.deposit(ann, 10) == DONE
        at.end(ann)
        at.clock_us += RETENTION_US
        at.visit(2, 78)
        at.visit(3, 79)
        at.clock_us += RETENTION_US
        back = at.log_in(1, 77, next_req_id=11)
        assert not back.resumed
        assert at.deposit(back, 10, flagged=True) == TOO_OLD
        at.end(back)
        again = at.log_in(1, 77, next_req_id=11)
        assert again.resumed
        assert at.deposit(again, 10, flagged=True) == TOO_OLD
        assert at.deposit(again, 10) == TOO_OLD
        assert at.deposit(again, 11, flagged=True) == DONE
        assert at.deposit(again, 11, flagged=True) == RECORDED
        assert word(at.region, "accounts", 1, "balance") == 10


@pytest.mark.parametrize("next_req_id", [1, 2, 63, 64, 65, 2**63, 2**64 - 1])
def test_the_floor_is_the_next_req_id_of_the_login_that_made_the_record(next_req_id: int) -> None:
    with world() as at:
        session = at.log_in(1, 7, next_req_id)
        assert not session.resumed
        assert word(at.region, "clients", session.client_slot - 1, "floor") == next_req_id
        for below in {1, next_req_id // 2, next_req_id - 1} - {0, next_req_id}:
            assert at.deposit(session, below) == TOO_OLD
            assert at.deposit(session, below, flagged=True) == TOO_OLD
        assert at.deposit(session, next_req_id, flagged=True) == DONE
        assert at.deposit(session, next_req_id, flagged=True) == RECORDED
        newer = min(next_req_id + 3, 2**64 - 1)
        if newer > next_req_id:
            assert at.log_in(1, 7, newer).floor == next_req_id


def test_a_login_that_knows_less_than_the_record_changes_nothing() -> None:
    with world() as at:
        session = at.log_in(1, 7, 5)
        assert at.deposit(session, 9) == DONE
        before = image(at.region)
        for next_req_id in (1, 4, 5, 8, 9):
            with pytest.raises(ClientTaken):
                at.log_in(1, 7, next_req_id)
            with pytest.raises(ClientTaken):
                at.state.sessions.introduce(1, 7, next_req_id, STARTED_US)
            assert image(at.region) == before
        check_quiet(at.region)
        assert at.state.sessions.is_live(session), "it is not superseded"
        assert at.deposit(session, 6) == DONE
        assert at.log_in(1, 7, 10).resumed
        assert not at.state.sessions.is_live(session)


def test_the_record_is_looked_at_again_when_the_session_begins() -> None:
    """Between the halves of a LOGIN another with the same client_id has paid, and the record may
    have been given away."""
    with world(clients=1) as at:
        first = at.log_in(1, 7, 1)
        assert not at.state.sessions.introduce(1, 7, 3, STARTED_US)
        assert at.deposit(first, 3) == DONE
        with pytest.raises(ClientTaken):
            at.log_in(1, 7, 3)
        assert at.state.sessions.is_live(first)
        at.end(first)
        at.clock_us += RETENTION_US
        assert at.state.sessions.introduce(2, 8, 5, STARTED_US)
        at.clock_us += RETENTION_US
        at.visit(3, 9)
        at.clock_us += RETENTION_US
        with pytest.raises(GivenAway):
            at.state.sessions.login(2, "bob", 8, 5, 0, STARTED_US, introduced=True)
        assert at.state.sessions.introduce(2, 8, 5, STARTED_US)
        late = at.state.sessions.login(2, "bob", 8, 5, 0, STARTED_US, introduced=True)[0]
        at.end(late)
        at.clock_us += RETENTION_US
        at.visit(3, 9)
        at.clock_us += RETENTION_US
        late = at.log_in(2, 8, 5)
        assert (late.resumed, late.floor) == (False, 5)
        assert word(at.region, "clients", 0, "user") == 2


def test_a_login_without_a_place_for_its_session_makes_no_record() -> None:
    with world(sessions=1) as at:
        at.log_in(1, 7)
        head = at.state.log.head()
        for half in (at.state.sessions.introduce, lambda *a: at.log_in(*a[:3])):
            with pytest.raises(TableFull) as caught:
                half(2, 7, 1, STARTED_US)
            assert (caught.value.setting, caught.value.retry_after_ms) == ("sessions", 1000)
        assert at.state.log.head() == head


# ---- whose record is given away

# user, has a session, idle since, kept until; the columns of a table that is full
Row = tuple[int, int, int, int]
OWN, MANY, OTHER = (1, 0, 0, 0), (2, 0, 0, 0), (3, 0, 0, 0)
FIVE = [MANY] * (QUOTA + 1)


def chosen(rows: list[Row], lived: int, retention_us: int = RETENTION_US) -> tuple[int | None, int]:
    """For user 1. The times of the rows are in seconds."""
    users, sessions, idle_since, kept_until = (list(column) for column in zip(*rows, strict=True))
    idle_since, kept_until = ([t * US for t in times] for times in (idle_since, kept_until))
    return given_away(1, users, sessions, idle_since, kept_until, lived, retention_us)


def since(row: Row, seconds: int) -> Row:
    return row[0], row[1], seconds, row[3]


@pytest.mark.parametrize(
    ("name", "rows", "lived", "slot"),
    [
        ("the user's own", [OTHER, OWN, OTHER], 100, 1),
        ("the user's own before one idle for longer", [OTHER, since(OWN, 40)], 100, 1),
        ("the user's own that is idle the longest", [since(OWN, 9), since(OWN, 8), OTHER], 100, 1),
        ("the user's own before one of many", [*FIVE, since(OWN, 40)], 100, QUOTA + 1),
        ("after 60 s", [OWN], 60, 0),
        ("not before 60 s", [OWN], 59, None),
        ("one of many, after 60 s", FIVE, 60, 0),
        ("one of many, not before 60 s", FIVE, 59, None),
        ("one of many that is idle the longest", [*FIVE, since(MANY, -1)], 60, QUOTA + 1),
        ("four are not many", [MANY] * QUOTA, 99, None),
        ("the one with most", [*FIVE, *[since(OTHER, 30)] * (QUOTA + 2)], 90, QUOTA + 1),
        ("the next one where none of the most is idle",
            [*FIVE, *[(3, 1, 0, 0)] * (QUOTA + 2)], 90, 0),
        ("live ones count as records", [*[(2, 1, 0, 0)] * QUOTA, MANY, OTHER], 60, QUOTA),
        ("one of many before one idle for longer", [OTHER, *[since(MANY, 40)] * 5], 100, 1),
        ("one idle for the retention time", [since(OTHER, 1), OTHER], 100, 1),
        ("not before the retention time", [OTHER, since(MANY, 1)], 99, None),
        ("the longest idle", [since(OTHER, 5), since(MANY, 4)], 200, 1),
        ("never one with a session", [(1, 1, 0, 0), (2, 2, 0, 0)], 10**6, None),
        ("one that is kept is not given away", [(1, 0, 0, 101)], 100, None),
        ("until then", [(1, 0, 0, 100)], 100, 0),
        ("one that is kept is passed over", [(1, 0, 0, 101), OTHER], 100, 1),
    ],
)  # fmt: skip
def test_table(name: str, rows: list[Row], lived: int, slot: int | None) -> None:
    """Times in seconds, the retention time being 100."""
    assert RETENTION_S == 100
    assert chosen(rows, lived * US)[0] == slot, name


@pytest.mark.parametrize(
    ("rows", "ready"),
    [
        ([(1, 1, 0, 0)], 0),  # nobody knows when its session ends
        ([OWN], 60),
        ([OTHER], 100),
        ([OTHER, since(OWN, 20)], 80),
        (FIVE, 60),
        ([(1, 0, 0, 70)], 70),
        ([(1, 0, 30, 70)], 90),
        ([(3, 0, 30, 70)], 130),
        ([(3, 0, 0, 700), (1, 1, 0, 0)], 700),
    ],
)
def test_when_there_is_a_place(rows: list[Row], ready: int) -> None:
    assert chosen(rows, 50 * US) == (None, ready * US)
    if ready:
        assert chosen(rows, ready * US - 1)[0] is None
        assert chosen(rows, ready * US)[0] is not None


def test_a_short_retention_time_is_the_least_as_well() -> None:
    assert chosen([MANY, OTHER], US - 1, US) == (None, US)
    assert chosen([MANY, OTHER], US, US) == (0, US)


def test_nobody_loses_a_record_to_a_clock_that_is_set() -> None:
    """All that a LOGIN is told by the wall clock is days ahead."""
    with world(clients=1) as at:
        at.visit(1, 7)
        for days in (1, 2, 300):
            with pytest.raises(TableFull):
                login(at.state, 2, 7, STARTED_US + days * 86_400 * US)
        at.clock_us += RETENTION_US
        assert login(at.state, 2, 7, 0), "nor does it keep one"


def test_the_time_that_is_told_is_true() -> None:
    with world(clients=2) as at:
        live = at.log_in(1, 7)
        at.visit(2, 7)
        told = at.refused(3, 7)
        assert told == RETENTION_US // 1000
        at.clock_us += 30 * US + 1
        told = at.refused(3, 7)
        assert told == (RETENTION_US - 30 * US) // 1000, "rounded up"
        at.clock_us += told * 1000 - 1001
        assert at.refused(3, 7) == 1
        at.clock_us += 1000
        also = at.log_in(3, 7)
        assert at.refused(2, 7) == 1000, "every record has a live session"
        at.end(live)
        assert at.refused(2, 7) == RETENTION_US // 1000
        assert at.refused(1, 8) == LEAST_US // 1000, "of the user's own"
        assert at.state.sessions.is_live(also)


def test_one_user_takes_all_places() -> None:
    """And new programs, the user's own and others', can log in a minute later."""
    with world(clients=16, sessions=20) as at:
        bob = at.log_in(2, 5)
        for client_id in range(1, 16):
            at.clock_us += US
            at.visit(1, client_id)
        assert at.refused(1, 100) == 46_000, "ann's oldest was there 14 s ago"
        assert at.refused(3, 1) == 46_000
        at.clock_us += 46 * US
        slot = at.visit(3, 1)
        assert slot == 2, "ann's oldest"
        assert at.refused(1, 100) == 1000
        at.clock_us += US
        at.log_in(1, 100)
        assert at.state.sessions.is_live(bob)
        check_quiet(at.region)


def test_the_idle_time_counts_from_the_end_of_the_latest_session() -> None:
    with world(clients=1) as at:
        at.visit(1, 7)
        at.clock_us += 50 * US
        session = at.log_in(1, 7)
        at.clock_us += 10 * RETENTION_US
        assert at.refused(2, 7) == 1000
        at.end(session)
        at.clock_us += RETENTION_US - 1
        assert at.refused(2, 7) == 1
        at.clock_us += 1
        assert not at.log_in(2, 7).resumed


def test_a_client_whose_session_was_superseded_counts_from_the_end_of_the_later_one() -> None:
    with world(clients=1) as at:
        old = at.log_in(1, 7)
        new = at.log_in(1, 7)
        at.end(old)
        at.clock_us += 10 * RETENTION_US
        assert at.refused(2, 7) == 1000
        at.end(new)
        assert at.refused(2, 7) == RETENTION_US // 1000


def test_one_that_is_kept_after_a_start_is_given_to_nobody() -> None:
    with world(clients=1) as at:
        at.visit(1, 7)
        kept = at.clock_us + 10 * RETENTION_US
        set_word(at.region, "clients", 0, "kept_until", kept)
        at.clock_us = kept - US
        assert at.refused(2, 7) == 1000
        assert at.refused(1, 8) == 1000, "nor to its own user"
        assert at.log_in(1, 7).resumed
        at.clock_us = kept
        assert at.refused(1, 8) == 1000, "it has a session"


def test_the_kept_time_is_not_the_next_clients() -> None:
    with world(clients=1) as at:
        at.visit(1, 7)
        set_word(at.region, "clients", 0, "kept_until", at.clock_us + LEAST_US)
        at.clock_us += LEAST_US
        at.visit(1, 8)
        assert word(at.region, "clients", 0, "kept_until") == 0


def test_lived_time_goes_on_from_where_it_was() -> None:
    """It is ahead of CLOCK_MONOTONIC by what the loader says."""
    with world(clients=1) as at:
        set_word(at.region, "header", 0, "lived", 500 * US)
        at.visit(1, 7)
        assert word(at.region, "clients", 0, "idle_since") == 507 * US
        assert at.refused(2, 7) == RETENTION_US // 1000


def test_a_client_in_a_slot_used_again_has_no_outcomes_of_the_one_before() -> None:
    with world(clients=1) as at:
        old = at.log_in(1, 7)
        for req_id in range(100, 200):
            assert at.deposit(old, req_id) == DONE
        at.end(old)
        at.clock_us += RETENTION_US
        new = at.log_in(2, 7)
        assert not new.resumed
        assert at.deposit(new, 1) == DONE
        assert at.deposit(new, 199) == DONE
        assert at.deposit(new, 150) == DONE
        assert at.deposit(new, 199) == RECORDED
        at.end(new)
        at.clock_us += RETENTION_US
        back = at.log_in(1, 7, 200)
        assert not back.resumed, "it was forgotten, and is told so"
        assert at.deposit(back, 199, flagged=True) == TOO_OLD
        assert at.deposit(back, 200) == DONE


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 6)), max_size=40),
    st.sampled_from([1, 2, 4]),
)
def test_every_client_is_found_after_slots_were_used_again(
    logins: list[tuple[int, int]], capacity: int
) -> None:
    """Few slots and few buckets: clients share chains, and leave them from everywhere."""
    with world(clients=capacity) as at:
        known: list[tuple[int, int]] = []  # idle the longest first
        for user, client_id in logins:
            at.clock_us += RETENTION_US + 1
            session = at.log_in(user, client_id)
            assert session.resumed == ((user, client_id) in known)
            at.end(session)
            if session.resumed:
                known.remove((user, client_id))
            elif len(known) == capacity:  # the user's own first
                known.remove(next((c for c in known if c[0] == user), known[0]))
            known.append((user, client_id))
            chained = []
            for bucket in range(capacity):
                following = word(at.region, "client_buckets", bucket, "first")
                while following:
                    chained.append(following)
                    assert len(chained) <= capacity, "a chain that leads back into itself"
                    following = word(at.region, "clients", following - 1, "next")
            assert sorted(chained) == list(range(1, len(known) + 1))
