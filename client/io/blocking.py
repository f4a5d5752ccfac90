"""The blocking client: calls from any number of threads, and one thread that reads.

A call writes its frame from its own thread and waits for the answer; the reader thread reads,
hands out answers and pushes, and sends the heartbeats. So the calls of several threads are
pipelined on the one connection.

Two locks. `_sending` is held while frames are numbered and written, so that they leave in the order
of their req_ids; the write may block, until the caller's deadline, while the server does not read.
`_lock` guards everything else and is never held over anything that blocks. The reader takes
`_sending` only if it is free: were it to wait for a writer that waits for the server to read, the
server might be waiting for us to read. What it has to send when it cannot is left in the core's
outbox, which whoever held `_sending` looks into afterwards.

With a core that goes on over lost connections the reader thread makes the new connection too; the
calls that wait, and the pushes that nobody took yet, stay where they are.
"""

import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from client.base import ClientBase, now_us
from client.core.calls import Call
from client.core.login import Step, Steps
from client.core.pushes import Push
from client.core.resume import ATTEMPT_S
from client.core.session import MAX_BODY_LEN, PUSHES_MAX, Answered, ClientCore
from client.errors import CallTimeout, ClientError, ConnectionLost
from libnet import sockets
from libnet.errors import ConnectFailed, DeadlineExceeded, NetError
from libproto.errors import MisuseError
from libproto.framing import Decoder
from libproto.messages import State

_RECEIVE_SIZE = 64 * 1024  # bytes
_FLUSH_S = 5.0  # how long the server may take to read what the core sends by itself

R = TypeVar("R")


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


class _Connection:
    """A connection, and those that take its place; it ends with its reader thread."""

    def __init__(
        self,
        sock: socket.socket,
        address: tuple[str, int],
        client_core: ClientCore,
        on_push: Callable[[Push], object] | None,
        on_reconnect: Callable[[ClientError | None], object] | None,
    ) -> None:
        self._sock = sock
        self._address = address
        self._core = client_core
        self._on_push = on_push
        self._on_reconnect = on_reconnect
        self._decoder = Decoder(MAX_BODY_LEN)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._window = threading.Condition(self._lock)  # a ledger request was answered, or the end
        self._pushed = threading.Condition(self._lock)  # a push came, or the end
        self._drained = threading.Condition(self._lock)  # pushes were taken, or the end
        self._pushes: deque[Push] = deque()
        self._held = False  # too many of them: nothing is read
        self._waiting: dict[int, Future[Any]] = {}
        self._beat_at = math.inf  # time.monotonic() seconds
        self._again_at = math.inf  # when the core has something to send again
        self._login_by = math.inf  # until when a new connection has to be logged in
        self._resuming = False  # another connection is wanted, or not yet what the lost one was
        self._dialing = False
        self.closed = False
        client_core.begin(self._decoder)
        self._reader = threading.Thread(target=self._run, name="tradechat-client", daemon=True)
        self._reader.start()

    # ---- calls, in the threads of the program

    def call(
        self, call: Call[R], deadline: float, req_id: int | None, possible_duplicate: bool
    ) -> R:
        if threading.current_thread() is self._reader:
            raise MisuseError("a call from on_push would wait for itself: make it elsewhere")
        number, future = self._send(call, deadline, req_id, possible_duplicate)
        try:
            result: R = future.result(_left(deadline))
        except TimeoutError:
            with self._lock:
                if not future.done():
                    self._core.abandon(number)
                    del self._waiting[number]
                    self._window.notify_all()
                    raise _timed_out(call, number) from None
            result = future.result()  # the answer came just then
        return result

    def _send(
        self, call: Call[Any], deadline: float, req_id: int | None, possible_duplicate: bool
    ) -> tuple[int, Future[Any]]:
        def may_send() -> bool:
            return self._core.loss is not None or self._core.may_send(call, req_id)

        while True:
            if not self._sending.acquire(timeout=_left(deadline)):
                raise _timed_out(call, 0)
            try:
                with self._lock:
                    if free := may_send():
                        number, frame = self._core.request(call, req_id, possible_duplicate)
                        future = self._waiting[number] = Future()
                if free:
                    self._write(call, number, frame, deadline)
                    return number, future
            finally:
                self._sending.release()
                self._flush()
            with self._lock:
                if not self._window.wait_for(may_send, _left(deadline)):
                    raise _timed_out(call, 0)

    def _write(self, call: Call[Any], number: int, frame: bytes, deadline: float) -> None:
        try:
            sockets.writen(self._sock, frame, deadline)
        except DeadlineExceeded as error:
            with self._lock:
                if error.transferred:
                    self._lose(ConnectionLost("the server did not read: a request was cut off"))
                elif self._waiting.pop(number, None) is not None:
                    self._core.retract(number)
            if not error.transferred:
                raise _timed_out(call, 0) from None
        except NetError:
            # What the server said before it closed is still to be read, and that tells the reason.
            self._shutdown()

    def _flush(self) -> None:
        """Send what the core has to send by itself, unless somebody else sends just now, who will
        do this afterwards."""
        while self._core.outbox and self._sending.acquire(blocking=False):
            try:
                with self._lock:
                    data = b"".join(self._core.outbox)
                    self._core.outbox.clear()
                sockets.writen(self._sock, data, time.monotonic() + _FLUSH_S)
            except DeadlineExceeded:
                with self._lock:
                    self._lose(ConnectionLost("the server does not read"))
            except NetError:
                self._shutdown()  # as in _write
            finally:
                self._sending.release()

    def next_push(self, deadline: float | None) -> Push:
        """The oldest push; None waits for ever."""
        if threading.current_thread() is self._reader:
            raise MisuseError("to wait for a push in the thread that reads is to wait for ever")
        with self._lock:
            self._pushed.wait_for(
                lambda: self._pushes or self._core.loss is not None,
                None if deadline is None else _left(deadline),
            )
            if not self._pushes:
                if self._core.loss is not None:
                    raise self._core.failure()
                raise CallTimeout("no push came in time")
            push = self._pushes.popleft()
            if self._held and len(self._pushes) <= PUSHES_MAX // 2:
                self._held = False
                self._drained.notify_all()
            return push

    # ---- the end

    def close(self) -> None:
        with self._lock:
            self.closed = True
            self._end(ConnectionLost("the client was closed"))
            # A connection that is being made may take its time, and will be closed at once.
            join = not self._dialing and threading.current_thread() is not self._reader
        if join:
            self._reader.join()

    def _lose(self, reason: ClientError) -> None:
        """The connection is lost, or has to be given up; under `_lock`. The reader sees the end of
        the stream, and makes another connection if the core wants one."""
        self._fail(self._core.lose(reason))

    def _end(self, reason: ClientError) -> None:
        """The client is down, whatever the core wants; under `_lock`."""
        self._fail(self._core.end(reason))

    def _fail(self, req_ids: list[int]) -> None:
        for req_id in req_ids:
            self._waiting.pop(req_id).set_exception(self._core.failure())
        for condition in (self._window, self._pushed, self._drained):
            condition.notify_all()
        self._shutdown()

    def _shutdown(self) -> None:
        with suppress(OSError):  # the server was faster
            self._sock.shutdown(socket.SHUT_RDWR)

    # ---- the reader thread

    def _run(self) -> None:
        reason = ConnectionLost("on_push or on_reconnect raised an exception")
        try:
            while True:
                lost = self._read()
                with self._lock:
                    self._lose(lost)
                if self._core.loss is not None:
                    return
                if not self._resuming:
                    self._resuming = True
                    self._tell(self._core.failure())
                if not self._reconnect():
                    return
        finally:
            with self._lock:
                self._end(reason)
            with self._sending:  # nobody writes to a descriptor that may be another's by then
                self._sock.close()

    def _tell(self, reason: ClientError | None) -> None:
        if self._on_reconnect is not None:
            self._on_reconnect(reason)

    def _reconnect(self) -> bool:
        """Make another connection; False if there is to be none any more."""
        while True:
            with self._lock:
                self._drained.wait_for(lambda: not self._held or self._core.loss is not None)
                pause_s = self._core.pause_s(time.monotonic())
                if self._window.wait_for(lambda: self._core.loss is not None, pause_s):
                    return False
                self._dialing = True
            sock = None
            with suppress(ConnectFailed):
                sock = sockets.connect(*self._address, ATTEMPT_S)
            with self._sending, self._lock:
                self._dialing = False
                if sock is None:
                    continue
                if self._core.loss is not None:
                    sock.close()
                    return False
                self._sock.close()
                self._sock = sock
                self._decoder = Decoder(MAX_BODY_LEN)
                self._core.begin(self._decoder)
                self._beat_at = self._again_at = math.inf
                self._login_by = time.monotonic() + ATTEMPT_S
            self._flush()
            return True

    def _read(self) -> ClientError:
        """Until the connection ends; gives the reason."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        while self._core.linked:
            due = min(self._beat_at, self._again_at, self._login_by)
            if self._held:
                with self._lock:
                    self._drained.wait_for(
                        lambda: not self._held or not self._core.linked,
                        None if due == math.inf else _left(due),
                    )
            elif poller.poll(None if due == math.inf else math.ceil(_left(due) * 1000)):
                reason = self._receive()
                if reason is not None:
                    return reason
            if self._resuming:
                reason = self._resume()
                if reason is not None:
                    return reason
            if time.monotonic() >= self._beat_at or self._beat_at == math.inf:
                reason = self._beat()
                if reason is not None:
                    return reason
        return ConnectionLost("closed")

    def _resume(self) -> ClientError | None:
        """Do what a new connection has to do before it is what the lost one was."""
        now = time.monotonic()
        with self._lock:
            if now >= self._again_at:
                self._core.again()
            after_s = self._core.again_after_s
            if after_s is None:
                self._again_at = math.inf
            elif self._again_at == math.inf or now >= self._again_at:
                self._again_at = now + after_s
            if self._core.state == State.AUTHENTICATED:
                self._login_by = math.inf
            elif now >= self._login_by:
                return ConnectionLost(f"no login within {ATTEMPT_S:g} s")
            if steady := self._core.steady and self._core.linked:
                self._resuming = False
                self._window.notify_all()
        self._flush()
        if steady:
            self._tell(None)
        return None

    def _receive(self) -> ClientError | None:
        """Take what has arrived; gives the reason if that is the end."""
        try:
            data = self._sock.recv(_RECEIVE_SIZE)
        except OSError as error:
            return ConnectionLost(f"the connection was lost: {error.strerror}")
        if not data:
            return ConnectionLost("the server closed the connection")
        reason = None
        pushes: list[Push] = []
        with self._lock:
            self._decoder.feed(data)
            try:
                while self._core.linked and (frame := self._decoder.next()) is not None:
                    for event in self._core.take(frame):
                        if isinstance(event, Answered):
                            self._answer(event)
                        else:
                            pushes.append(event)
            except ClientError as error:
                reason = error
            if pushes and self._on_push is None:
                self._pushes += pushes
                self._held = len(self._pushes) >= PUSHES_MAX
                self._pushed.notify_all()
        if self._on_push is not None:
            for push in pushes:
                self._on_push(push)
        return reason

    def _answer(self, answered: Answered) -> None:
        future = self._waiting.pop(answered.req_id)
        if answered.error is not None:
            future.set_exception(answered.error)
        else:
            future.set_result(answered.result)
        self._window.notify_all()

    def _beat(self) -> ClientError | None:
        """Send a heartbeat that is due, and say when the next is; gives the reason of an end."""
        beat_s = self._core.beat_s
        if not beat_s:
            return None
        now = time.monotonic()
        first = self._beat_at == math.inf
        self._beat_at = now + beat_s
        if first or not self._sending.acquire(blocking=False):
            return None  # what another thread is sending just now is a sign of life as well
        try:
            with self._lock:
                if not self._core.linked:
                    return None
                req_id, frame = self._core.beat(now_us(), self._held)
            sockets.writen(self._sock, frame, now)
        except ClientError as error:
            return error
        except DeadlineExceeded as error:
            if error.transferred:
                return ConnectionLost("the server does not read: a heartbeat was cut off")
            with self._lock:
                self._core.retract(req_id)
        except NetError:
            self._shutdown()  # as in _write
        finally:
            self._sending.release()
        self._flush()
        return None


def _timed_out(call: Call[Any], req_id: int) -> CallTimeout:
    what = "got no answer in time" if req_id else "could not be sent in time"
    return CallTimeout(f"{call.opcode.name} {what}", req_id, call.opcode)


class BlockingBase(ClientBase):
    """What `client.blocking.Client` is but for its calls: connecting, closing, waiting, pushes."""

    _connection: _Connection | None = None

    def connect(self, *, timeout_s: float | None = None) -> None:
        """Connect; again after a loss, too. Raises ConnectionLost if that fails."""
        timeout_s = self._timeout(timeout_s)
        if self._core.loss is None:
            raise MisuseError("the client is connected, or reconnects by itself")
        self.close()
        try:
            sock = sockets.connect(self.host, self.port, timeout_s)
        except ConnectFailed as error:
            raise ConnectionLost(str(error), self._core.unanswered_req_ids) from error
        self._connection = _Connection(
            sock, (self.host, self.port), self._core, self._on_push, self._on_reconnect
        )

    def close(self) -> None:
        """Close the connection, and make no other; calls under way fail with ConnectionLost. May be
        repeated."""
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- how every call is made

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + self._timeout(timeout_s)

    def _call(
        self,
        call: Call[R],
        timeout_s: float | None,
        req_id: int | None = None,
        possible_duplicate: bool = False,
    ) -> R:
        deadline = self._deadline(timeout_s)
        return self._connected().call(call, deadline, req_id, possible_duplicate)

    def _run(self, steps: Steps[R], timeout_s: float | None) -> R:
        deadline = self._deadline(timeout_s)
        proceed: Callable[[], Step] = partial(next, steps)
        with closing(steps):
            while True:
                try:
                    step = proceed()
                except StopIteration as done:
                    result: R = done.value
                    return result
                try:
                    proceed = partial(steps.send, self._do(step, deadline))
                except ClientError as error:
                    proceed = partial(steps.throw, error)

    def _do(self, step: Step, deadline: float) -> Any:
        if isinstance(step, Call):
            return self._connected().call(step, deadline, None, False)
        return step()

    def _connected(self) -> _Connection:
        if self._connection is None:
            raise self._core.failure()
        return self._connection

    # ---- pushes

    def next_push(self, timeout_s: float | None = None) -> Push:
        """The next push. Raises CallTimeout if none comes, ConnectionLost if none can."""
        self._check_pushes()
        return self._connected().next_push(self._deadline(timeout_s))

    def pushes(self, timeout_s: float | None = None) -> Iterator[Push]:
        """Pushes as they come, until `close`, or until none came for `timeout_s` (None: for ever).

        Raises ConnectionLost when the connection was lost for good, after the last push.
        """
        self._check_pushes()
        silence_s = None if timeout_s is None else self._timeout(timeout_s)
        return self._iterate(self._connected(), silence_s)

    @staticmethod
    def _iterate(connection: _Connection, silence_s: float | None) -> Iterator[Push]:
        while True:
            try:
                push = connection.next_push(
                    None if silence_s is None else time.monotonic() + silence_s
                )
            except CallTimeout:
                return
            except ConnectionLost:
                if connection.closed:
                    return
                raise
            yield push
