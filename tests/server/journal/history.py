"""A small region that is worked on at random, by several workers, and what it showed after each
transaction: what a journal's readers make of the records is compared with it, word for word.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypothesis import strategies as st

from libproto.messages import MAX_BALANCE, TxnKind
from server.core.check import problems
from server.core.errors import Busy
from server.core.session import Session
from server.core.state import State
from server.journal.books import ROW_WORDS, Books
from server.journal.disk import Disk
from server.journal.load import Idleness, Loaded, fill, load, make_snapshot
from server.journal.reader import Batch, Reader
from server.journal.writer import Writer
from server.region.layout import WORD
from server.region.records import RECORD_SIZE, SUPPLY
from server.region.region import Region
from tests.helpers.disk import SimulatedDisk
from tests.helpers.region import (
    RETENTION_S,
    STARTED_US,
    VERIFIER,
    check_quiet,
    login,
    small_region,
    state_of,
    to_draw,
)

JOURNAL: Final = Path("/data/journal")
SNAPSHOTS: Final = Path("/data/snapshots")
NOW: Final = 1_800_000_000_000_000  # later than anything in a history
FLOOR: Final = 8  # of every client: within the window of one that is at 70
SEGMENT_SIZE: Final = 2000  # bytes: a segment holds few batches

Truth = dict[tuple[str, int], list[int]]
"""The words of every record that is in use, by segment and number."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do; each kind takes of the numbers what it needs."""

    what: str
    who: int = 0
    other: int = 0
    amount: int = 1
    ahead: int = 1  # of the client's newest req_id


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(
            ["register", "login", "login", "logout", "deposit", "withdraw", *["transfer"] * 4]
        ),
        st.integers(0, 11),
        st.integers(0, 6),
        st.one_of(st.integers(1, 100), st.sampled_from([MAX_BALANCE // 2, MAX_BALANCE, 2**64 - 1])),
        st.one_of(st.integers(1, 3), st.integers(-70, 70)),
    ),
    max_size=80,
)
KINDS = {"deposit": TxnKind.DEPOSIT, "withdraw": TxnKind.WITHDRAW, "transfer": TxnKind.TRANSFER}
CLIENT_IDS = (0, 7, 8, 2**64 - 1)


class History:
    """The region, its workers, and what has happened."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.states = [state_of(region, worker, clock_us=lambda: self.now) for worker in range(3)]
        self.sessions: list[tuple[State, Session]] = []
        self.now = STARTED_US
        self.truths = [truth(region)]  # by txn_id

    @property
    def head(self) -> int:
        return self.states[0].log.head()

    def records(self, first: int, last: int) -> bytes:
        """From one txn_id to another, as they stand in the ring."""
        ring = self.region.layout["txn_ring"]
        places = [ring.at(txn % ring.records) * WORD for txn in range(first, last + 1)]
        return b"".join(bytes(self.region.bytes[at : at + RECORD_SIZE]) for at in places)

    def record(self, txn: int) -> tuple[int, ...]:
        found = self.states[0].log.read(txn)
        assert found is not None
        return found

    def begin(self) -> None:
        """Two users with something to spend, each with a client."""
        for who in range(2):
            self.do(Step("register"))
            self.do(Step("login", who, 1))
            self.do(Step("deposit", who, amount=1000, ahead=70))

    def do(self, step: Step) -> None:
        self.now += 1
        state = self.states[step.who % 3]
        count = self.region.words[self.region.layout["registry"].at(0, "users")]
        if step.what == "register":
            if count < self.region.layout.capacities.accounts:
                state.users.register(f"user{count + 1}", VERIFIER, self.now)
        elif step.what == "login":
            user = 1 + step.who % count
            # Long enough, now and then, for a client without a session to lose its slot.
            self.now += 2 * RETENTION_S * 1_000_000 * (step.amount % 3 == 0)
            client_id = CLIENT_IDS[step.other % len(CLIENT_IDS)]
            req_id = max(FLOOR, to_draw(self.region, user, client_id))
            try:
                session = login(state, user, client_id, self.now, next_req_id=req_id)
            except Busy:
                return
            self.sessions.append((state, session))
        elif not self.sessions:
            return
        elif step.what == "logout":
            state, session = self.sessions.pop(step.who % len(self.sessions))
            state.sessions.end(session, self.now)
        else:
            state, session = self.sessions[step.who % len(self.sessions)]
            other = step.other if step.what == "transfer" else 0
            if other != session.user:
                self.request(state, session, KINDS[step.what], other, step.amount, step.ahead)
        assert self.head - len(self.truths) in (-1, 0), "one transaction a step"
        if self.head == len(self.truths):
            self.truths.append(truth(self.region))

    def request(
        self, state: State, session: Session, kind: int, other: int, amount: int, ahead: int
    ) -> None:
        clients = self.region.layout["clients"]
        newest = (
            self.region.words[session.client + clients.offsets["newest"]] if session.client else 0
        )
        req_id = max(FLOOR, newest + ahead)
        state.ledger.execute(session, kind, other, amount, req_id, False, self.now)


@contextmanager
def history(*steps: Step, **capacities: int) -> Iterator[History]:
    """One that has begun, and has done these steps."""
    with small_region(**({"txn_ring": 128, "clients": 4, "accounts": 5} | capacities)) as region:
        worked = History(region)
        worked.begin()
        for step in steps:
            worked.do(step)
        yield worked


# Every kind of record, requests out of their order, a client superseded, one whose slot goes to
# another (the fifth of four), payments to and from those who have no client.
VARIED: Final = (
    Step("transfer", 0, 2, 300),
    Step("transfer", 1, 1, 50, -5),
    Step("register"),
    Step("transfer", 0, 3, 7, 3),
    Step("login", 2, 0),
    Step("deposit", 2, amount=40),
    Step("withdraw", 1, amount=600),
    Step("login", 0, 1),
    Step("transfer", 3, 2, 9, 63),
    Step("login", 1, 2),
    Step("login", 2, 3),
    Step("deposit", 4, amount=MAX_BALANCE - 10_000),
    Step("withdraw", 5, amount=1),
    Step("logout", 1),
    Step("login", 2, 1, 3),
    Step("deposit", 5, amount=11),
    Step("transfer", 5, 1, 4, 100),
    Step("transfer", 2, 1, 4, 36),
)


# ---- what is compared


def truth(region: Region) -> Truth:
    """What a region holds of the state, but for the ring: everything that no other word tells."""
    words, layout = region.words, region.layout
    found: Truth = {}
    for segment, first, last in (
        ("users", "word", "last_seen"),
        ("accounts", "balance", ""),
        ("clients", "user", "session"),
        ("clients", "floor", "next"),
        ("clients", "newest", ""),
    ):
        placed = layout[segment]
        for record in range(placed.records):
            start = placed.at(record, first)
            end = placed.at(record, last) if last else placed.at(record) + placed.stride
            shown = words[start:end].tolist()
            if any(shown):
                found[f"{segment}.{first}", record] = shown
    head = words[layout["log"].at(0, "head")]
    ring = layout["txn_ring"]
    registry = layout["registry"]
    found["log", 0] = [head, words[ring.at(head % ring.records) + SUPPLY]]
    found["registry", 0] = [words[registry.at(0, field)] for field in ("users", "clients")]
    return found


def truth_of(books: Books) -> Truth:
    """The same of books."""
    found: Truth = {}
    for user in range(1, books.users + 1):
        profile = memoryview(books.profiles[user]).cast("Q").tolist()
        iterations, name, salt, keys = profile[:1], profile[1:5], profile[5:7], profile[7:]
        found["users.word", user] = [user, *name, *salt, *iterations, *keys]
        account = [books.balances[user], books.last_txn[user]]
        if any(account):
            found["accounts.balance", user] = account
    for slot in range(books.clients):
        found["clients.user", slot] = [books.client_users[slot], books.client_ids[slot]]
        found["clients.floor", slot] = [books.floors[slot]]
        row = books.outcomes[slot * ROW_WORDS : (slot + 1) * ROW_WORDS].tolist()
        if any(row):
            found["clients.newest", slot] = [books.newest[slot], *row]
    found["log", 0] = [books.txn, books.supply]
    found["registry", 0] = [books.users, books.clients]
    return found


def folded(records: bytes, books: Books | None = None) -> Books:
    books = Books() if books is None else books
    books.apply(records)
    return books


# ---- on disk


def new_disk() -> SimulatedDisk:
    """A disk with the two directories, kept."""
    disk = SimulatedDisk()
    for directory in (JOURNAL, SNAPSHOTS):
        disk.make_directory(directory)
    disk.sync_directory(JOURNAL.parent)
    return disk


def write_journal(
    disk: Disk, worked: History, last: int, batch: int = 3, size: int = SEGMENT_SIZE
) -> None:
    """Go on with the journal, from where it is to a txn_id, so many records a batch."""
    reader = Reader(disk, JOURNAL)
    for _ in reader.batches():
        pass
    writer = Writer(disk, JOURNAL, reader.end, size, lambda: worked.now)
    while writer.last < last:
        first = writer.last + 1
        count = min(batch, last - writer.last)
        writer.append([worked.records(first, first + count - 1)], count)
    writer.close()


def loaded_from(disk: Disk) -> Loaded:
    return load(disk, JOURNAL, SNAPSHOTS, lambda _done, _total: None)


def snapshot_at(disk: Disk, upto: int) -> int:
    """The txn_id of the newest snapshot, none being bad."""
    made = make_snapshot(disk, JOURNAL, SNAPSHOTS, upto, None, NOW + upto)
    assert not made.bad
    return made.txn


def damage(disk: Disk, path: Path, *pieces: bytes, at: int = 0) -> None:
    fd = disk.open(path, writable=True)
    disk.write(fd, pieces, at)
    disk.close(fd)


def remove(disk: Disk, *gone: Path) -> None:
    for path in gone:
        disk.remove(path)


def batches(disk: Disk) -> list[Batch]:
    return list(Reader(disk, JOURNAL).batches())


@contextmanager
def filled(loaded: Loaded, **capacities: int) -> Iterator[Region]:
    """A region with what was loaded, in which all holds."""
    room = {"txn_ring": 128, "clients": 4, "accounts": 5} | capacities
    with small_region(**room) as region:
        fill(region, loaded, NOW, Idleness({}, 0, 0, NOW))
        assert problems(region) == []
        check_quiet(region)
        yield region


def ring_of(region: Region) -> dict[int, bytes]:
    """The records in the ring, by txn_id."""
    ring, found = region.layout["txn_ring"], {}
    for slot in range(ring.records):
        at = ring.at(slot)
        if region.words[at]:
            found[region.words[at]] = bytes(region.bytes[at * WORD : at * WORD + RECORD_SIZE])
    return found
