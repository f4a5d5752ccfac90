"""From the journal into the histories: all of it, once, whatever the disk does; and what is refused
meanwhile."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

import liblog
from server.archive import keeper as module
from server.archive.follower import Durable
from server.archive.keeper import TRIES, Keeper, Limits
from server.archive.protocol import INBOX
from server.journal import spill
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.reader import segments
from server.journal.upkeep import Needed, remove_segments
from server.region.layout import ServerState
from server.region.region import Region
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, at_random
from tests.helpers.region import small_region
from tests.server.archive.journals import EPOCH, LOG_ID, Journal, Said, event_bytes

T = TypeVar("T")
ROOT: Final = Path("/data")
LIMITS: Final = Limits(room_keep=1000, inbox_keep=1000, lag_max=20_000)
ALL: Final = 1 << 30
ROOMS: Final = (1, 2, INBOX | 1)


class Here(Executor):
    """A thread that has done at once what it is given, or when it is told to."""

    def __init__(self) -> None:
        self.waits = False
        self._later: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)
                if isinstance(error, PowerCut):
                    raise

        if self.waits:
            self._later.append(run)
        else:
            run()
        return future

    def go_on(self) -> None:
        self.waits = False
        for run in self._later:
            run()
        self._later.clear()


class Server:
    """A journal, a region that tells of it, and an archive's keeper."""

    def __init__(
        self, region: Region, disk: Disk, root: Path = ROOT, limits: Limits = LIMITS
    ) -> None:
        self.region, self.disk, self.limits = region, disk, limits
        self.data = DataDirectory(root)
        for directory in (self.data.journal, self.data.rooms):
            disk.make_directory(directory)
            disk.sync_directory(root)
        region.header.log_id, region.header.epoch = LOG_ID, EPOCH
        self.thread, self.now = Here(), 0.0
        self.journal = Journal(disk, self.data.journal)
        self.publish()
        self.keeper = self.new_keeper()

    def new_keeper(self) -> Keeper:
        return Keeper(
            self.region,
            self.data,
            self.disk,
            self.limits,
            self.thread,
            clock_s=lambda: self.now,
            segment_size=2000,
        )

    def publish(self) -> None:
        durable = self.journal.durable
        self.region.log.durable, self.region.events.durable = durable
        self.region.log.head, self.region.events.head = durable

    def say(self, room: int = 1, sender: int = 5, size: int = 60, txns: int = 0) -> None:
        self.journal.say(room, sender, size=size)
        self.journal.commit(txns)
        self.publish()

    def turn(self, seconds: float = 2.0) -> bool:
        self.now += seconds
        return self.keeper.turn()

    def catch_up(self) -> None:
        while self.turn():
            pass
        self.turn()  # what was synced is told

    def word(self, name: str) -> int:
        return int(getattr(self.region.archive, name))

    def restart(self, disk: SimulatedDisk | None = None) -> None:
        """Another archive process."""
        if disk is not None:
            self.disk = disk
        else:
            self.keeper.close()
        self.keeper = self.new_keeper()

    def told(self) -> dict[int, list[bytes]]:
        store = self.keeper.store
        assert store is not None
        return {room: store.read(room, 0, ALL, ALL) for room in store.rooms()}


def histories(said: list[Said]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for each in said:
        found.setdefault(each.room, []).append(each.body)
    return dict(sorted(found.items()))


@contextmanager
def server(
    disk: Disk | None = None, root: Path = ROOT, limits: Limits = LIMITS
) -> Iterator[Server]:
    with small_region() as region:
        made = Server(region, disk or SimulatedDisk(), root, limits)
        region.header.state = ServerState.SERVING
        yield made
        made.keeper.close()


def test_what_is_durable_in_the_journal_is_in_the_histories_and_can_be_asked_for() -> None:
    drawn = random.Random(5)  # noqa: S311 - the same in every run
    with server() as made:
        for _ in range(100):
            made.say(drawn.choice(ROOMS), drawn.randrange(1, 30), txns=drawn.choice((0, 0, 3)))
            made.turn(0.1)
            assert made.word("reached") == len(made.journal.said)
            assert made.told() == histories(made.journal.said)
            assert made.word("cursor") <= made.word("reached")
            assert made.word("closed") == made.word("lag") == 0
        assert made.word("kept") == 100
        assert made.region.words[made.region.layout["rooms"].at(1, "kept")] == 1
        made.catch_up()
        assert made.word("cursor") == 100
        assert not made.keeper.behind
        made.keeper.finish()
        made.restart()
        made.turn()
        assert made.told() == histories(made.journal.said)
        assert made.word("kept") == 100, "none was taken twice"


def test_a_power_cut_at_every_call_leaves_what_was_durable_in_the_journal() -> None:
    """After the restart the histories have all of it, each once, however little of what the archive
    wrote is left."""
    for call in range(1, 400):
        disk = SimulatedDisk()
        with server(disk) as made:
            disk.cut_at = disk.calls + call
            ended = False
            try:
                for number in range(40):
                    made.say(ROOMS[number % 3], number)
                    made.turn(0.6)
                    if number == 20:
                        made.restart()
            except PowerCut:
                ended = True
            durable = made.journal.said[: made.journal.durable.event]
            for survives in (*ADVERSARIES.values(), at_random(call)):
                left = disk.after_power_cut(survives)
                made.restart(left)
                made.catch_up()
                assert made.word("closed") == 0
                found = made.told()
                assert found == histories(durable) or found == histories(made.journal.said)
                assert not [n for n in left.names(ROOT) if n.startswith("removed")]
                made.keeper.close()
            if not ended:
                return
    pytest.fail("there are more calls")


def test_the_cursor_lets_no_segment_go_that_would_be_missed() -> None:
    """Whenever the archive is killed: what the journal has removed by its cursor is not missed."""
    with server() as made:
        disk = made.disk
        assert isinstance(disk, SimulatedDisk)
        for number in range(60):
            if number < 30:
                made.say(txns=number % 3, size=200)
            if number % 7 == 3 or number >= 30:  # in the end no event is written any more
                made.journal.payments(4)
                made.journal.commit(txns=4)
                made.publish()
            made.turn(0.4)
            paths = segments(disk, made.data.journal)
            for path, following in pairwise(paths):
                fd = disk.open(following)
                first_event = int.from_bytes(disk.read(fd, 8, 5 * 8), "little")
                disk.close(fd)
                if first_event > made.word("cursor") + 1:
                    break
                disk.remove(path)
            after = disk.after_power_cut(ADVERSARIES["nothing"])
            kept, made.keeper = made.keeper, made.new_keeper()
            made.disk = after
            # The journal's own files are all synced, and their removal may not be.
            made.keeper = made.new_keeper()
            made.turn()
            made.catch_up()
            assert made.told() == histories(made.journal.said)
            assert not [n for n in after.names(ROOT) if n.startswith("removed")]
            made.keeper.close()
            made.keeper, made.disk = kept, disk
        assert len(segments(disk, made.data.journal)) < 5


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("said", [0, 1, 30])
def test_what_goes_while_it_stands_still_is_not_missed(*, said: int, restarts: bool) -> None:
    """Segments of events, of which the events are copied, and of transactions alone; whoever goes
    on with it afterwards. What was copied goes when the histories have it."""
    with server() as made:
        made.say(size=200)
        made.catch_up()
        for _ in range(said):
            made.say(2, size=200)
        for _ in range(60):
            made.journal.commit(txns=4)
        made.publish()
        before = made.word("cursor")
        needed = Needed(1 << 40, 1 << 40, before)
        remove_segments(made.disk, made.data.journal, needed, 0, lambda _: None)
        assert len(segments(made.disk, made.data.journal)) == 1
        assert bool(spill.numbers(made.disk, made.data.journal)) == (said > 0)
        if restarts:
            made.restart()
        made.region.archive.lag = 0
        made.catch_up()
        assert made.word("closed") == 0
        assert made.told() == histories(made.journal.said)
        assert made.word("cursor") == made.journal.durable.event
        needed = needed._replace(event=made.word("cursor"))
        remove_segments(made.disk, made.data.journal, needed, 0, lambda _: None)
        assert spill.numbers(made.disk, made.data.journal) == []
        made.say(size=200)
        made.catch_up()
        assert made.told() == histories(made.journal.said)


def test_the_lag_is_counted_in_what_was_copied() -> None:
    with server() as made:
        made.keeper.turn()
        for _ in range(40):
            made.say(size=200)
            made.journal.commit(txns=9)
        made.publish()
        lag = made.keeper._lag()
        needed = Needed(1 << 40, 1 << 40, 0)
        remove_segments(made.disk, made.data.journal, needed, 0, lambda _: None)
        assert made.new_keeper()._lag() == made.word("lag"), "it has not opened anything"
        again = made.new_keeper()
        again._open()
        assert again._lag() == lag > 40 * 200
        again.close()


@pytest.mark.parametrize("call", range(1, 12))
def test_a_full_disk_closes_and_all_is_there_once_it_has_space(call: int) -> None:
    disk = SimulatedDisk()
    with server(disk) as made:
        made.say()
        made.catch_up()
        refused, left = 0, call
        for number in range(30):
            made.say(ROOMS[number % 3], number, size=300)
            if left > 0:  # a call of the archive, not of the journal
                disk.fail_at = disk.calls + left, errno.ENOSPC
            left += disk.calls
            made.turn(0.0)
            left -= disk.calls
            disk.fail_at = 0, 0
            if made.word("closed"):
                refused += 1
                if made.keeper.store is not None:  # the rest can be asked for meanwhile
                    store = made.keeper.store
                    assert (
                        store.read(1, 0, ALL, ALL)
                        == histories(made.journal.said)[1][: len(store.read(1, 0, ALL, ALL))]
                    )
                    assert made.word("lag") >= 300
                before = disk.calls
                made.turn(0.0)
                assert disk.calls == before, "it is not tried all the time"
            made.now += 0.4
        assert refused
        made.catch_up()
        assert made.word("closed") == made.word("lag") == 0
        assert made.told() == histories(made.journal.said)
        assert made.word("cursor") == made.word("reached") == len(made.journal.said)
        made.restart(disk.after_power_cut())
        made.catch_up()
        assert made.told() == histories(made.journal.said)


def test_a_disk_that_stays_full_closes_again_and_again_and_loses_nothing() -> None:
    class Full(SimulatedDisk):
        full = False

        def allocate(self, fd: int, size: int) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().allocate(fd, size)

    disk = Full()
    with server(disk) as made:
        made.turn()
        # The journal has its space; the archive's segments are small.
        made.journal.writer.close()
        made.journal = Journal(disk, made.data.journal, segment=1 << 20)
        made.publish()
        disk.full = True
        for _ in range(60):
            made.say(size=200)
            made.turn()
        assert made.word("closed") == 1
        assert made.word("lag") > 3000
        assert made.word("reached") < 60
        for _ in range(200):
            made.say(size=200)
        made.turn()
        assert made.word("lag") > LIMITS.lag_max
        disk.full = False
        made.catch_up()
        assert made.word("closed") == made.word("lag") == 0
        assert made.told() == histories(made.journal.said)


def test_too_large_a_lag_closes_until_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_SIZE", 1000)
    with server() as made:
        for _ in range(20):
            made.say(size=200)
        made.turn()
        assert 2000 < made.word("lag") < LIMITS.lag_max
        assert made.word("closed") == 0
        for _ in range(200):
            made.say(size=200, txns=9)
        size = sum(len(event_bytes(said)) for said in made.journal.said)
        made.turn()
        assert LIMITS.lag_max < made.word("lag") < size, "money does not count"
        assert made.word("closed") == 1
        while made.turn():
            assert made.word("closed") == (made.word("lag") > LIMITS.lag_max)
        assert made.word("closed") == made.word("lag") == 0
        for _ in range(30):
            made.journal.commit(txns=100)
        made.publish()
        made.turn()
        assert made.word("lag") == 0
        assert made.told() == histories(made.journal.said)


def test_a_disk_that_does_not_answer_keeps_nothing_waiting() -> None:
    with server() as made:
        made.say()
        made.thread.waits = True
        made.turn()
        for _ in range(20):
            made.say()
            made.turn()
            assert made.word("reached") == len(made.journal.said)
            assert made.told() == histories(made.journal.said)
            assert made.word("cursor") == 0
            assert made.word("closed") == 0
        made.thread.go_on()
        made.turn(0.0)
        assert made.word("cursor") == 1, "what was written since is not durable"
        made.catch_up()
        assert made.word("cursor") == 21


class Failing(SimulatedDisk):
    """The next sync fails, once it is told to."""

    fails = False

    def sync(self, fd: int) -> None:
        if self.fails:
            self.fails = False
            self.fail_at = self.calls + 1, errno.EIO
        super().sync(fd)


def test_a_sync_that_fails_closes_and_nothing_is_taken_for_durable() -> None:
    disk = Failing()
    with server(disk) as made:
        made.say()
        made.catch_up()
        cursor = made.word("cursor")
        made.thread.waits = True
        made.say()
        made.turn()
        disk.fails = True
        made.thread.go_on()
        disk.drop_clean_pages()
        made.turn(0.0)
        assert made.word("closed") == 1
        assert made.word("cursor") == cursor
        made.catch_up()
        assert made.word("closed") == 0
        made.restart(disk.after_power_cut())
        made.catch_up()
        assert made.told() == histories(made.journal.said)


def flip(disk: Disk, path: Path, offset: int) -> None:
    fd = disk.open(path, writable=True)
    disk.write(fd, [bytes([disk.read(fd, 1, offset)[0] ^ 1])], offset)
    disk.close(fd)


@pytest.mark.parametrize("what", ["flipped", "missing", "header", "format", "all"])
def test_damaged_histories_are_set_aside_and_made_anew(what: str) -> None:
    with server() as made:
        disk = made.disk
        for _ in range(40):
            made.say(size=100)
            made.turn()
        made.keeper.finish()
        made.keeper.close()
        paths = [made.data.rooms / name for name in disk.names(made.data.rooms)]
        assert len(paths) > 3
        if what == "flipped":
            flip(disk, paths[1], 500)
        elif what == "missing":
            disk.remove(paths[1])
        elif what == "header":
            flip(disk, paths[0], 30)
        elif what == "format":
            flip(disk, paths[0], 8)
        else:
            for path in paths:
                flip(disk, path, 200)
        files = len(disk.names(made.data.rooms))
        oldest = segments(disk, made.data.journal)[:2]
        for path in oldest:  # and the journal does not go back to the beginning
            disk.remove(path)
        made.restart()
        made.turn()
        made.catch_up()
        assert made.word("closed") == 0
        (aside,) = [name for name in disk.names(ROOT) if name.startswith("removed-")]
        assert len(disk.names(ROOT / aside / "rooms")) == files
        told = made.told()[1]
        there = histories(made.journal.said)[1]
        assert 10 < len(told) < len(there)
        assert told == there[-len(told) :], "without a hole"
        store = made.keeper.store
        assert store is not None
        assert store.oldest(1) == 41 - len(told)
        assert made.region.words[made.region.layout["rooms"].at(1, "kept")] == 41 - len(told)
        made.say()
        made.catch_up()
        assert made.told()[1] == [*told, made.journal.said[-1].body]


class Unreadable(SimulatedDisk):
    """The medium does not give these files back."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: set[Path] = set()
        self._paths: dict[int, Path] = {}

    def open(self, path: Path, *, writable: bool = False) -> int:
        fd = super().open(path, writable=writable)
        self._paths[fd] = path
        return fd

    def close(self, fd: int) -> None:
        self._paths.pop(fd, None)
        super().close(fd)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        if self._paths.get(fd) in self.bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(fd, size, offset)


def room_files(made: Server) -> list[Path]:
    return [made.data.rooms / name for name in made.disk.names(made.data.rooms)]


def asides(made: Server) -> list[str]:
    return [name for name in made.disk.names(ROOT) if name.startswith("removed-")]


@pytest.mark.parametrize("heals", [False, True])
def test_a_file_that_cannot_be_read_at_the_start_does_not_close_for_ever(heals: bool) -> None:
    """After some tries it counts as damaged, and is set aside; it may be read by one of them."""
    disk = Unreadable()
    with server(disk) as made:
        for _ in range(40):
            made.say(size=100)
            made.turn()
        made.keeper.finish()
        disk.bad.add(room_files(made)[1])
        made.restart()
        with liblog.capture() as logged:
            for _ in range(TRIES - 1):
                made.turn()
                assert made.word("closed") == 1
            if heals:
                disk.bad.clear()
            made.catch_up()
        assert made.word("closed") == 0
        assert not any("Errno" in str(line.get("reason")) for line in logged)
        told = [line["event"] for line in logged]
        assert told.count("histories_unwritable") == 1
        assert ("histories_set_aside" in told) is not heals
        assert len(asides(made)) == (0 if heals else 1)
        assert made.told() == histories(made.journal.said)


def test_a_file_that_cannot_be_read_when_it_is_cleaned_does_not_close_for_ever() -> None:
    """Until then it concerns only those who ask for what is in it."""
    disk = Unreadable()
    with server(disk, limits=LIMITS._replace(room_keep=20)) as made:
        made.say(room=2)
        for _ in range(10):
            made.say()
        made.catch_up()
        store = made.keeper.store
        assert store is not None
        first = room_files(made)[0]
        while len(room_files(made)) < 3:
            made.say()
            made.catch_up()
        disk.bad.add(first)
        with pytest.raises(OSError, match="Input/output error"):
            store.read(2, 0, ALL, ALL)
        assert made.word("closed") == 0
        assert store.read(1, store.last(1) - 1, ALL, ALL)
        for _ in range(200):
            if asides(made):
                break
            made.say()
            made.turn()
        assert asides(made)
        made.catch_up()
        assert made.word("closed") == 0
        assert made.told()[1][-1] == made.journal.said[-1].body


def test_of_another_epoch_nothing_is_kept() -> None:
    with server() as made:
        for _ in range(40):
            made.say()
        made.catch_up()
        made.keeper.finish()
        # The journal no longer begins with a start, which would tell of its epoch.
        made.disk.remove(segments(made.disk, made.data.journal)[0])
        made.region.header.epoch = made.journal._epoch = made.journal._time = EPOCH + 1000
        made.journal._seqs.clear()
        made.journal.start()
        made.restart()
        made.catch_up()
        assert made.told() == {}
        for _ in range(3):
            made.say()
        made.catch_up()
        assert made.told() == histories(made.journal.said[-3:])
        assert made.word("closed") == 0
        assert len([n for n in made.disk.names(ROOT) if n.startswith("removed-")]) == 1


def test_of_another_log_nothing_is_kept_but_what_the_journal_has() -> None:
    with server() as made:
        for _ in range(5):
            made.say()
        made.catch_up()
        made.keeper.finish()
        made.region.header.log_id = made.journal._log_id = LOG_ID + 1
        made.journal.start()
        made.say()
        made.restart()
        made.catch_up()
        assert made.told() == histories(made.journal.said)
        assert len([n for n in made.disk.names(ROOT) if n.startswith("removed-")]) == 1


def test_an_epoch_that_the_clock_does_not_tell_of_is_seen_by_the_numbers() -> None:
    """The clock was set back between two epochs, and no histories are left."""
    with server() as made:
        for _ in range(5):
            made.say()
        made.region.header.epoch = made.journal._epoch = EPOCH - 1000
        made.journal._seqs.clear()
        for _ in range(3):
            made.say()
        made.catch_up()
        assert made.told() == histories(made.journal.said[-3:])
        assert made.word("closed") == 0


def test_events_that_the_log_does_not_have_any_more_are_dropped() -> None:
    """An older copy of the journal, beside newer histories."""
    disk = SimulatedDisk()
    with server(disk) as made:
        for number in range(20):
            made.say(ROOMS[number % 3], number)
        made.catch_up()
        made.keeper.finish()
        for number in range(5):
            made.say(ROOMS[number % 3], number + 40)
        made.catch_up()
        made.keeper.finish()
        assert made.word("cursor") == 25
        journal = made.journal
        journal.writer.close()
        for path in segments(disk, made.data.journal):
            disk.remove(path)
        again = Journal(disk, made.data.journal)
        for said in journal.said[:20]:
            again.say(said.room, said.sender, size=60)
            again.commit()
        again.start()
        made.journal = again
        made.publish()
        made.region.header.state = ServerState.STARTING
        made.restart()
        made.turn()
        assert made.told() == histories(again.said)
        made.region.header.state = ServerState.SERVING
        for number in range(4):
            made.say(ROOMS[number % 2], 80 + number, size=90)
        made.catch_up()
        assert made.told() == histories(again.said)
        made.keeper.finish()
        made.restart(disk.after_power_cut())
        made.turn()
        assert made.told() == histories(again.said), "and stay dropped"


def test_a_journal_with_damaged_events_closes_and_what_is_before_can_be_asked_for() -> None:
    with server() as made:
        for _ in range(3):
            made.say()
        made.catch_up()
        at = made.journal.writer.position
        path = made.journal.writer.segment
        assert path is not None
        made.say(size=300)
        made.say()
        flip(made.disk, path, at.offset + 400)
        made.turn()
        assert made.word("closed") == 1
        assert made.word("reached") == 3
        assert made.told() == histories(made.journal.said[:3])
        flip(made.disk, path, at.offset + 400)
        made.catch_up()
        assert made.word("closed") == 0
        assert made.told() == histories(made.journal.said)


@pytest.mark.parametrize("how", ["going on", "made anew"])
def test_events_that_were_damaged_at_the_start_are_passed_over(how: str) -> None:
    """All others are there; one that this server has written is waited for."""
    with server() as made:
        for number in range(3):
            made.say(ROOMS[number % 3])
        made.catch_up()
        made.keeper.finish()
        if how == "made anew":
            made.disk.remove(made.data.rooms / made.disk.names(made.data.rooms)[0])
        at, path = made.journal.writer.position, made.journal.writer.segment
        assert path is not None
        for number in range(6):
            made.say(ROOMS[number % 3], size=300)
        flip(made.disk, path, at.offset + 400)
        made.region.events.first = made.region.events.head + 1
        made.restart()
        for number in range(6):
            made.say(ROOMS[number % 3])
        made.catch_up()
        left = [said for said in made.journal.said if said.event != at.event + 1]
        assert made.word("closed") == 0
        assert made.told() == histories(left)
        made.keeper.finish()
        made.restart()
        made.turn()
        assert made.told() == histories(left)
        at, path = made.journal.writer.position, made.journal.writer.segment
        assert path is not None
        made.say(size=300)
        flip(made.disk, path, at.offset + 400)
        made.turn()
        assert made.word("closed") == 1
        assert made.told() == histories(left)


def test_one_sender_fills_at_most_a_tenth_of_an_inbox() -> None:
    with server(limits=Limits(room_keep=5, inbox_keep=40, lag_max=ALL)) as made:
        for number in range(12):
            made.say(INBOX | 1, sender=100 + number)
        for _ in range(30):
            made.say(INBOX | 1, sender=7)
            made.say(1, sender=7)
        for number in range(3):
            made.say(INBOX | 1, sender=200 + number)

        def check() -> None:
            made.catch_up()
            store = made.keeper.store
            assert store is not None
            senders = [said.sender for said in made.journal.said if said.room == INBOX | 1]
            bodies = store.read(INBOX | 1, 0, ALL, ALL)
            own = [said.body for said in made.journal.said if said.sender == 7 and said.room > 1]
            assert [body for body in bodies if body in own] == own[-4:]
            assert len(bodies) == 4 + len(set(senders) - {7})
            assert store.oldest(INBOX | 1) == 1
            assert len(store.read(1, 0, ALL, ALL)) == 5

        check()
        made.keeper.finish()
        made.restart()
        check()
        for number in range(60):
            made.say(INBOX | 1, sender=300 + number)
        made.catch_up()
        assert made.told()[INBOX | 1] == [said.body for said in made.journal.said][-40:]


def test_before_the_journal_has_told_only_what_was_there_at_the_start_is_taken() -> None:
    with server() as made:
        for _ in range(3):
            made.say()
        made.region.events.durable = made.region.log.durable = 2**64 - 1
        made.journal.say()
        made.journal.write()
        made.turn()
        assert made.word("reached") == 3
        assert made.told() == histories(made.journal.said[:3])
        assert made.keeper._durable() == Durable(0, 3)
