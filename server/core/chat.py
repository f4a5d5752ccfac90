"""What a session sends to others: messages to a room, direct messages, PAYMENT pushes.

Messages are executed exactly once under a client_id, as ledger requests are: the outcome stands in
the client's record, under the user's account lock, before the event can be seen (`Events`).
"""

from typing import Final, NamedTuple

from libproto import wire, words
from libproto.codec import PUSH
from libproto.messages import EventKind, Opcode
from server.core.audience import NOBODY, Audience, Touched
from server.core.blocks import Blocks
from server.core.errors import NoSuchUser, NotJoined, OtherRequest, Superseded
from server.core.events import Events, SlotKind
from server.core.outcomes import Outcome, Outcomes
from server.core.room_bits import RoomBits
from server.core.rooms import Rooms
from server.core.session import Session
from server.core.users import Users
from server.region import machine
from server.region.layout import TARGET_KIND_SHIFT
from server.region.locks import Locks
from server.region.region import Region

_SEND, _DIRECT = int(Opcode.CHAT_SEND), int(Opcode.DIRECT_SEND)
_direct = PUSH[Opcode.DIRECT_MESSAGE].frame
_payment = PUSH[Opcode.PAYMENT].frame
_MESSAGE, _KIND_SHIFT = int(EventKind.MESSAGE), TARGET_KIND_SHIFT
_FILE: Final = int(EventKind.FILE)
_OF_FILES: Final = 1 << 31  # in the digest of a publication: no message is so long


class Sent(NamedTuple):
    """What became of a message."""

    seq: int  # its number in the room, or in the recipient's inbox
    time: int  # when it was sent, microseconds since the Unix epoch
    event: int  # number of an event at or after it: it is durable when that is
    recorded: bool  # it was executed before: this is its outcome
    touched: Touched  # workers to wake


def digest_of(message: bytes, room: int = 0) -> int:
    """A number of 64 bits that tells one message, in UTF-8, from another: its CRC-32, which goes on
    from the room's number, and how many bytes it has."""
    return wire.crc(message, room) << 32 | len(message)


def digest_of_file(opcode: int, *fields: int | str) -> int:
    """The same of a request that publishes a file: no message has such a digest."""
    text = " ".join(map(str, fields)).encode()
    return wire.crc(text, 0) << 32 | _OF_FILES | opcode


class Chat:
    """Sending, as one worker does it."""

    def __init__(
        self,
        region: Region,
        locks: Locks,
        users: Users,
        bits: RoomBits,
        audience: Audience,
        events: Events,
        outcomes: Outcomes,
        rooms: Rooms,
        blocks: Blocks,
    ) -> None:
        self._rooms, self._blocks = rooms, blocks
        self._opened = region.layout["rooms"].at(0, "opened")
        self._room_stride = region.layout["rooms"].stride
        self._view, self._locks = region.words, locks
        self._words = machine.words_of(region.words)
        self._users, self._bits = users, bits
        self._audience, self._events = audience, events
        self._outcomes = outcomes
        self._paying = locks.guard("payment push", locks.registry, locks.event)

    def send(
        self, session: Session, room: int, message: str, now: int, req_id: int, flagged: int
    ) -> Sent:
        """A message to a room that the session has joined. flagged: POSSIBLE_DUPLICATE; it matters
        only in a session without a client. now: microseconds since the Unix epoch.

        Superseded, OutcomeUnknown, OtherRequest, NotJoined, NotAllowed, Busy.
        """
        return self.send_encoded(session, room, message.encode(), now, req_id, flagged)

    def send_encoded(
        self, session: Session, room: int, message: bytes, now: int, req_id: int, flagged: int
    ) -> Sent:
        """The same, of a text in UTF-8."""
        events = self._events
        digest = digest_of(message)
        guard = session.sending
        if guard is None:
            held = session.lock, self._locks.event
            guard = session.sending = self._locks.guard("chat send", *held)
        with guard:
            recorded = self._recorded(session, req_id, digest, _SEND, room, flagged)
            if recorded is not None:
                return recorded
            if not self._bits.has(session.slot, room):
                raise NotJoined
            if self._words[self._opened + room * self._room_stride]:
                self._rooms.check_speak(room, session.user)
            events.check_open()
            seq = events.next_seq(room)
            user, name = session.user, session.name
            frame = words.broadcast(room, seq, now, _MESSAGE, user, name, message)
            request = user, session.client_slot, session.client_id, req_id, digest
            payload = events.payload(_MESSAGE, room, seq, user, 0, frame, now, request)
            events.publish(payload)
            event = events.head()
        # After the unlock: nothing is under a lock that need not be.
        return Sent(seq, now, event, False, self._audience.listeners(room))

    def publish(
        self, session: Session, room: int, opened: int, text: str, digest: int, now: int,
        req_id: int, flagged: int,
    ) -> Sent:  # fmt: skip
        """The event that publishes a file in a room that the session has joined. opened: the
        txn_id by which the room was opened when the file was begun: in another one it is not
        published. digest: of the request, see `digest_of_file`; flagged, now: as in `send`.

        Superseded, OutcomeUnknown, OtherRequest, NotJoined, NotAllowed, Busy.
        """
        events = self._events
        with self._locks.guard("publish", session.lock, self._locks.event):
            recorded = self._published(session, req_id, digest, flagged)
            if recorded is not None:
                return recorded
            if not self._bits.has(session.slot, room) or self._rooms.opened(room) != opened:
                raise NotJoined
            if opened:
                self._rooms.check_speak(room, session.user)
            events.check_open()
            seq, user = events.next_seq(room), session.user
            frame = words.broadcast(room, seq, now, _FILE, user, session.name, text.encode())
            request = user, session.client_slot, session.client_id, req_id, digest
            events.publish(events.payload(_FILE, room, seq, user, 0, frame, now, request))
            event = events.head()
        return Sent(seq, now, event, False, self._audience.listeners(room))

    def published(self, session: Session, req_id: int, digest: int, flagged: int) -> Sent | None:
        """What `publish` answered to this request before; None: it was not executed. Superseded,
        OutcomeUnknown, OtherRequest."""
        with self._locks.guard("look for a publication", session.lock):
            return self._published(session, req_id, digest, flagged)

    def _published(self, session: Session, req_id: int, digest: int, flagged: int) -> Sent | None:
        found = self._outcome(session, req_id, flagged)
        if found is None:
            return None
        # The room is not in the request: FILE_END names the file only.
        if (found.target >> _KIND_SHIFT, found.digest) != (_SEND, digest):
            raise OtherRequest
        return Sent(found.seq, found.balance, self._events.head(), True, NOBODY)

    def direct(
        self, session: Session, to_user: int, message: str, now: int, req_id: int, flagged: int
    ) -> Sent:
        """A message to a user, for the inbox and all connections; to one who blocks the sender it
        is not kept, and nobody is told. flagged, now: as in `send`.

        Superseded, OutcomeUnknown, OtherRequest, NoSuchUser, Busy.
        """
        locks, events = self._locks, self._events
        digest = digest_of(message.encode())
        guard = session.directing
        if guard is None:
            held = locks.registry, session.lock, locks.event
            guard = session.directing = locks.guard("direct send", *held)
        with guard:
            recorded = self._recorded(session, req_id, digest, _DIRECT, to_user, flagged)
            if recorded is not None:
                return recorded
            if not self._users.is_there(to_user):
                raise NoSuchUser
            if self._blocks.blocks(to_user, session.user):
                return Sent(0, now, events.head(), False, NOBODY)
            events.check_open()
            seq = events.direct_seq(to_user) + 1
            frame = _direct(0, 0, seq, now, session.user, session.name, message)
            request = session.user, session.client_slot, session.client_id, req_id, digest
            payload = events.payload(SlotKind.DIRECT, 0, seq, to_user, 0, frame, now, request)
            events.publish(payload)
            event, touched = events.head(), self._audience.workers_of(to_user)
        return Sent(seq, now, event, False, touched)

    def _recorded(
        self, session: Session, req_id: int, digest: int, opcode: int, to: int, flagged: int
    ) -> Sent | None:
        """The outcome of a request that was executed before; None: it is to be executed now. Under
        the account lock. Superseded, OutcomeUnknown, OtherRequest."""
        found = self._outcome(session, req_id, flagged)
        if found is None:
            return None
        if (found.target, found.digest) != (opcode << _KIND_SHIFT | to, digest):
            raise OtherRequest
        # Of a message, the place of the balance has its time: layout.py, OUTCOME_FIELDS.
        return Sent(found.seq, found.balance, self._events.head(), True, NOBODY)

    def _outcome(self, session: Session, req_id: int, flagged: int) -> Outcome | None:
        words = self._words
        if words[session.at] != session.id or words[session.at + 1]:
            raise Superseded
        found: Outcome | None = self._outcomes.look(session, req_id, flagged)
        return found

    def pay(
        self, session: Session, payee: int, txn: int, amount: int, balance: int, now: int
    ) -> Touched:
        """Push a PAYMENT to the payee's connections. balance: the payee's after it. Answers the
        workers to wake: none where it is missed, since events have no place to spare."""
        frame = _payment(0, 0, txn, now, session.user, session.name, amount, balance)
        with self._paying:
            if self._blocks.blocks(payee, session.user):
                return NOBODY
            if not self._events.has_place_for_payment():
                return NOBODY
            event = self._events.payload(SlotKind.PAYMENT, 0, 0, payee, 0, frame, now)
            self._events.publish(event)
            return self._audience.workers_of(payee)
