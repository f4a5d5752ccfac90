"""The asyncio client; it runs on any loop, uvloop's too.

One connection is one `FrameProtocol`. Reading must not depend on writing: were both ends to stop
reading until the other has read, both would wait for ever. So a full output buffer makes calls
wait, not the reading; what stops the reading are pushes that the program does not take.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from client import core
from client.core import MAX_BODY_LEN, PUSHES_MAX, Answered, Call, Calls, ClientBase, Greeting, Push
from client.errors import CallTimeout, ClientError, ConnectionLost
from libnet.sockets import USER_TIMEOUT_MS, is_self_connected, tune
from libnet.transport import FrameProtocol
from libproto.errors import MisuseError
from libproto.framing import Frame
from libproto.messages import (
    BalanceResponse,
    ChatSendResponse,
    DepositResponse,
    DirectSendResponse,
    HeartbeatResponse,
    JoinRoomResponse,
    LoginResponse,
    Member,
    RoomEntry,
    RoomHistoryResponse,
    Transaction,
    TransferResponse,
    UserLookupResponse,
    UserNameResponse,
    WithdrawResponse,
)

P = ParamSpec("P")
R = TypeVar("R")


def _now_us() -> int:
    return time.time_ns() // 1000


class _Connection(FrameProtocol):
    """One connection, and the calls that wait on it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client_core: core.ClientCore,
        on_push: Callable[[Push], object] | None,
    ) -> None:
        super().__init__(loop, MAX_BODY_LEN)
        self._core = client_core
        self._on_push = on_push
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._pushes: deque[Push] = deque()
        self._pushed = asyncio.Event()  # a push came, or the end
        self._turn = asyncio.Lock()  # to send; held by the one who waits for room
        self._room = asyncio.Event()  # for another request, or the end
        self._gone = asyncio.Event()
        self._full = False  # the server does not read
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False

    # ---- calls

    async def call(
        self, call: Call[R], deadline: float, req_id: int | None, possible_duplicate: bool
    ) -> R:
        number, future = 0, None
        try:
            async with asyncio.timeout_at(deadline):
                async with self._turn:
                    while not self._may_send(call, req_id):
                        self._room.clear()
                        await self._room.wait()
                    number, frame = self._core.request(call, req_id, possible_duplicate)
                    future = self._waiting[number] = self.loop.create_future()
                    self._send(frame)
                result: R = await future
                return result
        except TimeoutError:
            what = "got no answer in time" if number else "could not be sent in time"
            raise CallTimeout(f"{call.opcode.name} {what}", number, call.opcode) from None
        finally:
            # Timed out or cancelled. The number may be in use again by the time we get here.
            if future is not None and self._waiting.get(number) is future:
                del self._waiting[number]
                self._core.abandon(number)
                self._room.set()

    def _may_send(self, call: Call[Any], req_id: int | None) -> bool:
        if self._core.loss is not None:
            return True  # to be told so
        return not self._full and self._core.may_send(call, req_id)

    def _send(self, frame: bytes) -> None:
        """What is sent in one turn of the loop leaves in one write."""
        self.out.append(frame)
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flushing = False
        self.flush()

    async def next_push(self, deadline: float | None) -> Push:
        """The oldest push; None waits for ever."""
        try:
            async with asyncio.timeout_at(deadline):
                while not self._pushes:
                    if self._core.loss is not None:
                        raise self._core.failure()
                    self._pushed.clear()
                    await self._pushed.wait()
        except TimeoutError:
            raise CallTimeout("no push came in time") from None
        push = self._pushes.popleft()
        if self.choked and len(self._pushes) <= PUSHES_MAX // 2:
            super().resume_writing()  # reads again
        return push

    # ---- FrameProtocol

    def opened(self) -> None:
        self._core.begin(self.decoder)

    def handle(self, frame: Frame) -> None:
        if self.closing:
            return
        try:
            event = self._core.receive(frame)
        except ClientError as error:
            self.end(error)
            return
        if isinstance(event, Answered):
            self._answer(event)
        elif event is not None:
            self._push(event)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._room.set()

    def lost(self) -> None:
        self.end(ConnectionLost("the server closed the connection"))
        self._gone.set()

    # ---- what the server sends

    def _answer(self, answered: Answered) -> None:
        future = self._waiting.pop(answered.req_id)
        if not future.done():  # cancelled in this turn of the loop
            if answered.error is not None:
                future.set_exception(answered.error)
            else:
                future.set_result(answered.result)
        self._room.set()
        if self._timer is None and self._core.heartbeat_s:
            self._timer = self.loop.call_later(self._core.heartbeat_s, self._beat)

    def _push(self, push: Push) -> None:
        if self._on_push is not None:
            try:
                self._on_push(push)
            except BaseException:
                self.end(ConnectionLost("on_push raised an exception"))
                raise
            return
        self._pushes.append(push)
        self._pushed.set()
        if len(self._pushes) >= PUSHES_MAX and not self.choked:
            super().pause_writing()  # reads no more

    def _beat(self) -> None:
        self._timer = self.loop.call_later(self._core.heartbeat_s, self._beat)
        if self._full:
            return  # as many requests as there are to read are a sign of life
        try:
            _, frame = self._core.beat(_now_us(), self.choked)
        except ClientError as error:
            self.end(error)
        else:
            self._send(frame)

    # ---- the end

    async def close(self) -> None:
        self.closed = True
        self.end(ConnectionLost("the client was closed"))
        await self._gone.wait()

    def end(self, reason: ClientError) -> None:
        """All who wait fail, and the connection ends at once: what is unsent belongs to them."""
        for req_id in self._core.end(reason):
            future = self._waiting.pop(req_id)
            if not future.done():
                future.set_exception(self._core.failure())
        self.closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._pushed.set()
        self._room.set()
        self.abort()


class AsyncClient(ClientBase):
    """A client for asyncio; `async with AsyncClient(...) as client` connects and closes.

    Every method takes `timeout_s`, seconds, by default the client's own, and raises what
    `client.errors` lists. Calls of several tasks are pipelined; `connect`, `register` and `login`
    come one at a time. A call that is cancelled may have been executed. `on_push` is a plain
    function, called in the loop.

    At most about PUSHES_MAX pushes wait for the program. If it takes none then, the client stops
    reading, answers included; the server tells later by RoomGap what was missed by that.
    """

    _connection: _Connection | None = None

    async def connect(self, *, timeout_s: float | None = None) -> None:
        """Connect; again after a loss, too. Raises ConnectionLost if that fails."""
        deadline = self._deadline(timeout_s)
        if self.connected:
            raise MisuseError("the client is connected")
        await self.close()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                transport, connection = await loop.create_connection(
                    lambda: _Connection(loop, self._core, self._on_push), self.host, self.port
                )
        except (OSError, UnicodeError) as error:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise ConnectionLost(
                f"cannot connect to {self.host} port {self.port}: {reason}",
                self._core.unanswered_req_ids,
            ) from error
        self._connection = connection
        sock = transport.get_extra_info("socket")
        if is_self_connected(sock):
            connection.end(ConnectionLost(f"nobody listens on {self.host} port {self.port}"))
            await self.close()
            raise self._core.failure()
        tune(sock, USER_TIMEOUT_MS)

    async def close(self) -> None:
        """Close the connection; calls under way fail with ConnectionLost. May be repeated."""
        if self._connection is not None:
            await self._connection.close()

    async def __aenter__(self) -> "AsyncClient":
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ---- how every call is made

    def _deadline(self, timeout_s: float | None) -> float:
        return asyncio.get_running_loop().time() + self._timeout(timeout_s)

    async def _call(
        self,
        call: Call[R],
        timeout_s: float | None,
        req_id: int | None = None,
        possible_duplicate: bool = False,
    ) -> R:
        return await self._call_by(call, self._deadline(timeout_s), req_id, possible_duplicate)

    async def _call_by(
        self,
        call: Call[R],
        deadline: float,
        req_id: int | None = None,
        possible_duplicate: bool = False,
    ) -> R:
        return await self._connected().call(call, deadline, req_id, possible_duplicate)

    def _connected(self) -> _Connection:
        if self._connection is None:
            raise self._core.failure()
        return self._connection

    @staticmethod
    async def _compute(
        deadline: float, function: Callable[P, Call[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Call[R]:
        """What takes long, in a thread, so that the loop goes on."""
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.to_thread(function, *args, **kwargs)
        except TimeoutError:
            raise CallTimeout("the password could not be hashed in time") from None

    # ---- pushes

    async def next_push(self, timeout_s: float | None = None) -> Push:
        """The next push. Raises CallTimeout if none comes, ConnectionLost if none can."""
        self._check_pushes()
        return await self._connected().next_push(self._deadline(timeout_s))

    def pushes(self, timeout_s: float | None = None) -> AsyncIterator[Push]:
        """Pushes as they come, until `close`, or until none came for `timeout_s` (None: for ever).

        Raises ConnectionLost when the connection was lost, after the last push.
        """
        self._check_pushes()
        silence_s = None if timeout_s is None else self._timeout(timeout_s)
        return self._iterate(self._connected(), silence_s)

    @staticmethod
    async def _iterate(connection: _Connection, silence_s: float | None) -> AsyncIterator[Push]:
        while True:
            try:
                push = await connection.next_push(
                    None if silence_s is None else connection.loop.time() + silence_s
                )
            except CallTimeout:
                return
            except ConnectionLost:
                if connection.closed:
                    return
                raise
            yield push

    # ---- who one is

    async def register(
        self, username: str, password: str, *, timeout_s: float | None = None
    ) -> int:
        """Create a user; gives its user_id. The connection is not logged in by that.

        Raises AlreadyExists, and Unauthorized where registration is closed.
        """
        deadline = self._deadline(timeout_s)
        greeting = await self._greet(username, deadline)
        call = await self._compute(deadline, core.register, greeting, password)
        return await self._call_by(call, deadline)

    async def login(
        self, username: str, password: str, *, timeout_s: float | None = None
    ) -> LoginResponse:
        """Log in, and check that the server knows the user's key too.

        Raises Unauthorized if user or password are wrong, ProtocolViolation if the server's own
        proof is; the connection is closed then. Another session with this client_id ends.
        """
        deadline = self._deadline(timeout_s)
        greeting = await self._greet(username, deadline)
        call = await self._compute(deadline, core.login, greeting, password, self.client_id)
        return await self._call_by(call, deadline)

    async def _greet(self, username: str, deadline: float) -> Greeting:
        call = core.hello(username, self._core.client_name, self._core.capabilities)
        return await self._call_by(call, deadline)

    async def logout(self, *, timeout_s: float | None = None) -> None:
        """End the session and leave all rooms; the connection stays, for another login."""
        await self._call(Calls.LOGOUT(), timeout_s)

    async def heartbeat(self, *, timeout_s: float | None = None) -> HeartbeatResponse:
        """Ask for the server's time. What keeps the connection alive is sent without this."""
        return await self._call(Calls.HEARTBEAT(_now_us()), timeout_s)

    # ---- chat

    async def join(self, room_id: int, *, timeout_s: float | None = None) -> JoinRoomResponse:
        """Join a room: its events after `last_seq` will be pushed. NotFound: no such room."""
        return await self._call(Calls.JOIN(room_id), timeout_s)

    async def leave(self, room_id: int, *, timeout_s: float | None = None) -> None:
        """Leave a room. NotFound if it is not joined."""
        await self._call(Calls.LEAVE(room_id), timeout_s)

    async def send(
        self, room_id: int, message: str, *, timeout_s: float | None = None
    ) -> ChatSendResponse:
        """Say something in a joined room; Unauthorized if it is not joined."""
        return await self._call(Calls.SEND(room_id, message), timeout_s)

    async def history(
        self, room_id: int, after_seq: int = 0, limit: int = 256, *, timeout_s: float | None = None
    ) -> RoomHistoryResponse:
        """Events of a joined room after `after_seq`, ascending, at most 256; none is the end."""
        return await self._call(Calls.HISTORY(room_id, after_seq, limit), timeout_s)

    async def rooms(
        self, after_room_id: int = 0, *, timeout_s: float | None = None
    ) -> tuple[RoomEntry, ...]:
        """Rooms with members or events, ascending, at most 256; none is the end."""
        return await self._call(Calls.ROOMS(after_room_id), timeout_s)

    async def members(
        self, room_id: int, after_user_id: int = 0, *, timeout_s: float | None = None
    ) -> tuple[Member, ...]:
        """Members of a room by ascending user_id, at most 256; none is the end."""
        return await self._call(Calls.MEMBERS(room_id, after_user_id), timeout_s)

    async def direct(
        self, to_user: int, message: str, *, timeout_s: float | None = None
    ) -> DirectSendResponse:
        """Say something to one user, on all their connections; NotFound if there is none."""
        return await self._call(Calls.DIRECT(to_user, message), timeout_s)

    async def lookup(self, username: str, *, timeout_s: float | None = None) -> UserLookupResponse:
        """Find a user by name; NotFound."""
        return await self._call(Calls.LOOKUP(username), timeout_s)

    async def user_name(self, user_id: int, *, timeout_s: float | None = None) -> UserNameResponse:
        """Find a user by id; NotFound."""
        return await self._call(Calls.USER_NAME(user_id), timeout_s)

    # ---- ledger: amounts are in minor units. `req_id` and `possible_duplicate` repeat a request
    # whose answer never came: it is executed if it was not, and its outcome is told if it was.

    async def deposit(
        self,
        amount: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> DepositResponse:
        """Bring money in from outside."""
        return await self._call(Calls.DEPOSIT(amount), timeout_s, req_id, possible_duplicate)

    async def withdraw(
        self,
        amount: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> WithdrawResponse:
        """Take money out; InsufficientFunds."""
        return await self._call(Calls.WITHDRAW(amount), timeout_s, req_id, possible_duplicate)

    async def transfer(
        self,
        to_user: int,
        amount: int,
        *,
        req_id: int | None = None,
        possible_duplicate: bool = False,
        timeout_s: float | None = None,
    ) -> TransferResponse:
        """Pay another user; InsufficientFunds, NotFound."""
        call = Calls.TRANSFER(to_user, amount)
        return await self._call(call, timeout_s, req_id, possible_duplicate)

    async def balance(self, *, timeout_s: float | None = None) -> BalanceResponse:
        """One's own balance, and the last transaction that changed it."""
        return await self._call(Calls.BALANCE(), timeout_s)

    async def transactions(
        self, before_txn_id: int = 0, limit: int = 256, *, timeout_s: float | None = None
    ) -> tuple[Transaction, ...]:
        """One's own transactions, newest first, at most 256; 0: from the newest."""
        return await self._call(Calls.TRANSACTIONS(before_txn_id, limit), timeout_s)
