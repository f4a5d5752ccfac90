"""Events of segments that go before the archive has them: nothing of them is missed, wherever the
archive stood, and whenever everything ended."""

import errno
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from server.archive.follower import Follower, oldest_start, resume
from server.archive.keeper import events_of
from server.journal import spill
from server.journal.disk import Piece, read_file
from server.journal.errors import Damaged
from server.journal.format import SEGMENT, TEMPORARY, BatchKind, segment_head
from server.journal.reader import Position, Reader, heads, number_of, segments
from server.journal.upkeep import Needed, remove_segments
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, at_random
from tests.server.archive.journals import DIRECTORY, LOG_ID, Journal, Said, new_disk

ALL = 1 << 40


def written(disk: SimulatedDisk, turns: int = 3) -> Journal:
    """Several segments: of events and transactions, of transactions alone, of payments that have a
    number and are not written; and as many starts."""
    journal = Journal(disk, segment=1500)
    for turn in range(turns):
        for number in range(6):
            journal.say(room=1 + number % 2, size=60 * (1 + number % 3))
            journal.commit(txns=number % 3)
        for number in range(12):
            journal.commit(txns=2, payments=number % 2 if turn == 1 else 0)
        if turn < turns - 1:
            journal.again()
            journal.start()
    return journal


def followed(disk: SimulatedDisk, journal: Journal, at: Position) -> list[Said]:
    """All that comes after a position, in an archive that begins there."""
    follower = Follower(disk, DIRECTORY, resume(disk, DIRECTORY, at), lambda: journal.durable)
    found = []
    while (batch := follower.next()) is not None:
        found += [Said(*event) for event in events_of(batch.events)]
    assert follower.reached == journal.durable.event
    follower.close()
    return found


def positions(disk: SimulatedDisk, journal: Journal) -> list[Position]:
    """Every place at which an archive can stand."""
    follower = Follower(
        disk, DIRECTORY, oldest_start(disk, DIRECTORY, LOG_ID), lambda: journal.durable
    )
    found = [follower.position]
    while follower.next() is not None:
        found.append(follower.position)
    follower.close()
    return found


def shorten(disk: SimulatedDisk, event: int, segment: int = ALL) -> None:
    """As the journal does that keeps nothing for its own sake from before that segment on; the
    archive has all up to an event."""
    remove_segments(disk, DIRECTORY, Needed(segment, ALL, event), 0, lambda _: None)


def copies(disk: SimulatedDisk) -> list[Path]:
    return [spill.path_of(DIRECTORY, number) for number in spill.numbers(disk, DIRECTORY)]


def test_of_a_segment_its_events_and_its_place_are_kept() -> None:
    disk = new_disk()
    written(disk)
    found = heads(disk, DIRECTORY)
    batches = list(Reader(disk, DIRECTORY, LOG_ID).batches())
    shorten(disk, 0)
    assert segments(disk, DIRECTORY) == [found[-1][0]]
    assert len(copies(disk)) == len(found) - 1 > 8
    for path, (segment, head), (_, following) in zip(copies(disk), found, found[1:], strict=False):
        copy = spill.read(disk, path)
        assert copy.head.start == Position(
            head.number, 0, head.first_txn - 1, head.first_event - 1, head.previous
        )
        assert copy.head.end == Position(
            following.number, 0, following.first_txn - 1, following.first_event - 1,
            following.previous,
        )  # fmt: skip
        assert [(each.offset, each.head, each.events, each.end) for each in copy.batches()] == [
            (batch.offset, batch.head, bytes(batch.events), batch.end)
            for batch in batches
            if batch.path == segment and (batch.events or batch.head.kind == BatchKind.BEGIN)
        ]
    sizes = sum(len(read_file(disk, path)) for path in copies(disk))
    events = sum(len(batch.events) + 208 for batch in batches if batch.events)
    assert sizes < events + 400 * len(found), "transactions take no space"


def test_wherever_the_archive_stands_it_misses_nothing() -> None:
    disk = new_disk()
    journal = written(disk)
    places = positions(disk, journal)
    assert len({at.segment for at in places}) > 8
    copied = set()
    for number, at in enumerate(places):
        rest = [said for said in journal.said if said.event > at.event]
        synced = places[max(0, number - 2)].event  # it has told of less than it has
        left = disk.after_kill()
        shorten(left, synced)
        copied.add(len(copies(left)))
        assert followed(left, journal, at) == rest
        shorten(left, at.event)
        assert followed(left, journal, at) == rest
        oldest = oldest_start(left, DIRECTORY, LOG_ID)
        assert oldest.event <= at.event, "what is begun anew begins there"
        assert followed(left, journal, oldest)[-len(rest) :] == rest or not rest
        shorten(left, ALL)
        assert copies(left) == []
    assert len(copied) > 5


def test_an_archive_that_is_in_the_middle_of_a_segment_that_goes() -> None:
    """It has it open, and goes on with what was copied of the next ones; also where what follows is
    transactions alone, of which nothing is copied."""
    disk = new_disk()
    journal = written(disk)
    places = positions(disk, journal)
    for number, at in enumerate(places[:-1]):
        left = disk.after_kill()
        start = oldest_start(left, DIRECTORY, LOG_ID)
        follower = Follower(left, DIRECTORY, start, lambda: journal.durable)
        for _ in range(number):
            assert follower.next() is not None
        assert follower.position == at
        shorten(left, at.event)
        found = []
        while (batch := follower.next()) is not None:
            found += [Said(*event) for event in events_of(batch.events)]
        assert found == [said for said in journal.said if said.event > at.event]
        follower.close()
        assert left.open_files <= 3


def test_only_what_the_archive_lacks_is_copied_and_it_goes_when_it_has_it() -> None:
    disk = new_disk()
    journal = written(disk)
    firsts = {head.number: head.first_event for _, head in heads(disk, DIRECTORY)}
    last = max(firsts)
    for event in range(0, journal.durable.event + 1, 3):
        left = disk.after_kill()
        shorten(left, event)
        lacking = [n for n in firsts if n < last and firsts[n + 1] > event + 1]
        assert spill.numbers(left, DIRECTORY) == lacking
        shorten(left, event + 5)
        assert spill.numbers(left, DIRECTORY) == [n for n in lacking if firsts[n + 1] > event + 6]


def test_what_is_needed_otherwise_is_not_touched() -> None:
    disk = new_disk()
    written(disk)
    paths = segments(disk, DIRECTORY)
    shorten(disk, 0, segment=4)
    assert segments(disk, DIRECTORY) == paths[3:]
    assert spill.numbers(disk, DIRECTORY) == [1, 2, 3]
    shorten(disk, 0, segment=4)
    assert spill.numbers(disk, DIRECTORY) == [1, 2, 3]


@pytest.mark.parametrize("synced", [0, 4])
def test_a_power_cut_at_any_call_loses_nothing(synced: int) -> None:
    whole = new_disk()
    journal = written(whole, turns=1)
    at = next(place for place in positions(whole, journal) if place.event == synced)
    rest = [said for said in journal.said if said.event > synced]
    for call in itertools.count(1):
        disk = whole.after_kill()
        disk.cut_at = disk.calls + call
        try:
            shorten(disk, synced)
        except PowerCut:
            for survives in (*ADVERSARIES.values(), at_random(call)):
                left = disk.after_power_cut(survives)
                assert followed(left, journal, at) == rest
                shorten(left, synced)
                assert followed(left, journal, at) == rest
                assert not [name for name in left.names(DIRECTORY) if name.endswith(TEMPORARY)]
        else:
            assert call > 40
            return


class FullDisk(SimulatedDisk):
    """One that takes no more from some write on."""

    writes_left = ALL

    def write(self, fd: int, pieces: Sequence[Piece], offset: int) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(fd, pieces, offset)


@pytest.mark.parametrize("copied", range(4))
def test_on_a_full_disk_the_segment_stays(copied: int) -> None:
    disk = FullDisk()
    disk.make_directory(DIRECTORY)
    disk.sync_directory(DIRECTORY.parent)
    journal = written(disk)
    paths, start = segments(disk, DIRECTORY), oldest_start(disk, DIRECTORY, LOG_ID)
    disk.writes_left = copied
    shorten(disk, 0)
    assert segments(disk, DIRECTORY) == paths[copied:]
    assert spill.numbers(disk, DIRECTORY) == [*range(1, copied + 1)]
    assert not [name for name in disk.names(DIRECTORY) if name.endswith(TEMPORARY)]
    assert followed(disk, journal, start) == journal.said
    disk.writes_left = ALL
    shorten(disk, 0)
    assert segments(disk, DIRECTORY) == paths[-1:]
    assert followed(disk, journal, start) == journal.said


def test_of_a_damaged_segment_nothing_is_copied_and_it_stays() -> None:
    disk = new_disk()
    written(disk)
    third = segments(disk, DIRECTORY)[2]
    fd = disk.open(third, writable=True)
    disk.write(fd, [b"\xff"], SEGMENT.size + 250)
    shorten(disk, 0)
    assert segments(disk, DIRECTORY)[0] == third
    assert spill.numbers(disk, DIRECTORY) == [1, 2]


def test_every_byte_of_a_copy_counts() -> None:
    disk = new_disk()
    journal = written(disk)
    shorten(disk, 0)
    path = copies(disk)[0]
    start = oldest_start(disk, DIRECTORY, LOG_ID)
    for offset in range(0, len(read_file(disk, path)), 61):
        left = disk.after_kill()
        fd = left.open(path, writable=True)
        (byte,) = left.read(fd, 1, offset)
        left.write(fd, [bytes([byte ^ 0x10])], offset)
        left.close(fd)
        with pytest.raises(Damaged):
            spill.read(left, path)
        with pytest.raises(Damaged):
            followed(left, journal, start)
    left = disk.after_kill()
    left.rename(path, copies(disk)[-1])
    with pytest.raises(Damaged, match="of another segment"):
        spill.read(left, copies(disk)[-1])


def test_a_copy_beside_its_segment_is_not_read() -> None:
    """As where all ended between the two."""
    disk = new_disk()
    journal = written(disk)
    start = oldest_start(disk, DIRECTORY, LOG_ID)
    (_, head), (_, following) = heads(disk, DIRECTORY)[:2]
    spill.write(disk, DIRECTORY, head, following)
    assert list(spill.read_all(disk, DIRECTORY)) == []
    assert oldest_start(disk, DIRECTORY, LOG_ID) == start
    assert followed(disk, journal, start) == journal.said
    first = segments(disk, DIRECTORY)[0]
    assert segment_head(read_file(disk, first)) == head
    disk.remove(first)
    assert number_of(segments(disk, DIRECTORY)[0]) == 2
    assert followed(disk, journal, start) == journal.said
