"""The fault scripts: that the verdict finds what was planted in a history, and short runs."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.faults.history import History, Membership, Message, Missed, Read, Request
from bench.faults.probe import Fault, Sample, pauses
from bench.faults.report import FIGURES, Report
from bench.faults.scripts import SCRIPTS, Traces
from bench.faults.verdict import judge
from bench.lab.process import Held, children_of, family_of, workers_of
from bench.lab.target import Target
from bench.lab.verdict import CHECKS
from bench.lab.wire import Wire
from libproto.codec import REQUEST
from libproto.errors import Status
from libproto.messages import ChatBroadcast, EventKind, Opcode, RoomGap, Transaction, TxnKind
from tests.helpers.server import ROOT, RunningServer, StartServer, wait_until
from tests.helpers.wire import Lobby

RUN_S = 240.0  # a run that hangs

# ---- a history in which all is well

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


def _change(index: int, **values: object) -> Callable[[History], None]:
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
    ("disagreeing", _change(0, balance=1001)),
    ("disagreeing", _change(2, txn_id=9)),
    ("disagreeing", _change(2, txn_id=5)),
    ("disagreeing", _change(4, amount=99)),
    ("disagreeing", _log(BOB, 1, amount=299)),
    ("disagreeing", _execute_the_refused),
    ("disagreeing", _payee_does_not_know),
    ("conserved", _balance_at_the_end),
    ("negative", _below_zero),
    ("serial", _log(BOB, 2, balance=699)),
    ("serial", _balance_at_the_end),
    ("real_time", _change(0, sent=2.5)),
    ("real_time", _change(4, sent=5.0)),
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
    assert {check for check, _ in PLANTED} == CHECKS.keys() - {"left"}


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
    _change(2, txn_id=5)(history)
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


# ---- the report


def test_a_report_tells_every_check_that_was_made() -> None:
    report = Report("kill9", "a setting", complete=True, figures={"kills": 3}, waits_s={"x": [0.1]})
    table = report.as_table()
    assert all(text in table for check, text in CHECKS.items() if check != "left")
    assert "workers killed" in table
    assert table.endswith("good")
    assert report.waits_ms() == {"x": {"p50": 100.0, "p99": 100.0, "max": 100.0}}


def test_a_report_names_what_was_not_kept() -> None:
    report = Report("kill9", "a setting", complete=True)
    report.problems += judge(_planted("lost")).problems
    assert not report.good
    assert "VIOLATED" in report.as_table()
    assert "lost: WITHDRAW 4 of user 11 was answered txn 10, not in the log" in report.as_table()
    assert json.loads(json.dumps(report.as_object()))["violations"]["lost"] == 1


def _planted(check: str) -> History:
    history = good()
    next(plant for name, plant in PLANTED if name == check)(history)
    return history


# ---- the wire


def test_nothing_follows_half_a_frame() -> None:
    """Somebody may be in the middle of a long history when the connection is to be cut."""
    half = len(REQUEST[Opcode.DEPOSIT].frame(1, 0, 5)) // 2
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def play() -> None:
            port = listener.getsockname()[1]
            wire = await Wire.open("127.0.0.1", port, lambda *_: None, lambda _: None)
            wire.send(Opcode.DEPOSIT, 1, (5,), lambda _: None, cut_at=0.5)
            wire.ask(Opcode.BALANCE, settle=lambda _: None)
            wire.cut(reset=False)
            await wire.closed.wait()

        asyncio.run(play())
        with listener.accept()[0] as sock:
            received = b"".join(iter(lambda: sock.recv(4096), b""))
    assert len(received) == half


# ---- runs


def faults(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.faults", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False
    )


@pytest.mark.parametrize("script", [script.name for script in SCRIPTS])
def test_a_short_run(script: str) -> None:
    every = {"kill9": "0.3", "stop": "0.1", "reset": "0.02", "journal": "0.3"}.get(script, "0.5")
    run = faults(
        script, "--seconds=1.5", "--connections=12", "--rate=600", f"--every={every}", "--json"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["good"]
    assert report["figures"].keys() <= FIGURES.keys()
    assert report["figures"]["acknowledged"] > 50
    assert report["figures"]["deliveries"] > 50
    done = {
        "kill9": "kills",
        "stop": "stops",
        "restart": "restarts",
        "reset": "resets_in_frame",
        "journal": "journal_kills",
        "crash": "crashes",
        "take-over": "take_overs",
        "interrupt": "interrupts",
    }
    assert report["figures"][done[script]] >= 1
    if script == "crash":
        assert report["waits_ms"]["from the kill to `ready`"]["max"] > 0
    if script != "interrupt":
        assert report["figures"]["unknown"] == 0


def test_a_server_of_the_users_own(server: RunningServer) -> None:
    run = faults(
        "kill9",
        *("--seconds=1", "--connections=8", "--every=0.4", "--rate=400"),
        *(f"--port={server.port}", f"--pid={server.process.pid}", f"--name={server.name}"),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "workers killed" in run.stdout
    assert "the server's count: deaths" in run.stdout
    assert run.stdout.rstrip().endswith("good")


def test_a_server_that_ends_is_a_violation(server: RunningServer) -> None:
    command = [
        sys.executable, "-m", "bench.faults", "reset", "--seconds=30", "--connections=4",
        f"--port={server.port}", f"--pid={server.process.pid}", f"--name={server.name}",
    ]  # fmt: skip
    with Lobby(server) as lobby:
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        wait_until(lambda: lobby.counters()["requests_TRANSFER"] > 0, "the load has begun")
        assert server.stop() == 0
        told, _ = run.communicate(timeout=RUN_S)
    assert run.returncode == 1
    assert "the server has ended" in told


def _starts_its_server(pid: int) -> bool:
    return bool(children_of(pid))


def _is_under_load(pid: int) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        links = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    except FileNotFoundError:
        return False  # one was closed meanwhile
    return len([link for link in links if link.startswith("socket:")]) >= 12


@pytest.mark.parametrize("moment", [_starts_its_server, _is_under_load])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_ends_its_server(
    moment: Callable[[int], bool], number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "bench.faults", "kill9", "--seconds=30", "--connections=12"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_until(lambda: moment(run.pid), moment.__name__)
        run.send_signal(number)
        told, error = run.communicate(timeout=RUN_S)
    assert run.returncode == code
    assert (told, error) == ("", "")


def test_a_run_that_is_ended_while_its_server_starts_again() -> None:
    command = [
        sys.executable, "-m", "bench.faults", "crash", "--seconds=30", "--connections=12",
        "--every=0.2",
    ]  # fmt: skip
    seen: set[int] = set()

    def begins_again() -> bool:
        seen.update(children_of(run.pid))
        return len(seen) >= 2

    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_until(begins_again, "the server is started again")
        run.send_signal(signal.SIGINT)
        told, error = run.communicate(timeout=RUN_S)
    assert run.returncode == 130
    assert (told, error) == ("", "")


def test_a_server_without_a_journal(start_server: StartServer) -> None:
    server = start_server("--durability=none")
    named = (f"--port={server.port}", f"--pid={server.process.pid}", f"--name={server.name}")
    run = faults("journal", "--seconds=1", *named)
    assert run.returncode == 3
    assert "no journal process" in run.stderr


def test_traces_of_a_server(server: RunningServer) -> None:
    pid = server.process.pid
    traces = Traces(Target(server.host, server.port, pid, server.name))
    left = traces.left()
    assert sum(line.startswith("process ") for line in left) == len(family_of(pid)) == 5
    assert f"/dev/shm/{server.name}" in left  # noqa: S108 - where shared memory is
    assert any(str(server.port) in line for line in left)
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert traces.left() == []


def test_only_a_worker_is_held(server: RunningServer) -> None:
    pid = server.process.pid
    with pytest.raises(ProcessLookupError):
        Held(pid)
    with pytest.raises(ProcessLookupError):
        Held(os.getpid())
    wait_until(lambda: len(workers_of(pid)) == 2, "both workers have their titles")
    held = Held(workers_of(pid)[0])
    held.signal(signal.SIGCONT)
    held.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kill9", "--port=7878"], "needs --pid"),
        (["all", "--port=7878"], "needs --pid"),
        (["crash", "--port=7878"], "starts its server again"),
        (["reset", "--pid=1"], "name that too"),
        (["stop", "--connections=1"], "at least 4"),
        (["stop", "--every=0"], "not above 0"),
        ([], "SCRIPT"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    run = faults(*arguments)
    assert run.returncode == 2
    assert message in run.stderr


def test_a_port_where_nobody_listens() -> None:
    run = faults("reset", "--port=1", "--seconds=1")
    assert run.returncode == 3
    assert "cannot be registered" in run.stderr
