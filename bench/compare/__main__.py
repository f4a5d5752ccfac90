"""`python -m bench.compare`: start the servers, load them by turns, tell the table."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench import compare
from bench.compare import nats, postgres, redis, tradechat
from bench.compare.contender import PAYLOAD, Contender
from bench.compare.fanout import Fanout
from bench.compare.programs import Missing, find, version
from bench.compare.report import (
    Row,
    Spread,
    as_object,
    document,
    heading,
    summary,
    table,
    write_csv,
)
from bench.cpu.floor import COMPILER
from bench.lab.cli import EXIT_FAILED, EXIT_GOOD, EXIT_VIOLATED, BenchFailed, Program
from bench.lab.process import signals_held
from libnet.errors import NetError

PROGRAM: Final = Program(f"python -m {compare.__name__}")
OURS: Final = "tradechat"
OTHERS: Final = ("floor", "redis", "postgresql", "nats")
TRANSFERS: Final = "transfers"
FANOUT: Final = "fan-out"
_FAILURES: Final = (BenchFailed, NetError, OSError)

_ABOUT: Final = """\
Compare tradechat with Redis and PostgreSQL in transfers of money, and with Redis pub/sub and NATS
in messages to a room; in transfers also with the floor, a server in C that does the least that can
be done. All servers are started for it, on the loopback interface and in temporary directories, are
loaded by turns, and are ended. What is not installed is named and left out.
"""
_CODES: Final = """\
exit codes: 0 all that is installed was compared, 1 a server or a load failed (it is left out from
then on), 2 wrong usage, 3 nothing to compare with is installed; 130 interrupted, 143 terminated,
with a table of what was done
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A server under a workload."""

    group: str  # TRANSFERS or FANOUT: what runs by turns
    workload: str
    kind: str  # OURS or one of OTHERS
    server: str  # with how it is set
    needs: Sequence[tuple[str, str]]  # programs and their apt packages
    make: Callable[[argparse.Namespace], Contender]


def _ours(durability: str) -> Callable[[argparse.Namespace], Contender]:
    return lambda o: tradechat.Transfers(durability, o.workers, o.connections, o.accounts, o.seed)


_REDIS: Final = (redis.SERVER, redis.BENCHMARK)
_POSTGRES: Final = (("postgres", postgres.PACKAGE), ("pgbench", postgres.PACKAGE))
_MEMORY: Final = "transfer, in memory"
_DISK: Final = "transfer, on disk"
_ROOM: Final = "delivery in a room"
ENTRIES: Final = (
    Entry(
        TRANSFERS, _MEMORY, "floor", "C floor", (COMPILER,),
        lambda o: tradechat.FloorTransfers(o.workers, o.connections, o.accounts, o.seed),
    ),
    Entry(TRANSFERS, _MEMORY, OURS, "tradechat, durability none", (), _ours("none")),
    Entry(
        TRANSFERS, _MEMORY, "redis", "Redis, no persistence", _REDIS,
        lambda o: redis.Transfers("none", o.connections, o.accounts),
    ),
    Entry(
        TRANSFERS, _MEMORY, "redis", "Redis, no persistence, bare", _REDIS,
        lambda o: redis.Transfers("none", o.connections, o.accounts, redis.BARE),
    ),
    Entry(
        TRANSFERS, _MEMORY, "postgresql", "PostgreSQL, fsync off", _POSTGRES,
        lambda o: postgres.Transfers("off", o.connections, o.accounts),
    ),
    Entry(TRANSFERS, _DISK, OURS, "tradechat, durability sync", (), _ours("sync")),
    Entry(
        TRANSFERS, _DISK, "redis", "Redis, appendfsync always", _REDIS,
        lambda o: redis.Transfers("always", o.connections, o.accounts),
    ),
    Entry(
        TRANSFERS, _DISK, "redis", "Redis, appendfsync always, bare", _REDIS,
        lambda o: redis.Transfers("always", o.connections, o.accounts, redis.BARE),
    ),
    Entry(
        TRANSFERS, _DISK, "postgresql", "PostgreSQL, fsync on", _POSTGRES,
        lambda o: postgres.Transfers("on", o.connections, o.accounts),
    ),
    Entry(
        FANOUT, _ROOM, OURS, "tradechat, durability none", (),
        lambda o: Fanout(tradechat.Room("none", o.workers), o.members),
    ),
    Entry(
        FANOUT, _ROOM, OURS, "tradechat, history on disk", (),
        lambda o: Fanout(tradechat.Room("sync", o.workers), o.members),
    ),
    Entry(
        FANOUT, _ROOM, "redis", "Redis pub/sub", (redis.SERVER,),
        lambda o: Fanout(redis.PubSub(), o.members),
    ),
    Entry(
        FANOUT, _ROOM, "nats", "NATS", (nats.SERVER,),
        lambda o: Fanout(nats.Subject(), o.members),
    ),
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM.name,
        description=_ABOUT,
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--seconds", type=float, default=4.0, help="of each load, about (default 4)")
    add("--runs", type=int, default=5, help="of each load, by turns (default 5)")
    add(
        "--pipeline",
        type=int,
        nargs="+",
        default=[1, 16],
        metavar="N",
        help="requests in flight on each connection, or messages in flight (default 1 16)",
    )
    add("--connections", type=int, default=100, help="that transfer (default 100)")
    add("--accounts", type=int, default=1000, help="that are paid (default 1000)")
    add("--members", type=int, default=100, help="of the room (default 100)")
    add("--workers", type=int, default=2, help="of tradechat (default 2)")
    add("--seed", type=int, default=1, help="of what is random in tradechat's load (default 1)")
    add(
        "--workload",
        nargs="+",
        choices=(TRANSFERS, FANOUT),
        default=[TRANSFERS, FANOUT],
        help="what to compare (default both)",
    )
    add(
        "--server",
        nargs="+",
        choices=OTHERS,
        default=list(OTHERS),
        help="whom to compare with (default all)",
    )
    add("--json", action="store_true", help="one JSON object on standard output, not the table")
    add("--out", metavar="DIRECTORY", help="write compare.md and compare.csv there too")
    return made  # fmt: skip


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    made = parser()
    found = made.parse_args(words)
    if not 1 <= found.connections <= found.accounts or found.accounts < 2:
        made.error("--accounts must be at least 2, and not less than --connections")
    if not 0 < found.seconds <= 3600:
        made.error("--seconds must be above 0, and at most 3600")
    if min(*found.pipeline, found.runs, found.members, found.workers) < 1:
        made.error("--pipeline, --runs, --members and --workers must be at least 1")
    if max(found.pipeline) > 64:
        made.error("--pipeline must be at most 64, which is how far tradechat remembers outcomes")
    if found.out is not None:
        try:  # now, and not after ten minutes
            Path(found.out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            made.error(f"--out: {error}")
    return found


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def installed(options: argparse.Namespace) -> tuple[list[Entry], dict[str, str]]:
    """What there is to run, and the versions of what is compared. Names what is missing."""
    entries: list[Entry] = []
    versions: dict[str, str] = {}
    missing: dict[str, None] = {}
    for entry in ENTRIES:
        if entry.group not in options.workload or entry.kind not in (OURS, *options.server):
            continue
        try:
            found = [find(program, package) for program, package in entry.needs]
        except Missing as error:
            missing[str(error)] = None
            continue
        versions.update((Path(each).name, version(each)) for each in found)
        entries.append(entry)
    for text in missing:
        PROGRAM.warn(f"{text}; left out")
    compared = {entry.workload for entry in entries if entry.kind != OURS}
    return [entry for entry in entries if entry.workload in compared], versions


@contextmanager
def _running(entry: Entry, options: argparse.Namespace) -> Iterator[Contender]:
    """The server, ended in any case: an interrupt waits while it is started or ended."""
    with ExitStack() as undo:
        with signals_held():
            contender = entry.make(options)
            undo.callback(_end, contender)
        yield contender


def _end(contender: Contender) -> None:
    with signals_held():
        contender.close()


def measure(options: argparse.Namespace, entries: Sequence[Entry], rows: list[Row]) -> bool:
    """Add a row per load; False if one failed. Who fails is left out from then on."""
    good = True
    for group in options.workload:
        with ExitStack() as stack:
            running: dict[Entry, Contender] = {}
            for entry in entries:
                if entry.group != group:
                    continue
                _progress(f"{entry.server} is started")
                try:
                    running[entry] = stack.enter_context(_running(entry, options))
                except _FAILURES as error:
                    good = False
                    _failed(entry, error)
            for run in range(1, options.runs + 1):
                for in_flight in options.pipeline:
                    good &= _round(options, run, in_flight, running, rows)
    _progress("")
    return good


def _round(
    options: argparse.Namespace,
    run: int,
    in_flight: int,
    running: dict[Entry, Contender],
    rows: list[Row],
) -> bool:
    """Each once; another one is the first in each run."""
    good = True
    turn = list(running)
    first = run % len(turn) if turn else 0
    for entry in turn[first:] + turn[:first]:
        what = f"{entry.workload}, {in_flight} in flight: {entry.server}"
        _progress(f"run {run}/{options.runs}, {what}")
        try:
            figures = running[entry].load(in_flight, options.seconds)
        except _FAILURES as error:
            good = False
            del running[entry]
            _failed(entry, error)
            continue
        base = next(e for e in ENTRIES if (e.workload, e.kind) == (entry.workload, OURS))
        rows.append(Row(run, entry.workload, in_flight, entry.server, base.server, figures))
    return good


def _failed(entry: Entry, error: Exception) -> None:
    _progress("")
    PROGRAM.warn(f"{entry.server} ({entry.workload}): {error}; left out from now on")


def _in_order(rows: list[Row]) -> list[Row]:
    """By workload, in flight and server, as ENTRIES has them; they were taken by turns."""
    places = {(entry.workload, entry.server): n for n, entry in enumerate(ENTRIES)}
    workloads = list(dict.fromkeys(entry.workload for entry in ENTRIES))
    return sorted(
        rows,
        key=lambda r: (
            workloads.index(r.workload), r.in_flight, places[r.workload, r.server], r.run,
        ),
    )  # fmt: skip


def _as_json(options: argparse.Namespace, head: str, rows: Sequence[Row]) -> str:
    def plain(value: Any) -> Any:
        return asdict(value) if isinstance(value, Spread) else value

    found = {
        "options": vars(options),
        "setting": dict(line[2:].split(": ", 1) for line in head.splitlines()),
        "runs": [as_object(row) for row in rows],
        "summary": [{name: plain(value) for name, value in one.items()} for one in summary(rows)],
    }
    return json.dumps(found)


def main(words: Sequence[str] | None = None) -> int:
    """Answers the exit code."""
    options = _options(words)
    return PROGRAM.run(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    """Answers the exit code; an interrupt ends the measuring, and what was done is told."""
    rows: list[Row] = []
    entries, versions = installed(options)
    if not entries:
        PROGRAM.warn("there is nothing to compare with")
        return EXIT_FAILED
    head = heading(
        f"{options.runs} runs of {options.seconds:g} s; {options.connections} connections, "
        f"{options.accounts} accounts; a room of {options.members}, messages of {PAYLOAD} B; "
        f"tradechat with {options.workers} workers",
        versions,
    )
    try:
        code = EXIT_GOOD if measure(options, entries, rows) else EXIT_VIOLATED
    except KeyboardInterrupt:
        _progress("")
        code = PROGRAM.code
    rows = _in_order(rows)
    if rows:
        PROGRAM.tell(_as_json(options, head, rows) if options.json else f"{head}\n\n{table(rows)}")
    if rows and options.out is not None:
        out = Path(options.out)
        (out / "compare.md").write_text(document(head, rows))
        with (out / "compare.csv").open("w", newline="") as file:
            write_csv(file, rows)
    return code


if __name__ == "__main__":
    sys.exit(main())
