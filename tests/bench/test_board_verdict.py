"""The verdict on boards: a history in which all is well, and what is found where it is not."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.faults.history import History, Membership, Posting, Request, Take
from bench.faults.verdict import judge
from libproto.errors import Status
from libproto.messages import ChatBroadcast, EventKind, Transaction, TxnKind

ALICE, BOB, CAROL = 11, 12, 13
NAMES = {ALICE: "alice", BOB: "bob", CAROL: "carol"}
ROOM = 1
ADDED, REMOVED, TAKEN = EventKind.OFFER_ADDED, EventKind.OFFER_REMOVED, EventKind.OFFER_TAKEN


def event(seq: int, kind: EventKind, user: int, text: str = "") -> ChatBroadcast:
    return ChatBroadcast(ROOM, seq, seq * 10, kind, user, NAMES[user], text)


def take(user: int, req_id: int, sent: float, status: Status | None, entry: int = 7) -> Take:
    return Take(
        user, TxnKind.TRANSFER, ALICE, 30, req_id, sent, answered=sent + 0.1 if status is not None
        else 0.0, status=status, room=ROOM, entry=entry,
    )  # fmt: skip


EVENTS = [
    event(1, EventKind.JOINED, ALICE),
    event(2, ADDED, ALICE, "7 30 a lamp"),
    event(3, ADDED, ALICE, "8 30 a desk"),
    event(4, TAKEN, BOB, f"7 9 30 {ALICE}"),
    event(5, ADDED, BOB, "10 5 a book"),
    event(6, REMOVED, BOB, "10"),
    event(7, TAKEN, BOB, f"8 11 30 {ALICE}"),
    event(8, ADDED, ALICE, "12 4 a chair"),
]


def good() -> History:
    """Alice offers a lamp, a desk and a chair, which is left; Bob has the lamp, Carol is late; that
    he has the desk, Bob was never told. He offers a book, and removes it."""
    done = replace(take(BOB, 2, 2.0, Status.OK), txn_id=9, balance=70, room_seq=4)
    ok = Status.OK
    return History(
        users=[ALICE, BOB, CAROL],
        requests=[
            Request(BOB, TxnKind.DEPOSIT, 0, 100, 1, 1.0, 0, 1.1, ok, txn_id=6, balance=100),
            done,
            take(CAROL, 1, 3.0, Status.ERR_NOT_FOUND),
            take(BOB, 5, 4.0, None, entry=8),
        ],
        postings=[
            Posting(ALICE, ROOM, 30, "a lamp", 1, 7, status=ok, room_seq=2),
            Posting(ALICE, ROOM, 30, "a desk", 2, status=None),
            Posting(ALICE, ROOM, 4, "a chair", 3, 12, 1, ok, recorded=True, room_seq=8),
            Posting(ALICE, ROOM, 9, "a board too full", 4, status=Status.ERR_LIMIT),
            Posting(BOB, ROOM, 5, "a book", 3, 10, status=ok, room_seq=5),
            Posting(BOB, ROOM, 0, "", 4, 10, status=ok, room_seq=6),
        ],
        memberships=[Membership(ALICE, ROOM, 0, 7, None, list(EVENTS), open=True)],
        log={
            ALICE: [
                Transaction(9, 90, TxnKind.TRANSFER, BOB, ALICE, 30, 30, 0),
                Transaction(11, 110, TxnKind.TRANSFER, BOB, ALICE, 30, 60, 0),
            ],
            BOB: [
                Transaction(6, 60, TxnKind.DEPOSIT, 0, BOB, 100, 100, 1),
                Transaction(9, 90, TxnKind.TRANSFER, BOB, ALICE, 30, 70, 2),
                Transaction(11, 110, TxnKind.TRANSFER, BOB, ALICE, 30, 40, 5),
            ],
            CAROL: [],
        },
        balances={ALICE: 60, BOB: 40, CAROL: 0},
        boards={ROOM: [(12, ALICE, 4, "a chair")]},
        last_seqs={ROOM: 8},
        complete=True,
    )


def test_nothing_is_found_where_all_is_well() -> None:
    verdict = judge(good())
    assert verdict.problems == []
    figures = verdict.figures
    assert {name: figures[name] for name in figures if name.startswith(("offer", "take"))} == {
        "offers": 3,
        "offers_removed": 1,
        "takes": 3,
        "takes_done": 1,
        "takes_late": 1,
    }
    assert (figures["boards_repeated"], figures["boards_recorded"]) == (1, 1)


def _event(index: int, **values: object) -> Callable[[History], None]:
    def plant(history: History) -> None:
        pushes = history.memberships[0].pushes
        pushes[index] = pushes[index]._replace(**values)  # type: ignore[arg-type]  # by name

    return plant


def _ask(index: int, **values: object) -> Callable[[History], None]:
    def plant(history: History) -> None:
        for name, value in values.items():
            setattr(history.requests[index], name, value)

    return plant


def _post(index: int, **values: object) -> Callable[[History], None]:
    def plant(history: History) -> None:
        for name, value in values.items():
            setattr(history.postings[index], name, value)

    return plant


def _board(*left: tuple[int, int, int, str]) -> Callable[[History], None]:
    def plant(history: History) -> None:
        history.boards[ROOM] = list(left)

    return plant


def _more(*events: ChatBroadcast) -> Callable[[History], None]:
    def plant(history: History) -> None:
        history.memberships[0].pushes += events
        history.last_seqs[ROOM] += len(events)

    return plant


CHAIR = (12, ALICE, 4, "a chair")


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda history: history.boards.clear(), id="a board that was not read"),
        pytest.param(_board(), id="an offer that nobody took has gone"),
        pytest.param(_board(CHAIR, (8, ALICE, 30, "a desk")), id="a taken offer is still there"),
        pytest.param(_board((12, ALICE, 4, "a chai")), id="half a text"),
        pytest.param(_more(event(9, TAKEN, CAROL, f"7 13 30 {ALICE}")), id="taken twice"),
        pytest.param(_more(event(9, REMOVED, ALICE, "12")), id="removed, and nobody asked for it"),
        pytest.param(_more(event(9, ADDED, ALICE, "13 4 a chair")), id="added twice"),
        pytest.param(_event(3, message=f"7 9 29 {ALICE}"), id="for another price"),
        pytest.param(_event(3, message=f"7 9 30 {CAROL}"), id="another is paid"),
        pytest.param(_event(3, from_user=CAROL, from_name="carol"), id="another has it"),
        pytest.param(_event(6, message=f"8 8 30 {ALICE}"), id="against the order of the log"),
        pytest.param(_event(6, message=f"8 12 30 {ALICE}"), id="another transaction"),
        pytest.param(_event(7, kind=EventKind.MESSAGE), id="no event tells of an offer"),
        pytest.param(_ask(1, room_seq=5), id="taken under another number"),
        pytest.param(_ask(2, status=Status.OK, txn_id=9, room_seq=4), id="two have it"),
        pytest.param(_ask(3, status=Status.ERR_NOT_FOUND), id="too late, and has it"),
        pytest.param(_post(0, entry=8), id="added as another"),
        pytest.param(_post(1, status=Status.ERR_LIMIT), id="refused, and is there"),
        pytest.param(_post(4, room_seq=9), id="added under another number"),
        pytest.param(_post(5, status=Status.ERR_NOT_FOUND), id="not found, and removed"),
    ],
)
def test_what_is_planted_is_found(plant: Callable[[History], None]) -> None:
    history = good()
    plant(history)
    verdict = judge(history)
    assert verdict.counts()["boards"], verdict.problems
