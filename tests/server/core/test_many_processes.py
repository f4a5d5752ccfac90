"""Processes that hammer one region: what they were answered is one history, and it is the region's.

Every process records its answers, with the time before and after each request. Afterwards they
are put into the order of their numbers and replayed: each must have been answered what a single
process would have been, in an order that agrees with real time. While they run, an auditor that
has the region read-only, and so can take no lock, folds the log and compares.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import pytest

from libproto.codec import PUSH
from libproto.messages import HEADER_LEN, EventKind, Opcode, TxnKind
from server.core.errors import NameTaken
from server.core.ledger import DONE, FUNDS, RECORDED, SUPERSEDED
from server.core.session import Session
from server.core.state import State
from server.region.records import OFFSETS, RecordKind
from server.region.region import Region
from tests.helpers.region import (
    VERIFIER,
    Children,
    check_quiet,
    children,
    login,
    register,
    results,
    say,
    set_word,
    small_region,
    state_of,
    whisper,
    word,
)
from tests.helpers.server import wait_until

T = TypeVar("T")

PROCESSES = 4
USERS = ("ann", "bob", "cyd")  # few, so that they are in each other's way
STARTING, SERVING, DRAINING = range(3)  # of the region's state word: here, when to begin and to end
AT = OFFSETS[RecordKind.TRANSFER]
MONEY_KINDS = frozenset(int(kind) for kind in TxnKind)


def await_start(region: Region, worker: int) -> None:
    set_word(region, "workers", worker, "started", 1)
    wait_until(lambda: word(region, "header", 0, "state") == SERVING, "the start", 30)


def run_together(
    region: Region,
    processes: Children,
    work: Callable[[Region, int], T],
    watcher: Callable[[str], object] | None = None,
) -> list[T]:
    """The answers of PROCESSES that begin at the same moment; the watcher runs beside them."""
    working = [processes.start(work, region, worker) for worker in range(PROCESSES)]
    watching = [processes.start(watcher, region.name)] if watcher else []
    wait_until(
        lambda: all(word(region, "workers", n, "started") for n in range(PROCESSES)), "all there"
    )
    set_word(region, "header", 0, "state", SERVING)
    answers = results(working)
    set_word(region, "header", 0, "state", DRAINING)
    results(watching)
    check_quiet(region)
    return answers


def agrees_with_real_time(spans: Sequence[tuple[int, int]]) -> bool:
    """Of (begun, ended) in the order of their numbers: none ended before an earlier one began."""
    ended_first = 2**64
    for begun, ended in reversed(spans):
        if ended_first < begun:
            return False
        ended_first = min(ended_first, ended)
    return True


def test_the_check_of_real_time() -> None:
    assert agrees_with_real_time([(1, 2), (3, 4), (3, 9), (5, 6), (8, 9)])
    assert agrees_with_real_time([(3, 9), (1, 4)])
    assert not agrees_with_real_time([(1, 2), (5, 6), (3, 4)])
    assert not agrees_with_real_time([(8, 9), (7, 20), (20, 21), (3, 4)])


# ---- money


class Trade(NamedTuple):
    """A request and its answer. kind 0: BALANCE, answered (last_txn, balance)."""

    user: int
    kind: int
    other: int
    amount: int
    begun_ns: int
    ended_ns: int
    what: int
    txn: int
    balance: int


TRADES = 6_000  # of each process


def trade(region: Region, worker: int) -> list[Trade]:
    state, rng = state_of(region, worker), random.Random(worker)  # noqa: S311 - no secret
    sessions = [login(state, user, client_id=worker + 1) for user in range(1, len(USERS) + 1)]
    done: list[Trade] = []
    await_start(region, worker)
    for req_id in range(1, TRADES + 1):
        session = rng.choice(sessions)
        kind = rng.choice((0, 1, 2, 3, 3, 3, 3))
        other = rng.choice([user for user in (1, 2, 3) if user != session.user])
        done.append(
            ask(state, session, kind, other if kind == 3 else 0, rng.randint(1, 60), req_id)
        )
        if kind and done[-1].what == DONE and rng.random() < 0.05:
            again = ask(state, session, kind, done[-1].other, done[-1].amount, req_id)
            assert (again.what, again.txn, again.balance) == (RECORDED, *done[-1][-2:])
    return done


def ask(state: State, session: Session, kind: int, other: int, amount: int, req_id: int) -> Trade:
    begun = time.monotonic_ns()
    if kind:
        what, txn, balance = state.ledger.execute(
            session, kind, other, amount, req_id, False, begun // 1000
        )
    else:
        live, balance, txn = state.ledger.balance(session)
        assert live
        what = DONE
    ended = time.monotonic_ns()
    return Trade(session.user, kind, other, amount, begun, ended, what, txn, balance)


class Auditor:
    """Folds the log, and compares the accounts with it. Of a region that it cannot write to."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.log = state_of(region).log
        self.txn = 0
        self.balances: dict[int, int] = defaultdict(int)
        self.last: dict[int, int] = defaultdict(int)
        self.compared = 0

    def fold(self) -> None:
        """To the head: every record is there, follows from those before it, and conserves."""
        for txn in range(self.txn + 1, self.log.head() + 1):
            record = self.log.read(txn)
            assert record is not None, txn
            if record[AT["kind"]] in MONEY_KINDS:
                self._money(txn, record)
            assert record[AT["supply"]] == sum(self.balances.values()), txn
            self.txn = txn

    def _money(self, txn: int, record: tuple[int, ...]) -> None:
        for side, sign in (("from", -1), ("to", 1)):
            user = record[AT[f"{side}_user"]]
            if user:
                self.balances[user] += sign * record[AT["amount"]]
                assert record[AT[f"{side}_balance"]] == self.balances[user] >= 0, txn
                assert record[AT[f"{side}_previous"]] == self.last[user], txn
                self.last[user] = txn

    def compare(self) -> None:
        """Accounts whose last transaction is among those folded. One that is being written is
        looked at again: its transaction will stand there, or the account moves on."""
        for user in range(1, len(USERS) + 1):
            deadline = time.monotonic() + 20
            while True:
                last = word(self.region, "accounts", user, "last_txn")
                balance = word(self.region, "accounts", user, "balance")
                if last > self.txn:
                    break
                if (last, balance) == (self.last[user], self.balances[user]):
                    self.compared += 1
                    break
                assert time.monotonic() < deadline, (user, last, balance, self.last, self.balances)
                self.fold()


def audit(name: str) -> None:
    region = Region.attach(name)
    auditor = Auditor(region)
    running = True
    while running:
        running = word(region, "header", 0, "state") != DRAINING
        auditor.fold()
        auditor.compare()
    assert auditor.compared >= len(USERS)
    assert auditor.txn == auditor.log.head()


class Account:
    """All that an account ever was: txn_id, balance after it, and the request that made it."""

    def __init__(self, txn: int, balance: int) -> None:
        self.states: list[tuple[int, int, Trade | None]] = [(txn, balance, None)]

    @property
    def balance(self) -> int:
        return self.states[-1][1]

    def change(self, trade: Trade, amount: int) -> None:
        self.states.append((trade.txn, self.balance + amount, trade))
        assert self.balance >= 0, trade

    def check_told(self, told: list[Trade]) -> None:
        """Each tells a state that the account was in between question and answer: not one that
        began later, not one whose successor was over before."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, (txn, balance, _) in enumerate(self.states):
            places[txn].append(place)
            places[-1 - balance].append(place)
        for each in told:
            key = -1 - each.balance if each.what == FUNDS else each.txn
            assert any(self._could_tell(each, place) for place in places[key]), each

    def _could_tell(self, told: Trade, place: int) -> bool:
        _, balance, by = self.states[place]
        _, _, then = self.states[place + 1] if place + 1 < len(self.states) else (0, 0, None)
        return (
            balance == told.balance
            and (by is None or by.begun_ns <= told.ended_ns)
            and (then is None or told.begun_ns <= then.ended_ns)
        )


def replay(made: list[Trade], accounts: dict[int, Account]) -> None:
    """One after the other; each was answered the balance that it finds."""
    for each in made:
        deposit = each.kind == TxnKind.DEPOSIT
        accounts[each.user].change(each, each.amount if deposit else -each.amount)
        assert each.balance == accounts[each.user].balance, each
        if each.other:
            accounts[each.other].change(each, each.amount)


def open_accounts(region: Region) -> dict[int, Account]:
    state, accounts = state_of(region), {}
    for user in register(state, *USERS):
        session = login(state, user)
        what, txn, balance = state.ledger.execute(session, TxnKind.DEPOSIT, 0, 100, 1, False, 1)
        assert what == DONE
        accounts[user] = Account(txn, balance)
        state.sessions.end(session, 1)
    return accounts


@pytest.mark.parametrize("account_locks", [4, 2])
def test_answers_are_those_of_one_history(account_locks: int) -> None:
    with (
        small_region(
            workers=PROCESSES, clients=64, sessions=16, txn_ring=32768, account_locks=account_locks
        ) as region,
        children() as processes,
    ):
        accounts = open_accounts(region)
        before = state_of(region).log.head()
        answers = run_together(region, processes, trade, audit)
        trades = [each for answer in answers for each in answer]
        made = sorted((t for t in trades if t.kind and t.what == DONE), key=lambda t: t.txn)
        new_clients = PROCESSES * len(USERS)
        numbers = range(before + new_clients + 1, before + new_clients + len(made) + 1)
        assert [each.txn for each in made] == list(numbers)
        assert agrees_with_real_time([(each.begun_ns, each.ended_ns) for each in made])
        replay(made, accounts)
        for user, account in accounts.items():
            last, balance, _ = account.states[-1]
            assert word(region, "accounts", user, "balance") == balance
            assert word(region, "accounts", user, "last_txn") == last
            told = [t for t in trades if t.user == user and (not t.kind or t.what == FUNDS)]
            assert {each.what for each in told} == {DONE, FUNDS}
            account.check_told(told)


# ---- superseding

TAKEOVERS = 200  # of each process
# None of these clients knows what the others execute meanwhile: above all that any of them will.
ABOVE_ALL = 1 << 40


class Turn(NamedTuple):
    """From a LOGIN's answer until the session had been superseded, or given up."""

    session_id: int
    begun_ns: int
    req_ids: list[int]  # that were executed, with when they were sent
    sent_ns: list[int]


def take_over(region: Region, worker: int) -> list[Turn]:
    """Take the client from whoever has it, and use it until it has been taken away."""
    state, turns = state_of(region, worker), []
    await_start(region, worker)
    for _ in range(TAKEOVERS):
        session = login(state, 1, client_id=7, next_req_id=ABOVE_ALL)
        turn = Turn(session.id, time.monotonic_ns(), [], [])
        newest = word(region, "clients", session.client_slot - 1, "newest")
        for req_id in range(newest + 1, newest + 40):
            sent = time.monotonic_ns()
            what = state.ledger.execute(session, TxnKind.DEPOSIT, 0, 1, req_id, False, 1)[0]
            if what == SUPERSEDED:
                break
            assert what == DONE
            turn.req_ids.append(req_id)
            turn.sent_ns.append(sent)
        turns.append(turn)
        state.sessions.end(session, 1)
    return turns


def test_nothing_of_a_superseded_session_takes_effect() -> None:
    with (
        small_region(workers=PROCESSES, clients=64, sessions=16, txn_ring=16384) as region,
        children() as processes,
    ):
        register(state_of(region), *USERS)
        first = login(state_of(region), 1, client_id=7)  # its record begins with the floor 1
        state_of(region).sessions.end(first, 1)
        turns = [t for answer in run_together(region, processes, take_over) for t in answer]
        turns.sort()
        executed = [req_id for turn in turns for req_id in turn.req_ids]
        assert executed == sorted(executed), "the turns of the sessions do not overlap"
        assert len(set(executed)) == len(executed) == word(region, "accounts", 1, "balance")
        for turn, following in pairwise(turns):
            assert all(sent < following.begun_ns for sent in turn.sent_ns), (turn, following)
        assert sum(1 for turn in turns if len(turn.req_ids) < 39), "nobody was ever superseded"


# ---- names

NAMES = [f"user{n}" for n in range(300)]


def register_all(region: Region, worker: int) -> dict[str, int]:
    """Everybody wants every name; answers the ids of those that this process got."""
    state = state_of(region, worker)
    names = random.Random(worker).sample(NAMES, len(NAMES))  # noqa: S311 - no secret
    got = {}
    await_start(region, worker)
    for name in names:
        try:
            got[name] = state.users.register(name, VERIFIER, 1)
        except NameTaken:
            assert state.users.name(state.users.find(name)) == name
    return got


def test_a_name_has_one_owner() -> None:
    with (
        small_region(workers=PROCESSES, accounts=len(NAMES), txn_ring=512) as region,
        children() as processes,
    ):
        answers = run_together(region, processes, register_all)
        got = sorted((name, user) for answer in answers for name, user in answer.items())
        assert [name for name, _ in got] == sorted(NAMES)
        assert sorted(user for _, user in got) == list(range(1, len(NAMES) + 1))
        state = state_of(region)
        assert all(state.users.find(name) == user for name, user in got)
        assert state.log.head() == len(NAMES)


# ---- chat

ROOMS = (1, 2, 64)
ACTIONS = 4_000  # of each process


class Spoken(NamedTuple):
    """An answer: of CHAT_SEND its seq, of JOIN_ROOM last_seq + 1."""

    room: int
    seq: int
    text: str  # empty: a join
    begun_ns: int
    ended_ns: int


def chatter(region: Region, worker: int) -> tuple[list[Spoken], set[int]]:
    """Comes, goes and speaks as two users, one of whom others are too; answers also where the
    first of them is at the end."""
    state, rng = state_of(region, worker), random.Random(worker)  # noqa: S311 - no secret
    own, shared = worker + 1, PROCESSES + 1
    sessions = [login(state, user, client_id=worker + 1) for user in (own, shared)]
    joined: list[set[int]] = [set(), set()]
    spoken: list[Spoken] = []
    await_start(region, worker)
    for n in range(ACTIONS):
        which, room = rng.randrange(2), rng.choice(ROOMS)
        begun = time.monotonic_ns()
        action = rng.choices(("send", "join", "leave", "log in", "direct"), (70, 10, 10, 2, 8))[0]
        match action if action != "send" or room in joined[which] else "join":
            case "send":
                text = f"{worker}.{n}"
                seq, *_ = say(state, sessions[which], room, text, 1)
                spoken.append(Spoken(room, seq, text, begun, time.monotonic_ns()))
            case "join":
                last, members, *_ = state.memberships.join(sessions[which], room, 1)
                assert 1 <= members <= PROCESSES + 1
                if which == 0 and room not in joined[0]:
                    spoken.append(Spoken(room, last + 1, "", begun, time.monotonic_ns()))
                joined[which].add(room)
            case "leave":
                state.memberships.leave(sessions[which], room, 1)
                joined[which].discard(room)
            case "direct":
                whisper(state, sessions[which], shared, "psst", 1)
            case _:
                state.sessions.end(sessions[which], 1)
                sessions[which] = login(state, sessions[which].user, client_id=worker + 1)
                joined[which].clear()
    state.sessions.end(sessions[1], 1)
    return spoken, joined[0]


class Seen(NamedTuple):
    """A room event, as a reader of the ring sees it."""

    room: int
    seq: int
    kind: int
    user: int
    text: str


def read_event(state: State, number: int) -> Seen | None:
    """None: lapped. A direct message is room 0. What is read is whole: slot and frame agree."""
    event = state.events.read(number)
    if event is None:
        return None
    opcode = Opcode.CHAT_BROADCAST if event.room else Opcode.DIRECT_MESSAGE
    fields = PUSH[opcode].decode(event.frame, HEADER_LEN, len(event.frame))
    if not event.room:
        assert fields[0] == event.seq
        return Seen(0, event.seq, event.kind, event.user, "")
    room, seq, _, kind, user, _, text = fields
    assert (room, seq, kind, user) == (event.room, event.seq, event.kind, event.user)
    return Seen(room, seq, kind, user, text)


def check_room(events: list[Seen], answers: list[Spoken], at_end: set[int]) -> None:
    """One room's events, all of them, and what those who made them were answered."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    texts = {event.seq: event.text for event in events if event.kind == EventKind.MESSAGE}
    said = {answer.seq: answer.text for answer in answers if answer.text}
    assert texts == said
    assert len(said) == sum(1 for answer in answers if answer.text)
    messages = sorted((a for a in answers if a.text), key=lambda a: a.seq)
    assert agrees_with_real_time([(each.begun_ns, each.ended_ns) for each in messages])
    joins = {event.seq for event in events if event.kind == EventKind.JOINED}
    assert {answer.seq for answer in answers if not answer.text} <= joins
    present: set[int] = set()
    for event in events:
        if event.kind == EventKind.JOINED:
            assert event.user not in present, event
            present.add(event.user)
        elif event.kind == EventKind.LEFT:
            assert event.user in present, event
            present.remove(event.user)
    assert present == at_end


def chat_region(event_ring: int) -> dict[str, int]:
    return {
        "workers": PROCESSES, "clients": 64, "sessions": 16, "txn_ring": 1024,
        "event_ring": event_ring,
    }  # fmt: skip


def test_every_room_is_one_sequence() -> None:
    with small_region(**chat_region(32768)) as region, children() as processes:
        state = state_of(region)
        register(state, *(f"user{n}" for n in range(PROCESSES + 1)))
        answers = run_together(region, processes, chatter, follow)
        seen = [read_event(state, number) for number in range(1, state.events.head() + 1)]
        events = [event for event in seen if event is not None]
        assert len(events) == len(seen)
        for room in ROOMS:
            at_end = {worker + 1 for worker, (_, there) in enumerate(answers) if room in there}
            mine = [event for event in events if event.room == room]
            check_room(mine, [a for spoken, _ in answers for a in spoken if a.room == room], at_end)
            assert state.memberships.member_ids(room, 0) == sorted(at_end)
            assert state.memberships.member_count(room) == len(at_end)
            assert state.events.last_seq(room) == len(mine)
        directs = [event.seq for event in events if not event.room]
        assert directs == list(range(1, len(directs) + 1))


def test_a_ring_that_laps_its_readers_shows_them_nothing_torn() -> None:
    with small_region(**chat_region(8)) as region, children() as processes:
        register(state_of(region), *(f"user{n}" for n in range(PROCESSES + 1)))
        run_together(region, processes, chatter, follow_lapped)


def follow_lapped(name: str) -> None:
    assert follow(name), "it was never lapped: make the ring smaller"


def follow(name: str) -> int:
    """Read the ring as a worker does, and the histories, from a region that cannot be written.
    Answers how often it was lapped."""
    region = Region.attach(name)
    state = state_of(region)
    ring = region.layout.capacities.event_ring
    cursor, laps, last = 0, 0, dict.fromkeys((0, *ROOMS), 0)
    running = True
    while running or cursor < state.events.head():
        running = word(region, "header", 0, "state") != DRAINING
        while cursor < state.events.head():
            event = read_event(state, cursor + 1)
            if event is None:
                lapped_by = state.events.head() - ring
                assert cursor <= lapped_by, "it is there, and yet it was not shown"
                cursor, laps = lapped_by + 1, laps + 1
                last = dict.fromkeys(last, 0)  # it has missed some: begins anew
                continue
            cursor += 1
            assert event.seq == last[event.room] + 1 or not last[event.room], event
            last[event.room] = event.seq
        for room in ROOMS:
            check_history(state, room, last[room])
    return laps


def check_history(state: State, room: int, delivered: int) -> None:
    """Without a hole from the oldest on, and with all that had been pushed before it was asked."""
    after = max(0, delivered - 100)
    oldest, bodies = state.events.history(room, after, 256, 1 << 20)
    seqs = [PUSH[Opcode.CHAT_BROADCAST].decode(body, 0, len(body))[1] for body in bodies]
    assert all(after == seq + 1 for seq, after in pairwise(seqs)), seqs
    assert not seqs or seqs[0] <= max(oldest, after + 1), (oldest, after, seqs)
    assert oldest > delivered or (seqs and seqs[-1] >= delivered), (oldest, seqs, delivered)
