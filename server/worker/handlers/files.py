"""Files in rooms."""

from typing import Any

from libproto.errors import Status
from libproto.messages import Opcode
from server.worker.connection import Connection
from server.worker.refusal import Refused
from server.worker.requests import Handler
from server.worker.services import Services

RETRY_MS = 5000


def unavailable(
    services: Services, connection: Connection, req_id: int, flags: int, *fields: Any
) -> bytes | None:
    """There is nobody who could do it."""
    del services, req_id, flags, fields
    connection.live_session()
    raise Refused(Status.ERR_SERVER_BUSY, "files cannot be reached just now", RETRY_MS)


HANDLERS: dict[Opcode, Handler] = dict.fromkeys(
    (
        Opcode.FILE_BEGIN,
        Opcode.FILE_PUT,
        Opcode.FILE_END,
        Opcode.FILE_GET,
        Opcode.LINK_FETCH,
    ),
    unavailable,
)
