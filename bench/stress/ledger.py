"""The verdict on the money of a run, from the answers that its users got.

The accounts exist for the load alone, and every request's outcome becomes known, so the answers are
the whole history: replayed in the order of txn_id they must give every balance that was answered,
and the balances at the end. What was lost, executed twice or never asked for leaves a balance that
no replay gives. This reaches over any number of transactions, however few the server keeps.

TXN_HISTORY is the second witness, as far back as the server's ring reaches: each transaction in it
must be one that was answered, and each that was answered must be in it. How many were compared is
part of the figures.

The order must agree with real time: what was answered before something else was sent has the lower
txn_id. A BALANCE, and a refusal for lack of funds, must be true at some moment between its sending
and its answer.

All of it is one pass in the order of txn_id, so that memory does not grow with the run.
"""

import heapq
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from bench.lab.verdict import CHECKS, Problem
from bench.stress.notes import ANSWER
from bench.stress.record import READ, VIEW, Answer, Refusal, Unknown, View
from libproto.messages import MAX_BALANCE, TxnKind

TEXTS_MAX: Final = 20
_INFINITY: Final = float("inf")
_CHUNK: Final = 1 << 12  # records
TELL: Final = 1 << 12
"""Answers from one word on how far a replay is to the next."""


@dataclass(slots=True)
class Findings:
    """What is wrong: how often, by check, and the first of the evidence."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def add(self, check: str, text: str, times: int = 1) -> None:
        assert check in CHECKS
        self.counts[check] += times
        if len(self.problems) < TEXTS_MAX:
            self.problems.append(Problem(check, text))

    @property
    def good(self) -> bool:
        return not self.counts


class Holding(NamedTuple):
    """What a user has before or after a run."""

    balance: int
    last_txn_id: int
    """The newest transaction of this user; 0: none."""


NOTHING: Final = Holding(0, 0)
"""What a new user has."""


@dataclass(slots=True)
class Accounts:
    """What all users have, from one run to the next."""

    balances: dict[int, int]
    last_txns: dict[int, int]
    base: int = 0
    """The greatest txn_id so far."""

    @classmethod
    def of(cls, held: Mapping[int, Holding]) -> "Accounts":
        """What each user has before the first run."""
        balances = {user: holding.balance for user, holding in held.items()}
        last_txns = {user: holding.last_txn_id for user, holding in held.items()}
        return cls(balances, last_txns, max(last_txns.values()))


@dataclass(slots=True)
class Told:
    """What the load processes bring of one run. Answers and views are in the order of txn_id."""

    answers: Iterable[Answer]
    views: Iterable[View]
    finals: dict[int, Holding]
    refusals: list[Refusal] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    oldest: int = 0
    """From this txn_id on, TXN_HISTORY shows everything."""


def read_sorted(paths: Iterable[Path], layout: Struct) -> Iterator[tuple[int | float, ...]]:
    """The records of several files, each of which is in order, in one order."""
    return map(layout.unpack, heapq.merge(*(_records(path, layout.size) for path in paths)))


def _records(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(size * _CHUNK):
            for at in range(0, len(chunk), size):
                yield chunk[at : at + size]


def answers_of(paths: Iterable[Path]) -> Iterator[Answer]:
    """What the processes wrote down, merged."""
    return map(Answer._make, read_sorted(paths, ANSWER))


def views_of(paths: Iterable[Path]) -> Iterator[View]:
    """What the processes read of TXN_HISTORY, merged."""
    return map(View._make, read_sorted(paths, VIEW))


class _Refusals:
    """Refusals of one user, each of which must meet a balance that is below its amount."""

    def __init__(self) -> None:
        self._open: list[Refusal] = []
        self._sent: list[float] = []
        self._longest = 0.0
        self._most = 0

    def add(self, refusals: list[Refusal]) -> None:
        self._open = sorted(refusals, key=lambda each: each.sent)
        self._sent = [each.sent for each in self._open]
        self._longest = max(each.answered - each.sent for each in refusals)
        self._most = max(each.amount for each in refusals)

    def state(self, balance: int, since: float, until: float) -> None:
        """The user had this balance at some time from `since` to `until`, at most."""
        if balance >= self._most or not self._open:
            return
        end = bisect_right(self._sent, until)
        begin = bisect_right(self._sent, since - self._longest)
        met = [
            place
            for place in range(begin, end)
            if self._open[place].answered >= since and balance < self._open[place].amount
        ]
        for place in reversed(met):
            del self._open[place], self._sent[place]

    def left(self) -> list[Refusal]:
        return self._open


class Replay:
    """One run, replayed. `accounts` are those of its beginning, and become those of its end."""

    def __init__(self, accounts: Accounts, told: Told, findings: Findings) -> None:
        self.transactions = 0
        self.reads = 0
        self.compared = 0
        """Entries of TXN_HISTORY that were compared with answers."""
        self.not_compared = 0
        """Entries that TXN_HISTORY has no more."""
        self._accounts = accounts
        self._base = accounts.base
        self._told = told
        self._findings = findings
        self._outside = sum(accounts.balances.values())  # deposits - withdrawals
        self._unknown = {(each.user, each.req_id): each for each in told.unknown}
        self._last_sent = 0.0  # of all transactions so far
        self._read_sent: dict[int, float] = defaultdict(float)  # by user, of its newest BALANCE
        self._state_since: dict[int, float] = defaultdict(float)
        self._refusals: dict[int, _Refusals] = defaultdict(_Refusals)
        by_user: dict[int, list[Refusal]] = defaultdict(list)
        for refusal in told.refusals:
            by_user[refusal.user].append(refusal)
        for user, refusals in by_user.items():
            self._refusals[user].add(refusals)

    def run(self, tell: Callable[[int], None] = lambda _: None) -> None:
        """Replay all of it. tell: called now and then with the number of answers so far."""
        views = iter(self._told.views)
        view = next(views, None)
        before = 0
        for number, answer in enumerate(self._told.answers):
            if not number % TELL:
                tell(number)
            if answer.kind == READ:
                self._read(answer)
                continue
            while view is not None and view.txn_id < answer.txn_id:
                same, view = _same_txn(view, views)
                self._unanswered(same)
            mine: list[View] = []
            if view is not None and view.txn_id == answer.txn_id:
                mine, view = _same_txn(view, views)
            if answer.txn_id == before:
                self._findings.add("disagreeing", f"two requests were answered as txn {before}")
                continue
            before = answer.txn_id
            self._compare(answer, mine)
            self._apply(answer)
        while view is not None:
            same, view = _same_txn(view, views)
            self._unanswered(same)
        self._end()

    # ---- transactions

    def _apply(self, answer: Answer) -> None:
        balances, findings = self._accounts.balances, self._findings
        txn, kind, user, payee, amount, stated, sent, answered = answer
        self.transactions += 1
        if answered < self._last_sent:
            findings.add("real_time", f"{answer}: a lower txn_id was sent after its answer")
        self._last_sent = max(self._last_sent, sent)
        if kind == TxnKind.DEPOSIT:
            self._outside += amount
            changes = [(user, amount)]
        elif kind == TxnKind.WITHDRAW:
            self._outside -= amount
            changes = [(user, -amount)]
        else:
            changes = [(user, -amount), (payee, amount)]
        for concerned, change in changes:
            if concerned not in balances:
                findings.add("disagreeing", f"{answer}: user {concerned} is not of this load")
                continue
            self._refusals_met(concerned, answered)
            if answered < self._read_sent[concerned]:
                findings.add("real_time", f"{answer}: a BALANCE was sent later and does not know")
            balances[concerned] += change
            self._accounts.last_txns[concerned] = txn
            self._state_since[concerned] = sent
            if not 0 <= balances[concerned] <= MAX_BALANCE:
                text = f"user {concerned} after txn {txn}: {balances[concerned]}"
                findings.add("negative", text)
        if balances.get(user) != stated:
            text = f"user {user} after txn {txn}: {stated}, the replay says {balances.get(user)}"
            findings.add("serial", text)
            balances[user] = stated  # one fault is told once

    def _refusals_met(self, user: int, until: float) -> None:
        if user in self._refusals:
            balance, since = self._accounts.balances[user], self._state_since[user]
            self._refusals[user].state(balance, since, until)

    def _read(self, read: Answer) -> None:
        self.reads += 1
        user = read.user
        last, balance = self._accounts.last_txns[user], self._accounts.balances[user]
        if (read.txn_id, read.balance) != (last, balance):
            text = f"{read}: the replay says {balance} after txn {last}"
            self._findings.add("serial", text)
        if read.answered < self._last_sent:
            self._findings.add("real_time", f"{read}: a lower txn_id was sent after its answer")
        self._read_sent[user] = max(self._read_sent[user], read.sent)

    # ---- the second witness

    def _compare(self, answer: Answer, views: list[View]) -> None:
        """What those concerned are shown of a transaction that was answered."""
        concerned = {answer.user}
        if answer.kind == TxnKind.TRANSFER:
            concerned.add(answer.payee)
        shown = {view.user for view in views}
        if missing := concerned - shown:
            if answer.txn_id >= self._told.oldest:
                text = f"{answer} is not in the history of {sorted(missing)}"
                self._findings.add("lost", text)
            else:
                self.not_compared += len(missing)
        payer = 0 if answer.kind == TxnKind.DEPOSIT else answer.user
        payee = answer.user if answer.kind == TxnKind.DEPOSIT else answer.payee
        for view in views:
            self.compared += 1
            told = (view.kind, view.from_user, view.to_user, view.amount)
            agrees = told == (answer.kind, payer, payee, answer.amount)
            if view.user == answer.user:
                agrees &= view.balance == answer.balance
            if not agrees or view.user not in concerned:
                self._findings.add("disagreeing", f"{answer} is in the history as {view}")

    def _unanswered(self, views: list[View]) -> None:
        """A transaction of the history that no answer told of: one whose outcome was unknown."""
        for view in views:
            unknown = self._unknown.pop((view.user, view.req_id), None) if view.req_id else None
            if unknown is not None:
                told = (view.txn_id, unknown.kind, unknown.user, unknown.payee, unknown.amount)
                self.compared += len(views)
                self._apply(Answer(*told, view.balance, unknown.sent, _INFINITY))
                return
        self._findings.add("unasked", f"no request was answered as {views[0]}")

    # ---- the end

    def _end(self) -> None:
        accounts, findings = self._accounts, self._findings
        for user in self._refusals:
            self._refusals_met(user, _INFINITY)
            for refusal in self._refusals[user].left():
                findings.add("real_time", f"{refusal}: it had the funds")
        total = 0
        for user, balance in accounts.balances.items():
            final = self._told.finals.get(user)
            if final is None:
                findings.add("unfinished", f"the balance of user {user} was not read")
                continue
            total += final.balance
            if final != (balance, accounts.last_txns[user]):
                text = f"user {user} has {final} at the end, the replay says {balance}"
                findings.add("serial", f"{text} after txn {accounts.last_txns[user]}")
            accounts.balances[user], accounts.last_txns[user] = final
            accounts.base = max(accounts.base, final.last_txn_id)
        if total != self._outside:
            text = f"the balances are {total} in all, deposits - withdrawals {self._outside}"
            findings.add("conserved", text)
        for unknown in self._unknown.values():
            if self._told.oldest > self._base:
                findings.add("unfinished", f"what became of {unknown} cannot be told")


def _same_txn(view: View, views: Iterator[View]) -> tuple[list[View], View | None]:
    """All views of one transaction, and the first of the next one."""
    same = [view]
    for following in views:
        if following.txn_id != view.txn_id:
            return same, following
        same.append(following)
    return same, None
