"""The whole check of a live region: without a lock, while the workers go on.

Money is checked at one txn_id T, the head at the beginning: each account's balance at T follows
from the log (its newest record up to T, or what the first record after T found), and only where
the ring has neither from the account itself. These balances must add up to the supply that record
T tells, and the records of the ring must follow from one another.

What has no such order (memberships, lists, locks) is looked at many times over a second; a problem
that is there every time is one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from server.core import check
from server.core.log import NO_JOURNAL
from server.region.layout import OUTCOME_WORDS, RAISED
from server.region.locks import unfree_locks
from server.region.records import MONEY_KINDS, OFFSETS, RECORD_WORDS, SUPPLY, RecordKind
from server.region.region import Region

LOOKS: Final = 20
LOOK_S: Final = 0.05
_AT = OFFSETS[RecordKind.TRANSFER]


@dataclass(slots=True)
class Audit:
    """What was checked, and what does not hold."""

    txn: int = 0  # T
    checked: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def audit(region: Region, pause: Callable[[float], None]) -> Audit:
    """Check everything. pause: sleeps for seconds. Takes about a second."""
    done = Audit()
    _money(region, done)
    looks: tuple[tuple[str, int, Callable[[], Sequence[str]]], ...] = (
        ("locks", _locks(region), lambda: [f"{name} is not free" for name in unfree_locks(region)]),
        ("rooms", region.layout.capacities.rooms, lambda: list(check.events(region))),
        ("boards", region.layout.capacities.offers, lambda: list(check.boards(region))),
        ("named rooms", region.layout.capacities.rooms, lambda: list(check.named_rooms(region))),
        ("deletions", region.layout["deletions"].records, lambda: list(check.deletions(region))),
        ("sessions", region.layout.capacities.sessions, lambda: list(check.people(region))),
        ("clients", region.layout.capacities.clients, lambda: list(_clients(region))),
        ("heads", 2, lambda: list(_heads(region))),
    )
    standing = [set(look()) for _, _, look in looks]
    for _ in range(LOOKS - 1):
        pause(LOOK_S)
        for found, (_, _, look) in zip(standing, looks, strict=True):
            if found or look is looks[0][2]:
                found &= set(look())
    for (what, count, _), found in zip(looks, standing, strict=True):
        done.checked[what] = count
        done.problems += sorted(found)
    return done


def _locks(region: Region) -> int:
    return sum(p.records for p in region.layout.segments.values() if "lock" in p.offsets)


def records(region: Region, first: int, last: int) -> dict[int, list[int]]:
    """The records of the ring from one txn_id to another, those that it still has."""
    ring, words, out = region.layout["txn_ring"], region.words, {}
    for txn in range(first, last + 1):
        at = ring.at(txn % ring.records)
        record = words[at : at + RECORD_WORDS].tolist()
        if record[0] == txn and words[at] == txn:
            out[txn] = record
    return out


def _money(region: Region, done: Audit) -> None:
    layout = region.layout
    size = layout["txn_ring"].records
    done.txn = top = region.log.head
    balances = region.column("accounts", "balance")
    end = region.log.head + 1  # one more may be committed while the head lags
    found = records(region, max(1, top + 1 - size), end)
    last: dict[int, tuple[int, int]] = {}  # by user: its newest txn_id so far, the balance after it
    at_top: dict[int, int] = {}
    supply = 0
    for txn, record in found.items():
        if record[1] in MONEY_KINDS:
            _follow(record, last, at_top if txn <= top else {}, done)
            if txn > top:
                _before(record, at_top)
        if txn == top:
            supply = record[SUPPLY]
        if txn - 1 in found:
            change = _change(record)
            if found[txn - 1][SUPPLY] + change != record[SUPPLY]:
                done.problems.append(f"the supply of transaction {txn} does not follow")
    for user, balance in enumerate(balances):
        at_top.setdefault(user, balance)
    if (top in found or not top) and sum(at_top.values()) != supply:
        total = sum(at_top.values())
        done.problems.append(
            f"at transaction {top} the balances add up to {total}, by the log to {supply}"
        )
    done.checked["accounts"] = len(balances) - 1
    done.checked["transactions"] = len(found)


def _change(record: Sequence[int]) -> int:
    if record[1] in (RecordKind.DEPOSIT, RecordKind.PAID_IN):
        return record[_AT["amount"]]
    is_out = record[1] in (RecordKind.WITHDRAW, RecordKind.PAID_OUT)
    return -record[_AT["amount"]] if is_out else 0


def halves(record: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(user, balance after, the account's transaction before, change) of each account in it."""
    amount = record[_AT["amount"]]
    halves = (
        (
            record[_AT["from_user"]],
            record[_AT["from_balance"]],
            record[_AT["from_previous"]],
            -amount,
        ),
        (record[_AT["to_user"]], record[_AT["to_balance"]], record[_AT["to_previous"]], amount),
    )
    return [half for half in halves if half[0]]


def _follow(
    record: Sequence[int], last: dict[int, tuple[int, int]], at_top: dict[int, int], done: Audit
) -> None:
    """A record follows from the one before it of each of its accounts."""
    for user, balance, previous, change in halves(record):
        if user in last and last[user] != (previous, balance - change):
            done.problems.append(f"transaction {record[0]} does not follow for user {user}")
        last[user] = record[0], balance
        at_top[user] = balance


def _before(record: Sequence[int], at_top: dict[int, int]) -> None:
    """What an account had at T, from its first record after T."""
    for user, balance, _, change in halves(record):
        at_top.setdefault(user, balance - change)


def _heads(region: Region) -> Iterator[str]:
    """Nothing is durable that is not there, of transactions and of events."""
    for name, ring in (("transaction", region.log), ("event", region.events)):
        durable = ring.durable  # before the head, which only rises
        if ring.head < durable != NO_JOURNAL:
            yield f"{name} {durable} is durable, and the newest is {ring.head}"


def _clients(region: Region) -> list[str]:
    """Each client's newest req_id is that of an outcome that it has; none is below its floor, but
    where that was set after damage."""
    clients, words, out = region.layout["clients"], region.words, []
    for slot, user in enumerate(region.column("clients", "user")):
        if user:
            at = clients.at(slot, "outcomes")
            end = at + clients.lengths["outcomes"]
            outcomes = words[at:end:OUTCOME_WORDS].tolist()
            newest = words[clients.at(slot, "newest")]
            floor = words[clients.at(slot, "floor")]
            raised = words[clients.at(slot, "marks")] & RAISED
            if not raised and any(0 < req_id < floor for req_id in outcomes):
                out.append(f"client {slot} has an outcome below its floor, {floor}")
            if max(outcomes) != newest:
                out.append(f"client {slot} is at req_id {newest}, its outcomes at {max(outcomes)}")
    return out
