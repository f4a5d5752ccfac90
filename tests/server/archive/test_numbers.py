"""What the histories tell of events that the journal has lost: all of it, or nothing."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.archive.keeper import Limits
from server.archive.numbers import numbers_of
from server.journal.format import BatchHead
from server.journal.reader import Reader
from tests.helpers.disk import SimulatedDisk
from tests.server.archive.journals import EPOCH, LOG_ID
from tests.server.archive.test_keeper import ALL, LIMITS, ROOMS, Server, flip, server


@contextmanager
def worked(limits: Limits = LIMITS) -> Iterator[Server]:
    """Batches of several events, of rooms and of inboxes, and their histories."""
    drawn = random.Random(8)  # noqa: S311 - the same in every run
    with server(limits=limits) as made:
        for _ in range(12):
            for _ in range(drawn.randrange(1, 6)):
                made.journal.say(drawn.choice(ROOMS), drawn.randrange(1, 9), size=70)
            made.journal.commit(drawn.choice((0, 2)), drawn.choice((0, 1)))
            made.publish()
        made.catch_up()
        made.keeper.finish()
        yield made


def told(made: Server, head: BatchHead, log_id: int = LOG_ID, epoch: int = EPOCH) -> object:
    return numbers_of(made.disk, made.data.rooms, log_id, head, epoch)


def heads(made: Server) -> list[BatchHead]:
    found = [batch.head for batch in Reader(made.disk, made.data.journal, LOG_ID).batches()]
    return [head for head in found if head.events_size]


def numbers(made: Server, head: BatchHead) -> dict[int, int]:
    said = [each for each in made.journal.said if head.first_event <= each.event < head.next_event]
    return {each.room: each.seq for each in said}


def test_the_newest_numbers_of_each_room_in_a_batch() -> None:
    with worked() as made:
        for head in heads(made):
            assert told(made, head) == numbers(made, head)
        assert len(heads(made)) == 12


def test_of_another_log_or_epoch_they_tell_nothing() -> None:
    with worked() as made:
        head = heads(made)[3]
        assert told(made, head, log_id=LOG_ID + 1) is None
        assert told(made, head, epoch=EPOCH + 1) is None


def test_what_they_do_not_have_all_of_they_do_not_tell() -> None:
    """They have not come there; what was in them is not kept any more; one byte is missing."""
    with worked() as made:
        made.journal.say()
        made.journal.commit()
        *_, head = heads(made)
        assert told(made, head) is None
        head = heads(made)[4]
        assert told(made, head._replace(events_size=head.events_size + 8)) is None
        assert told(made, head._replace(next_event=head.next_event - 1)) is None
    with worked(Limits(room_keep=2, inbox_keep=2, lag_max=ALL)) as made:
        for _ in range(200):
            made.say(size=200)
            made.turn()
        made.catch_up()
        assert told(made, heads(made)[0]) is None


def test_files_that_are_damaged_or_gone_tell_nothing() -> None:
    with worked() as made:
        head = heads(made)[3]
        path = made.data.rooms / made.disk.names(made.data.rooms)[0]
        flip(made.disk, path, 10)
        assert told(made, head) is None
        flip(made.disk, path, 10)
        assert told(made, head) == numbers(made, head)
        gone = SimulatedDisk()
        assert numbers_of(gone, made.data.rooms, LOG_ID, head, EPOCH) is None


@pytest.mark.parametrize("kept", [0, 5, 11])
def test_events_of_a_log_that_was_shortened_do_not_count(kept: int) -> None:
    with worked() as made:
        found = list(Reader(made.disk, made.data.journal, LOG_ID).batches())
        ends = [batch.end for batch in found if batch.head.events_size]
        store = made.keeper.store
        assert store is not None
        store.cut(ends[kept])
        for place, head in enumerate(heads(made)):
            expected = numbers(made, head) if place <= kept else None
            assert told(made, head) == expected
