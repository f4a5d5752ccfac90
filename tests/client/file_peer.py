"""A server of a few lines that takes and gives files, and can be told to be a bad one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from threading import Lock

from libproto.errors import Status
from libproto.messages import CHUNK_MAX, Opcode
from tests.client.peer import Handshake, Request, Wire, answer, refuse, serving_everybody


class Upload:
    def __init__(self, key: tuple[object, ...]) -> None:
        self.key = key
        self.room, self.size, self.sha256, self.media_type, self.name = key
        self.data = b""


class FilePeer:
    """Uploads outlive connections. `before` may answer a request otherwise, or close the connection
    by raising EOFError."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.port = 0
        self.last_id = 0
        self.uploads: dict[int, Upload] = {}
        self.files: dict[int, bytes] = {}
        self.events: list[tuple[int, str]] = []  # of each publication
        self.requests: list[Request] = []
        self.outcomes: dict[int, int] = {}  # of each req_id
        self.before: Callable[[Request], bytes | None] = lambda _: None

    def script(self, wire: Wire) -> None:
        wire.log_in(Handshake())
        while True:
            request = wire.request()
            with self.lock:
                self.requests.append(request)
                wire.send(self.before(request) or self.respond(request))

    def count(self, opcode: Opcode) -> int:
        return sum(request.opcode == opcode for request in self.requests)

    def respond(self, request: Request) -> bytes:
        fields = request.fields
        match request.opcode:
            case Opcode.JOIN_ROOM:
                return answer(request, fields[0], 0, 1, 1)
            case Opcode.FILE_BEGIN:
                for file_id, upload in self.uploads.items():
                    if upload.key == fields:
                        return answer(request, file_id, len(upload.data))
                self.last_id = file_id = self.last_id + 1
                self.uploads[file_id] = Upload(fields)
                return answer(request, file_id, 0)
            case Opcode.FILE_PUT:
                return self._put(request, *fields)
            case Opcode.FILE_END:
                return self._end(request, *fields)
            case Opcode.FILE_GET:
                file_id, offset, length = fields
                if (data := self.files.get(file_id)) is None:
                    return refuse(request, Status.ERR_NOT_FOUND)
                part = data[offset : offset + min(length, CHUNK_MAX)]
                return answer(request, len(data), offset, part)
            case Opcode.ROOM_HISTORY:
                after = fields[1]
                events = [
                    (fields[0], seq, 1, 8, 7, "mallory", self._said(file_id, name))
                    for seq, (file_id, name) in enumerate(self.events, 1)
                    if seq > after
                ]
                return answer(request, fields[0], 1, 1, events)
            case Opcode.ROOM_INFO:
                return answer(request, "", "", 0, 0, 0)
            case Opcode.ROOM_MEMBERS | Opcode.ROOM_LIST | Opcode.BOARD_LIST:
                return answer(request, [])
            case Opcode.HEARTBEAT:
                return answer(request, *fields, 1)
            case Opcode.LINK_FETCH:
                return answer(request, 77, 5, 3)
            case Opcode.USER_NAME:
                return answer(request, fields[0], "ann", 1, 0)
        return answer(request)

    def share(self, name: str, data: bytes) -> int:
        """Something that was shared before, under whatever name."""
        self.last_id += 1
        self.files[self.last_id] = data
        self.events.append((self.last_id, name))
        return self.last_id

    def _said(self, file_id: int, name: str) -> str:
        return f"{file_id} {len(self.files[file_id])} text/plain {name}"

    def _put(self, request: Request, file_id: int, offset: int, data: bytes) -> bytes:
        upload = self.uploads.get(file_id)
        if upload is None:
            return refuse(request, Status.ERR_NOT_FOUND)
        if offset != len(upload.data) or len(data) > CHUNK_MAX:
            return refuse(request, Status.ERR_BAD_PACKET, f"from {len(upload.data)} on")
        upload.data += data
        return answer(request, len(upload.data))

    def _end(self, request: Request, file_id: int) -> bytes:
        if request.req_id in self.outcomes:
            return answer(request, self.outcomes[request.req_id], flags=8)
        upload = self.uploads.get(file_id)
        if upload is None:
            return refuse(request, Status.ERR_NOT_FOUND)
        if len(upload.data) < int(str(upload.size)):
            return refuse(request, Status.ERR_BAD_PACKET, "it is not whole")
        del self.uploads[file_id]
        if sha256(upload.data).digest() != upload.sha256:
            return refuse(request, Status.ERR_BAD_PACKET, "another hash")
        self.files[file_id] = upload.data
        self.events.append((file_id, str(upload.name)))
        self.outcomes[request.req_id] = len(self.events)
        return answer(request, len(self.events))


@contextmanager
def file_peer() -> Iterator[tuple[FilePeer, int]]:
    """One, and its port."""
    peer = FilePeer()
    with serving_everybody(peer.script) as port:
        yield peer, port
