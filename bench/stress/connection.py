"""One user's connection: never blocking, its answers matched by req_id, made anew when it is lost.

A connection that breaks, or that owes an answer for too long, is closed. The next one logs in
with the same client_id, joins the rooms again, and repeats the numbered requests (what moves money,
and messages) that are unanswered, so that each is executed once and its outcome becomes known;
other requests are lost with their connection. A request that is repeated still counts from when it
was first due.

Where the server says that it will close a connection, nothing new is sent on it; when all is
answered the next one is made, and the old one is closed when that has logged in.
"""

import errno
import os
import random
import select
import socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from bench.lab.login import OTHER_REQ_IDS, Greeting, decoder, greet
from bench.stress import boards, notes
from bench.stress.mix import OPERATIONS
from bench.stress.outcomes import Outcomes, Request, Tally
from bench.stress.pushes import Pushes
from client.core.numbers import NUMBERED
from libnet import kernel
from libnet.sockets import USER_TIMEOUT_MS, is_self_connected, tune
from libproto import calls
from libproto.codec import ERROR, RESPONSE
from libproto.errors import PeerError, Status
from libproto.framing import Decoder
from libproto.messages import Flag, HelloResponse, Opcode
from libproto.words import PAIRS
from libproto.wrapping import Wrapper

LOGIN_S: Final = 5.0
"""After that another connection is tried: who has accepted this one may have been killed."""
BACK_OFF_S: Final = (0.01, 1.0)
"""The first pause, and the longest, before jitter; each is twice the one before."""
SLOW_BUFFER: Final = 4096
# Numbers in place of names: what is looked at for every frame is compared as plain integers.
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_GOING_AWAY = int(Opcode.GOING_AWAY)
_FIRST_BOARD, _LAST_BOARD = int(min(boards.OPCODES)), int(max(boards.OPCODES))
_RESPONSE = int(Flag.RESPONSE)
_DUPLICATE = int(Flag.POSSIBLE_DUPLICATE)
_SERVER_BUSY = int(Status.ERR_SERVER_BUSY)
assert set(OPERATIONS) - set(boards.OPCODES) <= set(PAIRS)
assert set(range(_FIRST_BOARD, _LAST_BOARD + 1)) == set(boards.OPCODES), "compared as a range"


class Member(NamedTuple):
    """Who is to be connected."""

    account: int  # its index
    name: str
    user: int  # user_id
    rooms: list[int]
    slow: bool  # it reads little, and sends nothing


class Host(Tally):
    """What a connection needs of the thread that it belongs to."""

    def __init__(
        self,
        address: tuple[int, Any],
        timeout_s: float,
        *,
        is_open: bool,
        ignores_busy: bool = False,
        encrypts: bool = False,
    ) -> None:
        """address: family and address of the server. The others: of the options."""
        Tally.__init__(self, is_open=is_open)
        self.poll = select.epoll()
        self.address = address
        self.timeout_s = timeout_s
        self.ignores_busy = ignores_busy
        self.encrypts = encrypts
        self.connections: dict[int, Connection] = {}  # by file descriptor

    def free(self, connection: "Connection", at: float) -> None:
        """One of its requests was answered, or it has logged in: it may send."""
        raise NotImplementedError  # when a request is due is for the thread of the load to say

    def jitter(self) -> float:
        """0.5 to 1.5, at random."""
        raise NotImplementedError  # what is random is the thread's, by the seed

    def later(self, at: float, call: Callable[[float], None]) -> None:
        """Call at that time."""
        raise NotImplementedError  # the thread has the timers


class Connection:
    """The connections of one user, one at a time."""

    def __init__(self, host: Host, member: Member, rng: random.Random) -> None:
        """rng: for all that it asks for."""
        self.account, self.name, self.user, self.rooms, self.slow = member
        self.funded = False  # it has asked for what it has at first
        self.waking = 0.0  # when it was last due to be told that it is not blocked any more
        self.live = False  # logged in, in its rooms, and nothing left to repeat first
        self.leaving = False  # the server will close it: nothing more is to be sent
        self.in_flight = 0  # requests of the load
        self.blocked_until = 0.0  # after ERR_SERVER_BUSY
        self.reconnects = -1
        self.moves = 0  # to another connection before the server closed one
        self.failure = ""  # why it could not log in the last time
        self.last_sent = 0.0
        self.heartbeat_s = 0
        self.pending: dict[int, Request] = {}
        self.pushes = Pushes(host, self.name, self.rooms, slow=self.slow)
        self.outcomes = Outcomes(host, self.user, self.name)
        self._host = host
        self._client_id = int.from_bytes(os.urandom(8)) | 1  # its users may have had others
        self.random = rng
        self._sock: socket.socket | None = None
        self._fd = -1  # of it
        self._old: socket.socket | None = None  # that is left, until the next one has logged in
        self._decoder = decoder()
        self._wrapper: Wrapper | None = None  # of what is sent
        self._out: list[bytes] = []  # to be sent
        self._interest = 0  # what the poll waits for
        self._paused = False
        self._connecting = False
        self._attempts = 0  # since it was last live
        self._opened = 0.0
        self._busy = 0  # ERR_SERVER_BUSY in a row
        self._next_numbered = 1
        self._next_other = OTHER_REQ_IDS
        self._repeat: dict[int, Request] = {}  # numbered requests to send again when live
        self._moved = False  # the session was taken along from another connection
        self._greeting: Greeting | None = None

    # ---- the connection

    def open(self, now: float) -> None:
        """Begin to connect."""
        family, address = self._host.address
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        tune(sock, USER_TIMEOUT_MS)
        if self.slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        self._sock, self._fd = sock, sock.fileno()
        self._opened, self._connecting = now, True
        self._decoder, self._out = decoder(encrypts=self._host.encrypts), []
        self._wrapper = None
        self.pushes.joining, self._paused = set(self.rooms), False
        self._interest = _IN | _OUT
        self._host.connections[self._fd] = self
        self._host.poll.register(sock, self._interest)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self.lost(os.strerror(code), now)

    def writable(self, now: float) -> None:
        sock = self._sock
        assert sock is not None
        if self._connecting:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            try:
                if not code and is_self_connected(sock):
                    code = errno.ECONNREFUSED
            except OSError as error:  # it was reset just now
                code = error.errno or errno.ECONNRESET
            if code:
                self.lost(os.strerror(code), now)
                return
            self._connecting = False
            self._greeting = greet(self.name, encrypts=self._host.encrypts)
            self._own(Opcode.HELLO, self._greeting.fields, now)
        self._flush(now)

    def close(self) -> None:
        """For good."""
        if self._sock is not None:
            self._host.poll.unregister(self._sock)
            del self._host.connections[self._fd]
            self._sock.close()
            self._sock = None
        self._close_old()
        self.live = self.leaving = False

    def _move_at_rest(self, now: float) -> None:
        """Make another connection beside this one, once it is logged in and all is answered."""
        old = self._sock
        if not self.live or self.pending or old is None:
            return
        self._host.poll.unregister(old)
        del self._host.connections[self._fd]
        self._old, self._sock = old, None
        self.live = self.leaving = False
        self.open(now)

    def _close_old(self) -> None:
        if self._old is not None:
            self._old.close()
            self._old = None

    def lost(self, why: str, now: float) -> None:
        """Give this connection up, and try another one soon."""
        if self._sock is None:
            return
        self.close()
        self.failure = why
        for req_id, request in self.pending.items():
            if request.opcode in NUMBERED:
                self._repeat[req_id] = request
            elif request.counted and not request.failed:
                self._host.recorder.failure(request.opcode, "lost", request.due, now)
        self.pending = {}
        self.in_flight = 0
        pause = min(BACK_OFF_S[0] * 2**self._attempts, BACK_OFF_S[1]) * self._host.jitter()
        self._attempts = min(self._attempts + 1, 16)
        self._host.later(max(now + pause, self.blocked_until), self.open)

    def check(self, now: float) -> None:
        """Give it up if it owes an answer for too long; tell the server that it is there."""
        if self._sock is None:
            return
        if not self.live:
            if now - self._opened > LOGIN_S:
                self.lost("it is not logged in in time", now)
            return
        if now - self.last_sent > self.heartbeat_s:
            self._own(Opcode.HEARTBEAT, (0,), now)
            self._flush(now)
        oldest = next(iter(self.pending.values()), None)
        timeout = self._host.timeout_s
        if oldest is None or self.slow or now - oldest.asked <= timeout:
            return
        for request in self.pending.values():
            if request.counted and not request.failed and now - request.asked > timeout:
                request.failed = True
                self._host.recorder.failure(request.opcode, "timeout", request.due, now)
        self.lost("it does not answer", now)

    # ---- sending

    def _own(self, opcode: Opcode, fields: tuple[Any, ...], now: float) -> None:
        self._next_other += 1
        request = Request(opcode, fields, now, now, counted=False)
        self.pending[self._next_other] = request
        self._write(calls.request(opcode, self._next_other, 0, fields), now)

    def send(self, opcode: int, fields: tuple[Any, ...], due: float, now: float) -> None:
        """A request of the load; `flush` sends what was asked to be sent."""
        if opcode in NUMBERED:
            req_id = self._next_numbered
            self._next_numbered += 1
        else:
            self._next_other += 1
            req_id = self._next_other
        self.pending[req_id] = Request(opcode, fields, due, now, counted=True)
        self.in_flight += 1
        self._write(calls.request(opcode, req_id, 0, fields), now)

    def _write(self, frame: bytes, now: float) -> None:
        self._out.append(frame if self._wrapper is None else self._wrapper.wrap(frame))
        self.last_sent = now

    def flush(self, now: float) -> None:
        if self._out and self._sock is not None:
            self._flush(now)

    def _flush(self, now: float) -> None:
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            try:
                done = kernel.send(self._fd, data, 0)
            except OSError as error:
                self.lost(os.strerror(error.errno or 0), now)
                return
            out.clear()
            if done < len(data):
                out.append(data[done:])
        self._watch()

    def _watch(self) -> None:
        interest = 0 if self._paused else _IN
        if self._out or self._connecting:
            interest |= _OUT
        if interest != self._interest:
            self._interest = interest
            self._host.poll.modify(self._fd, interest)

    def pause(self, on: bool) -> None:
        """Leave what comes where it is, or take it again."""
        if self._sock is not None and self.live:
            self._paused = on
            self._watch()

    # ---- receiving

    def readable(self, size: int) -> float:
        """Take what has come; the time of that. size: bytes at most; 0: as many as go at once."""
        sock = self._sock
        assert sock is not None
        try:
            data = sock.recv(size) if size else kernel.receive(self._fd)
        except BlockingIOError:
            data = None
        except OSError as error:
            data, self.failure = b"", os.strerror(error.errno or 0)
        now = notes.now()
        if data is None:
            return now
        if not data:
            self.lost("the server closed it", now)
            return now
        frame = self._decoder
        frame.feed(data)
        while frame.following():
            try:
                self._take(frame, now)
            except PeerError as error:
                self.pushes.unexpected(f"{Opcode(frame.opcode).name}: {error}")
            if self._sock is not sock:
                return now
        if frame.dead:
            self.lost("what it sends is no frame", now)
        return now

    def _take(self, frame: Decoder, now: float) -> None:
        opcode, req_id, status = frame.opcode, frame.req_id, frame.status
        if frame.fault:
            self.pushes.unexpected(f"a frame with fault {frame.fault}, opcode {opcode:#06x}")
            return
        if not frame.flags & _RESPONSE:
            if opcode == _GOING_AWAY:
                self.leaving = True
                self._move_at_rest(now)
            else:
                self.pushes.take(opcode, frame.buf, frame.start, frame.end, now)
            return
        request = self.pending.get(req_id)
        if request is None or request.opcode != opcode:
            if (opcode, req_id, status) == (Opcode.HELLO, 0, Status.ERR_SERVER_BUSY):
                self.lost("the server has no room for another connection", now)
            else:
                text = f"an answer nobody waits for: opcode {opcode:#06x}, req_id {req_id}"
                self.pushes.unexpected(f"{text}, status {status}")
            return
        del self.pending[req_id]
        if status == _SERVER_BUSY and self._host.ignores_busy and request.counted:
            # Of these there may be more than of all else: what it asks for is not even decoded.
            if request.repeated:
                self._once_more(req_id, request, now)
            elif not request.failed:
                self._host.recorder.failure(opcode, "busy", request.due, now)
            self.in_flight -= 1
            self._host.free(self, now)
            if self.leaving:
                self._move_at_rest(now)
            return
        buf, start, end = frame.buf, frame.start, frame.end
        if not request.counted:
            codec = ERROR if status else RESPONSE[opcode]
            fields = codec.decode(buf, start, end)
            self._settle_own(request, status, fields, buf[start:end], now)
            if self.leaving:
                self._move_at_rest(now)
            return
        if not status and _FIRST_BOARD <= opcode <= _LAST_BOARD:
            self._busy = 0
            self.outcomes.of_a_board(request, RESPONSE[opcode].decode(buf, start, end), now)
        elif not status:
            first, second = calls.pair(opcode, buf, start, end)
            self._busy = 0
            self.outcomes.succeeded(request, first, second, now)
        else:
            retry_after_ms, detail = ERROR.decode(buf, start, end)
            if status == _SERVER_BUSY:
                self._pause_for(retry_after_ms, now)
            if self.outcomes.refused(req_id, request, status, detail, now):
                self._once_more(req_id, request, self.blocked_until)
        self.in_flight -= 1
        self._host.free(self, now)
        if self.leaving:
            self._move_at_rest(now)

    def _once_more(self, req_id: int, request: Request, at: float) -> None:
        """Repeat a request again: what became of its first sending is not told yet."""
        request.failed = True
        self._repeat[req_id] = request
        self._host.later(max(at, notes.now() + BACK_OFF_S[0]), self._send_again)

    def _pause_for(self, retry_after_ms: int, now: float) -> None:
        """Send nothing for so long and up to half of that longer, so that those who were refused
        together do not come again together."""
        host = self._host
        pause = min(BACK_OFF_S[0] * 2**self._busy, BACK_OFF_S[1]) * host.jitter()
        self._busy = min(self._busy + 1, 16)
        asked = retry_after_ms / 1000 * (1.25 + (host.jitter() - 1) / 2)
        self.blocked_until = now + max(pause, asked)

    def unanswered(self) -> dict[int, Request]:
        """The requests whose outcome it waits for, by req_id."""
        return self._repeat | self.pending

    # ---- logging in

    def _settle_own(
        self, request: Request, status: int, fields: tuple[Any, ...], body: bytes, now: float
    ) -> None:
        """The answer to a request that is not of the load."""
        opcode = Opcode(request.opcode)
        if status == Status.ERR_SERVER_BUSY and opcode == Opcode.JOIN_ROOM:
            self._pause_for(fields[0], now)
            sock = self._sock

            def join(at: float) -> None:
                if self._sock is sock:
                    self._own(Opcode.JOIN_ROOM, request.fields, at)
                    self.flush(at)

            self._host.later(self.blocked_until, join)
            return
        if status:
            if status == Status.ERR_SERVER_BUSY:
                self._pause_for(fields[0], now)
            if opcode == Opcode.LOGIN and status == Status.ERR_UNAUTHORIZED:
                self._host.recorder.failure(opcode, "auth", request.due, now)
            why = f"{opcode.name}: {Status(status).name}, {fields[1]}"
            if opcode == Opcode.JOIN_ROOM and status == Status.ERR_NOT_FOUND:
                room = request.fields[0]
                why += f" {room}: its setting numbered_rooms is to be at least that of --rooms"
            self.lost(why, now)
        elif opcode == Opcode.HELLO:
            assert self._greeting is not None  # it was sent
            answer = HelloResponse._make(fields)
            self.heartbeat_s = answer.heartbeat_s
            try:
                self._wrapper = self._greeting.agree(answer, self._decoder)
            except ValueError as error:
                self.lost(str(error), now)
                return
            login = self._greeting.login(body, answer, self._client_id, self._next_numbered)
            self._own(Opcode.LOGIN, login, now)
        elif opcode == Opcode.LOGIN:
            self._moved = self._old is not None
            self._close_old()
            for room in self.rooms:
                self._own(Opcode.JOIN_ROOM, (room,), now)
            self._settled(now)
        elif opcode == Opcode.JOIN_ROOM:
            room, last_seq, _, epoch = fields
            self.pushes.joining.discard(room)
            self.pushes.streams[room].joined(last_seq, epoch)
            self._settled(now)
        self.flush(now)

    def _settled(self, now: float) -> None:
        """Live, if it is in all of its rooms."""
        if self.pushes.joining:
            return
        self.live = True
        self.reconnects += not self._moved
        self.moves += self._moved
        self._moved = False
        self._attempts = self._busy = 0
        self._send_again(now)
        self._host.free(self, now)

    def _send_again(self, now: float) -> None:
        if not self.live:
            return
        for req_id, request in self._repeat.items():
            request.repeated, request.asked = True, now
            self.pending[req_id] = request
            self.in_flight += 1
            self._write(calls.request(request.opcode, req_id, _DUPLICATE, request.fields), now)
        self._repeat = {}
        self.flush(now)
