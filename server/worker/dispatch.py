"""Which requests there are in each state of a connection."""

from libproto.codec import REQUEST
from libproto.errors import Status
from libproto.messages import Opcode, State
from libproto.session import verdict
from server.worker.handlers import HANDLERS, HOT
from server.worker.overload import class_of
from server.worker.quota import WRITES, Counted
from server.worker.requests import Handled, Request, Table
from server.worker.services import Services

assert HANDLERS.keys() | HOT.keys() == REQUEST.keys(), "one for every request, and no other"
assert not HANDLERS.keys() & HOT.keys()


def allowed(services: Services) -> Table:
    """What the connections of a worker may ask for."""
    made: dict[int, Request] = {}
    for opcode, codec in ((Opcode(number), codec) for number, codec in REQUEST.items()):
        record = services.served.record(opcode)
        if opcode in HOT:
            made[opcode] = HOT[opcode](record, codec.decode, services)
        else:
            made[opcode] = Handled(record, codec.decode, services, HANDLERS[opcode])
        if opcode in WRITES and services.settings.user_writes:
            made[opcode] = Counted(made[opcode], services.rates)
        shed, overload = class_of(opcode), services.overload
        made[opcode].share = overload.nothing if shed is None else overload.shares[shed]
    return {
        state: [
            made[opcode] if opcode in made and verdict(state, opcode) is Status.OK else None
            for opcode in range(max(made) + 1)
        ]
        for state in State
    }
