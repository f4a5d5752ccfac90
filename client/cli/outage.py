"""While a one-shot command that lasts has no connection: what is said, and when it gives up."""

import threading
from types import TracebackType
from typing import Self

from client.blocking import Client
from client.errors import ClientError, ConnectionLost
from client.terminal.display import Screen


class BlockingOutage:
    """Told by a blocking client's on_reconnect. With the `with`, its timer ends."""

    def __init__(self, screen: Screen, give_up_after_s: float) -> None:
        """give_up_after_s: seconds without a connection after which the client is closed; 0 for
        never."""
        self.client: Client | None = None
        self.reason: ClientError | None = None
        """Why the client was closed, if it was closed by this."""
        self._screen = screen
        self._limit_s = give_up_after_s
        self._timer: threading.Timer | None = None
        self._is_out = False

    def tell(self, lost: ClientError | None) -> None:
        """Called back when the connection is lost, and with None when there is another."""
        self._stop_timer()
        if lost is None:
            if self._is_out:  # else the server asked for another connection
                self._screen.remark("connected again")
            self._is_out = False
            return
        self._is_out = True
        self._screen.remark("connection lost, reconnecting\u2026")
        if self._limit_s:
            self._timer = threading.Timer(self._limit_s, self._give_up, (lost,))
            self._timer.start()

    def _give_up(self, lost: ClientError) -> None:
        self.reason = ConnectionLost(f"{lost}, and it did not come back within {self._limit_s:g} s")
        assert self.client is not None, "it is set before it is connected"
        self.client.close()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            if timer is not threading.current_thread():
                timer.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_timer()
