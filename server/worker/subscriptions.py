"""From the event ring to this worker's own subscribers: members, gaps and cursors.

One cursor goes through the ring; every event is read once and its finished frame copied into the
output of each member. A member that does not read misses events and is told exactly which; a
worker that was lapped reads the head first and then the rooms' counters, and tells every member
what it missed. Nobody waits for anybody.

Of a connection it knows no more than `Subscriber` says.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from libnet import kernel
from libnet.wakeup import Wakeup
from libproto.codec import PUSH
from libproto.messages import HEADER_LEN, Opcode, RoomAccess, RoomRole
from server.core.audience import NOBODY, Touched
from server.core.errors import LeavesFull, StateRefusal
from server.core.events import Event, SlotKind
from server.core.session import Session
from server.core.state import State
from server.region import histogram, machine
from server.region.counters import index_of
from server.region.histogram import TIMES_FIRST
from server.worker.counters import Counters
from server.worker.durable import Durable

_gap = PUSH[Opcode.ROOM_GAP].frame
_decode = PUSH[Opcode.CHAT_BROADCAST].decode

SLICE: Final = 64  # events, between two writes to a member: they bound what its output may grow by
_SLICE, _TIMES_FIRST = SLICE, TIMES_FIRST
_ROOM_CHANGED = int(SlotKind.ROOM_CHANGED)
DIRECT: Final = 0  # the "room" of direct messages, where gaps are kept


class Subscriber(Protocol):
    """What is known here of a connection."""

    @property
    def choked(self) -> bool:
        """Its client does not read: what is pushed now is missed."""

    @property
    def closing(self) -> bool:
        """Nothing can be sent any more."""

    @property
    def push(self) -> "Push":
        """Adds a frame to what the next flush sends."""

    def flush(self) -> None:
        """Send what was pushed, in one write."""

    def superseded(self) -> None:
        """A later login has taken the place of its session."""


class Push(Protocol):
    """How a frame is pushed."""

    def __call__(self, frame: bytes, /) -> None: ...


class _Subscription:
    """A subscriber's session, and what it has been pushed."""

    __slots__ = ("direct_seq", "gaps", "payments", "rooms", "session")

    def __init__(self, session: Session, direct_seq: int, payments: bool) -> None:
        self.session: Final = session
        self.payments: Final = payments  # PAYMENT is pushed
        self.rooms: set[int] = set()  # joined
        self.gaps: dict[int, int] = {}  # by room: the first event missed while it did not read
        self.direct_seq = direct_seq  # of the latest direct message, pushed or missed


class _LocalRoom:
    """A room that this worker has members in."""

    __slots__ = ("delivered", "members", "opened")

    def __init__(self, delivered: int, opened: int) -> None:
        self.delivered = delivered  # room_seq up to which every member was served
        self.opened = opened  # txn_id by which the room was opened when it was joined; 0: never
        self.members: dict[Subscriber, int] = {}  # with the room_seq that its join answered


def _put_out_by(frame: bytes) -> int | None:
    """The user whom the event of a change of a room puts out, 0: all who are in it; None: nobody.
    It is the last that they get, so that those before it are pushed to them, though the room is
    closed already."""
    word, *numbers = _decode(frame, HEADER_LEN, len(frame))[-1].split(" ")
    if word == "access" and int(numbers[0]) == RoomAccess.CLOSED:
        return 0
    if word == "role" and int(numbers[1]) == RoomRole.BANNED:
        return int(numbers[0])
    return None


class _Lap(NamedTuple):
    """What was missed, as it stood when that was noticed."""

    rooms: dict[int, int]  # last_seq by room
    users: dict[int, int]  # direct_seq by user
    until: int  # it may be told when this event may be shown


class Subscriptions:
    """This worker's cursor in the event ring, and who is pushed what it finds there."""

    def __init__(
        self,
        state: State,
        counters: Counters,
        wakeups: Sequence[Wakeup],
        durable: Durable,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """wakeups: of all workers, by slot."""
        self._durable: Final = durable
        durable.pushes_by(self.poll)
        self._state, self._counters = state, counters
        self._view: Final = state.region.words
        self._words = machine.words_of(self._view)
        self._worker: Final = state.worker
        self._wakeups, self._loop = wakeups, loop
        self._events: Final = state.events
        self._memberships: Final = state.memberships
        self._audience: Final = state.audience
        self._named: Final = state.rooms
        self._deletions: Final = state.deletions
        self._deletions_at: Final = state.deletions.count_at
        # Sessions that were put out of a room, and whose leave has not been published yet.
        self._leaving: dict[tuple[Subscriber, int], Session] = {}
        self._cursor = state.events.head()
        self._of: dict[Subscriber, _Subscription] = {}
        self._rooms: dict[int, _LocalRoom] = {}
        self._users: dict[int, dict[Subscriber, _Subscription]] = {}
        workers = state.region.layout["workers"]
        self._pushes_at: Final = counters.base + index_of("pushes")
        self._delay_at: Final = state.region.layout["deliveries"].at(state.worker, "delay_us")
        self._now = 0  # when the slice that is pushed began
        self._cut_at: Final = workers.at(state.worker, "cut")
        self._cut = self._words[self._cut_at]
        self._lap: _Lap | None = None  # what is to be told once it may be shown
        self._gaps = 0  # pushed since the last poll
        self._touched: dict[Subscriber, None] = {}
        self._frames: list[bytes] = []  # read and not yet pushed; of one room, in order
        self._frames_room = self._frames_first = 0  # the room, and the room_seq of the first
        self._waking: set[int] = set()  # slots of workers
        self._wake_scheduled = False

    @property
    def cursor(self) -> int:
        """The number of the event that this worker has come to."""
        return self._cursor

    # ---- who is there

    def add(self, subscriber: Subscriber, session: Session, payments: bool) -> None:
        """It is pushed what concerns the session's user. payments: PAYMENT too."""
        subscription = _Subscription(session, self._events.direct_seq(session.user), payments)
        self._of[subscriber] = subscription
        self._users.setdefault(session.user, {})[subscriber] = subscription

    def remove(self, subscriber: Subscriber) -> None:
        """Its session is over: no more pushes. What the shared state has of the session is not
        changed by this."""
        subscription = self._of.pop(subscriber)
        for room in subscription.rooms:
            self._forget(subscriber, room)
        for leaving in tuple(self._leaving):  # it goes with its session
            if leaving[0] is subscriber:
                del self._leaving[leaving]
        session = subscription.session
        others = self._users[session.user]
        del others[subscriber]
        if not others:
            del self._users[session.user]

    def _forget(self, subscriber: Subscriber, room: int) -> None:
        local = self._rooms[room]
        del local.members[subscriber]
        if not local.members:
            del self._rooms[room]
        self._audience.present(room, self._state.worker, -1)

    def is_member(self, subscriber: Subscriber, room: int) -> bool:
        """Has its session joined the room?"""
        return room in self._of[subscriber].rooms

    def join(self, subscriber: Subscriber, room: int, now: int) -> tuple[int, int, int]:
        """Join a room: the events after the room_seq that this answers are pushed; answers the
        number of members, too, and the newest event that its answer shows. The same again in a
        room that is joined. Superseded, NoSuchRoom, NotAllowed, Busy."""
        subscription = self._of[subscriber]
        if room in subscription.rooms:
            self._state.rights.check_reader(room, subscription.session.user, joined=True)
            position = self._position(subscriber, room)
            members = self._memberships.member_count(room)
            return position, members, self._events.head()
        # First, so that whoever speaks after the join wakes this worker.
        self._audience.present(room, self._state.worker, 1)
        try:
            last, members, shown, touched = self._memberships.join(subscription.session, room, now)
        except BaseException:
            self._audience.present(room, self._state.worker, -1)
            raise
        local = self._rooms.get(room)
        if local is None:
            local = self._rooms[room] = _LocalRoom(last, self._named.opened(room))
        self._leaving.pop((subscriber, room), None)
        local.members[subscriber] = last
        subscription.rooms.add(room)
        self.wake(touched)
        return last, members, shown

    def rooms_of(self, subscriber: Subscriber, *, but: int) -> int:
        """How many rooms it has joined, beside one."""
        rooms = self._of[subscriber].rooms
        return len(rooms) - (but in rooms)

    def leave(self, subscriber: Subscriber, room: int, now: int) -> None:
        """Leave a room that is joined. Busy."""
        subscription = self._of[subscriber]
        touched = self._memberships.leave(subscription.session, room, now)
        subscription.rooms.remove(room)
        subscription.gaps.pop(room, None)
        self._forget(subscriber, room)
        self.wake(touched)

    def _position(self, subscriber: Subscriber, room: int) -> int:
        """The room_seq up to which a member has been served, or told what it missed."""
        gaps = self._of[subscriber].gaps
        if room in gaps:
            return gaps[room] - 1
        local = self._rooms[room]
        return max(local.delivered, local.members[subscriber])

    def relieved(self, subscriber: Subscriber) -> None:
        """It reads again: name exactly what it missed."""
        subscription = self._of.get(subscriber)
        if subscription is None:
            return
        for room, first in subscription.gaps.items():
            last = subscription.direct_seq if room == DIRECT else self._rooms[room].delivered
            subscriber.push(_gap(0, 0, room, first, last))
        self._counters.count("gaps", len(subscription.gaps))
        subscription.gaps.clear()

    # ---- waking

    def wake(self, touched: Touched) -> None:
        """Something was published, and these workers have members to push it to: at the end of this
        loop turn have it made durable, wake them, and push what is this worker's own."""
        self._waking |= touched
        if not self._wake_scheduled:
            self._wake_scheduled = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._wake_scheduled = False
        self._durable.published()
        for slot in self._waking:
            if slot != self._worker:
                self._wakeups[slot].set()
        self._waking.clear()
        self.poll()

    # ---- what is new

    def poll(self) -> None:
        """Push all that may be shown. Not a part of it: a worker that takes more requests in a loop
        turn than it pushes events would be lapped under load that it can bear."""
        # In this order: the answer to a JOIN_ROOM that waits for an event goes before that event.
        released = machine.look(self._words, self._durable.events_released)
        self._durable.release()
        cut = machine.look(self._words, self._cut_at)
        if cut != self._cut:
            self._cut = cut
            self.end_superseded()
        if self._lap is not None and self._lap.until <= released:
            self._tell_lap(self._lap)
        head = self._events.head()
        last = min(head, released)
        while self._lap is None and self._cursor < last:
            self._push_slice(min(last, self._cursor + _SLICE))
        if self._lap is not None:
            self._durable.wait_for_events(self._lap.until)
        elif self._cursor < head:
            self._durable.wait_for_events(self._cursor + 1)
        else:
            self._durable.pushes_done()
        if self._gaps:
            self._counters.count("gaps", self._gaps)
            self._gaps = 0

    def _push_slice(self, last: int) -> None:
        events, cursor = self._events, self._cursor
        self._now = kernel.now_us()
        while cursor < last:
            event = events.read(cursor + 1, self._rooms)
            if event is None:
                self._push_frames()
                cursor = self._lapped()
                released = machine.look(self._words, self._durable.events_released)
                if self._lap is not None and self._lap.until <= released:
                    self._tell_lap(self._lap)
                break
            cursor += 1
            if event.room != self._frames_room:
                self._push_frames()
                self._frames_room = event.room
            if event.room:
                self._room_event(event)
            else:
                self._to_user(event)
        self._push_frames()
        self._cursor = cursor
        for subscriber in self._touched:
            subscriber.flush()
        self._touched.clear()

    def _push(self, subscriber: Subscriber, frame: bytes) -> None:
        if subscriber.closing:
            return
        self._touched[subscriber] = None
        subscriber.push(frame)

    def _room_event(self, event: Event) -> None:
        local = self._rooms.get(event.room)
        if local is None or event.seq <= local.delivered:
            return
        seq = event.seq
        if seq != local.delivered + 1:  # numbers that were never used for an event
            self._push_frames()
            self._missed(event.room, local, seq - 1)
        if self._words[self._deletions_at] and self._deletions.is_hidden(event.room, seq):
            self._push_frames()
            self._missed(event.room, local, seq)  # its text was deleted before it was pushed
            return
        if not self._frames:
            self._frames_first = seq
        self._frames.append(event.frame)
        local.delivered = seq
        self._count(event.time, len(local.members))
        if event.kind == _ROOM_CHANGED and local.opened:
            whom = _put_out_by(event.frame)
            if whom is not None:
                self._push_frames()
                self._put_out(event.room, local, whom)

    def _put_out(self, room: int, local: _LocalRoom, whom: int) -> None:
        """The event that was just pushed is the last of the room that they get: this user, or, with
        0, all members. Those who have joined since are not meant."""
        for subscriber, told in tuple(local.members.items()):
            user = self._of[subscriber].session.user
            if told < local.delivered and whom in (0, user):
                self._take_out(subscriber, room, local)

    def _put_out_unseen(self, room: int, local: _LocalRoom) -> None:
        """The same, where the event may be among those that were missed."""
        for subscriber in tuple(local.members):
            user = self._of[subscriber].session.user
            if not self._state.rights.may_stay(room, user, local.opened):
                self._take_out(subscriber, room, local)

    def _take_out(self, subscriber: Subscriber, room: int, local: _LocalRoom) -> None:
        subscription = self._of[subscriber]
        subscription.rooms.remove(room)
        first = subscription.gaps.pop(room, 0)
        if first:
            self._push(subscriber, _gap(0, 0, room, first, local.delivered))
        self._forget(subscriber, room)
        if not self._leaving:
            self._loop.call_soon(self._publish_leaves)
        self._leaving[subscriber, room] = subscription.session

    def _publish_leaves(self) -> None:
        """Of who was put out. Those that have no place yet are tried again."""
        for (subscriber, room), session in tuple(self._leaving.items()):
            try:
                touched = self._memberships.leave(session, room, kernel.now_us())
            except LeavesFull:
                return
            except StateRefusal:  # its session has ended, or nothing can be written any more
                touched = NOBODY
            del self._leaving[subscriber, room]
            self.wake(touched)

    def _push_frames(self) -> None:
        """Push the room's frames that have been read. Joined once, not for each member."""
        frames, room, first = self._frames, self._frames_room, self._frames_first
        if not frames:
            return
        members, touched = self._rooms[room].members, self._touched
        count = len(frames)
        every = frames[0] if count == 1 else b"".join(frames)
        for subscriber, told in members.items():
            if told >= first + count - 1 or subscriber.closing:
                continue
            start, what = first, every
            if told >= first:  # it joined in between
                start, what = told + 1, b"".join(frames[told + 1 - first :])
            if subscriber.choked:
                self._of[subscriber].gaps.setdefault(room, start)
                continue
            touched[subscriber] = None
            subscriber.push(what)
        frames.clear()

    def _count(self, time: int, members: int) -> None:
        """An event of that time is pushed to so many; or a gap is, later, to who does not read."""
        words, at, now = self._words, self._pushes_at, self._now
        words[at] += members
        delay = now - time if now > time else 0
        histogram.add(words, self._delay_at, delay, members, _TIMES_FIRST)

    def _missed(self, room: int, local: _LocalRoom, last: int) -> None:
        """Tell every member what it will not get, up to `last`."""
        for subscriber, told in local.members.items():
            first = max(told, local.delivered) + 1
            if first <= last:
                self._push_gap(subscriber, self._of[subscriber], room, first, last)
        local.delivered = max(local.delivered, last)

    def _push_gap(
        self, subscriber: Subscriber, subscription: _Subscription, room: int, first: int, last: int
    ) -> None:
        if subscriber.choked:
            subscription.gaps.setdefault(room, first)
        else:
            self._push(subscriber, _gap(0, 0, room, first, last))
            self._gaps += 1

    def _to_user(self, event: Event) -> None:
        for subscriber, subscription in self._users.get(event.user, {}).items():
            if event.kind == SlotKind.PAYMENT:
                if subscription.payments and not subscriber.choked:
                    self._push(subscriber, event.frame)
                    self._count(event.time, 1)
            elif event.seq > subscription.direct_seq:
                if subscriber.choked:
                    subscription.gaps.setdefault(DIRECT, event.seq)
                else:
                    self._push(subscriber, event.frame)
                    self._count(event.time, 1)
                subscription.direct_seq = event.seq

    def _lapped(self) -> int:
        """The ring has gone past the cursor. First the head, then the counters: what is published
        in between is in both, and told once. All of it may be told when the head after that may be
        shown."""
        head = self._events.head()
        self._counters.count("laps")
        rooms = {room: self._events.last_seq(room) for room in self._rooms}
        users = {user: self._events.direct_seq(user) for user in self._users}
        self._lap = _Lap(rooms, users, self._events.newest(*rooms))
        return head

    def _tell_lap(self, lap: "_Lap") -> None:
        """Name what was missed."""
        self._lap = None
        for room, last in lap.rooms.items():
            local = self._rooms.get(room)
            if local is not None and local.opened:
                self._put_out_unseen(room, local)
                local = self._rooms.get(room)
            if local is not None and last > local.delivered:
                self._missed(room, local, last)
        for user, last in lap.users.items():
            for subscriber, subscription in self._users.get(user, {}).items():
                if last > subscription.direct_seq:
                    first = subscription.direct_seq + 1
                    self._push_gap(subscriber, subscription, DIRECT, first, last)
                    subscription.direct_seq = last
        for subscriber in self._touched:
            subscriber.flush()
        self._touched.clear()

    # ---- sessions that another login has ended

    def end_superseded(self) -> None:
        """Look at every session: others may have ended it."""
        for subscriber, subscription in tuple(self._of.items()):
            if not self._state.sessions.is_live(subscription.session):
                subscriber.superseded()

    def finish_ended(self, now: int) -> None:
        """Go on with sessions that have ended and are still in rooms, whoever's they were."""
        self.wake(self._state.sessions.finish_ended(now))
        if self._leaving:
            self._publish_leaves()
