"""The load processes, as their leader sees them."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Self

from bench.lab.cli import BenchFailed
from bench.lab.process import signals_held
from bench.stress.lines import Lines, Told, anything, say
from bench.stress.options import Options
from bench.stress.worker import SETTLE_S

START_S: Final = 30.0
END_S: Final = 10.0
COLLECT_S: Final = 600.0
"""Reading what the server has may take long where there are many accounts and transactions."""
TICK_S: Final = 0.02


class FleetFailed(BenchFailed):
    """A load process has ended, or says that there can be no load."""


class Stop(NamedTuple):
    """The early end of a run: when, and whether there is still a server that answers."""

    at: float
    served: bool


class Fleet:
    """All load processes; they are ended by the end of the `with`."""

    def __init__(self, options: Options, names: str, users: list[int], slow: list[int]) -> None:
        """names: what the usernames begin with. users: the user_id of each account. slow: those
        of the slow members."""
        self._options = options
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lines: list[Lines] = []
        self.progress: dict[int, tuple[int, int]] = {}
        """By process, how many requests succeeded and failed so far in this run."""
        with signals_held():
            for _ in range(options.processes):
                # In a process group of its own: Ctrl-C is for us, and we end it.
                process = subprocess.Popen(  # noqa: S603 - our own program
                    [sys.executable, "-m", f"{__spec__.parent}.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    bufsize=0,
                    process_group=0,
                )
                assert process.stdout is not None
                self._processes.append(process)
                self._lines.append(Lines(process.stdout.fileno()))
        try:
            self._begin(names, users, slow)
        except BaseException:
            self.close()
            raise

    def _begin(self, names: str, users: list[int], slow: list[int]) -> None:
        options = self._options
        family, _, _, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM
        )[0]
        members = list(members_of(options, names, users, slow))
        for number in range(options.processes):
            self._say(
                number,
                options=options.as_object(),
                place=number,
                names=names,
                users=users,
                address=[family, address],
                threads=list(range(number, options.threads, options.processes)),
                members=members[number :: options.processes],
            )
        self._all("ready", START_S + SETTLE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they do."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        deadline = time.monotonic() + END_S
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass  # it is killed
            finally:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _say(self, number: int, /, **what: object) -> None:
        stdin = self._processes[number].stdin
        assert stdin is not None
        try:
            say(stdin.fileno(), **what)
        except BrokenPipeError as error:
            raise FleetFailed("a load process has ended") from error

    def _all(
        self, key: str, seconds: float, tick: Callable[[], float | None] = lambda: None
    ) -> list[Told]:
        """Wait until all processes have said this; what each said. `tick` is called all the time,
        and may set another deadline."""
        said: dict[int, Told] = {}
        deadline = time.monotonic() + seconds
        while len(said) < len(self._lines):
            moved = tick()
            deadline = deadline if moved is None else moved
            ready = anything(self._lines, TICK_S)
            # What was said before a pause of ours is read, however late it is.
            if not ready and time.monotonic() > deadline:
                raise FleetFailed(f"a load process is not {key} within {seconds:g} s")
            for lines in ready:
                place = self._lines.index(lines)
                try:
                    told = lines.next(0)
                except EOFError:
                    raise FleetFailed("a load process has ended") from None
                if told is None:
                    continue
                if "failed" in told:
                    raise FleetFailed(told["failed"])
                if "progress" in told:
                    self.progress[place] = told["progress"]
                if key in told:
                    said[place] = told
        return [said[place] for place in sorted(said)]

    def run(
        self,
        start: float,
        end: float,
        first_seqs: dict[int, int],
        tick: Callable[[], Stop | None],
    ) -> list[Told]:
        """One run, measured from `start` to `end`; what each process says when all is answered.
        `tick` is called all the time, and may end the run."""
        self.progress = {}
        for place in range(len(self._processes)):
            self._say(place, start=start, end=end, first_seqs=first_seqs)
        spare = 2 * SETTLE_S + self._options.timeout

        def and_stop() -> float | None:
            stop = tick()
            if stop is None:
                return None
            for place in range(len(self._processes)):
                self._say(place, stop=stop.at, served=stop.served)
            return time.monotonic() + spare

        return self._all("quiet", end - time.monotonic() + spare, and_stop)

    def collect(
        self, spool: str, base: int, last_seqs: dict[int, int], tick: Callable[[], None]
    ) -> list[Told]:
        """What each process has seen; large parts are in files below `spool`. base: the greatest
        txn_id before the run. `tick` is called all the time."""
        for place in range(len(self._processes)):
            self._say(place, spool=spool, base=base, last_seqs=last_seqs)
        return [told["collected"] for told in self._all("collected", COLLECT_S, tick)]


def members_of(
    options: Options, names: str, users: list[int], slow: list[int]
) -> Iterator[tuple[int, str, int, list[int], bool]]:
    """Who is connected, with the rooms of each: every room has `fanout` members that are not slow,
    and every one of these is in a room."""
    count = options.connections
    rooms: list[list[int]] = [[] for _ in range(count)]
    for room in range(options.rooms):
        for place in range(options.fanout):
            rooms[(room * options.fanout + place) % count].append(room + 1)
    for account in range(count):
        yield account, f"{names}{account}", users[account], rooms[account], False
    for number, user in enumerate(slow):
        account = len(users) + number
        yield account, f"{names}{account}", user, [number % options.rooms + 1], True
