"""Creating, attaching and removing a region, and what stands in the way of each."""

import os
import platform
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import posix_ipc
import pytest

from server.core.state import initialise
from server.region.layout import LAYOUT_VERSION, MAGIC, Layout
from server.region.region import Region, RegionError, RegionInUse, check_processor, remove_stale
from tests.helpers import leaks
from tests.helpers.region import (
    SMALL,
    STARTED_US,
    children,
    lock_value,
    set_word,
    small_region,
    state_of,
    word,
)

ROOT = Path(__file__).resolve().parents[3]
SHM = Path("/dev/shm")  # noqa: S108 - the place is the subject here

# A server that dies without a word: its region stays.
LEAVE = """
import os, sys
from dataclasses import replace
from server.region.region import Region
from tests.helpers.region import SMALL
region = Region.create(sys.argv[1], replace(SMALL, accounts=31), 7)
os._exit(0)
"""


def entries() -> set[str]:
    return {path.name for path in SHM.iterdir()}


@pytest.fixture
def name() -> Iterator[str]:
    """A name that no region has, and none has after the test."""
    made = leaks.region_name()
    yield made
    assert made not in entries()


def leave_one_behind(name: str) -> None:
    subprocess.run([sys.executable, "-c", LEAVE, name], cwd=ROOT, check=True, timeout=60)
    assert name in entries()


# ---- creating


def test_a_new_region(name: str) -> None:
    region = Region.create(name, SMALL, STARTED_US)
    try:
        status = (SHM / name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_size == region.layout.size == Layout(SMALL).size
        assert status.st_blocks * 512 >= region.layout.size, "all of it is allocated"
        header = {
            field: word(region, "header", 0, field) for field in region.layout["header"].offsets
        }
        secret = region.layout["header"].at(0, "salt_secret") * 8
        assert bytes(region.bytes[secret : secret + 32]) != bytes(32)
        assert header["log_id"] > 0
        del header["salt_secret"], header["log_id"]
        assert header == {
            "magic": MAGIC,
            "layout_version": LAYOUT_VERSION,
            "digest": Layout(SMALL).digest,
            "size": region.layout.size,
            **{f"capacity_{field}": getattr(SMALL, field) for field in SMALL.__slots__},
            "master_pid": os.getpid(),
            "started": STARTED_US,
            "epoch": STARTED_US,
            "lived": 0,
            "state": 0,
            "recovery": 0,
            "alarm": 0,
        }
    finally:
        region.unlink()
        region.close()


def test_two_regions_have_secrets_of_their_own() -> None:
    with small_region() as first, small_region() as second:
        at = first.layout["header"].at(0, "salt_secret") * 8
        assert bytes(first.bytes[at : at + 32]) != bytes(second.bytes[at : at + 32])
        assert first.header.log_id != second.header.log_id


def test_a_new_region_is_made_ready() -> None:
    with small_region() as region:
        assert word(region, "log", 0, "durable") == 2**64 - 1
        free, slots = word(region, "registry", 0, "free_session"), []
        while free:
            slots.append(free - 1)
            free = word(region, "sessions", free - 1, "next")
        assert slots == list(range(2 * SMALL.sessions)), "as many more that have ended"
        locks = [
            region.address + placed.at(record, "lock") * 8
            for placed in region.layout.segments.values()
            if "lock" in placed.offsets
            for record in range(placed.records)
        ]
        assert len(locks) == 3 + SMALL.account_locks
        assert {lock_value(lock) for lock in locks} == {1}


def test_what_a_dead_server_left_is_replaced(name: str) -> None:
    leave_one_behind(name)
    region = Region.create(name, SMALL, STARTED_US)
    try:
        assert word(region, "header", 0, "started") == STARTED_US
        attached = Region.attach(name)
        assert attached.layout.capacities == SMALL
        attached.close()
    finally:
        region.unlink()
        region.close()


def test_a_live_region_is_refused_and_left_as_it_is(name: str) -> None:
    region = Region.create(name, SMALL, STARTED_US)
    try:
        before = bytes(region.bytes)
        with pytest.raises(RegionInUse, match=f"{name}.*stop it, or choose another --name"):
            Region.create(name, SMALL, STARTED_US + 1)
        with pytest.raises(RegionInUse):
            remove_stale(name)
        assert bytes(region.bytes) == before
        assert name in entries()
    finally:
        region.unlink()
        region.close()


def test_a_region_lives_while_a_child_of_its_creator_does(name: str) -> None:
    """The creator is gone; a process that inherited the region over a fork still has it."""
    code = LEAVE.replace(
        "os._exit(0)", "if os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, name],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as creator:  # fmt: skip
        assert creator.stdout is not None
        child = int(creator.stdout.readline())
        assert creator.wait(60) == 0
        with pytest.raises(RegionInUse):
            Region.create(name, SMALL, STARTED_US)
        assert creator.stdin is not None
        creator.stdin.write(b"\n")
        creator.stdin.close()
        leaks.wait_gone(child)
    region = Region.create(name, SMALL, STARTED_US)
    region.unlink()
    region.close()


def test_a_full_shm_is_an_error_that_says_what_to_do(name: str) -> None:
    large = replace(SMALL, event_ring=1 << 30, max_message=1 << 16)  # more than any machine has
    with pytest.raises(RegionError, match=r"needs \d+\.\d MiB in /dev/shm, .* --shm-size"):
        Region.create(name, large, STARTED_US)
    assert name not in entries()
    region = Region.create(name, SMALL, STARTED_US)  # and the name is free
    region.unlink()
    region.close()


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check_processor()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(RegionError, match=r"aarch64.*x86-64"):
        Region.create(name, SMALL, STARTED_US)


def test_nothing_is_removed_where_nothing_is(name: str) -> None:
    remove_stale(name)


# ---- attaching


def test_an_attached_region_shows_the_same_words_and_takes_no_store() -> None:
    with small_region() as region:
        attached = Region.attach(region.name)
        try:
            set_word(region, "accounts", 3, "balance", 12345)
            assert word(attached, "accounts", 3, "balance") == 12345
            assert bytes(attached.bytes) == bytes(region.bytes)
            assert attached.address == 0
            with pytest.raises(TypeError, match="read-only"):
                set_word(attached, "accounts", 3, "balance", 1)
            with pytest.raises(TypeError, match="read-only"):
                attached.bytes[0:1] = b"x"
        finally:
            attached.close()


def test_another_process_attaches() -> None:
    def look(name: str) -> tuple[int, int]:
        attached = Region.attach(name)
        found = word(attached, "registry", 0, "users"), attached.layout.capacities.accounts
        attached.close()
        return found

    with small_region() as region, children() as started:
        state_of(region)
        set_word(region, "registry", 0, "users", 5)
        assert started.start(look, region.name).result() == (5, SMALL.accounts)


def test_no_region_is_an_error_that_says_what_to_do(name: str) -> None:
    with pytest.raises(RegionError, match=f"{name}.*is the server running.*--name or --port"):
        Region.attach(name)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("magic", 1, "another version"),
        ("layout_version", LAYOUT_VERSION + 1, "another version"),
        ("digest", 1, "another layout.*the version that runs the server"),
        ("capacity_rooms", SMALL.rooms + 1, "another layout"),
        ("capacity_event_ring", SMALL.event_ring * 2, "another layout"),
    ],
)
def test_another_version_or_layout_is_refused(field: str, value: int, message: str) -> None:
    with small_region() as region:
        right = word(region, "header", 0, field)
        set_word(region, "header", 0, field, value)
        with pytest.raises(RegionError, match=message):
            Region.attach(region.name)
        set_word(region, "header", 0, field, right)
        Region.attach(region.name).close()


@pytest.mark.parametrize("field", ["capacity_rooms", "capacity_txn_ring"])
def test_damaged_capacities_are_refused(field: str) -> None:
    with small_region() as region:
        set_word(region, "header", 0, field, 0)
        with pytest.raises(RegionError):
            Region.attach(region.name)


@pytest.mark.parametrize("size", [0, 64, 4096])
def test_an_unfinished_region_is_refused(name: str, size: int) -> None:
    """As it is found between its creation and its last store."""
    shm = posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, mode=0o600, size=size)
    try:
        with pytest.raises(RegionError, match=r"not finished: .* try again"):
            Region.attach(name)
    finally:
        os.close(shm.fd)
        posix_ipc.unlink_shared_memory(f"/{name}")


def test_a_region_is_usable_once_initialised(name: str) -> None:
    region = Region.create(name, SMALL, STARTED_US)
    try:
        initialise(region)
        state = state_of(region)
        state.locks.hold(state.locks.registry, state.locks.log)
        assert lock_value(state.locks.registry) == 0
        state.locks.release(state.locks.registry, state.locks.log)
        assert lock_value(state.locks.registry) == 1
    finally:
        region.unlink()
        region.close()
