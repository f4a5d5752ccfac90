"""How many cores this process may use: what the default number of workers follows.

A container is given a share of the machine in one of two ways, and both count: a set of cores
(cpuset, taskset), which is the affinity of the process, or a quota of CPU time per period of its
control group, in version 1 (cpu.cfs_quota_us) or 2 (cpu.max). More workers than the quota would
only be throttled together: all of them at once, in the middle of whatever they do.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cores_available(proc: Path = Path("/proc/self")) -> int:
    """Return how many cores this process may use, at least 1.

    A quota of 2.5 cores counts as 3, so that none of it is left unused. proc: the directory of a
    process as in proc(5).
    """
    affine = len(os.sched_getaffinity(0))
    quota = cpu_quota(proc)
    return affine if quota >= affine else max(1, math.ceil(quota))


def cpu_quota(proc: Path) -> float:
    """Return the CPU time that this process may use per time, in cores; inf if it is not limited.

    It is the least of the process' own control group and of those above it, as far as they can be
    seen: from inside a container the ones outside cannot.
    """
    quotas = (_quota(directory) for directory in _groups(proc))
    return min((quota for quota in quotas if quota > 0), default=math.inf)


def _groups(proc: Path) -> Iterator[Path]:
    """The directories of the process' control groups that can limit CPU time, own and above."""
    try:
        mounts = [_Mount(line) for line in (proc / "mountinfo").read_text().splitlines()]
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:  # no /proc: nothing is known of a limit
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for mount in mounts:
            if mount.limits_cpu_of(controllers):
                yield from mount.directories(PurePosixPath(path))


class _Mount:
    """A line of /proc/self/mountinfo, as far as control groups are concerned."""

    def __init__(self, line: str) -> None:
        before, _, after = line.partition(" - ")
        self._root, point = map(_unescaped, before.split(" ")[3:5])
        self._point = Path(point)
        self._kind, _, options = after.split(" ", 2)
        self._options = options.split(",")

    def limits_cpu_of(self, controllers: str) -> bool:
        """Whether it is the hierarchy of this line of /proc/self/cgroup, and has a CPU quota. The
        line of version 2 names no controllers."""
        if not controllers:
            return self._kind == "cgroup2"
        is_cpu = "cpu" in controllers.split(",")
        return is_cpu and self._kind == "cgroup" and "cpu" in self._options

    def directories(self, group: PurePosixPath) -> Iterator[Path]:
        """The group's directory, and those above it up to the mount point."""
        root = PurePosixPath(self._root)
        # A group outside of what is mounted: the mount shows its nearest relative.
        below = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
        if ".." in below.parts:
            below = PurePosixPath()
        for part in (below, *below.parents):
            yield self._point / part


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _quota(directory: Path) -> float:
    """The quota of one group, in cores; inf if it has none, or none that can be read."""
    try:
        if (limit := directory / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota = (directory / "cpu.cfs_quota_us").read_text()
            period = (directory / "cpu.cfs_period_us").read_text()
        return math.inf if quota == "max" or int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
