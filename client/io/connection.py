"""A client's connection, and those that take its place, on one event loop.

Both clients are thin around this: `client.io.aio` awaits it, `client.io.blocking` has a thread that
runs it. All of it happens in the loop's thread and nothing in it waits for the program, so it is
never half way through a change when a call is cancelled, times out or is interrupted.

A call is a `Waiter`. It waits in a queue until it may be sent, then for its answer, and is told
once what became of it: a result, an error, or its deadline. Whoever loses interest withdraws it.

- Nothing of its frame was sent: it is taken back, and it is known that nothing happened.
- It was sent: its late answer is taken and given to nobody. What it did is unknown until then.
- It was cut off: the server does not read, and a frame cannot be taken back by halves. The
  connection is lost.

One link takes the place of another where a lost connection is established again, or where the
server says that it will close this one; the calls that wait, and the pushes that nobody took yet,
stay where they are.
"""

import asyncio
import math
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from client.base import now_us
from client.core.inbox import TooManyRooms
from client.core.numbers import NUMBERED
from client.core.readers import Readers
from client.core.resume import ATTEMPT_S, ResumingCore
from client.core.session import MAX_BODY_LEN, Answered
from client.errors import CallTimeout, ClientError, ConnectionLost, ProtocolViolation
from client.io.anew import Anew
from client.io.link import Link, Sent
from client.io.move import Approached, Mover
from client.io.waiter import Waiter
from libnet.dial import dial
from libnet.errors import ConnectFailed
from libproto.framing import Decoder, Frame
from libproto.messages import Opcode, State
from libproto.wrapping import Unwrapper

CLOSED: Final = "the client was closed"
_ORDERED: Final = NUMBERED | {Opcode.JOIN_ROOM, Opcode.LEAVE_ROOM, Opcode.LOGOUT}
"""What is sent in the order in which it was asked for: a message before the leave behind it."""
PART_S: Final = 1.0
"""How long the server may take to close a connection on which a LOGIN was given up, until another
one is made."""


class Connection:
    """One `connect` and what follows from it, until `over`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int],
        client_core: ResumingCore,
        readers: Readers,
        on_reconnect: Callable[[ClientError | None], object],
        on_over: Callable[[], object],
        soon: Callable[[Callable[[], object]], object] | None = None,
    ) -> None:
        """on_reconnect: gets why the connection was lost, and None when there is another. on_over:
        called when there will be none any more. soon: see Link."""
        self.loop: Final = loop
        self._address = address
        self._core = client_core
        self._readers: Final = readers
        self._on_reconnect = on_reconnect
        self._on_over = on_over
        self._soon = soon
        self._link: Link | None = None
        self._decoder = Decoder(MAX_BODY_LEN)
        self._waiting: dict[int, Waiter] = {}  # by req_id: sent, or to be repeated
        # Not sent yet. New numbered requests may have to wait for older ones, and what they depend
        # on with them; the others need not.
        self._others: deque[Waiter] = deque()
        self._ordered: deque[Waiter] = deque()
        self._beat: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._resuming = False  # another connection is wanted, or something missed is yet to come
        self._awaited = False  # on_reconnect is to be told when calls are sent again
        self._told_lost = False  # on_reconnect was told so
        self._lost_at = 0.0  # when it was
        self._mover: Final = Mover(
            loop, address, client_core, self._take_over, self._pump, self._send_own
        )
        self._anew: Final = Anew(loop, address, self._adopt_anew, self._lose, self.end)
        self._left: Link | None = None  # that was moved from; closed when the login is answered
        self._decided = asyncio.Event()  # a new connection is logged in, or lost
        self._dialing: asyncio.Timeout | None = None
        self._resumer: asyncio.Task[None] | None = None
        self._parting: asyncio.Task[None] | None = None  # the server is still to close the last one
        self._began = False  # the core is in our hands
        self.over = False

    # ---- the first connection

    @property
    def dialing(self) -> bool:
        """Whether the first connection is being made."""
        return self._dialing is not None

    async def open(self, deadline: float) -> None:
        """Connect by the deadline (the loop's time). Raises ConnectionLost; whatever happened, a
        client that did not get its connection by this can make another."""
        try:
            async with asyncio.timeout_at(deadline) as self._dialing:
                self._adopt(await dial(*self._address, None))
        except (ConnectFailed, TimeoutError) as error:
            reason = CLOSED if self.over else str(error)
            if not reason:
                host, port = self._address
                reason = f"cannot connect to {host} port {port}: no answer in time"
            raise ConnectionLost(reason, self._core.unanswered_req_ids) from error
        finally:
            self._dialing = None
            if self._link is None:
                self._finish()

    def _adopt(self, sock: socket.socket) -> None:
        if self.over:  # closed in the very turn in which the connection came about
            sock.close()
            raise ConnectFailed(CLOSED)
        self._watch(sock, Unwrapper(Decoder(MAX_BODY_LEN), None, False))
        self._began = True
        self._core.begin(self._decoder)
        self._send_own()

    def _watch(self, sock: socket.socket, decoder: Decoder) -> None:
        self._decoder = decoder
        self._link = Link(self.loop, sock, self._received, self._ended, self._pump, self._soon)

    # ---- calls

    def submit(self, waiter: Waiter, deadline: float) -> None:
        """Make a call, to be answered by the deadline (the loop's time)."""
        if self._core.loss is not None:
            waiter.settle(None, self._core.failure())
            return
        waiter.timer = self.loop.call_at(deadline, self._expire, waiter)
        greets = waiter.call.opcode == Opcode.HELLO
        if (greets and self._core.spent) or (self._link is None and self._core.rests):
            self._make_anew()
        is_ordered = waiter.call.opcode in _ORDERED and not waiter.possible_duplicate
        (self._ordered if is_ordered else self._others).append(waiter)
        self._pump()

    def withdraw(self, waiter: Waiter) -> bool:
        """Nobody waits for it any more. Tells whether it was sent, as far as is known."""
        waiter.tell = None
        waiter.settle(None)
        number = waiter.number
        if self._waiting.get(number) is not waiter:
            for queue in (self._others, self._ordered):
                with suppress(ValueError):
                    queue.remove(waiter)
            return number != 0
        del self._waiting[number]
        sent = Sent.ALL if self._link is None else self._link.take_back(number)
        if sent is Sent.NOTHING:
            self._core.retract(number)
        else:
            self._core.abandon(number)
        if sent is Sent.PART:
            self._lose(ConnectionLost("the server did not read: a request was cut off"))
        elif sent is Sent.ALL and waiter.call.opcode == Opcode.LOGIN:
            # Until its answer nothing else may be sent under this client_id, and it may never come.
            self._lose(ConnectionLost("a login was given up before its answer: connect() again"))
        self._mover.note_change()
        self._pump()
        return sent is not Sent.NOTHING

    def _expire(self, waiter: Waiter) -> None:
        tell, number = waiter.tell, waiter.number
        if not self.withdraw(waiter):
            number = 0
        assert tell is not None, "its timer ends with it"
        what = "got no answer in time" if number else "could not be sent in time"
        what += self._readers.complaint
        opcode = waiter.call.opcode
        tell(None, CallTimeout(f"{opcode.name} {what}", number, opcode))

    def _pump(self) -> None:
        """Send what may be sent."""
        for queue in (self._others, self._ordered):
            while queue and self._may_send(queue[0]):
                self._send(queue.popleft())

    def _may_send(self, waiter: Waiter) -> bool:
        if self._core.loss is not None:
            return True  # to be told so
        link = self._link
        return (
            link is not None and not link.full and self._core.may_send(waiter.call, waiter.req_id)
        )

    def _send(self, waiter: Waiter) -> None:
        try:
            number, frame = self._core.request(
                waiter.call, waiter.req_id, waiter.possible_duplicate
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for who made the call
            waiter.settle(None, error)
            return
        waiter.number = number
        self._waiting[number] = waiter
        assert self._link is not None, "request() raises where there is no connection"
        self._link.send(frame, number)

    # ---- what the server sends

    def _received(self, data: bytes) -> None:
        decoder = self._decoder
        try:
            decoder.feed(data)
            while decoder is self._decoder and self._link is not None:
                frame = decoder.next()
                if frame is None:
                    break
                self._handle(frame)
        except ClientError as error:
            self._lose(error)
        except BaseException:  # of a signal handler: what it came between is unknown
            self.end(ConnectionLost("the client was interrupted"))
            raise

    def _handle(self, frame: Frame) -> None:
        events = self._core.take(frame)
        if self._link is not None:
            self._link.wrapper = self._core.wrapper
        for event in events:
            if isinstance(event, Answered):
                self._answer(event)
                continue
            try:
                self._readers.put(event)
            except TooManyRooms as error:
                raise ProtocolViolation(f"the server sent {error}") from error
        if self._core.unfit is not None:
            self._lose(self._core.unfit)
            return
        if self._resuming or self._core.again_after_s is not None:
            self._resume()
        if self._core.going_away is not None:
            self._mover.go()
            self._mover.note_change()
        if self._core.outbox and self._link is not None:
            self._send_own()
        has_ended = self._core.rests and self._core.state == State.CONNECTED
        if has_ended and self._core.at_rest and not self._resuming:
            self._rest(ConnectionLost(CLOSED))

    def _answer(self, answered: Answered) -> None:
        self._waiting.pop(answered.req_id).settle(answered.result, answered.error)
        if self._beat is None:
            self._time_beat()
        if self._ordered or self._others:
            self._pump()

    def _ended(self, reason: str) -> None:
        if not self._core.rests or self._resuming:
            self._lose(ConnectionLost(reason))
        elif self._others or self._ordered:
            self._make_anew()
        else:
            self._rest(ConnectionLost(reason))

    # ---- another connection for another login

    def _rest(self, reason: ClientError) -> None:
        """Nobody is logged in, and the server closes an encrypted connection then: the next call
        makes another one. reason: for what is not answered."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._mover.cancel()
        self._stop_timers()
        for req_id in self._core.part():
            self._waiting.pop(req_id).settle(None, reason)

    def _make_anew(self) -> None:
        """An encrypted connection has one HELLO: have another one, for what is to be sent."""
        if not self._anew.is_dialing:
            self._rest(ConnectionLost("another login of this client has another connection"))
            self._anew.dial()

    def _adopt_anew(self, sock: socket.socket) -> None:
        if self.over:  # closed in the very turn in which the connection came about
            sock.close()
            return
        self._watch(sock, Unwrapper(Decoder(MAX_BODY_LEN), None, False))
        self._core.begin(self._decoder)
        self._pump()

    # ---- signs of life

    def _time_beat(self) -> None:
        if self._core.beat_s:
            self._beat = self.loop.call_later(self._core.beat_s, self._send_beat)

    def _send_beat(self) -> None:
        self._time_beat()
        if self._link is None or self._link.full:
            return  # as many requests as there are to read are a sign of life
        try:
            _, frame = self._core.beat(now_us())
        except ClientError as error:
            self._lose(error)
        else:
            self._link.send(frame)

    # ---- another connection

    async def _reconnect(self) -> None:
        """Until there is one that is logged in; the core does the rest by itself."""
        while self._core.loss is None and self._link is None:
            if self._parting is not None:
                await asyncio.wait({self._parting})
            given_up_at = self._given_up_at()
            pause_until = self.loop.time() + self._core.pause_s(self.loop.time())
            await asyncio.sleep(min(pause_until, given_up_at) - self.loop.time())
            if self.loop.time() >= given_up_at:
                self._give_up()
                return
            await self._try_again(min(self.loop.time() + ATTEMPT_S, given_up_at))

    def _given_up_at(self) -> float:
        """When the program wants no more attempts to reconnect (the loop's time)."""
        for_s = self._core.policy.reconnect_for_s
        return math.inf if for_s is None else self._lost_at + for_s

    def _give_up(self) -> None:
        lost = self._core.failure()
        self.end(
            ConnectionLost(
                f"not reconnected within {self._core.policy.reconnect_for_s:g} s: {lost}"
            )
        )

    def _reconnected(self, task: asyncio.Task[None]) -> None:
        if task is self._resumer and self._link is None:
            # Somebody has cancelled it, as asyncio.run() does at its end; perhaps before it began.
            self.end(ConnectionLost("reconnecting was cancelled"))
        if not task.cancelled():
            task.result()  # nothing that was not foreseen is swallowed

    async def _try_again(self, deadline: float) -> None:
        self._decided.clear()
        with suppress(ConnectFailed, TimeoutError):
            self._adopt(await dial(*self._address, deadline))
            async with asyncio.timeout_at(deadline):
                await self._decided.wait()
        if self._core.state != State.AUTHENTICATED:
            self._lose(ConnectionLost("the server did not take the login in time"))

    def _resume(self) -> None:
        """Do what a new connection has to do before it is what the lost one was."""
        self._send_own()
        if self._core.state == State.AUTHENTICATED:
            self._decided.set()
            self._close_left()
            if self._beat is None:
                self._time_beat()
        if self._core.again_after_s is not None and self._again is None:
            self._again = self.loop.call_later(self._core.again_after_s, self._do_again)
        if self._core.steady and self._link is not None:
            if self._awaited:
                self._awaited = self._told_lost = False
                self._on_reconnect(None)
            self._resuming = not self._core.caught_up
            self._pump()

    def _do_again(self) -> None:
        self._again = None
        self._core.again()
        self._resume()

    def _send_own(self) -> None:
        for frame in self._core.outbox:
            assert self._link is not None, "the core has nothing to say without a connection"
            self._link.send(frame)
        self._core.outbox.clear()

    # ---- another connection, before the server closes this one

    def _take_over(self, there: Approached) -> None:
        self._left = self._link
        assert self._left is not None, "the mover is cancelled with its link"
        self._left.retire()
        self._stop_timers()
        self._watch(there.sock, there.decoder)
        self._resuming = self._awaited = True
        try:
            self._core.move(there.decoder, there.greeting, there.wrapper, there.spent)
        except ClientError as error:
            self._lose(error)
            return
        if self._link is not None:
            self._link.wrapper = there.wrapper
        if self._core.steady:  # nobody was logged in
            self._close_left()
        self._resume()
        self._received(b"")  # what came with the greeting

    def _close_left(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left.close()

    # ---- the end

    def end(self, reason: ClientError) -> None:
        """The client is down, whatever the core wants."""
        if self.over:
            return  # the core may be another connection's by now
        if self._began:
            self._leave()
            self._fail(self._core.end(reason))
        self._finish()

    async def wait_over(self) -> None:
        """After `end`: until no task of this connection is left, and the server does nothing of
        what was sent on it any more, as far as can be known."""
        all_tasks = self._resumer, self._parting, self._anew.task, self._mover.task
        if tasks := {task for task in all_tasks if task is not None}:
            await asyncio.wait(tasks)

    def _leave(self) -> None:
        """What is sent under this client_id next may have to wait until the server has closed."""
        link = self._link
        if link is None or link.closed or not self._core.login_in_flight:
            return
        if self.loop.is_running():
            self._parting = self.loop.create_task(link.part(PART_S))
            self._link = None

    def drop(self, reason: ClientError, *, forked: bool = False) -> None:
        """The loop is closed, or (forked) this is a child process and the connection its parent's:
        let go of what there is. Nobody can be waiting on that loop any more."""
        if self.over:
            return
        self.over = True
        if self._began:
            self._core.end(reason)
        self._resumer = self._anew.task = self._mover.task = None
        for each in (self._waiting, self._others, self._ordered):
            each.clear()
        links, self._link, self._left = (self._link, self._left), None, None
        for link in links:
            if link is not None:
                if forked:
                    link.forget()
                else:
                    link.close()
        self._readers.end()

    def _lose(self, reason: ClientError) -> None:
        """The connection is lost, or has to be given up; another one is made if the core wants."""
        if self.over:
            return
        self._leave()
        self._fail(self._core.lose(reason))
        if self._core.loss is not None:
            self._finish()
            return
        self._decided.set()
        if self._resumer is None or self._resumer.done():
            self._resumer = self.loop.create_task(self._reconnect())
            self._resumer.add_done_callback(self._reconnected)
        self._resuming = self._awaited = True
        if not self._told_lost:
            self._told_lost = True
            self._lost_at = self.loop.time()
            self._on_reconnect(self._core.failure())

    def _fail(self, req_ids: list[int]) -> None:
        """These calls fail, and the link ends."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._close_left()
        self._mover.cancel()
        self._stop_timers()
        for req_id in req_ids:
            self._waiting.pop(req_id).settle(None, self._core.failure())

    def _stop_timers(self) -> None:
        for timer in (self._beat, self._again):
            if timer is not None:
                timer.cancel()
        self._beat = self._again = None

    def _finish(self) -> None:
        if self.over:
            return
        self.over = True
        self._pump()  # what was not sent fails
        if self._dialing is not None:
            self._dialing.reschedule(self.loop.time())
        if self._resumer is not None:
            self._resumer.cancel()
        self._anew.cancel()
        self._mover.cancel()
        self._readers.end()
        self._on_over()
