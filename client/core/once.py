"""Sharing a file once, however often and by whatever run of the program it is tried.

FILE_END is the request that is executed once, and it names nothing but the number of the upload. A
file that was shared gets another number when it is sent again; so who sends it again under the same
req_id has to know the first number: it is part of a `mark`, kept before FILE_END is sent. Where no
mark was kept, as on another machine, the history of the room tells which numbers it may have been.
A wrong one does no harm: the server executes nothing under a req_id that has an outcome.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

from client.core import calls
from client.core.calls import Call, RoomChange
from client.core.numbers import Numbers
from client.core.room_events import FileShared, read_event
from client.errors import BadArgument, BadPacket, FileChanged, NotFound
from libproto.messages import ChatBroadcast, Opcode, RoomHistoryResponse

_DIGEST_LEN: Final = 32  # digits of a mark that tell what was shared


@dataclass(frozen=True, slots=True)
class Once:
    """A file is shared once under `req_id`, also by several runs of a program with one client_id.

    keep: is called with a text that is to be kept, durably, before the file is shared; mark: that
    text, if an earlier run has kept one. is_repeated: an earlier run has perhaps shared it, and
    what it kept is not here: then the file of this user in the history of the room counts that has
    this name, type and size.
    """

    req_id: int
    mark: str = ""
    keep: Callable[[str], object] | None = None
    is_repeated: bool = False


class Wanted(NamedTuple):
    """What is to be shared."""

    room_id: int
    size: int
    sha256: bytes
    media_type: str
    name: str

    def mark(self, file_id: int) -> str:
        digest = sha256(repr(tuple(self)).encode()).hexdigest()
        return f"{file_id} {digest[:_DIGEST_LEN]}"

    def is_in(self, event: Any, user_id: int) -> int:
        """The number of the file, if that is what an event tells of; else 0."""
        if not isinstance(event, ChatBroadcast) or event.from_user != user_id:
            return 0
        said = read_event(event)
        if not isinstance(said, FileShared) or said.name not in ("", self.name):
            return 0
        is_it = (said.size, said.media_type) == (self.size, self.media_type)
        return said.file_id if is_it else 0


def end(file_id: int, once: Once | None) -> Call[RoomChange]:
    """FILE_END."""
    call = Call(Opcode.FILE_END, (file_id,), RoomChange._make)
    if once is not None:
        call.req_id, call.recordable = once.req_id, True
    return call


Earlier = tuple[int, RoomChange]
"""The number of the file, and what was answered."""


def earlier(
    once: Once, wanted: Wanted, user_id: int, numbers: Numbers
) -> Generator[Call[Any], Any, Earlier | None]:
    """What an earlier run has shared, or has sent and is shared now; None: nothing. OutcomeUnknown.
    FileChanged: it was something else."""
    if once.mark:
        file_id = _marked(once.mark, wanted)
        change = yield from _ended(once, file_id, numbers)
        return None if change is None else (file_id, change)
    if not once.is_repeated:
        return None
    for file_id in reversed((yield from _candidates(wanted, user_id))):
        try:
            change = yield from _ended(once, file_id, numbers)
        except BadPacket:  # the outcome is of another one
            continue
        return None if change is None else (file_id, change)
    return None


def _marked(mark: str, wanted: Wanted) -> int:
    number = mark.split(" ")[0]
    if not number.isdecimal():
        raise BadArgument("mark", mark, "a text that `keep` was given")
    if mark != wanted.mark(int(number)):
        raise FileChanged(
            f"{wanted.name}: what was sent before under this number was another file, or had "
            "another room, name or type; nothing was shared now"
        )
    return int(number)


def _ended(
    once: Once, file_id: int, numbers: Numbers
) -> Generator[Call[Any], Any, RoomChange | None]:
    """None: no outcome was recorded, and this file cannot be shared any more."""
    try:
        change: RoomChange = yield end(file_id, once)
    except NotFound:
        numbers.disown(once.req_id)
        return None
    except BadPacket:
        numbers.disown(once.req_id)
        raise
    return change


def _candidates(wanted: Wanted, user_id: int) -> Generator[Call[Any], Any, list[int]]:
    """Files that it may have been, oldest first."""
    found: list[int] = []
    after = 0
    while True:
        page: RoomHistoryResponse = yield calls.history(wanted.room_id, after)
        if not page.events:
            return found
        found += [number for event in page.events if (number := wanted.is_in(event, user_id))]
        after = page.events[-1].room_seq
