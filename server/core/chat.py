"""What a session sends to others: messages to a room, direct messages, PAYMENT pushes."""

from libproto.codec import PUSH
from libproto.messages import EventKind, Opcode
from server.core.audience import Audience, Touched
from server.core.errors import NotOnline, Superseded
from server.core.events import Events, SlotKind
from server.core.session import Session, is_live
from server.region.locks import Locks
from server.region.region import Region

_broadcast = PUSH[Opcode.CHAT_BROADCAST].frame
_direct = PUSH[Opcode.DIRECT_MESSAGE].frame
_payment = PUSH[Opcode.PAYMENT].frame
_MESSAGE = int(EventKind.MESSAGE)


class Chat:
    """Sending, as one worker does it."""

    def __init__(self, region: Region, locks: Locks, audience: Audience, events: Events) -> None:
        self._words = region.words
        self._audience, self._events = audience, events
        self._sending = locks.guard("chat send", locks.event)
        self._directing = locks.guard("direct send", locks.registry, locks.event)
        self._paying = locks.guard("payment push", locks.registry, locks.event)

    def send(self, session: Session, room: int, message: str, now: int) -> tuple[int, Touched]:
        """A message to a room the session has joined. Answers its room_seq, and the workers to
        wake. Superseded, RoomsBehind."""
        events = self._events
        with self._sending:
            if not is_live(self._words, session):
                raise Superseded
            seq = events.next_seq(room)
            frame = _broadcast(0, 0, room, seq, now, _MESSAGE, session.user, session.name, message)
            events.publish(_MESSAGE, room, seq, session.user, 0, frame)
        return seq, self._audience.listeners(room)

    def direct(self, session: Session, to_user: int, message: str, now: int) -> Touched:
        """A message to all connections of a user. Answers the workers to wake. NotOnline,
        Superseded."""
        events = self._events
        with self._directing:
            if not is_live(self._words, session):
                raise Superseded
            workers = self._audience.workers_of(to_user)
            if not workers:
                raise NotOnline
            seq = events.direct_seq(to_user) + 1
            frame = _direct(0, 0, seq, now, session.user, session.name, message)
            events.publish(SlotKind.DIRECT, 0, seq, to_user, 0, frame)
        return workers

    def pay(
        self, session: Session, payee: int, txn: int, amount: int, balance: int, now: int
    ) -> Touched:
        """Push a PAYMENT to the payee's connections. balance: the payee's after it. Answers the
        workers to wake."""
        frame = _payment(0, 0, txn, now, session.user, session.name, amount, balance)
        with self._paying:
            self._events.publish(SlotKind.PAYMENT, 0, 0, payee, 0, frame)
            return self._audience.workers_of(payee)
