"""The floor: what the machine, its kernel and uvloop cost, without any work of ours.

A server that answers each request of the generator with as many bytes as a TRANSFER is answered
with, and looks at none of them. Figures of two machines, or of two days, compare as multiples of
this.
"""

import asyncio
import os
import signal
import socket
from types import TracebackType
from typing import cast

import uvloop

from bench.lab.generator import ANSWER_SIZE, REQUEST_SIZE
from bench.lab.process import CpuTime, cpu_of
from libnet.sockets import listen, tune

_USER_TIMEOUT_MS = 30_000


class _Answering(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        requests, self._bytes = divmod(self._bytes + len(data), REQUEST_SIZE)
        if requests:
            self._transport.write(bytes(ANSWER_SIZE * requests))


async def _serve(listener: socket.socket) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.get_running_loop().create_server(_Answering, sock=listener)
    await stop.wait()


class Floor:
    """As many processes as the server has workers; ended by the end of the `with`."""

    def __init__(self, workers: int) -> None:
        first = listen("127.0.0.1", 0)
        self.port = first.getsockname()[1]
        listeners = [first, *(listen("127.0.0.1", self.port) for _ in range(workers - 1))]
        self._processes = []
        for listener in listeners:
            tune(listener, _USER_TIMEOUT_MS)
            pid = os.fork()
            if pid == 0:
                try:
                    uvloop.run(_serve(listener))
                finally:
                    os._exit(0)
            self._processes.append(pid)
        for listener in listeners:
            listener.close()

    def cpu(self) -> CpuTime:
        """What all its processes have used so far."""
        return cpu_of(self._processes)

    def __enter__(self) -> "Floor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pid in self._processes:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
