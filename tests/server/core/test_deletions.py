"""The table of texts that were deleted: from the event on that deletes one, everybody finds it
there; and its places, which are used again when neither ring nor archive needs them."""

from collections.abc import Iterator

import pytest

from server.core import check
from server.core.deletions import Deletions
from server.core.errors import EventsFull
from server.region.layout import DELETIONS
from server.region.region import Region
from tests.helpers.crash import DEN, deaths, world_of
from tests.helpers.crash_rooms import ROOM_CHANGES
from tests.helpers.region import small_region

ROOM, RING = 1, 16


def test_who_finds_the_event_finds_the_text_noted() -> None:
    """Before each store of the worker that deletes it, as another worker sees it."""
    [change] = (change for change in ROOM_CHANGES if change.name == "a text is deleted")
    with world_of(change) as world:
        events = world.other.events
        seq, before = events.last_seq(DEN) - 1, events.head()
        told = []
        for _ in deaths(world, change):
            told.append(events.head() > before)
            if told[-1]:
                assert Deletions(world.region).is_hidden(DEN, seq)
        assert told[-1]
        assert not told[0]


@pytest.fixture
def region() -> Iterator[Region]:
    with small_region(event_ring=RING) as made:
        yield made


def filled(region: Region, first: int) -> Deletions:
    """All places are taken. first: the event that the oldest is of."""
    made = Deletions(region)
    for number in range(DELETIONS):
        made.check_place()
        made.add(ROOM, number + 1, first + number)
    region.events.head = first + DELETIONS - 1
    return made


def test_a_place_is_used_again_when_archive_and_ring_have_gone_past_its_event(
    region: Region,
) -> None:
    first = 100
    deletions = filled(region, first)
    region.archive.pid, region.archive.reached = 1, first - 1
    with pytest.raises(EventsFull):
        deletions.check_place()  # the archive has not come to it
    region.archive.reached = first
    deletions.check_place()
    region.events.head = first + RING - 1
    with pytest.raises(EventsFull):
        deletions.check_place()  # the ring may still have the text
    region.events.head += 1
    deletions.check_place()
    deletions.add(ROOM, DELETIONS + 1, first + DELETIONS)
    assert not deletions.is_hidden(ROOM, 1)
    assert deletions.is_hidden(ROOM, 2)
    assert deletions.is_hidden(ROOM, DELETIONS + 1)


def test_without_an_archive_the_ring_is_all(region: Region) -> None:
    deletions = filled(region, 100)
    deletions.check_place()


def test_what_was_hidden_before_is_hidden_still(region: Region) -> None:
    """As the archive was asked the table said so: it may have used the place again since."""
    deletions = Deletions(region)
    deletions.add(ROOM, 7, 9)
    before = deletions.hidden(ROOM)
    for number in range(DELETIONS):
        deletions.add(ROOM, 100 + number, 10 + number)
    assert deletions.hidden(ROOM) == {100 + number for number in range(DELETIONS)}
    assert before == {7}


def test_the_check_tells_of_a_text_that_is_not_noted() -> None:
    [change] = (change for change in ROOM_CHANGES if change.name == "a text is deleted")
    with world_of(change) as world:
        for _ in deaths(world, change):
            pass
        region = world.region
        assert list(check.deletions(region)) == []
        at = region.layout["deletions"].at(0)
        txn, seq = region.log.head, region.words[at + 2]
        region.words[at + 2] += 1
        assert list(check.deletions(region)) == [
            f"transaction {txn} deletes text {seq} of room {DEN}, and it is not noted"
        ]
        region.words[at + 2] -= 1
        region.words[at] = 0
        assert list(check.deletions(region)) == [
            f"transaction {txn} deletes text {seq} of room {DEN}, and it is not noted",
            "1 deleted texts are counted, 0 are noted",
        ]
        region.words[at] = region.events.head + 1
        assert (
            f"text {seq} of room {DEN} is deleted by event {region.events.head + 1}, "
            "beyond the last"
        ) in check.deletions(region)
