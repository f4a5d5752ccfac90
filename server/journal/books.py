"""The state as the journal's records make it: what a start and a snapshot are folded into, and the
audit of every record on the way.

A record counts only if it follows from all those before it; the first one that does not is told,
and nothing is guessed. A million records are folded at a start, so there are columns of numbers,
and no object per record.
"""

from array import array
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from libproto.messages import MAX_BALANCE, OUTCOME_WINDOW, USERNAME_PATTERN, Opcode
from server.core.change_records import outcome_of
from server.journal.errors import Inconsistent
from server.journal.format import EVENT_HEAD, EventHead, event_size
from server.journal.money import BEFORE, ROW_WORDS, Money, fold_money
from server.journal.rooms import NamedRooms
from server.region.layout import (
    MARKED,
    OPERATOR_KEYS,
    OUTCOME_WORDS,
    RAISED,
    TARGET_KIND_SHIFT,
    WORD,
)
from server.region.records import (
    CHANGE_WORDS,
    FIRST_CHANGE,
    INBOX,
    OFFSETS,
    PAID_KINDS,
    RECORD_SIZE,
    RECORD_WORDS,
    RecordKind,
    UserRole,
    UserState,
)

_REGISTER, _NEW_CLIENT, _NEW_FLOOR, _EVENTS_LOST, _TEXT, _BLOCK, _VERIFIER, _USER_SET = map(
    int,
    (
        RecordKind.REGISTER,
        RecordKind.NEW_CLIENT,
        RecordKind.NEW_FLOOR,
        RecordKind.EVENTS_LOST,
        RecordKind.TEXT,
        RecordKind.BLOCK,
        RecordKind.VERIFIER,
        RecordKind.USER_SET,
    ),
)
_PAID: Final = tuple(map(int, PAID_KINDS))
_KINDS: Final = (
    _REGISTER, _NEW_CLIENT, _NEW_FLOOR, _EVENTS_LOST, _TEXT, _BLOCK, _VERIFIER, _USER_SET, *_PAID,
)  # fmt: skip
_NO_OUTCOMES: Final = array("Q", bytes(ROW_WORDS * WORD))

_OPENING: Final = Struct("<8Q")  # of a record that is not of money: what tells anything but names
_unpack_change: Final = Struct(f"<{CHANGE_WORDS}Q").unpack_from
_TEXT_AT: Final = OFFSETS[RecordKind.TEXT]["text"] * WORD
_CHANGE: Final = OFFSETS[RecordKind.ROOM_OPENED]
_pack_outcome = Struct(f"<{OUTCOME_WORDS}Q").pack_into
_unpack_paid: Final = Struct(f"<{RECORD_WORDS}Q").unpack_from
_PAID_AT: Final = OFFSETS[RecordKind.PAID_IN]
_SALT: Final = OFFSETS[RecordKind.VERIFIER]["salt"] * WORD  # salt and keys, up to the end
_KEYS_SIZE: Final = 16 + 32 + 32
_PROFILE: Final = OFFSETS[RecordKind.REGISTER]["iterations"] * WORD
_NAME: Final = slice(WORD, WORD + 32)  # of a profile
assert list(OFFSETS[RecordKind.REGISTER])[4:7] == ["user_id", "iterations", "name"]
assert list(OFFSETS[RecordKind.NEW_CLIENT])[4:8] == ["user_id", "client_id", "client_slot", "floor"]
assert list(OFFSETS[RecordKind.EVENTS_LOST])[4:8] == ["first_event", "next_event", "room", "seq"]


class Lost(NamedTuple):
    """The events of a batch that are damaged, and no start has dealt with."""

    next_event: int  # number of the event after them
    epoch: int  # that their numbers belong to
    skips: int  # that are in these numbers


class Books(Money):
    """Users, accounts, clients and rooms at one place of the journal.

    A user's `profiles` entry is what the record of the registration says from `iterations` on:
    iterations, name, salt and keys.
    """

    def __init__(self) -> None:
        """Those of a server that nobody has used."""
        super().__init__()
        self.event = 0  # number of the newest event in it
        self.skips = 0  # numbers that starts after a crash have left out, of each room and inbox
        self.epoch = 0  # that the numbers of rooms and inboxes belong to; 0: no start yet
        self.ring = 0  # events of the ring at the newest start
        self.rooms: dict[int, int] = {}  # by room id: its newest room_seq without the skips
        self.lost: dict[int, Lost] = {}  # by the number of the first of these events
        # by user id
        self.profiles = [b""]
        self.registered = [0]  # microseconds since the Unix epoch
        self.last_seen = [0]  # likewise; no record tells it: as it was told for a snapshot
        self.direct_seqs = [0]  # of the newest direct message, without the skips
        self.roles = array("Q", [0])  # UserRole
        self.states = array("Q", [0])  # UserState
        self.user_ids: dict[bytes, int] = {}  # by name, without its padding
        # by client slot
        self.marks: list[int] = []  # bits: see the layout of the region
        self.slots: dict[tuple[int, int], int] = {}  # by user and client_id
        self.named = NamedRooms()
        self.blocks: set[tuple[int, int]] = set()  # user ids: who blocks whom
        # by key, oldest first: what the region keeps of the operator's commands, key left out
        self.keys: dict[int, tuple[int, ...]] = {}

    def take(self, txn: int, room: int, entry: int, owner: int, price: int) -> None:
        """See Money."""
        self.named.take(txn, room, entry, owner, price)

    def apply(self, records: bytes | memoryview) -> None:
        """Fold whole records in the order of their txn_id, those at or below `txn` left out.

        Inconsistent: the first that does not follow; what is here then is of no further use.
        """
        records, at, settled = bytes(records), 0, set[int]()
        end = len(records)
        assert not end % RECORD_SIZE, "whole records"
        while at < end and int.from_bytes(records[at : at + WORD], "little") <= self.txn:
            at += RECORD_SIZE
        while (then := fold_money(self, records, at)) < end:
            record = _OPENING.unpack_from(records, then)
            txn, kind, time, supply = record[:4]
            if kind not in _KINDS and kind < FIRST_CHANGE:
                raise Inconsistent(txn, f"there is no kind {kind}")
            has_text = kind == _TEXT or kind in _PAID or kind >= FIRST_CHANGE
            if self.named.awaits_change and (then > at or not has_text):
                raise Inconsistent(txn, "the change whose text was before it is missing")
            at = then
            if time < self.time:
                raise Inconsistent(txn, BEFORE)
            self.time = time
            if kind in _PAID:
                self._paid(_unpack_paid(records, at))
                at += RECORD_SIZE
                continue
            if supply != self.supply:
                raise Inconsistent(txn, f"a supply of {supply} in the place of {self.supply}")
            if kind == _REGISTER:
                self.register(txn, time, record[4], records[at + _PROFILE : at + RECORD_SIZE])
            elif kind == _NEW_CLIENT:
                self.new_client(txn, *record[4:8])
            elif kind == _NEW_FLOOR:
                self._new_floor(txn, *record[4:8])
            elif kind == _TEXT:
                self.named.add_text(txn, records[at + _TEXT_AT : at + RECORD_SIZE])
            elif kind >= FIRST_CHANGE:
                self._change(_unpack_change(records, at))
            elif kind == _BLOCK:
                self._block(txn, *record[4:7])
            elif kind == _VERIFIER:
                keys = records[at + _SALT : at + _SALT + _KEYS_SIZE]
                self._verifier(txn, record[4], record[5], keys)
            elif kind == _USER_SET:
                self._user_set(txn, *record[4:7])
            else:
                self._settle(txn, *record[4:8])
                settled.add(record[4])
            at += RECORD_SIZE
        if self.named.awaits_change:
            raise Inconsistent(self.txn, "the change whose text it is is missing")
        for first_event in settled:
            self.lost.pop(first_event, None)

    # ---- events

    def begin(self, ring: int, skip: int, epoch: int) -> None:
        """A start of the server: see the batch header's fields."""
        if epoch != self.epoch:  # all rooms begin anew
            self.rooms.clear()
            self.direct_seqs = [0] * len(self.direct_seqs)
            self.skips = 0
            self.named.begin_anew()
        self.ring, self.epoch = ring, epoch
        self.skips += skip

    def last_seq(self, room: int) -> int:
        """The greatest room_seq that may have been used."""
        return self.rooms.get(room, 0) + self.skips

    def apply_events(self, events: bytes | memoryview, next_event: int) -> None:
        """Fold the events of a batch, in their order, which ends before number `next_event`.

        Inconsistent: the first that does not follow; what is here then is of no further use.
        """
        at, number = 0, self.event
        while at < len(events):
            if at + EVENT_HEAD.size > len(events):
                raise Inconsistent(number + 1, "its end is missing", "event")
            event = EventHead._make(EVENT_HEAD.unpack_from(events, at))
            if not number < event.word < next_event:
                raise Inconsistent(number + 1, f"number {event.word} comes next", "event")
            number = event.word
            at += event_size(event.frame_len)
            if event.room:
                self._count(number, self.rooms, event.room, event.seq)
            elif 0 < event.user <= self.users:
                self._count(number, self.direct_seqs, event.user, event.seq)
            else:
                raise Inconsistent(number, f"there is no user {event.user}", "event")
            if event.client_id:
                self._message_outcome(event)
        if at != len(events):
            raise Inconsistent(number, "its end is missing", "event")
        self.event = next_event - 1

    def _count(self, event: int, counts: dict[int, int] | list[int], of: int, seq: int) -> None:
        last = counts.get(of, 0) if isinstance(counts, dict) else counts[of]
        is_next = seq == last + self.skips + 1
        if not is_next and not (self.lost and seq > last + self.skips):
            raise Inconsistent(event, f"number {seq} comes after {last + self.skips}", "event")
        counts[of] = seq - self.skips

    def lose_events(
        self, first_event: int, next_event: int, pairs: Iterable[tuple[int, int, int]]
    ) -> None:
        """Go on past the events of a batch, which are damaged; its transactions are folded.
        Outcomes of messages may have been among them, so every client is marked. Numbers of rooms
        and inboxes are not known, but by later events, until a start deals with it (`lost`).

        pairs: room, room_seq and number of each event that a transaction of the batch was published
        with, in their order. Inconsistent: one that does not follow."""
        self.lost[first_event] = Lost(next_event, self.epoch, self.skips)
        for room, seq, event in pairs:
            if not first_event <= event < next_event:
                raise Inconsistent(event, "it is not of this batch", "event")
            self._count(event, self.rooms, room, seq)
        self.marks = [marks | MARKED for marks in self.marks]
        self.event = next_event - 1

    def _settle(self, txn: int, first_event: int, next_event: int, room: int, seq: int) -> None:
        """A start has dealt with events that were lost: what it has found of a room, or of none.
        Inconsistent with `txn`."""
        lost, user = self.lost.get(first_event), room - INBOX
        if next_event > self.event + 1 or (lost is not None and lost.next_event != next_event):
            raise Inconsistent(txn, f"there is no batch with the events from {first_event} on")
        if user > self.users:
            raise Inconsistent(txn, f"there is no user {user}")
        # They may have been whole when what this began with was made: then it has the numbers.
        if not room or lost is None or lost.epoch != self.epoch:
            return
        if user <= 0:
            self.rooms[room] = max(self.rooms.get(room, 0), seq - lost.skips)
        else:
            self.direct_seqs[user] = max(self.direct_seqs[user], seq - lost.skips)

    def _message_outcome(self, event: EventHead) -> None:
        """What a repeat of the request is answered with. Transactions and events of one client do
        not stand in the order of its requests, so only what is not known better is stored."""
        slot = self.slots.get((event.sender, event.client_id))
        if slot is None:
            return  # the record has been given away since
        at = slot * ROW_WORDS + event.req_id % OUTCOME_WINDOW * OUTCOME_WORDS
        if self.outcomes[at] == event.req_id:
            raise Inconsistent(event.word, f"request {event.req_id} was executed before", "event")
        if (
            event.req_id < self.floors[slot]
            or event.req_id + OUTCOME_WINDOW <= self.newest[slot]
            or self.outcomes[at] > event.req_id
        ):
            return
        to = event.room or event.user
        opcode = Opcode.CHAT_SEND if event.room else Opcode.DIRECT_SEND
        _pack_outcome(
            self.outcomes, at * WORD, event.req_id, 0, event.time,
            opcode << TARGET_KIND_SHIFT | to, 0, event.seq, event.digest,
        )  # fmt: skip
        self.newest[slot] = max(self.newest[slot], event.req_id)

    def _block(self, txn: int, user: int, blocked: int, on: int) -> None:
        if not (0 < user <= self.users and 0 < blocked <= self.users and user != blocked):
            raise Inconsistent(txn, f"user {user} cannot block user {blocked}")
        if on:
            self.blocks.add((user, blocked))
        else:
            self.blocks.discard((user, blocked))

    def _change(self, record: tuple[int, ...]) -> None:
        """A change of a room or a board. Inconsistent."""
        txn, client, user = record[0], record[_CHANGE["client_slot"]], record[_CHANGE["user"]]
        if not (
            record[_CHANGE["room"]] and record[_CHANGE["room_seq"]] and record[_CHANGE["event"]]
        ):
            raise Inconsistent(txn, "it has no event")
        self.named.apply(record, self.users)
        if not client:
            return
        slot, client_id = client - 1, record[_CHANGE["client_id"]]
        if self.slots.get((user, client_id)) != slot:
            raise Inconsistent(txn, f"client {client_id} of user {user} is not in slot {slot}")
        if record[_CHANGE["again"]]:
            return
        found = outcome_of(record)
        at = slot * ROW_WORDS + found.req_id % OUTCOME_WINDOW * OUTCOME_WORDS
        if self.outcomes[at] == found.req_id:
            raise Inconsistent(txn, f"request {found.req_id} was executed before")
        if found.req_id < self.floors[slot]:
            why = f"request {found.req_id} is older than its client's record ({self.floors[slot]})"
            raise Inconsistent(txn, why)
        if found.req_id + OUTCOME_WINDOW > self.newest[slot] and self.outcomes[at] < found.req_id:
            _pack_outcome(self.outcomes, at * WORD, *found)
            self.newest[slot] = max(self.newest[slot], found.req_id)

    # ---- what operators do

    def _paid(self, record: tuple[int, ...]) -> None:
        """A deposit or a withdrawal by the operator. Inconsistent."""
        txn, kind, _, supply, payer, payee, amount, payer_after, payee_after = record[:9]
        self.named.take_text(txn, record[_PAID_AT["text_size"]])
        comes = kind == RecordKind.PAID_IN
        user, other, after = (payee, payer, payee_after) if comes else (payer, payee, payer_after)
        change = amount if comes else -amount
        if not amount or other or not 0 < user <= self.users or (payer_after and payee_after):
            raise Inconsistent(txn, f"user {payer} pays {amount} to user {payee}")
        if self.states[user] == UserState.DELETED:
            raise Inconsistent(txn, f"user {user} was deleted")
        if not 0 <= supply == self.supply + change <= MAX_BALANCE:
            raise Inconsistent(txn, f"a supply of {supply} in the place of {self.supply + change}")
        if not 0 <= after == self.balances[user] + change:
            had = self.balances[user]
            raise Inconsistent(txn, f"user {user} had {had}, moves {change} and has {after}")
        previous = record[_PAID_AT["to_previous" if comes else "from_previous"]]
        if previous != self.last_txn[user]:
            raise Inconsistent(txn, "it is not chained to its accounts' transactions before it")
        self.supply, self.balances[user], self.last_txn[user] = supply, after, txn
        key = record[_PAID_AT["key"]]
        if not key or key in self.keys:
            raise Inconsistent(txn, "its command was executed before")
        self.put_key(txn, key, kind, user, amount, after, record[_PAID_AT["digest"]])

    def put_key(self, txn: int, key: int, *rest: int) -> None:
        """A command of the operator's was executed: as the region keeps it."""
        self.keys[key] = txn, *rest
        if len(self.keys) > OPERATOR_KEYS:
            del self.keys[next(iter(self.keys))]

    def _verifier(self, txn: int, user: int, iterations: int, keys: bytes) -> None:
        """A user has another password. Inconsistent."""
        if not 0 < user <= self.users or self.states[user] == UserState.DELETED:
            raise Inconsistent(txn, f"there is no user {user}")
        name = self.profiles[user][_NAME]
        self.profiles[user] = iterations.to_bytes(WORD, "little") + name + keys

    def _user_set(self, txn: int, user: int, role: int, state: int) -> None:
        """What a user may do. Inconsistent."""
        if not 0 < user <= self.users or self.states[user] == UserState.DELETED:
            raise Inconsistent(txn, f"there is no user {user}")
        if role not in tuple(UserRole) or state not in tuple(UserState):
            raise Inconsistent(txn, f"user {user} cannot have the role {role} and state {state}")
        if state == UserState.DELETED and self.balances[user]:
            raise Inconsistent(txn, f"user {user} is deleted with {self.balances[user]}")
        self.roles[user], self.states[user] = role, state

    # ---- users and clients

    def register(self, txn: int, time: int, user: int, profile: bytes) -> None:
        """Add a user, registered at `time`. Inconsistent with `txn`, and nothing is changed."""
        if user != self.users + 1:
            raise Inconsistent(txn, f"user {user} is registered after {self.users}")
        name = profile[_NAME].rstrip(b"\0")
        if not USERNAME_PATTERN.match(name.decode("latin-1")):
            raise Inconsistent(txn, f"{name!r} is not a name")
        if name in self.user_ids:
            raise Inconsistent(txn, f"the name {name!r} is taken")
        self.user_ids[name] = user
        self.profiles.append(profile)
        self.registered.append(time)
        self.last_seen.append(time)
        self.roles.append(0)
        self.states.append(0)
        self.balances.append(0)
        self.last_txn.append(0)
        self.direct_seqs.append(0)

    def new_client(self, txn: int, user: int, client_id: int, client: int, floor: int) -> None:
        """Give a client the slot `client` - 1, which may be another's, without any outcome.
        Inconsistent with `txn`, and nothing is changed."""
        slot = client - 1
        if not 0 < user <= self.users:
            raise Inconsistent(txn, f"there is no user {user}")
        if not client_id or (user, client_id) in self.slots:
            raise Inconsistent(txn, f"client {client_id} of user {user} is not new")
        if not 0 <= slot <= self.clients:
            raise Inconsistent(txn, f"slot {slot} is used after {self.clients} slots")
        if not floor:
            raise Inconsistent(txn, f"client {client_id} of user {user} has no floor")
        if slot < self.clients:
            del self.slots[self.client_users[slot], self.client_ids[slot]]
            self.client_users[slot], self.client_ids[slot] = user, client_id
            self.newest[slot], self.floors[slot], self.marks[slot] = 0, floor, 0
            self.outcomes[slot * ROW_WORDS : client * ROW_WORDS] = _NO_OUTCOMES
        else:
            self.client_users.append(user)
            self.client_ids.append(client_id)
            self.newest.append(0)
            self.floors.append(floor)
            self.marks.append(0)
            self.outcomes.extend(_NO_OUTCOMES)
        self.slots[user, client_id] = slot

    def _new_floor(self, txn: int, user: int, client_id: int, client: int, floor: int) -> None:
        """A client that was marked goes on, with a LOGIN that has set its floor. Inconsistent with
        `txn`, and nothing is changed."""
        slot = client - 1
        if self.slots.get((user, client_id)) != slot:
            raise Inconsistent(txn, f"client {client_id} of user {user} is not in slot {slot}")
        if floor < self.floors[slot]:
            raise Inconsistent(txn, f"client {client_id} had a higher floor, {self.floors[slot]}")
        self.floors[slot], self.marks[slot] = floor, RAISED
