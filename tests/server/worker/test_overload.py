"""The rule of overload: what is refused, in which order, for how long, and when it is over. Time is
a number that the tests add to."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libnet.pump import TURN_MAX
from libnet.transport import FAIR_FRAMES
from libproto.codec import ERROR, REQUEST
from libproto.messages import Opcode
from server.config import Settings
from server.config.settings import SETTINGS
from server.worker.overload import (
    CALM_S,
    DOUBLES_S,
    RETRY_FIRST_MS,
    RETRY_MAX_MS,
    SUSTAINED_S,
    TARGET,
    Class,
    Overload,
    Share,
    class_of,
)

LOOK_S = 0.01
LOADS = st.floats(0, 1000)
HISTORY = st.lists(st.tuples(st.floats(0.001, 2), LOADS), max_size=60)
ANY_CLASS = st.sampled_from(Class)


class Clocked:
    """An Overload, and the time."""

    def __init__(self, most: Class = Class.LEDGER) -> None:
        self.rule = Overload(0.05, 1000, most)
        self.now_s = 1000.0

    def look(self, load: float, elapsed_s: float = LOOK_S) -> None:
        self.now_s += elapsed_s
        self.rule.look(self.now_s, load)

    def look_for(self, seconds: float, load: float) -> None:
        for _ in range(math.ceil(seconds / LOOK_S)):
            self.look(load)

    def parts(self) -> list[float]:
        return [share.part for share in self.rule.shares.values()]


def test_each_request_has_its_class() -> None:
    """Chat is what no other row names, so a request that is added is chat until somebody says
    otherwise: this says that somebody has thought of it."""
    found = {opcode: class_of(opcode) for opcode in map(Opcode, REQUEST)}
    never = {opcode for opcode, each in found.items() if each is None}
    assert never == {Opcode.HEARTBEAT, Opcode.LOGOUT, Opcode.LEAVE_ROOM}
    chat = {opcode for opcode, each in found.items() if each is Class.CHAT}
    assert chat == {
        Opcode.CHAT_SEND, Opcode.DIRECT_SEND, Opcode.JOIN_ROOM, Opcode.ROOM_HISTORY,
        Opcode.INBOX_HISTORY, Opcode.ROOM_LIST, Opcode.ROOM_MEMBERS, Opcode.USER_LOOKUP,
        Opcode.FILE_BEGIN, Opcode.FILE_PUT, Opcode.FILE_END, Opcode.FILE_GET, Opcode.LINK_FETCH,
        Opcode.USER_NAME, Opcode.ROOM_OPEN, Opcode.ROOM_INFO, Opcode.ROOM_SET, Opcode.ROOM_ROLE,
        Opcode.BLOCK, Opcode.CHAT_DELETE, Opcode.BOARD_ADD, Opcode.BOARD_LIST, Opcode.BOARD_REMOVE,
    }  # fmt: skip
    logins = {opcode for opcode, each in found.items() if each is Class.LOGINS}
    assert logins == {Opcode.HELLO, Opcode.REGISTER, Opcode.LOGIN, Opcode.PASSWORD}


def test_the_setting_names_the_classes() -> None:
    (row,) = (row for row in SETTINGS if row.name == "shed")
    assert row.spec.choices == tuple(Class)
    Overload(Settings().lag_limit, Settings().queue_limit, Class(Settings().shed))


@given(HISTORY, ANY_CLASS)
def test_nothing_of_a_class_is_refused_before_all_that_counts_for_less(
    history: Sequence[tuple[float, float]], most: Class
) -> None:
    clocked = Clocked(most)
    for elapsed_s, load in history:
        clocked.look(load, elapsed_s)
        parts = clocked.parts()
        for less, more in pairwise(parts):
            assert not more or less == 1
        assert not any(parts[1 + list(Class).index(most) :]), "never more than the setting allows"
        assert clocked.rule.nothing.part == 0
        assert clocked.rule.sheds or not any(parts)


@given(st.floats(0, 1), st.integers(1, 500))
def test_what_is_refused_of_a_class_is_spread_evenly(part: float, count: int) -> None:
    share = Share()
    share.part = part
    refused = 0
    for asked in range(1, count + 1):
        refused += share.takes()
        assert abs(refused - part * asked) <= 1 + 1e-6


def test_of_a_whole_class_everything_is_refused_and_of_none_nothing() -> None:
    share = Share()
    for part in (0.3, 1.0, 0.7, 1.0):
        share.part = part
        found = [share.takes() for _ in range(10)]
        assert all(found) == (part == 1)
    share.part = 0.0
    assert not any(share.takes() for _ in range(10))


@given(st.lists(st.tuples(st.floats(0, SUSTAINED_S / 2.1), st.floats(1, 1000)), max_size=20))
def test_a_burst_is_no_overload(bursts: Sequence[tuple[float, float]]) -> None:
    """However high, what is over before SUSTAINED_S has passed refuses nothing."""
    clocked = Clocked()
    for elapsed_s, load in bursts:
        clocked.look(load)
        clocked.look(load, elapsed_s)
        assert not clocked.rule.sheds
        clocked.look(0.99)


def test_what_stays_above_a_limit_is_one() -> None:
    clocked = Clocked()
    clocked.look_for(SUSTAINED_S / 2, 1.01)
    assert not clocked.rule.sheds
    clocked.look_for(SUSTAINED_S, 1.01)
    assert clocked.rule.sheds
    assert clocked.parts()[0] > 0


def test_either_limit_counts_and_none_is_none() -> None:
    rule = Overload(0.05, 1000, Class.LEDGER)
    assert rule.load(0.05, 0) == rule.load(0, 1000) == rule.load(0.05, 1000) == 1
    assert rule.load(0.1, 1000) == rule.load(0.05, 2000) == 2
    assert Overload(0, 1000, Class.LEDGER).load(1e9, 500) == 0.5
    assert Overload(0.05, 0, Class.LEDGER).load(0.025, 10**9) == 0.5


@given(HISTORY, st.floats(0, TARGET * 0.9))
def test_it_is_over_by_itself(history: Sequence[tuple[float, float]], rest: float) -> None:
    """Whatever came before: nothing is refused, and the time to wait is the first one again."""
    clocked = Clocked()
    for elapsed_s, load in history:
        clocked.look(load, elapsed_s)
    falls_s = 3.0 / 4 / -max(-1.0, math.log(0.9))
    clocked.look_for(falls_s + CALM_S + 0.1, rest)
    assert not clocked.rule.sheds
    assert clocked.parts() == [0, 0, 0]
    clocked.look(rest, 10 * DOUBLES_S)
    assert clocked.rule.retry_after_ms == RETRY_FIRST_MS


@given(HISTORY)
def test_the_time_to_wait_grows_while_it_sheds_and_shrinks_else(
    history: Sequence[tuple[float, float]],
) -> None:
    clocked = Clocked()
    before = RETRY_FIRST_MS
    for elapsed_s, load in history:
        shed = clocked.rule.sheds
        clocked.look(load, elapsed_s)
        now = clocked.rule.retry_after_ms
        assert RETRY_FIRST_MS <= now <= RETRY_MAX_MS
        assert now >= before if shed else now <= before
        for share in clocked.rule.shares.values():
            assert ERROR.decode(share.body, 0, len(share.body))[0] == now
        before = now


def test_the_time_to_wait_doubles() -> None:
    clocked = Clocked()
    clocked.look_for(2 * SUSTAINED_S, 5)
    before = clocked.rule.retry_after_ms
    clocked.look_for(2 * DOUBLES_S, 5)
    assert clocked.rule.retry_after_ms == pytest.approx(4 * before, rel=0.02)
    clocked.look_for(20 * DOUBLES_S, 5)
    assert clocked.rule.retry_after_ms == RETRY_MAX_MS


# ---- a worker in numbers: each turn executes or refuses what came during the one before


class Mix:
    """What is asked of a worker: the part of each class, and what a request of it takes, in units
    of what an average one takes. The rest are heartbeats."""

    def __init__(self, parts: Sequence[float], costs: Sequence[float]) -> None:
        rest = 1 - sum(parts)
        whole = sum(map(float.__mul__, parts, costs)) + rest * _HEARTBEAT
        self.parts, self.costs = parts, [cost / whole for cost in costs]
        self.rest = rest * _HEARTBEAT / whole


_HEARTBEAT = 0.2
_SERVICE_S = 20e-6  # of an average request
_REFUSAL = 0.03  # what refusing one takes, beside executing it
MIXED = Mix((0.4, 0.02, 0.48), (1.5, 2.0, 0.7))
TRADES = Mix((0.0, 0.0, 0.95), (1.0, 1.0, 1.0))
CHATS = Mix((0.8, 0.0, 0.0), (1.0, 1.0, 1.0))


def simulate(clocked: Clocked, mix: Mix, offered: float, seconds: float) -> tuple[float, float]:
    """offered: of what it can do at most. The part of its time that it spends on what it executes,
    and its mean lag in s, both of the second half."""
    turn_s, looked_s, ended_s = 1e-4, 0.0, clocked.now_s + seconds
    useful_s = lag_s = spent_s = waiting = 0.0
    while clocked.now_s < ended_s:
        waiting += turn_s * offered / _SERVICE_S
        asked = min(waiting, float(TURN_MAX * FAIR_FRAMES))
        waiting -= asked
        parts = zip(mix.parts, mix.costs, clocked.parts(), strict=True)
        done = mix.rest
        refused = 0.0
        for part, cost, shed in parts:
            done += part * cost * (1 - shed)
            refused += part * shed * _REFUSAL
        turn_s = max(1e-4, asked * (done + refused) * _SERVICE_S)
        clocked.now_s += turn_s
        looked_s += turn_s
        if looked_s >= 0.002:
            looked_s = 0.0
            clocked.look(clocked.rule.load(turn_s, 0), 0.0)
        if ended_s - clocked.now_s < seconds / 2:
            useful_s += asked * done * _SERVICE_S
            lag_s += turn_s * turn_s
            spent_s += turn_s
    return useful_s / spent_s, lag_s / spent_s


@pytest.mark.parametrize("mix", [MIXED, TRADES, CHATS], ids=["mixed", "trades", "chats"])
@pytest.mark.parametrize("offered", [1.1, 1.5, 2.0, 3.0, 5.0])
def test_a_worker_in_numbers_stays_useful_and_quick(mix: Mix, offered: float) -> None:
    """Most of its time goes into what it executes, but for the refusals themselves, and what is
    executed waits for about the target."""
    clocked = Clocked()
    useful, lag_s = simulate(clocked, mix, offered, 10)
    assert clocked.rule.sheds
    assert useful >= 0.97 - offered * _REFUSAL
    assert lag_s <= 2 * TARGET * clocked.rule.lag_limit_s
    if mix is CHATS:
        assert clocked.parts()[1:] == [0, 0]


def test_a_worker_in_numbers_that_is_not_overloaded_refuses_nothing() -> None:
    for mix in (MIXED, TRADES, CHATS):
        clocked = Clocked()
        simulate(clocked, mix, 0.95, 5)
        assert not clocked.rule.sheds
