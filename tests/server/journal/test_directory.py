"""The file that says what a data directory is: nothing of it changes unnoticed."""

from itertools import product
from pathlib import Path

import pytest

from server.journal.directory import DataDirectory, Identity
from server.journal.disk import Disk, read_file
from server.journal.errors import OtherFormat
from tests.helpers.disk import ADVERSARIES, PowerCut, SimulatedDisk, Survivors, at_random

PATH = Path("/data")
KEPT = Identity(bytes(range(32)), 0x1234_5678_9ABC_DEF0)
OTHER = Identity(bytes(32), 1)


def opened() -> tuple[SimulatedDisk, DataDirectory]:
    disk, data = SimulatedDisk(), DataDirectory(PATH)
    disk.make_directory(PATH)
    assert data.open(disk, KEPT) == KEPT
    data.settle(disk)
    return disk, data


def replace(disk: Disk, data: DataDirectory, text: bytes) -> None:
    disk.remove(data.identity_file)
    fd = disk.create(data.identity_file)
    disk.write(fd, [text], 0)
    disk.close(fd)


@pytest.mark.parametrize("becoming", [0, 7], ids=["", "in a repair"])
def test_every_bit_flipped_is_noticed(becoming: int) -> None:
    """No other log, no other secret, no other format is read from it."""
    disk, data = opened()
    data.change_identity(disk, KEPT, becoming)
    assert (data.identity(disk), data.begun_repair(disk)) == (KEPT, becoming)
    good = read_file(disk, data.identity_file)
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        replace(disk, data, bytes(flipped))
        with pytest.raises(OtherFormat, match="identity is damaged: take it from a backup"):
            data.open(disk, OTHER)
        assert read_file(disk, data.identity_file) == flipped


@pytest.mark.parametrize("becoming", [b"", b"0000000000000007\n"], ids=["", "in a repair"])
def test_one_of_format_3_has_no_checksum_and_gets_it(becoming: bytes) -> None:
    """With the format of this version. One of a later format without its last line is damaged."""
    disk, data = opened()
    lines = read_file(disk, data.identity_file).splitlines(keepends=True)
    without = b"".join(lines[1:3]) + becoming
    replace(disk, data, b"tradechat data, format 3\n" + without)
    assert data.identity(disk) == KEPT
    assert data.begun_repair(disk) == (7 if becoming else 0)
    if not becoming:
        assert data.convert(disk) == 3
        assert read_file(disk, data.identity_file) == b"".join(lines)
        assert data.convert(disk) == 0
    replace(disk, data, lines[0] + without)
    with pytest.raises(OtherFormat, match="identity is damaged: take it from a backup"):
        data.identity(disk)


@pytest.mark.parametrize("survivors", [*ADVERSARIES.values(), at_random(1), at_random(2)])
def test_a_first_start_that_ends_anywhere_is_begun_again(survivors: Survivors) -> None:
    """Killed, or cut off from power, at any call, and so is the next one."""

    def begun(disk: SimulatedDisk, cut_at: int) -> bool:
        """Does it come to its end?"""
        disk.cut_at = cut_at
        data = DataDirectory(PATH)
        try:
            if data.open(disk, KEPT) == KEPT and data.is_new(disk):
                data.settle(disk)
        except PowerCut:
            return False
        return True

    for first, second in product(range(1, 30), (0, 1, 2, 3, 5, 8)):
        disk = SimulatedDisk(PATH)
        if begun(disk, first):
            break
        for left in (disk.after_kill(), disk.after_power_cut(survivors)):
            begun(left, second)
            assert begun(left.after_power_cut(survivors), 0), (first, second)
