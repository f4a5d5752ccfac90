"""A member of a room who shares and reads files, for measurements."""

import hashlib
from typing import Final

from bench.lab.caller import Caller
from bench.lab.cli import BenchFailed
from libproto.codec import REQUEST, RESPONSE
from libproto.messages import CHUNK_MAX, Opcode

IN_FLIGHT: Final = 8
"""Requests of a reader that are on their way."""
ROOM: Final = 1
_MEDIA: Final = "application/octet-stream"

_get = REQUEST[Opcode.FILE_GET].frame
_got = RESPONSE[Opcode.FILE_GET].decode


class Member(Caller):
    """One in the room, who shares and reads."""

    def __init__(self, port: int, name: str, client_id: int) -> None:
        Caller.__init__(self, "127.0.0.1", port)
        self.login(name, client_id)
        self.call(Opcode.JOIN_ROOM, ROOM)

    def share(self, data: bytes, name: str) -> int:
        sha256 = hashlib.sha256(data).digest()
        file_id, received = self.call(Opcode.FILE_BEGIN, ROOM, len(data), sha256, _MEDIA, name)
        for at in range(received, len(data), CHUNK_MAX):
            self.call(Opcode.FILE_PUT, file_id, at, data[at : at + CHUNK_MAX])
        self.call(Opcode.FILE_END, file_id)
        return int(file_id)

    def read(self, file_id: int, size: int) -> int:
        """How many bytes there were; IN_FLIGHT requests are on their way at a time."""
        offsets = range(0, size, CHUNK_MAX)
        asked = got = 0
        while got < size:
            ahead = offsets[asked : got // CHUNK_MAX + IN_FLIGHT]
            if ahead:
                frames = [_get(self.req_id + n, 0, file_id, at, CHUNK_MAX) for n, at in
                          enumerate(ahead, 1)]  # fmt: skip
                self.req_id += len(ahead)
                self.sock.sendall(b"".join(frames))
                asked += len(ahead)
            while (frame := self.decoder.next()) is None:
                self.decoder.feed(self.sock.recv(1 << 20))
            opcode, _, _, status, buf, start, end, _ = frame
            if opcode == Opcode.FILE_GET:
                if status:
                    raise BenchFailed(f"FILE_GET was answered with status {status}")
                got += len(_got(buf, start, end)[2])
        return got
