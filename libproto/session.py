"""The session state machine, for both ends.

A connection begins in CONNECTED: nothing is known of the peer, and all it may do is say HELLO (or
HEARTBEAT, which is allowed everywhere and changes nothing). The HELLO names a user and brings
fresh nonces; with its answer the connection is GREETED and the user may prove who they are, once.
REGISTER belongs here too, since it takes the salt and the iterations that HELLO spoke of, and it
leaves the connection GREETED so that LOGIN may follow with the salt just registered. A LOGIN that
is answered OK makes the connection AUTHENTICATED, and everything else is open to it. A LOGIN that
is refused, for whatever reason, has used up the nonce, so the connection is back in CONNECTED.
LOGOUT ends the session but not the connection: that is CONNECTED again.

What moves the machine is an answered request: the state before, the opcode, and the status of the
answer. The server moves when it has decided the answer, the client when it reads it; since
answers to these requests keep the order of the requests, both ends pass through the same states.
An answer that is in no row below leaves the state as it was. A LOGIN whose frame or body is wrong
is refused before the server looks at it, and the server stays in GREETED; a client cannot tell that
from the answer, takes itself to be in CONNECTED, and says HELLO, which is right in both. One thing
acts on a session from outside: a LOGIN elsewhere with the same client_id supersedes it, and then
its connection is as in CONNECTED.

Whether a request is allowed in a state is a column of the table of messages; here is only where
it leads.
"""

from libproto.errors import Status
from libproto.messages import BY_OPCODE, NEVER, Opcode, State

TRANSITIONS: dict[tuple[State, Opcode, Status], State] = {
    (State.CONNECTED, Opcode.HELLO, Status.OK): State.GREETED,
    (State.GREETED, Opcode.HELLO, Status.OK): State.GREETED,  # with a fresh nonce
    (State.GREETED, Opcode.LOGIN, Status.OK): State.AUTHENTICATED,
    # The nonce is spent. A frame that was dropped was not looked at.
    **{
        (State.GREETED, Opcode.LOGIN, status): State.CONNECTED
        for status in Status
        if status not in (Status.OK, Status.ERR_CHECKSUM_FAIL)
    },
    (State.AUTHENTICATED, Opcode.LOGOUT, Status.OK): State.CONNECTED,
}

_RULES = {opcode: message.rules for opcode, message in BY_OPCODE.items()}
_NEXT = {(int(s), int(o), int(a)): after for (s, o, a), after in TRANSITIONS.items()}


def verdict(state: int, opcode: int) -> Status:
    """The status that answers a request in this state before it is looked at; OK: handle it.

    Unknown opcodes and those of pushes are ERR_BAD_PACKET in every state.
    """
    return _RULES.get(opcode, NEVER)[state]


def after(state: State, opcode: int, status: int) -> State:
    """The state after a request received in `state` was answered with `status`."""
    return _NEXT.get((state, opcode, status), state)
