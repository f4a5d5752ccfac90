"""A ledger request is executed exactly once, however often and wherever it is sent; and of two
sessions of one client, only the later one's requests take effect."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from libproto.errors import Status
from libproto.messages import Capability, EventKind, Flag, Opcode
from tests.helpers.server import wait_until
from tests.helpers.wire import Lobby, Wire, frozen, request

CLIENT = 0xC0FFEE
WINDOW = 64
AGAIN = Flag.POSSIBLE_DUPLICATE
WORKERS = 4


def deposit(wire: Wire, req_id: int, amount: int = 10, *, again: bool = False) -> Status:
    flags = int(AGAIN) if again else 0
    return Status(wire.call(Opcode.DEPOSIT, amount, req_id=req_id, flags=flags).status)


def balance(wire: Wire) -> int:
    return int(wire.ok(Opcode.BALANCE).balance)


# ---- the outcome of a request that was executed


def test_a_retry_on_every_worker_gives_the_recorded_outcome(lobby: Lobby) -> None:
    """Each kind of request, on every worker in turn, with the flag and without it."""
    username, payee = lobby.new_user(), lobby.enter()
    wire = lobby.enter(username, client_id=CLIENT, worker=0)
    requests = {
        1: (Opcode.DEPOSIT, 1000),
        2: (Opcode.WITHDRAW, 10),
        3: (Opcode.TRANSFER, payee.user, 100),
        4: (Opcode.DEPOSIT, 5),
    }
    outcomes = {}
    for req_id, (opcode, *fields) in requests.items():
        answer = wire.call(opcode, *fields, req_id=req_id)
        assert (answer.status, answer.flags) == (Status.OK, Flag.RESPONSE)
        outcomes[req_id] = answer.body
    for worker in range(WORKERS):
        wire.close()
        wire = lobby.enter(username, client_id=CLIENT, worker=worker)
        for req_id, (opcode, *fields) in requests.items():
            for flags in (0, int(AGAIN)):
                answer = wire.call(opcode, *fields, req_id=req_id, flags=flags)
                assert answer.status == Status.OK
                assert answer.flags == Flag.RESPONSE | AGAIN
                assert answer.body == outcomes[req_id]
        assert wire.ok(Opcode.BALANCE) == (895, outcomes[4].txn_id)
    assert len(wire.ok(Opcode.TXN_HISTORY, 0, 256).transactions) == len(requests)
    assert balance(payee) == 100


def test_a_retry_that_was_not_executed_is_executed_now(lobby: Lobby) -> None:
    username = lobby.new_user()
    lobby.enter(username, client_id=CLIENT).close()
    wire = lobby.enter(username, client_id=CLIENT)
    answer = wire.call(Opcode.DEPOSIT, 7, req_id=5, flags=AGAIN)
    assert (answer.status, answer.flags) == (Status.OK, Flag.RESPONSE)
    assert deposit(wire, 3, again=True) == Status.OK  # below the newest, inside the window
    assert balance(wire) == 17


def test_another_request_under_a_used_req_id_is_refused(lobby: Lobby) -> None:
    wire, other = lobby.enter(client_id=CLIENT), lobby.enter()
    assert deposit(wire, 1, 100) == Status.OK
    assert wire.call(Opcode.TRANSFER, other.user, 30, req_id=2).status == Status.OK
    third = lobby.enter()
    for req_id, opcode, fields in (
        (1, Opcode.DEPOSIT, (99,)),
        (1, Opcode.WITHDRAW, (100,)),
        (1, Opcode.TRANSFER, (other.user, 100)),
        (2, Opcode.TRANSFER, (third.user, 30)),
        (2, Opcode.TRANSFER, (other.user, 31)),
        (2, Opcode.DEPOSIT, (30,)),
    ):
        for flags in (0, AGAIN):
            answer = wire.call(opcode, *fields, req_id=req_id, flags=flags)
            assert answer.status == Status.ERR_BAD_PACKET, (req_id, opcode, fields)
    assert (balance(wire), balance(other), balance(third)) == (70, 30, 0)


def test_refused_requests_leave_no_outcome(lobby: Lobby) -> None:
    """And do not move the newest: the same req_id can be executed later, old ones too."""
    wire, other = lobby.enter(client_id=CLIENT), lobby.enter()
    assert deposit(wire, 1, 100) == Status.OK
    refusals = (
        ((Opcode.WITHDRAW, 101), Status.ERR_INSUFFICIENT_FUNDS),
        ((Opcode.TRANSFER, other.user, 101), Status.ERR_INSUFFICIENT_FUNDS),
        ((Opcode.TRANSFER, 1 << 31, 1), Status.ERR_NOT_FOUND),
        ((Opcode.TRANSFER, 0, 1), Status.ERR_NOT_FOUND),
        ((Opcode.TRANSFER, wire.user, 1), Status.ERR_BAD_PACKET),
        ((Opcode.DEPOSIT, 0), Status.ERR_BAD_PACKET),
        ((Opcode.DEPOSIT, 2**63 - 1), Status.ERR_LIMIT),
    )
    for (opcode, *fields), status in refusals:
        assert wire.call(opcode, *fields, req_id=5000).status == status
    assert deposit(wire, 2, 1) == Status.OK  # 5000 was not the newest
    answer = wire.call(Opcode.WITHDRAW, 101, req_id=5000)
    assert (answer.status, answer.flags) == (Status.OK, Flag.RESPONSE)
    assert (balance(wire), balance(other)) == (0, 0)


# ---- the window


def test_the_window_is_64_req_ids(lobby: Lobby) -> None:
    """newest - 63 is the oldest that is known, through gaps in the req_ids too."""
    username = lobby.new_user()
    wire = lobby.enter(username, client_id=CLIENT)
    newest = 200
    for req_id in (newest - WINDOW, newest - WINDOW + 1, newest):
        assert deposit(wire, req_id) == Status.OK
    for _ in range(2):
        wire = lobby.enter(username, client_id=CLIENT)
        for again in (False, True):
            assert deposit(wire, newest - WINDOW, again=again) == Status.ERR_TIMEOUT
            assert deposit(wire, newest - WINDOW + 1, again=again) == Status.OK
            assert deposit(wire, newest, again=again) == Status.OK
    assert balance(wire) == 30


def test_what_was_never_executed_below_the_window_is_not_now(lobby: Lobby) -> None:
    username = lobby.new_user()
    wire = lobby.enter(username, client_id=CLIENT)
    assert deposit(wire, 1000) == Status.OK
    for again in (False, True):
        assert deposit(wire, 1000 - WINDOW, again=again) == Status.ERR_TIMEOUT
    wire = lobby.enter(username, client_id=CLIENT)
    for again in (False, True):
        assert deposit(wire, 1000 - WINDOW, again=again) == Status.ERR_TIMEOUT
    assert deposit(wire, 1000 - WINDOW + 1, again=True) == Status.OK
    assert balance(wire) == 20


@pytest.mark.parametrize("ahead", [WINDOW, WINDOW + 1, 2 * WINDOW - 1, 2 * WINDOW, 10_000])
def test_an_outcome_below_the_window_is_not_told(lobby: Lobby, ahead: int) -> None:
    """Whether or not something else has taken its place: what is known is a matter of req_ids."""
    wire = lobby.enter(client_id=CLIENT)
    assert deposit(wire, 1) == Status.OK
    assert deposit(wire, 1 + ahead) == Status.OK
    assert deposit(wire, 1) == Status.ERR_TIMEOUT
    assert deposit(wire, 1, again=True) == Status.ERR_TIMEOUT
    assert balance(wire) == 20


def test_the_window_is_looked_at_before_the_contents(lobby: Lobby) -> None:
    """Order: arguments; window and outcome; the user; the funds."""
    wire = lobby.enter(client_id=CLIENT)
    assert deposit(wire, 1) == Status.OK
    assert deposit(wire, 1000) == Status.OK
    calls = (
        ((Opcode.DEPOSIT, 0), Status.ERR_BAD_PACKET),
        ((Opcode.TRANSFER, wire.user, 1), Status.ERR_BAD_PACKET),
        ((Opcode.TRANSFER, 1 << 31, 1), Status.ERR_TIMEOUT),
        ((Opcode.WITHDRAW, 1 << 40), Status.ERR_TIMEOUT),
    )
    for (opcode, *fields), status in calls:
        assert wire.call(opcode, *fields, req_id=2).status == status


def test_a_new_record_knows_nothing_of_requests_below_its_floor(lobby: Lobby) -> None:
    """With the flag and without, on every worker, in its own session and in those that resume it;
    from the floor on what has no outcome is executed, flagged or not."""
    username = lobby.new_user()
    for turn in range(2 * WORKERS):
        wire = lobby.open_on(turn % WORKERS)
        wire.hello(username)
        login = wire.login(username, client_id=CLIENT, next_req_id=5 + turn)
        assert (login.status, login.body.resumed) == (Status.OK, turn > 0)
        for again in (False, True):
            assert deposit(wire, 4, again=again) == Status.ERR_TIMEOUT
            assert deposit(wire, 1, again=again) == Status.ERR_TIMEOUT
        assert deposit(wire, 5 + turn, again=True) == Status.OK
        assert deposit(wire, 5 + turn, again=True) == Status.OK  # its outcome is known
        assert balance(wire) == 10 * (turn + 1)
        wire.close()


def test_a_login_that_knows_less_than_the_record_is_refused(lobby: Lobby) -> None:
    """Nothing changes, no session is superseded, its nonce is spent; another client_id is free."""
    username = lobby.new_user()
    old = lobby.open()
    old.hello(username)
    assert old.login(username, client_id=CLIENT, next_req_id=5).status == Status.OK
    late = lobby.open()
    for executed, refused in ((0, (1, 4)), (5, (1, 5)), (9, (8, 9))):
        if executed:
            assert deposit(old, executed) == Status.OK
        for next_req_id in refused:
            late.hello(username)
            answer = late.login(username, client_id=CLIENT, next_req_id=next_req_id)
            assert (answer.status, answer.body.retry_after_ms) == (Status.ERR_ALREADY_EXISTS, 0)
            again = late.login(username, client_id=CLIENT, next_req_id=1 << 40)
            assert again.status == Status.ERR_UNAUTHORIZED
            late.close()
            late = lobby.open()
    assert balance(old) == 20
    late.hello(username)
    assert late.login(username, client_id=CLIENT + 1, next_req_id=1).body.resumed == 0
    assert deposit(old, 10) == Status.OK, "it is not superseded"
    late.close()
    late = lobby.open()
    late.hello(username)
    assert late.login(username, client_id=CLIENT, next_req_id=11).body.resumed == 1
    assert deposit(old, 11) == Status.ERR_UNAUTHORIZED


def test_next_req_id_0_is_no_number(lobby: Lobby) -> None:
    username = lobby.new_user()
    for client_id in (CLIENT, 0):
        wire = lobby.open()
        wire.hello(username)
        answer = wire.login(username, client_id=client_id, next_req_id=0)
        assert answer.status == Status.ERR_BAD_PACKET
        wire.hello(username)
        assert wire.login(username, client_id=client_id).body.resumed == 0, "no record was made"


def test_client_0_takes_no_part(lobby: Lobby) -> None:
    """No outcomes, no superseding, and never resumed."""
    username = lobby.new_user()
    wires = [lobby.enter(username, worker=slot) for slot in range(WORKERS)]
    for wire in wires:
        assert deposit(wire, 1) == Status.OK
        assert deposit(wire, 1) == Status.OK
        assert deposit(wire, 1, again=True) == Status.ERR_TIMEOUT
    assert balance(wires[0]) == 20 * WORKERS


def test_clients_are_of_their_user(lobby: Lobby) -> None:
    """The same client_id of two users, and two of one user, are apart: all stay logged in."""
    username = lobby.new_user()
    wires = [
        lobby.enter(username, client_id=CLIENT),
        lobby.enter(client_id=CLIENT),
        lobby.enter(username, client_id=CLIENT + 1),
    ]
    for wire in wires:
        assert deposit(wire, 1) == Status.OK
    assert [balance(wire) for wire in wires] == [20, 10, 20]


def test_resumed(lobby: Lobby) -> None:
    username = lobby.new_user()
    for client_id, resumed in ((CLIENT, 0), (CLIENT, 1), (CLIENT + 1, 0), (CLIENT, 1), (0, 0)):
        wire = lobby.open()
        wire.hello(username)
        assert wire.login(username, client_id=client_id).body.resumed == resumed
        wire.close()


def test_a_lost_answer(lobby: Lobby) -> None:
    """A client that sends and goes away without an answer, again and again, on any worker, ends
    with every request executed once."""
    username = lobby.new_user()
    rounds, per_round = 12, WINDOW
    wire = lobby.enter(username, client_id=CLIENT)
    for turn in range(rounds):
        first = 1 + turn * per_round
        req_ids = range(first, first + per_round)
        wire.send_raw(b"".join(request(Opcode.DEPOSIT, req_id, req_id) for req_id in req_ids))
        wire.close()
        wire = lobby.enter(
            username, client_id=CLIENT, worker=turn % WORKERS, next_req_id=req_ids[-1] + 1
        )
        for req_id in req_ids:
            assert deposit(wire, req_id, req_id, again=True) == Status.OK
    executed = rounds * per_round
    assert balance(wire) == executed * (executed + 1) // 2


def test_the_same_request_from_many_connections_at_once(lobby: Lobby) -> None:
    """Each login supersedes the one before; whoever is answered tells the one outcome."""
    username = lobby.new_user()
    first = lobby.enter(username, client_id=CLIENT)
    assert deposit(first, 1) == Status.OK
    attempts, threads = 10, 6
    outcomes: dict[int, set[tuple[int, int]]] = {n: set() for n in range(2, 2 + attempts)}

    def attempt(req_id: int) -> None:
        with Wire(lobby.server.connect()) as wire:
            wire.hello(username)
            login = wire.login(username, client_id=CLIENT, next_req_id=2 + attempts)
            assert login.status == Status.OK
            answer = wire.call(Opcode.DEPOSIT, 10, req_id=req_id, flags=AGAIN)
            assert answer.status in (Status.OK, Status.ERR_UNAUTHORIZED)
            if answer.status == Status.OK:
                outcomes[req_id].add(tuple(answer.body))

    with ThreadPoolExecutor(threads) as pool:
        for req_id in outcomes:
            for done in [pool.submit(attempt, req_id) for _ in range(threads)]:
                done.result()
            attempt(req_id)  # so that one at least is answered
    assert {len(found) for found in outcomes.values()} == {1}
    last = lobby.enter(username, client_id=CLIENT, next_req_id=2 + attempts)
    assert balance(last) == 10 * (attempts + 1)


# ---- superseding


BEHIND = 300  # events


@pytest.mark.parametrize("case", ["same worker", "another worker", "a worker that is behind"])
def test_a_superseded_connection_is_as_in_connected(lobby: Lobby, case: str) -> None:
    """From the LOGIN answer on, every request of it is ERR_UNAUTHORIZED, whatever it asks; and it
    may begin anew. Its worker need not have noticed yet: it may be slow, and have more events to
    push than it does in one go before it comes to this."""
    username, other = lobby.new_user(), lobby.enter(worker=1)
    room, elsewhere, chatter = 11, 12, 13
    other.ok(Opcode.JOIN_ROOM, chatter)
    asked: tuple[tuple[object, ...], ...] = (
        (Opcode.DEPOSIT, 1),
        (Opcode.TRANSFER, other.user, 1),
        (Opcode.BALANCE,),
        (Opcode.TXN_HISTORY, 0, 1),
        (Opcode.CHAT_SEND, room, "late"),
        (Opcode.JOIN_ROOM, elsewhere),
        (Opcode.LEAVE_ROOM, room),
        (Opcode.ROOM_HISTORY, room, 0, 10),
        (Opcode.ROOM_LIST, 0),
        (Opcode.ROOM_MEMBERS, room, 0),
        (Opcode.DIRECT_SEND, other.user, "late"),
        (Opcode.USER_LOOKUP, username),
        (Opcode.USER_NAME, other.user),
        (Opcode.LOGOUT,),
    )
    for opcode, *fields in asked:
        assert isinstance(opcode, Opcode)
        old = lobby.enter(username, client_id=CLIENT, worker=0)
        assert deposit(old, 1) == Status.OK
        old.ok(Opcode.JOIN_ROOM, room)
        new = lobby.open_on(0 if case == "same worker" else 1)
        new.hello(username)
        with ExitStack() as stack:
            if case == "a worker that is behind":
                stack.enter_context(frozen(lobby.worker_pid(0)))
                for _ in range(BEHIND):
                    other.ok(Opcode.CHAT_SEND, chatter, "hello")
            assert new.login(username, client_id=CLIENT).status == Status.OK
            assert not new.ok(Opcode.ROOM_MEMBERS, room, 0).members
            old.send(opcode, *fields)
        assert old.answer().status == Status.ERR_UNAUTHORIZED, opcode.name
        assert balance(new) == 10
        old.ok(Opcode.HEARTBEAT, 1)
        old.hello(username)
        assert old.login(username, client_id=CLIENT + 1).status == Status.OK
        assert balance(new) == balance(old) == 10
        old.close()
    assert not other.ok(Opcode.ROOM_MEMBERS, elsewhere, 0).members
    assert all(push.opcode == Opcode.CHAT_BROADCAST for push in other.pushes)


def test_a_superseded_connection_is_out_of_its_rooms(lobby: Lobby) -> None:
    """It is told of nothing that comes after, its own left event included."""
    room, username = 31, lobby.new_user()
    watcher = lobby.enter(worker=2)
    watcher.ok(Opcode.JOIN_ROOM, room)
    payments = int(Capability.PAYMENTS)
    old = lobby.enter(username, client_id=CLIENT, worker=0, capabilities=payments)
    old.ok(Opcode.JOIN_ROOM, room)
    new = lobby.enter(username, client_id=CLIENT, worker=1, capabilities=payments)
    watcher.ok(Opcode.DEPOSIT, 100)
    watcher.ok(Opcode.CHAT_SEND, room, "after")
    watcher.ok(Opcode.DIRECT_SEND, new.user, "to the new one")
    watcher.ok(Opcode.TRANSFER, new.user, 100)
    kinds = [watcher.push().body.kind for _ in range(4)]
    assert kinds == [EventKind.JOINED, EventKind.JOINED, EventKind.LEFT, EventKind.MESSAGE]
    assert [new.push().opcode for _ in range(2)] == [Opcode.DIRECT_MESSAGE, Opcode.PAYMENT]
    # whatever was on its way to the old one has come when its worker has pushed something newer
    beside = lobby.enter(worker=0)
    watcher.ok(Opcode.DIRECT_SEND, beside.user, "a later event")
    beside.push()
    old.ok(Opcode.HEARTBEAT, 1)
    assert old.status(Opcode.BALANCE) == Status.ERR_UNAUTHORIZED
    seen = [push.body.kind for push in old.pushes if push.opcode == Opcode.CHAT_BROADCAST]
    assert len(seen) == len(old.pushes), "direct messages and payments are the new one's"
    assert EventKind.MESSAGE not in seen
    assert EventKind.LEFT not in seen
    assert [user for user, _ in new.ok(Opcode.ROOM_MEMBERS, room, 0).members] == [watcher.user]


def test_another_session_of_the_user_stays_in_the_room(lobby: Lobby) -> None:
    """Superseding ends one session: the user's other client is not touched, nor is there a left
    event while it is there."""
    room, username = 32, lobby.new_user()
    stays = lobby.enter(username, client_id=CLIENT + 1, worker=3)
    last = stays.ok(Opcode.JOIN_ROOM, room).last_seq
    lobby.enter(username, client_id=CLIENT, worker=0).ok(Opcode.JOIN_ROOM, room)
    lobby.enter(username, client_id=CLIENT, worker=1)
    sent = stays.ok(Opcode.CHAT_SEND, room, "still here").room_seq
    assert sent == last + 2
    assert [stays.push().body.kind for _ in range(2)] == [EventKind.JOINED, EventKind.MESSAGE]


ROUNDS = 25
FLOOD = 40  # requests in one segment


class Flood:
    """Deposits from a connection, many at a time, until it is superseded."""

    def __init__(self, wire: Wire, req_ids: Iterator[int]) -> None:
        self.wire = wire
        self.executed: list[int] = []  # txn_ids
        self._req_ids = req_ids

    def flow(self) -> None:
        refused = False
        while not refused:
            batch = list(itertools.islice(self._req_ids, FLOOD))
            self.wire.send_raw(b"".join(request(Opcode.DEPOSIT, req_id, 1) for req_id in batch))
            for req_id in batch:
                answer = self.wire.answer()
                assert answer.req_id == req_id
                if answer.status == Status.OK:
                    assert not refused, "executed after a refusal"
                    self.executed.append(answer.body.txn_id)
                else:
                    assert answer.status == Status.ERR_UNAUTHORIZED
                    refused = True

    def flows(self) -> bool:
        return len(self.executed) > FLOOD


def test_no_request_of_a_superseded_session_takes_effect(lobby: Lobby) -> None:
    """A flood of deposits from the old connection, raced by a LOGIN on whichever worker. What the
    ledger holds when the LOGIN is answered is all that it ever holds of the flood, and exactly
    that was answered OK."""
    username = lobby.new_user()
    req_ids = itertools.count(1)
    for turn in range(ROUNDS):
        # Above all that the flood will have sent by then: a client itself waits for the answer.
        above = 1 << 40
        first = above if turn else 1
        old = lobby.enter(username, client_id=CLIENT, worker=turn % WORKERS, next_req_id=first)
        new = lobby.open()
        new.hello(username)
        flood = Flood(old, req_ids)
        with ThreadPoolExecutor(1) as pool:
            flowing = pool.submit(flood.flow)
            wait_until(flood.flows, "the flood flows")
            login = new.login(username, client_id=CLIENT, next_req_id=above)
            assert (login.status, login.body.resumed) == (Status.OK, 1)
            held = new.ok(Opcode.BALANCE)
            flowing.result()
        assert new.ok(Opcode.BALANCE) == held
        latest = flood.executed[-256:]
        history = new.ok(Opcode.TXN_HISTORY, 0, len(latest)).transactions
        assert [item.txn_id for item in reversed(history)] == latest
        assert latest[-1] == held.last_txn_id
        old.close()
        new.close()
    wait_until(lambda: lobby.counters()["superseded"] >= ROUNDS, "each was counted")
