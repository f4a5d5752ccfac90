"""The verdict on a recorded run: what the server promised and did not keep.

**Money.** The users of a run exist for it alone, so their TXN_HISTORY is everything that happened
to their accounts. It must be one serial history: replayed in the order of txn_id from empty
accounts it gives every balance that it states, and every one that was answered. And that order must
agree with real time: what was answered before something else was sent has the lower txn_id. A
BALANCE, and a refusal for lack of funds, must be true at some moment between its sending and its
answer.

**Rooms.** After a JOIN_ROOM answered with s, a connection is told s+1, s+2, ... once and in order,
as an event or inside a ROOM_GAP, up to the room's last one at the end. One number is one event,
whoever tells of it. What a gap names, or what came while there was no connection, is in
ROOM_HISTORY, where that still reaches so far; no crash takes what was acknowledged or shown to
anybody. A message is there once, under the number that its sender was told. What happened to the
boards of the rooms is judged in boards.py.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from bench.faults import boards
from bench.faults.history import History, Membership, Message, Missed, Read, Request
from bench.lab.verdict import CHECKS, Problem
from libproto.errors import Status
from libproto.messages import MAX_BALANCE, ChatBroadcast, EventKind, RoomGap, Transaction, TxnKind

Events = dict[tuple[int, int], ChatBroadcast]
"""The events of all rooms, by room and number."""


@dataclass(slots=True)
class Verdict:
    """What is wrong, and the figures of what was looked at."""

    problems: list[Problem]
    figures: dict[str, int]

    @property
    def good(self) -> bool:
        return not self.problems

    def counts(self) -> dict[str, int]:
        """Of every check, how often it failed."""
        found = Counter(problem.check for problem in self.problems)
        return {check: found[check] for check in CHECKS}


def judge(history: History) -> Verdict:
    """The verdict. Without the end of the run only what was answered is judged, not the log."""
    problems = [Problem("unfinished", text) for text in history.unfinished]
    problems += [Problem("unexpected", text) for text in history.unexpected]
    figures = _request_figures(history)
    problems += _answers_once(history)
    ledger = _Ledger(history)
    if history.complete:
        problems += ledger.differences()
        problems += ledger.outcomes()
        problems += ledger.replay()
        figures["unknown_executed"] = sum(
            request.status is None and ledger.executed(request) is not None
            for request in history.requests
        )
    problems += ledger.real_time(checking_reads=history.complete)
    events: Events = {}
    problems += _collect(history, events)
    problems += _streams(history)
    problems += _fetched(history, events)
    problems += _messages(history, events)
    problems += _alternation(events)
    problems += boards.problems(history, events, ledger.views)
    figures |= boards.figures_of(history)
    figures["events"] = len(events)
    figures["deliveries"] = sum(
        isinstance(push, ChatBroadcast) for each in history.memberships for push in each.pushes
    )
    figures["gaps"] = sum(
        not isinstance(push, ChatBroadcast) for each in history.memberships for push in each.pushes
    )
    figures["fetched"] = sum(len(each.found or ()) for each in history.missed)
    return Verdict(problems, figures)


def _request_figures(history: History) -> dict[str, int]:
    requests = history.requests
    return {
        "requests": len(requests),
        "acknowledged": sum(r.status == Status.OK for r in requests),
        "refused": sum(r.status not in (None, Status.OK, Status.ERR_NOT_FOUND) for r in requests),
        "repeated": sum(r.repeats > 0 for r in requests),
        "settled_recorded": sum(r.recorded for r in requests),
        "settled_anew": sum(
            r.repeats > 0 and r.status is not None and not r.recorded for r in requests
        ),
        "unknown": sum(r.status is None for r in requests),
        "reads": len(history.reads),
        "messages": len(history.messages),
        "messages_repeated": sum(m.repeats > 0 for m in history.messages),
        "messages_recorded": sum(m.recorded for m in history.messages),
    }


# ---- money


def _name(request: Request) -> str:
    return f"{request.kind.name} {request.req_id} of user {request.user}"


def _answers_once(history: History) -> Iterator[Problem]:
    """No two requests have one txn_id; needs no log."""
    first: dict[int, Request] = {}
    for request in history.requests:
        if request.status == Status.OK and first.setdefault(request.txn_id, request) is not request:
            other = _name(first[request.txn_id])
            yield Problem("disagreeing", f"{_name(request)}: txn {request.txn_id} is {other}")


class _Ledger:
    """The log of all users put together."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.views: dict[int, dict[int, Transaction]] = defaultdict(dict)  # by txn_id, by user
        for user, transactions in history.log.items():
            for transaction in transactions:
                self.views[transaction.txn_id][user] = transaction
        self._by_request: dict[tuple[int, int], list[Transaction]] = defaultdict(list)
        for txn in sorted(self.views):
            for user, view in self.views[txn].items():
                if view.req_id:
                    self._by_request[user, view.req_id].append(view)
        # Each user's states: txn_ids, ascending, and the balance after each; 0 and 0 before all.
        self._txns = {user: [0, *(t.txn_id for t in log)] for user, log in history.log.items()}
        self._balances = {user: [0, *(t.balance for t in log)] for user, log in history.log.items()}

    def executed(self, request: Request) -> Transaction | None:
        found = self._by_request.get((request.user, request.req_id))
        return found[0] if found else None

    def differences(self) -> Iterator[Problem]:
        """Both users of a transfer have it, and tell the same of it."""
        users = set(self._history.users)
        for txn, views in self.views.items():
            facts = {view[:6] for view in views.values()}
            view = next(iter(views.values()))
            concerned = {view.from_user, view.to_user} & users
            if len(facts) > 1:
                yield Problem("disagreeing", f"txn {txn} is told differently: {sorted(facts)}")
            elif views.keys() != concerned:
                text = f"txn {txn} is in the history of {sorted(views)}, not of {sorted(concerned)}"
                yield Problem("disagreeing", text)

    def outcomes(self) -> Iterator[Problem]:
        """Every request against the log, and the log against the requests."""
        asked = set()
        for request in self._history.requests:
            asked.add((request.user, request.req_id))
            found = self._by_request.get((request.user, request.req_id), [])
            name = _name(request)
            if len(found) > 1:
                ids = [transaction.txn_id for transaction in found]
                yield Problem("twice", f"{name} is executed as {ids}")
            if request.status == Status.OK and not found:
                yield Problem("lost", f"{name} was answered txn {request.txn_id}, not in the log")
            elif request.status not in (None, Status.OK) and found:
                assert request.status is not None
                text = f"{name} was refused ({request.status.name}) and executed: {found[0]}"
                yield Problem("disagreeing", text)
            if found and not self._agrees(request, found[0]):
                yield Problem("disagreeing", f"{request} is in the log as {found[0]}")
        for user, req_id in self._by_request.keys() - asked:
            yield Problem("unasked", f"{self._by_request[user, req_id]} of user {user}")

    @staticmethod
    def _agrees(request: Request, found: Transaction) -> bool:
        payer = 0 if request.kind == TxnKind.DEPOSIT else request.user
        payee = request.user if request.kind == TxnKind.DEPOSIT else request.payee
        told = (found.kind, found.from_user, found.to_user, found.amount)
        answer = (request.txn_id, request.balance)
        return told == (request.kind, payer, payee, request.amount) and (
            request.status != Status.OK or answer == (found.txn_id, found.balance)
        )

    def replay(self) -> Iterator[Problem]:
        """From empty accounts, in the order of txn_id; at the end, the balances and their sum."""
        balances = dict.fromkeys(self._history.users, 0)
        outside = 0  # deposits - withdrawals
        for txn in sorted(self.views):
            views = self.views[txn]
            any_view = next(iter(views.values()))
            outside += (not any_view.from_user) * any_view.amount
            outside -= (not any_view.to_user) * any_view.amount
            for user, change in (
                (any_view.from_user, -any_view.amount),
                (any_view.to_user, any_view.amount),
            ):
                if user not in balances:
                    continue
                balances[user] += change
                stated = views[user].balance if user in views else balances[user]
                if balances[user] < 0 or stated > MAX_BALANCE:
                    yield Problem("negative", f"user {user} after txn {txn}: {balances[user]}")
                if stated != balances[user]:
                    text = (
                        f"user {user} after txn {txn}: {stated}, the replay says {balances[user]}"
                    )
                    yield Problem("serial", text)
                    balances[user] = stated  # one fault is told once
        final = self._history.balances
        for user, balance in balances.items():
            if final[user] != balance:
                text = f"user {user} has {final[user]} at the end, the replay says {balance}"
                yield Problem("serial", text)
            if final[user] > MAX_BALANCE:
                yield Problem("negative", f"user {user} has {final[user]} at the end")
        total = sum(final.values())
        if total != outside:
            text = f"the balances are {total} in all, deposits - withdrawals {outside}"
            yield Problem("conserved", text)

    def real_time(self, *, checking_reads: bool) -> Iterator[Problem]:
        """The order of txn_id against the order in which requests were sent and answered."""
        history = self._history
        done = [(r, t) for r in history.requests if (t := self._txn_of(r))]
        refused = [r for r in history.requests if r.status == Status.ERR_INSUFFICIENT_FUNDS]
        # What had been answered when something was sent: the greatest txn_id of it.
        steps: list[tuple[float, int]] = [(r.answered, t) for r, t in done if r.answered]
        steps += [(read.answered, read.last_txn_id) for read in history.reads]
        answered = _Steps(steps, max, 0)
        for request, txn in done:
            known = answered.before(request.sent)
            if txn <= known:
                text = f"{_name(request)} has txn {txn}, sent when txn {known} was answered"
                yield Problem("real_time", text)
        if not checking_reads:
            return
        # What was sent only after something was answered: the least txn_id of it.
        sent = _Steps([(-request.sent, txn) for request, txn in done], min, 1 << 64)
        for read in history.reads:
            first, end = answered.before(read.sent), sent.before(-read.answered)
            if not self._read_is_true(read, first, end):
                yield Problem("real_time", f"{read}, with txn {first} before and {end} after it")
        for request in refused:
            first, end = answered.before(request.sent), sent.before(-request.answered)
            if min(self._states(request.user, first, end)) >= request.amount:
                yield Problem("real_time", f"{_name(request)} was refused: it had the funds")

    def _txn_of(self, request: Request) -> int:
        if request.status == Status.OK:
            return request.txn_id
        found = self.executed(request)
        return found.txn_id if found and request.status is None else 0

    def _states(self, user: int, first: int, end: int) -> list[int]:
        """The balances of a user from the moment of txn `first` on, as long as ids are < `end`."""
        txns = self._txns.get(user, [0])
        at = bisect_right(txns, first) - 1
        return self._balances.get(user, [0])[at : max(at + 1, bisect_left(txns, end))]

    def _read_is_true(self, read: Read, first: int, end: int) -> bool:
        txns = self._txns.get(read.user, [0])
        at = bisect_left(txns, read.last_txn_id)
        if at == len(txns) or txns[at] != read.last_txn_id or read.last_txn_id >= end:
            return False
        following = txns[at + 1] if at + 1 < len(txns) else 1 << 64
        return self._balances[read.user][at] == read.balance and following > first


class _Steps:
    """The best value (by `best`, of two) of all steps that lie strictly before a time."""

    def __init__(
        self, steps: list[tuple[float, int]], best: Callable[[int, int], int], none: int
    ) -> None:
        ordered = sorted(steps)
        self._times = [time for time, _ in ordered]
        self._values = [none, *accumulate((value for _, value in ordered), best)]

    def before(self, time: float) -> int:
        return self._values[bisect_left(self._times, time)]


# ---- rooms


def _collect(history: History, events: Events) -> Iterator[Problem]:
    """Fill `events`; where two tell different things of one number, the first one's stays."""
    told = [push for each in history.memberships for push in each.pushes]
    told += [item for each in history.missed for item in each.found or ()]
    for event in told:
        if isinstance(event, ChatBroadcast):
            known = events.setdefault((event.room_id, event.room_seq), event)
            if known != event:
                yield Problem("events_differing", f"{known} and {event}")


def _streams(history: History) -> Iterator[Problem]:
    """What each connection was told of each room it had joined."""
    settled = {(m.user, m.room, m.first, m.last) for m in history.missed if m.found is not None}
    epochs: dict[int, int] = {}
    for membership in history.memberships:
        yield from _stream(membership)
        room, who = membership.room, f"user {membership.user} in room {membership.room}"
        if epochs.setdefault(room, membership.epoch) != membership.epoch:
            yield Problem("unexpected", f"{who}: another epoch: the server began anew")
        before, last = membership.before, membership.last_seq
        if before is not None and before > last:
            text = f"{who} had event {before}, and joins again at {last}"
            yield Problem("events_twice", text)
        if not history.complete:
            continue
        absences = [(p.first_seq, p.last_seq) for p in membership.pushes if isinstance(p, RoomGap)]
        if before is not None and before < last:
            absences.append((before + 1, last))
        for first, end in absences:
            if (membership.user, room, first, end) not in settled:
                text = f"{who}: {first} to {end} were missed, and ROOM_HISTORY never told of them"
                yield Problem("events_missing", text)
        if membership.open and _position(membership) < history.last_seqs[room]:
            text = f"{who}: at {_position(membership)}, the room at {history.last_seqs[room]}"
            yield Problem("events_missing", text)


def _position(membership: Membership) -> int:
    if not membership.pushes:
        return membership.last_seq
    last = membership.pushes[-1]
    return last.room_seq if isinstance(last, ChatBroadcast) else last.last_seq


def _stream(membership: Membership) -> Iterator[Problem]:
    """Each number once and in order, as an event or inside a gap."""
    position, who = membership.last_seq, f"user {membership.user} in room {membership.room}"
    for push in membership.pushes:
        if isinstance(push, ChatBroadcast):
            first = last = push.room_seq
        else:
            first, last = push.first_seq, push.last_seq
        if first > position + 1:
            yield Problem("events_missing", f"{who}: {position + 1} to {first - 1} not told")
        elif first <= position or last < first:
            yield Problem("events_twice", f"{who}: {first} to {last} after {position}")
        position = max(position, last)


def _fetched(history: History, events: Events) -> Iterator[Problem]:
    """ROOM_HISTORY had what it still reached."""
    numbers: dict[int, list[int]] = defaultdict(list)  # of each room, those that are an event's
    for room, seq in sorted(events):
        numbers[room].append(seq)
    for missed in history.missed:
        if missed.found is not None:
            yield from _fetch(missed, numbers[missed.room])


def _fetch(missed: Missed, numbers: list[int]) -> Iterator[Problem]:
    assert missed.found is not None
    position, who = missed.first - 1, f"user {missed.user}, history of room {missed.room}"

    def absent(end: int) -> Iterator[Problem]:
        for seq in numbers[bisect_right(numbers, position) : bisect_left(numbers, end)]:
            yield Problem("events_missing", f"{who}: {seq} is not told")

    for item in missed.found:
        if isinstance(item, RoomGap):
            position = item.last_seq
            continue
        if item.room_seq <= position:
            yield Problem("events_twice", f"{who}: {item.room_seq} after {position}")
        yield from absent(item.room_seq)
        position = max(position, item.room_seq)
    yield from absent(missed.last + 1)


def _messages(history: History, events: Events) -> Iterator[Problem]:
    """What was acknowledged is there once, as it was sent; what was not, at most once.

    Where everybody left a room before an event was pushed, nobody saw it: that is no loss.
    """
    sent = {(message.user, message.text): message for message in history.messages}
    users = set(history.users)
    times: Counter[tuple[int, str]] = Counter()
    numbers: dict[tuple[int, int], Message] = {}
    for event in events.values():
        if event.kind == EventKind.MESSAGE and event.from_user in users:
            key = event.from_user, event.message
            times[key] += 1
            if key not in sent or sent[key].room != event.room_id:
                yield Problem("unexpected", f"nobody sent {event}")
    for message in history.messages:
        name = f"message {message.text!r} of user {message.user} in room {message.room}"
        if times[message.user, message.text] > 1:
            yield Problem("events_twice", f"{name} is there more than once")
        seq = message.room_seq
        if not seq:
            continue
        first = numbers.setdefault((message.room, seq), message)
        if first is not message:
            text = f"{name} was acknowledged as {seq}, as {first.text!r} of user {first.user} was"
            yield Problem("events_differing", text)
        told = events.get((message.room, seq))
        if told is not None:
            if (told.from_user, told.message) != (message.user, message.text):
                yield Problem("messages_lost", f"{name}: number {seq} is {told}")
        elif history.complete and (
            seq > history.last_seqs.get(message.room, 0) or _somebody_asked(history, message)
        ):
            yield Problem("messages_lost", f"{name} was acknowledged as {seq}, nobody saw it")


def _somebody_asked(history: History, message: Message) -> bool:
    """Has ROOM_HISTORY answered for that number, and not said that it keeps it no longer?"""
    room, seq = message.room, message.room_seq
    for missed in history.missed:
        if missed.found is not None and missed.room == room and missed.first <= seq <= missed.last:
            gaps = [item for item in missed.found if isinstance(item, RoomGap)]
            if not any(gap.first_seq <= seq <= gap.last_seq for gap in gaps):
                return True
    return False


def _alternation(events: Events) -> Iterator[Problem]:
    """Nobody joins who is there, nobody leaves who is not, as far as all numbers are known."""
    present: dict[int, bool] = {}
    before = (0, 0)
    for (room, seq), event in sorted(events.items()):
        if (room, seq - 1) != before:
            present.clear()  # what happened in between is not known
        before = room, seq
        if event.kind in (EventKind.JOINED, EventKind.LEFT):
            joined = event.kind == EventKind.JOINED
            if present.get(event.from_user) is joined:
                yield Problem("members", f"once more: {event}")
            present[event.from_user] = joined
