"""The quota of what one user may write: the requests that it counts, whatever they mean."""

from typing import Any, Final

from libproto.framing import Decoder
from libproto.messages import MESSAGES, Opcode
from server.worker.rates import Rates
from server.worker.requests import Request

WRITES: Final = frozenset(
    [message.opcode for message in MESSAGES if message.numbered]
    + [Opcode.JOIN_ROOM, Opcode.CHAT_DELETE, Opcode.BLOCK, Opcode.PASSWORD]
)
"""Requests that go to the journal. Leaving a room, and logging out, is refused to nobody."""


class Counted(Request):
    """A request that is counted before it is executed."""

    __slots__ = ("_rates", "_request")

    def __init__(self, request: Request, rates: Rates) -> None:
        Request.__init__(self, request.record, request.decode)
        self._request, self._rates = request, rates

    def serve(self, connection: Any, frame: Decoder) -> bytes | None:
        self._rates.check_write(connection.session.user)
        return self._request.serve(connection, frame)

    def execute(
        self, connection: Any, req_id: int, flags: int, fields: tuple[Any, ...]
    ) -> bytes | None:
        """Once more, as it had to wait: it has been counted."""
        return self._request.execute(connection, req_id, flags, fields)
