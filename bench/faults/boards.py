"""The verdict on the boards of a run, by what the rooms and the log tell.

The events of a room are the order of what happened to its board: an offer is added, and then it is
taken or removed, or stays to the end. What is said of money is in the log, too: a taken offer is
the transfer of its price to its owner. So every offer that goes was taken once and paid for, or
removed by its owner; every answer tells what the events do; nothing comes or goes besides.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from bench.faults.history import History, Posting, Take
from bench.lab.verdict import Problem
from libproto.errors import Status
from libproto.messages import ChatBroadcast, EventKind, Transaction, TxnKind

_KINDS: Final = (EventKind.OFFER_ADDED, EventKind.OFFER_REMOVED, EventKind.OFFER_TAKEN)


def figures_of(history: History) -> dict[str, int]:
    """What was looked at."""
    takes = [r for r in history.requests if isinstance(r, Take)]
    if not takes and not history.postings:
        return {}
    asked: list[Take | Posting] = [*takes, *history.postings]
    return {
        "offers": sum(bool(p.text) and p.status == Status.OK for p in history.postings),
        "offers_removed": sum(not p.text and p.status == Status.OK for p in history.postings),
        "takes": len(takes),
        "takes_done": sum(t.status == Status.OK for t in takes),
        "takes_late": sum(t.status == Status.ERR_NOT_FOUND for t in takes),
        "boards_repeated": sum(r.repeats > 0 for r in asked),
        "boards_recorded": sum(r.recorded for r in asked),
    }


def problems(
    history: History,
    events: Mapping[tuple[int, int], ChatBroadcast],
    log: Mapping[int, Mapping[int, Transaction]],
) -> Iterator[Problem]:
    """events: all that anybody was told, by room and number. log: the transactions by txn_id and
    user."""
    boards = _Boards(history)
    for (room, seq), event in sorted(events.items()):
        if event.kind in _KINDS:
            for text in boards.follow(room, seq, event, log):
                yield Problem("boards", f"room {room}, event {seq}, {event.message!r}: {text}")
    if history.complete:
        for text in boards.at_the_end():
            yield Problem("boards", text)


class _Boards:
    """The boards, as far as the events have been followed."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._there: dict[int, tuple[int, int, int, str]] = {}  # room, owner, price, text by entry
        self._newest: dict[int, int] = defaultdict(int)  # txn_id, by room
        self._takes: dict[tuple[int, int], list[Take]] = defaultdict(list)  # by taker and entry
        self._removals: dict[tuple[int, int], list[Posting]] = defaultdict(list)
        self._adds: dict[tuple[int, str], Posting] = {}
        # Kind, who did it, and the entry, by room and number.
        self._told: dict[tuple[int, int], tuple[int, int, int]] = {}
        for request in history.requests:
            if isinstance(request, Take):
                self._takes[request.user, request.entry].append(request)
        for posting in history.postings:
            if posting.text:
                self._adds[posting.user, posting.text] = posting
            else:
                self._removals[posting.user, posting.entry].append(posting)

    def follow(
        self,
        room: int,
        seq: int,
        event: ChatBroadcast,
        log: Mapping[int, Mapping[int, Transaction]],
    ) -> Iterator[str]:
        """What is wrong with the next event of a room."""
        user, (first, *more) = event.from_user, event.message.split(" ")
        entry = int(first)
        self._told[room, seq] = event.kind, user, entry
        txn = int(more[0]) if event.kind == EventKind.OFFER_TAKEN else 0
        if event.kind == EventKind.OFFER_ADDED:
            txn = entry
            yield from self._added(room, seq, user, entry, event.message)
        else:
            if (offer := self._there.pop(entry, None)) is None or offer[0] != room:
                yield "the offer is not there"
                return
            if event.kind == EventKind.OFFER_REMOVED:
                yield from self._removed(seq, user, entry, offer[1])
            else:
                told = int(more[1]), int(more[2])
                if told != (offer[2], offer[1]):
                    yield f"it was offered by user {offer[1]} for {offer[2]}"
                yield from self._taken(seq, user, entry, txn, offer)
                yield from self._in_the_log(user, txn, offer, log)
        if txn:
            if txn <= self._newest[room]:
                yield f"its txn_id comes after {self._newest[room]}"
            self._newest[room] = txn

    def _added(self, room: int, seq: int, user: int, entry: int, message: str) -> Iterator[str]:
        _, price, text = message.split(" ", 2)
        if entry in self._there:
            yield "it is there already"
        self._there[entry] = room, user, int(price), text
        posting = self._adds.pop((user, text), None)
        if posting is None or (posting.room, posting.price) != (room, int(price)):
            yield "nobody asked for it, or it is there once more"
        elif posting.status == Status.OK and (posting.entry, posting.room_seq) != (entry, seq):
            yield f"it was acknowledged as {posting}"
        elif posting.status not in (None, Status.OK):
            yield f"it was refused: {posting}"

    def _removed(self, seq: int, user: int, entry: int, owner: int) -> Iterator[str]:
        asked = self._removals[user, entry]
        if user != owner or not asked:
            yield f"it is user {owner}'s, and user {user} has asked for that {len(asked)} times"
        told = [p.room_seq for p in asked if p.status == Status.OK]
        if told not in ([seq], []) or (not told and all(p.status is not None for p in asked)):
            yield f"it was acknowledged as {told}"

    def _taken(
        self, seq: int, user: int, entry: int, txn: int, offer: tuple[int, int, int, str]
    ) -> Iterator[str]:
        asked = self._takes[user, entry]
        told = [(t.room_seq, t.txn_id) for t in asked if t.status == Status.OK]
        if told not in ([(seq, txn)], []) or (
            not told and all(t.status is not None for t in asked)
        ):
            yield f"user {user} has asked for it {len(asked)} times, and was told {told}"
        if any((t.room, t.payee, t.amount) != offer[:3] for t in asked):
            yield f"user {user} has not asked for that offer: {offer}"

    @staticmethod
    def _in_the_log(
        user: int,
        txn: int,
        offer: tuple[int, int, int, str],
        log: Mapping[int, Mapping[int, Transaction]],
    ) -> Iterator[str]:
        for view in log.get(txn, {}).values():
            said = view.kind, view.from_user, view.to_user, view.amount
            if said != (TxnKind.TRANSFER, user, offer[1], offer[2]):
                yield f"in the log txn {txn} is {view}"

    def at_the_end(self) -> Iterator[str]:
        """What the events have not told, and what is left on the boards."""
        for request in (*self._history.postings, *self._history.requests):
            if not isinstance(request, Take | Posting) or request.status != Status.OK:
                continue
            kind = EventKind.OFFER_TAKEN
            if isinstance(request, Posting):
                kind = EventKind.OFFER_ADDED if request.text else EventKind.OFFER_REMOVED
            told = self._told.get((request.room, request.room_seq))
            if told != (kind, request.user, request.entry):
                yield f"{request} was acknowledged; its event is {told}"
        for room, found in self._history.boards.items():
            left = sorted((e, *o[1:]) for e, o in self._there.items() if o[0] == room)
            if left != found:
                here, gone = sorted({*found} - {*left}), sorted({*left} - {*found})
                yield f"room {room}: on its board by no event: {here}; by the events, too: {gone}"
        if rooms := {offer[0] for offer in self._there.values()} - self._history.boards.keys():
            yield f"the boards of the rooms {sorted(rooms)} were not read"
