"""The store of the rooms' events on disks that end, fail and forget, at every call."""

import errno
import random
from collections.abc import Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Final

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, Survivors, at_random
from tests.server.archive.rooms_model import ALL, KEEP, Player, asked, body_of, opened

rooms = st.integers(1, 4)
keeps = st.sampled_from([1, 2, KEEP, KEEP, KEEP, 6])
survivors = st.one_of(
    st.sampled_from(list(ADVERSARIES.values())), st.integers(0, 2**32).map(at_random)
)
calls = st.integers(1, 12)
parts = st.sampled_from([0.0, 0.3, 0.9, 1.0])


class StoreMachine(RuleBasedStateMachine):
    """Whatever is done in whatever order, and whatever the disk does, both say the same."""

    player: Player

    @initialize()
    def begin(self) -> None:
        self.player = Player(SimulatedDisk())

    @property
    def disk(self) -> SimulatedDisk:
        return self.player.disk

    @rule(room=rooms, by=st.integers(0, 20))
    def reserve(self, room: int, by: int) -> None:
        self.player.reserve(room, by)

    @rule(room=rooms, skip=st.sampled_from([0, 0, 0, 0, 3]), size=st.integers(20, 200))
    def append(self, room: int, skip: int, size: int) -> None:
        self.player.append(room, skip, size)

    @rule(room=rooms, events=st.integers(1, 8))
    def speak(self, room: int, events: int) -> None:
        self.player.reserve(room, events)
        self.player.commit()
        for _ in range(events):
            self.player.append(room)
            self.player.commit()

    @rule(room=rooms, ahead=st.integers(-3, 2))
    def drop(self, room: int, ahead: int) -> None:
        self.player.drop(room, max(0, self.player.newest(room) + ahead))

    @rule()
    def commit(self) -> None:
        self.player.commit()

    @rule(room=rooms, by=st.integers(0, 9), ahead=st.integers(-3, 2))
    def go_on_while_the_disk_works(self, room: int, by: int, ahead: int) -> None:
        if not self.player.write():
            return
        readable = self.player.store.readable
        event("read while the disk works" if readable else "not readable while the disk works")
        if readable:
            self.player.check()
        self.player.reserve(room, by)
        self.player.append(room)
        self.drop(room, ahead)
        if readable:
            self.player.check()
        self.player.sync()
        self.player.finish()

    @rule(keep=keeps)
    def kill(self, keep: int) -> None:
        self.player.reopen(self.disk.after_kill(), self.player.durable, keep=keep)

    @rule(survives=survivors)
    def cut_power(self, survives: Survivors) -> None:
        self.player.reopen(self.disk.after_power_cut(survives), self.player.durable)

    @rule(keep=keeps)
    def stop(self, keep: int) -> None:
        self.player.settle()
        self.player.check()
        self.player.store.close()
        assert not self.disk.open_files
        self.player.reopen(self.disk.after_power_cut(), self.player.durable, keep=keep)

    @rule(call=calls, survives=survivors, part=parts)
    def cut_power_while_committing(self, call: int, survives: Survivors, part: float) -> None:
        player, disk = self.player, self.disk
        disk.cut_at, disk.part = disk.calls + call, part
        try:
            player.commit()
        except PowerCut:
            event("cut while committing")
        disk.cut_at = 0
        player.reopen(disk.after_power_cut(survives), [*player.durable, player.after])

    @rule(call=calls, survives=survivors, again=survivors, part=parts)
    def cut_power_while_opening(
        self, call: int, survives: Survivors, again: Survivors, part: float
    ) -> None:
        disk = self.disk.after_power_cut(survives)
        disk.cut_at, disk.part = call, part
        try:
            opened(disk, keep=self.player.keep)
        except PowerCut:
            event("cut while opening")
        self.player.reopen(disk.after_power_cut(again), self.player.durable)

    @rule(call=calls, part=parts, forgets=st.booleans(), survives=survivors)
    def fail_while_committing(
        self, call: int, part: float, forgets: bool, survives: Survivors
    ) -> None:
        player, disk = self.player, self.disk
        disk.fail_at, disk.part = (disk.calls + call, errno.EIO), part
        try:
            player.commit()
        except OSError:
            event("failed while committing")
        disk.fail_at = (0, 0)
        disk = disk.after_kill()
        if forgets:
            disk.drop_clean_pages()
        player.reopen(disk, [*player.durable, player.after])
        # What was told once is not taken back.
        player.reopen(disk.after_power_cut(survives), player.durable)

    @invariant()
    def both_say_the_same(self) -> None:
        if hasattr(self, "player"):
            self.player.check()


StoreMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestStoreMachine = StoreMachine.TestCase


# ---- a history that is always the same, on disks that end or fail


def play(player: Player, commits: int = 20) -> Iterator[None]:
    """A little of everything; after each commit."""
    drawn = random.Random(3)  # noqa: S311 - the same in every run
    for room in (1, 2, 3):
        player.reserve(room, 200)
    player.commit()
    yield
    for number in range(commits):
        for _ in range(drawn.randrange(1, 4)):
            player.append(1 if number % 4 else drawn.randrange(2, 4), size=drawn.randrange(20, 90))
        if number % 9 == 8:
            player.append(2, size=900)
        if number % 7 == 6:
            player.drop(1, player.newest(1))
        if number % 5 == 4:
            player.reserve(3, 3)
        player.commit()
        yield


def test_the_history_has_all_that_is_to_be_tried() -> None:
    player = Player(disk := SimulatedDisk())
    for _ in play(player):
        player.check()
    assert disk.log.count("create") > 4
    assert disk.log.count("remove") > 2


CALLS: Final = 150
"""More than the calls of the history."""


def play_until_it_ends(disk: SimulatedDisk) -> tuple[Player | None, BaseException | None]:
    """What it was ended by; None: it was not."""
    player = None
    try:
        player = Player(disk)
        for _ in play(player):
            pass
    except (PowerCut, OSError) as error:
        return player, error
    return player, None


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_a_power_cut_at_every_call_leaves_what_was_committed(part: float) -> None:
    for call in range(1, CALLS + 1):
        disk = SimulatedDisk(cut_at=call, part=part)
        player, ended = play_until_it_ends(disk)
        if ended is None:
            assert call > disk.calls
            return
        if part and disk.log[-1] != "write":
            continue  # as with no part
        states = [*player.durable, player.after] if player else [{}]
        for survives in [*ADVERSARIES.values(), at_random(call)]:
            if player is None:  # it was not there yet
                left = Player(SimulatedDisk())
                left.epoch = 0
            else:
                left = deepcopy(player)
            left.reopen(disk.after_power_cut(survives), states)
            left.check()
        for _ in play(left, commits=3):
            left.check()
        left.reopen(left.disk.after_power_cut(), left.durable)
    pytest.fail("the history has more calls")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("part", [0.0, 0.7])
def test_an_error_at_every_call_is_final_and_takes_nothing_back(number: int, part: float) -> None:
    for call in range(1, CALLS + 1):
        disk = SimulatedDisk(fail_at=(call, number), part=part)
        player, ended = play_until_it_ends(disk)
        if ended is None:
            assert call > disk.calls
            return
        assert isinstance(ended, OSError)
        assert ended.errno == number
        if part and disk.log[-1] not in ("write", "allocate"):
            continue  # as with no part
        if player is None:
            assert asked(opened(disk.after_kill())) == {}
            continue
        with pytest.raises(OSError, match="failed before"):
            player.store.commit()
        assert disk.calls == call
        for forgets, speaks in product((False, True), repeat=2):
            left = deepcopy(player)
            after = disk.after_kill()
            if forgets:
                after.drop_clean_pages()
            left.reopen(after, [*left.durable, left.after])
            if speaks:
                left.reserve(1, 1)
                left.commit()
            left.reopen(after.after_power_cut(), left.durable)
            left.check()
    pytest.fail("the history has more calls")


@pytest.mark.parametrize("events_before", [0, 1])
def test_what_a_failed_sync_left_is_written_as_it_was_read(
    events_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may take its pages back after it was read: what the store relies on is kept all
    the same."""
    disk = SimulatedDisk()
    store = opened(disk)
    store.reserve(1, 9)
    store.commit()
    for seq in range(1, events_before + 1):
        store.append(1, seq, body_of(1, seq))
        store.commit()
    last = events_before + 1
    store.append(1, last, body_of(1, last))
    assert store.write()
    disk.fail_at = disk.calls + 1, errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        store.sync()
    found = disk.after_kill()
    open_it = found.open

    def forgetting(path: Path, *, writable: bool = False) -> int:
        if writable:  # it has been read: now it is to be gone on with
            found.drop_clean_pages()
        return open_it(path, writable=writable)

    monkeypatch.setattr(found, "open", forgetting)
    again = opened(found)
    assert again.last(1) == last, "it was read"
    kept = opened(found.after_power_cut())
    assert kept.last(1) == last
    assert kept.read(1, last - 1, 1, ALL) == [body_of(1, last)]
