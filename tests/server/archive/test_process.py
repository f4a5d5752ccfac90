"""The archive process's parts: what keeps it waiting, and what must not."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from libnet.wakeup import Wakeup
from server.archive import keeper as archive_keeper
from server.archive.desk import ASKED_MAX, Answers, Desk
from server.archive.history import History
from server.archive.keeper import Keeper
from server.archive.protocol import (
    DATAGRAM_MAX,
    HELLO,
    Kind,
    Question,
    head_of,
    unpack_events,
)
from server.archive.store import RoomStore
from server.journal import format as journal_format
from server.journal.disk import Disk
from server.region.region import Region
from tests.helpers.region import STARTED_US, login, register, small_region, state_of, word
from tests.server.archive.rooms_model import ALL, Unsynced, opened
from tests.server.journal import append, batches, open_writer

DEADLINE_S = 20.0


class Stuck(Disk):
    """A disk that gives nothing until it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def read(self, fd: int, size: int, offset: int) -> bytes:
        assert self.go.wait(DEADLINE_S), "whoever tells it waits for it"
        return super().read(fd, size, offset)


class Office:
    """A desk, the workers' ends of its sockets, and what is read for them: of each of three
    transactions one batch, and three events of room 1."""

    def __init__(
        self, region: Region, directory: Path, workers: int, disk: Disk, thread: ThreadPoolExecutor
    ) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
        for sock in (sock for pair in pairs for sock in pair):
            sock.setblocking(False)
        self.workers = [worker for worker, _ in pairs]
        self._ends = [end for _, end in pairs]
        journal = directory / "journal"
        journal.mkdir()
        writer = open_writer(Unsynced(), journal, 1 << 16)
        for each in batches([1, 1, 1]):
            append(writer, each)
        writer.close()
        self.store: RoomStore = opened(Unsynced(), directory / "rooms")
        self.store.reserve(1, 9)
        self.store.commit()
        for seq in (1, 2, 3):
            self.store.append(1, seq, b"event %d" % seq)
        self.store.commit()
        answers = Answers(state_of(region), self.store, History(disk, journal, lambda: 3))
        self._wakeup = Wakeup()
        self._begin = partial(Desk, self._ends, answers, thread, self._wakeup)
        self.desk = self._begin()

    def begin(self) -> None:
        """As another process does in the place of one that was killed."""
        self.desk = self._begin()

    def ask(self, worker: int, token: int, kind: Kind, for_s: float = DEADLINE_S) -> None:
        fields = (7, 1, 0, 9) if kind == Kind.TXNS else (1, 0, 9, 1000)
        until = time.monotonic_ns() + int(for_s * 1e9)
        self.workers[worker].send(Question(token, kind, until, fields).pack())

    def turn(self) -> None:
        if self.desk.wait(0.01):
            self.desk.take()
        self.desk.work()

    def answers(self, worker: int) -> list[bytes]:
        """That are there, the HELLO aside."""
        found: list[bytes] = []
        while True:
            try:
                data = self.workers[worker].recv(DATAGRAM_MAX)
            except BlockingIOError:
                return found
            if head_of(data)[0] != HELLO:
                found.append(data)

    def close(self) -> None:
        self._wakeup.close()
        self.store.close()
        for sock in (*self.workers, *self._ends):
            sock.close()


@contextmanager
def office(directory: Path, workers: int = 1, disk: Disk | None = None) -> Iterator[Office]:
    with small_region() as region:
        with ThreadPoolExecutor(1) as thread:
            made = Office(region, directory, workers, disk or Disk(), thread)
            try:
                yield made
            finally:
                if isinstance(disk, Stuck):
                    disk.go.set()
        made.close()


def test_what_waits_for_a_disk_that_hangs_is_bounded_and_the_hole_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(archive_keeper, "BUFFERED_MAX", 2000)
    with small_region() as region:
        store = opened(Unsynced(), tmp_path / "rooms", keep=1000)
        keeper = Keeper(region, store)
        keeper.begin()
        state = state_of(region)
        session = login(state, *register(state, "ann"))
        rooms = (1, 2, 3)
        for room in rooms:
            state.memberships.join(session, room, STARTED_US)
        said = 0
        for number in range(100):
            for room in rooms[: 2 if number < 80 else 3]:
                state.chat.send(session, room, f"message {number}", STARTED_US)
                said += 1
            keeper.collect()  # and nothing is written
            assert store.buffered <= 2000
        assert keeper.write()
        store.sync()
        keeper.finish()
        dropped = word(region, "archive", 0, "dropped")
        assert dropped > 100
        assert dropped + word(region, "archive", 0, "kept") == said + len(rooms)
        for room in rooms:
            last = word(region, "rooms", room, "last_seq")
            oldest = store.oldest(room)
            assert 1 < oldest <= last == store.last(room)
            assert word(region, "rooms", room, "kept") == oldest
            assert len(store.read(room, 0, 1000, ALL)) == last - oldest + 1, "no hole"
        store.close()


def test_a_disk_that_does_not_answer_keeps_nothing_else_waiting(tmp_path: Path) -> None:
    """The turn ends, in which the ring is looked at; and what needs no old record is answered."""
    disk = Stuck()
    with office(tmp_path, disk=disk) as made:
        made.ask(0, 1, Kind.TXNS)
        made.turn()
        made.ask(0, 2, Kind.EVENTS)
        answers: list[bytes] = []
        for _ in range(200):
            made.turn()
            answers += made.answers(0)
        assert [head_of(answer) for answer in answers] == [(2, True)]
        assert unpack_events(answers[0]) == (1, [b"event 1", b"event 2", b"event 3"])
        disk.go.set()
        while not answers[1:]:
            made.turn()
            answers += made.answers(0)
        assert head_of(answers[1]) == (1, True)
        assert made.desk.answered == 2


def test_a_long_question_and_a_busy_worker_leave_the_others_their_turn(tmp_path: Path) -> None:
    disk = Stuck()
    with office(tmp_path, workers=3, disk=disk) as made:
        for token in range(1, 2 * ASKED_MAX):
            made.ask(0, token, Kind.TXNS)
        made.ask(2, 99, Kind.TXNS)
        for _ in range(2 * ASKED_MAX):
            made.turn()
        disk.go.set()
        while not (answers := made.answers(2)):
            made.turn()
        assert head_of(answers[0]) == (99, True)
        assert len(made.answers(0)) <= ASKED_MAX, "it has not waited for all of these"


def test_nothing_is_done_for_who_waits_no_more(tmp_path: Path) -> None:
    with office(tmp_path) as made:
        for token, kind in enumerate((Kind.TXNS, Kind.EVENTS), 1):
            made.ask(0, token, kind, for_s=0.0)
            made.ask(0, token + 10, kind)
        answers: list[bytes] = []
        while len(answers) < 2:
            made.turn()
            answers += made.answers(0)
        assert {head_of(answer) for answer in answers} == {(11, True), (12, True)}
        assert made.desk.answered == 2


def test_what_was_asked_of_the_process_before_is_not_worked_on_twice(tmp_path: Path) -> None:
    """It is asked again once the new one says hello, as far as somebody waits for it."""
    with office(tmp_path) as made:
        made.ask(0, 1, Kind.EVENTS)
        made.begin()
        made.ask(0, 2, Kind.EVENTS)
        answers: list[bytes] = []
        while not answers:
            made.turn()
            answers += made.answers(0)
        assert [head_of(answer) for answer in answers] == [(2, True)]


def test_no_call_holds_the_interpreter_for_a_whole_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The thread that reads old records would keep the other one from the ring."""
    called: list[int] = []
    crc64 = journal_format.crc64

    def counted(data: bytes, crc: int = 0) -> int:
        called.append(len(data))
        return int(crc64(data, crc))

    writer = open_writer(Unsynced(), tmp_path, 1 << 16)
    (each,) = batches([2000])
    append(writer, each)
    writer.close()
    monkeypatch.setattr(journal_format, "crc64", counted)
    assert History(Disk(), tmp_path, lambda: 2000).read(7) is not None
    assert sum(called) > len(each.records)
    assert max(called) <= 1 << 16
