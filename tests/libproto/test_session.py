"""Every state with every opcode, against the rules written out once more."""

from itertools import product

import pytest

from libproto.errors import Status
from libproto.messages import MESSAGES, Opcode, State
from libproto.session import after, verdict

OK, BAD, UNAUTHORIZED = Status.OK, Status.ERR_BAD_PACKET, Status.ERR_UNAUTHORIZED
CONNECTED, GREETED, AUTHENTICATED = State

# what is answered in CONNECTED, GREETED and AUTHENTICATED
RULES = {
    0x0001: (OK, OK, BAD),  # HELLO
    0x0002: (UNAUTHORIZED, OK, BAD),  # LOGIN
    0x0003: (UNAUTHORIZED, UNAUTHORIZED, OK),  # LOGOUT
    0x0004: (OK, OK, OK),  # HEARTBEAT
    0x0005: (UNAUTHORIZED, OK, BAD),  # REGISTER
    **dict.fromkeys(
        [
            0x0007,  # PASSWORD
            *(0x0101, 0x0102, 0x0103, 0x0106, 0x0107, 0x0108, 0x0109, 0x010B, 0x010C, 0x010D),
            *(0x010E, 0x010F, 0x0110, 0x0111, 0x0112, 0x0113),
            *(0x0201, 0x0202, 0x0203, 0x0204, 0x0205, 0x0206),
            *(0x0301, 0x0302, 0x0303, 0x0304),
            *(0x0401, 0x0402, 0x0403, 0x0404, 0x0405),
        ],
        (UNAUTHORIZED, UNAUTHORIZED, OK),
    ),
}

MOVES = {
    (CONNECTED, 0x0001, OK): GREETED,
    (GREETED, 0x0002, OK): AUTHENTICATED,
    # whatever the reason: the nonce is spent; but a frame that was dropped was not looked at
    **{(GREETED, 0x0002, status): CONNECTED for status in Status if status not in (0, 2)},
    (AUTHENTICATED, 0x0003, OK): CONNECTED,
}


@pytest.mark.parametrize("state", State)
def test_every_state_with_every_opcode(state: State) -> None:
    for opcode in range(0x10000):
        expected = RULES.get(opcode, (BAD, BAD, BAD))[state]
        assert verdict(state, opcode) is expected, hex(opcode)


@pytest.mark.parametrize("state", State)
def test_every_state_after_every_answer(state: State) -> None:
    for opcode, status in product(range(0x10000), Status):
        assert after(state, opcode, status) == MOVES.get((state, opcode, status), state)


def test_a_refusal_by_state_alone_changes_no_state() -> None:
    for state, message in product(State, MESSAGES):
        status = verdict(state, message.opcode)
        if status != OK:
            assert after(state, message.opcode, status) is state


def test_a_session_from_beginning_to_end() -> None:
    state = CONNECTED
    for opcode, status, expected in (
        (Opcode.HEARTBEAT, OK, CONNECTED),
        (Opcode.HELLO, OK, GREETED),
        (Opcode.REGISTER, OK, GREETED),
        (Opcode.LOGIN, UNAUTHORIZED, CONNECTED),
        (Opcode.HELLO, OK, GREETED),
        (Opcode.HELLO, BAD, GREETED),
        (Opcode.LOGIN, OK, AUTHENTICATED),
        (Opcode.TRANSFER, Status.ERR_INSUFFICIENT_FUNDS, AUTHENTICATED),
        (Opcode.LOGOUT, OK, CONNECTED),
    ):
        assert verdict(state, opcode) is OK
        state = after(state, opcode, status)
        assert state is expected
