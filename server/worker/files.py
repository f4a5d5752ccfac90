"""A worker's end of the files: its pool of segments, and what it asks of the files process.

A request needs a segment, and a user has at most a share of them; what finds none waits, in order
of arrival. A segment comes back when the files process hands it back, or when the master has reaped
that process: never because time has passed. A request that waits for too long is answered
ERR_SERVER_BUSY, and its segment stays lent.
"""

import asyncio
from collections import deque
from functools import partial
from typing import Final, NamedTuple

import liblog
from libproto.errors import Status
from libproto.messages import SHA256_LEN
from server.config import Settings
from server.files.channel import Kind, Message, Sender
from server.files.contents import FOLDER, content_of
from server.files.segments import Pool, Segment, SegmentState, pool_name, remove_pools
from server.region.region import Region
from server.worker.counters import Counters
from server.worker.file_cache import FileCache
from server.worker.page_cache import PageCache
from server.worker.refusal import Refused
from server.worker.turns import Resume, Wait

WAITING_MAX: Final = 1024  # requests of a worker that wait for a segment; one more is refused
RETRY_MS: Final = 1000
POLL_S: Final = 0.05  # while something is lent: between looks that nobody woke it for
SHARE: Final = 4  # a user has at most one part in so many of the segments

log = liblog.get("worker")


class Reply(NamedTuple):
    """What the files process has answered."""

    file_id: int
    place: int
    size: int
    received: int
    sha256: bytes
    crc: int
    data: bytes


class Asked(NamedTuple):
    """A request as it is handed over."""

    kind: Kind
    user: int
    file_id: int = 0
    offset: int = 0
    length: int = 0
    size: int = 0
    place: int = 0
    data: bytes = b""
    sha256: bytes = b""
    seconds: float = 0.0  # that it may take; 0: as configured


class _Job:
    """A request that waits for a segment, or for its answer."""

    __slots__ = ("asked", "given_up", "resume", "timer")

    def __init__(self, asked: Asked, resume: Resume) -> None:
        self.asked, self.resume = asked, resume
        self.given_up = False
        self.timer: asyncio.TimerHandle | None = None


class _Loan(NamedTuple):
    """A segment that was handed over."""

    segment: Segment
    job: _Job
    number: int  # of the files process that has it


def busy(detail: str = "files cannot be reached just now") -> Refused:
    return Refused(Status.ERR_SERVER_BUSY, detail, RETRY_MS)


class FilesClient:
    """The worker's end."""

    def __init__(
        self,
        region: Region,
        slot: int,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
    ) -> None:
        self._region, self._slot, self._loop, self._counters = region, slot, loop, counters
        self._words = region.words
        files = region.files
        self._serving, self._reaped = files.index("serving"), files.index("reaped")
        self._patience_s: Final = settings.segment_timeout
        self._segments: Final = settings.segments
        self._lack: Final = liblog.Seldom()  # of lines about it
        self._pool: Pool | None = None
        self._pool_number = 0
        self._pool_due = 0.0  # loop.time(): to make it, where that has failed
        self._free: deque[Segment] = deque()
        self._has_pool()
        self._share: Final = max(1, settings.segments // SHARE)
        self._loans: list[_Loan] = []
        self._of_user: dict[int, int] = {}  # segments lent for a user's requests
        self._waiting: deque[_Job] = deque()
        removed = files.index("removed")
        store = settings.data.absolute() / FOLDER
        self.cache: Final = FileCache(
            settings.file_cache_mb << 20,
            counters,
            lambda: self._words[removed],
            PageCache(partial(content_of, store)),
        )
        self._sender: Sender | None = None
        self._polls = False

    def _has_pool(self) -> bool:
        """Make it where there is none, unless that has failed just now."""
        if self._pool is None and self._loop.time() >= self._pool_due:
            # What a killed master, or a worker before, has left of this slot's.
            remove_pools(self._region.name, self._slot)
            number = _pool_number(self._loop)
            try:
                name = pool_name(self._region.name, self._slot, number)
                self._pool = Pool.create(name, self._segments)
            except OSError as error:
                self._pool_due = self._loop.time() + RETRY_MS / 1000
                if self._lack.due():
                    log.warning("segments_unusable", reason=error.strerror)
                return False
            self._pool_number = number
            self._words[self._region.layout["workers"].at(self._slot, "pool")] = number
            self._free.extend(self._pool.segments)
        return self._pool is not None

    # ---- asking

    def ask(self, asked: Asked) -> Wait:
        """What a turn yields to have a request answered: with a Reply, or an exception to raise."""
        return lambda resume: self._begin(_Job(asked, resume))

    def tell(self, kind: Kind, user: int, file_id: int, data: bytes = b"") -> bool:
        """Tell the files process something that nobody waits for. False: it cannot be told."""
        if not self._words[self._serving] or not self._has_pool():
            return False
        self._waiting.append(_Job(Asked(kind, user, file_id, data=data), lambda _: None))
        self._hand_over()
        return True

    def _begin(self, job: _Job) -> None:
        if not self._words[self._serving] or not self._has_pool():
            job.resume(busy())
            return
        if len(self._waiting) >= WAITING_MAX:
            job.resume(busy("too many requests for files wait"))
            return
        seconds = job.asked.seconds or self._patience_s
        job.timer = self._loop.call_later(seconds, self._give_up, job)
        self._waiting.append(job)
        self._hand_over()

    def _give_up(self, job: _Job) -> None:
        """Its time is over. A segment that was handed over for it stays so."""
        job.given_up = True
        if job in self._waiting:
            self._waiting.remove(job)
        self._counters.count("file_late")
        job.resume(busy("the file could not be read or written in time"))

    def _hand_over(self) -> None:
        """Lend segments to those that wait, as far as there are some, and the queue takes them."""
        passed: deque[_Job] = deque()
        while self._waiting and self._free:
            job = self._waiting.popleft()
            if self._of_user.get(job.asked.user, 0) >= self._share:
                passed.append(job)
                continue
            if not self._lend(job):
                self._waiting.appendleft(job)
                break
        passed.extend(self._waiting)
        self._waiting = passed
        self._show()

    def _lend(self, job: _Job) -> bool:
        """False: not now."""
        number = self._words[self._serving]
        sender = self._open(number) if number else None
        if sender is None:
            return False
        segment, asked = self._free[0], job.asked
        if not asked.kind.fetches:
            if not segment.try_fill():
                raise AssertionError("a free segment can be filled")
            segment.fill(asked.data)
        if asked.sha256:
            segment.put_text("sha256", asked.sha256)
        segment.put(
            generation=segment.get("generation") + 1,
            kind=asked.kind,
            file_id=asked.file_id,
            user=asked.user,
            room=asked.place,
            offset=asked.offset,
            size=asked.size,
            state=SegmentState.IN_PROGRESS,
        )
        if not asked.kind.fetches:
            segment.filled()
        message = Message(
            asked.kind,
            self._slot,
            segment.number,
            asked.length or len(asked.data),
            self._pool_number,
            segment.get("generation"),
            asked.file_id,
            asked.offset,
            asked.user,
            number,
        )
        if not sender.send(message):
            segment.reset()  # nobody has heard of it
            return False
        self._free.popleft()
        self._loans.append(_Loan(segment, job, number))
        self._of_user[asked.user] = self._of_user.get(asked.user, 0) + 1
        self._look_later()
        return True

    def _open(self, number: int) -> Sender | None:
        """The queue of that files process; None: it is gone already."""
        if self._sender is not None and self._sender.number != number:
            self._sender.close()
            self._sender = None
        if self._sender is None:
            try:
                self._sender = Sender(self._region.name, number)
            except OSError as error:
                if self._lack.due():
                    log.warning("files_queue_unusable", reason=error.strerror)
        return self._sender

    # ---- what comes back

    def poll(self) -> None:
        """Take back what was handed back."""
        if not self._loans:
            if self._waiting:
                self._hand_over()
            return
        reaped, kept = self._words[self._reaped], list[_Loan]()
        loans, self._loans = self._loans, []
        for loan in loans:
            if loan.number <= reaped:
                loan.segment.reset()
                self._returned(loan, None)
            elif self._is_back(loan):
                self._returned(loan, _answer_of(loan.segment))
                loan.segment.put(state=SegmentState.EMPTY)
                loan.segment.emptied()
            else:
                kept.append(loan)
        self._loans = kept + self._loans
        self._hand_over()

    def _is_back(self, loan: _Loan) -> bool:
        if loan.segment.get("state") == SegmentState.IN_PROGRESS:
            return False
        if loan.job.asked.kind.fetches:
            return loan.segment.try_take()
        return loan.segment.try_fill()

    def _returned(self, loan: _Loan, answer: "Reply | Refused | None") -> None:
        """A segment is free again. answer: None: the files process has died."""
        job, user = loan.job, loan.job.asked.user
        self._free.append(loan.segment)
        left = self._of_user[user] - 1
        if left:
            self._of_user[user] = left
        else:
            del self._of_user[user]
        if job.timer is not None:
            job.timer.cancel()
        if not job.given_up:
            # Not here: what it does next may lend segments.
            self._loop.call_soon(job.resume, busy() if answer is None else answer)

    def _show(self) -> None:
        self._counters.set("file_loans", len(self._loans))
        self._counters.set("file_waiting", len(self._waiting))

    def _look_later(self) -> None:
        if not self._polls:
            self._polls = True
            self._loop.call_later(POLL_S, self._look_again)

    def _look_again(self) -> None:
        self.poll()
        self._polls = bool(self._loans or self._waiting)
        if self._polls:
            self._loop.call_later(POLL_S, self._look_again)


def _answer_of(segment: Segment) -> "Reply | Refused":
    if segment.get("state") == SegmentState.COMPLETE:
        return Reply(
            segment.get("file_id"),
            segment.get("room"),
            segment.get("size"),
            segment.get("received"),
            segment.text("sha256", SHA256_LEN),
            segment.get("crc"),
            segment.take(),
        )
    detail = segment.text("detail", segment.get("detail_len")).decode(errors="replace")
    return Refused(segment.get("status"), detail, segment.get("retry_ms"))


def _pool_number(loop: asyncio.AbstractEventLoop) -> int:
    """Of this process: another one than that of any worker before it in its slot."""
    return int(loop.time() * 1e6) or 1
