"""Following a journal that another process writes: batch by batch, over segments that end and
segments that go, and never past what is durable."""

import os
import random
from pathlib import Path

import pytest

from server.archive.follower import Follower, Parted, newest_start, oldest_start, resume
from server.archive.keeper import events_of
from server.archive.protocol import INBOX
from server.journal.disk import Disk
from server.journal.errors import Damaged
from server.journal.format import BATCH, SEGMENT
from server.journal.reader import segments
from tests.server.archive.journals import DIRECTORY, LOG_ID, Journal, Said, new_disk
from tests.server.archive.store_model import Unsynced


def follower_of(journal: Journal, disk: Disk, directory: Path = DIRECTORY) -> Follower:
    start = oldest_start(disk, directory, LOG_ID)
    return Follower(disk, directory, start, lambda: journal.durable)


def taken(follower: Follower) -> list[Said]:
    """All that it gives now."""
    found = []
    while (batch := follower.next()) is not None:
        found += [Said(*event) for event in events_of(batch.events)]
    return found


def test_each_event_comes_once_and_in_order_and_nothing_that_is_not_durable() -> None:
    drawn = random.Random(4)  # noqa: S311 - the same in every run
    disk = new_disk()
    journal = Journal(disk)
    follower = follower_of(journal, disk)
    found: list[Said] = []
    published = 0
    for turn in range(300):
        for _ in range(drawn.choice((0, 1, 1, 3))):
            journal.say(drawn.choice((1, 2, INBOX | 3)), size=drawn.choice((20, 300)))
        txns = drawn.choice((0, 0, 1, 30))
        if txns or journal._waiting:
            journal.write(txns, payments=drawn.choice((0, 0, 2)))
        found += taken(follower)
        assert len(found) == published, "the rest is not durable yet"
        if turn % 3:
            journal.publish()
            published = len(journal.said)
            found += taken(follower)
        assert found == journal.said[:published]
        if turn % 50 == 7 and turn % 3:
            journal.payments(3)
            taken(follower)
            assert follower.reached == journal.durable.event
        if turn % 40 == 5:
            journal.again()
    assert len(segments(disk, DIRECTORY)) > 20
    follower.close()
    assert disk.open_files <= 3


def test_events_that_are_not_written_are_reached_where_nothing_is_before_them() -> None:
    disk = new_disk()
    journal = Journal(disk)
    follower = follower_of(journal, disk)
    journal.say()
    journal.commit()
    assert taken(follower)
    assert follower.reached == 1
    journal.payments(5)
    assert not taken(follower)
    assert follower.reached == 6
    journal.say()
    journal.write()
    assert not taken(follower)
    assert follower.reached == 6
    journal.publish()
    assert [said.event for said in taken(follower)] == [7]
    assert follower.reached == 7


@pytest.mark.parametrize("after", range(12))
def test_going_on_from_any_position_while_old_segments_go(after: int) -> None:
    disk = new_disk()
    journal = Journal(disk, segment=1200)
    follower = follower_of(journal, disk)
    for _ in range(12):
        journal.say(size=100)
        journal.commit(txns=1)
        journal.commit(txns=1)
    for _ in range(after):
        while (batch := follower.next()) is not None and not batch.events:
            pass
    at = follower.position
    paths = segments(disk, DIRECTORY)
    rest = journal.said[after:]
    for gone in range(len(paths) - 1):
        if gone:
            disk.remove(paths[gone - 1])
        first = oldest_start(disk, DIRECTORY, LOG_ID)
        if first.event > at.event:
            with pytest.raises(Parted, match="begins with event"):
                resume(disk, DIRECTORY, at)
            continue
        place = resume(disk, DIRECTORY, at)
        again = Follower(disk, DIRECTORY, place, lambda: journal.durable)
        found = [said for said in taken(again) if said.event > at.event]
        assert found == rest
        again.close()


def test_another_journal_is_not_gone_on_with() -> None:
    disk, other = new_disk(), new_disk()
    journals = [Journal(each) for each in (disk, other)]
    for journal in journals:
        journal.say()
        journal.commit()
    follower = follower_of(journals[0], disk)
    assert taken(follower)
    journals[1].say(text="another one")
    journals[1].commit()
    stranger = Follower(other, DIRECTORY, follower.position, lambda: journals[1].durable)
    with pytest.raises(Parted):
        taken(stranger)


def test_a_process_that_is_killed_while_it_writes_leaves_nothing_to_follow() -> None:
    """The next one cuts it off, and writes another batch in its place."""
    disk = new_disk()
    journal = Journal(disk, segment=8000)
    follower = follower_of(journal, disk)
    for size in (200, 600):
        journal.say(size=100)
        journal.commit()
        taken(follower)
        where = journal.writer.position
        journal.say(text="nobody has seen this", size=size)
        lost = journal._waiting[-1]
        journal.write()
        journal.said.remove(lost)
        journal._seqs[1] -= 1
        fd = disk.open(segments(disk, DIRECTORY)[-1], writable=True)
        disk.write(fd, [bytes(1 << 10)], where.offset + BATCH.size)  # the rest was not written
        disk.close(fd)
        assert not taken(follower)
        journal.again()
        assert journal.writer.position == where
        journal.say(size=100)
        journal.commit()
        assert taken(follower) == journal.said[-1:]


def go_on(journal: Journal, follower: Follower) -> None:
    for _ in range(3):
        taken(follower)
        journal.say()  # before, nobody knows that it is not just being written
        journal.commit()


def test_damage_is_told_with_its_place() -> None:
    def journal_on(disk: Disk) -> Journal:
        journal = Journal(disk, segment=1 << 16)
        for _ in range(4):
            journal.say(size=100)
            journal.commit(txns=2)
        return journal

    def flip(disk: Disk, offset: int) -> None:
        fd = disk.open(segments(disk, DIRECTORY)[0], writable=True)
        disk.write(fd, [bytes([disk.read(fd, 1, offset)[0] ^ 1])], offset)
        disk.close(fd)

    batch = (journal_on(new_disk()).writer.position.offset - SEGMENT.size - BATCH.size - 8) // 4
    second = SEGMENT.size + BATCH.size + 8 + batch
    for offset in (second + 40, second + batch - 30):
        disk = new_disk()
        journal = journal_on(disk)
        flip(disk, offset)
        follower = follower_of(journal, disk)
        with pytest.raises(Damaged, match=f"offset {second}:"):
            go_on(journal, follower)
        assert follower.position.event == follower.reached == 1
    disk = new_disk()
    journal = journal_on(disk)
    flip(disk, second + BATCH.size)
    assert taken(follower_of(journal, disk)) == journal.said, "transactions are of no interest"


def test_a_batch_that_is_missing_is_told() -> None:
    disk = new_disk()
    journal = Journal(disk)
    follower = follower_of(journal, disk)
    journal.commit(txns=1)
    at = journal.writer.position
    journal.commit(txns=1)
    fd = disk.open(segments(disk, DIRECTORY)[0], writable=True)
    disk.truncate(fd, at.offset)
    with pytest.raises(Damaged, match="transaction 2"):
        taken(follower)


def test_the_newest_segment_is_one_that_was_begun() -> None:
    disk = new_disk()
    journal = Journal(disk)
    journal.say()
    journal.commit(txns=2)
    journal.start()
    journal.writer.prepare()
    assert len(segments(disk, DIRECTORY)) == 3
    assert newest_start(disk, DIRECTORY)[:4] == (2, 0, 2, 1)


def test_few_bytes_are_read_of_a_journal_that_is_all_money(tmp_path: Path) -> None:
    class Counting(Unsynced):
        count = 0

        def read(self, fd: int, size: int, offset: int) -> bytes:
            data = super().read(fd, size, offset)
            self.count += len(data)
            return data

    disk = Counting()
    journal = Journal(disk, tmp_path, segment=8 << 20)
    for _ in range(20):
        journal.commit(txns=1000)
    size = sum(os.stat(path).st_size for path in segments(disk, tmp_path))
    disk.count = 0
    follower = follower_of(journal, disk, tmp_path)
    assert not taken(follower)
    assert follower.position.txn == 20_000
    assert disk.count < size / 2
    follower.close()
    journal.writer.close()
