"""The script that kills the files process, workers and whole servers while files are shared."""

import asyncio
import random
import threading
import time
from pathlib import Path
from typing import Final

from bench.faults.report import Report
from bench.faults.script import Options, Script
from bench.faults.sharing import Refused, Shared, Sharer, judge
from bench.lab.caller import Caller
from bench.lab.process import FILES_TITLE, Victims
from bench.lab.target import OwnServer, ServerFailed, steady_port
from bench.lab.verdict import Problem

SHARERS_MAX: Final = 16
SETTLE_S: Final = 60.0  # that what was begun may take, when nothing is killed any more
_SHM: Final = Path("/dev/shm")  # noqa: S108 - where shared memory is
# What is killed, by how often.
_WHAT: Final = ("files", "files", "files", "worker", "server")


def kill_while_sharing(script: Script, options: Options) -> Report:
    """A run of it."""
    figures: dict[str, float] = dict.fromkeys(("files_kills", "kills", "crashes"), 0)
    shared = Shared()
    report = Report(script.name, script.setting(options), complete=True)
    count = min(options.connections, SHARERS_MAX)
    with script.own(options, f"--port={steady_port()}") as own:
        registrar = Caller("127.0.0.1", own.port)
        names = [f"sharer-{number}" for number in range(count)]
        registrar.register(names)
        registrar.close()
        sharers = [
            Sharer(own.port, name, number + 1, options.seed + number, shared)
            for number, name in enumerate(names)
        ]
        threads = [threading.Thread(target=each.run, daemon=True) for each in sharers]
        for thread in threads:
            thread.start()
        try:
            _kill(own, options, script.every(options), figures)
        except ServerFailed as error:
            shared.problems.append(Problem("unfinished", f"it does not start again: {error}"))
        deadline = time.monotonic() + SETTLE_S
        for sharer in sharers:
            sharer.stops, sharer.give_up_at = True, deadline
        for thread in threads:
            thread.join(max(0.1, deadline + 5 - time.monotonic()))
            if thread.is_alive():
                shared.problems.append(Problem("unfinished", "a transfer hangs"))
        reader = Sharer(own.port, names[0], 1 << 40, 0, shared)
        reader.give_up_at = time.monotonic() + SETTLE_S
        try:
            figures |= judge(reader, shared)
        except Refused as error:
            shared.problems.append(Problem("unfinished", str(error)))
        reader.close()
        name = own.name
        if shared.problems:
            report.errors += own.errors()
    shared.problems += [Problem("left", str(each)) for each in sorted(_SHM.glob(f"{name}*"))]
    report.problems += shared.problems
    report.figures |= figures
    return report


def _kill(own: OwnServer, options: Options, every: float, figures: dict[str, float]) -> None:
    """Do so until the time is over. ServerFailed."""
    rng = random.Random(options.seed)  # noqa: S311 - a run that can be repeated
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        time.sleep(every * rng.uniform(0.2, 1.8))
        what = rng.choice(_WHAT)
        if what == "server":
            own.crash()
            own.begin_again()
            asyncio.run(own.await_ready())
            figures["crashes"] += 1
            continue
        victims = Victims(own.pid, rng)
        victim = victims.any(FILES_TITLE) if what == "files" else victims.any()
        if victim is not None and victims.kill(victim):
            figures["files_kills" if what == "files" else "kills"] += 1
