"""What both shells are: what a client is told, and what it knows."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn, SupportsIndex

from client.core import arguments
from client.core.address import HOST, PORT, URL_VARIABLE, Address, is_url, read_url
from client.core.calls import Call
from client.core.credentials import credentials
from client.core.inbox import LIMIT, Inbox, Notice
from client.core.numbers import NUMBERED, REQ_ID_MAX, Numbers, Unanswered
from client.core.pushes import Push
from client.core.resume import ResumingCore
from client.core.retry import Attempts, RetryPolicy
from client.core.security import AUTO, OFF, REQUIRE, Security, is_loopback, read_encrypt, read_pin
from client.core.session import CLIENT_NAME
from client.core.turns import Turns
from client.errors import (
    BadArgument,
    ClientError,
    MisuseError,
    NotLoggedIn,
    RequestFailed,
    ServerBusy,
    WrongPlace,
    name_req_id,
)
from client.known import KnownServer
from libproto.messages import BY_OPCODE, OUTCOME_WINDOW, USERS, Opcode, State

TIMEOUT_S: Final = 10.0
"""Of a call, if neither the program nor the URL says otherwise."""


def _needs_no_login(opcode: Opcode) -> bool:
    return BY_OPCODE[opcode].rules is not USERS


def now_us() -> int:
    """The time of the wire: microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def callback_raised(item: Push | Notice, error: BaseException) -> str:
    """Why a connection ends whose callback for this item raised that."""
    name = "on_reconnect" if isinstance(item, Notice) else "on_push"
    return f"{name} raised {type(error).__name__}"


def _address(host: str | None, port: int | None) -> Address:
    """Where the server is, as the program or its environment says. BadArgument."""
    if is_url(host):
        if port is not None:
            raise BadArgument("port", port, "None beside a URL, which names the port")
        return read_url(host)
    if host is None and port is None and (url := os.environ.get(URL_VARIABLE)):
        return read_url(url, URL_VARIABLE)
    return Address(HOST if host is None else host, PORT if port is None else port)


def _settings(address: Address, **given: Any) -> dict[str, Any]:
    """What the program says goes before what the URL says, and that before the defaults."""
    defaults: dict[str, Any] = {
        "timeout_s": TIMEOUT_S,
        "payments": False,
        "client_name": CLIENT_NAME,
        "reconnect": False,
        "encrypt": AUTO,
        "pin": None,
        "compress": False,
    }
    told = {name: value for name, value in given.items() if value is not None}
    return {**defaults, **address.settings, **told}


def _wants_payments(settings: dict[str, Any], after: int | None) -> bool:
    """Whether PAYMENT pushes are asked for. BadArgument."""
    wants_payments = arguments.flag("payments", settings["payments"])
    if after is not None:
        arguments.whole("payments_after", after, 0, arguments.U64_MAX, "a txn_id, or None")
        if not wants_payments:
            raise BadArgument("payments_after", after, "None, where payments are not asked for")
    return wants_payments


class ClientBase:
    """What a client is told, and what it knows: the attributes of both shells."""

    _awaits = False  # what a callback returns
    _inbox: Inbox | None = None  # of the last `connect`

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        username: str | None = None,
        password: str | None = None,
        retry: RetryPolicy | None = None,
        timeout_s: float | None = None,
        client_id: int | None = None,
        next_req_id: int = 1,
        keep_next_req_id: Callable[[int], object] | None = None,
        payments: bool | None = None,
        payments_after: int | None = None,
        on_push: Callable[[Push], object] | None = None,
        client_name: str | None = None,
        reconnect: bool | None = None,
        on_reconnect: Callable[[ClientError | None], object] | None = None,
        pushes_max_bytes: int = LIMIT,
        encrypt: str | None = None,
        pin: str | None = None,
        known_servers: str | os.PathLike[str] | None = None,
        compress: bool | None = None,
    ) -> None:
        """Say where the server is; `connect` goes there. BadArgument if a value is not valid; of a
        URL, BadUrl.

        host: a name, an address, or a URL `tradechat://[user[:password]@]host[:port]`, which then
        names the port as well (`client.core.address` says all of it). Without host and port, the
        environment variable TRADECHAT_URL, else 127.0.0.1 port 7878. What an argument says goes
        before what the URL says.
        username, password: with both, `connect` logs in; with either, `login` takes it where it is
        given no other. Neither repr nor an error shows the password.
        retry: what is tried again, and how often; a RetryPolicy() by default.

        timeout_s: seconds, of each call that does not say otherwise; 10 by default. payments: ask
        for PAYMENT pushes; those that are missed while there is no connection are made up for.
        payments_after: the txn_id of the last one that an earlier run of the program was given:
        those that came since are given after the login. None: only what comes from the first login
        on. client_name: what the server logs this program as.
        on_push: gets the pushes, which are else kept for `pushes` and `next_push`. reconnect: from
        a login to a logout, a connection that is lost is established again; `client.core.resume`
        says what that means for calls, rooms and pushes. on_reconnect: gets the reason when it is
        lost, and None when it is there again; called where on_push is. None alone says that the
        server asked for another connection, and there is one: nothing was lost.
        pushes_max_bytes: of memory, about, for pushes that wait for the program (or for on_push);
        what does not fit is dropped, and named by a RoomGap or a PaymentGap in its place.

        encrypt: "require", "off", or "auto" (by default): require it unless the host is this
        machine, by its loopback address or as localhost, and no pin is given. Where it is required,
        nothing but the username is sent without it. pin: the fingerprint of the server, as
        `tradechat-admin identity` shows it; the client goes to no other. Without it the client goes
        to a server that was never seen, and from the first login on to none with another identity:
        known_servers is the file that has them, by default `known-servers` in the user's state
        directory. compress: have long answers and requests compressed; not by default, since the
        length of what is encrypted tells more then.

        client_id: what the server knows this client's numbered requests by (what moves money or
        says something), so that each is executed once. None draws one at the first login, which is
        right unless requests are to be repeated by a later run of the program. Such a program
        keeps a client_id of its own, that nobody else uses, and the greatest req_id in a file:
        next_req_id is the number to go on from, and keep_next_req_id is called with the next one
        before a number is used, to write and sync it; what it raises comes out of the call, and
        nothing is sent. 0 takes no part in exactly-once.
        """
        address = _address(host, port)
        settings = _settings(
            address,
            timeout_s=timeout_s,
            payments=payments,
            client_name=client_name,
            reconnect=reconnect,
            encrypt=encrypt,
            pin=pin,
            compress=compress,
        )
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise BadArgument("retry", retry, "a RetryPolicy, or None")
        self.host = arguments.host(address.host)
        self.port = arguments.whole("port", address.port, 1, 65535, "a TCP port")
        self.timeout_s = arguments.seconds("timeout_s", settings["timeout_s"])
        self.pushes_max_bytes = arguments.whole(
            "pushes_max_bytes", pushes_max_bytes, 0, arguments.U64_MAX, "bytes"
        )
        callback = arguments.function if self._awaits else arguments.plain_function
        self._on_push = callback("on_push", on_push)
        self._on_reconnect = callback("on_reconnect", on_reconnect)
        if client_id is not None:
            arguments.whole("client_id", client_id, 0, arguments.U64_MAX, "an id, or None")
        arguments.whole("next_req_id", next_req_id, 1, REQ_ID_MAX, "the next req_id")
        keep = arguments.function("keep_next_req_id", keep_next_req_id)
        self._core = ResumingCore(
            Numbers(client_id, next_req_id, keep),
            _wants_payments(settings, payments_after),
            arguments.name("client_name", settings["client_name"]),
            reconnects=arguments.flag("reconnect", settings["reconnect"]),
            policy=retry,
            payments_after=payments_after,
        )
        self._core.security = self._security(settings, known_servers)
        self._turns = Turns(
            "connect, register and login of a client come one at a time, and one is under way in "
            "another thread or task"
        )
        self._core.credentials = credentials(username, password, address)
        # A client_id that was drawn is this process's from its first connection on; one that was
        # given, at once.
        self._pid = os.getpid() if client_id else 0

    def _security(
        self, settings: dict[str, Any], known_servers: str | os.PathLike[str] | None
    ) -> Security:
        encrypt = read_encrypt("encrypt", settings["encrypt"])
        pin = None if settings["pin"] is None else read_pin("pin", settings["pin"])
        if pin is not None and encrypt == OFF:
            raise BadArgument("pin", pin, "nothing where encrypt is off")
        encrypts = encrypt == REQUIRE or (
            encrypt == AUTO and (pin is not None or not is_loopback(self.host))
        )
        if known_servers is not None and not isinstance(known_servers, str | os.PathLike):
            raise BadArgument("known_servers", known_servers, "the path of a file")
        path = None if known_servers is None else Path(known_servers)
        return Security(
            encrypts=encrypts,
            pin=pin,
            known=KnownServer(self.host, self.port, path) if encrypts and pin is None else None,
            compresses=arguments.flag("compress", settings["compress"]),
            where=str(Address(self.host, self.port)).partition("//")[2],
        )

    def __repr__(self) -> str:
        state = "connected" if self.connected else "connecting" if self.reconnecting else "closed"
        return f"<{type(self).__name__} {self.url}, {state}>"

    @property
    def url(self) -> str:
        """The server's URL, with the user who is logged in, or will be, and without a password."""
        username = self._core.username or self._core.credentials.username
        return str(Address(self.host, self.port, username))

    def _timeout(self, timeout_s: float | None) -> float:
        """Of something that the program asks for, and that this process may do."""
        self._check_process()
        return self.timeout_s if timeout_s is None else arguments.seconds("timeout_s", timeout_s)

    def _call_back(self, item: Push | Notice) -> object:
        """Give a push to on_push, or a notice to on_reconnect; what that returned."""
        if isinstance(item, Notice):
            return None if self._on_reconnect is None else self._on_reconnect(item.reason)
        assert self._on_push is not None, "else the pushes wait for the program to take them"
        return self._on_push(item)

    def _queue_len(self, max_bytes: int | None) -> int:
        """Bytes of the queue of a reader, if the program asks for so many."""
        if max_bytes is None:
            return self.pushes_max_bytes
        return arguments.whole("max_bytes", max_bytes, 0, arguments.U64_MAX, "bytes")

    def _check_pushes(self) -> None:
        if self._on_push is not None:
            raise MisuseError("the pushes of this client go to its on_push")

    # ---- whose client it is

    def _check_process(self) -> None:
        """WrongPlace in a child of the process that this client belongs to: both would draw the
        same numbers, and of two payments one would be made."""
        if not self._pid:
            self._pid = os.getpid()
        elif self._pid != os.getpid():
            raise WrongPlace(
                f"this client belongs to process {self._pid}, which this one was forked from: make "
                "a client in each process"
            )

    @property
    def _is_ours(self) -> bool:
        """False in a child of the process that the connection belongs to: it must not end it."""
        return self._pid in (0, os.getpid())

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Copies would draw the same numbers."""
        raise WrongPlace("a client cannot be copied or pickled: make another one")

    # ---- calls

    @contextmanager
    def _prepared(
        self, call: Call[Any], req_id: int | None, possible_duplicate: bool
    ) -> Iterator[int | None]:
        """Around a call: what can be refused before anything is sent; the number of a numbered
        request; and what comes out of it says the number."""
        arguments.flag("possible_duplicate", possible_duplicate)
        if self._core.loss is not None:
            raise self._core.failure()
        if not (self._core.logged_in or _needs_no_login(call.opcode)):
            raise NotLoggedIn(f"{call.opcode.name}: log in first, nothing was sent")
        if call.opcode not in NUMBERED:
            yield None
            return
        numbers = self._core.numbers
        number = numbers.claim(call, req_id, possible_duplicate)
        try:
            yield number
        except BaseException as error:
            refused = isinstance(error, RequestFailed) and number not in self._core.unanswered
            if refused or not (call.sent or possible_duplicate):
                numbers.told(number)
            if call.sent or possible_duplicate:
                name_req_id(error, number)
            raise
        numbers.told(number)

    def _check_transfer(self) -> None:
        """What is refused before a file is looked at."""
        if self._core.loss is not None:
            raise self._core.failure()
        if not self._core.logged_in:
            raise NotLoggedIn("files need a login first, nothing was sent")

    def _pause_s(self, attempts: Attempts, busy: ServerBusy, left_s: float) -> float | None:
        """How long to wait before a request is sent again that was refused for the moment; None if
        that is for the program to do. left_s: until its deadline."""
        if self._core.loss is not None:
            return None  # the whole connection was refused
        if busy.req_id and self._core.numbers.next - busy.req_id >= OUTCOME_WINDOW:
            return None  # it would be refused as too old; as it is, nothing happened for sure
        return attempts.pause_s(busy.retry_after_ms, left_s)

    def new_req_id(self) -> int:
        """A number for a numbered request, to be taken before the call: `transfer(..., req_id=…)`.

        With it the request can be named whatever happens to the call, and `retry(req_id)` makes it
        again without paying or saying it twice. To be used within the next 63 that are drawn.
        """
        self._check_process()
        if not self._core.numbers.takes_part:
            raise MisuseError("a client with client_id 0 takes no part in exactly-once")
        return self._core.numbers.draw()

    @property
    def unanswered(self) -> tuple[Unanswered, ...]:
        """The numbered requests that were sent and whose outcome this program was not given, by
        ascending req_id. `retry(req_id)` of each tells what became of it, or executes it.

        Those in flight are among them. Of more than 64 the oldest are forgotten: the server keeps
        no more outcomes.
        """
        return self._core.numbers.unanswered

    @property
    def next_req_id(self) -> int:
        """Greater than every number that was drawn."""
        return self._core.numbers.next

    # ---- what is known

    @property
    def connected(self) -> bool:
        """Whether there is a connection that can be used, as far as is known."""
        return self._core.linked and (self._core.steady or self._core.moving)

    @property
    def reconnecting(self) -> bool:
        """Whether the connection is lost and is being established again."""
        return self._core.loss is None and not self.connected

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and established again, all that was missed included."""
        return self._core.reconnects

    @property
    def pushes_dropped(self) -> int:
        """How many pushes since `connect` did not fit into `pushes_max_bytes` and were dropped."""
        return 0 if self._inbox is None else self._inbox.dropped

    @property
    def state(self) -> State:
        """Where the session is: CONNECTED, GREETED or AUTHENTICATED."""
        return self._core.state

    @property
    def client_id(self) -> int:
        """What this client's numbered requests are known by. 0 before the first login, which draws
        it, and for a client that takes no part in exactly-once."""
        return self._core.client_id

    @property
    def user_id(self) -> int:
        """Of the last login; 0 before."""
        return self._core.user_id

    @property
    def session_id(self) -> int:
        """Of the last login; 0 before."""
        return self._core.session_id

    @property
    def payments_after(self) -> int | None:
        """With `payments`: the txn_id up to which the program was given all, those that wait to be
        taken included, for a later run of the program that was given none; None: not known yet."""
        return self._core.payments.after

    @property
    def resumed(self) -> bool:
        """Whether the server knew this client_id of the user before the last login."""
        return self._core.resumed

    @property
    def username(self) -> str:
        """Of the last login; empty before."""
        return self._core.username

    @property
    def server_name(self) -> str:
        """What the server calls itself; empty before the first register or login."""
        return self._core.server_name

    @property
    def encrypted(self) -> bool:
        """Whether this client goes over encrypted connections only."""
        return self._core.security.encrypts

    @property
    def server_fingerprint(self) -> str:
        """The fingerprint of the server's identity; empty before the first register or login, and
        without encryption."""
        return self._core.security.fingerprint

    @property
    def server_is_new(self) -> bool:
        """Whether that server was never seen before, so that somebody may compare its fingerprint
        with the one that `tradechat-admin identity` shows there."""
        return self._core.security.is_new

    @property
    def heartbeat_s(self) -> int:
        """How often the server wants a HEARTBEAT; 0 before the first register or login."""
        return self._core.heartbeat_s

    @property
    def max_body_len(self) -> int:
        """Longest body in bytes, in both directions."""
        return self._core.max_body_len
