"""What this worker has received and sent, by opcode, and how long its answers took. Hot path.

Frames that leave are counted where they leave, once per write, so nobody who makes one has to. The
latency of a request is from the read of the socket that brought it to the write that answers it,
both by the clock of `FrameProtocol.now`, which is looked at once for each: the wall clock, so that
a step of it shows once.
"""

from array import array
from typing import Final

from libnet import kernel
from libnet.transport import FrameProtocol
from libproto import wire
from libproto.messages import HEADER_LEN, MESSAGES, Flag
from server.region import histogram, machine
from server.region.counters import ROWS, SERVED, STATUSES
from server.region.histogram import TIMES_FIRST
from server.region.region import Region

_HEADER_LEN, _RESPONSE, _STATUSES, _FIRST = HEADER_LEN, int(Flag.RESPONSE), STATUSES, TIMES_FIRST


class Served:
    """The records of one worker."""

    def __init__(self, region: Region, slot: int) -> None:
        placed = region.layout["served"]
        self._view: Final = region.words
        self._words = machine.words_of(region.words)
        first, at = slot * len(ROWS), placed.offsets
        self._other = placed.at(first + len(ROWS) - 1)
        opcodes = 1 + max(int(message.opcode) for message in MESSAGES)
        self._opcodes = opcodes
        self._of = array("Q", [self._other] * opcodes)  # by opcode: its record
        for row, message in enumerate(MESSAGES):
            self._of[message.opcode] = placed.at(first + row)
        self._records = machine.column(self._of)
        self._sent, self._sent_bytes = at["sent"], at["sent_bytes"]
        self._latency = at["latency_us"]

    def record(self, opcode: int) -> int:
        """The record of an opcode; its first word counts the requests, its second their bytes."""
        return self._records[opcode] if opcode < self._opcodes else self._other

    def sent(self, frames: list[bytes], connection: FrameProtocol) -> None:
        """Count frames that leave now."""
        words = self._words
        now = before = took = bucket = 0
        for data in frames:
            pos, size = 0, len(data)
            while pos + _HEADER_LEN <= size:
                head, _, body_len, opcode, status, _, _, _, _ = wire.header(data, pos)
                length = _HEADER_LEN + body_len
                pos += length
                if status >= _STATUSES:
                    continue
                record = self._records[opcode] if opcode < self._opcodes else self._other
                words[record + self._sent + status] += 1
                words[record + self._sent_bytes + status] += length
                if head & _RESPONSE:
                    arrived = connection.arrival() if connection.owed_before else connection.arrived
                    if arrived != before:  # the answers to what one read has brought have one time
                        now = now or kernel.now_us()
                        before = arrived
                        took = now - arrived if now > arrived else 0
                        bucket = histogram.bucket_of(took, _FIRST)
                    words[record + self._latency] += took
                    words[record + self._latency + 1 + bucket] += 1


# `record` says so
assert [name for name, _, _ in SERVED][:2] == ["requests", "request_bytes"]
assert [name for name, _, _ in SERVED][-2:] == ["latency_us", "latency"], "a histogram"
