"""The script `take-over`: one server after the other takes the place of the one before, under load;
now and then one of the two is killed in the middle of it."""

import asyncio
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import uvloop

from bench.faults.load import Load
from bench.faults.report import Report
from bench.faults.script import Options, Script
from bench.lab.target import OwnServer, ServerFailed

WARM_UP_S: Final = 1.0  # before the first one
KILLED: Final = 0.25  # the part of them in which the new server is killed; and the old one
SAID_S: Final = 1.0  # from what the new server says to the old one's end
POLL_S: Final = 0.005


@dataclass(slots=True)
class TakeOvers:
    """What came of them."""

    count: int = 0
    new_killed: int = 0
    old_killed: int = 0
    took_s: list[float] = field(default_factory=list)  # each from the start to the line `ready`


def take_over(script: Script, options: Options) -> Report:
    """A run of it."""
    done = TakeOvers()
    with script.own(options) as own:
        load = Load("127.0.0.1", own.port, options.connections, options.rate, options.seed)
        every = script.every(options)
        uvloop.run(_play(load, own, options.seconds, every, options.seed, done))
        reconnects = [each for user in load.users for each in user.reconnects]
        moves = [each for user in load.users for each in user.moves]
        figures = {
            "take_overs": done.count,
            "new_killed": done.new_killed,
            "old_killed": done.old_killed,
            "reconnects": len(reconnects),
            "moves": len(moves),
        }
        waits = {
            "from the start of a server to `ready`": done.took_s,
            "reconnecting": reconnects,
            "moving to another server": moves,
        }
        return script.report(options, load, figures, waits, own)


async def _play(
    load: Load, own: OwnServer, seconds: float, every: float, seed: int, done: TakeOvers
) -> None:
    """Do it for so long, and look at everything then."""
    rng = random.Random(seed)  # noqa: S311 - a run that can be repeated
    try:
        await load.begin()
        await asyncio.sleep(WARM_UP_S)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            due = time.monotonic() + every
            load.press(rng)
            await _one(own, rng, done)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await load.settle()
    except ServerFailed as error:
        load.history.unfinished.append(f"the server does not go on: {error}")
    finally:
        await load.end()


async def _one(own: OwnServer, rng: random.Random, done: TakeOvers) -> None:
    began, chance = time.monotonic(), rng.random()
    pause_s = rng.uniform(0, median(done.took_s or [0.5]))
    begins = len(own.logged("taking_over"))
    own.begin_successor()
    done.count += 1
    if chance < 2 * KILLED:
        # It has the sockets then: who dies before takes with it what nobody else has.
        await _until(lambda: len(own.logged("taking_over")) > begins or own.successor_ended())
        await asyncio.sleep(pause_s)
    if chance < KILLED and await _kill_new(own):
        done.new_killed += 1
        return
    if KILLED <= chance < 2 * KILLED and not own.ended():
        done.old_killed += 1
        own.crash()
        await own.await_successor(before=-signal.SIGKILL)
    else:
        await own.await_successor()
    done.took_s.append(time.monotonic() - began)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(POLL_S)


async def _kill_new(own: OwnServer) -> bool:
    """False where it serves already: the old one does not come back then."""
    with own.successor_stopped():
        deadline = time.monotonic() + SAID_S
        while not own.ended() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        if own.ended():
            return False
        own.kill_successor()
    return True
