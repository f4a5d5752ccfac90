"""Wherever a worker dies in a change of a room or a board: what the journal's readers make of the
records and events is what the repaired region shows.
"""

from dataclasses import replace

import pytest

from server.journal.books import Books
from server.journal.format import event_size
from server.region.layout import WORD
from server.region.records import RECORD_SIZE
from server.region.region import Region
from tests.helpers.crash import Change, deaths, world_of
from tests.helpers.crash_rooms import ROOM_CHANGES
from tests.server.journal.history import UNWRITTEN, truth, truth_of

ROOMY = {"txn_ring": 64, "event_ring": 128}  # they do not go round: all of both is there


def books_of(region: Region) -> Books:
    """All records and events, as they would be in one batch."""
    log, ring = region.layout["txn_ring"], region.layout["event_ring"]
    head, last = region.log.head, region.events.head
    assert head < log.records
    assert last < ring.records
    at = log.at(1) * WORD
    books = Books()
    books.apply(bytes(region.bytes[at : at + head * RECORD_SIZE]))
    events = []
    for number in range(1, last + 1):
        at = ring.at(number)
        if region.words[at + 1] != UNWRITTEN:
            end = at * WORD + event_size(region.words[at + 7])
            events.append(bytes(region.bytes[at * WORD : end]))
    books.apply_events(b"".join(events), last + 1)
    return books


@pytest.mark.parametrize("change", ROOM_CHANGES, ids=str)
def test_what_is_folded_is_what_is_there(change: Change) -> None:
    rooms = {"rooms": change.capacities["rooms"]} if "rooms" in change.capacities else {}
    with world_of(replace(change, capacities=ROOMY | rooms)) as world:
        region, shown = world.region, []
        for n in deaths(world, change):
            world.repair()
            there = truth(region)
            assert truth_of(books_of(region)) == there, f"died in step {n}"
            if there not in shown:
                shown.append(there)
        assert len(shown) == change.forms
