"""A handler's refusal of a request, as an exception."""

from libproto.errors import Status
from libproto.texts import may_be_shown

RETRY_UNREADABLE_MS = 5000
RETRY_READ_MS = 10


class Refused(Exception):
    """A request is refused; its connection makes that an error response."""

    def __init__(
        self,
        status: int,
        detail: str,
        retry_after_ms: int = 0,
        after_txn: int = 0,
        *,
        bad_input: bool = False,
    ) -> None:
        """after_txn: what it shows must be durable before it leaves: everything up to there.
        bad_input: the protocol's table "Bad input" has it, so the frame was not a valid one."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.after_txn = after_txn
        self.bad_input = bad_input


def history_unreadable() -> Refused:
    """The archive cannot answer, or not in time."""
    return Refused(
        Status.ERR_SERVER_BUSY, "older history cannot be read just now", RETRY_UNREADABLE_MS
    )


def check_text(what: str, text: str, least: int, most: int) -> None:
    """Refused, unless a text that others are shown in one line has so many bytes of UTF-8."""
    if not least <= len(text.encode()) <= most:
        raise Refused(Status.ERR_BAD_PACKET, f"the {what} has {least} to {most} bytes")
    if not may_be_shown(text):
        raise Refused(
            Status.ERR_BAD_PACKET,
            f"the {what} has no control characters, and closes what turns the direction of writing",
        )
