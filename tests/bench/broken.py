"""What tests of the verdict and of its programs share."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

from bench.faults.history import History, Membership, Message, Missed, Read, Request
from libproto.errors import Status
from libproto.messages import ChatBroadcast, EventKind, RoomGap, Transaction, TxnKind
from tests.helpers.server import ROOT

RUN_S = 240.0  # a run that hangs


ALICE, BOB, CAROL = 11, 12, 13


NAMES = {ALICE: "alice", BOB: "bob", CAROL: "carol"}


ROOM, EPOCH = 1, 7


def txn(
    txn_id: int, kind: TxnKind, payer: int, payee: int, amount: int, balance: int, req_id: int
) -> Transaction:
    return Transaction(txn_id, txn_id * 10, kind, payer, payee, amount, balance, req_id)


def event(seq: int, kind: EventKind, user: int, text: str = "") -> ChatBroadcast:
    return ChatBroadcast(ROOM, seq, seq * 10, kind, user, NAMES[user], text)


def request(user: int, kind: TxnKind, payee: int, amount: int, req_id: int, sent: float) -> Request:
    return Request(user, kind, payee, amount, req_id, sent)


def answered(
    asked: Request, at: float, status: Status = Status.OK, txn_id: int = 0, balance: int = 0
) -> Request:
    return replace(asked, answered=at, status=status, txn_id=txn_id, balance=balance)


EVENTS = {
    1: event(1, EventKind.JOINED, ALICE),
    2: event(2, EventKind.JOINED, BOB),
    3: event(3, EventKind.MESSAGE, ALICE, "a"),
    4: event(4, EventKind.MESSAGE, BOB, "b"),
    5: event(5, EventKind.LEFT, BOB),
    6: event(6, EventKind.JOINED, BOB),
    7: event(7, EventKind.MESSAGE, BOB, "c"),
}


def good() -> History:
    """Two deposits, two transfers, a withdrawal that was repeated, one of no effect, a refusal, two
    outcomes that are unknown; a member that was told of a gap, and one that lost its connection."""
    deposit, withdraw, transfer = TxnKind.DEPOSIT, TxnKind.WITHDRAW, TxnKind.TRANSFER
    repeated = answered(request(ALICE, withdraw, 0, 200, 4, 3.1), 4.0, Status.OK, 10, 500)
    return History(
        users=[ALICE, BOB, CAROL],
        requests=[
            answered(request(ALICE, deposit, 0, 1000, 1, 1.0), 1.1, Status.OK, 5, 1000),
            answered(request(BOB, deposit, 0, 500, 1, 1.2), 1.3, Status.OK, 6, 500),
            answered(request(ALICE, transfer, BOB, 300, 2, 2.0), 2.1, Status.OK, 8, 700),
            answered(request(CAROL, withdraw, 0, 10, 1, 2.0), 2.2, Status.ERR_INSUFFICIENT_FUNDS),
            request(BOB, transfer, CAROL, 100, 2, 3.0),
            request(ALICE, deposit, 0, 50, 3, 3.0),
            replace(repeated, repeats=1, recorded=True),
        ],
        reads=[Read(BOB, 2.2, 2.3, 800, 8), Read(CAROL, 0.5, 0.6, 0, 0)],
        messages=[
            Message(ALICE, ROOM, "a", 3),
            Message(BOB, ROOM, "b", 4),
            Message(BOB, ROOM, "c", 7),
            Message(ALICE, ROOM, "never arrived"),
        ],
        memberships=[
            Membership(
                ALICE,
                ROOM,
                0,
                EPOCH,
                None,
                [EVENTS[1], EVENTS[2], EVENTS[3], RoomGap(ROOM, 4, 5), EVENTS[6], EVENTS[7]],
                open=True,
            ),
            Membership(BOB, ROOM, 1, EPOCH, None, [EVENTS[2], EVENTS[3], EVENTS[4]]),
            Membership(BOB, ROOM, 5, EPOCH, 4, [EVENTS[6], EVENTS[7]], open=True),
        ],
        missed=[
            Missed(ALICE, ROOM, 4, 5, [EVENTS[4], EVENTS[5]]),
            Missed(BOB, ROOM, 5, 5, [EVENTS[5]]),
        ],
        log={
            ALICE: [
                txn(5, deposit, 0, ALICE, 1000, 1000, 1),
                txn(8, transfer, ALICE, BOB, 300, 700, 2),
                txn(10, withdraw, ALICE, 0, 200, 500, 4),
            ],
            BOB: [
                txn(6, deposit, 0, BOB, 500, 500, 1),
                txn(8, transfer, ALICE, BOB, 300, 800, 0),
                txn(9, transfer, BOB, CAROL, 100, 700, 2),
            ],
            CAROL: [txn(9, transfer, BOB, CAROL, 100, 100, 0)],
        },
        balances={ALICE: 500, BOB: 700, CAROL: 100},
        last_seqs={ROOM: 7},
        complete=True,
    )


def change(index: int, **values: object) -> Callable[[History], None]:
    def plant(history: History) -> None:
        for name, value in values.items():
            setattr(history.requests[index], name, value)

    return plant


def _log(user: int, index: int, **values: int) -> Callable[[History], None]:
    def plant(history: History) -> None:
        history.log[user][index] = history.log[user][index]._replace(**values)

    return plant


def _pushes(
    index: int, change: Callable[[list[ChatBroadcast | RoomGap]], object]
) -> Callable[[History], None]:
    def plant(history: History) -> None:
        change(history.memberships[index].pushes)

    return plant


def _lose_the_last(history: History) -> None:
    history.log[ALICE].pop()


def _execute_again(history: History) -> None:
    history.log[ALICE].append(txn(12, TxnKind.WITHDRAW, ALICE, 0, 200, 300, 4))
    history.balances[ALICE] = 300


def _execute_unasked(history: History) -> None:
    history.log[CAROL].append(txn(12, TxnKind.DEPOSIT, 0, CAROL, 5, 105, 9))
    history.balances[CAROL] = 105


def _execute_the_refused(history: History) -> None:
    history.log[CAROL].append(txn(12, TxnKind.WITHDRAW, CAROL, 0, 10, 90, 1))
    history.balances[CAROL] = 90


def _payee_does_not_know(history: History) -> None:
    del history.log[CAROL][0]


def _balance_at_the_end(history: History) -> None:
    history.balances[BOB] += 1


def _below_zero(history: History) -> None:
    history.log[ALICE].append(txn(12, TxnKind.WITHDRAW, ALICE, 0, 501, 2**64 - 1, 5))
    history.balances[ALICE] = 2**64 - 1


def _stale_read(history: History) -> None:
    history.reads[0] = Read(BOB, 2.2, 2.3, 500, 6)


def _read_of_the_future(history: History) -> None:
    history.reads.append(Read(ALICE, 2.4, 2.5, 500, 10))


def _read_of_nothing(history: History) -> None:
    history.reads[0] = Read(BOB, 2.2, 2.3, 801, 8)


def _read_goes_back(history: History) -> None:
    """Carol has seen txn 9; what is sent after that cannot be before it."""
    history.reads.append(Read(CAROL, 3.01, 3.02, 100, 9))
    history.log[ALICE][-1] = history.log[ALICE][-1]._replace(txn_id=7)
    history.requests[-1].txn_id = 7


def _refuse_with_funds(history: History) -> None:
    refused = request(BOB, TxnKind.WITHDRAW, 0, 400, 9, 2.0)
    history.requests.append(answered(refused, 2.2, Status.ERR_INSUFFICIENT_FUNDS))


def _forget_a_message(history: History) -> None:
    history.messages.append(Message(ALICE, ROOM, "d", 8))


def _a_message_in_no_history(history: History) -> None:
    history.messages.append(Message(ALICE, ROOM, "d", 8))
    history.memberships[0].pushes.append(RoomGap(ROOM, 8, 8))
    history.missed.append(Missed(ALICE, ROOM, 8, 8, []))


def _another_message_there(history: History) -> None:
    history.messages[0].room_seq, history.messages[1].room_seq = 4, 3


def _skip_in_history(history: History) -> None:
    history.missed[0].found = [EVENTS[5]]


def _end_of_history(history: History) -> None:
    history.missed[0].found = [EVENTS[4]]


def _never_fetched(history: History) -> None:
    history.missed[0].found = None


def _absence_not_fetched(history: History) -> None:
    del history.missed[1]


def _history_twice(history: History) -> None:
    history.missed[0].found = [EVENTS[4], EVENTS[4], EVENTS[5]]


def _joins_backwards(history: History) -> None:
    history.memberships[2].before = 6


def _message_twice(history: History) -> None:
    again = event(8, EventKind.MESSAGE, BOB, "c")
    for index in (0, 2):
        history.memberships[index].pushes.append(again)
    history.last_seqs[ROOM] = 8


def _another_text(history: History) -> None:
    history.memberships[2].pushes[1] = EVENTS[7]._replace(message="C")


def _number_used_again(history: History) -> None:
    history.missed[0].found = [EVENTS[4], event(5, EventKind.MESSAGE, ALICE, "a")]


def _joined_again(history: History) -> None:
    again = event(8, EventKind.JOINED, BOB)
    for index in (0, 2):
        history.memberships[index].pushes.append(again)
    history.last_seqs[ROOM] = 8


def _another_epoch(history: History) -> None:
    history.memberships[2].epoch += 1


def _nobody_said_that(history: History) -> None:
    del history.messages[2]


PLANTED: list[tuple[str, Callable[[History], None]]] = [
    ("lost", _lose_the_last),
    ("twice", _execute_again),
    ("unasked", _execute_unasked),
    ("disagreeing", change(0, balance=1001)),
    ("disagreeing", change(2, txn_id=9)),
    ("disagreeing", change(2, txn_id=5)),
    ("disagreeing", change(4, amount=99)),
    ("disagreeing", _log(BOB, 1, amount=299)),
    ("disagreeing", _execute_the_refused),
    ("disagreeing", _payee_does_not_know),
    ("conserved", _balance_at_the_end),
    ("negative", _below_zero),
    ("serial", _log(BOB, 2, balance=699)),
    ("serial", _balance_at_the_end),
    ("real_time", change(0, sent=2.5)),
    ("real_time", change(4, sent=5.0)),
    ("real_time", _stale_read),
    ("real_time", _read_of_the_future),
    ("real_time", _read_of_nothing),
    ("real_time", _read_goes_back),
    ("real_time", _refuse_with_funds),
    ("messages_lost", _forget_a_message),
    ("messages_lost", _a_message_in_no_history),
    ("messages_lost", _another_message_there),
    ("events_missing", _pushes(0, lambda pushes: pushes.pop(1))),
    ("events_missing", _pushes(0, lambda pushes: pushes.pop(3))),
    ("events_missing", _pushes(0, lambda pushes: pushes.pop())),
    ("events_missing", _skip_in_history),
    ("events_missing", _end_of_history),
    ("events_missing", _never_fetched),
    ("events_missing", _absence_not_fetched),
    ("events_twice", _pushes(0, lambda pushes: pushes.insert(2, pushes[1]))),
    ("events_twice", _pushes(1, lambda pushes: pushes.reverse())),
    ("events_twice", _history_twice),
    ("events_twice", _joins_backwards),
    ("events_twice", _message_twice),
    ("events_differing", _another_text),
    ("events_differing", _number_used_again),
    ("members", _joined_again),
    ("unexpected", _another_epoch),
    ("unexpected", _nobody_said_that),
    ("unexpected", lambda history: history.unexpected.append("an answer nobody waits for")),
    ("unfinished", lambda history: history.unfinished.append("a user waits for an answer")),
]


def faults(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.faults", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False
    )
