"""A plain model of the store, and a player that keeps both in step.

The model knows nothing of files, lines or renames: it has what was answered. Chunks are small, and
what is held is few users and few contents, so that they meet all the time.
"""

from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from server.files.errors import Incomplete, NotThere, TooManyUploads, WrongHash, WrongOffset
from server.files.limits import Limits
from server.files.store import Store
from tests.helpers.disk import SimulatedDisk
from tests.server.files.bytes_of import content, hash_of

DIRECTORY: Final = Path("/data/files")
BLOCK: Final = 4096
LIMITS: Final = Limits(
    file_bytes=20_000,
    total_bytes=1 << 20,
    user_bytes=1 << 19,
    user_uploads=6,
    upload_kept_s=3600,
    retention_s=10_000,
)
SIZES: Final = (0, 1, 700, 2_000, 5_000)
DATA: Final = [content(number, size) for number, size in enumerate(SIZES)]
SECOND: Final = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


def opened(
    disk: SimulatedDisk, clock: Clock, boot: str = "first", limits: Limits = LIMITS
) -> Store:
    return Store(DIRECTORY, limits, now=clock, disk=disk, boot=boot)


def taken(data: bytes) -> int:
    return max(BLOCK, -(-len(data) // BLOCK) * BLOCK)


@dataclass
class Sent:
    user: int
    room: int
    data: bytes
    announced: bytes  # hash
    received: int
    at: int
    leases: int = 0
    whole: bool = False  # it has no file of its own


@dataclass
class Kept:
    user: int
    room: int
    data: bytes
    ended: int
    at: int
    published: bool = False
    over: bool = False
    leases: int = 0


class Player:
    """A store, and what it has answered."""

    def __init__(self, disk: SimulatedDisk, clock: Clock | None = None) -> None:
        self.disk = disk
        self.clock = clock or Clock()
        self.sent: dict[int, Sent] = {}
        self.kept: dict[int, Kept] = {}
        self.past: dict[int, Kept] = {}  # that were removed
        self.ages: dict[bytes, int] = {}  # contents
        self.used: set[int] = set()  # file_ids
        self.boots = count()
        self.boot = "boot"
        self.store = opened(disk, self.clock, self.boot)

    # ---- what may be asked

    def begin(self, user: int, number: int, room: int = 1, *, lie: bool = False) -> int:
        data = DATA[number]
        announced = hash_of(data + b"!") if lie else hash_of(data)
        there = [
            file_id
            for file_id, each in self.sent.items()
            if (each.user, each.room, each.announced, len(each.data))
            == (user, room, announced, len(data))
        ]
        again = [
            file_id
            for file_id, each in self.kept.items()
            if (each.user, each.room, each.data) == (user, room, data) and not (each.over or lie)
        ]
        mine = sum(each.user == user for each in self.sent.values())
        if not there and not again and mine >= LIMITS.user_uploads:
            with pytest.raises(TooManyUploads):
                self.store.begin(user, room, announced, len(data), "a/b", "n")
            return 0
        file_id, received = self.store.begin(user, room, announced, len(data), "a/b", "n")
        if there:
            assert (file_id, received) == (there[0], self.sent[file_id].received)
            self.sent[file_id].at = self.clock.now
        elif again:
            assert (file_id, received) == (again[-1], len(data))
        else:
            assert file_id not in self.used, "a file_id is used once"
            assert received == 0
            self.used.add(file_id)
            self.sent[file_id] = Sent(user, room, data, announced, 0, self.clock.now)
        return file_id

    def put(self, file_id: int, length: int) -> None:
        each = self.sent[file_id]
        data = each.data[each.received : each.received + length]
        answer = self.store.put(file_id, each.user, each.received, data)
        each.received += len(data)
        each.at = self.clock.now
        assert answer == each.received

    def put_elsewhere(self, file_id: int, offset: int) -> None:
        each = self.sent[file_id]
        if offset == each.received:
            return
        with pytest.raises(WrongOffset) as found:
            self.store.put(file_id, each.user, offset, b"x")
        assert found.value.received == each.received

    def end(self, file_id: int) -> None:
        each = self.sent[file_id]
        if each.received < len(each.data):
            with pytest.raises(Incomplete):
                self.store.end(file_id, each.user)
            return
        if each.announced != hash_of(each.data):
            with pytest.raises(WrongHash):
                self.store.end(file_id, each.user)
            del self.sent[file_id]
            with pytest.raises(NotThere):
                self.store.put(file_id, each.user, 0, b"")
            return
        file = self.store.end(file_id, each.user)
        assert (file.file_id, file.sha256, file.size) == (file_id, each.announced, len(each.data))
        self.ended(file_id)

    def ended(self, file_id: int) -> None:
        each, now = self.sent.pop(file_id), self.clock.now
        self.kept[file_id] = Kept(each.user, each.room, each.data, now, now, leases=each.leases)
        self.ages[each.announced] = now

    def publish(self, file_id: int) -> None:
        self.store.published(file_id)
        each = self.kept[file_id]
        each.published = each.over = True
        each.leases = 0

    def lease(self, file_id: int) -> None:
        each = self.sent.get(file_id) or self.kept[file_id]
        if isinstance(each, Kept) and each.over:
            with pytest.raises(NotThere):
                self.store.lease(file_id)
            return
        self.store.lease(file_id)
        each.leases += 1

    def release(self, file_id: int) -> None:
        each = self.sent.get(file_id) or self.kept[file_id]
        self.store.release(file_id)
        if isinstance(each, Sent) or not each.over:
            each.leases = max(0, each.leases - 1)
            each.at = self.clock.now

    def expire(self) -> None:
        now = self.clock.now
        old = [i for i, s in self.sent.items() if not s.leases and now - s.at >= 3600 * SECOND]
        for file_id in old:
            del self.sent[file_id]
        leased = {hash_of(k.data) for k in self.kept.values() if k.leases}
        leased |= {s.announced for s in self.sent.values() if s.leases}
        for kept in self.kept.values():
            if not kept.leases and now - kept.at >= 3600 * SECOND:
                kept.over = True
        gone = {
            sha256
            for sha256, at in self.ages.items()
            if now - at >= LIMITS.retention_s * SECOND and sha256 not in leased
        }
        for sha256 in gone:
            del self.ages[sha256]
        for file_id in [i for i, k in self.kept.items() if hash_of(k.data) in gone]:
            self.past[file_id] = self.kept.pop(file_id)
        told = self.store.expire(now)
        assert sorted(told.uploads) == sorted(old)
        assert set(told.contents) == gone

    # ---- what happens to it

    def reopen(self, disk: SimulatedDisk, *, cut: bool = False) -> None:
        """cut: the machine was off, too."""
        self.disk = disk
        if cut:
            self.boot = f"boot {next(self.boots)}"
            self.sent.clear()
        for sent in self.sent.values():
            sent.leases, sent.at = 0, self.clock.now
        for kept in self.kept.values():
            kept.leases, kept.at = 0, kept.ended
        self.store = opened(disk, self.clock, self.boot)
        if cut:
            for file, *_ in self.store.files():  # what was removed, and not durably so, is back
                if file.file_id not in self.kept:
                    self.kept[file.file_id] = back = self.past[file.file_id]
                    back.at, back.published, back.leases = back.ended, False, 0
                    at = max(self.ages.get(file.sha256, 0), back.ended)
                    self.ages[file.sha256] = at
            # What is published the log tells.
            for file_id, kept in self.kept.items():
                if kept.over:
                    self.publish(file_id)
        assert self.store.freed.missing == []
        if cut:
            found = self.contents() - self.ages.keys()
            assert self.store.freed.found == len(found)
            self.ages |= dict.fromkeys(found, self.clock.now)
        self.check()
        self.check_files()

    def open_what_is_left(self, disk: SimulatedDisk, *, cut: bool) -> None:
        self.disk = disk
        if cut:
            self.boot = f"boot {next(self.boots)}"
        self.store = opened(disk, self.clock, self.boot)
        assert self.store.freed.missing == []
        self.believe()

    def believe(self) -> None:
        """Take for known what the store says, which `check` and `check_files` look at."""
        store = self.store
        by_hash = {hash_of(data): data for data in DATA}
        by_hash |= {hash_of(data + b"!"): data for data in DATA}
        self.kept = {
            file.file_id: Kept(file.user, file.room, by_hash[file.sha256], at, at, published, over)
            for file, at, published, over in store.files()
        }
        self.ages = dict.fromkeys(self.contents(), self.clock.now)
        names = self.disk.names(DIRECTORY / "uploads")
        self.sent = {}
        for file, at, received in store.uploads():
            data, whole = by_hash[file.sha256], str(file.file_id) not in names
            assert not whole or file.sha256 in self.ages
            self.sent[file.file_id] = Sent(
                file.user, file.room, data, file.sha256, received, at, whole=whole
            )

    def contents(self) -> set[bytes]:
        """Those of the tests that the store has."""
        found = set()
        for sha256 in map(hash_of, DATA):
            with suppress(NotThere):
                self.store.get(sha256, 0, 1)
                found.add(sha256)
        return found

    def check(self) -> None:
        """It has what it has answered, and nothing else."""
        store = self.store
        assert {each.file.file_id for each in store.files()} == set(self.kept)
        for file_id, kept in self.kept.items():
            file = store.find(file_id)
            assert store.get(file.sha256, 0, 1 << 20) == kept.data
            assert store.is_published(file_id) == kept.published
        usage = store.usage()
        assert usage.contents == len(self.ages)
        assert usage.uploads == len(self.sent)
        assert usage.uploads_bytes == sum(taken(each.data) for each in self.sent.values())
        by_hash = {hash_of(data): data for data in DATA}
        contents = sum(taken(by_hash[sha256]) for sha256 in self.ages)
        assert usage.total == usage.uploads_bytes + contents
        users: dict[int, int] = {}
        for user, data in {(k.user, k.data) for k in self.kept.values()}:
            users[user] = users.get(user, 0) + taken(data)
        for each in self.sent.values():
            users[each.user] = users.get(each.user, 0) + taken(each.data)
        assert usage.users == dict(sorted(users.items()))

    def check_files(self) -> None:
        names = set(self.disk.names(DIRECTORY / "uploads"))
        own = {file_id: sent for file_id, sent in self.sent.items() if not sent.whole}
        assert names == {str(i) for i in own}, "an upload's file, no other"
        verified = self.store.verify()
        assert verified.problems == []
        assert verified.contents == len(self.ages)
        for file_id, sent in own.items():
            fd = self.disk.open(DIRECTORY / "uploads" / str(file_id))
            assert self.disk.read(fd, 1 << 20, 0) == sent.data[: sent.received]
            self.disk.close(fd)
