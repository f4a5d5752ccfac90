"""Memberships, events and chat against a plain model of them."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import event as noted
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from server.core.errors import NoSuchUser, NotJoined, Superseded
from server.core.events import Event, SlotKind
from server.core.session import Session
from server.core.state import State
from tests.helpers.region import (
    SMALL,
    STARTED_US,
    check_quiet,
    register,
    say,
    small_region,
    state_of,
    to_draw,
    whisper,
)
from tests.server.core.chatting import (
    BROADCAST,
    JOINED,
    LEFT,
    MESSAGE,
    NAMES,
    PLENTY,
    chat,
    pushed,
)


@dataclass(eq=False)
class Member:
    """A connection: what its worker holds, and what the model knows."""

    session: Session
    state: State
    user: int
    client_id: int
    live: bool = True
    rooms: set[int] = field(default_factory=set)
    counted: set[int] = field(default_factory=set)  # where its worker counts it as present


which_member = st.integers(0, SMALL.sessions - 1)  # modulo how many there are
some_room = st.sampled_from([1, 2, 64])
some_worker = st.integers(0, 2)


class RoomsMachine(RuleBasedStateMachine):
    """The ring is small and laps all the time. The model is the list of all events ever."""

    def __init__(self) -> None:
        super().__init__()
        self.cleanup = ExitStack()
        self.now = STARTED_US
        self.events: list[tuple[Event, tuple[Any, ...] | None]] = []  # with the frame's fields
        self.last: dict[int, int] = {}
        self.direct: dict[int, int] = {}
        self.members: list[Member] = []

    @initialize(ring=st.sampled_from([2, 8, 16]))
    def begin(self, ring: int) -> None:
        self.ring = ring
        self.region = self.cleanup.enter_context(small_region(event_ring=ring))
        self.states = [state_of(self.region, worker) for worker in range(3)]
        register(self.states[0], *NAMES)
        for user in (1, 2, 3):
            self._log_in(user, 7, self.states[user % 3])
        for which in (0, 1):
            self._join(self.members[which], 1)

    def teardown(self) -> None:
        self.cleanup.close()

    # ---- the model

    def _publish(
        self,
        kind: int,
        room: int,
        seq: int,
        user: int,
        session: int,
        fields: tuple[Any, ...] | None,
    ) -> None:
        self.events.append((Event(kind, room, seq, user, session, self.now, b""), fields))
        if room:
            self.last[room] = seq
        if kind == SlotKind.DIRECT:
            self.direct[user] = seq

    def _room_event(self, kind: int, room: int, member: Member, message: str = "") -> int:
        seq = self.last.get(room, 0) + 1
        slot = 0 if kind == MESSAGE else member.session.slot + 1
        fields = (room, seq, self.now, kind, member.user, NAMES[member.user - 1], message)
        self._publish(kind, room, seq, member.user, slot, fields)
        return seq

    def _users(self, room: int) -> list[int]:
        return sorted({member.user for member in self.members if room in member.rooms})

    def _listeners(self, room: int) -> set[int]:
        return {member.state.worker for member in self.members if room in member.counted}

    def _leave(self, member: Member, room: int) -> set[int]:
        if room not in member.rooms:
            return set()
        member.rooms.remove(room)
        if member.user in self._users(room):
            return set()
        self._room_event(LEFT, room, member)
        return self._listeners(room)

    def _leave_all(self, member: Member) -> set[int]:
        return set().union(*(self._leave(member, room) for room in sorted(member.rooms)))

    def _log_in(self, user: int, client_id: int, state: State) -> None:
        self.now += 1
        req_id = to_draw(state.region, user, client_id)
        session, touched = state.sessions.login(
            user, NAMES[user - 1], client_id, req_id, 0, self.now
        )
        expected = set()
        for member in self.members:
            if client_id and member.live and (member.user, member.client_id) == (user, client_id):
                expected = self._leave_all(member) | {member.state.worker}
                member.live = False
        assert touched == expected
        self.members.append(Member(session, state, user, client_id))

    def _member(self, which: int) -> Member:
        return self.members[which % len(self.members)]

    # ---- what is done

    @precondition(lambda self: len(self.members) < SMALL.sessions)
    @rule(user=st.integers(1, 3), client_id=st.sampled_from([0, 7, 8]), worker=some_worker)
    def log_in(self, user: int, client_id: int, worker: int) -> None:
        self._log_in(user, client_id, self.states[worker])

    @precondition(lambda self: len(self.members) > 1)
    @rule(which=which_member)
    def end(self, which: int) -> None:
        self.now += 1
        member = self.members[which % len(self.members)]
        touched = member.state.sessions.end(member.session, self.now)
        assert touched == self._leave_all(member)
        for room in member.counted:
            member.state.audience.present(room, member.state.worker, -1)
        self.members.remove(member)

    @rule(which=which_member, room=some_room)
    def join(self, which: int, room: int) -> None:
        self._join(self._member(which), room)

    def _join(self, member: Member, room: int) -> None:
        self.now += 1
        state = member.state
        if not member.live:
            with pytest.raises(Superseded):
                state.memberships.join(member.session, room, self.now)
            return
        if room not in member.counted:
            state.audience.present(room, member.state.worker, 1)
            member.counted.add(room)
        last, members, shown, touched = state.memberships.join(member.session, room, self.now)
        assert last == self.last.get(room, 0)
        expected = set()
        if member.user not in self._users(room):
            self._room_event(JOINED, room, member)
            expected = self._listeners(room)
        member.rooms.add(room)
        assert (touched, shown) == (frozenset(expected), len(self.events))
        assert members == len(self._users(room))

    @rule(which=which_member, room=some_room)
    def leave(self, which: int, room: int) -> None:
        self.now += 1
        member = self._member(which)
        if not member.live:
            with pytest.raises(Superseded):
                member.state.memberships.leave(member.session, room, self.now)
            return
        touched = member.state.memberships.leave(member.session, room, self.now)
        assert touched == self._leave(member, room)
        if room in member.counted:
            member.counted.remove(room)
            member.state.audience.present(room, member.state.worker, -1)

    @rule(which=which_member, room=some_room, message=st.text(max_size=SMALL.max_message // 4))
    def send(self, which: int, room: int, message: str) -> None:
        self.now += 1
        member = self._member(which)
        if not member.live:
            with pytest.raises(Superseded):
                say(member.state, member.session, room, message, self.now)
            return
        if room not in member.rooms:
            with pytest.raises(NotJoined):
                say(member.state, member.session, room, message, self.now)
            return
        sent = say(member.state, member.session, room, message, self.now)
        assert sent.seq == self._room_event(MESSAGE, room, member, message)
        assert sent[1:-1] == (self.now, len(self.events), False)
        assert sent.touched == self._listeners(room)

    @rule(which=which_member, to_user=st.integers(0, 4))
    def send_direct(self, which: int, to_user: int) -> None:
        self.now += 1
        member = self._member(which)
        workers = {m.state.worker for m in self.members if m.live and m.user == to_user}
        if not member.live or to_user not in (1, 2, 3):
            with pytest.raises(NoSuchUser if member.live else Superseded):
                whisper(member.state, member.session, to_user, "psst", self.now)
            return
        sent = whisper(member.state, member.session, to_user, "psst", self.now)
        seq = self.direct.get(to_user, 0) + 1
        assert sent.seq == seq
        assert sent.touched == workers
        fields = (seq, self.now, member.user, NAMES[member.user - 1], "psst")
        self._publish(SlotKind.DIRECT, 0, seq, to_user, 0, fields)

    # ---- what is read

    def _kept(self, room: int) -> list[tuple[Any, ...]]:
        """Bodies of the room's events that are still in the ring."""
        return [body for event, body in self.events[-self.ring :] if body and event.room == room]

    @rule(
        room=some_room, back=st.integers(0, 20), limit=st.integers(0, 20), worker=some_worker,
        room_bytes=st.one_of(st.just(PLENTY), st.integers(0, 400)),
    )  # fmt: skip
    def history(self, room: int, back: int, limit: int, worker: int, room_bytes: int) -> None:
        after = max(0, self.last.get(room, 0) - back)
        oldest, bodies = self.states[worker].events.history(room, after, limit, room_bytes)
        kept = self._kept(room)
        expected = [body for body in kept if body[1] > after][:limit]
        while sum(len(BROADCAST.encode(*body)) for body in expected) > room_bytes:
            expected.pop()
        noted("a history with events" if expected else "an empty history")
        assert [tuple(chat(body)) for body in bodies] == expected
        assert oldest == (kept[0][1] if kept else self.last.get(room, 0) + 1)

    @rule(after=st.integers(0, 65), limit=st.integers(1, 3))
    def listing(self, after: int, limit: int) -> None:
        expected = [(room, len(self._users(room)), self.last[room]) for room in sorted(self.last)]
        shown = self.states[0].memberships.listing(after, limit)
        assert shown == [row for row in expected if row[0] > after][:limit]

    @invariant()
    def the_ring_is_the_models(self) -> None:
        state = self.states[0]
        head = len(self.events)
        assert state.events.head() == head
        assert state.events.read(head + 1) is None
        for number in range(max(1, head - self.ring - 1), head + 1):
            event = state.events.read(number)
            if number <= head - self.ring:
                assert event is None
                continue
            expected, fields = self.events[number - 1]
            assert event is not None
            assert event[:5] == expected[:5]
            assert fields is None or pushed(event.frame)[1] == fields

    @invariant()
    def the_rooms_are_the_models(self) -> None:
        state = self.states[1]
        for room in (1, 2, 64, 65):
            users = self._users(room)
            assert state.memberships.member_count(room) == len(users)
            assert state.memberships.member_ids(room, 0) == users
            assert state.events.last_seq(room) == self.last.get(room, 0)
            assert state.audience.listeners(room) == self._listeners(room)
        for user in (1, 2, 3):
            assert state.events.direct_seq(user) == self.direct.get(user, 0)

    @invariant()
    def sessions_are_the_models(self) -> None:
        for member in self.members:
            assert member.state.sessions.is_live(member.session) == member.live
        check_quiet(self.region)


TestRoomsMachine = RoomsMachine.TestCase
TestRoomsMachine.settings = settings(max_examples=40, stateful_step_count=50)
