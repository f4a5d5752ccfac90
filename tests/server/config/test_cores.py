"""How many cores a process may use: affinity, and the quotas of control groups of both versions."""

import math
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.config import WORKERS_MAX
from server.config.cores import cores_available, cpu_quota

ROOT = Path(__file__).parents[3]
V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


class Tree:
    """What a process of this control group sees in /proc, and the hierarchy it names."""

    def __init__(self, folder: Path, group: str, root: str, *mounts: str) -> None:
        self.proc, self.point = folder / "proc", folder / "cgroup mount"
        self.proc.mkdir()
        self.point.mkdir()
        point = str(self.point).replace(" ", "\\040")
        (self.proc / "cgroup").write_text(f"{group}\n")
        lines = [mount.format(root=root, point=point) for mount in mounts]
        (self.proc / "mountinfo").write_text("".join(f"{line}\n" for line in lines))

    def write(self, directory: str, **files: object) -> None:
        folder = self.point / directory
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(f"{content}\n")


DISK = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
MOUNT_V2 = "30 22 0:26 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
MOUNT_V1 = "35 22 0:30 {root} {point} rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
SET_V1 = "36 22 0:31 {root} {point} rw,nosuid shared:10 - cgroup cgroup rw,cpuset"


def test_version_2_in_a_container(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/", "/", DISK, MOUNT_V2)
    tree.write("", cpu__max="250000 100000")
    assert cpu_quota(tree.proc) == 2.5


def test_version_2_without_a_limit(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/user.slice", "/", DISK, MOUNT_V2)
    tree.write("user.slice", cpu__max="max 100000")
    assert cpu_quota(tree.proc) == math.inf


def test_the_least_of_own_and_higher_groups_counts(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/a/b/c", "/", DISK, MOUNT_V2)
    tree.write("a", cpu__max="150000 50000")
    tree.write("a/b", cpu__max="max 100000")
    tree.write("a/b/c", cpu__max="800000 100000")
    assert cpu_quota(tree.proc) == 3.0
    tree.write("a/b/c", cpu__max="50000 100000")
    assert cpu_quota(tree.proc) == 0.5


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
def test_version_1(tmp_path: Path, controllers: str) -> None:
    tree = Tree(tmp_path, f"4:{controllers}:/docker/abc", "/", DISK, SET_V1, MOUNT_V1)
    tree.write("docker/abc", cpu__cfs_quota_us=150000, cpu__cfs_period_us=100000)
    tree.write("docker", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert cpu_quota(tree.proc) == 1.5


def test_version_1_in_a_container_that_sees_its_own_group_only(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "4:cpu,cpuacct:/docker/abc", "/docker/abc", MOUNT_V1)
    tree.write("", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000)
    assert cpu_quota(tree.proc) == 1.0


@pytest.mark.parametrize("group", ["0::/elsewhere", "0::/../outside"])
def test_a_group_outside_of_the_mount(tmp_path: Path, group: str) -> None:
    tree = Tree(tmp_path, group, "/kubepods/pod1", MOUNT_V2)
    tree.write("", cpu__max="300000 100000")
    assert cpu_quota(tree.proc) == 3.0


@pytest.mark.parametrize("text", ["", "max", "ten 100000", "100000 0", "0 100000"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, text: str) -> None:
    tree = Tree(tmp_path, "0::/", "/", MOUNT_V2)
    tree.write("", cpu__max=text)
    assert cpu_quota(tree.proc) == math.inf
    assert cpu_quota(tmp_path / "no proc") == math.inf


@pytest.mark.parametrize(
    ("quota", "cores"), [("1000 100000", 1), ("100000 100000", 1), ("100001 100000", 2)]
)
def test_a_part_of_a_core_counts_as_one(tmp_path: Path, quota: str, cores: int) -> None:
    tree = Tree(tmp_path, "0::/", "/", MOUNT_V2)
    tree.write("", cpu__max=quota)
    assert cores_available(tree.proc) == min(cores, len(os.sched_getaffinity(0)))


def test_a_quota_beyond_the_affinity_does_not_add_cores(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/", "/", MOUNT_V2)
    tree.write("", cpu__max="6400000 100000")
    assert cores_available(tree.proc) == len(os.sched_getaffinity(0))


# ---- of real control groups and affinity


def default_workers(setup: str = "") -> int:
    code = (
        f"import os\n{setup}\n"
        "from server.config import load\nprint(load([], {}).settings.workers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group that can be given a quota of CPU time."""
    parent = V1 if (V1 / "cpu.cfs_quota_us").exists() or V1.is_dir() else V2
    path = parent / f"tradechat-test-{uuid.uuid4().hex[:12]}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group may be made here: {error}")
    if not any((path / name).exists() for name in ("cpu.cfs_quota_us", "cpu.max")):
        path.rmdir()
        pytest.skip("control groups have no quota of CPU time here")
    yield path
    path.rmdir()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is the least there is")
def test_workers_follow_the_quota_of_a_real_group(group: Path) -> None:
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{PERIOD_US} {PERIOD_US}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(PERIOD_US))
    assert (
        default_workers(f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))") == 1
    )
    assert default_workers() > 1


def test_workers_follow_the_affinity() -> None:
    assert default_workers("os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])") == 1
    assert default_workers() == min(cores_available(), WORKERS_MAX)
