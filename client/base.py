"""What both shells are: what a client is told, and what it knows."""

import time
from collections.abc import Callable

from client.core.inbox import LIMIT, Inbox, Notice
from client.core.pushes import Push
from client.core.resume import ResumingCore
from client.core.session import CLIENT_NAME, TIMEOUT_S_MAX, ClientCore
from client.errors import ClientError
from libproto.errors import MisuseError
from libproto.messages import State


def now_us() -> int:
    """The time of the wire: microseconds since the Unix epoch."""
    return time.time_ns() // 1000


class ClientBase:
    """What a client is told, and what it knows: the attributes of both shells."""

    _inbox: Inbox | None = None  # of the last `connect`

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 7878,
        *,
        timeout_s: float = 10.0,
        client_id: int | None = None,
        payments: bool = False,
        on_push: Callable[[Push], object] | None = None,
        client_name: str = CLIENT_NAME,
        reconnect: bool = False,
        on_reconnect: Callable[[ClientError | None], object] | None = None,
        pushes_max_bytes: int = LIMIT,
    ) -> None:
        """Say where the server is; `connect` goes there.

        timeout_s: of each call that does not say otherwise. client_id: a random one if None; 0
        takes no part in exactly-once. payments: ask for PAYMENT pushes. on_push: gets the pushes,
        which are else kept for `pushes` and `next_push`. reconnect: from a login to a logout, a
        connection that is lost is established again; `client.resume` says what that means for
        calls, rooms and pushes. on_reconnect: gets the reason when it is lost, and None when it is
        there again; called where on_push is. pushes_max_bytes: of memory, about, for pushes that
        wait for the program (or for on_push); what does not fit is dropped, and named by a RoomGap
        or a PaymentGap in its place.
        """
        self.host = host
        self.port = port
        self.timeout_s = self._checked(timeout_s)
        self.pushes_max_bytes = pushes_max_bytes
        self._on_push = on_push
        self._on_reconnect = on_reconnect
        kind = ResumingCore if reconnect else ClientCore
        self._core = kind(client_id, payments, client_name)

    @staticmethod
    def _checked(timeout_s: float) -> float:
        if not 0 <= timeout_s <= TIMEOUT_S_MAX:
            raise MisuseError(f"a timeout of {timeout_s} s: 0 to {TIMEOUT_S_MAX:g} are allowed")
        return timeout_s

    def _timeout(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else self._checked(timeout_s)

    def _call_back(self, item: Push | Notice) -> object:
        """Give a push to on_push, or a notice to on_reconnect; what that returned."""
        if isinstance(item, Notice):
            return None if self._on_reconnect is None else self._on_reconnect(item.reason)
        assert self._on_push is not None, "else the pushes wait for the program to take them"
        return self._on_push(item)

    def _check_pushes(self) -> None:
        if self._on_push is not None:
            raise MisuseError("the pushes of this client go to its on_push")

    @property
    def connected(self) -> bool:
        """Whether there is a connection that can be used, as far as is known."""
        return self._core.linked and self._core.steady

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
        """What this client's ledger requests are known by; 0 takes no part in exactly-once."""
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
    def heartbeat_s(self) -> int:
        """How often the server wants a HEARTBEAT; 0 before the first register or login."""
        return self._core.heartbeat_s

    @property
    def max_body_len(self) -> int:
        """Longest body in bytes, in both directions."""
        return self._core.max_body_len
