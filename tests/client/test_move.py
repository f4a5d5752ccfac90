"""A server says that it will close a connection: the client goes on over another one, and the
program that uses it notices nothing. Each test is for the blocking client and for that of asyncio,
whether they reconnect or not.
"""

import threading
from itertools import count

import pytest

from client import Client, ClientError, ConnectionLost, MisuseError, Push
from libproto.codec import error_frame
from libproto.errors import Status
from libproto.messages import ChatBroadcast, DirectMessage, EventKind, Flag, Opcode
from tests.client.conftest import Make
from tests.client.leaving import GOING_AWAY, Old, Sequence, moved_to, with_end
from tests.client.peer import (
    PASSWORD,
    USERNAME,
    WAIT_S,
    Handshake,
    Wire,
    answer,
    answer_all,
    push,
    serving,
)
from tests.client.test_blocking import in_thread
from tests.helpers.server import wait_until

ROOM, EPOCH = 1, 77


@pytest.fixture(params=[False, True], ids=["plain", "reconnects"])
def make_any(make: Make, request: pytest.FixtureRequest) -> Make:
    """Makes a client of each kind, that reconnects or does not."""
    return lambda *args, **options: make(*args, reconnect=request.param, **options)


def test_it_logs_in_elsewhere_before_it_closes(make_any: Make) -> None:
    sequence, told = Sequence(), list[ClientError | None]()
    with (
        serving(Old(sequence), moved_to(sequence)) as port,
        make_any(port=port, on_reconnect=told.append) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        before = ann.client_id
        sequence.await_step("old: closed")
        assert sequence.steps == ["old: told", "new: logged in", "old: closed"]
        assert ann.balance() == (1, 1)
        assert (ann.client_id, ann.connected, ann.reconnects) == (before, True, 0)
        wait_until(lambda: bool(told), "the notice")
        assert told == [None]  # nothing was lost


def test_what_is_under_way_is_answered_first(make_any: Make) -> None:
    sequence = Sequence()

    class Busy(Old):
        def serve(self, wire: Wire) -> None:
            wire.log_in()
            deposit = wire.request()
            self.tell(wire)
            wire.send(answer(deposit, 9, 5))

    def then_balance(wire: Wire) -> None:
        request = wire.request()
        assert (request.opcode, request.flags) == (Opcode.BALANCE, 0)
        wire.send(answer(request, 5, 9))
        wire.wait_closed()

    with (
        serving(Busy(sequence), moved_to(sequence, then_balance)) as port,
        make_any(port=port) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        assert ann.deposit(5)[:2] == (9, 5)
        sequence.await_step("old: closed")
        assert ann.balance() == (5, 9)


def test_what_is_not_answered_is_taken_along(make_any: Make) -> None:
    """Executed once: with its req_id, and flagged."""
    sequence = Sequence()

    class Slow(Old):
        def serve(self, wire: Wire) -> None:
            wire.log_in()
            wire.request()
            self.tell(wire)

    def again(wire: Wire) -> None:
        request = wire.request()
        assert request[:3] == (Opcode.DEPOSIT, 1, Flag.POSSIBLE_DUPLICATE)
        wire.send(answer(request, 9, 5, flags=Flag.POSSIBLE_DUPLICATE))
        wire.wait_closed()

    with (
        serving(Slow(sequence), moved_to(sequence, again)) as port,
        make_any(port=port) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        assert ann.deposit(5)[:2] == (9, 5)
        assert ann.unanswered == ()


def test_rooms_come_along_without_a_gap(make_any: Make) -> None:
    sequence, given = Sequence(), list[Push]()

    def said(seq: int) -> ChatBroadcast:
        return ChatBroadcast(ROOM, seq, 0, EventKind.MESSAGE, 3, "bob", f"message {seq}")

    def event(seq: int) -> bytes:
        return push(Opcode.CHAT_BROADCAST, *said(seq))

    class InARoom(Old):
        def serve(self, wire: Wire) -> None:
            wire.log_in()
            wire.send(answer(wire.request(), ROOM, 3, 1, EPOCH), event(4))
            self.tell(wire)

    def join_again(wire: Wire) -> None:
        wire.send(answer(wire.request(), ROOM, 6, 1, EPOCH), event(7))
        history = wire.request()
        assert history.fields == (ROOM, 4, 2)
        wire.send(answer(history, ROOM, EPOCH, 1, [tuple(said(5)), tuple(said(6))]))
        wire.wait_closed()

    with (
        serving(InARoom(sequence), moved_to(sequence, join_again)) as port,
        make_any(port=port, on_push=given.append) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        ann.join(ROOM)
        wait_until(lambda: len(given) == 4, "the events")
        assert given == [said(4), said(5), said(6), said(7)]


def test_a_refusal_at_the_door_is_tried_again(make_any: Make) -> None:
    sequence = Sequence()

    def full(wire: Wire) -> None:
        wire.request()
        wire.send(error_frame(Opcode.HELLO, 0, Status.ERR_SERVER_BUSY, "full", 20))
        wire.wait_closed()

    def goes_away_too(wire: Wire) -> None:
        wire.request()
        wire.send(GOING_AWAY)
        wire.wait_closed()

    with (
        serving(Old(sequence), full, goes_away_too, moved_to(sequence)) as port,
        make_any(port=port) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        sequence.await_step("old: closed")
        assert ann.balance() == (1, 1)


def test_two_moves_in_a_row(make_any: Make) -> None:
    """The second one is asked for as soon as the first one has a session."""
    sequence = Sequence()

    class Next(Old):
        def serve(self, wire: Wire) -> None:
            wire.log_in(Handshake(login={"resumed": 1}))
            self.tell(wire)

    with (
        serving(Old(Sequence()), Next(sequence), moved_to(sequence)) as port,
        make_any(port=port) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        sequence.await_step("old: closed")
        assert ann.balance() == (1, 1)
        assert ann.reconnects == 0


def test_nobody_is_logged_in(make_any: Make) -> None:
    sequence = Sequence()

    class Unknown(Old):
        def serve(self, wire: Wire) -> None:
            self.tell(wire)

    with (
        serving(Unknown(sequence), with_end(answer_all)) as port,
        make_any(port=port) as ann,
    ):
        sequence.await_step("old: closed")
        ann.login(USERNAME, PASSWORD)
        assert ann.balance() == (1, 1)


def test_the_server_ends_in_the_middle_of_it(make: Make) -> None:
    """The login on the other connection was sent: nobody knows whose session it is. One that does
    not reconnect is told so; one that does, comes back."""
    sequence = Sequence()

    def end_at_login(wire: Wire) -> None:
        wire.send(Handshake().respond(wire.request()))
        wire.request()

    with (
        serving(Old(sequence), end_at_login) as port,
        make(port=port) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        sequence.await_step("old: closed")
        with pytest.raises(ConnectionLost):
            ann.balance()
    sequence, told = Sequence(), list[ClientError | None]()
    with (
        serving(Old(sequence), end_at_login, with_end(answer_all)) as port,
        make(port=port, reconnect=True, on_reconnect=told.append) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        sequence.await_step("old: closed")
        assert ann.balance() == (1, 1)
        wait_until(lambda: len(told) == 2, "both notices")
        assert [type(each) for each in told] == [ConnectionLost, type(None)]
        assert ann.reconnects == 1


def test_the_server_closes_before_there_is_another(make: Make) -> None:
    def told_and_closed(wire: Wire) -> None:
        wire.log_in()
        wire.send(GOING_AWAY)

    with serving(told_and_closed) as port, make(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        wait_until(lambda: not ann.connected, "the end of the connection")
        with pytest.raises(ConnectionLost):
            ann.balance()


def test_without_exactly_once_it_waits_for_the_answer(make_any: Make) -> None:
    """A payment under client_id 0 cannot be sent twice: the move waits for it."""
    sequence = Sequence()
    release = threading.Event()

    class Slow(Old):
        def serve(self, wire: Wire) -> None:
            wire.log_in()
            deposit = wire.request()
            self.tell(wire)
            assert release.wait(WAIT_S)
            wire.send(answer(deposit, 9, 5))

    def greeted(wire: Wire) -> None:
        handshake = Handshake()
        wire.send(handshake.respond(wire.request()))
        release.set()
        wire.send(handshake.respond(wire.request()))
        with_end(answer_all)(wire)

    with (
        serving(Slow(sequence), greeted) as port,
        make_any(port=port, client_id=0) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        assert ann.deposit(5)[:2] == (9, 5)
        assert ann.balance() == (1, 1)


def test_it_can_be_closed_meanwhile(make_any: Make) -> None:
    sequence = Sequence()

    def silent(wire: Wire) -> None:
        wire.request()
        sequence.note("new: asked")
        wire.wait_closed()

    with serving(Old(sequence), silent) as port, make_any(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        sequence.await_step("new: asked")
        assert ann.connected
        ann.close()
        sequence.await_step("old: closed")


def test_calls_of_many_threads() -> None:
    """Made while it moves: all are answered, none fails."""
    sequence = Sequence()
    moves = threading.Event()

    class Serving(Old):
        def serve(self, wire: Wire) -> None:
            wire.log_in()
            for number in count():
                wire.send(answer(wire.request(), 1, 1))
                if number == 10:
                    self.tell(wire)

    with (
        serving(Serving(sequence), moved_to(sequence)) as port,
        Client(port=port) as ann,
    ):
        ann.login(USERNAME, PASSWORD)

        def ask() -> None:
            while not moves.is_set():
                ann.balance()

        asking = [in_thread(ask) for _ in range(4)]
        sequence.await_step("old: closed")
        moves.set()
        for each in asking:
            each.result(WAIT_S)
        with pytest.raises(MisuseError):
            ann.connect()


def test_direct_messages_come_along(make_any: Make) -> None:
    """Those that came between the two sessions are read from the inbox, each is given once, and
    what is pushed meanwhile follows."""
    sequence, given = Sequence(), list[Push]()

    def said(seq: int) -> DirectMessage:
        return DirectMessage(seq, 0, 3, "bob", f"message {seq}")

    def event(seq: int) -> bytes:
        return push(Opcode.DIRECT_MESSAGE, *said(seq))

    class Told(Old):
        def serve(self, wire: Wire) -> None:
            wire.log_in()
            wire.send(event(4))
            self.tell(wire)

    def read_on(wire: Wire) -> None:
        first = wire.any_request()
        assert (first.opcode, first.fields[0]) == (Opcode.INBOX_HISTORY, 4)
        wire.send(event(7), answer(first, EPOCH, 1, [tuple(said(5)), tuple(said(6))]))
        second = wire.any_request()
        assert (second.opcode, second.fields[0]) == (Opcode.INBOX_HISTORY, 6)
        wire.send(answer(second, EPOCH, 1, [tuple(said(7))]), event(8))
        third = wire.any_request()
        assert (third.opcode, third.fields[0]) == (Opcode.INBOX_HISTORY, 7)
        wire.send(answer(third, EPOCH, 1, []))
        wire.wait_closed()

    with (
        serving(Told(sequence), moved_to(sequence, read_on)) as port,
        make_any(port=port, on_push=given.append) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        wait_until(lambda: len(given) == 5, "all of them")
        assert given == [said(seq) for seq in range(4, 9)]


def test_the_end_of_the_inbox_is_looked_for_before(make_any: Make) -> None:
    """Where no message has told it: those before it are not given, those after it are."""
    sequence, given = Sequence(), list[Push]()

    def said(seq: int) -> DirectMessage:
        return DirectMessage(seq, 0, 3, "bob", f"message {seq}")

    class Quiet(Old):
        def serve(self, wire: Wire) -> None:
            wire.log_in()
            self.tell(wire)
            for after, items in ((0, [1, 2]), (2, [3]), (3, [])):
                asked = wire.any_request()
                assert (asked.opcode, asked.fields[0]) == (Opcode.INBOX_HISTORY, after)
                wire.send(answer(asked, EPOCH, 1, [tuple(said(seq)) for seq in items]))

    def read_on(wire: Wire) -> None:
        for after, items in ((3, [4]), (4, [])):
            asked = wire.any_request()
            assert (asked.opcode, asked.fields[0]) == (Opcode.INBOX_HISTORY, after)
            wire.send(answer(asked, EPOCH, 1, [tuple(said(seq)) for seq in items]))
        wire.wait_closed()

    with (
        serving(Quiet(sequence), moved_to(sequence, read_on)) as port,
        make_any(port=port, on_push=given.append) as ann,
    ):
        ann.login(USERNAME, PASSWORD)
        wait_until(lambda: bool(given), "the one")
        assert given == [said(4)]
