"""The store against a plain model, whatever is asked in whatever order, with kills, power cuts and
disks that fail."""

import errno
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.files.errors import DiskFailed, DiskFull
from tests.helpers.disk import ADVERSARIES, SimulatedDisk, Survivors
from tests.server.files.bytes_of import hash_of
from tests.server.files.store_model import DATA, SECOND, Player

users = st.integers(1, 2)
numbers = st.integers(0, len(DATA) - 1)
survivors = st.sampled_from(sorted(ADVERSARIES)).map(ADVERSARIES.__getitem__)


class StoreMachine(RuleBasedStateMachine):
    player: Player

    @initialize()
    def start(self) -> None:
        self.player = Player(SimulatedDisk())

    def draw_sent(self, data: Any) -> int:
        return int(data.draw(st.sampled_from(sorted(self.player.sent)))) if self.player.sent else 0

    def draw_any(self, data: Any) -> int:
        both = sorted([*self.player.sent, *self.player.kept])
        return int(data.draw(st.sampled_from(both))) if both else 0

    @rule(user=users, number=numbers, room=st.integers(1, 2), lie=st.booleans())
    def begin(self, user: int, number: int, room: int, lie: bool) -> None:
        self.player.begin(user, number, room, lie=lie)

    @rule(user=users, number=numbers, publish=st.booleans())
    def send_all(self, user: int, number: int, publish: bool) -> None:
        file_id = self.player.begin(user, number)
        if file_id in self.player.sent:
            self.player.put(file_id, 60_000)
            self.player.end(file_id)
            if publish:
                self.player.publish(file_id)

    @rule(data=st.data(), length=st.integers(0, 2_000))
    def put(self, data: Any, length: int) -> None:
        if file_id := self.draw_sent(data):
            self.player.put(file_id, length)

    @rule(data=st.data(), offset=st.integers(0, 6_000))
    def put_elsewhere(self, data: Any, offset: int) -> None:
        if file_id := self.draw_sent(data):
            self.player.put_elsewhere(file_id, offset)

    @rule(data=st.data())
    def end(self, data: Any) -> None:
        if file_id := self.draw_sent(data):
            self.player.end(file_id)

    @rule(data=st.data())
    def publish(self, data: Any) -> None:
        if self.player.kept:
            self.player.publish(data.draw(st.sampled_from(sorted(self.player.kept))))

    @rule(data=st.data())
    def lease(self, data: Any) -> None:
        if file_id := self.draw_any(data):
            self.player.lease(file_id)

    @rule(data=st.data())
    def release(self, data: Any) -> None:
        if file_id := self.draw_any(data):
            self.player.release(file_id)

    @rule(seconds=st.sampled_from([0, 10, 3_000, 3_700, 9_000]))
    def wait(self, seconds: int) -> None:
        self.player.clock.now += seconds * SECOND
        self.player.expire()

    @rule(user=users, number=numbers)
    def say_that_it_may_be_read(self, user: int, number: int) -> None:
        """Where the contents are there nothing is to be sent; else everything."""
        player, data = self.player, DATA[number]
        sha256 = hash_of(data)
        file_id = player.begin(user, number)
        if file_id in player.sent:
            answer = player.store.begin(user, 1, sha256, len(data), "a/b", "n", readable=True)
            there = sha256 in player.ages
            assert answer == (file_id, len(data) if there else player.sent[file_id].received)
            if there:
                player.sent[file_id].received = len(data)
                player.sent[file_id].whole = True
                player.end(file_id)

    @rule()
    def kill(self) -> None:
        self.player.reopen(self.player.disk.after_kill())

    @rule(survives=survivors)
    def cut_power(self, survives: Survivors) -> None:
        self.player.reopen(self.player.disk.after_power_cut(survives), cut=True)

    @rule(
        user=users,
        number=numbers,
        call=st.integers(1, 8),
        error=st.sampled_from([errno.EIO, errno.ENOSPC]),
        part=st.sampled_from([0.0, 0.6]),
    )
    def the_disk_fails(self, user: int, number: int, call: int, error: int, part: float) -> None:
        """Nothing changed, but where an upload has to be sent once more."""
        player, disk = self.player, self.player.disk
        kind = DiskFailed if error == errno.EIO else DiskFull
        file_id = player.begin(user, number, 2)
        if file_id not in player.sent:
            return
        disk.fail_at, disk.part = (disk.calls + call, error), part
        try:
            player.put(file_id, 60_000)
            try:
                player.end(file_id)
            except kind:
                player.sent[file_id].received = 0
        except kind:
            pass
        disk.fail_at = (0, 0)
        player.check_files()

    @invariant()
    def it_is_as_the_model(self) -> None:
        if hasattr(self, "player"):
            self.player.check()


StoreMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestStoreMachine = StoreMachine.TestCase
