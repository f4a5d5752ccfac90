"""The verdict on what clients of a broken server saw: a history in which all is well, and planted
faults that are each found by the check that is for them."""

from collections.abc import Callable

import pytest

from bench.faults.history import History, Membership, Message, Missed
from bench.faults.probe import Fault, Sample, pauses
from bench.faults.verdict import judge
from bench.lab.verdict import CHECKS
from libproto.messages import EventKind, RoomGap
from tests.bench.broken import ALICE, BOB, EPOCH, EVENTS, PLANTED, ROOM, change, event, good

# ---- a history in which all is well


def test_nothing_is_found_in_a_good_history() -> None:
    verdict = judge(good())
    assert verdict.problems == []
    assert verdict.good
    assert verdict.figures == {
        "requests": 7,
        "acknowledged": 4,
        "refused": 1,
        "repeated": 1,
        "settled_recorded": 1,
        "settled_anew": 0,
        "unknown": 2,
        "unknown_executed": 1,
        "reads": 2,
        "events": 7,
        "deliveries": 10,
        "gaps": 1,
        "fetched": 3,
        "messages": 4,
        "messages_repeated": 0,
        "messages_recorded": 0,
    }


# ---- planted faults: each is found, by the check that is for it


@pytest.mark.parametrize(("check", "plant"), PLANTED)
def test_what_is_planted_is_found(check: str, plant: Callable[[History], None]) -> None:
    history = good()
    plant(history)
    verdict = judge(history)
    assert not verdict.good
    assert verdict.counts()[check], verdict.problems


# ---- a kill of the whole server


AFTER = {
    20: event(20, EventKind.JOINED, ALICE),
    21: event(21, EventKind.JOINED, BOB),
    22: event(22, EventKind.MESSAGE, ALICE, "e"),
}


LAST = event(8, EventKind.MESSAGE, ALICE, "d")


def crashed() -> History:
    """The same, and then: the server is killed when a message was acknowledged and pushed to one,
    and is started again; both come back, and ROOM_HISTORY has it."""
    history = good()
    history.messages += [
        Message(ALICE, ROOM, "d", 8, sent=9.8, answered=9.9),
        Message(ALICE, ROOM, "e", 22, sent=11.5, answered=11.6),
    ]
    history.memberships[2].pushes.append(LAST)
    for membership in history.memberships:
        membership.open = False
    history.memberships += [
        Membership(ALICE, ROOM, 19, EPOCH, 7, [AFTER[20], AFTER[21], AFTER[22]], open=True),
        Membership(BOB, ROOM, 20, EPOCH, 8, [AFTER[21], AFTER[22]], open=True),
    ]
    kept = Missed(ALICE, ROOM, 1, 22, [*EVENTS.values(), LAST, *AFTER.values()], 12.0)
    history.missed += [
        Missed(ALICE, ROOM, 8, 19, [LAST], 11.0),
        Missed(BOB, ROOM, 9, 20, [AFTER[20]], 11.0),
        kept,
    ]
    history.kept, history.last_seqs = {ROOM: kept}, {ROOM: 22}
    return history


def test_a_crash_takes_nothing() -> None:
    assert judge(crashed()).problems == []


def _gone(history: History) -> None:
    """What was shown to one member alone."""
    for missed in history.missed:
        assert missed.found is not None
        missed.found = [item for item in missed.found if item != LAST]


def _gone_and_unseen(history: History) -> None:
    """What was acknowledged, and shown to nobody."""
    _gone(history)
    history.memberships[2].pushes.pop()
    history.memberships[-1].before = 7
    history.missed[-2] = Missed(BOB, ROOM, 8, 20, [AFTER[20]], 11.0)


def _gone_and_not_acknowledged(history: History) -> None:
    _gone(history)
    history.messages[-2].room_seq = 0


def _gone_once(history: History) -> None:
    """It is there, but one who asked after the crash was not told."""
    history.missed[-3].found = []


def _said_again(history: History) -> None:
    """Its sender repeated it, and it was executed twice."""
    again = event(9, EventKind.MESSAGE, ALICE, "d")
    for missed in (history.missed[-3], history.kept[ROOM]):
        assert missed.found is not None
        missed.found.insert(missed.found.index(LAST) + 1, again)


def _its_number_again(history: History) -> None:
    again = event(8, EventKind.MESSAGE, ALICE, "e")
    found = history.kept[ROOM].found
    assert found is not None
    found[found.index(LAST)] = again


def _number_acknowledged_twice(history: History) -> None:
    history.messages.append(Message(BOB, ROOM, "f", 8, sent=9.8, answered=9.9))


def _number_beyond_the_last(history: History) -> None:
    history.messages[-2].room_seq = 23


def _money_gone(history: History) -> None:
    history.log[ALICE].pop()
    history.balances[ALICE] = 700


PLANTED_IN_A_CRASH: list[tuple[str, Callable[[History], None]]] = [
    ("events_missing", _gone),
    ("messages_lost", _gone_and_unseen),
    ("events_missing", _gone_and_not_acknowledged),
    ("events_missing", _gone_once),
    ("events_twice", _said_again),
    ("events_differing", _its_number_again),
    ("events_differing", _number_acknowledged_twice),
    ("messages_lost", _number_beyond_the_last),
    ("lost", _money_gone),
]


@pytest.mark.parametrize(("check", "plant"), PLANTED_IN_A_CRASH)
def test_what_is_planted_in_a_crash_is_found(check: str, plant: Callable[[History], None]) -> None:
    history = crashed()
    plant(history)
    assert judge(history).counts()[check], judge(history).problems


def test_every_check_has_something_planted() -> None:
    # See test_traces_of_a_server, test_board_verdict.py and test_files_verdict.py.
    in_others = {"left", "boards", "files_lost", "files_twice"}
    assert {check for check, _ in PLANTED} == CHECKS.keys() - in_others


def test_numbers_that_no_event_had_are_not_missed() -> None:
    """A crash may skip numbers: the skip is told as a gap, and its history is empty."""
    history = good()
    message = event(10, EventKind.MESSAGE, ALICE, "after the skip")
    history.messages.append(Message(ALICE, ROOM, "after the skip", 10))
    for index, user in ((0, ALICE), (2, BOB)):
        history.memberships[index].pushes += [RoomGap(ROOM, 8, 9), message]
        history.missed.append(Missed(user, ROOM, 8, 9, []))
    history.last_seqs[ROOM] = 10
    assert judge(history).problems == []


def test_a_message_that_all_left_before_is_not_lost() -> None:
    history = good()
    history.messages.append(Message(ALICE, ROOM, "d", 8))
    history.last_seqs[ROOM] = 10  # with both leaves
    for membership in history.memberships:
        membership.open = False
    assert judge(history).problems == []


def test_what_the_server_keeps_no_longer_is_not_missed() -> None:
    history = good()
    history.memberships[0].pushes[4:] = [RoomGap(ROOM, 6, 7)]
    history.missed.append(Missed(ALICE, ROOM, 6, 7, [RoomGap(ROOM, 6, 7)]))
    history.memberships[2].pushes.pop()
    history.memberships[2].open = False
    assert judge(history).problems == []


def test_without_the_end_only_the_answers_are_judged() -> None:
    history = good()
    history.complete, history.log, history.balances, history.last_seqs = False, {}, {}, {}
    assert judge(history).problems == []
    change(2, txn_id=5)(history)
    assert judge(history).counts()["disagreeing"] == 1


# ---- pauses


def test_a_pause_is_the_longest_wait_at_another_worker_until_the_next_fault() -> None:
    samples = [
        Sample(0.5, 0.9, 2),  # answered before the first fault: not its doing
        Sample(9.99, 0.03, 2),  # sent before it and answered after it
        Sample(10.01, 0.02, 3),
        Sample(10.02, 0.5, 1),  # the worker itself
        Sample(11.1, 0.04, 3),
        Sample(15.0, 0.9, 3),  # long after the second fault
    ]
    faults = [Fault(11.0, 2), Fault(10.0, 1)]
    assert pauses(faults, samples) == [0.03, 0.04]
    assert pauses([Fault(20.0, 1)], samples) == []
