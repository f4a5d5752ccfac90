"""The scripts that kill the whole server, again and again, and start it on its data."""

import asyncio
import math
import random
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import uvloop

from bench.faults.load import Load
from bench.faults.report import Report
from bench.faults.script import Options, Script
from bench.lab.process import ARCHIVE_TITLE, JOURNAL_TITLE, Victims
from bench.lab.target import OwnServer, ServerFailed, steady_port

WARM_UP_S: Final = 1.0  # before the first kill
KILL_S: Final = (0.0, 0.005)  # after requests were sent: at any moment of a group commit
CRASH_SPREAD: Final = (0.1, 1.9)  # times `every` that a server is left alone
EARLY: Final = 0.2  # the part of servers that are killed before they are ready


@dataclass(slots=True)
class _Rounds:
    """What came of killing it."""

    crashes: int = 0  # servers killed
    early: int = 0  # of them, before they were ready
    workers: int = 0  # killed alone
    keepers: int = 0  # journal and archive processes killed alone
    starts_s: list[float] = field(default_factory=list)  # each from the kill to the line `ready`


def crash(script: Script, options: Options) -> Report:
    """A run of a script that kills the whole server and starts it again."""
    rounds = _Rounds()
    with script.own(options, f"--port={steady_port()}") as own:
        load = script.load("127.0.0.1", own.port, options.connections, options.rate, options.seed)
        uvloop.run(_play_crashes(load, own, options, script, rounds))
        reconnects = [each for user in load.users for each in user.reconnects]
        figures = {
            "crashes": rounds.crashes,
            "early_crashes": rounds.early,
            "reconnects": len(reconnects),
        }
        if script.whole < 1:
            figures |= {"kills": rounds.workers, "keeper_kills": rounds.keepers}
        waits = {"from the kill to `ready`": rounds.starts_s, "reconnecting": reconnects}
        return script.report(options, load, figures, waits, own)


async def _play_crashes(
    load: Load, own: OwnServer, options: Options, script: Script, rounds: _Rounds
) -> None:
    every = script.every(options)
    rng = random.Random(options.seed)  # noqa: S311 - a run that can be repeated
    unfinished = load.history.unfinished
    try:
        await load.begin()
        await asyncio.sleep(WARM_UP_S)
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            await asyncio.sleep(every * rng.uniform(*CRASH_SPREAD))
            if own.ended():
                unfinished.append(f"the server has ended, exit code {own.wait()}")
                return
            load.press(rng)
            await asyncio.sleep(rng.uniform(*KILL_S))
            if rng.random() >= script.whole:
                _kill_one(own, rng, rounds)
                continue
            began = time.monotonic()
            load.up_since = math.inf
            own.crash()
            rounds.crashes += 1
            own.begin_again()
            while rng.random() < EARLY:
                await asyncio.sleep(rng.uniform(0, median(rounds.starts_s or [every])))
                own.crash()
                rounds.crashes += 1
                rounds.early += 1
                began = time.monotonic()
                own.begin_again()
            await own.await_ready()
            load.up_since = time.monotonic()
            rounds.starts_s.append(load.up_since - began)
        await load.settle()
    except ServerFailed as error:
        unfinished.append(f"the server does not start again: {error}")
    finally:
        await load.end()


def _kill_one(own: OwnServer, rng: random.Random, rounds: _Rounds) -> None:
    """A worker; every fourth time the journal or the archive."""
    title = rng.choice((None, None, None, None, None, None, JOURNAL_TITLE, ARCHIVE_TITLE))
    victims = Victims(own.pid, rng)
    victim = victims.any() if title is None else victims.any(title)
    if victim is not None and victims.kill(victim):
        if title is None:
            rounds.workers += 1
        else:
            rounds.keepers += 1
