"""How a missing range of a room's events, or of an inbox, is read again, without input or output.

The interactive chat and the one-shot commands do this, one awaiting and one blocking, and so does a
client that reconnects; what to ask and what the answers mean is here.
"""

from collections.abc import Generator

from libproto.messages import (
    LIST_MAX,
    ChatBroadcast,
    DirectMessage,
    EventKind,
    InboxHistoryResponse,
    RoomGap,
    RoomHistoryResponse,
)

Ask = tuple[int, int]
"""What to ask ROOM_HISTORY for: after_seq and limit."""
Found = list[ChatBroadcast | RoomGap]


def ask(after_seq: int, last_seq: int) -> Ask:
    """What to ask for where events after `after_seq` up to `last_seq` are wanted."""
    return after_seq, min(last_seq - after_seq, LIST_MAX)


def read_answer(
    room_id: int, after_seq: int, last_seq: int, answer: RoomHistoryResponse
) -> tuple[Found, int]:
    """What an answer holds of the events after `after_seq` up to `last_seq`, in order, and after
    which one to go on; that is `last_seq` where there is no more.

    A RoomGap is a part that the server keeps no longer. Numbers that are absent without one were
    never given to an event.
    """
    found: Found = []
    if answer.oldest_seq > after_seq + 1:
        lost = min(answer.oldest_seq - 1, last_seq)
        found.append(RoomGap(room_id, after_seq + 1, lost))
        after_seq = lost
    events = [event for event in answer.events if after_seq < event.room_seq <= last_seq]
    found += events
    if not events or answer.events[-1].room_seq >= last_seq:
        return found, last_seq
    return found, events[-1].room_seq


def read_range(
    room_id: int, first_seq: int, last_seq: int
) -> Generator[Ask, RoomHistoryResponse, Found]:
    """Yield what to ask for, and be sent the answer; return what the range holds, as `read_answer`
    says it."""
    found: Found = []
    after = first_seq - 1
    while after < last_seq:
        answer = yield ask(after, last_seq)
        more, after = read_answer(room_id, after, last_seq, answer)
        found += more
    return found


BACK_LEN = 64
"""Events that are asked for at a time, at least, where it is not known how many are messages."""


def is_said(event: ChatBroadcast | RoomGap) -> bool:
    """Whether it counts where somebody wants the last N: who came and went does not."""
    return isinstance(event, RoomGap) or event.kind not in (EventKind.JOINED, EventKind.LEFT)


def read_back(
    room_id: int, last_seq: int, count: int
) -> Generator[Ask, RoomHistoryResponse, tuple[Found, int]]:
    """Yield what to ask for, and be sent the answer; return the last `count` events up to
    `last_seq` that are said, with who came and went between them, in order; and up to which number
    there may be older ones, 0 where there are none.

    A part that the server keeps no longer is a RoomGap, the first of what is returned.
    """
    found: Found = []
    said = 0
    while last_seq and said < count:
        first = max(1, last_seq - min(LIST_MAX, max(BACK_LEN, count - said)) + 1)
        part = yield from read_range(room_id, first, last_seq)
        last_seq = first - 1
        if part and isinstance(part[0], RoomGap):
            part[0] = RoomGap(room_id, 1, part[0].last_seq)
            last_seq = 0
        found = part + found
        said += sum(map(is_said, part))
    for place in range(len(found) - 1, -1, -1):
        if count <= 0:
            surplus = found[place]
            last = surplus.last_seq if isinstance(surplus, RoomGap) else surplus.room_seq
            return found[place + 1 :], last
        count -= is_said(found[place])
    return found, last_seq


FoundDirect = list[DirectMessage | RoomGap]


def read_inbox(
    after_seq: int, epoch: int | None
) -> Generator[Ask, InboxHistoryResponse, tuple[FoundDirect, int, int]]:
    """Yield what to ask INBOX_HISTORY for, and be sent the answer; return the direct messages after
    `after_seq` to the end, the epoch, and the number that was reached.

    epoch: of `after_seq`; in another one it is read from the beginning. None: it is not known.
    """
    found: FoundDirect = []
    while True:
        answer = yield after_seq, LIST_MAX
        if epoch is not None and answer.epoch != epoch:
            found, after_seq, epoch = [], 0, answer.epoch
            continue
        epoch = answer.epoch
        if answer.oldest_seq > after_seq + 1:
            if after_seq:  # else they were never asked for
                found.append(RoomGap(0, after_seq + 1, answer.oldest_seq - 1))
            after_seq = answer.oldest_seq - 1
        if not answer.messages:
            return found, epoch, after_seq
        found += answer.messages
        after_seq = answer.messages[-1].seq
