"""How a missing range of a room's events is read again, without any input or output.

The interactive chat and the one-shot commands both do this, one awaiting and one blocking; what to
ask and what the answers mean is here.
"""

from collections.abc import Generator

from libproto.messages import LIST_MAX, ChatBroadcast, RoomGap, RoomHistoryResponse

Ask = tuple[int, int]
"""What to ask ROOM_HISTORY for: after_seq and limit."""
Found = list[ChatBroadcast | RoomGap]


def read_range(
    room_id: int, first_seq: int, last_seq: int
) -> Generator[Ask, RoomHistoryResponse, Found]:
    """Yield what to ask for, and be sent the answer; return what the range holds, in order.

    A RoomGap in what is returned is a part that the server keeps no longer. Numbers that are
    absent without one were never given to an event.
    """
    found: Found = []
    after = first_seq - 1
    while after < last_seq:
        answer = yield after, min(last_seq - after, LIST_MAX)
        if answer.oldest_seq > after + 1:
            lost = min(answer.oldest_seq - 1, last_seq)
            found.append(RoomGap(room_id, after + 1, lost))
            after = lost
        events = [event for event in answer.events if after < event.room_seq <= last_seq]
        found += events
        if not events or answer.events[-1].room_seq >= last_seq:
            break
        after = events[-1].room_seq
    return found
