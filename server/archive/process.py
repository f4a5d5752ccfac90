"""The archive process: it keeps the rooms' events, and answers for what is older than the rings.

It follows the event ring with a cursor, as the workers do, and takes no lock. What it finds is
written and synced within the flush interval; nobody waits for it, and it does not wait for the disk
either: threads do, so that a slow one costs memory and no message, up to `BUFFERED_MAX`. Then what
waits is dropped. There, and where the ring has gone past it, or past one that was killed, what is
older than the hole is not offered any more: ROOM_HISTORY never passes over a message in silence.

room_seqs are reserved ahead: a number is used only once a reservation of it is durable, so after a
crash a room goes on above what was reserved. Leaves cannot be refused, so `reserved` stays as far
below the durable reservation as there can be sessions to leave.
"""

import errno
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn, cast

import liblog
from libnet.wakeup import Wakeup
from libproto.messages import HEADER_LEN
from server.archive.history import History
from server.archive.protocol import (
    DATAGRAM_MAX,
    NEWS,
    Kind,
    Question,
    pack_events,
    pack_failure,
    pack_hello,
    pack_txns,
)
from server.archive.store import RoomStore
from server.child import BEAT_S, Report, enter, limit_of
from server.config import Settings
from server.core.ledger import follow
from server.core.state import State
from server.core.trail import Trails
from server.exits import Exit
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.journal.life import LAST_S, POLL_S, Stop, now_us
from server.region.layout import ServerState
from server.region.region import Region

READY: Final = 254  # what it writes into the pipe of those who serve
BLOCK: Final = 1 << 16  # room_seqs reserved at a time, beside those of leaves
SEGMENT_SIZE: Final = 4 << 20  # bytes
AGAIN_S: Final = 0.001
ASKED_MAX: Final = 16  # questions worked on by turns; the others wait in the sockets
BUFFERED_MAX: Final = 64 << 20  # bytes of events that wait for the disk
STEPS: Final = 128  # records that are looked at for one question before the next

log = liblog.get("archive")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the master hands to the archive process over the fork."""

    settings: Settings
    region: Region
    data: DataDirectory
    sockets: Sequence[socket.socket]  # to the workers, by slot
    ready: int  # a pipe: READY is written when it serves
    workers: int  # a pipe that is at its end when no worker is left


class Keeper:
    """From the event ring into the store."""

    def __init__(self, region: Region, store: RoomStore) -> None:
        self._region, self._words, self._store = region, region.words, store
        # Nobody's slot: only what reads without a lock is used.
        self.state: Final = State(region, 0, time.monotonic_ns, time.sleep, 0.0)
        self._ring = region.layout.capacities.event_ring
        self._margin = region.layout.capacities.sessions
        rooms = region.layout["rooms"]
        self._count = rooms.records
        self._at = {name: rooms.offsets[name] for name in rooms.offsets}
        self._base, self._stride = rooms.base, rooms.stride
        self._cursor_at, self._kept, self._laps, self._dropped = (
            region.archive.index(name) for name in ("cursor", "kept", "laps", "dropped")
        )
        self._expected: list[int] = []  # by room: the room_seq that comes next
        self._touched: set[int] = set()  # rooms with something that is not written yet
        self._written: set[int] = set()  # and with something that is on its way
        self._events = self._events_written = 0  # the same, counted
        self.urgent = False  # room_seqs run out

    def _word(self, room: int, field: str) -> int:
        return self._base + room * self._stride + self._at[field]

    def begin(self) -> None:
        """In a new region: the rooms go on above what may have been used, and all is reserved."""
        words, store = self._words, self._store
        for room in range(1, self._count):
            last = max(store.ceiling(room), words[self._word(room, "last_seq")])
            store.reserve(room, last + BLOCK + self._margin)
        self.go_on()

    def go_on(self) -> None:
        """From what is stored; the region may be in use."""
        words, store = self._words, self._store
        store.commit()
        self.cursor = max(0, self.state.events.head() - self._ring)
        self._expected = [0] * self._count
        for room in range(1, self._count):
            began = words[self._word(room, "began")]
            self._expected[room] = max(store.last(room), began) + 1
            self._tell(room)
        self._find_holes()

    def _tell(self, room: int) -> None:
        """In the region: what may be used, and how far back the store reaches."""
        words, store = self._words, self._store
        words[self._word(room, "reserved")] = max(0, store.ceiling(room) - self._margin)
        words[self._word(room, "kept")] = store.oldest(room)

    def _find_holes(self) -> None:
        """Where the ring no longer has what comes next, nothing before it is offered."""
        for room in range(1, self._count):
            there = self._words[self._word(room, "oldest_seq")]
            if there > self._expected[room]:
                self._drop(room, there)

    def _drop(self, room: int, before: int) -> None:
        self._store.drop(room, before)
        self._expected[room] = before
        self._touched.add(room)

    def collect(self) -> None:
        """Take what is new out of the ring."""
        events, words, store = self.state.events, self._words, self._store
        while self.cursor < events.head():
            event = events.read(self.cursor + 1)
            if event is None:
                words[self._laps] += 1
                self.cursor = max(self.cursor, events.head() - self._ring)
                self._find_holes()
                continue
            self.cursor += 1
            expected = self._expected[event.room] if event.room else 0
            if not event.room or event.seq < expected:
                continue
            if event.seq > expected:
                self._drop(event.room, event.seq)
            store.append(event.room, event.seq, event.frame[HEADER_LEN:])
            self._expected[event.room] = event.seq + 1
            self._touched.add(event.room)
            self._events += 1
            if store.buffered > BUFFERED_MAX:
                self._shed()
            if event.seq + BLOCK // 2 > words[self._word(event.room, "reserved")]:
                store.reserve(event.room, event.seq + BLOCK + self._margin)
                self.urgent = True
        words[self._cursor_at] = self.cursor

    def _shed(self) -> None:
        dropped = self._store.shed()
        self._words[self._dropped] += dropped
        self._events = 0
        log.error(
            "room_events_dropped",
            events=dropped,
            advice="too many waited for the disk: they are not kept, nor what is older in their "
            "rooms; look at the disk of the data directory",
        )

    @property
    def behind(self) -> bool:
        """Is there anything new in the ring?"""
        return self.cursor < self.state.events.head()

    @property
    def collected(self) -> bool:
        """Is there anything that is not written?"""
        return bool(self._touched)

    def write(self) -> bool:
        """Write what was collected; True where there is something to `sync`. OSError."""
        if not self._store.write():
            return False
        self._written, self._touched = self._touched, set()
        self._events_written, self._events = self._events, 0
        self.urgent = False
        for room in self._written:
            self._words[self._word(room, "kept")] = self._store.oldest(room)
        return True

    def finish(self) -> None:
        """After the sync: what was reserved may be used."""
        self._store.finish()
        self._words[self._kept] += self._events_written
        for room in self._written:
            self._tell(room)

    def settle(self) -> None:
        """The orderly stop: no room_seq is skipped at the next start."""
        self.collect()
        self._store.settle(
            {
                room: self._words[self._word(room, "last_seq")]
                for room in range(1, self._count)
                if self._store.ceiling(room)
            }
        )


class Asked:
    """A question that is being answered: a worker's end, and what has been found so far."""

    def __init__(self, sock: socket.socket, question: Question) -> None:
        self.sock = sock
        self.token, self.kind, self._until, self.fields = question
        self.items: list[tuple[int, ...]] = []

    @property
    def late(self) -> bool:
        """Nobody waits for the answer any more."""
        return time.monotonic_ns() > self._until


class Answers:
    """What questions are answered with."""

    def __init__(self, state: State, store: RoomStore, history: History) -> None:
        self._state, self._store, self._history = state, store, history
        self._trails = Trails(self._record)

    def events(self, asked: Asked) -> bytes:
        """JournalError, OSError."""
        room, after, limit, size = asked.fields
        bodies = self._store.read(room, after, limit, size)
        return pack_events(asked.token, self._store.oldest(room), bodies)

    def txns(self, asked: Asked) -> bytes:
        """Work on it; its answer, or b"" where there is more to do. Called in one other thread.
        JournalError, OSError."""
        user, txn, before, limit = asked.fields
        left = limit - len(asked.items)
        more, older = follow(self._record, user, txn, before, left, STEPS)
        asked.items += more
        if older and older != txn:  # there is more of it, and it is kept
            asked.fields = user, older, before, limit
            return b""
        asked.fields = user, 0, before, limit
        trail = self._trails.walk(user, self._state.ledger.newest(user), STEPS)
        if trail is None:
            return b""
        return pack_txns(asked.token, trail.at, trail.oldest, asked.items)

    def _record(self, txn: int) -> tuple[int, ...] | None:
        if txn < self._state.region.journal.oldest:
            return None  # a part of it may still be in memory here, and what is between is gone
        return self._state.log.read(txn) or self._history.read(txn)


class Desk:
    """Where questions of workers are taken, and answers given.

    What reads the journal is done in a thread, `STEPS` records of one question after the other:
    the ring is kept waiting by no disk and no checksum, a short question by no long one. The
    workers have turns, too.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        answers: Answers,
        thread: Executor,
        wakeup: Wakeup,
    ) -> None:
        """wakeup: ends a `wait`."""
        self._answers, self._thread = answers, thread
        self._out = {sock: deque([pack_hello()]) for sock in sockets}
        self._turns = deque(sockets)
        self._asked: deque[Asked] = deque()
        self._working: tuple[Asked, Future[bytes]] | None = None
        self._wakeup = wakeup  # set when a step has been done, too
        self.poll: Final = select.poll()
        self.poll.register(wakeup, select.POLLIN)
        self.woken = False  # the latest `wait` ended before its time
        self._readable: set[int] = set()
        self.answered = 0  # questions
        for sock in sockets:  # what was asked of the process before comes again, after the hello
            _discard(sock)

    def wait(self, timeout_s: float) -> bool:
        """Until there is something to do, or the time is over; is there a question to `take`?"""
        reads = select.POLLIN if len(self._asked) < ASKED_MAX else 0
        for sock, out in self._out.items():  # who does not take its answers asks no more
            self.poll.register(sock, select.POLLOUT if out else reads)
        ready = self.poll.poll(timeout_s * 1000)
        self.woken = bool(ready)
        readable = {fd for fd, what in ready if what & select.POLLIN}
        self._wakeup.clear()
        self._readable = {
            sock.fileno() for sock in self._out if sock.fileno() in readable and _asks(sock)
        }
        return bool(self._readable)

    def take(self) -> None:
        """Take one question of each worker that asks. All that has come out of the ring must be
        in the files."""
        for _ in range(len(self._turns)):
            if len(self._asked) >= ASKED_MAX:
                return
            sock = self._turns[0]
            self._turns.rotate(-1)
            if sock.fileno() not in self._readable:
                continue
            asked = Asked(sock, Question.unpack(sock.recv(DATAGRAM_MAX)))
            if asked.kind == Kind.TXNS:
                self._asked.append(asked)
            elif not asked.late:
                self._answer(asked, partial(self._answers.events, asked))

    def work(self) -> None:
        """Have the next step done, and send what can be sent."""
        if self._working is not None and self._working[1].done():
            asked, step = self._working
            self._working = None
            if not self._answer(asked, step.result):
                self._asked.append(asked)
        while self._working is None and self._asked:
            asked = self._asked.popleft()
            if asked.late:
                continue
            step = self._thread.submit(self._answers.txns, asked)
            self._working = asked, step
            step.add_done_callback(lambda _: self._wakeup.set())
        for sock, out in self._out.items():
            _send(sock, out)

    def _answer(self, asked: Asked, found: Callable[[], bytes]) -> bool:
        """Answer it, if there is an answer."""
        try:
            answer = found()
        except (JournalError, OSError) as error:
            log.error("history_unreadable", reason=str(error))
            answer = pack_failure(asked.token)
        if answer:
            self._out[asked.sock].append(answer)
            self.answered += 1
        return bool(answer)


def _serve(inherited: Inherited, report: Report) -> None:
    settings, region = inherited.settings, inherited.region
    disk, data = Disk(), inherited.data
    store = RoomStore(
        disk,
        data.rooms,
        keep=settings.room_history,
        segment_size=SEGMENT_SIZE,
        now=now_us,
        new_epoch=region.header.epoch,
    )
    if store.torn is not None:
        log.warning(
            "rooms_end_cut",  # it was being written when the server ended
            torn=str(store.torn),
        )
    keeper = Keeper(region, store)
    words, archive = region.words, region.archive
    if region.header.state != ServerState.STARTING:
        keeper.go_on()
    else:
        keeper.begin()
    history = History(disk, data.journal, lambda: region.log.durable)
    answers = Answers(keeper.state, store, history)
    woken = Wakeup()
    stop = Stop(inherited.workers, settings.graceful_timeout + LAST_S, woken)
    archive.pid = os.getpid()
    beat, queries, waiting = map(archive.index, ("beat", "queries", "waiting"))
    archive.failed = 0  # what ended the one before has been mended
    due, syncing, before = 0.0, cast("Future[None] | None", None), words[queries]
    with ThreadPoolExecutor(1) as disk_thread, ThreadPoolExecutor(1) as reading:
        for each in (disk_thread, reading):
            each.submit(int).result()  # its thread is there, or cannot be
        report.serves()
        desk = Desk(inherited.sockets, answers, reading, woken)
        short = min(settings.flush_interval, POLL_S)

        def sleep() -> bool:
            """With nothing to do. Who publishes at this instant may not see that this sleeps, and
            this not see the event: the second look sees it."""
            words[waiting] = 1
            asked = False
            for seconds in (short, BEAT_S):
                if keeper.behind:
                    break
                asked = desk.wait(seconds)
                if desk.woken:
                    break
            words[waiting] = 0
            return asked

        while not stop:
            words[beat] += 1
            stop.watch(desk.poll)
            asked = desk.wait(short) if syncing or keeper.collected else sleep()
            keeper.collect()
            if syncing is not None and syncing.done():
                syncing.result()
                syncing = None
                keeper.finish()
            now = time.monotonic()
            if syncing is None and (now >= due or keeper.urgent or asked) and keeper.write():
                due = now + settings.flush_interval
                syncing = disk_thread.submit(store.sync)
            if asked and (keeper.collected or not store.readable):
                # What is not in the files yet might be asked for.
                time.sleep(AGAIN_S)
            elif asked:
                desk.take()
            desk.work()
            words[queries] = before + desk.answered
        if syncing is not None:
            syncing.result()
            keeper.finish()
    woken.close()
    if stop.alone:  # else a worker may yet use a number that is reserved
        keeper.settle()
    store.close()


def _asks(sock: socket.socket) -> bool:
    """Is there a question? Takes the news before it, which has done its work by waking this."""
    with suppress(BlockingIOError):
        while sock.recv(len(NEWS) + 1, socket.MSG_PEEK) == NEWS:  # a question is longer
            sock.recv(DATAGRAM_MAX)
        return True
    return False


def _discard(sock: socket.socket) -> None:
    with suppress(BlockingIOError):
        while sock.recv(DATAGRAM_MAX):
            pass


def _send(sock: socket.socket, queue: deque[bytes]) -> None:
    while queue:
        try:
            sock.send(queue[0])
        except BlockingIOError:
            return
        queue.popleft()


def _fail(region: Region, number: int) -> None:
    """Nobody need wait for an answer; number: the errno."""
    region.archive.failed = number


def run(inherited: Inherited, master: int) -> NoReturn:
    """The whole life of an archive process, after its fork. Ends the process."""
    settings, code = inherited.settings, Exit.FAILED
    report = Report(inherited.ready, READY)
    try:
        enter(settings, "archive", master)
        _serve(inherited, report)
        code = Exit.OK
    except JournalError as error:
        _fail(inherited.region, errno.EIO)
        report.fails(str(error))
        if report.served:
            log.error(
                "rooms_unusable",
                reason=str(error),
                advice="look at the disk, then at docs/JOURNAL.md: what the server says and how to "
                "repair",
            )
        code = Exit.DATA_REFUSED
    except OSError as error:
        _fail(inherited.region, error.errno or errno.EIO)
        if not report.served:
            reason = limit_of(error) or error.strerror
            report.fails(f"{inherited.data.rooms} cannot be written: {reason}")
            os._exit(Exit.FAILED)
        log.error(
            "rooms_unwritable",
            directory=str(inherited.data.rooms),
            reason=error.strerror,
            errno=error.errno,
            advice="rooms carry on until their reserved numbers are used up, and what is said now "
            "is not kept: mend the disk or make space on it",
        )
    except BaseException as error:
        if not report.served and (limit := limit_of(error)):
            report.fails(limit)
        else:
            log.error("archive_crashed", exc_info=error)
    finally:
        os._exit(code)
