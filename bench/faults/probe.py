"""How long a worker lets its clients wait: a connection with a request every few milliseconds.

It has one to each of two workers, so that there is always one whose neighbour is killed, and the
measuring stays small beside the load.

A process of its own (`python -m bench.faults.probe`), so that it waits for the server and not for
the load. It is told on standard input, in a line of JSON, whom to ask; at the end of its standard
input it writes what it has measured to its standard output. The request is a BALANCE, every
millisecond: it takes a lock, so it is held up by a recovery as a transfer is. Where it is the
journal that is missing, it is a DEPOSIT, less often: its answer waits until it is durable.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from bench.lab.process import signals_held, workers_of
from bench.lab.wire import Answer, Lost, Refused, Wire
from libproto.messages import Opcode

EVERY_S: Final = 0.001
DEPOSIT_EVERY_S: Final = 0.004
WORKERS: Final = 2
LOOK_S: Final = 0.05  # how often a worker without a connection is looked for
LOGIN_S: Final = 5.0
END_S: Final = 20.0
PAUSE_MAX_S: Final = 2.0  # after a fault; a wait that begins later has another cause
_TRIES: Final = 4  # connections in one look, until the kernel picks the worker that is wanted


class Sample(NamedTuple):
    """One request: when it was sent (monotonic), how long it waited (both s), of which worker."""

    sent: float
    waited: float
    worker: int


class Fault(NamedTuple):
    """Something done to a process."""

    time: float  # monotonic, s
    worker: int  # process id; of another process than a worker, too


def pauses(faults: Iterable[Fault], samples: list[Sample]) -> list[float]:
    """For each fault, the longest wait at another worker that overlaps the time until the next
    fault; faults that nobody measured have none."""
    ordered = sorted(faults)
    ends = [fault.time for fault in ordered[1:]] + [float("inf")]
    samples = sorted(samples)
    found, first = [], 0
    longest = max((sample.waited for sample in samples), default=0.0)
    for fault, following in zip(ordered, ends, strict=True):
        end = min(following, fault.time + PAUSE_MAX_S)
        while first < len(samples) and samples[first].sent < fault.time - longest:
            first += 1
        waits = []
        for sample in samples[first:]:
            if sample.sent >= end:
                break
            if sample.worker != fault.worker and sample.sent + sample.waited > fault.time:
                waits.append(sample.waited)
        if waits:
            found.append(max(waits))
    return found


# ---- the process that asks


def _holder(sock: Any, workers: list[int]) -> int:
    """Which of these processes has the other end of a loopback connection; 0: none of them."""
    port, peer = f":{sock.getsockname()[1]:04X}", f":{sock.getpeername()[1]:04X}"
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines():
            if port in line and peer in line:
                fields = line.split()
                if fields[1].endswith(peer) and fields[2].endswith(port):
                    return _owner(f"socket:[{fields[9]}]", workers)
    return 0


def _owner(target: str, workers: list[int]) -> int:
    for worker in workers:
        folder = f"/proc/{worker}/fd"
        try:
            if any(os.readlink(f"{folder}/{fd}") == target for fd in os.listdir(folder)):
                return worker
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended, or closed that one
    return 0


class _Prober:
    def __init__(self, host: str, port: int, master: int, *, deposits: bool) -> None:
        self._address, self._master = (host, port), master
        self._deposits = deposits
        self._every_s = DEPOSIT_EVERY_S if deposits else EVERY_S
        self._user = f"p{os.urandom(4).hex()}"
        self._wires: dict[int, Wire] = {}  # by the worker's pid
        self._samples: list[Sample] = []
        self._loop = asyncio.get_running_loop()

    async def run(self) -> list[Sample]:
        """Until the end of standard input."""
        wire = await self._open()
        await wire.register([self._user])
        wire.cut(reset=False)
        ended = asyncio.Event()
        self._loop.add_reader(sys.stdin.fileno(), ended.set)
        looking = self._loop.create_task(self._look())
        self._loop.call_soon(self._ask, self._loop.time())
        await ended.wait()
        looking.cancel()
        now = time.monotonic()
        for worker, wire in self._wires.items():
            for request in wire.pending.values():
                self._samples.append(Sample(request.sent, now - request.sent, worker))
            wire.cut(reset=False)
        return self._samples

    async def _open(self) -> Wire:
        return await Wire.open(*self._address, lambda *_: None, lambda _: None)

    def _ask(self, due: float) -> None:
        """All at once, every so often; what was due while this process slept is not made up
        for."""
        for worker, wire in self._wires.items():
            sent = time.monotonic()

            def settle(_: Answer, sent: float = sent, worker: int = worker) -> None:
                self._samples.append(Sample(sent, time.monotonic() - sent, worker))

            if wire.closed.is_set() or wire.leaving:
                continue
            if self._deposits:  # as no client: nobody remembers its req_ids
                wire.ask(Opcode.DEPOSIT, 1, settle=settle)
            else:
                wire.ask(Opcode.BALANCE, settle=settle)
        due = max(due + self._every_s, self._loop.time())
        self._loop.call_at(due, self._ask, due)

    async def _look(self) -> None:
        """Have a connection to each of WORKERS workers, or of all where there are fewer."""
        while True:
            for worker, wire in tuple(self._wires.items()):
                if wire.left.is_set():
                    wire.cut(reset=False)  # a worker that is replaced waits for it
                    del self._wires[worker]
            for _ in range(_TRIES):
                others = set(workers_of(self._master)) - self._wires.keys()
                if len(self._wires) >= WORKERS or not others:
                    break
                try:
                    async with asyncio.timeout(LOGIN_S):
                        await self._connect()
                except (OSError, Lost, Refused, TimeoutError):
                    break  # it was killed just then
            await asyncio.sleep(LOOK_S)

    async def _connect(self) -> None:
        wire = await self._open()
        await wire.login(self._user, 0, 1)
        sock = wire.transport.get_extra_info("socket")
        wanted = [pid for pid in workers_of(self._master) if pid not in self._wires]
        worker = _holder(sock, wanted)
        if worker:
            self._wires[worker] = wire
        else:
            wire.cut(reset=False)


async def _main() -> None:
    try:
        samples = await _Prober(**json.loads(sys.stdin.buffer.readline())).run()
    except (OSError, Lost, Refused) as error:
        sys.exit(f"waits are not measured: {error or 'the connection was lost'}")
    sys.stdout.write(json.dumps(samples))


class Probe:
    """The process, seen from the script that starts it."""

    def __init__(self, host: str, port: int, master: int, *, deposits: bool = False) -> None:
        """deposits: what it asks for changes something."""
        command = [sys.executable, "-m", __spec__.name]
        asked = json.dumps({"host": host, "port": port, "master": master, "deposits": deposits})
        with signals_held():
            # In a process group of its own: Ctrl-C is for us, and the end of its input ends it.
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,
            )
            assert self._process.stdin is not None
            self._process.stdin.write(f"{asked}\n")
            self._process.stdin.flush()

    def finish(self) -> list[Sample]:
        """End it; what it has measured (nothing if it failed, which it has said by itself)."""
        try:
            told, _ = self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            told, _ = self._process.communicate()
        return [Sample._make(each) for each in json.loads(told)] if told else []


if __name__ == "__main__":
    gc.disable()  # a collection would be measured as a pause of the server
    uvloop.run(_main())
