"""The floor: what a request costs on this machine at the least.

A server in C (floor.c) on the same kind of sockets as ours, that does no more of a TRANSFER than
has to be done, and says so at its top. Figures of two machines, or of two days, compare as
multiples of this. It is compiled each time, which takes less than a second.
"""

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.lab.cli import BenchFailed
from bench.lab.process import CpuTime, cpu_of_server, end, signals_held
from libnet.sockets import USER_TIMEOUT_MS, listen, tune
from libproto.errors import Status
from libproto.messages import HEADER_LEN, MAGIC, VERSION, Flag, Opcode

COMPILER: Final = ("cc", "gcc")
"""The program that is needed, and the apt package that has it."""
_SOURCE: Final = Path(__file__).with_suffix(".c")
_FLAGS: Final = ("-O2", "-std=gnu11", "-pthread")
_NUMBERS: Final = {
    "HEADER_LEN": HEADER_LEN,
    "MAGIC": MAGIC,
    "VERSION": VERSION,
    **{each.name: each.value for each in (Opcode.TRANSFER, Opcode.BALANCE, Opcode.HEARTBEAT)},
    **{each.name: each.value for each in (Status.ERR_NOT_FOUND, Status.ERR_INSUFFICIENT_FUNDS)},
    "RESPONSE": int(Flag.RESPONSE),
}
_COMPILE_S: Final = 60.0


class Floor:
    """As many processes as the server has workers; ended by the end of the `with`."""

    def __init__(self, compiler: str, workers: int, accounts: int) -> None:
        """compiler: its path. accounts: users 1 to this, each with funds; a connection is a user.
        BenchFailed where it cannot be compiled."""
        with ExitStack() as undo:
            directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="tradechat-bench-"))
            program = f"{directory}/floor"
            compile_floor(compiler, program)
            first = undo.enter_context(listen("127.0.0.1", 0))
            self.port = first.getsockname()[1]
            others = (listen("127.0.0.1", self.port) for _ in range(workers - 1))
            listeners = [first, *map(undo.enter_context, others)]
            for listener in listeners:
                tune(listener, USER_TIMEOUT_MS)  # inherited by what it accepts, as in the server
            numbers = [each.fileno() for each in listeners]
            with signals_held():
                self._process = subprocess.Popen(  # noqa: S603 - what was just compiled
                    [program, str(accounts), *map(str, numbers)],
                    pass_fds=numbers,
                    process_group=0,
                )

    def cpu(self) -> CpuTime:
        """What all its processes have used so far."""
        return cpu_of_server(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        end(self._process)


def compile_floor(compiler: str, program: str, *flags: str) -> None:
    """program: the path that it gets. flags: further ones of the compiler. BenchFailed."""
    macros = [f"-D{name}={value}" for name, value in _NUMBERS.items()]
    done = subprocess.run(  # noqa: S603 - the compiler that was found, and our own source
        [compiler, *_FLAGS, *flags, *macros, "-o", program, str(_SOURCE)],
        capture_output=True,
        text=True,
        timeout=_COMPILE_S,
        check=False,
    )
    if done.returncode:
        raise BenchFailed(f"the floor cannot be compiled: {done.stderr.strip()}")
