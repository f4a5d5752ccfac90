"""What operators do to users and their money, and users to the own password, that a worker dies in:
see crash.py."""

from dataclasses import replace
from typing import Final

from libproto.scram import Verifier
from server.core.operators import Paid
from server.core.state import State
from server.region.records import TEXT_MAX, RecordKind, UserRole, UserState
from tests.helpers.crash import ANN, BOB, CYD, NONE, NOW_US, Change, World

SIZES: Final = {"txn_ring": 16}
KEY: Final = 0x1234567890ABCDEF
NOTE: Final = "what it is for, at some length " * 8
OTHER: Final = Verifier(b"t" * 16, 5000, b"l" * 32, b"w" * 32)
assert TEXT_MAX > len(NOTE) > TEXT_MAX // 2, "two records of TEXT"


def pay(state: State, kind: RecordKind, amount: int, note: str = NOTE) -> Paid:
    """To Ann, or by her."""
    return state.operators.move(ANN, kind, amount, note, KEY, NOW_US)


def _paid(
    name: str, kind: RecordKind, amount: int, change: int, note: str = NOTE, **sizes: int
) -> Change:
    """change: of Ann's balance."""
    return Change(
        name,
        lambda w: pay(w.doomed, kind, amount, note),
        SIZES | sizes,
        effect=(0, change, 0, 0),
    )


def _set(
    name: str, user: int, role: UserRole | None = None, state: UserState | None = None
) -> Change:
    return Change(
        name, lambda w: w.doomed.operators.set_user(user, NOW_US, role=role, state=state), SIZES
    )


def _changed_before(world: World) -> None:
    """Bob has had another password already: the first place of a verifier is free."""
    world.other.operators.set_verifier(BOB, OTHER, NOW_US, by=world.bob)


_PASSWORD: Final = Change(
    "a password is changed by the operator",
    lambda w: w.doomed.operators.set_verifier(BOB, OTHER._replace(iterations=6000), NOW_US),
    SIZES,
    effect=NONE,
)
USER_CHANGES: Final = (
    _PASSWORD,
    replace(_PASSWORD, name="a password is changed a second time", prepare=_changed_before),
    Change(
        "a password is changed by its user",
        lambda w: w.doomed.operators.set_verifier(ANN, OTHER, NOW_US, by=w.ann),
        SIZES,
    ),
    _set("a role is given", BOB, role=UserRole.TELLER),
    _set("a user is disabled", CYD, state=UserState.DISABLED),
    _set("a user is deleted", CYD, state=UserState.DELETED),
    Change("a user is kicked", lambda w: w.doomed.operators.kick(BOB, NOW_US), SIZES),
    _paid("money is paid in", RecordKind.PAID_IN, 30, 30),
    _paid("money is paid in without a note", RecordKind.PAID_IN, 30, 30, ""),
    _paid("money is paid in, in a small ring", RecordKind.PAID_IN, 30, 30, txn_ring=8),
    _paid("all money is paid out", RecordKind.PAID_OUT, 0, -95),
)
