"""A small region that is worked on at random, by several workers, and what it showed after each
step: what a journal's readers make of the records and events is compared with it, word for word.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypothesis import strategies as st

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW, TxnKind
from libproto.scram import Verifier
from server.core.check import problems
from server.core.errors import Busy, NotAdmitted, StateRefusal
from server.core.events import SlotKind
from server.core.session import Session
from server.core.state import State
from server.journal.books import Books
from server.journal.disk import Disk
from server.journal.format import event_size
from server.journal.load import Idleness, Loaded, fill, load, make_snapshot
from server.journal.money import ROW_WORDS
from server.journal.reader import Batch, Position, Reader
from server.journal.snapshot import paths, txn_of
from server.journal.writer import Writer
from server.region.layout import OUTCOME_WORDS, WORD
from server.region.records import RECORD_SIZE, SUPPLY, RecordKind, UserRole, UserState
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

LOG_ID: Final = 0x106_1D
JOURNAL: Final = Path("/data/journal")
SNAPSHOTS: Final = Path("/data/snapshots")
UNWRITTEN: Final = int(SlotKind.PAYMENT)
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


MONEY_KINDS: Final = (
    "register", "login", "login", "logout", "deposit", "withdraw", *("transfer",) * 4,
)  # fmt: skip
CHAT_KINDS: Final = ("join", "join", "leave", *("say",) * 3, *("whisper",) * 2, *("pay",) * 2)


ROOM_KINDS: Final = (
    *("open",) * 2, *("topic",) * 2, "access", *("role",) * 3, *("offer",) * 3, "drop",
    *("take",) * 3, "block", "delete", *("join",) * 3,
)  # fmt: skip
OPERATOR_KINDS: Final = (*("paid_in",) * 2, *("paid_out",) * 2, *("passwd",) * 2, *("set",) * 2)
NUMBERED: Final = 67
"""Rooms that are there without being opened; three more can be."""


def _steps(kinds: tuple[str, ...]) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.builds(
            Step,
            st.sampled_from(kinds),
            st.integers(0, 11),
            st.integers(0, 6),
            st.one_of(
                st.integers(1, 100), st.sampled_from([MAX_BALANCE // 2, MAX_BALANCE, 2**64 - 1])
            ),
            st.one_of(st.integers(1, 3), st.integers(-70, 70)),
        ),
        max_size=80,
    )


STEPS: Final = _steps(MONEY_KINDS + CHAT_KINDS)
ROOM_STEPS: Final = _steps((*MONEY_KINDS, *CHAT_KINDS, *ROOM_KINDS, *OPERATOR_KINDS))
MONEY_STEPS: Final = _steps(MONEY_KINDS)
KINDS = {"deposit": TxnKind.DEPOSIT, "withdraw": TxnKind.WITHDRAW, "transfer": TxnKind.TRANSFER}
ROOMY: Final = {"roles": 64, "offers": 32, "blocks": 32}
"""Places that are never taken up."""
CLIENT_IDS = (0, 7, 8, 2**64 - 1)


class History:
    """The region, its workers, and what has happened."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.states = [
            state_of(region, worker, clock_us=lambda: self.now, numbered_rooms=NUMBERED)
            for worker in range(3)
        ]
        self.sessions: list[tuple[State, Session]] = []
        self.now = STARTED_US
        self.truths = [truth(region)]  # by txn_id, the last of each
        self.moments = [self.moment]  # of each step that changed something
        self.shown = [self.truths[0]]  # at each moment
        self._events: list[bytes] = []  # by number, from 1 on

    @property
    def head(self) -> int:
        return self.states[0].log.head()

    @property
    def moment(self) -> tuple[int, int]:
        """The newest transaction and event."""
        return self.head, self.states[0].events.head()

    def last_of(self, txn: int) -> int:
        """The number of the last moment of a transaction."""
        return max(n for n, moment in enumerate(self.moments) if moment[0] == txn)

    def events(self, first: int, last: int) -> list[bytes]:
        """From one number to another, as they stood in the ring, those that are written."""
        written = self._events[first - 1 : last]
        return [each for each in written if int.from_bytes(each[8:16], "little") != UNWRITTEN]

    def books(self, moment: int = -1) -> Books:
        """The records and events up to a moment, by number, folded one moment after the other."""
        books = Books()
        for txn, event in self.moments[1:][: moment if moment >= 0 else None]:
            books.apply(self.records(books.txn + 1, txn))
            books.apply_events(b"".join(self.events(books.event + 1, event)), event + 1)
        return books

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
            except (Busy, NotAdmitted):
                return
            self.sessions.append((state, session))
        elif not self.sessions:
            return
        elif step.what == "logout":
            state, session = self.sessions.pop(step.who % len(self.sessions))
            state.sessions.end(session, self.now)
        elif step.what in OPERATOR_KINDS:
            with suppress(StateRefusal):
                self.operate(state, 1 + step.who % count, step)
            while self.region.registry.ending_sessions:
                state.sessions.finish_ended(self.now)
        else:
            state, session = self.sessions[step.who % len(self.sessions)]
            with suppress(StateRefusal):
                self.request(state, session, step)
        self._look()

    def _look(self) -> None:
        """Note what has become of a step."""
        now = truth(self.region)
        # One transaction a step, but for changes of rooms: of one of these the last counts.
        self.truths += [now] * (self.head - len(self.truths))
        self.truths[self.head :] = [now]
        if self.moment != self.moments[-1]:
            ring, first = self.region.layout["event_ring"], self.moments[-1][1] + 1
            for number in range(first, self.moment[1] + 1):
                at = ring.at(number % ring.records)
                size = event_size(self.region.words[at + 7])
                self._events.append(bytes(self.region.bytes[at * WORD : at * WORD + size]))
            self.moments.append(self.moment)
            self.shown.append(now)

    def request(self, state: State, session: Session, step: Step) -> None:
        """StateRefusal."""
        clients, now = self.region.layout["clients"], self.now
        newest = (
            self.region.words[session.client + clients.offsets["newest"]] if session.client else 0
        )
        req_id, room = max(FLOOR, newest + step.ahead), 1 + step.other % 3
        text = f"{step.amount} from {step.who}"
        if step.what in ROOM_KINDS and step.what != "join":
            self.change(state, session, step, req_id)
            return
        if step.amount % 2 and state.rooms.opened(room + NUMBERED):
            room += NUMBERED
        if step.what == "join":
            state.memberships.join(session, room, now)
        elif step.what == "leave":
            state.memberships.leave(session, room, now)
        elif step.what == "say":
            state.chat.send(session, room, text, now, req_id, 0)
        elif step.what == "whisper":
            state.chat.direct(session, step.other, text, now, req_id, 0)
        elif step.other == session.user:
            return
        elif step.what == "pay":
            state.pairs.transfer(session, room, step.other, step.amount, text, req_id, 0, now)
        else:
            other = step.other if step.what == "transfer" else 0
            state.ledger.execute(session, KINDS[step.what], other, step.amount, req_id, False, now)

    def operate(self, state: State, user: int, step: Step) -> None:
        """What the operator does, or a user to the own password. StateRefusal."""
        now, operators, n = self.now, state.operators, step.amount
        if step.what == "passwd":
            keys = bytes([n % 256]) * 32
            verifier = Verifier(b"t" * 16, 4096 + n % 1000, keys, keys[::-1])
            by = next((s for _, s in self.sessions if s.user == user), None) if n % 2 else None
            operators.set_verifier(user, verifier, now, by)
        elif step.what == "set":
            operators.set_user(
                user, now, role=UserRole(step.other % 3), state=UserState(max(0, step.ahead) % 3)
            )
        else:
            kind = RecordKind.PAID_IN if step.what == "paid_in" else RecordKind.PAID_OUT
            note = "for reasons " * (step.other * 4)
            operators.move(user, kind, n, note[:256], 1 + n % 1000, now)

    def change(self, state: State, session: Session, step: Step, req_id: int) -> None:
        """Of a room, or of a board. StateRefusal."""
        now, changes, who = self.now, state.changes, 1 + step.other % 5
        room = NUMBERED + 1 + step.amount // 7 % 3
        places = room if step.amount % 3 else 1
        offers = list(state.boards.offers(places, 0))
        if step.what == "open":
            changes.open_room(session, "abcXYZ"[step.other % 6], req_id, 0, now, 5)
        elif step.what == "topic":
            topic = "what it is about " * (step.amount % 16)
            changes.set_room(session, room, topic, state.rooms.access(room), req_id, 0, now)
        elif step.what == "access":
            changes.set_room(session, room, state.rooms.topic(room), step.other % 3, req_id, 0, now)
        elif step.what == "role":
            role, seconds = step.amount % 6, step.amount % 2 * 1000
            if who != session.user:
                changes.set_role(session, room, who, role, seconds, req_id, 0, now)
        elif step.what == "offer":
            price, text = step.amount % 50, "for sale: " + "x" * (step.amount * 40 % 247)
            changes.add_offer(session, places, price, text, 3, req_id, 0, now)
        elif step.what == "delete":
            last, entry = state.events.last_seq(places), offers[0].entry if offers else 0
            changes.delete_text(session, places, last, session.user, entry, req_id, now)
        elif step.what == "block":
            if who != session.user:
                state.blocks.set(session, who, bool(step.amount % 3), now)
        elif offers:
            offer = offers[step.who % len(offers)]
            if step.what == "drop":
                changes.remove_offer(session, places, offer.entry, req_id, 0, now)
            elif offer.price:
                changes.take_offer(session, places, offer.entry, offer.price, req_id, 0, now)


@contextmanager
def history(*steps: Step, **capacities: int) -> Iterator[History]:
    """One that has begun, and has done these steps."""
    sizes = {"txn_ring": 512, "clients": 4, "accounts": 5} | ROOMY | capacities
    with small_region(**sizes) as region:
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
# The same, with rooms and messages in between: with and without a client, repeated in another
# order, events of a step that makes no transaction and transactions without an event.
CHATTY: Final = tuple(
    step
    for n, each in enumerate(VARIED)
    for step in (
        each,
        Step("join", n, n),
        Step("say", n, n, n, 2 - n % 3),
        Step("whisper", n, 1 + n % 3, n, 3),
        Step("join", n + 1, n + 1),
        Step("pay", n + 1, 1 + n % 3, 1, 5 - n % 4),
        Step("say", n + 1, n + 1, n, -2),
        *([Step("leave", n, n)] if n % 4 == 3 else []),
    )
)


# Rooms with names, roles and boards: opened, changed, given away, closed, opened again; offers that
# are taken and removed, by who may and who may not.
BOARDED: Final = (
    Step("register"),
    Step("open", 0, 0),
    Step("block", 1, 2, 1),
    *(Step("join", who, 0, amount) for who in range(2) for amount in (1, 2)),
    Step("topic", 0, 0, 5),
    Step("offer", 0, 0, 4),
    Step("offer", 1, 0, 6),
    Step("role", 0, 1, 1),
    Step("role", 0, 1, 4),
    Step("take", 1, 0, 1),
    Step("drop", 1, 0, 6),
    Step("offer", 0, 0, 5),
    Step("delete", 0, 0, 5),
    Step("access", 0, 1),
    Step("role", 0, 2, 5),
    Step("access", 0, 2),
    Step("block", 1, 0, 3),
    Step("leave", 0, 0, 1),
    Step("leave", 1, 0, 1),
    *(Step("deposit", 1) for _ in range(6)),  # until its number is free
    Step("open", 1, 0),
    Step("topic", 1, 0, 3),
    Step("role", 1, 0, 3),
)


# What operators do: money with and without notes, a key twice, passwords, roles; one who is
# disabled, enabled, paid out and deleted.
OPERATED: Final = (
    Step("register"),
    Step("login", 2, 0),
    Step("paid_in", 2, 0, 500),
    Step("paid_in", 2, 6, 7),
    Step("paid_in", 2, 6, 7),
    Step("paid_out", 0, 3, 30),
    Step("passwd", 0, amount=3),
    Step("passwd", 0, amount=4),
    Step("passwd", 1, amount=5),
    Step("set", 0, 1, ahead=3),
    Step("set", 1, 2, ahead=3),
    Step("set", 2, 0, ahead=1),
    Step("login", 2, 0),
    Step("set", 2, 0, ahead=3),
    Step("login", 2, 0),
    Step("set", 2, 0, ahead=2),
    Step("paid_out", 2, 1, 507),
    Step("set", 2, 0, ahead=2),
    Step("transfer", 0, 3, 5),
    Step("paid_in", 2, 0, 9),
)


# ---- what is compared


def truth(region: Region) -> Truth:
    """What a region holds of the state, but for the ring: everything that no other word tells."""
    words, layout = region.words, region.layout
    found: Truth = {}
    for segment, first, last in (
        ("users", "direct_seq", "first_session"),
        ("rooms", "last_seq", "oldest_seq"),
        ("accounts", "balance", "closed"),
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
    found["events", 0] = [words[layout["events"].at(0, "head")]]
    return found | _users_truth(region) | _named_truth(region)


def _users_truth(region: Region) -> Truth:
    """Who is registered, with which verifier, wherever it stands; and the operator's commands."""
    found: Truth = {}
    users = State(region, 0, int, lambda _: None, 0).users
    for user in range(1, region.registry.users + 1):
        verifier, _ = users.verifier(user)
        found["user", user] = [
            *users.name(user).encode(), verifier.iterations, *verifier.salt, *verifier.stored_key,
            *verifier.server_key, users.role(user), users.state(user),
        ]  # fmt: skip
        assert region.record("accounts", user).closed == (users.state(user) == UserState.DELETED)
    keys = region.layout["operator_keys"]
    for slot in range(keys.records):
        txn, key, *rest = region.words[keys.at(slot) : keys.at(slot) + keys.stride].tolist()
        if txn:
            found["key", key] = [txn, *rest]
    return found


def _named_truth(region: Region) -> Truth:
    """Rooms with names, roles, offers and blocks: where they stand does not matter."""
    found: Truth = {}
    state = State(region, 0, int, lambda _: None, 0, clock_us=lambda: 0)
    opened = region.column("rooms", "opened")
    for room, opening in enumerate(opened):
        if opening:
            record = region.record("rooms", room)
            fields = opening, record.first_seq, record.access, record.owner, record.closed
            # The name of a room that is closed counts no more.
            name = state.rooms.info(room, 0).name.encode() if state.rooms.is_open(room) else b""
            texts = name + b"\0" + state.rooms.topic(room).encode()
            found["named", room] = [*fields, *texts]
    for slot in range(region.layout.capacities.roles):
        role = region.record("roles", slot)
        room = role.key >> 32
        if role.role and role.opened == opened[room] and state.rooms.is_open(room):
            found["role", role.key] = [role.role, bool(role.until)]
    for room in range(1, len(opened)):
        for offer in state.boards.offers(room, 0):
            found["offer", offer.entry] = [*offer[1:5], *offer.text]
    for slot in range(region.layout.capacities.blocks):
        block = region.record("blocks", slot)
        if block.on:
            found["block", block.key] = [1]
    return found


def truth_of(books: Books) -> Truth:
    """The same of books."""
    found: Truth = {}
    for user in range(1, books.users + 1):
        profile = books.profiles[user]
        name, keys = profile[WORD : WORD + 32].rstrip(b"\0"), profile[WORD + 32 :]
        iterations = int.from_bytes(profile[:WORD], "little")
        found["user", user] = [
            *name, iterations, *keys, books.roles[user], books.states[user],
        ]  # fmt: skip
        if books.direct_seqs[user]:
            found["users.direct_seq", user] = [books.direct_seqs[user] + books.skips]
        account = [books.balances[user], books.last_txn[user]]
        if any(account):
            found["accounts.balance", user] = account
    for slot in range(books.clients):
        found["clients.user", slot] = [books.client_users[slot], books.client_ids[slot]]
        found["clients.floor", slot] = [books.floors[slot], books.marks[slot]]
        row = books.outcomes[slot * ROW_WORDS : (slot + 1) * ROW_WORDS].tolist()
        if any(row):
            found["clients.newest", slot] = [books.newest[slot], *row]
    found["log", 0] = [books.txn, books.supply]
    found["registry", 0] = [books.users, books.clients]
    found["events", 0] = [books.event]
    for room in books.rooms:
        found["rooms.last_seq", room] = [books.last_seq(room)]
    named = books.named
    for number, its in named.rooms.items():
        fields = its.opened, its.first_seq, its.access, its.owner, its.closed
        texts = (its.name if its.is_open else b"") + b"\0" + its.topic
        found["named", number] = [*fields, *texts]
    for (room, user), (role, below, until) in named.roles.items():
        found["role", room << 32 | user] = [below << 8 | role, bool(until)]
    for entry, offer in named.offers.items():
        found["offer", entry] = [*offer[1:5], *offer.text]
    for key, executed in books.keys.items():
        found["key", key] = [*executed]
    for user, blocked in books.blocks:
        found["block", user << 32 | blocked] = [1]
    return found


def in_window(of: Truth) -> Truth:
    """Without outcomes that are too old to be asked for: a batch has its transactions first, so it
    may pass over one that stood in the record before a later one made it old."""
    found = dict(of)
    for (segment, slot), (newest, *row) in of.items():
        if segment == "clients.newest":
            for at in range(0, ROW_WORDS, OUTCOME_WORDS):
                if row[at] + OUTCOME_WINDOW <= newest:
                    row[at : at + OUTCOME_WORDS] = [0] * OUTCOME_WORDS
            found[segment, slot] = [newest, *row]
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


def open_writer(disk: Disk, now: int = NOW, size: int = SEGMENT_SIZE) -> Writer:
    """At the journal's end."""
    reader = Reader(disk, JOURNAL, LOG_ID)
    for _ in reader.batches():
        pass
    return Writer(disk, JOURNAL, LOG_ID, reader.end, size, lambda: now)


def write_journal(
    disk: Disk, worked: History, last: int, batch: int = 1, size: int = SEGMENT_SIZE
) -> None:
    """Go on with the journal, from where it is to the last moment of a transaction, so many
    moments a batch. Transactions of a BEGIN or an END are not among a history's."""
    writer = open_writer(disk, worked.now, size)
    moments = worked.moments[: worked.last_of(last) + 1]
    ahead = [each for each in moments if each > writer.position[2:4]]
    for place in range(0, len(ahead), batch):
        (txn, event), position = ahead[place : place + batch][-1], writer.position
        records = [worked.records(position.txn + 1, txn)]
        events = worked.events(position.event + 1, event)
        writer.append(records, txn - position.txn, events, event + 1)
    writer.close()


def loaded_from(disk: Disk, noted: Position | None = None) -> Loaded:
    return load(disk, JOURNAL, SNAPSHOTS, LOG_ID, noted, lambda _done, _total: None)


def position_of(disk: Disk, txn: int) -> Position:
    """The end of the last batch that has no transaction above this."""
    ends = [each.end for each in batches(disk) if each.end.txn <= txn]
    return ends[-1] if ends else Position(0, 0, 0, 0, b"")


def snapshot_at(disk: Disk, upto: int) -> int:
    """The txn_id of the newest snapshot, none being bad."""
    made = make_snapshot(
        disk, JOURNAL, SNAPSHOTS, LOG_ID, position_of(disk, upto), None, NOW + upto
    )
    assert not made.bad
    return made.txn


def snapshot_of(disk: Disk, txn: int) -> Path:
    """The newest snapshot of a transaction."""
    return next(path for path in paths(disk, SNAPSHOTS) if txn_of(path) == txn)


def damage(disk: Disk, path: Path, *pieces: bytes, at: int = 0) -> None:
    fd = disk.open(path, writable=True)
    disk.write(fd, pieces, at)
    disk.close(fd)


def remove(disk: Disk, *gone: Path) -> None:
    for path in gone:
        disk.remove(path)


def batches(disk: Disk) -> list[Batch]:
    return list(Reader(disk, JOURNAL, LOG_ID).batches())


@contextmanager
def filled(loaded: Loaded, **capacities: int) -> Iterator[Region]:
    """A region with what was loaded, in which all holds."""
    room = {"txn_ring": 512, "clients": 4, "accounts": 5} | ROOMY | capacities
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
