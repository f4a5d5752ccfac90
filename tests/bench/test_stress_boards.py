"""Boards under load: what a thread asks for by what it knows, and the verdict on a run."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from bench.stress.boards import NEWEST, Gone, Market, Offer, Told
from libproto.messages import EventKind, Opcode

ANN, BOB = 1, 2
ROOM = 3
ADDED, REMOVED, TAKEN = EventKind.OFFER_ADDED, EventKind.OFFER_REMOVED, EventKind.OFFER_TAKEN


def asked(market: Market, opcode: Opcode, user: int = BOB) -> tuple[int, tuple[Any, ...]]:
    rng = random.Random(1)  # noqa: S311 - to be repeated
    return market.request(opcode, [ROOM], user, rng, 9, "text")


def test_where_there_is_nothing_something_is_added() -> None:
    market = Market()
    for opcode in (Opcode.BOARD_ADD, Opcode.BOARD_TAKE, Opcode.BOARD_REMOVE):
        assert asked(market, opcode) == (Opcode.BOARD_ADD, (ROOM, 9, "text"))


def test_what_is_asked_for_is_what_events_and_answers_tell_of() -> None:
    market = Market()
    market.event(ROOM, ADDED, ANN, "7 30 a lamp")
    assert asked(market, Opcode.BOARD_TAKE) == (Opcode.BOARD_TAKE, (ROOM, 7, 30))
    assert asked(market, Opcode.BOARD_TAKE, ANN)[0] == Opcode.BOARD_ADD, "it is her own"
    assert asked(market, Opcode.BOARD_REMOVE, ANN) == (Opcode.BOARD_REMOVE, (ROOM, 7))
    market.event(ROOM, TAKEN, ANN, "7 9 30 1")
    assert asked(market, Opcode.BOARD_TAKE)[0] == Opcode.BOARD_ADD
    market.answered(Opcode.BOARD_ADD, ANN, (ROOM, 5, "a desk"), 8)
    assert asked(market, Opcode.BOARD_TAKE) == (Opcode.BOARD_TAKE, (ROOM, 8, 5))
    market.event(ROOM, ADDED, ANN, "8 5 a desk")
    market.refused((ROOM, 8, 5))
    market.event(ROOM, ADDED, ANN, "8 5 a desk")
    assert asked(market, Opcode.BOARD_TAKE)[0] == Opcode.BOARD_ADD, "it has gone"
    assert market.known == {7: Offer(ROOM, ANN, 30), 8: Offer(ROOM, ANN, 5)}


def test_the_newest_are_taken_most_often() -> None:
    market, rng = Market(), random.Random(1)  # noqa: S311 - to be repeated
    for entry in range(1, 20):
        market.event(ROOM, ADDED, ANN, f"{entry} 30 a lamp")
    drawn = [market.request(Opcode.BOARD_TAKE, [ROOM], BOB, rng, 9, "")[1][1] for _ in range(999)]
    assert {*drawn} == {*range(1, 20)}
    assert 0.7 < sum(entry >= 20 - NEWEST for entry in drawn) / len(drawn) < 0.9


# ---- the verdict

BEFORE = {1: Offer(ROOM, ANN, 10)}
LEFT = {3: Offer(ROOM, ANN, 12), 5: Offer(ROOM, BOB, 14)}


def parts() -> list[dict[str, Any]]:
    """Ann has added 2 and 3, and removed 1; Bob has taken 2. An adding of his, a taking of hers of
    6, which was there, and a removal are unknown."""
    ann, bob = Market(), Market()
    ann.answered(Opcode.BOARD_ADD, ANN, (ROOM, 11, "a"), 2)
    ann.answered(Opcode.BOARD_ADD, ANN, (ROOM, 12, "b"), 3)
    ann.answered(Opcode.BOARD_ADD, ANN, (ROOM, 15, "c"), 6)
    ann.answered(Opcode.BOARD_REMOVE, ANN, (ROOM, 1), 4)
    bob.answered(Opcode.BOARD_TAKE, BOB, (ROOM, 2, 11), 9)
    bob.not_told(Opcode.BOARD_ADD, (ROOM, 14, "d"))
    bob.not_told(Opcode.BOARD_TAKE, (ROOM, 6, 15))
    return [ann.as_object(), bob.as_object()]


def test_nothing_is_found_where_all_is_well() -> None:
    told = Told(BEFORE, parts())
    assert list(told.problems(LEFT)) == []
    assert (told.added, told.taken, len(told.gone)) == (3, 1, 2)


def _drop(key: str, index: int) -> Callable[[list[dict[str, Any]], dict[int, Offer]], None]:
    def plant(told: list[dict[str, Any]], _left: dict[int, Offer]) -> None:
        (part,) = [each for each in told if len(each[key]) > index]
        del part[key][index]

    return plant


def _went(*gone: Gone) -> Callable[[list[dict[str, Any]], dict[int, Offer]], None]:
    return lambda told, _left: told[0]["gone"].extend(gone)


def _is_left(entry: int, offer: Offer) -> Callable[[list[dict[str, Any]], dict[int, Offer]], None]:
    return lambda _told, left: left.update({entry: offer})


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (_went(Gone(2, ROOM, ANN, 11)), "it went 2 times"),
        (_went(Gone(2, ROOM, ANN, 0)), "it went 2 times"),
        (_went(Gone(3, ROOM, BOB, 12)), "it is still there"),
        (_is_left(2, Offer(ROOM, ANN, 11)), "it is still there"),
        (_is_left(3, Offer(ROOM, ANN, 13)), "offer 3 was"),
        (_is_left(7, Offer(ROOM, BOB, 1)), "offers that nobody has added"),
        (lambda _told, left: left.pop(3), "offer 3 has gone"),
        (_drop("unknown", 0), "offers that nobody has added"),
        (_drop("unknown", 1), "offer 6 has gone"),
        (lambda told, _left: told[1]["gone"].clear(), "offer 2 has gone"),
        (lambda told, _left: told[1]["added"].append((2, ROOM, BOB, 1)), "given the number 2"),
        (
            lambda told, _left: told[1].update(gone=[Gone(2, ROOM, BOB, 10)]),
            "and it was Offer",
        ),
    ],
)
def test_what_is_planted_is_found(
    plant: Callable[[list[dict[str, Any]], dict[int, Offer]], None], found: str
) -> None:
    told, left = parts(), dict(LEFT)
    plant(told, left)
    assert any(found in text for text in Told(BEFORE, told).problems(left))
