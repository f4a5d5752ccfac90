"""Payments that were missed, from the transactions: each is given once, in order."""

from typing import Any

import pytest

from client.core.payments import KEPT, PAGES_MAX
from client.core.pushes import PaymentGap
from client.errors import ConnectionLost
from libproto.errors import Status
from libproto.messages import LIST_MAX, Opcode, Payment, Transaction, TxnKind
from tests.client.lossy import Link
from tests.client.peer import USER_ID, Request, answer, push, refuse

BOB, NAME = 31, "bob"


def payment(txn_id: int, name: str = NAME) -> Payment:
    return Payment(txn_id, 1000 + txn_id, BOB, name, 5, 100 + txn_id)


def paid(txn_id: int) -> bytes:
    return push(Opcode.PAYMENT, *payment(txn_id))


def record(txn_id: int, kind: int = TxnKind.TRANSFER, by: int = BOB, to: int = USER_ID) -> Any:
    return Transaction(txn_id, 1000 + txn_id, kind, by, to, 5, 100 + txn_id, 0)


class Server:
    """What answers the core's own requests."""

    def __init__(self, link: Link, *records: Any, oldest: int = 0) -> None:
        self.link = link
        self.records = sorted(records, reverse=True)
        self.oldest = oldest
        self.asked: list[int] = []

    def history(self, request: Request) -> bytes:
        before, limit = request.fields
        self.asked.append(before)
        found = [each for each in self.records if not before or each.txn_id < before]
        return answer(request, self.oldest, tuple(found[:limit]))

    def serve(self, *pushes: bytes) -> list[Any]:
        """All that it asks for; what the program is given. pushes: before the first answer."""
        given: list[Any] = []
        while requests := self.link.own():
            for request in requests:
                if request.opcode == Opcode.TXN_HISTORY:
                    frame = self.history(request)
                else:
                    assert request.opcode == Opcode.USER_NAME
                    frame = answer(request, request.fields[0], NAME, 1, 0)
                given += self.link.receive(*pushes, frame)
                pushes = ()
        return given


def logged_in(*records: Any) -> Server:
    """For the first time."""
    server = Server(Link(payments=True), *records)
    assert server.serve() == []
    return server


def test_who_wants_no_payments_asks_for_none() -> None:
    link = Link()
    link.reconnect()
    assert link.own() == []


def test_the_first_login_learns_only_where_the_transactions_end() -> None:
    link = Link(payments=True)
    [request] = link.own()
    assert (request.opcode, request.fields) == (Opcode.TXN_HISTORY, (0, 1))
    assert link.receive(paid(6)) == [payment(6)], "it was made before, and is pushed after"
    assert link.receive(answer(request, 0, (record(7),))) == []
    assert link.own() == []
    assert link.receive(paid(7)) == [payment(7)], "this one, too"


def test_what_was_missed_is_given_in_order_before_what_is_pushed() -> None:
    server = logged_in(record(3))
    link = server.link
    assert link.receive(paid(5)) == [payment(5)]
    link.reconnect()
    mine = record(8, by=USER_ID, to=BOB), record(9, TxnKind.DEPOSIT, by=USER_ID)
    server.records = sorted(map(record, (3, 4, 5, 7, 10)), reverse=True)
    server.records = sorted([*server.records, *mine], reverse=True)
    given = server.serve(paid(10), paid(12), paid(11))
    assert given == [payment(4), payment(7), payment(10), payment(12), payment(11)]
    assert link.receive(paid(7), paid(10), paid(11), paid(13)) == [payment(13)]
    assert link.core.steady


def test_new_requests_do_not_wait_for_them() -> None:
    server = logged_in()
    server.link.reconnect()
    assert server.link.core.steady
    assert not server.link.core.caught_up
    server.serve()
    assert server.link.core.caught_up


def test_a_loss_while_they_are_read_begins_it_again() -> None:
    server = logged_in(record(3))
    link = server.link
    link.reconnect()
    assert len(link.own()) == 1
    assert link.receive(paid(9)) == []
    link.reconnect()
    server.records = [record(9), record(3)]
    assert server.serve() == [payment(9)]
    link.reconnect()
    assert server.serve() == []


def test_an_earlier_run_says_where_it_ended() -> None:
    link = Link(payments=True, after=4)
    server = Server(link, *map(record, (3, 4, 6, 7)))
    assert server.serve(paid(7)) == [payment(6), payment(7)]
    assert link.receive(paid(8)) == [payment(8)]


def test_the_sender_of_one_that_was_never_pushed_is_asked_for_once() -> None:
    link = Link(payments=True, after=0)
    [request] = link.own()
    server = Server(link, record(1), record(2))
    assert link.receive(server.history(request)) == []
    [request] = link.own()
    assert (request.opcode, request.fields) == (Opcode.USER_NAME, (BOB,))
    refused = refuse(request, Status.ERR_NOT_FOUND)
    assert link.receive(refused) == [payment(1, ""), payment(2, "")]


def test_what_is_refused_for_the_moment_is_asked_for_again() -> None:
    server = logged_in(record(3))
    link = server.link
    link.reconnect()
    [request] = link.own()
    assert link.receive(refuse(request, Status.ERR_SERVER_BUSY, retry_after_ms=400)) == []
    assert link.core.again_after_s == 0.4
    assert link.receive(paid(5)) == []
    link.core.again()
    server.records = [record(4), record(3)]
    assert server.serve() == [payment(4), payment(5)]


def test_what_cannot_be_read_is_tried_after_the_next_login() -> None:
    server = logged_in(record(3))
    link = server.link
    link.reconnect()
    [request] = link.own()
    given = link.receive(paid(5), refuse(request, Status.ERR_NOT_FOUND))
    assert given == [payment(5)]
    link.reconnect()
    server.records = [record(5), record(4), record(3)]
    assert server.serve() == [payment(4)]


def test_many_are_read_in_parts() -> None:
    count = 2 * LIST_MAX + 10
    server = logged_in(record(3))
    server.link.reconnect()
    server.records = [record(txn_id) for txn_id in range(3 + count, 2, -1)]
    assert server.serve() == [payment(txn_id) for txn_id in range(4, 4 + count)]
    assert len(server.asked) == 1 + 3


@pytest.mark.parametrize("dropped", [False, True], ids=["too many", "too old"])
def test_what_is_not_read_is_told(dropped: bool) -> None:
    count = 10 if dropped else PAGES_MAX * LIST_MAX + 10
    server = logged_in(record(3))
    server.link.reconnect()
    server.oldest = 20 if dropped else 0
    first = 20 if dropped else 3 + 11
    last = 3 + count if not dropped else 30
    server.records = [record(txn_id) for txn_id in range(last, (first if dropped else 3) - 1, -1)]
    given = server.serve()
    assert given[0] == PaymentGap(4, first - 1)
    assert given[1:] == [payment(txn_id) for txn_id in range(first, last + 1)]
    server.link.reconnect()
    assert server.serve() == []


def test_of_very_many_that_were_pushed_the_last_are_known() -> None:
    server = logged_in(record(3))
    link = server.link
    for txn_id in range(4, 4 + 3 * KEPT):
        assert link.receive(paid(txn_id)) == [payment(txn_id)]
    newest = 4 + 3 * KEPT
    server.records = [record(txn_id) for txn_id in range(newest, 3, -1)]
    link.reconnect()
    assert server.serve() == [payment(newest)]


def test_another_log_has_other_transactions() -> None:
    server = logged_in(record(30))
    link = server.link
    assert link.receive(paid(31)) == [payment(31)]
    link.handshake.login["log_id"] = 5
    link.core.lose(ConnectionLost("gone"))
    link.begin()
    for _ in range(2):
        [request] = link.own()
        link.receive(link.handshake.respond(request))
    server.records = [record(2)]
    server.asked.clear()
    server.serve()
    assert link.receive(paid(2), paid(31)) == [payment(2), payment(31)]


def test_another_user_has_other_transactions() -> None:
    server = logged_in(record(30))
    payments = server.link.core.payments
    payments.login(USER_ID + 1)
    assert payments.after is None
