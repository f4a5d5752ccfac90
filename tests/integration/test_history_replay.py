"""Many threads on few accounts, over four workers: whatever they were answered is what one serial
run in the order of txn_id gives, and that order agrees with real time."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from libproto.errors import Status
from libproto.messages import Opcode, TxnKind
from tests.helpers.server import StartServer
from tests.helpers.wire import Lobby, Wire

WORKERS = 4
THREADS = 16
ACCOUNTS = 4
REQUESTS = 150  # of each thread
WORLD = 0
SEED = 20240229


class Done(NamedTuple):
    """An answered request. Times are those of one monotonic clock, in seconds; the balance is the
    caller's after it, or at the audit."""

    began: float
    ended: float
    caller: int
    payer: int
    payee: int
    amount: int
    txn_id: int
    balance: int


class Refused(NamedTuple):
    """One for which there was not enough money."""

    began: float
    ended: float
    caller: int
    amount: int


class Log:
    """What all threads were answered."""

    def __init__(self) -> None:
        self.done: list[Done] = []
        self.audits: list[Done] = []
        self.refused: list[Refused] = []


def work(wire: Wire, users: list[int], seed: int, start: threading.Barrier) -> Log:
    """Random requests, one at a time."""
    chance, log, me = random.Random(seed), Log(), wire.user  # noqa: S311 - not a secret
    others = [user for user in users if user != me]
    start.wait()
    for _ in range(REQUESTS):
        amount = chance.randrange(1, 200)
        what = chance.random()
        payer, payee = me, WORLD
        fields: tuple[int, ...]
        if what < 0.15:
            opcode, fields, payer, payee = Opcode.DEPOSIT, (amount,), WORLD, me
        elif what < 0.35:
            opcode, fields = Opcode.WITHDRAW, (amount,)
        elif what < 0.9:
            payee = chance.choice(others)
            opcode, fields = Opcode.TRANSFER, (payee, amount)
        else:
            opcode, fields = Opcode.BALANCE, ()
        began = time.monotonic()
        answer = wire.call(opcode, *fields)
        ended = time.monotonic()
        if answer.status == Status.ERR_INSUFFICIENT_FUNDS:
            log.refused.append(Refused(began, ended, me, amount))
            continue
        assert answer.status == Status.OK, answer.body
        if opcode == Opcode.BALANCE:
            balance, txn_id = answer.body
            log.audits.append(Done(began, ended, me, 0, 0, 0, txn_id, balance))
        else:
            txn_id, balance = answer.body
            log.done.append(Done(began, ended, me, payer, payee, amount, txn_id, balance))
    return log


@pytest.fixture
def story(lobby: Lobby) -> tuple[Log, dict[int, list[Any]]]:
    """What everybody was answered, in the order of txn_id; and each user's TXN_HISTORY, oldest
    first."""
    names = [lobby.new_user() for _ in range(ACCOUNTS)]
    wires = [
        lobby.enter(names[n % ACCOUNTS], worker=n // ACCOUNTS % WORKERS, client_id=1 + n)
        for n in range(THREADS)
    ]
    users = [wire.user for wire in wires[:ACCOUNTS]]
    start = threading.Barrier(THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        logs = [pool.submit(work, wire, users, SEED + n, start) for n, wire in enumerate(wires)]
        story = Log()
        for each in logs:
            log = each.result()
            story.done += log.done
            story.audits += log.audits
            story.refused += log.refused
    story.done.sort(key=lambda item: item.txn_id)
    return story, {wire.user: history(wire) for wire in wires[:ACCOUNTS]}


def history(wire: Wire) -> list[Any]:
    """All of a user's transactions, oldest first, page by page."""
    items: list[Any] = []
    while page := wire.ok(Opcode.TXN_HISTORY, items[-1].txn_id if items else 0, 100).transactions:
        items += page
    return items[::-1]


def test_the_answers_are_those_of_a_serial_run(
    story: tuple[Log, dict[int, list[Any]]],
) -> None:
    log, histories = story
    assert len(log.done) > THREADS * REQUESTS // 2
    assert log.refused
    assert log.audits

    # 1. a serial run in the order of txn_id gives the balances that were answered
    balances = dict.fromkeys(histories, 0)
    after: dict[int, list[tuple[int, int, Done]]] = {user: [] for user in histories}
    assert len({item.txn_id for item in log.done}) == len(log.done)
    for item in log.done:
        for user, change in ((item.payer, -item.amount), (item.payee, item.amount)):
            if user != WORLD:
                balances[user] += change
                assert balances[user] >= 0
                after[user].append((item.txn_id, balances[user], item))
        assert balances[item.caller] == item.balance

    # 2. nothing was made or lost
    deposited = sum(item.amount for item in log.done if item.payer == WORLD)
    withdrawn = sum(item.amount for item in log.done if item.payee == WORLD)
    assert sum(balances.values()) == deposited - withdrawn

    # 3. the order agrees with real time: none has a smaller txn_id than one that had ended before
    # it began
    latest_began = 0.0
    for item in log.done:
        assert item.ended > latest_began or item.began == latest_began
        latest_began = max(latest_began, item.began)

    # 4. a balance that was asked for is the one after the txn_id told with it, and not a stale one
    for audit in log.audits:
        mine = after[audit.caller]
        told = {txn_id: balance for txn_id, balance, _ in mine} | {0: 0}
        assert told[audit.txn_id] == audit.balance
        for txn_id, _, item in mine:
            assert item.ended > audit.began or txn_id <= audit.txn_id
            assert item.began < audit.ended or txn_id > audit.txn_id

    # 5. at some moment between its request and its answer, a refused one had too little
    for refused in log.refused:
        mine = after[refused.caller]
        possible = [0] if not mine or mine[0][2].ended > refused.began else []
        for place, (_, balance, item) in enumerate(mine):
            over = place + 1 < len(mine) and mine[place + 1][2].ended < refused.began
            if item.began < refused.ended and not over:
                possible.append(balance)
        assert min(possible) < refused.amount

    # 6. TXN_HISTORY tells the same story
    for user, items in histories.items():
        read = [(item.txn_id, item.balance) for item in items]
        assert read == [(txn_id, balance) for txn_id, balance, _ in after[user]]
        for item, (_, _, done) in zip(items, after[user], strict=True):
            kind = (
                TxnKind.DEPOSIT
                if done.payer == WORLD
                else TxnKind.WITHDRAW
                if done.payee == WORLD
                else TxnKind.TRANSFER
            )
            assert (item.kind, item.from_user, item.to_user, item.amount) == (
                kind, done.payer, done.payee, done.amount
            )  # fmt: skip
            assert bool(item.req_id) == (done.caller == user)


def test_transfers_in_a_ring(lobby: Lobby) -> None:
    """Everybody pays the next one, in both directions at once: no two lock each other out, and the
    money goes round whole."""
    wires = [lobby.enter(worker=slot % WORKERS) for slot in range(8)]
    each, start = 150, threading.Barrier(len(wires))
    for wire in wires:
        wire.ok(Opcode.DEPOSIT, 1000)

    def pay(place: int) -> None:
        wire = wires[place]
        start.wait()
        for number in range(each):
            step = 1 if number % 2 else -1
            to_user = wires[(place + step) % len(wires)].user
            assert wire.status(Opcode.TRANSFER, to_user, 1) == Status.OK

    with ThreadPoolExecutor(len(wires)) as pool:
        list(pool.map(pay, range(len(wires))))
    assert [wire.ok(Opcode.BALANCE).balance for wire in wires] == [1000] * len(wires)


def test_history_pages(lobby: Lobby) -> None:
    """Newest first, at most 256, below before_txn_id; what others asked for has no req_id."""
    wire, other = lobby.enter(client_id=7), lobby.enter()
    for req_id in range(11, 311):
        assert wire.call(Opcode.DEPOSIT, req_id, req_id=req_id).status == Status.OK
    other.ok(Opcode.DEPOSIT, 9)
    paid = other.ok(Opcode.TRANSFER, wire.user, 9).txn_id
    first = wire.ok(Opcode.TXN_HISTORY, 0, 65535).transactions
    second = wire.ok(Opcode.TXN_HISTORY, first[-1].txn_id, 65535).transactions
    assert (len(first), len(second)) == (256, 45)
    everything = first + second
    assert everything[0][0] == paid
    assert everything[0][2:] == (
        TxnKind.TRANSFER, other.user, wire.user, 9, wire.ok(Opcode.BALANCE).balance, 0
    )  # fmt: skip
    assert [item.req_id for item in everything[1:]] == list(range(310, 10, -1))
    assert all(a.txn_id > b.txn_id for a, b in pairwise(everything))
    assert not wire.ok(Opcode.TXN_HISTORY, second[-1].txn_id, 10).transactions
    assert not wire.ok(Opcode.TXN_HISTORY, 0, 0).transactions
    assert wire.ok(Opcode.TXN_HISTORY, 0, 3).transactions == everything[:3]
    assert wire.ok(Opcode.TXN_HISTORY, paid, 3).transactions == everything[1:4]
    assert not lobby.enter().ok(Opcode.TXN_HISTORY, 0, 256).transactions


def test_the_rules_of_the_ledger(start_server: StartServer) -> None:
    """A table of requests, what each is answered, and the balances after it."""
    with Lobby(start_server("--max-balance", f"{10**6}")) as lobby:
        check_rules_of_the_ledger(lobby.enter(), lobby.enter(), 10**6)


def check_rules_of_the_ledger(wire: Wire, other: Wire, limit: int) -> None:
    ok, bad, much = Status.OK, Status.ERR_BAD_PACKET, Status.ERR_LIMIT
    nobody, poor = Status.ERR_NOT_FOUND, Status.ERR_INSUFFICIENT_FUNDS
    rows: list[tuple[tuple[int, ...], Status, int, int]] = [
        ((Opcode.WITHDRAW, 1), poor, 0, 0),
        ((Opcode.TRANSFER, other.user, 1), poor, 0, 0),
        ((Opcode.DEPOSIT, 0), bad, 0, 0),
        ((Opcode.DEPOSIT, 100), ok, 100, 0),
        ((Opcode.WITHDRAW, 0), bad, 100, 0),
        ((Opcode.WITHDRAW, 101), poor, 100, 0),
        ((Opcode.WITHDRAW, 100), ok, 0, 0),
        ((Opcode.DEPOSIT, limit), ok, limit, 0),
        ((Opcode.DEPOSIT, 1), much, limit, 0),
        ((Opcode.DEPOSIT, 2**64 - 1), much, limit, 0),
        ((Opcode.TRANSFER, wire.user, 5), bad, limit, 0),
        ((Opcode.TRANSFER, other.user, 0), bad, limit, 0),
        ((Opcode.TRANSFER, 0, 5), nobody, limit, 0),
        ((Opcode.TRANSFER, 4096, 5), nobody, limit, 0),
        ((Opcode.TRANSFER, 2**32 - 1, 5), nobody, limit, 0),
        ((Opcode.TRANSFER, other.user, 2**64 - 1), poor, limit, 0),
        ((Opcode.TRANSFER, other.user, limit), ok, 0, limit),
        ((Opcode.DEPOSIT, 7), ok, 7, limit),
        ((Opcode.TRANSFER, other.user, 1), much, 7, limit),
        ((Opcode.TRANSFER, other.user, 8), poor, 7, limit),
    ]
    last = 0
    for request, status, mine, theirs in rows:
        answer = wire.call(*request)
        assert answer.status == status, request
        if status == ok:
            assert answer.body.txn_id > last
            last = answer.body.txn_id
            assert answer.body.balance == mine
        assert (wire.ok(Opcode.BALANCE).balance, other.ok(Opcode.BALANCE).balance) == (mine, theirs)
    assert wire.ok(Opcode.BALANCE).last_txn_id == last
