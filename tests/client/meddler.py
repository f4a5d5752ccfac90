"""A relay that whoever is in between could run: it reads, changes, drops and repeats frames."""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from libproto.codec import REQUEST, RESPONSE
from libproto.framing import Decoder, assemble
from libproto.messages import HEADER_LEN, HelloRequest, HelloResponse, Opcode
from libproto.sealing import KeyPair, Keys, Opener, Sealer, ServerKey
from libproto.wrapping import Unwrapper, Wrapper

Meddle = Callable[[int, bytes], list[bytes]]
"""Is given the opcode and a whole frame; what is passed on in its place."""


def pass_on(opcode: int, frame: bytes) -> list[bytes]:
    del opcode
    return [frame]


def opcode_of(frame: bytes) -> int:
    return int.from_bytes(frame[10:12], "big")


class Meddler:
    """Passes connections on, one after the other or several at once, frame by frame."""

    def __init__(
        self,
        server_port: int,
        requests: Meddle = pass_on,
        answers: Meddle = pass_on,
        port: int = 0,
    ) -> None:
        """port: where it listens, if not anywhere."""
        self._server_port = server_port
        self._meddles = requests, answers
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.seen: list[int] = []
        """Opcodes that clients have sent."""
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._socks:
            sock.close()

    def meddles(self) -> tuple[Meddle, Meddle]:
        """For one connection."""
        return self._meddles

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._socks += [client, server]
                requests, answers = self.meddles()
                for each in ((client, server, requests), (server, client, answers)):
                    thread = threading.Thread(target=self._pass_on, args=each)
                    self._threads.append(thread)
                    thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, meddle: Meddle) -> None:
        held = b""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                held += data
                while len(held) >= HEADER_LEN:
                    end = HEADER_LEN + int.from_bytes(held[6:10], "big")
                    if len(held) < end:
                        break
                    frame, held = held[:end], held[end:]
                    if meddle is not None and source in self._socks[::2]:
                        self.seen.append(opcode_of(frame))
                    for passed in meddle(opcode_of(frame), frame):
                        target.sendall(passed)
            target.shutdown(socket.SHUT_WR)


class Impostor(Meddler):
    """Speaks to the client as the server, and to the server as the client: with keys of its own for
    each, so that it reads and may change everything. key: the identity that it shows; None: that of
    the server, with the server's signature."""

    def __init__(self, server_port: int, key: ServerKey | None) -> None:
        self.key = key
        self.read: list[int] = []
        """Opcodes of requests that it could read behind HELLO."""
        super().__init__(server_port)

    def meddles(self) -> tuple[Meddle, Meddle]:
        between = _Between(self)
        return between.request, between.answer


class _Between:
    def __init__(self, impostor: Impostor) -> None:
        self._impostor = impostor
        self._as_client, self._as_server = KeyPair(), KeyPair()
        self._asked: HelloRequest | None = None
        self._to_server: tuple[Unwrapper, Wrapper] | None = None
        self._to_client: tuple[Unwrapper, Wrapper] | None = None

    def request(self, opcode: int, frame: bytes) -> list[bytes]:
        if self._to_server is not None:
            self._impostor.read.append(opcode)
            return _through(self._to_server, frame)
        if opcode != Opcode.HELLO:
            return [frame]
        fields = REQUEST[Opcode.HELLO].decode(frame, HEADER_LEN, len(frame))
        self._asked = HelloRequest._make(fields)
        return [
            _with_body(frame, REQUEST[Opcode.HELLO].encode(*fields[:-1], self._as_client.public))
        ]

    def answer(self, opcode: int, frame: bytes) -> list[bytes]:
        if self._to_client is not None:
            return _through(self._to_client, frame)
        if opcode != Opcode.HELLO:
            return [frame]
        assert self._asked is not None
        answer = HelloResponse._make(RESPONSE[Opcode.HELLO].decode(frame, HEADER_LEN, len(frame)))
        nonces = self._asked.client_nonce, answer.server_nonce
        ours = self._as_client.agree(answer.public_key, *nonces)
        theirs = self._as_server.agree(self._asked.public_key, *nonces)
        shown = answer._replace(public_key=self._as_server.public)
        if (key := self._impostor.key) is not None:
            shown = shown._replace(identity=key.identity, signature=b"")
            request = REQUEST[Opcode.HELLO].encode(*self._asked)
            unsigned = RESPONSE[Opcode.HELLO].encode(*shown)[:-2]
            shown = shown._replace(signature=key.sign(request, unsigned))
        self._to_server = _pair(theirs, ours, "client_to_server")
        self._to_client = _pair(ours, theirs, "server_to_client")
        return [_with_body(frame, RESPONSE[Opcode.HELLO].encode(*shown))]


def _pair(comes: Keys, goes: Keys, direction: str) -> tuple[Unwrapper, Wrapper]:
    opener = Opener(getattr(comes, direction))
    return Unwrapper(Decoder(1 << 20), opener, False), Wrapper(Sealer(getattr(goes, direction)))


def _through(pair: tuple[Unwrapper, Wrapper], frame: bytes) -> list[bytes]:
    opens, seals = pair
    opens.feed(frame)
    taken = opens.next()
    assert taken is not None
    opcode, req_id, flags, status, buf, start, end, fault = taken
    assert not fault
    return [seals.wrap(assemble(opcode, req_id, flags, status, buf[start:end]))]


def _with_body(frame: bytes, body: bytes) -> bytes:
    opcode, status = opcode_of(frame), int.from_bytes(frame[12:14], "big")
    return assemble(opcode, int.from_bytes(frame[14:22], "big"), frame[3], status, body)
