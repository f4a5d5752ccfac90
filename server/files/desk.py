"""Where requests of the workers are taken up: each is one message and one segment, and is answered
in that segment.

Whatever a message says is checked against the segment it names: one about a loan that has ended, or
about a worker that has, is passed over.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple
from zlib import crc32

import liblog
from libnet.wakeup import Wakeup
from libproto.errors import Status
from libproto.messages import CHUNK_MAX, SHA256_LEN
from server.files.asked import Begin
from server.files.channel import Kind, Message
from server.files.errors import Busy, Damaged, FilesError, NotThere, Wrong
from server.files.holds import Holds
from server.files.published import Published
from server.files.records import File
from server.files.segments import (
    DETAIL_MAX,
    Pool,
    PoolError,
    Segment,
    SegmentState,
    pool_name,
)
from server.files.store import Store
from server.region.region import Region

RETRY_MS: Final = 1000
AGAIN_S: Final = 0.5  # between attempts to reach segments that could not be reached
_PLACES_MAX: Final = CHUNK_MAX // 8

log = liblog.get("files")


class Loan(NamedTuple):
    """A segment in the hands of this process."""

    message: Message
    segment: Segment


class Pools:
    """The workers' pools as this process maps them."""

    def __init__(self, region: Region) -> None:
        self._region = region
        placed = region.layout["workers"]
        self._at = [placed.at(slot, "pool") for slot in range(placed.records)]
        self._pools: dict[int, tuple[int, Pool]] = {}  # by slot: its number

    def find(self, slot: int, number: int) -> Pool | None:
        """The pool of a worker; None: that worker has ended. PoolError: there is no memory, or no
        descriptor, for it now."""
        if slot >= len(self._at) or self._region.words[self._at[slot]] != number:
            return None
        found = self._pools.get(slot)
        if found is None or found[0] != number:
            self._drop(slot)
            pool = Pool.attach(pool_name(self._region.name, slot, number))
            found = self._pools[slot] = number, pool
        return found[1]

    def sweep(self) -> None:
        """Unmap those whose worker has ended."""
        for slot, (number, _) in tuple(self._pools.items()):
            if self._region.words[self._at[slot]] != number:
                self._drop(slot)

    def _drop(self, slot: int) -> None:
        if found := self._pools.pop(slot, None):
            found[1].close()


class Desk:
    """Takes requests up, one after the other."""

    def __init__(
        self,
        region: Region,
        store: Store,
        published: Published,
        holds: Holds,
        wakeups: list[Wakeup],
        fetch: Callable[[Loan, int, str], None],
        forget: Callable[[str, bytes], None],
    ) -> None:
        """fetch: begins to fetch a URL into a place; it answers the loan when that is over. forget:
        a URL, or all that are known to have some contents, so that they are fetched anew."""
        self._store, self._published, self._wakeups = store, published, wakeups
        self._holds = holds
        self._pools: Final = Pools(region)
        self._counts, self._fetch, self._forget = region.files, fetch, forget
        self._unreached: list[Message] = []  # no more than there are segments
        self._again_due = 0.0  # time.monotonic()
        self._lack: Final = liblog.Seldom()  # of lines about it
        self._number: Final = region.files.number
        self._serve: Final[dict[int, Callable[[Loan], None]]] = {
            Kind.BEGIN: self._begin,
            Kind.PUT: self._put,
            Kind.END: self._end,
            Kind.GET: self._get,
            Kind.WHERE: self._where,
            Kind.STAT: self._stat,
            Kind.FETCH: self._fetch_link,
            Kind.RELEASE: self._release,
            Kind.RETRACT: self._retract,
            Kind.INVALIDATE: self._invalidate,
        }

    def take(self, message: Message) -> None:
        """Serve a request, and hand its segment back; one that fetches a link keeps it. Where the
        segment cannot be reached, it is tried again: else it would be lost to its worker."""
        try:
            loan = self._loan(message)
        except PoolError as error:
            self._unreached.append(message)
            if self._lack.due():
                log.warning("segments_unusable", worker=message.worker, reason=error.strerror)
            return
        if loan is None:
            self._counts.stale += 1
            return
        self._counts.requests += 1
        try:
            self._serve[message.kind](loan)
        except (FilesError, OSError) as error:
            self.fails(loan, error)

    def try_again(self) -> None:
        """Those whose segments could not be reached, now and then."""
        now = time.monotonic()
        if self._unreached and now >= self._again_due:
            self._again_due = now + AGAIN_S
            messages, self._unreached = self._unreached, []
            for message in messages:
                self.take(message)

    def sweep(self) -> None:
        self._pools.sweep()
        self._holds.sweep()

    def _loan(self, message: Message) -> Loan | None:
        if message.number != self._number:
            return None
        pool = self._pools.find(message.worker, message.pool)
        if pool is None or message.segment >= len(pool.segments):
            return None
        segment = pool.segments[message.segment]
        if (
            message.kind not in self._serve
            or segment.get("generation") != message.generation
            or segment.get("state") != SegmentState.IN_PROGRESS
        ):
            return None
        # Its worker has filled it, or has left it to be filled here.
        taken = segment.try_fill() if Kind(message.kind).fetches else segment.try_take()
        return Loan(message, segment) if taken else None

    def is_live(self, loan: Loan) -> bool:
        """Is there still a worker that waits for it?"""
        message = loan.message
        return self._pools.find(message.worker, message.pool) is not None

    # ---- handing back

    def answers(self, loan: Loan, state: SegmentState = SegmentState.COMPLETE) -> None:
        """Hand the segment back."""
        message, segment = loan
        segment.put(state=state)
        if Kind(message.kind).fetches:
            segment.filled()
        else:
            segment.emptied()
        self._wakeups[message.worker].set()

    def fails(self, loan: Loan, error: Exception) -> None:
        """Hand it back with what has gone wrong."""
        segment, detail, retry = loan.segment, str(error), 0
        if isinstance(error, NotThere):
            state, status = SegmentState.NOT_FOUND, Status.ERR_NOT_FOUND
        else:
            state = SegmentState.FAILED
            status = Status.ERR_BAD_PACKET if isinstance(error, Wrong) else Status.ERR_SERVER_BUSY
        if status is Status.ERR_SERVER_BUSY:
            retry = RETRY_MS
            if not isinstance(error, Busy):
                detail = "the file cannot be read or written just now"
        if isinstance(error, Damaged | OSError):
            log.error("file_unusable", reason=str(error), kind=Kind(loan.message.kind).name)
        text = detail.encode()[:DETAIL_MAX].decode(errors="ignore").encode()
        segment.put_text("detail", text)
        segment.put(status=status, retry_ms=retry, detail_len=len(text), chunk=0)
        self._counts.failed += 1
        self.answers(loan, state)

    def tells(self, loan: Loan, file: File, received: int) -> None:
        """Hand it back with what a file is."""
        segment = loan.segment
        segment.put_text("sha256", file.sha256)
        segment.put(
            file_id=file.file_id, room=file.room, size=file.size, user=file.user, received=received
        )
        if not Kind(loan.message.kind).fetches or loan.message.kind == Kind.STAT:
            segment.fill(f"{file.media_type} {file.name}".encode())
        self.answers(loan)

    # ---- the requests

    def _begin(self, loan: Loan) -> None:
        message, segment = loan
        asked = Begin.unpack(segment.take())
        self._published.follow()  # the same may have been published just now
        upload = self._store.begin(
            message.user,
            asked.place,
            asked.sha256,
            segment.get("size"),
            asked.media_type,
            asked.name,
            readable=asked.readable,
        )
        self._holds.lease(message, upload.file_id)
        segment.put(file_id=upload.file_id, received=upload.received)
        self.answers(loan)

    def _put(self, loan: Loan) -> None:
        message, segment = loan
        data = segment.data[: message.length]
        received = self._store.put(message.file_id, message.user, message.offset, data)
        segment.put(received=received)
        self._counts.bytes_in += message.length
        self.answers(loan)

    def _stat(self, loan: Loan) -> None:
        """Of what FILE_END is to publish: whose and where, before anything is done."""
        self._published.check_open(loan.message.file_id)
        file, received = self._store.look(loan.message.file_id, loan.message.user)
        self.tells(loan, file, received)

    def _end(self, loan: Loan) -> None:
        message = loan.message
        self._published.check_open(message.file_id)
        file = self._store.end(message.file_id, message.user)
        self._holds.claim(message)
        self.tells(loan, file, file.size)

    def _release(self, loan: Loan) -> None:
        self._holds.release(loan.message)
        self.answers(loan)

    def _retract(self, loan: Loan) -> None:
        self._holds.retract(loan.message)
        self.answers(loan)

    def _invalidate(self, loan: Loan) -> None:
        """Of a file_id: what workers keep of it goes, and links that led to it are fetched anew."""
        url, file_id = loan.segment.take().decode(), loan.message.file_id
        self._forget(url, b"" if url else self._store.find(file_id).sha256)
        self._counts.removed += 1
        self.answers(loan)

    def _get(self, loan: Loan) -> None:
        message, segment = loan
        file = self._published.find(message.file_id)
        length = min(message.length, CHUNK_MAX)
        data = self._store.get(file.sha256, message.offset, length) if length else b""
        segment.fill(data)
        segment.put(crc=crc32(data), offset=message.offset)
        self._counts.bytes_out += len(data)
        self.tells(loan, file, 0)

    def _where(self, loan: Loan) -> None:
        """Places where contents of this hash and size are published. The hash stands in the fields:
        the data are the answer's."""
        segment = loan.segment
        sha256, size = segment.text("sha256", SHA256_LEN), segment.get("size")
        places = sorted(
            {
                file.room
                for file in self._store.publications(sha256)
                if file.size == size and self._published.is_there(file.file_id)
            }
        )
        segment.fill(b"".join(place.to_bytes(8, "little") for place in places[:_PLACES_MAX]))
        self.answers(loan)

    def _fetch_link(self, loan: Loan) -> None:
        self._fetch(loan, loan.segment.get("room"), loan.segment.take().decode())
