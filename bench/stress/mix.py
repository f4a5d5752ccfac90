"""What is asked for how often, and whom a transfer pays."""

import math
import random
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Final

from libproto.messages import Opcode

OPERATIONS: Final = (
    Opcode.CHAT_SEND,
    Opcode.HEARTBEAT,
    Opcode.TRANSFER,
    Opcode.WITHDRAW,
    Opcode.DEPOSIT,
    Opcode.BALANCE,
    Opcode.BOARD_ADD,
    Opcode.BOARD_TAKE,
    Opcode.BOARD_REMOVE,
    Opcode.BOARD_LIST,
)
"""What a mix may consist of."""
TRADES: Final = (Opcode.TRANSFER, Opcode.WITHDRAW, Opcode.DEPOSIT, Opcode.BALANCE)
"""The order of a ratio."""
RATIO: Final = "70:10:10:10"
NAMES: Final = ("chat-heavy", "trade-heavy", "mixed", "board")
_BOARD: Final = {
    Opcode.BOARD_TAKE: 0.5,
    Opcode.BOARD_ADD: 0.3,
    Opcode.BOARD_LIST: 0.1,
    Opcode.BOARD_REMOVE: 0.05,
    Opcode.DEPOSIT: 0.05,
}
"""More take than add: of those who take an offer one gets it."""

Mix = dict[Opcode, float]
"""The share of each operation, above 0, 1 in all."""


def _shares(weights: Mapping[Opcode, float]) -> Mix:
    total = sum(weights.values())
    if not all(weight >= 0 for weight in weights.values()) or not 0 < total < math.inf:
        raise ValueError("weights must be numbers of 0 or more, and not all 0")
    return {opcode: weight / total for opcode, weight in weights.items() if weight > 0}


def trades(ratio: str) -> Mix:
    """The shares that a ratio `TRANSFER:WITHDRAW:DEPOSIT:BALANCE` says. ValueError."""
    parts = ratio.split(":")
    if len(parts) != len(TRADES):
        raise ValueError(f"{ratio} is not four numbers with colons between them")
    return _shares(dict(zip(TRADES, map(float, parts), strict=True)))


def mix_of(name: str, ratio: str) -> Mix:
    """The mix of this name, or in this file: TOML, `OPERATION = weight` a line.

    ValueError, also where the file cannot be read.
    """
    trading = trades(ratio)
    chatting = {Opcode.CHAT_SEND: 0.8, Opcode.HEARTBEAT: 0.2}
    if name == "chat-heavy":
        return chatting
    if name == "trade-heavy":
        return trading
    if name == "board":
        return dict(_BOARD)
    if name == "mixed":
        return {opcode: share / 2 for opcode, share in (chatting | trading).items()}
    try:
        weights = tomllib.loads(Path(name).read_text())
    except OSError as error:
        raise ValueError(f"{name} is none of {', '.join(NAMES)}, and no file: {error}") from error
    allowed = {opcode.name: opcode for opcode in OPERATIONS}
    for key, value in weights.items():
        if key not in allowed:
            raise ValueError(f"{name}: {key} is none of {', '.join(allowed)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: the weight of {key} is not a number")
    if not weights:
        raise ValueError(f"{name}: there is nothing in it")
    try:
        return _shares({allowed[key]: float(value) for key, value in weights.items()})
    except OverflowError as error:  # of a whole number
        raise ValueError(f"{name}: {error}") from error


class Choice:
    """Operations at random, by their shares."""

    def __init__(self, mix: Mix) -> None:
        self._opcodes = [int(opcode) for opcode in mix]
        self._bounds = list(accumulate(mix.values()))[:-1]

    def pick(self, rng: random.Random) -> int:
        drawn = rng.random()
        place = 0
        for bound in self._bounds:  # a few: cheaper than a call
            place += bound <= drawn
        return self._opcodes[place]


class Payees:
    """Accounts to pay, by index: all alike, or by Zipf's law, where account n (from 1) is paid in
    proportion to 1 / n**s."""

    def __init__(self, accounts: int, hot: int, zipf: float) -> None:
        """accounts: 2 or more. hot: only the first so many are paid; 0: all. zipf: s; 0: alike."""
        self._accounts = accounts
        self._paid = hot or accounts
        self._bounds = (
            list(accumulate(1 / rank**zipf for rank in range(1, self._paid + 1))) if zipf else []
        )

    def pick(self, rng: random.Random, payer: int) -> int:
        """Another one than the payer; where there is no other hot one, the account after it."""
        bounds = self._bounds
        if bounds:
            found = bisect_right(bounds, rng.random() * bounds[-1])
        else:
            found = int(rng.random() * self._paid)
        if found == payer:
            return (payer + 1) % (self._paid if self._paid > 1 else self._accounts)
        return found
