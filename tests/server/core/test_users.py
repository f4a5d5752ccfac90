"""Users: registered once, found by name and by id, named in the log."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libproto.scram import Verifier
from libproto.texts import skeleton
from server.core.errors import NameTaken, TableFull
from server.region.records import OFFSETS, REGISTER, RecordKind
from tests.helpers.region import (
    STARTED_US,
    VERIFIER,
    Recovery,
    check_quiet,
    image,
    login,
    register,
    set_durable,
    small_region,
    state_of,
)

names = st.text(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=32
)


def test_ids_are_given_in_sequence_whoever_registers() -> None:
    with small_region() as region:
        first, second = state_of(region), state_of(region, 1)
        assert register(first, "ann") == [1]
        assert register(second, "bob") == [2]
        assert register(first, "cyd") == [3]
        assert [second.users.find(name) for name in ("ann", "bob", "cyd", "dan")] == [1, 2, 3, 0]
        assert [first.users.name(user) for user in (1, 2, 3)] == ["ann", "bob", "cyd"]
        check_quiet(region)


def test_only_registered_users_exist() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "ann", "bob")
        asked = (0, 1, 2, 3, 8, 9, 10, 2**32 - 1)
        assert [user for user in asked if state.users.exists(user)] == [1, 2]


def test_the_verifier_is_kept() -> None:
    with small_region() as region:
        state = state_of(region)
        verifier = Verifier(bytes(range(16)), 12345, bytes(range(32)), bytes(range(100, 132)))
        state.users.register("ann", VERIFIER, 1)
        state.users.register("bob", verifier, 1)
        assert state_of(region, 1).users.verifier(2)[0] == verifier
        assert state_of(region, 1).users.verifier(1)[0] == VERIFIER


@pytest.mark.parametrize("name", ["a", "x" * 31, "x" * 32, "._-", "A.b-C_9"])
def test_names_of_every_length(name: str) -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "first", name)
        assert state.users.name(2) == name
        assert state.users.find(name) == 2
        near = {name[:-1], name + "x", name.swapcase()} - {name, ""}
        assert [state.users.find(other) for other in near] == [0] * len(near)


def test_names_that_begin_alike_are_different() -> None:
    with small_region() as region:
        state = state_of(region)
        alike = ["a", "aa", "a" * 31, "a" * 32, "b", "a."]
        assert register(state, *alike) == [1, 2, 3, 4, 5, 6]
        assert [state.users.find(name) for name in alike] == [1, 2, 3, 4, 5, 6]


def test_a_name_is_taken_once() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "ann")
        before = image(region)
        other = Verifier(b"o" * 16, 9999, b"o" * 32, b"o" * 32)
        with pytest.raises(NameTaken):
            state_of(region, 1).users.register("ann", other, 7)
        assert image(region) == before
        assert state.users.verifier(1)[0] == VERIFIER


ALIKE = ["ann", "Ann", "corn.1", "COM.l", "coRn.i"]


def test_a_name_that_looks_like_anothers_is_taken() -> None:
    with small_region() as region:
        state, other = state_of(region), state_of(region, 1)
        register(state, "ann", "corn.1")
        before = image(region)
        for name in ("Ann", "ANN", "com.1", "corn.l", "CORN.I", "com.i"):
            with pytest.raises(NameTaken, match="looks like"):
                other.users.register(name, VERIFIER, 7)
            assert other.users.find(name) == 0, "and it is not the other one"
        with pytest.raises(NameTaken, match="the username is taken"):
            register(other, "ann")
        assert image(region) == before


def test_an_index_made_anew_knows_what_names_look_like() -> None:
    """As a repair makes it, and as it is filled from the records of a directory that was written
    before names were compared so: all are found, and no further one is taken."""
    with small_region() as region:
        state = state_of(region)
        for user, name in enumerate(ALIKE, 1):
            salt, stored, server = VERIFIER.salt, VERIFIER.stored_key, VERIFIER.server_key
            record = (RecordKind.REGISTER, 5, 0, user, 4096, name.encode(), salt, stored, server)
            for _ in range(2):  # a redo does not enter it twice
                state.users.apply(REGISTER.pack(*record))
        index = region.column("name_index", "user")
        assert sorted(user for user in index if user) == [1, 2, 3, 4, 5]
        for _ in range(2):
            for user, name in enumerate(ALIKE, 1):
                assert state.users.find(name) == user
            for name in ("aNN", "com.1"):
                assert state.users.find(name) == 0
                with pytest.raises(NameTaken):
                    state.users.register(name, VERIFIER, 7)
            region.set_column("name_index", "user", [0] * len(index))
            state.users.rebuild()


def test_a_full_table_names_its_setting() -> None:
    with small_region(accounts=2) as region:
        state = state_of(region)
        register(state, "ann", "bob")
        before = image(region)
        with pytest.raises(TableFull, match="accounts") as caught:
            register(state, "cyd")
        assert caught.value.setting == "accounts"
        with pytest.raises(NameTaken):
            register(state, "ann")
        assert image(region) == before
        check_quiet(region)


def test_a_full_log_names_its_setting() -> None:
    with small_region(txn_ring=2) as region:
        state = state_of(region)
        set_durable(region, 0)
        register(state, "ann", "bob")
        before = image(region)
        with pytest.raises(TableFull) as caught:
            register(state, "cyd")
        assert caught.value.setting == "txn_ring"
        assert image(region) == before
        check_quiet(region)
        set_durable(region, 2)
        assert register(state, "cyd") == [3]


@settings(max_examples=50)
@given(st.lists(names, min_size=1, max_size=16, unique_by=skeleton), st.lists(names, max_size=5))
def test_every_name_is_found_and_no_other(registered: list[str], others: list[str]) -> None:
    with small_region(accounts=16) as region:
        state = state_of(region)
        register(state, *registered)
        for user, name in enumerate(registered, 1):
            assert state.users.find(name) == user
            assert state.users.name(user) == name
        for name in set(others) - set(registered):
            assert state.users.find(name) == 0


def test_a_registration_is_a_record_of_the_log() -> None:
    with small_region() as region:
        state = state_of(region)
        verifier = Verifier(bytes(range(16)), 5000, bytes(range(32)), bytes(range(100, 132)))
        state.users.register("ann", VERIFIER, 1)
        state.users.register("bob", verifier, 1234)
        record = state.log.read(2)
        assert state.log.head() == 2
        assert record is not None
        blob = b"".join(value.to_bytes(8, "little") for value in record)
        at = OFFSETS[RecordKind.REGISTER]
        assert [record[at[name]] for name in ("txn_id", "kind", "time", "supply")] == [
            2, RecordKind.REGISTER, 1234, 0,
        ]  # fmt: skip
        assert (record[at["user_id"]], record[at["iterations"]]) == (2, 5000)
        for field, value in (
            ("name", b"bob".ljust(32, b"\0")),
            ("salt", verifier.salt),
            ("stored_key", verifier.stored_key),
            ("server_key", verifier.server_key),
        ):
            assert blob[at[field] * 8 : at[field] * 8 + len(value)] == value, field


def test_a_registration_keeps_the_money_supply() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "ann")
        session = login(state, 1)
        state.ledger.execute(session, RecordKind.DEPOSIT, 0, 55, 1, False, 1)
        register(state, "bob")
        record = state.log.read(state.log.head())
        assert record is not None
        assert record[OFFSETS[RecordKind.REGISTER]["supply"]] == 55


def test_a_superseded_session_is_no_presence() -> None:
    with small_region() as region:
        state = state_of(region)
        register(state, "ann")
        old, new = login(state, 1, 7), login(state, 1, 7)
        state.sessions.end(new, 30)
        assert state.users.presence(1, 99) == (False, 30)
        state.sessions.end(old, 40)
        assert state.users.presence(1, 99) == (False, 30), "it had ended before"


def test_presence() -> None:
    with small_region() as region:
        state = state_of(region)
        state.users.register("ann", VERIFIER, 10)
        assert state.users.presence(1, 99) == (False, 10), "since its registration"
        first, second = login(state, 1, now=20), login(state_of(region, 1), 1, now=21)
        assert state.users.presence(1, 99) == (True, 99)
        state.sessions.end(second, 30)
        assert state.users.presence(1, 99) == (True, 99)
        state.sessions.end(first, 40)
        assert state.users.presence(1, 99) == (False, 40)


def test_the_salt_secret_is_the_regions_own() -> None:
    with small_region() as one, small_region() as another:
        secret = state_of(one).users.salt_secret()
        assert len(secret) == 32
        assert state_of(one, 1).users.salt_secret() == secret
        assert state_of(another).users.salt_secret() != secret


@pytest.mark.parametrize("name", ["ann", "bob"])
def test_a_registration_that_a_recovery_interrupts_begins_anew(name: str) -> None:
    """It waits for the log; while it stands still another takes the name, or the next id."""
    with small_region() as region:
        other = state_of(region, 1)

        def meanwhile() -> None:
            other.locks.release(other.locks.log)
            register(other, name)

        recovery = Recovery(region, 0, meanwhile)
        other.locks.hold(other.locks.log)
        if name == "ann":
            with pytest.raises(NameTaken):
                recovery.state.users.register("ann", VERIFIER, STARTED_US)
        else:
            assert recovery.state.users.register("ann", VERIFIER, STARTED_US) == 2
        assert recovery.came
        assert [other.users.find(n) for n in ("ann", "bob")] == (
            [1, 0] if name == "ann" else [2, 1]
        )
        check_quiet(region)
