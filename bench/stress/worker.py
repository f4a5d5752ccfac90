"""A load process: `python -m bench.stress.worker`, started and told what to do by `fleet`.

It is told in lines of JSON on standard input, and answers in lines of JSON on standard output; what
is large goes through files of a directory that the leader names. It ends at the end of its input.
"""

import json
import os
import resource
import signal
import socket
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from bench.lab.caller import CallFailed
from bench.stress.connection import Member
from bench.stress.lines import Lines, Told, say
from bench.stress.load import Begin, Load
from bench.stress.notes import ANSWER, now
from bench.stress.options import Options
from bench.stress.outcomes import of_boards, of_rooms
from bench.stress.record import VIEW, Cell, Span, View, sorted_records
from bench.stress.rooms import Rooms, Seen
from bench.stress.users import caller_of
from libproto.messages import LIST_MAX, Opcode, Transaction

STDIN: Final = 0
STDOUT: Final = 1
POLL_S: Final = 0.05
TELL_S: Final = 0.5
SETTLE_S: Final = 30.0
"""How long users may take to log in, and what is unanswered at the end to be answered."""
TEXTS_MAX: Final = 20
_SWITCH_S: Final = 0.001
"""How long a thread may keep the others waiting: less than Python's 5 ms, which would be measured
as latency. Compiled, it lets them go on whenever it looks for what has come."""


class Failed(Exception):
    """The load cannot be made."""


class Process:
    """All threads of this process."""

    def __init__(self, leader: Lines, config: Told) -> None:
        self._leader = leader
        self.options = Options.from_object(config["options"])
        self._place = config["place"]
        self._users: list[int] = config["users"]
        self._names: str = config["names"]
        family, address = config["address"]
        members = [Member(*each) for each in config["members"]]
        places = config["threads"]
        self.loads = [
            Load(
                self.options,
                place,
                (socket.AddressFamily(family), tuple(address)),
                self._users,
                members[number :: len(places)],
            )
            for number, place in enumerate(places)
        ]
        self._span = Span(float("inf"), float("inf"))
        self._patience_s = 0.0

    def run(self) -> None:
        """Until the end of input. Failed."""
        for load in self.loads:
            load.start()
        try:
            if left := self._until_settled(SETTLE_S):
                raise Failed(left)
            say(STDOUT, ready=True)
            while True:
                command = self._leader.next(POLL_S)
                self._check()
                if command is None:
                    continue
                if "start" in command:
                    self._run_once(command)
                elif "spool" in command:
                    say(STDOUT, collected=self._collect(command))
        except EOFError:
            return
        finally:
            for load in self.loads:
                load.tell("end")
            for load in self.loads:
                load.join()

    def _check(self) -> None:
        for load in self.loads:
            if load.error is not None:
                raise load.error

    def _until(self, left: Callable[[Load], str], seconds: float) -> str:
        """Wait until nothing is left; else, what."""
        deadline = now() + seconds
        while True:
            self._check()
            found = next((text for load in self.loads if (text := left(load))), "")
            if not found or now() > deadline:
                return found
            time.sleep(POLL_S / 5)

    def _until_settled(self, seconds: float) -> str:
        return self._until(Load.unsettled, seconds)

    # ---- a run

    def _run_once(self, command: Told) -> None:
        span = self._span = Span(command["start"], command["end"])
        self._patience_s = SETTLE_S + self.options.timeout
        first_seqs = {int(room): seq for room, seq in command["first_seqs"].items()}
        for load in self.loads:
            load.tell(Begin(span, first_seqs))
        cpu = self._wait_until(lambda: span.start)
        cpu_at_end = self._wait_until(lambda: span.end)
        for load in self.loads:
            load.tell("drain")
        left = self._until_settled(self._patience_s)
        cpu_s = [cpu_at_end.user - cpu.user, cpu_at_end.system - cpu.system]
        say(STDOUT, quiet=True, left=left, cpu=cpu_s)

    def _wait_until(self, moment: Callable[[], float]) -> os.times_result:
        """The CPU time then. The moment comes earlier where the leader stops the run."""
        told = 0.0
        while (left := moment() - now()) > 0:
            command = self._leader.next(min(POLL_S, left))
            self._check()
            if command is not None and "stop" in command:
                # A run that is stopped before it is measured is measured for no time at all.
                self._span.end = command["stop"]
                self._span.start = min(self._span.start, self._span.end)
                if not command["served"]:
                    self._patience_s = 0.0
            if now() - told > TELL_S:
                told = now()
                recorders = [load.recorder for load in self.loads]
                done = sum(each.succeeded for each in recorders)
                say(STDOUT, progress=[done, sum(each.failed for each in recorders)])
        return os.times()

    # ---- the end of a run

    def _collect(self, command: Told) -> dict[str, Any]:
        """Wait for the events that are still on their way, read what the server has, and write all
        of it down for the leader."""
        last_seqs = {int(room): seq for room, seq in command["last_seqs"].items()}
        unfinished = []
        if left := self._until(lambda load: load.behind(last_seqs), SETTLE_S):
            unfinished.append(left)
        spool = Path(command["spool"])
        answers = bytearray()
        for load in self.loads:
            answers += load.trail.answers
        (spool / f"answers-{self._place}").write_bytes(sorted_records(answers, ANSWER))
        views, oldest = bytearray(), 1 << 64
        finals: list[list[int]] = []
        try:
            views, finals, oldest = self._read_ledger(command["base"])
        except (CallFailed, OSError) as error:
            unfinished.append(f"the accounts cannot be read at the end: {error}")
        (spool / f"views-{self._place}").write_bytes(sorted_records(views, VIEW))
        for load in self.loads:
            for each in load.everybody:
                waiting = each.unanswered().values()
                for room in of_rooms(waiting):
                    load.rooms.not_told(room)
                for opcode, fields in of_boards(waiting):
                    load.market.not_told(opcode, fields)
        rooms = [load.rooms for load in self.loads]
        problems = [problem for room in rooms for problem in room.problems]
        trails = [load.trail for load in self.loads]
        unexpected = [text for trail in trails for text in trail.unexpected]
        unknown = [each for trail in trails for each in trail.unknown]
        for load in self.loads:
            for each in load.everybody:
                unknown += each.outcomes.unknown(each.unanswered())
        found = {
            "finals": finals,
            "oldest": oldest,
            "refusals": [each for trail in trails for each in trail.refusals],
            "unknown": unknown,
            "unexpected": [len(unexpected), unexpected[:TEXTS_MAX]],
            "unfinished": unfinished,
            "problems": [Counter(check for check, _ in problems), problems[:TEXTS_MAX]],
            "events": sum(each.events for each in rooms),
            "gaps": sum(each.gaps for each in rooms),
            "missed_in_gaps": sum(each.missed_in_gaps for each in rooms),
            "missed_unconnected": sum(each.missed_unconnected for each in rooms),
            "reconnects": sum(each.reconnects for load in self.loads for each in load.everybody),
            "moves": sum(each.moves for load in self.loads for each in load.everybody),
            "boards": self._write_boards(spool / f"boards-{self._place}"),
            "rooms": self._write_rooms(rooms, spool / f"rooms-{self._place}"),
            **self._write_figures(spool / f"figures-{self._place}"),
        }
        for load in self.loads:
            load.forget()
        return found

    def _read_ledger(self, base: int) -> tuple[bytearray, list[list[int]], int]:
        """Of this process's part of all accounts: TXN_HISTORY after `base` as VIEWs, BALANCE and
        last_txn_id, and the least txn_id that could be read."""
        views, oldest = bytearray(), 1 << 64
        finals: list[list[int]] = []
        places = range(self._place, len(self._users), self.options.processes)
        with closing(caller_of(self.options)) as caller:
            for place in places:
                user = self._users[place]
                caller.login(f"{self._names}{place}", 0)
                finals.append([user, *caller.call(Opcode.BALANCE)])
                before = 0
                while True:
                    _, page = caller.call(Opcode.TXN_HISTORY, before, LIST_MAX)
                    for transaction in map(Transaction._make, page):
                        if transaction.txn_id > base:
                            views += VIEW.pack(*_view(user, transaction))
                    if page:
                        before = page[-1].txn_id
                        oldest = min(oldest, before)
                    if not page or before <= base:
                        break
                caller.call(Opcode.LOGOUT)
        return views, finals, oldest

    def _write_boards(self, path: Path) -> bool:
        """What was told of boards. False: there was none."""
        told = [load.market.as_object() for load in self.loads]
        path.write_text(json.dumps(told))
        return any(any(each.values()) for each in told)

    @staticmethod
    def _write_rooms(rooms: list[Rooms], path: Path) -> list[list[int]]:
        """What was seen, put together; for each room its first number and how many follow, under
        how many numbers threads saw different events, and how many messages are unknown."""
        index = []
        with path.open("wb") as file:
            for room in rooms[0].seen:
                whole = Seen(rooms[0].seen[room].first)
                differing = [seq for each in rooms for seq in whole.add(each.seen[room])]
                index.append([room, whole.first, whole.count, len(differing), whole.unknown])
                for column in whole.columns():
                    column[: whole.count].tofile(file)
        return index

    def _write_figures(self, path: Path) -> dict[str, Any]:
        """Latencies to the file, with what is where; and the counts."""
        index: list[tuple[int, int, int, int]] = []
        errors: Counter[tuple[int, int, str]] = Counter()
        late: Counter[Cell] = Counter()
        dropped: Counter[int] = Counter()
        details: Counter[str] = Counter()
        with path.open("wb") as file:
            for load in self.loads:
                recorder = load.recorder
                for cell, latencies in recorder.latencies.items():
                    services = recorder.services.get(cell, array("I"))
                    index.append((*cell, len(latencies), len(services)))
                    latencies.tofile(file)
                    services.tofile(file)
                errors += recorder.errors
                late += recorder.late
                dropped += recorder.dropped
                details += recorder.details
        return {
            "latencies": index,
            "errors": [[*key, value] for key, value in errors.items()],
            "late": [[*key, value] for key, value in late.items()],
            "dropped": list(dropped.items()),
            "details": details,
        }


def _view(user: int, transaction: Transaction) -> View:
    txn_id, _, kind, from_user, to_user, amount, balance, req_id = transaction
    return View(txn_id, user, kind, from_user, to_user, amount, balance, req_id)


def main() -> None:
    # The leader is told of Ctrl-C, and ends this process by the end of its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(_SWITCH_S)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    leader = Lines(STDIN)
    try:
        config = leader.next(SETTLE_S)
        if config is not None:
            Process(leader, config).run()
    except (Failed, CallFailed, OSError) as error:
        say(STDOUT, failed=str(error))


if __name__ == "__main__":
    main()
