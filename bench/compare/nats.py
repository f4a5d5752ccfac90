"""NATS: each member has subscribed to one subject of a core NATS server."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.compare.contender import LOCALHOST, PAYLOAD, LoadFailed
from bench.compare.fanout import Dialect, Members, connect, receive, text_of
from bench.compare.programs import Daemon, directory, find, free_port
from bench.lab.process import CpuTime

SERVER: Final = ("nats-server", "nats-server")
_SUBJECT: Final = b"room"
_CONNECT: Final = {"verbose": False, "pedantic": False, "name": "tradechat-compare"}
_HEAD: Final = b"MSG %b 1 %d\r\n" % (_SUBJECT, PAYLOAD)
# The stream to a member is frames of one length and nothing else: no PING while it is measured.
_CONFIGURATION: Final = 'ping_interval: "10h"\n'


class Subject(Dialect):
    """A nats-server in a temporary directory. Missing, LoadFailed."""

    frame_len = len(_HEAD) + PAYLOAD + 2

    def __init__(self) -> None:
        program = find(*SERVER)
        self._port = free_port()
        with ExitStack() as undo:
            made = directory(undo)
            configuration = Path(made) / "nats.conf"
            configuration.write_text(_CONFIGURATION)
            words = ("-a", LOCALHOST, "-p", str(self._port), "-c", str(configuration))
            self._daemon = Daemon([program, *words], made, self._is_ready)
            undo.callback(self._daemon.close)
            self._undo = undo.pop_all()

    def _is_ready(self) -> bool:
        try:
            connect(self._port).close()
        except OSError:
            return False
        return True

    def _connect(self, subscription: bytes) -> socket.socket:
        sock = connect(self._port)
        told = b""
        while not told.endswith(b"\r\n"):
            told += sock.recv(4096) or b"\r\n"
        if not told.startswith(b"INFO "):
            raise LoadFailed(f"nats: {told!r} was sent instead of INFO")
        hello = json.dumps(_CONNECT).encode()
        sock.sendall(b"CONNECT %b\r\n%bPING\r\n" % (hello, subscription))
        return sock

    def cpu(self) -> CpuTime:
        return self._daemon.cpu()

    def open(self, members: int) -> Members:
        """Ready when each has its answer, and the server's own first PING, which comes two seconds
        later and measures the way."""
        subscription = b"SUB %b 1\r\n" % _SUBJECT
        sockets = [self._connect(subscription) for _ in range(members)]
        sockets.append(self._connect(b""))
        for sock in sockets:
            expected = b"PONG\r\nPING\r\n"
            if (told := receive(sock, len(expected))) != expected:
                raise LoadFailed(f"nats: {told!r} was sent instead of {expected!r}")
            sock.sendall(b"PONG\r\n")
        return Members(sockets[:-1], sockets[-1])

    def message(self, serial: int) -> bytes:
        return b"PUB %b %d\r\n%b\r\n" % (_SUBJECT, PAYLOAD, text_of(serial))

    def text(self, frame: bytes) -> bytes:
        return frame[-PAYLOAD - 2 : -2] if frame.startswith(_HEAD) else b""

    def are_answers(self, data: bytes, messages: int) -> bool:  # noqa: ARG002 - there are none
        return data == b""  # a publisher is told nothing

    def close(self) -> None:
        self._undo.close()
