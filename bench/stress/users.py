"""The users of a run: those of an earlier run with the same seed, or new ones.

The table of users of a server only grows, so a program that made its own each time would fill it.
"""

import hashlib
from collections.abc import Mapping
from contextlib import closing

from bench.lab.caller import Caller, CallFailed
from bench.stress.ledger import NOTHING, Holding
from bench.stress.options import Options
from libproto.messages import Opcode


def name_of(seed: int) -> str:
    """What the usernames of this seed begin with."""
    return f"b{hashlib.blake2b(str(seed).encode(), digest_size=4).hexdigest()}-"


def caller_of(options: Options) -> Caller:
    """A connection as those of the load are."""
    return Caller(options.host, options.port, encrypts=options.encrypts)


def take(
    host: str, port: int, names: list[str], *, encrypts: bool = False
) -> Mapping[int, Holding]:
    """The user_id of each name, in order, and what that user has. CallFailed, NetError, also where
    one of them is logged in: what others do with the users of a run makes its verdict wrong."""
    with closing(Caller(host, port, encrypts=encrypts)) as caller:
        made = caller.register_new(names)
    if all(made):
        return dict.fromkeys(made, NOTHING)
    with closing(Caller(host, port, encrypts=encrypts)) as caller:
        last = caller.login(names[-1], 0).user_id
        found = [caller.call(Opcode.USER_LOOKUP, name)[::2] for name in names[:-1]]
        caller.call(Opcode.LOGOUT)
        for name, (_, online) in zip(names, found, strict=False):
            if online:
                raise CallFailed(
                    f"the user {name} of this --seed is logged in: another run is not over, or "
                    "needs another --seed"
                )
        held = {}
        for name, user, new in zip(names, [*(user for user, _ in found), last], made, strict=True):
            held[user] = NOTHING
            if not new:
                caller.login(name, 0)
                held[user] = Holding._make(caller.call(Opcode.BALANCE))
                caller.call(Opcode.LOGOUT)
    return held
