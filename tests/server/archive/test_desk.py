"""Questions to the archive, and its answers: what keeps one waiting, and what must not."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from libnet.wakeup import Wakeup
from server.archive import keeper
from server.archive.desk import ASKED_MAX, Answers, Desk
from server.archive.history import History
from server.archive.protocol import (
    DATAGRAM_MAX,
    HELLO,
    INBOX,
    Kind,
    Question,
    head_of,
    unpack_events,
)
from server.journal.disk import Disk
from server.region.layout import ServerState
from server.region.region import Region
from tests.helpers.region import small_region, state_of
from tests.server.archive.store_model import Unsynced
from tests.server.archive.test_keeper import Server

DEADLINE_S = 20.0


class Stuck(Disk):
    """A disk that gives nothing until it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def read(self, fd: int, size: int, offset: int) -> bytes:
        assert self.go.wait(DEADLINE_S), "whoever tells it waits for it"
        return super().read(fd, size, offset)


class Office:
    """A desk, the workers' ends of its sockets, and what is read for them: a journal of three
    transactions, each with an event of room 1 and a message to user 1."""

    def __init__(
        self, region: Region, directory: Path, workers: int, disk: Disk, thread: ThreadPoolExecutor
    ) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
        for sock in (sock for pair in pairs for sock in pair):
            sock.setblocking(False)
        self.workers = [worker for worker, _ in pairs]
        self._ends = [end for _, end in pairs]
        self.server = Server(region, Unsynced(), directory)
        region.header.state = ServerState.SERVING
        for _ in range(3):
            self.server.say(txns=1)
            self.server.say(INBOX | 1)
        self.server.turn()
        journal = self.server.data.journal
        history = History(disk, journal, lambda: self.server.journal.durable)
        self._wakeup = Wakeup()

        def begin() -> Desk:
            answers = Answers(state_of(region), self.server.keeper, history)
            return Desk(self._ends, answers, thread, self._wakeup)

        self._begin = begin
        self.desk = self._begin()

    def bodies(self, room: int) -> list[bytes]:
        return [said.body for said in self.server.journal.said if said.room == room]

    def begin(self) -> None:
        """As another process does in the place of one that was killed."""
        self.desk = self._begin()

    def ask(
        self,
        worker: int,
        token: int,
        kind: Kind,
        for_s: float = DEADLINE_S,
        after: int = 0,
        room: int = 1,
    ) -> None:
        fields = (7, 1, 0, 9) if kind == Kind.TXNS else (room, after, 9, 1000)
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
        self.server.keeper.close()
        self.server.journal.writer.close()
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
        assert unpack_events(answers[0]) == (1, made.bodies(1))
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


def test_rooms_and_inboxes_are_answered_from_where_one_is(tmp_path: Path) -> None:
    with office(tmp_path) as made:
        for token, room, after in ((1, 1, 1), (2, INBOX | 1, 0), (3, INBOX | 1, 3)):
            made.ask(0, token, Kind.EVENTS, after=after, room=room)
            answers: list[bytes] = []
            while not answers:
                made.turn()
                answers += made.answers(0)
            assert head_of(answers[0]) == (token, True)
            assert unpack_events(answers[0]) == (1, made.bodies(room)[after:])
            assert made.bodies(room)


def test_what_is_between_histories_and_ring_is_waited_for(tmp_path: Path) -> None:
    """An empty answer says that the ring has the rest: not before that is so."""
    with office(tmp_path) as made:
        server, region = made.server, made.server.region
        ring = region.layout.capacities.event_ring
        for number in range(ring + 10):
            server.say(2)
            made.ask(0, number + 1, Kind.EVENTS, after=3)
            for _ in range(3):
                made.turn()
            meets = 6 + number + 1 - ring <= 6
            answers = made.answers(0)
            if meets:
                assert [head_of(answer) for answer in answers] == [(number + 1, True)]
                assert unpack_events(answers[0]) == (1, [])
            else:
                assert not answers
                assert made.desk.busy
        made.ask(0, 900, Kind.EVENTS, after=0)
        made.turn()
        made.turn()
        (answer,) = made.answers(0)
        assert unpack_events(answer) == (1, made.bodies(1)), "it ends where the histories do"
        server.turn()
        answers = []
        while made.desk.busy or not answers:
            made.turn()
            answers += made.answers(0)
        assert len(answers) == 10
        assert all(unpack_events(answer) == (1, []) for answer in answers)


def test_histories_that_cannot_be_opened_are_answered_at_once(tmp_path: Path) -> None:
    with office(tmp_path) as made:
        made.server.keeper.close()
        made.ask(0, 1, Kind.EVENTS)
        answers: list[bytes] = []
        while not answers:
            made.turn()
            answers += made.answers(0)
        assert [head_of(answer) for answer in answers] == [(1, False)]


def test_histories_made_anew_are_told_when_they_have_what_they_had(tmp_path: Path) -> None:
    """Until then they may lack the event that deletes a text; that the archive once had it let the
    region's table forget it."""
    with office(tmp_path) as made, patch.object(keeper, "TURN_BATCHES", 1):
        server = made.server
        before = server.word("reached")
        server.keeper.close()
        shutil.rmtree(server.data.rooms)
        server.data.rooms.mkdir()
        server.restart()
        made.begin()
        made.ask(0, 1, Kind.EVENTS)
        told: list[bool] = []
        while not told or not told[-1]:
            server.turn()
            assert server.word("reached") == before
            made.turn()
            told.append(bool(made.answers(0)))
            assert told[-1] == (server.keeper.reached >= before)
        assert len(told) > 1
