"""The store on disks that end or fail at every call: what was answered is there, what was not is
there wholly or not at all, and it goes on."""

import errno
from collections.abc import Iterator
from copy import deepcopy

import pytest

from server.files.errors import Busy
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, at_random
from tests.server.files.bytes_of import hash_of
from tests.server.files.store_model import DATA, LIMITS, SECOND, Player

CALLS = [*range(1, 290, 24), *range(290, 600)]
"""Some of those that make the directories, and more than the history has after them."""


def play(player: Player) -> Iterator[None]:
    """A little of everything; between two steps the model knows what there is."""
    first = player.begin(1, 4)
    yield
    player.put(first, 1_500)
    yield
    player.put(first, 3_500)
    yield
    player.end(first)
    yield
    player.publish(first)
    yield
    second = player.begin(2, 4, 2)  # the same contents
    yield
    player.put(second, 5_000)
    yield
    player.end(second)
    yield
    wrong = player.begin(1, 3, lie=True)
    yield
    player.put(wrong, 2_000)
    yield
    player.end(wrong)
    yield
    empty = player.begin(1, 0)
    yield
    player.end(empty)
    yield
    left = player.begin(2, 2)
    yield
    player.put(left, 300)
    yield
    player.clock.now += (LIMITS.retention_s + 1) * SECOND
    yield
    player.expire()
    yield
    again = player.begin(1, 4)
    yield
    player.put(again, 5_000)
    yield
    player.end(again)
    yield


def copy_of(player: Player) -> Player:
    """With the store of the other: to be reopened."""
    other = Player.__new__(Player)
    other.__dict__ = player.__dict__ | {
        name: deepcopy(getattr(player, name)) for name in ("sent", "kept", "ages", "used", "clock")
    }
    return other


def run(disk: SimulatedDisk) -> tuple[Player | None, Player | None, BaseException | None]:
    """A player as of the last step that was answered; as of the one that was under way."""
    player = before = None
    try:
        player = before = Player(disk)
        steps = play(player)
        before = copy_of(player)
        for _ in steps:
            before = copy_of(player)
    except (PowerCut, OSError, Busy) as error:
        return before, player, error
    return before, player, None


def test_the_history_has_all_that_is_to_be_tried() -> None:
    player = Player(disk := SimulatedDisk())
    opening = disk.calls
    for _ in play(player):
        player.check()
    player.check_files()
    assert len(disk.log) < CALLS[-1]
    assert set(disk.log[opening:]) >= {
        "create",
        "write",
        "sync",
        "rename",
        "remove",
        "sync_directory",
    }


def agree(
    before: Player, disk: SimulatedDisk, *, cut: bool = False, failed: bool = False
) -> Player:
    """The store that is found there has what was answered before; of the step under way either all
    has happened or nothing that anybody relies on."""
    found = copy_of(before)
    found.open_what_is_left(disk, cut=cut)
    compare(before, found, uploads=not (cut or failed))
    return found


def compare(answered: Player, found: Player, *, uploads: bool) -> None:
    for file_id, kept in answered.kept.items():
        if file_id not in found.kept:
            expired = found.clock.now - kept.ended >= LIMITS.retention_s * SECOND
            assert expired, f"file {file_id} was stored, and is not there"
    for file_id, sent in answered.sent.items():
        if not uploads or file_id in found.kept:
            continue
        there = found.sent.get(file_id)
        if there is None:  # it had ended, with the wrong hash, or its time was over
            over = found.clock.now - sent.at >= LIMITS.upload_kept_s * SECOND
            assert over or sent.announced != hash_of(sent.data)
        else:
            assert there.received >= sent.received


def go_on(player: Player) -> None:
    """It takes files, and no file_id comes twice."""
    player.check()
    player.check_files()
    for user in (1, 2):
        for number in range(len(DATA)):
            file_id = player.begin(user, number)
            if file_id in player.sent:
                player.put(file_id, 60_000)
                player.end(file_id)
    player.check()
    player.check_files()
    player.reopen(player.disk.after_power_cut(), cut=True)


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_kill_at_every_call(part: float) -> None:
    for call in CALLS:
        disk = SimulatedDisk(cut_at=call, part=part)
        before, _, ended = run(disk)
        if ended is None:
            return
        if part and disk.log[-1] != "write":
            continue  # as with no part
        left = disk.after_kill()
        go_on(Player(left) if before is None else agree(before, left))
    pytest.fail("the history has more calls")


@pytest.mark.parametrize("name", [*ADVERSARIES, "random"])
def test_a_power_cut_at_every_call(name: str) -> None:
    for call in CALLS:
        disk = SimulatedDisk(cut_at=call, part=0.5)
        before, _, ended = run(disk)
        if ended is None:
            return
        left = disk.after_power_cut(ADVERSARIES.get(name) or at_random(call))
        if before is None:
            go_on(Player(left))
        else:
            go_on(agree(before, left, cut=True))
    pytest.fail("the history has more calls")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("part", [0.0, 0.6])
def test_an_error_at_every_call(number: int, part: float) -> None:
    """The store that had it goes on, and so does the next one, which may find less than was seen:
    after a failed sync pages can vanish."""
    for call in CALLS:
        disk = SimulatedDisk(fail_at=(call, number), part=part)
        before, player, ended = run(disk)
        if player is None:
            assert isinstance(ended, OSError)
            go_on(Player(disk.after_kill()))
            continue
        if call > disk.calls:
            return
        assert before is not None
        if ended is not None:
            assert isinstance(ended, Busy)
        for forgets in (False, True):
            after = disk.after_kill()
            if forgets:
                after.drop_clean_pages()
            go_on(agree(before, after, failed=True))
        player.store.expire(0)  # what could not be removed is removed now
        player.believe()
        if ended is None:  # it was of no account
            go_on(player)
            continue
        compare(before, player, uploads=False)  # an upload may have to begin anew
        go_on(player)
    pytest.fail("the history has more calls")
