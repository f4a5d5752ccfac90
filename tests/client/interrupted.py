"""A program into whose calls of the blocking client a signal handler raises, at any moment:
`python -m tests.client.interrupted SCENARIO`. It ends with 0 if what the scenario says holds.

A process of its own, as its timer, its handler and its hangs are.
"""

import faulthandler
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType

from client import Client, ConnectionLost
from client.errors import CallTimeout
from libproto.messages import Opcode, RoomGap
from tests.client.peer import (
    PASSWORD,
    USERNAME,
    WAIT_S,
    Wire,
    answer,
    open_descriptors,
    push,
    serving,
)

HANG_S = 100.0
INTERRUPTS = 200
CLOSE_S = 5.0


class Interrupted(Exception):
    """What the handler raises."""


class Interrupts:
    """A timer that goes off within `longest_s`, each time it is set."""

    def __init__(self, longest_s: float) -> None:
        self.count = 0
        self._longest_s = longest_s
        self._armed = False
        signal.signal(signal.SIGALRM, self._handle)

    def _handle(self, _: int, __: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            self.count += 1
            raise Interrupted

    def into(self, body: Callable[[], object]) -> None:
        """Call it; one interrupt comes into it, if that is not over before."""
        try:
            try:
                self._armed = True
                after_s = random.uniform(1e-6, self._longest_s)  # noqa: S311 - not a secret
                signal.setitimer(signal.ITIMER_REAL, after_s)
                body()
            finally:
                self._armed = False  # the handler has done that if it comes before this
        except Interrupted:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)


def answering(wire: Wire) -> None:
    """Log in whoever comes, and answer whatever is asked."""
    wire.log_in()
    with suppress(EOFError, ConnectionError):
        while True:
            request = wire.request()
            wire.send(answer(request, 1, 1), push(Opcode.ROOM_GAP, 1, 1, 1))


def threads_of_the_client() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("tradechat")]


def close(client: Client) -> None:
    began = time.monotonic()
    client.close()
    took_s = time.monotonic() - began
    assert took_s < CLOSE_S, f"close took {took_s:.1f} s"
    assert not threads_of_the_client(), threads_of_the_client()


def calls() -> None:
    """After each of many interrupts the client is as before: connected, and it answers."""
    interrupts = Interrupts(0.002)
    with serving(answering) as port:
        client = Client(port=port, timeout_s=20.0, pushes_max_bytes=10_000)
        client.connect()
        client.login(USERNAME, PASSWORD)

        def call() -> None:
            while True:
                client.balance()
                client.deposit(1)
                client.next_push()

        while interrupts.count < INTERRUPTS:
            interrupts.into(call)
            assert client.connected
        assert client.balance() == (1, 1)
        close(client)


def callers() -> None:
    """The calls of other threads do not notice."""
    interrupts = Interrupts(0.002)
    done = threading.Event()
    failed: list[BaseException] = []
    with serving(answering) as port:
        client = Client(port=port, timeout_s=20.0)
        client.connect()
        client.login(USERNAME, PASSWORD)

        def go_on() -> None:
            try:
                while not done.is_set():
                    assert client.balance() == (1, 1)
            except BaseException as error:  # noqa: BLE001 - raised by the main thread
                failed.append(error)

        def call() -> None:
            while True:
                client.deposit(1)

        others = [threading.Thread(target=go_on) for _ in range(3)]
        for each in others:
            each.start()
        try:
            while interrupts.count < INTERRUPTS:
                interrupts.into(call)
        finally:
            done.set()
        for each in others:
            each.join(HANG_S)
        assert not failed, failed
        close(client)


def connects() -> None:
    """Whatever an interrupt came into, the client can be closed, and connects again."""
    interrupts = Interrupts(0.01)
    rounds = 40
    with serving(*[answering_or_gone] * (2 * rounds + 1)) as port:
        for _ in range(rounds):
            client = Client(port=port, timeout_s=20.0)
            interrupts.into(partial(all_of_it, client))
            close(client)
            client.connect()
            close(client)
        descriptors = open_descriptors()
        assert len(descriptors) < 20, descriptors
        end_the_rest(port)


def all_of_it(client: Client) -> None:
    client.connect()
    client.login(USERNAME, PASSWORD)
    client.balance()
    client.close()


def end_the_rest(port: int) -> None:
    """The scripts that nobody connected for."""
    with suppress(ConnectionLost):
        while True:
            with Client(port=port, timeout_s=1.0):
                pass


def answering_or_gone(wire: Wire) -> None:
    with suppress(EOFError, ConnectionError):
        answering(wire)


def closes() -> None:
    """An interrupt into close: the next one ends it, in its time."""
    interrupts = Interrupts(0.0005)
    with serving(*[answering_or_gone] * 40) as port:
        for _ in range(40):
            client = Client(port=port, timeout_s=20.0)
            client.connect()
            interrupts.into(client.close)
            close(client)


def pushes() -> None:
    """Each push is given once, in order, whatever came between."""
    interrupts = Interrupts(0.0005)
    count = 10_000

    def script(wire: Wire) -> None:
        wire.log_in()
        for first in range(0, count, 100):
            wire.send(*(push(Opcode.ROOM_GAP, 1, seq, seq) for seq in range(first, first + 100)))
        wire.wait_closed()

    with serving(script) as port:
        client = Client(port=port, timeout_s=20.0)
        client.connect()
        client.login(USERNAME, PASSWORD)
        given: list[object] = []

        def take() -> None:
            while len(given) < count:
                given.append(client.next_push())

        while interrupts.count < INTERRUPTS and len(given) < count:
            interrupts.into(take)
        take()
        assert given == [RoomGap(1, seq, seq) for seq in range(count)]
        assert interrupts.count > 20
        close(client)


def writes() -> None:
    """A request that an interrupt cuts off loses the connection; the stream is of whole frames."""
    interrupts = Interrupts(0.05)
    read_on = threading.Event()

    def script(wire: Wire) -> None:
        wire.log_in()
        assert read_on.wait(WAIT_S)
        for request in wire.wait_closed():
            assert request.opcode in (Opcode.CHAT_SEND, Opcode.DEPOSIT)

    with serving(script) as port:
        client = Client(port=port, timeout_s=20.0)
        client.connect()
        client.login(USERNAME, PASSWORD)
        lost: list[ConnectionLost] = []

        def say() -> None:
            try:
                client.send(1, "x" * 60_000)
            except ConnectionLost as error:
                lost.append(error)

        while not lost:
            interrupts.into(say)
        assert "cut off" in str(lost[0]), lost
        assert not client.connected
        try:
            client.deposit(1, timeout_s=1.0)
        except CallTimeout as error:
            raise AssertionError("a call was written behind half a frame") from error
        except ConnectionLost:
            pass
        read_on.set()
        close(client)


SCENARIOS = {each.__name__: each for each in (calls, callers, connects, closes, pushes, writes)}

if __name__ == "__main__":
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    SCENARIOS[sys.argv[1]]()
