"""REGISTER and LOGIN: calls of several requests, and a computation that takes long.

A call of this kind is a generator. It yields what it wants done, a `Call` to be answered or a
function to be computed, and is sent the result; what goes wrong is thrown into it. Each client does
these in its own way. The deadline is one for all of it.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeVar

from client.core import arguments, auth
from client.core.calls import Call
from client.core.session import ClientCore
from client.errors import AlreadyExists, BadPacket, MisuseError, NotLoggedIn
from libproto import scram
from libproto.messages import LoginResponse

R = TypeVar("R")

Step = Call[Any] | Callable[[], Any]
Steps = Generator[Step, Any, R]


def register(core: ClientCore, username: str, password: str) -> Steps[int]:
    """Create a user; gives its user_id. The connection is not logged in by that.

    Raises AlreadyExists, and Unauthorized where registration is closed.
    """
    arguments.username(username)
    arguments.text("password", password, secret=True)
    _check(core)
    greeting = yield core.hello(username)
    call = yield partial(auth.register, greeting, password)
    user_id: int = yield call
    return user_id


def login(
    core: ClientCore, username: str | None = None, password: str | None = None
) -> Steps[LoginResponse]:
    """Log in, and check that the server knows the user's key too. None: what the client was
    given when it was made; `connect` has logged in where it was given both.

    Raises Unauthorized if user or password are wrong, ProtocolViolation if the server's own
    proof is; the connection is closed then. ClientIdTaken if a client_id that was given is in
    use beyond next_req_id; one that was drawn is drawn anew. Another session with it ends.
    """
    username, password = core.credentials.filled(username, password)
    _check(core)
    refusals = 0
    while True:
        greeting = yield core.hello(username)
        keys = yield partial(auth.derive, greeting, password)
        try:
            session: LoginResponse = yield core.login(greeting, keys)
        except AlreadyExists as error:
            core.give_up_client_id(error)
            refusals += 1
            if refusals > 1:  # a fresh one cannot be known
                raise
        else:
            return session


def change_password(core: ClientCore, password: str) -> Steps[None]:
    """Give the user who is logged in another password. All other sessions of the user end.

    Only on an encrypted connection, or on the server's own machine; else Unauthorized.
    """
    arguments.text("password", password, secret=True)
    if not core.logged_in:
        raise NotLoggedIn("change_password: log in first, nothing was sent")
    # Those of a new password are the server's to say, and it has told those of this one.
    iterations = max(core.iterations, scram.NEW_ITERATIONS)
    while True:
        call, keys = yield partial(auth.change, password, iterations)
        try:
            yield call
        except BadPacket:
            iterations *= 2
            if iterations > auth.MAX_ITERATIONS:
                raise
        else:
            break
    core.password_changed(password, keys)


def _check(core: ClientCore) -> None:
    if core.logged_in:
        raise MisuseError(f"already logged in as {core.username!r}: logout() first")
