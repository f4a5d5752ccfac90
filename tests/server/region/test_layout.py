"""The layout: summed from its table without a hole or an overlap, and told by its digest."""

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libproto.codec import PUSH
from libproto.messages import MAX_BALANCE, Opcode
from server.region import layout, records
from server.region.counters import COUNTERS
from server.region.layout import (
    DEFAULT_CAPACITIES,
    LINE_WORDS,
    OUTCOME_WORDS,
    SEGMENTS,
    WORD,
    Capacities,
    Kind,
    Layout,
    Segment,
    bits_words,
    frame_words,
    index_size,
)
from tests.helpers.region import SMALL

CAPACITIES = tuple(asdict(DEFAULT_CAPACITIES))
RINGS = ("txn_ring", "event_ring")
U64_MAX = 2**64 - 1

numbers = st.integers(1, 5000)
powers_of_two = st.integers(1, 12).map(lambda n: 1 << n)
capacities = st.builds(
    Capacities, **{name: powers_of_two if name in RINGS else numbers for name in CAPACITIES}
)


@given(capacities)
def test_segments_lie_one_after_another(given_capacities: Capacities) -> None:
    made = Layout(given_capacities)
    end = 0
    for name, placed in made.segments.items():
        assert placed.base % LINE_WORDS == 0, name
        assert end <= placed.base < end + LINE_WORDS, f"{name} overlaps, or leaves a hole"
        end = placed.base + placed.stride * placed.records
    assert end <= made.words < end + LINE_WORDS
    assert made.size == made.words * WORD


@given(capacities)
def test_fields_lie_one_after_another(given_capacities: Capacities) -> None:
    for name, placed in Layout(given_capacities).segments.items():
        end = 0
        for field in placed.segment.fields:
            assert placed.offsets[field.name] == end, f"{name}.{field.name}"
            assert placed.lengths[field.name] >= 1
            end += placed.lengths[field.name]
        padding = LINE_WORDS if placed.segment.aligned else 1
        assert end <= placed.stride < end + padding, name
        assert placed.stride % padding == 0, name


@given(capacities)
def test_every_lock_is_alone_on_its_cache_line(given_capacities: Capacities) -> None:
    found = 0
    for placed in Layout(given_capacities).segments.values():
        for field in placed.segment.fields:
            if field.kind is not Kind.SEMAPHORE:
                continue
            assert placed.lengths[field.name] == LINE_WORDS
            for record in {0, placed.records - 1}:
                assert placed.at(record, field.name) % LINE_WORDS == 0
            found += placed.records
    assert found == 3 + given_capacities.account_locks


def test_a_lock_that_shares_a_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = Segment("crowded", "", 1, (layout.Field("before", ""), layout.LOCK))
    monkeypatch.setattr(layout, "SEGMENTS", (crowded,))
    with pytest.raises(AssertionError, match=r"crowded\.lock shares a cache line"):
        Layout(SMALL)


@given(capacities)
def test_derived_sizes_are_large_enough(given_capacities: Capacities) -> None:
    made, c = Layout(given_capacities), given_capacities
    assert bits_words(c) * 64 > c.rooms, "bit 0 is unused, the last room has one"
    assert (bits_words(c) - 1) * 64 <= c.rooms
    assert index_size(c) >= 2 * c.accounts, "at most half full"
    assert index_size(c) & (index_size(c) - 1) == 0
    assert made["users"].records == made["accounts"].records == c.accounts + 1
    assert made["presence"].lengths["connections"] == c.workers
    assert made["counters"].stride >= len(COUNTERS)
    assert made["txn_ring"].stride >= records.RECORD_WORDS
    assert made["clients"].lengths["outcomes"] == 64 * OUTCOME_WORDS


@given(st.integers(1, 1 << 15))
def test_the_longest_frame_fits_its_slot(max_message: int) -> None:
    room = frame_words(replace(SMALL, max_message=max_message)) * WORD
    name, message = "n" * 32, "m" * max_message
    longest = [
        PUSH[Opcode.CHAT_BROADCAST].frame(
            0, 0, 2**32 - 1, U64_MAX, U64_MAX, 255, 2**32 - 1, name, message
        ),
        PUSH[Opcode.DIRECT_MESSAGE].frame(0, 0, U64_MAX, U64_MAX, 2**32 - 1, name, message),
        PUSH[Opcode.PAYMENT].frame(
            0, 0, U64_MAX, U64_MAX, 2**32 - 1, name, MAX_BALANCE, MAX_BALANCE
        ),
    ]
    assert max(map(len, longest)) <= room


def test_the_default_region_fits_a_container() -> None:
    made = Layout(DEFAULT_CAPACITIES)
    assert made.size <= 48 << 20
    assert made.size == 39_658_240, "a change of the default size is to be a decision"


def test_a_record_out_of_range_is_refused() -> None:
    users = Layout(SMALL)["users"]
    assert users.at(SMALL.accounts) == users.base + SMALL.accounts * users.stride
    assert users.at(3, "name") == users.at(3) + users.offsets["name"]
    for record in (-1, SMALL.accounts + 1):
        with pytest.raises(IndexError, match=r"users\["):
            users.at(record)
    with pytest.raises(KeyError):
        users.at(0, "nothing")


@pytest.mark.parametrize("name", CAPACITIES)
def test_a_capacity_of_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0: at least one"):
        replace(SMALL, **{name: 0})


@pytest.mark.parametrize("name", RINGS)
@pytest.mark.parametrize("size", [1, 3, 48, 65537])
def test_a_ring_is_a_power_of_two(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {size}: a power of two"):
        replace(SMALL, **{name: size})


# ---- the digest


def test_the_digest_is_a_function_of_the_table_and_the_capacities() -> None:
    assert Layout(SMALL).digest == Layout(replace(SMALL)).digest
    assert 0 < Layout(SMALL).digest <= U64_MAX


@pytest.mark.parametrize("name", CAPACITIES)
def test_the_digest_tells_every_capacity(name: str) -> None:
    other = replace(SMALL, **{name: getattr(SMALL, name) * 2})
    assert Layout(other).digest != Layout(SMALL).digest


def _with(name: str, change: Callable[[Segment], Segment]) -> tuple[Segment, ...]:
    changed = tuple(change(s) if s.name == name else s for s in SEGMENTS)
    assert changed != SEGMENTS
    return changed


def _field(segment: Segment, name: str, /, **changes: object) -> Segment:
    fields = tuple(
        replace(field, **changes) if field.name == name else field  # type: ignore[arg-type]
        for field in segment.fields
    )
    return replace(segment, fields=fields)


CHANGES: dict[str, Callable[[], tuple[Segment, ...]]] = {
    "a segment renamed": lambda: _with("rooms", lambda s: replace(s, name="halls")),
    "segments in another order": lambda: (*SEGMENTS[:-2], SEGMENTS[-1], SEGMENTS[-2]),
    "a segment less": lambda: SEGMENTS[:-1],
    "more records": lambda: _with("rooms", lambda s: replace(s, records=99)),
    "another alignment": lambda: _with("rooms", lambda s: replace(s, aligned=True)),
    "a field renamed": lambda: _with("rooms", lambda s: _field(s, "members", name="people")),
    "fields in another order": lambda: _with("rooms", lambda s: replace(s, fields=s.fields[::-1])),
    "a field of another kind": lambda: _with(
        "rooms", lambda s: _field(s, "members", kind=Kind.TIME)
    ),
    "a longer field": lambda: _with("rooms", lambda s: _field(s, "members", words=2)),
    "a longer field in the padding": lambda: _with(
        "txn_ring", lambda s: _field(s, "record", words=records.RECORD_WORDS + 1)
    ),
    "a field more in the padding": lambda: _with(
        "log", lambda s: replace(s, fields=(*s.fields, layout.Field("more", "")))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_tells_every_change_of_the_table(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before = Layout(SMALL).digest
    monkeypatch.setattr(layout, "SEGMENTS", CHANGES[change]())
    assert Layout(SMALL).digest != before


def test_the_digest_tells_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Layout(SMALL).digest
    monkeypatch.setattr(layout, "LAYOUT_VERSION", layout.LAYOUT_VERSION + 1)
    assert Layout(SMALL).digest != before


def test_the_digest_tells_a_change_of_the_log_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who decodes the log by another table must not attach, though every segment is as long."""
    before = Layout(SMALL).digest
    kind = records.RecordKind.TRANSFER
    monkeypatch.setitem(records.BY_KIND, kind, records.BY_KIND[kind][::-1])
    assert Layout(SMALL).digest != before
