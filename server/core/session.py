"""A session in the hands of its worker."""

from typing import Final

from server.region.locks import Guard, Lock


class Session:
    """A session as its worker holds it: where its words are, and what of them never changes."""

    __slots__ = (
        "account",
        "at",
        "client",
        "client_id",
        "client_slot",
        "directing",
        "floor",
        "id",
        "lock",
        "name",
        "outcomes",
        "resumed",
        "sending",
        "slot",
        "user",
    )

    def __init__(
        self, at: int, slot: int, session_id: int, user: int, name: str, account: int, lock: Lock
    ) -> None:
        self.at: Final = at  # word of the record: its id; the mark is next to it
        self.slot: Final = slot
        self.id: Final = session_id
        self.user: Final = user
        self.name: Final = name
        self.account: Final = account  # word of the user's account
        self.lock: Final = lock  # of the account
        # Guards of what it sends, made once: `Chat`.
        self.sending: Guard | None = None
        self.directing: Guard | None = None
        self.client = 0  # word of the client's record, 0: none
        self.outcomes = 0  # word of the client's outcomes
        self.client_slot = 0  # slot + 1
        self.client_id = 0
        self.floor = 0  # of the client: it never changes
        self.resumed = False  # the client had a record when it logged in


def is_live(words: memoryview, session: Session) -> bool:
    """False once it is superseded. Takes no lock: who changes something asks under one.
    words: those of the region."""
    at = session.at
    return bool(words[at] == session.id and not words[at + 1])
