"""The shape of the table of requests, and the counters of each.

What is in the table stands in dispatch.py, above the handlers; a connection is given it.
"""

from collections.abc import Callable
from typing import Any, Final

from libproto.codec import REQUEST
from libproto.messages import BY_OPCODE, State
from server.region.counters import index_of

Decode = Callable[[bytes, int, int], tuple[Any, ...]]
Handler = Callable[..., bytes | None]
"""Called with the services, the connection, the req_id, the flags and the fields of the body."""
Table = dict[State, dict[int, tuple[Decode, Handler, int]]]
"""By state what is allowed in it, by opcode: decode, handler, the word that counts it."""

# By opcode: the word of the counter, within the worker's.
REQUESTS: Final = {
    int(opcode): index_of(f"requests_{BY_OPCODE[opcode].name}") for opcode in REQUEST
}
ERRORS: Final = {int(opcode): index_of(f"errors_{BY_OPCODE[opcode].name}") for opcode in REQUEST}
