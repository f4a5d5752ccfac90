"""What a connection does with a request: the shape of the table.

What is in the table stands in dispatch.py, above the handlers; a connection is given it.
"""

from collections.abc import Callable
from typing import Any, Final

from libproto.framing import Decoder
from libproto.messages import State
from server.worker.overload import Share

Decode = Callable[[bytes, int, int], tuple[Any, ...]]
Handler = Callable[..., bytes | None]
"""Called with the services, the connection, the req_id, the flags and the fields of the body."""


class Request:
    """One kind of request, as a worker executes it."""

    __slots__ = ("decode", "record", "share")

    def __init__(self, record: int, decode: Decode) -> None:
        """record: what is counted of them; see Served."""
        self.record: Final = record
        self.decode: Final = decode
        self.share = Share()  # of these, what is refused under overload

    def serve(self, connection: Any, frame: Decoder) -> bytes | None:
        """Execute the request at which the decoder stands; its answer, if that comes at once.

        On the hot path it takes its fields without an object for each.
        """
        fields = self.decode(frame.buf, frame.start, frame.end)
        return self.execute(connection, frame.req_id, frame.flags, fields)

    def execute(
        self, connection: Any, req_id: int, flags: int, fields: tuple[Any, ...]
    ) -> bytes | None:
        """The same, from the fields of its body. One that has this may be executed later."""
        raise NotImplementedError  # what a request means is for the subclass to say


class Handled(Request):
    """One that a function executes."""

    __slots__ = ("_handler", "_services")

    def __init__(self, record: int, decode: Decode, services: Any, handler: Handler) -> None:
        Request.__init__(self, record, decode)
        self._services, self._handler = services, handler

    def execute(
        self, connection: Any, req_id: int, flags: int, fields: tuple[Any, ...]
    ) -> bytes | None:
        return self._handler(self._services, connection, req_id, flags, *fields)


Hot = Callable[[int, Decode, Any], Request]
"""Makes one for a worker: record, decode, services."""
Table = dict[State, list[Request | None]]
"""By state what is allowed in it, by opcode."""
