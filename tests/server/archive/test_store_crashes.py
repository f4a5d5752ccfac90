"""The store of the histories on disks that end, fail and forget, at every call."""

import errno
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from libproto.messages import EventKind
from server.archive.protocol import INBOX
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, Survivors, at_random
from tests.server.archive.store_model import Player, kept, opened, place

rooms = st.sampled_from([1, 2, 3, INBOX | 1, INBOX | 2])
kinds = st.sampled_from([EventKind.MESSAGE, EventKind.JOINED, EventKind.LEFT])
survivors = st.one_of(
    st.sampled_from(list(ADVERSARIES.values())), st.integers(0, 2**32).map(at_random)
)
calls = st.integers(1, 12)
parts = st.sampled_from([0.0, 0.3, 0.9, 1.0])


class StoreMachine(RuleBasedStateMachine):
    """Whatever is done in whatever order, and whatever the disk does: it has what it says."""

    player: Player

    @initialize()
    def begin(self) -> None:
        self.player = Player(SimulatedDisk())

    @property
    def disk(self) -> SimulatedDisk:
        return self.player.disk

    @rule(room=rooms, sender=st.integers(1, 12), size=st.integers(20, 200), skip=st.integers(0, 1))
    def say(self, room: int, sender: int, size: int, skip: int) -> None:
        self.player.say(room, sender, size, skip)

    @rule(room=rooms, kinds=st.lists(kinds, min_size=1, max_size=8))
    def come_and_go(self, room: int, kinds: list[EventKind]) -> None:
        for kind in kinds:
            self.player.say(room, kind=kind)
            self.player.write()

    @rule(room=rooms, messages=st.integers(1, 8))
    def speak(self, room: int, messages: int) -> None:
        for number in range(messages):
            self.player.say(room, number)
            self.player.write()

    @rule()
    def write(self) -> None:
        self.player.write()

    @rule()
    def sync(self) -> None:
        self.player.sync()

    @rule(room=rooms, messages=st.integers(1, 4))
    def go_on_while_the_disk_works(self, room: int, messages: int) -> None:
        player = self.player
        if not player.store.unsynced:
            return
        written = player.written
        player.store.begin_sync()
        for _ in range(messages):
            player.say(room)
            player.write()
            player.check()
        player.store.sync()
        player.store.end_sync()
        player.durable = written
        player.check()

    @rule(size=st.integers(300, 1200))
    def a_full_disk_refuses_and_is_tried_again(self, size: int) -> None:
        player, disk = self.player, self.disk
        player.say(1, size=size)
        disk.fail_at, disk.part = (disk.calls + 1, errno.ENOSPC), 0.5
        before = kept(player.log[: player.written])
        try:
            player.write()
        except OSError:
            event("refused")
            assert player.store.position is None or player.store.position.event <= player.written
            for room, bodies in before.items():  # what was there is read, if not too old now
                there = player.store.read(room, 0, 99, 1 << 30)
                assert there == [body for body in bodies if body in there]
        disk.fail_at = (0, 0)
        player.write()

    @rule()
    def kill(self) -> None:
        self.player.reopen(self.disk.after_kill())

    @rule(survives=survivors)
    def cut_power(self, survives: Survivors) -> None:
        self.player.reopen(self.disk.after_power_cut(survives))

    @rule(call=calls, survives=survivors, part=parts)
    def cut_power_while_committing(self, call: int, survives: Survivors, part: float) -> None:
        player, disk = self.player, self.disk
        disk.cut_at, disk.part = disk.calls + call, part
        try:
            player.write()
            player.sync()
        except PowerCut:
            event("cut while committing")
        disk.cut_at = 0
        player.reopen(disk.after_power_cut(survives))

    @rule(call=calls, survives=survivors, again=survivors, part=parts)
    def cut_power_while_opening(
        self, call: int, survives: Survivors, again: Survivors, part: float
    ) -> None:
        disk = self.disk.after_power_cut(survives)
        disk.cut_at, disk.part = call, part
        try:
            opened(disk)
        except PowerCut:
            event("cut while opening")
        self.player.reopen(disk.after_power_cut(again))

    @rule(call=calls, part=parts, forgets=st.booleans(), survives=survivors)
    def fail_while_committing(
        self, call: int, part: float, forgets: bool, survives: Survivors
    ) -> None:
        player, disk = self.player, self.disk
        disk.fail_at, disk.part = (disk.calls + call, errno.EIO), part
        try:
            player.write()
            player.sync()
        except OSError:
            event("failed while committing")
        disk.fail_at = (0, 0)
        disk = disk.after_kill()
        if forgets:
            disk.drop_clean_pages()
        player.reopen(disk)
        # What was told once is not taken back.
        player.reopen(disk.after_power_cut(survives))

    @invariant()
    def it_has_what_it_says(self) -> None:
        if hasattr(self, "player"):
            self.player.check()


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestStoreMachine = StoreMachine.TestCase


# ---- a history that is always the same, on disks that end or fail


def play(player: Player, writes: int = 24) -> Iterator[None]:
    """A little of everything; after each write."""
    drawn = random.Random(3)  # noqa: S311 - the same in every run
    for number in range(writes):
        for _ in range(drawn.randrange(1, 4)):
            room = 1 if number % 4 else drawn.choice((2, INBOX | 1, INBOX | 2))
            player.say(room, drawn.randrange(3), drawn.randrange(20, 90))
        if number % 9 == 8:
            player.say(2, size=900)
        player.write()
        if number % 3 == 2:
            player.sync()
        yield


def test_the_history_has_all_that_is_to_be_tried() -> None:
    player = Player(disk := SimulatedDisk())
    for _ in play(player):
        player.check()
    assert disk.log.count("create") > 4
    assert disk.log.count("remove") > 2


CALLS: Final = 200
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
def test_a_power_cut_at_every_call_leaves_what_was_durable(part: float) -> None:
    for call in range(1, CALLS + 1):
        disk = SimulatedDisk(cut_at=call, part=part)
        player, ended = play_until_it_ends(disk)
        if ended is None:
            assert call > disk.calls
            return
        if player is None:  # it was not there yet
            continue
        if part and disk.log[-1] != "write":
            continue  # as with no part
        for survives in [*ADVERSARIES.values(), at_random(call), at_random(call + 1000)]:
            left = player.copy()
            left.reopen(disk.after_power_cut(survives))
            left.write()
            left.check()
            assert left.store.position == place(len(left.log)), "the rest is taken once more"
        for _ in play(left, writes=3):
            left.check()
        left.reopen(left.disk.after_power_cut())
    pytest.fail("the history has more calls")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("part", [0.0, 0.7])
def test_an_error_at_every_call_takes_nothing_back(number: int, part: float) -> None:
    refused: set[str] = set()
    for call in range(1, CALLS + 1):
        disk = SimulatedDisk(fail_at=(call, number), part=part)
        player, ended = play_until_it_ends(disk)
        if ended is None:
            assert call > disk.calls
            assert refused >= {"create", "allocate", "write", "sync", "sync_directory", "remove"}
            return
        assert isinstance(ended, OSError)
        assert ended.errno == number
        refused.add(disk.log[call - 1])
        if player is None:
            continue
        if player.store.failed:
            with pytest.raises(OSError, match="failed before"):
                player.write()
            assert disk.calls == call
        for forgets in (False, True):
            left = player.copy()
            after = disk.after_kill()
            if forgets:
                after.drop_clean_pages()
            left.reopen(after)
            left.write()
            left.check()
            left.reopen(after.after_power_cut())
        if not player.store.failed:  # it goes on where it is
            player.write()
            player.check()
            for _ in play(player, writes=3):
                player.check()
            player.sync()
            player.reopen(player.disk.after_power_cut())
    pytest.fail("the history has more calls")


@pytest.mark.parametrize("writes_before", [0, 1])
def test_what_a_failed_sync_left_is_written_as_it_was_read(
    writes_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may take its pages back after it was read: what the store relies on is kept all
    the same."""
    player = Player(disk := SimulatedDisk())
    for _ in range(writes_before):
        player.say(1)
        player.write()
        player.sync()
    for _ in range(3):
        player.say(1)
        player.write()
    disk.fail_at = disk.calls + 1, errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        player.sync()
    found = disk.after_kill()
    open_it = found.open

    def forgetting(path: Path, *, writable: bool = False) -> int:
        if writable:  # it has been read: now it is to be gone on with
            found.drop_clean_pages()
        return open_it(path, writable=writable)

    monkeypatch.setattr(found, "open", forgetting)
    player.reopen(found)
    assert player.taken == writes_before + 3, "it was read"
    player.reopen(found.after_power_cut())
    assert player.taken == writes_before + 3
