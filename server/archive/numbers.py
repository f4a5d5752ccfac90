"""The numbers that rooms and inboxes have given in events which the journal does not have any more.

The histories tell them, if they have every event of that batch: these are known by their bytes,
since nothing but the numbers of the first and the last is left of the batch itself.
"""

from pathlib import Path

from libproto.messages import HEADER_LEN
from server.archive.segments import RECORD, Scan, record_size
from server.journal.disk import Disk
from server.journal.errors import JournalError
from server.journal.format import BatchHead, event_size


def numbers_of(
    disk: Disk, directory: Path, log_id: int, head: BatchHead, epoch: int
) -> dict[int, int] | None:
    """The newest number of each room, or INBOX | user_id, in the events of a batch; None: the
    histories cannot be read, are of another log or epoch, or do not have all of them."""
    found, reached = dict[int, tuple[int, int, int]](), 0
    try:
        scan = Scan(disk, directory)
        for batch, _, _, records in scan.batches():
            if batch.event < reached:  # the log was shortened
                found = {event: each for event, each in found.items() if event <= batch.event}
            reached, at = batch.event, 0
            while at < len(records):
                room, seq, event, _, _, length = RECORD.unpack_from(records, at)
                if head.first_event <= event < head.next_event:
                    found[event] = room, seq, event_size(HEADER_LEN + length)
                at += record_size(length)
    except (JournalError, OSError):
        return None
    of = {(segment.head.log_id, segment.head.epoch) for segment in scan.segments}
    if of != {(log_id, epoch)} or sum(size for *_, size in found.values()) != head.events_size:
        return None
    numbers: dict[int, int] = {}
    for room, seq, _ in found.values():
        numbers[room] = max(numbers.get(room, 0), seq)
    return numbers
