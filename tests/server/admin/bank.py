"""A data directory that a bank has used, on a disk in memory: started, worked, stopped or killed,
by the parts that a server has, without its processes. What it showed after every commit is kept, so
that what a tool says or leaves of the directory is compared with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from libproto.messages import TxnKind
from server.core.session import Session
from server.core.state import State
from server.journal.books import Books
from server.journal.commit import Committer, segment_bytes
from server.journal.directory import DataDirectory, Identity
from server.journal.disk import Disk
from server.journal.format import BatchHead
from server.journal.load import Idleness, fill, make_snapshot
from server.journal.lost import Recall
from server.journal.position import PositionFile
from server.journal.position import read as read_position
from server.journal.reader import Batch, Position, Reader, find_end
from server.journal.start import load_state, note_start
from server.journal.writer import Writer
from server.region.region import Region
from tests.helpers.disk import SimulatedDisk
from tests.helpers.region import STARTED_US, login, register, small_region, state_of

DATA: Final = DataDirectory(Path("/data"))
SECRET: Final = bytes(range(32))
NOW: Final = 1_800_000_000_000_000
NAMES: Final = ("ann", "bob", "cyd")
ROOM: Final = 1
SIZES: Final = {"txn_ring": 16, "event_ring": 16, "clients": 6, "accounts": 5, "rooms": 4}


def no_histories(_head: BatchHead, _epoch: int) -> None:
    """They do not have the events."""


@dataclass
class Bank:
    """The directory, and what it is to hold."""

    disk: Disk = field(default_factory=SimulatedDisk)
    data: DataDirectory = DATA
    balances: dict[int, list[int]] = field(default_factory=dict)
    """By the txn_id that a commit ended with."""
    commits: list[Position] = field(default_factory=list)
    """The ends of all batches that had something in them."""
    log_ids: list[int] = field(default_factory=list)  # by run
    recall: Recall = no_histories

    def __post_init__(self) -> None:
        self.disk.make_directory(self.data.path)

    @contextmanager
    def run(self, *, stops: bool = True, snapshot: bool = True) -> Iterator["Run"]:
        """From a start of the server to its stop, or to its kill. snapshot: one is made at the
        end."""
        with self.start() as region:
            run = Run(self, region, region.header.log_id)
            yield run
            run.end(stops=stops, snapshot=snapshot)

    @contextmanager
    def start(self) -> Iterator[Region]:
        """A start of the server, before anybody is served: its region."""
        disk, data = self.disk, self.data
        with small_region(**SIZES) as region:
            kept = data.open(disk, Identity(SECRET, region.header.log_id))
            region.header.log_id = kept.log_id
            self.log_ids.append(kept.log_id)
            loaded = load_state(disk, data, kept.log_id, lambda _done, _of: None)
            is_new = data.is_new(disk)
            note_start(disk, data, loaded, region, 1, self.recall)
            if is_new:
                data.settle(disk)
            fill(region, loaded, NOW, Idleness({}, 0, 0, 0))
            yield region

    def work(self, *, stops: bool = True, snapshot: bool = True, batches: int = 4) -> None:
        """A run in which everybody deposits, pays and speaks, in so many commits."""
        with self.run(stops=stops, snapshot=snapshot) as run:
            for number in range(batches):
                run.deposit(0, 100 + number)
                run.say(1, f"message {number}")
                run.transfer(0, 2, 10 + number)
                run.commit()


class Run:
    """A server that runs."""

    def __init__(self, bank: Bank, region: Region, log_id: int) -> None:
        self.bank, self.region = bank, region
        self._log_id, self._time = log_id, STARTED_US
        disk, data = bank.disk, bank.data
        noted = read_position(disk, data.position, log_id)
        end = find_end(disk, data.journal, log_id, noted)
        size = segment_bytes(region.layout.capacities, 1)
        self.writer = Writer(disk, data.journal, log_id, end, size, lambda: NOW)
        self._noted = PositionFile(disk, data.position, log_id)
        self._committer = Committer(
            region, self.writer, self._noted, sync=True, wakeups=[], clock_us=lambda: 0
        )
        self._committer.publish()
        self.state: State = state_of(region)
        there = region.words[region.layout["registry"].at(0, "users")]
        register(self.state, *NAMES[there:])
        self.sessions: list[Session] = [
            login(self.state, user, 7) for user in range(1, len(NAMES) + 1)
        ]
        self._req_ids = [max(1, self._newest(each) + 1) for each in self.sessions]
        for session in self.sessions:
            self.state.memberships.join(session, ROOM, STARTED_US)
        self.commit()

    def _newest(self, session: Session) -> int:
        words, offsets = self.region.words, self.region.layout["clients"].offsets
        assert session.client
        return max(words[session.client + offsets[name]] for name in ("newest", "floor"))

    def _req_id(self, who: int) -> int:
        self._req_ids[who] += 1
        return self._req_ids[who]

    def deposit(self, who: int, amount: int) -> None:
        self._execute(who, TxnKind.DEPOSIT, 0, amount)

    def transfer(self, who: int, to_user: int, amount: int) -> None:
        self._execute(who, TxnKind.TRANSFER, to_user, amount)

    def _execute(self, who: int, kind: TxnKind, other: int, amount: int) -> None:
        done = self.state.ledger.execute(
            self.sessions[who], kind, other, amount, self._req_id(who), False, STARTED_US
        )
        assert done[0] == 0, done

    def say(self, who: int, text: str) -> None:
        self.state.chat.send(self.sessions[who], ROOM, text, STARTED_US, self._req_id(who), 0)

    def pay_in_room(self, who: int, to_user: int, amount: int) -> None:
        done = self.state.pairs.transfer(
            self.sessions[who], ROOM, to_user, amount, "paid", self._req_id(who), 0, STARTED_US
        )
        assert done[0] == 0, done

    def whisper(self, who: int, to_user: int, text: str) -> None:
        self.state.chat.direct(self.sessions[who], to_user, text, STARTED_US, self._req_id(who), 0)

    def commit(self) -> Position:
        assert self._committer.commit() > 0
        position, bank = self.writer.position, self.bank
        bank.commits.append(position)
        bank.balances[position.txn] = self.region.column("accounts", "balance")[: len(NAMES) + 1]
        return position

    def go_on(self) -> None:
        """Let more in than one segment and the rings hold: what is durable makes place."""
        self.writer.prepare()
        self._committer.publish()

    def snapshot(self) -> None:
        """Make one of all that is durable."""
        disk, data = self.bank.disk, self.bank.data
        make_snapshot(
            disk, data.journal, data.snapshots, self._log_id, self.writer.position, None, NOW
        )

    def end(self, *, stops: bool, snapshot: bool) -> None:
        if snapshot:
            self.snapshot()
        if stops:
            self.writer.finish()
            self._noted.write(self.writer.position)
            self._noted.sync()
        self.writer.close()
        self._noted.close()


def log_id(disk: Disk) -> int:
    return DATA.identity(disk).log_id


def batches(disk: Disk) -> list[Batch]:
    """All of them."""
    return list(Reader(disk, DATA.journal, log_id(disk)).batches())


def batch_of(disk: Disk, txn: int) -> Batch:
    """The batch that a transaction is in."""
    [found] = [each for each in batches(disk) if each.first <= txn <= each.last]
    return found


def break_at(disk: Disk, path: Path, offset: int) -> None:
    """Turn the bits of one byte."""
    fd = disk.open(path, writable=True)
    [byte] = disk.read(fd, 1, offset)
    disk.write(fd, [bytes([byte ^ 0xFF])], offset)
    disk.sync(fd)
    disk.close(fd)


def cut_at(disk: Disk, path: Path, size: int) -> None:
    fd = disk.open(path, writable=True)
    disk.truncate(fd, size)
    disk.sync(fd)
    disk.close(fd)


def state(disk: Disk) -> Books:
    """What a server starts with."""
    return load_state(disk, DATA, log_id(disk), lambda _done, _of: None).books
