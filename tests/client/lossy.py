"""A core that has logged in, and its server of a few lines in memory."""

from typing import Any

from client.core import auth, calls
from client.core.calls import Call
from client.core.numbers import Numbers
from client.core.pushes import Push
from client.core.resume import ResumingCore
from client.core.session import Answered
from client.errors import (
    ClientError,
    ConnectionLost,
)
from libproto.framing import Decoder
from libproto.messages import (
    ChatBroadcast,
    Opcode,
    State,
)
from tests.client.peer import (
    MAX_BODY_LEN,
    PASSWORD,
    USERNAME,
    Handshake,
    Request,
    answer,
    push,
    read_request,
)

EPOCH = 77


class Link:
    """A core that has logged in, and the server's end of its connection."""

    def __init__(
        self, client_id: int | None = 99, *, payments: bool = False, after: int | None = None
    ) -> None:
        numbers = Numbers(client_id)
        self.core = ResumingCore(numbers, payments, "test", payments_after=after)
        self.handshake = Handshake()
        self.begin()
        keys = auth.derive(self.greet(), PASSWORD)
        greeting = self.greet()
        self.answered(self.handshake.respond(self.send(self.core.login(greeting, keys))))
        assert self.core.state == State.AUTHENTICATED

    def begin(self) -> None:
        self.decoder = Decoder(MAX_BODY_LEN)
        self.reader = Decoder(MAX_BODY_LEN)
        self.core.begin(self.decoder)

    def greet(self) -> auth.Greeting:
        call = auth.hello(USERNAME, "test", self.core.capabilities)
        result: auth.Greeting = self.answered(self.handshake.respond(self.send(call))).result
        return result

    def send(self, call: Call[Any]) -> Request:
        """A request of the program's, as the server reads it."""
        assert self.core.may_send(call, None)
        return self.read(self.core.request(call)[1])[0]

    def read(self, data: bytes) -> list[Request]:
        self.reader.feed(data)
        found = []
        while (frame := self.reader.next()) is not None:
            found.append(read_request(frame))
        return found

    def own(self) -> list[Request]:
        """What the core sends by itself."""
        data = b"".join(self.core.outbox)
        self.core.outbox.clear()
        return self.read(data)

    def receive(self, *frames: bytes) -> list[Answered | Push]:
        self.decoder.feed(b"".join(frames))
        events: list[Answered | Push] = []
        while (frame := self.decoder.next()) is not None:
            events += self.core.take(frame)
        return events

    def answered(self, frame: bytes) -> Answered:
        [event] = self.receive(frame)
        assert isinstance(event, Answered)
        return event

    def join(self, room: int, last_seq: int, epoch: int = EPOCH) -> None:
        self.receive(answer(self.send(calls.join(room)), room, last_seq, 1, epoch))

    def reconnect(self, reason: ClientError | None = None) -> list[int]:
        """Lose the connection and log in again; the req_ids of the calls that failed."""
        failed = self.core.lose(reason or ConnectionLost("gone"))
        assert self.core.loss is None
        assert not self.core.linked
        self.begin()
        for _ in range(2):
            [request] = self.own()
            assert self.receive(self.handshake.respond(request)) == []
        return failed


def said(event: ChatBroadcast) -> bytes:
    return push(Opcode.CHAT_BROADCAST, *event)
