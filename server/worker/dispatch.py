"""Which handler each request has in each state of a connection."""

from libproto.codec import REQUEST
from libproto.errors import Status
from libproto.messages import State
from libproto.session import verdict
from server.worker.handlers import HANDLERS
from server.worker.requests import REQUESTS, Table

assert HANDLERS.keys() == REQUEST.keys(), "a handler for every request, and no other"


def allowed(counters: int) -> Table:
    """For a worker whose counters begin at this word."""
    return {
        state: {
            int(opcode): (REQUEST[opcode].decode, handler, counters + REQUESTS[opcode])
            for opcode, handler in HANDLERS.items()
            if verdict(state, opcode) is Status.OK
        }
        for state in State
    }
