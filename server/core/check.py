"""Does the region's state hold together? Asked after a repair, while all are paused.

Every problem is said in words; an empty answer means that every invariant below holds. Nothing is
changed and no lock is taken.
"""

from collections.abc import Iterator, Sequence

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW, Opcode, RoomAccess
from server.region.layout import DELETIONS, OUTCOME_WORDS, RAISED, TARGET_KIND_SHIFT
from server.region.locks import unfree_locks
from server.region.records import (
    OFFSETS,
    SUPPLY,
    TEXTS_MAX,
    RecordKind,
    UserState,
    may_tell,
)
from server.region.region import Region

_MASK = 2**64 - 1
_BEGUN = TEXTS_MAX + 1  # places that one who makes a change fills before any of them counts
_NEWEST = 256  # the newest: what a worker died in is among them
_MONEY, _CHANGE = OFFSETS[RecordKind.TRANSFER], OFFSETS[RecordKind.OFFER_REMOVED]


def problems(region: Region) -> list[str]:
    """Every invariant that does not hold."""
    return [
        *(f"{lock} is not free" for lock in unfree_locks(region)),
        *_intents(region),
        *_money(region),
        *_log(region),
        *events(region),
        *people(region),
        *_floors(region),
        *_outcomes(region),
        *_pairs(region),
        *boards(region),
        *named_rooms(region),
        *deletions(region),
    ]


def _intents(region: Region) -> Iterator[str]:
    for worker, txn in enumerate(region.column("workers", "intent")):
        if txn:
            yield f"worker {worker} still intends transaction {txn}"


def _money(region: Region) -> Iterator[str]:
    words, layout = region.words, region.layout
    balances = region.column("accounts", "balance")
    latest = region.column("accounts", "last_txn")
    closed, states = region.column("accounts", "closed"), region.column("users", "state")
    head = region.log.head
    ring = layout["txn_ring"]
    supply = words[ring.at(head % ring.records) + SUPPLY]
    if sum(balances) & _MASK != supply:
        yield f"balances add up to {sum(balances)}, by the log to {supply}"
    for user, (balance, last) in enumerate(zip(balances, latest, strict=True)):
        if balance > MAX_BALANCE:
            yield f"the balance of user {user} is {balance}"
        if closed[user] and balance:
            yield f"user {user} was deleted, and has {balance}"
        if closed[user] != (states[user] == UserState.DELETED):
            yield f"the account of user {user} is {closed[user]}, the state {states[user]}"
        if last > head:
            yield f"account {user} ends in transaction {last}, the log in {head}"


def _misplaced(found: list[int], head: int, first: int) -> Iterator[tuple[int, int]]:
    """(number, what stands in its place) where a ring does not hold its latest numbers: those from
    `first` on that there is room for; what is older was never in it.

    The places of the next numbers may be empty: somebody died as they began to fill them.
    """
    size = len(found)
    turn, last = head - head % size, head % size
    if head < size:  # it has not gone round yet: there is nothing behind its head
        expected = [*range(head + 1), *[0] * (size - head - 1)]
    else:
        expected = [*range(turn, head + 1), *range(turn - size + last + 1, turn)]
    if first > head - size + 1:
        expected = [number if number >= first else 0 for number in expected]
    if found != expected:
        begun = {(head + number) % size for number in range(1, _BEGUN + 1)}
        for place, (is_, should_be) in enumerate(zip(found, expected, strict=True)):
            if is_ != should_be and (is_ or place not in begun):
                yield should_be, is_


def _log(region: Region) -> Iterator[str]:
    head, first = region.log.head, region.log.first
    for txn, there in _misplaced(region.column("txn_ring", "record"), head, first):
        yield f"the log holds {there} in the place of transaction {txn}"


def events(region: Region) -> Iterator[str]:
    """Event ring and rooms."""
    head = region.events.head
    ring = region.layout["event_ring"]
    found = region.column("event_ring", "word")
    for number, there in _misplaced(found, head, region.events.first):
        yield f"the event ring holds {there} in the place of {number}"
    room_of, seq_of = region.column("event_ring", "room"), region.column("event_ring", "seq")
    last_event, last_seq = region.column("rooms", "last_event"), region.column("rooms", "last_seq")
    for room, (event, seq) in enumerate(zip(last_event, last_seq, strict=True)):
        if event > head:
            yield f"room {room} ends in event {event}, the ring in {head}"
        place = event % ring.records
        if event and found[place] == event and (room_of[place], seq_of[place]) != (room, seq):
            yield f"room {room} is at {seq}, its latest event at {seq_of[place]}"


def people(region: Region) -> Iterator[str]:
    """Sessions, their users, their rooms, and what is derived from them."""
    words, layout = region.words, region.layout
    sessions = layout["sessions"]
    live = [slot for slot, session in enumerate(region.column("sessions", "id")) if session]
    states = region.column("users", "state")
    members: dict[int, set[int]] = {}
    by_user: dict[int, set[int]] = {}
    for slot in live:
        user = words[sessions.at(slot, "user")]
        by_user.setdefault(user, set()).add(slot)
        at = sessions.at(slot, "rooms")
        for place in range(sessions.lengths["rooms"]):
            bits = words[at + place]
            while bits:
                bit = bits & -bits
                members.setdefault(place * 64 + bit.bit_length() - 1, set()).add(user)
                bits ^= bit
    for room, count in enumerate(region.column("rooms", "members")):
        if count != len(members.get(room, ())):
            yield f"room {room} counts {count} members and has {len(members.get(room, ()))}"
    if region.registry.members != sum(map(len, members.values())):
        there_are = sum(map(len, members.values()))
        yield f"the registry counts {region.registry.members} members, the rooms have {there_are}"
    following = region.column("sessions", "next")
    for user, first in enumerate(region.column("users", "first_session")):
        if first or user in by_user:
            listed = _listed(following, first)
            if sorted(listed) != sorted(by_user.get(user, ())):
                yield f"user {user} has the sessions {by_user.get(user)}, listed are {listed}"
    for slot in live:
        user = words[sessions.at(slot, "user")]
        if states[user] and not words[sessions.at(slot, "mark")]:
            yield f"user {user} has a session, and the state {states[user]}"
    free = _listed(following, region.registry.free_session)
    if set(free) & set(live) or len({*free}) + len(live) != sessions.records:
        yield f"{len(live)} sessions are used, {len(free)} are free, of {sessions.records}"
    ended = sum(1 for slot in live if words[sessions.at(slot, "mark")])
    counted = region.registry.live_sessions, region.registry.ending_sessions
    if counted != (len(live) - ended, ended):
        yield f"{counted} sessions are live and ended by count, {(len(live) - ended, ended)} are"


def _floors(region: Region) -> Iterator[str]:
    columns = map(region.column, ["clients"] * 4, ("user", "floor", "marks", "newest"))
    for slot, (user, floor, marks, newest) in enumerate(zip(*columns, strict=True)):
        if user and (not floor or (0 < newest < floor and not marks & RAISED)):
            yield f"client {slot} has the floor {floor}, its newest req_id is {newest}"


def _outcomes(region: Region) -> Iterator[str]:
    """The newest messages against the outcomes of their clients. One that a worker died in is among
    them, as nobody else could publish meanwhile."""
    words, layout = region.words, region.layout
    ring, clients, head = layout["event_ring"], layout["clients"], region.events.head
    for number in range(max(1, head - _NEWEST + 1), head + 1):
        at = ring.at(number % ring.records)
        word, _, room, seq, user, *_, time, sender, slot, client_id, req_id, digest, _ = words[
            at : at + ring.offsets["frame"]
        ].tolist()
        client = clients.at(slot - 1) if slot else 0
        if word != number or not slot or words[client : client + 2].tolist() != [sender, client_id]:
            continue  # not there any more, nobody's, or of one whose record was given away
        at = client + clients.offsets["outcomes"] + req_id % OUTCOME_WINDOW * OUTCOME_WORDS
        opcode = Opcode.CHAT_SEND if room else Opcode.DIRECT_SEND
        target = opcode << TARGET_KIND_SHIFT | (room or user)
        outcome = words[at : at + OUTCOME_WORDS].tolist()
        its_own = outcome == [req_id, 0, time, target, 0, seq, digest]
        if (
            not (its_own or outcome[0] > req_id)
            or words[client + clients.offsets["newest"]] < req_id
        ):
            yield f"event {number} is not the outcome of request {req_id} of client {slot - 1}"


def _pairs(region: Region) -> Iterator[str]:
    """The newest transactions that are told in a room, and their events."""
    words, layout = region.words, region.layout
    log, ring, head = layout["txn_ring"], layout["event_ring"], region.events.head
    room_at, end, txn_at = _MONEY["room"], _MONEY["event"] + 1, ring.offsets["txn"]
    for txn in range(max(1, region.log.head - _NEWEST + 1), region.log.head + 1):
        at = log.at(txn % log.records)
        if words[at] != txn or not may_tell(words[at + 1]) or not words[at + room_at]:
            continue
        room, seq, event = words[at + room_at : at + end].tolist()
        at = ring.at(event % ring.records)
        there = words[at : at + ring.offsets["frame"]].tolist()
        its_own = [there[2], there[3], there[txn_at]] == [room, seq, txn]
        if event > head or (there[0] == event and not its_own):
            yield f"transaction {txn} is not told in event {event}"
    for number in range(max(1, head - _NEWEST + 1), head + 1):
        at = ring.at(number % ring.records)
        txn = words[at + txn_at]
        if not txn or words[at] != number:
            continue
        at = log.at(txn % log.records)
        if txn > region.log.head or (words[at] == txn and words[at + end - 1] != number):
            yield f"event {number} tells of transaction {txn}, which does not tell of it"


def boards(region: Region) -> Iterator[str]:
    """Offers, their number by room, and that none is there which was taken or removed."""
    words, layout = region.words, region.layout
    log, counts = layout["txn_ring"], [0] * layout["rooms"].records
    entries, rooms = region.column("offers", "word"), region.column("offers", "room")
    opened, now = region.column("offers", "opened"), region.column("rooms", "opened")
    access = region.column("rooms", "access")
    for entry, room, opening in zip(entries, rooms, opened, strict=True):
        if not entry:
            continue
        if entry > region.log.head:
            yield f"an offer has the number {entry}, the log ends in {region.log.head}"
        if opening == now[room] and (not opening or access[room] != RoomAccess.CLOSED):
            counts[room] += 1
    for room, (count, there_are) in enumerate(
        zip(region.column("rooms", "offers"), counts, strict=True)
    ):
        if count != there_are:
            yield f"room {room} counts {count} offers and has {there_are}"
    there = set(entries)
    for txn in range(max(1, region.log.head - _NEWEST + 1), region.log.head + 1):
        at = log.at(txn % log.records)
        gone = {
            RecordKind.OFFER_TAKEN: words[at + _MONEY["digest"]],
            RecordKind.OFFER_REMOVED: words[at + _CHANGE["value"]],
        }.get(RecordKind(words[at + 1]) if words[at] == txn else RecordKind.TEXT, 0)
        if gone and gone in there:
            yield f"offer {gone} is on its board, and transaction {txn} took it off"


def named_rooms(region: Region) -> Iterator[str]:
    """Names and owners of rooms that were opened."""
    columns = ("opened", "access", "owner", "likeness")
    users, names = region.registry.users, set[int]()
    for room, (opened, access, owner, name) in enumerate(
        zip(*(region.column("rooms", column) for column in columns), strict=True)
    ):
        is_open = bool(opened) and access != RoomAccess.CLOSED
        if opened > region.log.head:
            yield f"room {room} was opened by {opened}, the log ends in {region.log.head}"
        if is_open != bool(name) or is_open != (0 < owner <= users):
            yield f"room {room} has the owner {owner}, its access is {access}"
        if name and name in names:
            yield f"room {room} has the name of another room"
        names.add(name)


def deletions(region: Region) -> Iterator[str]:
    """The newest transactions that delete a text, and that the table says so."""
    words, log, noted = region.words, region.layout["txn_ring"], region.events.deletions
    columns = (region.column("deletions", column) for column in ("event", "room", "seq"))
    there = list(zip(*columns, strict=True))
    found = 0
    for txn in range(region.log.head, max(0, region.log.head - _NEWEST), -1):
        at = log.at(txn % log.records)
        if words[at] != txn or words[at + 1] != RecordKind.TEXT_DELETED:
            continue
        event, room, seq = (words[at + _CHANGE[name]] for name in ("event", "room", "value"))
        if event < region.events.first:
            break  # of an earlier run: the archive knows of it
        found += 1
        if (event, room, seq) not in there and found <= min(noted, DELETIONS):
            yield f"transaction {txn} deletes text {seq} of room {room}, and it is not noted"
    for event, room, seq in there:
        if event > region.events.head:
            yield f"text {seq} of room {room} is deleted by event {event}, beyond the last"
    are_noted = sum(1 for event, _, _ in there if event)
    if are_noted != min(noted, DELETIONS):
        yield f"{noted} deleted texts are counted, {are_noted} are noted"


def _listed(following: Sequence[int], first: int) -> list[int]:
    """Session slots of a list; cut off where it goes round in a circle, or out of the table."""
    out: list[int] = []
    while first and len(out) <= len(following):
        out.append(first - 1)
        if first > len(following):
            break
        first = following[first - 1]
    return out
