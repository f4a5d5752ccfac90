"""What comes from the server, as lines of buffers."""

import time

from client.chat.model import Entry, Model, Sort
from client.terminal import display, room_lines
from client.terminal.style import Line, Style
from libproto.messages import ChatBroadcast, DirectMessage, EventKind, Payment, RoomGap


def now_us() -> int:
    """The time of a line that is the program's own, as the wire has times."""
    return time.time_ns() // 1000


def of_event(model: Model, event: ChatBroadcast | RoomGap) -> Entry:
    """An event of a room, or a gap in its place."""
    if isinstance(event, RoomGap):
        line = display.gap_line(event)
        return Entry(Sort.WRONG, now_us(), line, line[-1:], seq=event.last_seq)
    line = display.event_line(event, names=model.names)
    body: Line = [event.message]
    match event.kind:
        case EventKind.MESSAGE:
            own = event.from_name == model.own_name
            mention = not own and model.is_mention(event.message)
            return Entry(
                Sort.SAID, event.time, line, body, event.from_name, event.room_seq, mention
            )
        case EventKind.JOINED | EventKind.LEFT:
            word = "joined" if event.kind == EventKind.JOINED else "left"
            body = [(Style.QUIET, f"{event.from_name} {word}")]
            return Entry(Sort.PRESENCE, event.time, line, body, event.from_name, event.room_seq)
        case EventKind.SYSTEM:
            return Entry(Sort.SYSTEM, event.time, line, body, event.from_name, event.room_seq)
    body = room_lines.said_line(event, model.names)
    return Entry(Sort.SYSTEM, event.time, line, body, event.from_name, event.room_seq)


def of_direct(message: DirectMessage | RoomGap) -> Entry:
    """A message to this person alone, or a gap in its place."""
    if isinstance(message, RoomGap):
        line = display.gap_line(message)
        return Entry(Sort.WRONG, now_us(), line, line)
    line = display.direct_line(message)
    body: Line = [message.message]
    return Entry(Sort.SAID, message.time, line, body, message.from_name, message.seq, True)


def of_sent_direct(own_name: str, user: str, text: str, time_us: int) -> Entry:
    """What this person said to another."""
    line: Line = [(Style.PLACE, f"[you -> {user}]"), " ", text]
    return Entry(Sort.SAID, time_us, line, [text], own_name)


def of_payment(payment: Payment) -> Entry:
    """Money that came in."""
    body = display.payment_line(payment)
    return Entry(Sort.MONEY, payment.time, display.of_money(body), body, payment.from_name)


def of_receipt(line: Line) -> Entry:
    """What became of one's own money."""
    return Entry(Sort.MONEY, now_us(), display.of_money(line), line)


def dated(entry: Entry) -> Line:
    """A line as it stands alone, with its date and time."""
    return [(Style.QUIET, f"{display.moment(entry.time_us)} "), *entry.line]
