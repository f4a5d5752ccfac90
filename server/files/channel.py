"""The command channel: one POSIX message queue, which the files process owns.

A message is fixed and says which segment is lent for what; all else stands in the segment. Each
files process makes a queue of its own, under the other one of two names: what a worker sends into
the queue of one that has died is seen by nobody, and never by its successor.

How many messages a queue holds is bounded by the system (fs.mqueue.msg_max). What does not fit
waits in the workers.
"""

import errno
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

import posix_ipc

DEPTH: Final = 64
"""Messages that a queue is to hold."""
_MSG_MAX: Final = Path("/proc/sys/fs/mqueue/msg_max")
_MESSAGE: Final = Struct("=IIIIQQQQII")


class Kind(IntEnum):
    """What is asked of the files process; in brackets what the segment carries."""

    PUT = 1  # [bytes to the files process]
    END = 2  # hash, store
    GET = 3  # [bytes from it]
    FETCH = 4  # [a URL to it]
    INVALIDATE = 5  # [a URL to it], or a file_id
    BEGIN = 6  # [hash, media type and name to it]
    WHERE = 7  # [places from it] where contents of a hash are published
    STAT = 8  # of an upload of that user
    RELEASE = 9  # the connection that began an upload has ended
    RETRACT = 10  # what was ended is not published after all

    @property
    def fetches(self) -> bool:
        """Does the files process fill the segment?"""
        return self in (Kind.GET, Kind.WHERE, Kind.STAT)


class Message(NamedTuple):
    """One request."""

    kind: int
    worker: int  # slot
    segment: int
    length: int
    pool: int  # number of the worker's pool
    generation: int  # of the loan
    file_id: int
    offset: int
    user: int
    number: int  # of the files process that is meant: another one may have the queue by now

    def pack(self) -> bytes:
        return _MESSAGE.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "Message":
        return cls._make(_MESSAGE.unpack(data))


class ChannelError(OSError):
    """A queue cannot be made; its text says why, and what to do."""


def queue_name(region: str, number: int) -> str:
    """Of the queue of a files process. number: counts them."""
    return f"/{region}_files_{number & 1}"


def depth() -> tuple[int, int]:
    """How many messages a queue will hold, and the limit of the system."""
    try:
        most = int(_MSG_MAX.read_bytes())
    except (OSError, ValueError):
        most = 10
    return min(DEPTH, most), most


class Commands:
    """The end of the files process."""

    def __init__(self, region: str, number: int) -> None:
        """Make the queue, in the place of whatever has its name. ChannelError."""
        self.name: Final = queue_name(region, number)
        self.depth: Final = depth()[0]
        remove(self.name)
        try:
            self._queue = posix_ipc.MessageQueue(
                self.name,
                posix_ipc.O_CREX,
                mode=0o600,
                max_messages=self.depth,
                max_message_size=_MESSAGE.size,
                read=True,
                write=False,
            )
        except (OSError, posix_ipc.Error, ValueError) as error:
            raise ChannelError(
                getattr(error, "errno", None) or errno.EIO,
                f"the message queue {self.name} cannot be made: {error}; look at `ulimit -q` and "
                "fs.mqueue.queues_max",
            ) from error

    def fileno(self) -> int:
        """It can be polled."""
        return int(self._queue.mqd)

    def receive(self) -> Message | None:
        """The next message; None: there is none now. One of another size is passed over."""
        while True:
            try:
                data, _ = self._queue.receive(0)
            except posix_ipc.BusyError:
                return None
            except posix_ipc.SignalError:
                continue
            if len(data) == _MESSAGE.size:
                return Message.unpack(data)

    @property
    def waiting(self) -> int:
        return int(self._queue.current_messages)

    def close(self) -> None:
        self._queue.close()


class Sender:
    """A worker's end, of one files process."""

    def __init__(self, region: str, number: int) -> None:
        """OSError: there is no queue."""
        self.number: Final = number
        try:
            self._queue = posix_ipc.MessageQueue(
                queue_name(region, number), 0, read=False, write=True
            )
        except (posix_ipc.Error, ValueError) as error:
            raise OSError(errno.ENOENT, str(error)) from error

    def send(self, message: Message) -> bool:
        """False: the queue is full."""
        try:
            self._queue.send(message.pack(), 0)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return False
        return True

    def close(self) -> None:
        self._queue.close()


def remove(name: str) -> bool:
    """Remove a queue's name, if it is there."""
    try:
        posix_ipc.unlink_message_queue(name)
    except (posix_ipc.Error, OSError):
        return False
    return True


def remove_queues(region: str) -> int:
    """Remove what a dead server has left: how many queues it was."""
    return sum(remove(queue_name(region, number)) for number in (0, 1))
