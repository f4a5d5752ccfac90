"""What the files on disk take: measured, and published by a running server."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.archive import space
from server.archive.space import Space, measure
from server.region.region import Region
from tests.helpers.region import small_region
from tests.helpers.server import RunningServer, wait_until

MIB = 1 << 20


def test_all_files_below_are_measured(tmp_path: Path) -> None:
    """What is allocated, not what is written; a link is not followed."""
    before = measure(tmp_path).used
    (tmp_path / "below").mkdir()
    for name in ("one", "below/two"):
        with (tmp_path / name).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, MIB)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    found = measure(tmp_path)
    assert 2 * MIB <= found.used - before < 3 * MIB
    system = os.statvfs(tmp_path)
    assert found.free <= system.f_blocks * system.f_frsize


def test_it_is_published_and_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "EVERY_S", 0)
    directory = tmp_path / "data"
    directory.mkdir()
    with small_region() as region, ThreadPoolExecutor(1) as thread:
        publishing = Space(region, directory, thread)

        def used() -> int:
            publishing.turn()
            return region.archive.disk_used

        wait_until(lambda: used() == measure(directory).used and region.archive.disk_free > 0, "")
        (directory / "file").write_bytes(bytes(MIB))
        wait_until(lambda: used() >= MIB, "the file is counted")
        directory.rename(tmp_path / "gone")
        for _ in range(20):  # nothing to measure: what was found last stays
            assert used() >= MIB


def test_a_server_tells_what_its_files_take(server: RunningServer) -> None:
    region = Region.attach(server.name)
    try:
        wait_until(lambda: region.archive.disk_used > 0, "it has looked")
        assert region.archive.disk_used >= MIB, "a segment of the journal is allocated"
        assert region.archive.disk_free > 0
    finally:
        region.close()
