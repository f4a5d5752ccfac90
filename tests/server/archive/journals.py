"""Journals whose every event is known, as a server writes them."""

from pathlib import Path
from typing import Final, NamedTuple

from libproto.codec import PUSH
from libproto.messages import HEADER_LEN, Opcode
from server.archive.follower import Durable
from server.archive.protocol import INBOX
from server.core.events import SlotKind
from server.journal.disk import Disk
from server.journal.format import EVENT_HEAD
from server.journal.reader import find_end
from server.journal.writer import Writer
from server.region.layout import WORD
from server.region.records import RECORD_SIZE
from tests.helpers.disk import SimulatedDisk

DIRECTORY: Final = Path("/data/journal")
LOG_ID: Final = 77
EPOCH: Final = 1_700_000_000_000_000
RING: Final = 16
SEGMENT: Final = 3000  # bytes: a few batches


def new_disk() -> SimulatedDisk:
    """With an empty directory for the journal."""
    disk = SimulatedDisk()
    disk.make_directory(DIRECTORY)
    disk.sync_directory(DIRECTORY.parent)
    return disk


class Said(NamedTuple):
    """An event, as the histories are to have it."""

    event: int
    room: int  # or INBOX | user
    seq: int
    sender: int
    body: bytes


def event_bytes(said: Said, txn: int = 0) -> bytes:
    """As it stands in the journal."""
    room = 0 if said.room >= INBOX else said.room
    kind = SlotKind.DIRECT if said.room >= INBOX else SlotKind.MESSAGE
    user = said.room & INBOX - 1 if said.room >= INBOX else said.sender
    frame = bytes(HEADER_LEN) + said.body
    head = EVENT_HEAD.pack(
        said.event, kind, room, said.seq, user, 0, 0, len(frame), EPOCH + said.event, said.sender,
        0, 0, 0, 0, txn,
    )  # fmt: skip
    return head + frame.ljust(len(frame) + -len(frame) % WORD, b"\0")


class Journal:
    """One that is written."""

    def __init__(
        self,
        disk: Disk,
        directory: Path = DIRECTORY,
        *,
        segment: int = SEGMENT,
        epoch: int = EPOCH,
        log_id: int = LOG_ID,
    ) -> None:
        self._disk, self._directory, self._segment = disk, directory, segment
        self._epoch, self._log_id, self._time = epoch, log_id, epoch
        self.said: list[Said] = []
        self._waiting: list[Said] = []
        self._seqs: dict[int, int] = {}
        self._head = 0  # number of the newest event
        self.durable = Durable(0, 0)
        self.writer = self._open()
        self.start()

    def _open(self) -> Writer:
        end = find_end(self._disk, self._directory, self._log_id, None)
        return Writer(self._disk, self._directory, self._log_id, end, self._segment, self._now)

    def _now(self) -> int:
        self._time += 1
        return self._time

    def start(self) -> None:
        """As a server does."""
        self.writer.begin(RING, 0, self._epoch)
        self.publish()

    def again(self) -> None:
        """Another process goes on with it."""
        self.writer.close()
        self.writer = self._open()

    def say(self, room: int = 1, sender: int = 5, text: str = "", size: int = 40) -> None:
        """What is in the ring and not in the journal yet."""
        seq = self._seqs.get(room, 0) + 1
        self._seqs[room] = seq
        self._head += 1
        event = self._head
        text = (text or f"{seq} in {room} of {sender} ").ljust(size, "+")
        if room >= INBOX:
            frame = PUSH[Opcode.DIRECT_MESSAGE].frame(0, 0, seq, EPOCH, sender, "ann", text)
        else:
            frame = PUSH[Opcode.CHAT_BROADCAST].frame(
                0, 0, room, seq, EPOCH, 0, sender, "ann", text
            )
        self._waiting.append(Said(event, room, seq, sender, frame[HEADER_LEN:]))

    def write(self, txns: int = 0, payments: int = 0) -> None:
        """A batch. payments: events behind the others, that are not written."""
        first = self.writer.position.txn + 1
        records = b"".join(
            number.to_bytes(WORD, "little") + bytes(RECORD_SIZE - WORD)
            for number in range(first, first + txns)
        )
        events = [event_bytes(said) for said in self._waiting]
        self._head += payments
        self.writer.append([records] if txns else [], txns, events, self._head + 1)
        self.said += self._waiting
        self._waiting = []

    def publish(self) -> None:
        """What was written is known to be durable."""
        position = self.writer.position
        self.durable = Durable(position.txn, max(position.event, self.durable.event))

    def commit(self, txns: int = 0, payments: int = 0) -> None:
        self.write(txns, payments)
        self.publish()

    def payments(self, count: int) -> None:
        """Events that are not written, and are durable at once."""
        assert not self._waiting
        assert self.durable.event >= self.writer.position.event, "all before them is durable"
        self._head += count
        self.durable = Durable(self.durable.txn, self._head)
