"""From the journal into the histories, at its own pace: nobody waits for it.

Where it cannot write it tries again, and where too much is missing it says so: then nothing that
makes an event is accepted (`closed`), money goes on, and the journal keeps what is missing here.

Histories that are damaged, or belong to another log or epoch, are set aside and made anew from what
the journal has. That needs no new epoch: every event from the oldest one on is there, numbers go on
as before, and histories merely begin later, which their oldest number tells.

Events that are damaged in the journal are missing here. What this server has written itself it
waits for: somebody has to see to the disk. What was there when it started was dealt with then.
"""

import errno
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Final, NamedTuple

import liblog
from libproto.messages import HEADER_LEN
from server.archive.follower import (
    Durable,
    EventsDamaged,
    Followed,
    Follower,
    Parted,
    newest_start,
    oldest_start,
    resume,
)
from server.archive.protocol import INBOX
from server.archive.store import Identity, Store
from server.core.events import SlotKind
from server.journal.aside import new_directory
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.errors import Damaged, JournalError, OtherFormat, Unreadable, why
from server.journal.format import BatchKind, events_in
from server.journal.life import now_us
from server.journal.reader import Position
from server.region.layout import ServerState
from server.region.region import Region

SEGMENT_SIZE: Final = 4 << 20  # bytes
TURN_SIZE: Final = 1 << 20  # bytes of events that are taken in one turn
TURN_BATCHES: Final = 2000
SYNC_S: Final = 1.0
SYNC_SIZE: Final = 4 << 20  # bytes written without a sync
RETRY_S: Final = 1.0
TRIES: Final = 3
"""After which a file that cannot be read counts as damaged."""

log = liblog.get("archive")


class Limits(NamedTuple):
    """How much is kept, and may be missing."""

    room_keep: int  # events of a room
    inbox_keep: int  # messages of an inbox
    lag_max: int  # bytes of events


class Event(NamedTuple):
    """An event that is kept."""

    number: int  # in the log
    room: int  # or INBOX | user_id
    seq: int
    sender: int
    body: bytes  # of the push frame


def events_of(events: bytes) -> Iterator[Event]:
    """Of a batch's events those that are kept."""
    for head, frame in events_in(events):
        body = bytes(frame[HEADER_LEN:])
        if head.room:
            yield Event(head.word, head.room, head.seq, head.sender or head.user, body)
        elif head.kind == SlotKind.DIRECT:
            yield Event(head.word, INBOX | head.user, head.seq, head.sender, body)


def set_aside(disk: Disk, data: DataDirectory) -> Path:
    """Move the files of the histories away, to be made anew; where to. OSError."""
    kept = new_directory(disk, data) / data.rooms.name
    disk.make_directory(kept)
    for name in disk.names(data.rooms):
        disk.rename(data.rooms / name, kept / name)
    for directory in (kept, kept.parent, data.rooms):
        disk.sync_directory(directory)
    return kept


class Keeper:
    """Keeps the histories up with the journal."""

    def __init__(
        self,
        region: Region,
        data: DataDirectory,
        disk: Disk,
        limits: Limits,
        thread: Executor,
        *,
        beat: Callable[[], None] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        """thread: where it waits for the disk. beat: called while it reads for long. clock_s: a
        monotonic clock. segment_size: bytes."""
        self._beat = beat
        self._region, self._data, self._disk, self._limits = region, data, disk, limits
        self._thread, self._clock_s, self._segment_size = thread, clock_s, segment_size
        self._words, archive = region.words, region.archive
        self._cursor_at, self._kept_at = archive.index("cursor"), archive.index("kept")
        self._events_durable, self._events_head = map(region.events.index, ("durable", "head"))
        self._events_first = region.events.index("first")
        self._log_durable, self._log_head = map(region.log.index, ("durable", "head"))
        self._rooms = region.layout["rooms"]
        self.store: Store | None = None
        """None: it cannot be opened."""
        self.reached = 0
        """All events up to this one can be asked for, those that are kept."""
        self._follower: Follower | None = None
        self._scout: Follower | None = None  # ahead of it, to see how much is missing
        self._taken = self._seen = 0  # bytes of events that each of them has passed
        self._in_epoch = True  # what is taken belongs to the epoch
        self._anew = False  # they were made anew by this process
        self._syncing: Future[None] | None = None
        self._sync_at, self._written = 0.0, 0  # when, and bytes since the one before
        self._retry_at = 0.0
        self._tries = 0  # in a row, to open files that cannot be read
        self._problem = ""  # why it cannot write
        self._late = False  # too much is missing
        self._touched: set[int] = set()  # rooms with something that is not written yet
        self._count = 0  # events that are not written yet

    # ---- turns

    @property
    def behind(self) -> bool:
        """Has anything happened that is not in the histories?"""
        return self.reached < self._region.events.head

    def turn(self) -> bool:
        """Take what has become durable; is there more of it? Nothing is raised for a disk that
        fails: it is tried again."""
        if self._problem and self._clock_s() < self._retry_at:
            return False
        more = False
        try:
            if self.store is None:
                self._open()
            self._look_at_sync()
            try:
                more = self._take()
            except Parted as error:
                if self._anew:  # they are made from this journal: it is the journal that is wrong
                    raise
                self._begin_anew(str(error))
                more = True
            self._sync_if_due()
        except (OSError, JournalError) as error:
            self._fail(error)
        else:
            if self._problem:
                self._problem = ""
                log.info("histories_recovered")
        self._tell(more=more)
        return more

    def finish(self) -> None:
        """At the end: all that is durable by now, on the disk."""
        if self._problem:
            return
        try:
            if self._syncing is not None:
                self._syncing.exception()
            while self.turn():
                pass
            store, follower = self.store, self._follower
            if store is None or follower is None or self._problem:
                return
            if self._syncing is not None:
                self._syncing.exception()
                self._look_at_sync()
            if store.position != follower.position:
                store.write(follower.position)
            if store.unsynced:
                self._begin_sync()
                self._look_at_sync(wait=True)
        except (OSError, JournalError) as error:
            self._fail(error)
        finally:
            self._tell(more=False)

    def close(self) -> None:
        """Close the files."""
        if self._syncing is not None:
            self._syncing.exception()  # until it has ended
            self._syncing = None
        for each in (self._follower, self._scout, self.store):
            if each is not None:
                each.close()
        self.store = self._follower = self._scout = None

    # ---- opening

    def _open(self) -> None:
        """Open the histories, and find where they go on in the journal. JournalError, OSError."""
        header = self._region.header
        identity = Identity(header.log_id, header.epoch)
        try:
            store = self._opened(identity)
        except (Damaged, OtherFormat) as error:
            self._tries += 1
            if isinstance(error, Unreadable) and self._tries < TRIES:
                raise  # a disk may have moments
            self._begin_anew(str(error))
            return
        self._tries = 0
        if store.torn is not None:  # it was being written when the server ended
            log.warning("histories_end_cut", path=str(store.torn.path), offset=store.torn.offset)
        try:
            if store.identity != identity:
                raise Parted("they belong to another log, or to another epoch of its rooms")
            position = self._place(store)
        except Parted as error:
            store.close()
            self._begin_anew(str(error))
        except BaseException:
            store.close()
            raise
        else:
            self._begin_at(store, position)

    def _opened(self, identity: Identity) -> Store:
        return Store(
            self._disk,
            self._data.rooms,
            identity,
            room_keep=self._limits.room_keep,
            inbox_keep=self._limits.inbox_keep,
            segment_size=self._segment_size,
            now=now_us,
            beat=self._beat,
        )

    def _place(self, store: Store) -> Position:
        """Where the journal goes on after the store. Parted, Damaged, OSError."""
        journal = self._data.journal
        position = store.position
        self._in_epoch = position is not None
        if position is None:
            return oldest_start(self._disk, journal, self._region.header.log_id)
        durable = self._durable()
        starting = self._region.header.state == ServerState.STARTING
        if starting and (position.event > durable.event or position.txn > durable.txn):
            log.warning(
                "histories_shortened", last_event=durable.event, was=position.event
            )  # the journal is an older copy of itself
            position = newest_start(self._disk, journal)
            store.cut(position)
        return resume(self._disk, journal, position)

    def _begin_at(self, store: Store, position: Position) -> None:
        self.store, self._follower = store, self._follower_at(position)
        self._taken = self._seen = 0
        self.reached = position.event
        self._words[self._cursor_at] = self._cursor()
        self._touched.update(range(1, self._rooms.records))
        self._publish_rooms()

    def _follower_at(self, position: Position) -> Follower:
        return Follower(self._disk, self._data.journal, position, self._durable)

    def _durable(self) -> Durable:
        """In this order; and before the journal process has told, what was there at the start."""
        words = self._words
        event = min(words[self._events_durable], words[self._events_head])
        return Durable(min(words[self._log_durable], words[self._log_head]), event)

    def _set_aside(self, reason: str) -> None:
        kept = set_aside(self._disk, self._data)
        log.error(
            "histories_set_aside",
            reason=reason,
            kept=str(kept),
            advice="histories are made anew from the journal, and begin where it does; look at the "
            "disk",
        )

    def _begin_anew(self, reason: str, position: Position | None = None) -> None:
        """Set aside what there is. position: where to begin in the journal; None: where that does.
        JournalError, OSError."""
        self._drop_store()
        self._set_aside(reason)
        self._anew, self._in_epoch = True, position is not None
        header = self._region.header
        if position is None:
            position = oldest_start(self._disk, self._data.journal, header.log_id)
        self._begin_at(self._opened(Identity(header.log_id, header.epoch)), position)

    def _drop_store(self) -> None:
        self.close()
        self._touched.clear()
        self._count = self._written = 0

    # ---- taking

    def _take(self) -> bool:
        """From the journal into the store, and into its files; is there more? JournalError,
        OSError."""
        more, failure = True, None
        assert self.store is not None
        if not self.store.buffered:  # else what could not be written before comes first
            try:
                more = self._follow()
            except (OSError, JournalError) as error:
                failure = error  # what was taken before it is written all the same
        store, follower = self.store, self._follower
        assert store is not None
        assert follower is not None
        begun = store.position is None or store.position.segment != follower.position.segment
        if store.buffered or (begun and follower.position.offset):
            size = store.buffered
            store.write(follower.position)
            self._written += size
            self._words[self._kept_at] += self._count
            self._count = 0
            self._publish_rooms()
        reached = follower.position.event if more else follower.reached
        self.reached = max(self.reached, reached)
        if failure is not None:
            raise failure
        return more

    def _follow(self) -> bool:
        """Into the store; is there more?"""
        store, follower = self.store, self._follower
        assert store is not None
        assert follower is not None
        for _ in range(TURN_BATCHES):
            before = follower.position
            batch = self._next(follower)
            if batch is None:
                return False
            self._taken += batch.head.events_size
            try:
                if self._belongs(batch):
                    self._append(store, batch.events)
            except ValueError as error:  # what is before it was of another epoch
                self._begin_anew(str(error), before)
                return True
            if store.buffered > TURN_SIZE:
                break
        return True

    def _next(self, follower: Follower) -> Followed | None:
        """The next batch; without its events where they are damaged, and were so at the start.
        JournalError, OSError."""
        try:
            return follower.next()
        except EventsDamaged as error:
            if error.next_event > self._words[self._events_first]:
                raise
            damaged = error
        batch = follower.next(with_events=False)
        if batch is not None and self._belongs(batch):
            log.error(
                "histories_lack_events",
                reason=str(damaged),
                advice="these events are not shown any more, all others are; look at the disk",
            )
        return batch

    def _belongs(self, batch: Followed) -> bool:
        """Is it of this epoch? Where the journal is read from its oldest segment on, what comes
        first may be older."""
        epoch = self._region.header.epoch
        if batch.head.kind == BatchKind.BEGIN:
            self._in_epoch = batch.head.epoch == epoch
        elif not self._in_epoch:
            self._in_epoch = batch.head.time >= epoch
        return self._in_epoch

    def _append(self, store: Store, events: bytes) -> None:
        """ValueError: an event does not follow from those before it."""
        for event in events_of(events):
            store.append(event.room, event.seq, event.number, event.sender, event.body)
            self._count += 1
            self._touched.add(event.room)

    def _publish_rooms(self) -> None:
        """In the region: how far back histories reach."""
        assert self.store is not None
        for room in self._touched:
            if room < self._rooms.records:
                self._words[self._rooms.at(room, "kept")] = self.store.oldest(room)
        self._touched.clear()

    # ---- making it durable

    def _cursor(self) -> int:
        durable = self.store.durable if self.store else None
        return durable.event if durable else 0

    def _sync_if_due(self) -> None:
        now, store = self._clock_s(), self.store
        assert store is not None
        due = now - self._sync_at >= SYNC_S or self._written >= SYNC_SIZE
        if due and self._syncing is None and store.unsynced:
            self._begin_sync()

    def _begin_sync(self) -> None:
        assert self.store is not None
        self.store.begin_sync()
        self._sync_at, self._written = self._clock_s(), 0
        self._syncing = self._thread.submit(self.store.sync)

    def _look_at_sync(self, *, wait: bool = False) -> None:
        """OSError."""
        if self._syncing is None or not (wait or self._syncing.done()):
            return
        syncing, self._syncing = self._syncing, None
        syncing.result()
        assert self.store is not None
        self.store.end_sync()
        self._words[self._cursor_at] = self._cursor()

    # ---- what it tells

    def _fail(self, error: OSError | JournalError) -> None:
        """It cannot write: tell, and try again later."""
        if self.store is not None and self.store.failed:
            self._drop_store()
        if why(error) != self._problem:
            log.error(
                "histories_unwritable",
                directory=str(self._data.rooms),
                reason=why(error),
                errno=getattr(error, "errno", None) or errno.EIO,
                advice="chat is refused until they can be written, payments continue: mend the "
                "disk or make space on it",
            )
        self._problem = why(error)
        self._retry_at = self._clock_s() + RETRY_S

    def _tell(self, *, more: bool) -> None:
        """The words of the archive."""
        archive, late = self._region.archive, self._late
        if self.store is not None and not self._problem:
            # Never back: what it has freed in the table of deleted texts is not there any more.
            archive.reached = max(archive.reached, self.reached)
        lag = self._lag() if more or self._problem else 0
        self._late = lag > self._limits.lag_max
        if self._late and not late:
            log.error(
                "histories_late",
                lag_mib=lag >> 20,
                advice="chat is refused until they have caught up: the disk is too slow, or the "
                "machine; see archive_lag_max",
            )
        archive.lag = lag
        archive.closed = int(bool(self._problem) or self._late)

    def _lag(self) -> int:
        """Bytes of events that are durable and not written here."""
        follower, store = self._follower, self.store
        if follower is None or store is None:
            return int(self._region.archive.lag)
        if self._scout is None or self._seen < self._taken:
            if self._scout is not None:
                self._scout.close()
            self._scout, self._seen = self._follower_at(follower.position), self._taken
        try:
            for _ in range(TURN_BATCHES):
                batch = self._scout.next(with_events=False)
                if batch is None:
                    break
                self._seen += batch.head.events_size
        except (OSError, JournalError):
            pass  # the follower comes there, and tells
        return self._seen - self._taken + store.buffered
