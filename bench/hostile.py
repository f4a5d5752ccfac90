"""`tradechat-bench hostile`: honest users beside a thousand connections of people who mean harm.

One server with the limits that are on beyond loopback. Honest traders and chatters, from one
address, are timed alone, and then beside attackers from four others, all kinds at once: garbage;
handshakes and frames that never end; floods of HELLO and REGISTER; members who ask for histories as
fast as they are answered; members who ask and never read. It tells what honest users waited, what
they were refused, the memory of the server, and how much of its CPU time the defence took.

The verdict: no honest request was refused, and the 99th percentile of what they waited is at most
`--factor` times that without attackers.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing, suppress
from multiprocessing.synchronize import Event
from typing import Final, NamedTuple

from bench.lab.caller import Caller
from bench.lab.cli import EXIT_GOOD, EXIT_VIOLATED, BenchFailed, Program, number
from bench.lab.figures import aligned
from bench.lab.process import family_of, memory_of
from bench.lab.target import Server
from libcli.arguments import Parser
from libproto.codec import REQUEST
from libproto.errors import Status
from libproto.messages import HEADER_LEN, Opcode

PROGRAM: Final = Program("tradechat-bench hostile")
_HOST: Final = "127.0.0.1"
_ADDRESSES: Final = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
_ROOM: Final = 1
_TRADE_S: Final = 0.25
_CHAT_S: Final = 0.5
_FLAGS: Final = (
    "--max-connections=1200", "--sessions=2400", "--address-connections=256", "--rate-limit=1000",
    "--user-rate=2000", "--address-rate=5000", "--chat-rate=10", "--payment-rate=10",
    "--registrations=600", "--address-registrations=500", "--user-sessions=64",
    "--handshake-timeout=5",
)  # fmt: skip
_GREETING: Final = REQUEST[Opcode.HELLO].frame(1, 0, 0, "hostile", "", bytes(16), b"")
_SETTLE_S: Final = 2.0


class Waited(NamedTuple):
    """What honest users saw in one phase: seconds waited by answered requests, and statuses of
    those that were refused."""

    seconds: list[float]
    refused: list[int]


class _Honest(Caller):
    """One honest user: it asks at its own times, and is timed."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(_HOST, port)
        self.user = self.login(name, random.getrandbits(63) | 1).user_id
        self.call(Opcode.DEPOSIT, 1_000_000)
        self.call(Opcode.JOIN_ROOM, _ROOM)

    def ask(self, waited: Waited, opcode: Opcode, *fields: object) -> None:
        began = time.monotonic()
        status = self._answer(opcode, fields)[3]
        if status == Status.OK:
            waited.seconds.append(time.monotonic() - began)
        else:
            waited.refused.append(status)


class _Crowd:
    """All honest users, each in a thread of its own."""

    def __init__(self, users: Sequence[_Honest], chatters: int) -> None:
        self._users, self._chatters = users, chatters

    def work(self, seconds: float) -> Waited:
        """Trade and chat for so long. CallFailed where one of them is thrown out."""
        waited, failed = Waited([], []), list[Exception]()
        deadline = time.monotonic() + seconds

        def live(place: int, user: _Honest) -> None:
            chats = place < self._chatters
            every = _CHAT_S if chats else _TRADE_S
            payee = self._users[place - 1].user
            at = time.monotonic() + random.uniform(0, every)  # noqa: S311 - only to be apart
            try:
                while at < deadline:
                    time.sleep(max(0.0, at - time.monotonic()))
                    if chats:
                        user.ask(waited, Opcode.CHAT_SEND, _ROOM, f"message of {place}")
                    else:
                        user.ask(waited, Opcode.TRANSFER, payee, 1)
                    at += every
            except Exception as error:  # noqa: BLE001 - it is raised where all are waited for
                failed.append(error)

        threads = [
            threading.Thread(target=live, args=each, daemon=True) for each in enumerate(self._users)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        return waited


# ---- those who mean harm, in a process of their own


class _Attack(NamedTuple):
    port: int
    address: str  # that it comes from
    number: int  # of all attackers


Action = Callable[[_Attack, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _garbage(_: _Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(os.urandom(4096))
    await reader.read()


async def _slowly(_: _Attack, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in _GREETING:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.5)


async def _greets(_: _Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not reader.at_eof():
        writer.write(_GREETING * 50)
        await writer.drain()
        await reader.read(1 << 16)


async def _registers(
    attack: _Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    made = REQUEST[Opcode.REGISTER].frame
    writer.write(_GREETING)
    for count in range(10**6):
        name = f"f{attack.number}-{count}-{random.getrandbits(32):x}"
        writer.write(made(count + 2, 0, name, bytes(16), 4096, bytes(32), bytes(32)))
        await writer.drain()
        if not await reader.read(1 << 16):
            return


async def _asks(_: _Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    transactions = REQUEST[Opcode.TXN_HISTORY].frame
    histories = REQUEST[Opcode.ROOM_HISTORY].frame
    for count in range(10**6):
        writer.write(transactions(2 * count + 1000, 0, random.getrandbits(20), 256))
        writer.write(histories(2 * count + 1001, 0, _ROOM, 0, 256))
        await writer.drain()
        for _answer in range(2):
            head = await reader.readexactly(HEADER_LEN)
            await reader.readexactly(int.from_bytes(head[6:10], "big"))


async def _never_reads(_: _Attack, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    histories = REQUEST[Opcode.ROOM_HISTORY].frame
    for count in range(10**6):
        writer.write(histories(count + 1000, 0, _ROOM, 0, 256))
        await writer.drain()


_OUTSIDE: Final[dict[str, tuple[Action, int]]] = {
    "garbage": (_garbage, 200),
    "slow": (_slowly, 200),
    "HELLO": (_greets, 200),
    "REGISTER": (_registers, 100),
}
_INSIDE: Final[dict[str, tuple[Action, int]]] = {
    "histories": (_asks, 200),
    "never read": (_never_reads, 100),
}
_ALL: Final = 1000


def members(attackers: int) -> int:
    """How many of so many attackers have an account."""
    return sum(count * attackers // _ALL for _, count in _INSIDE.values())


async def _outside(attack: _Attack, action: Action) -> None:
    """Connect and do it, again and again."""
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(
                _HOST, attack.port, local_addr=(attack.address, 0)
            )
            try:
                await action(attack, reader, writer)
            finally:
                writer.close()
        await asyncio.sleep(0.2)


async def _inside(attack: _Attack, action: Action, caller: Caller) -> None:
    """Do it on a connection that is logged in, and stay silent when that has ended."""
    with suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection(sock=caller.sock, limit=1 << 17)
        if action is _never_reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined] # it is a socket's
        await action(attack, reader, writer)
    await asyncio.sleep(3600)


def _attack(port: int, attackers: int, names: Sequence[str], ready: Event) -> None:
    """So many attackers, until they are ended. They get what CPU time is left over."""
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, signal.SIG_DFL)
    os.nice(19)

    async def main() -> None:
        tasks, place = [], 0
        accounts = iter(names)
        for action, count in _INSIDE.values():
            for _ in range(count * attackers // _ALL):
                caller = Caller(_HOST, port, source=_ADDRESSES[place % len(_ADDRESSES)])
                caller.login(next(accounts), 0)
                caller.call(Opcode.JOIN_ROOM, _ROOM)
                caller.sock.setblocking(False)
                attack = _Attack(port, "", place)
                tasks.append(asyncio.create_task(_inside(attack, action, caller)))
                place += 1
        for action, count in _OUTSIDE.values():
            for _ in range(count * attackers // _ALL):
                attack = _Attack(port, _ADDRESSES[place % len(_ADDRESSES)], place)
                tasks.append(asyncio.create_task(_outside(attack, action)))
                place += 1
        ready.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


# ---- the measurement


class Phase(NamedTuple):
    """Honest users for a time: what they waited, and what the server took."""

    waited: Waited
    seconds: float
    cpu_s: float
    memory: int  # bytes of all its processes at the end, their own

    def quantile_ms(self, part: float) -> float:
        """Of what answered requests waited."""
        ordered = sorted(self.waited.seconds)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1000 if ordered else 0.0


def _phase(server: Server, crowd: _Crowd, seconds: float) -> Phase:
    before, began = server.cpu(), time.monotonic()
    waited = crowd.work(seconds)
    spent = sum(server.cpu().since(before))
    memory = memory_of(family_of(server.pid)).uss
    return Phase(waited, time.monotonic() - began, spent, memory)


def _people(port: int, prefix: str, count: int) -> list[str]:
    names = [f"{prefix}{place}" for place in range(count)]
    with closing(Caller(_HOST, port)) as registrar:
        registrar.register(names)
    return names


def measure(options: argparse.Namespace) -> tuple[Phase, Phase]:
    """Honest users alone, and beside the attackers. BenchFailed."""
    with ExitStack() as stack:
        server = stack.enter_context(Server(*_FLAGS))
        count = options.traders + options.chatters
        honest = [
            stack.enter_context(closing(_Honest(server.port, name)))
            for name in _people(server.port, "honest", count)
        ]
        crowd = _Crowd(honest, options.chatters)
        crowd.work(_SETTLE_S)
        alone = _phase(server, crowd, options.seconds)
        names = _people(server.port, "hostile", members(options.attackers))
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        attackers = context.Process(
            target=_attack,
            args=(server.port, options.attackers, names, ready),
            daemon=True,
        )
        attackers.start()
        stack.callback(attackers.join)
        stack.callback(attackers.terminate)
        deadline = time.monotonic() + options.begin_s
        while not ready.wait(0.1):
            if not attackers.is_alive() or time.monotonic() > deadline:
                raise BenchFailed("the attackers have not begun: the machine is too busy")
        crowd.work(_SETTLE_S)
        beside = _phase(server, crowd, options.seconds)
        if not attackers.is_alive():
            raise BenchFailed("the attackers have ended by themselves")
    return alone, beside


def table(alone: Phase, beside: Phase) -> str:
    """Both phases, side by side."""
    lines = [["", "alone", "beside attackers"]]
    for part in (0.5, 0.95, 0.99):
        ms = [f"{phase.quantile_ms(part):.1f}" for phase in (alone, beside)]
        lines.append([f"waited p{part * 100:g} ms", *ms])
    both = alone, beside
    lines.append(["honest answered", *(str(len(phase.waited.seconds)) for phase in both)])
    lines.append(["honest refused", *(str(len(phase.waited.refused)) for phase in both)])
    lines.append(["server CPU, cores", *(f"{phase.cpu_s / phase.seconds:.2f}" for phase in both)])
    lines.append(["server memory MiB", *(f"{phase.memory / (1 << 20):.0f}" for phase in both)])
    return aligned(lines, 1)


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM.name,
        description="Time honest users beside a thousand hostile connections.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--traders", type=number(1, 500), default=50)
    made.add_argument("--chatters", type=number(1, 500), default=20)
    made.add_argument("--attackers", type=number(10, 1000), default=_ALL, help="connections")
    made.add_argument("--seconds", type=number(1, 3600), default=20, help="of each phase")
    made.add_argument("--begin-s", type=number(1, 3600), default=120,
                      help="the longest that the attackers may take to begin")  # fmt: skip
    made.add_argument("--factor", type=number(1, 1000, float), default=3.0,
                      help="the most that the 99th percentile may grow by")  # fmt: skip
    made.add_argument("--json", action="store_true", help="one JSON object")
    return made


def main(words: list[str]) -> int:
    """words: after `hostile`. Answers the exit code."""
    options = parser().parse_args(words)

    def body() -> int:
        alone, beside = measure(options)
        refused = len(alone.waited.refused) + len(beside.waited.refused)
        ratio = beside.quantile_ms(0.99) / max(alone.quantile_ms(0.99), 0.001)
        good = not refused and ratio <= options.factor
        if options.json:
            row: dict[str, object] = {"p99_ratio": round(ratio, 2), "good": good}
            for name, phase in (("alone", alone), ("beside", beside)):
                row |= {
                    f"{name}_p50_ms": round(phase.quantile_ms(0.5), 2),
                    f"{name}_p99_ms": round(phase.quantile_ms(0.99), 2),
                    f"{name}_answered": len(phase.waited.seconds),
                    f"{name}_refused": len(phase.waited.refused),
                    f"{name}_cpu_cores": round(phase.cpu_s / phase.seconds, 2),
                    f"{name}_memory_bytes": phase.memory,
                }
            PROGRAM.tell_row(row)
        else:
            verdict = "good" if good else "VIOLATED"
            PROGRAM.tell_table(
                f"{table(alone, beside)}\n\n{verdict}: {refused} refused, p99 {ratio:.1f} x of "
                f"that alone, at most {options.factor:g} x"
            )
        return EXIT_GOOD if good else EXIT_VIOLATED

    return PROGRAM.run(body)
