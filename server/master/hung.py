"""Children that give no sign of life for too long are killed."""

import math
import signal
import time
from typing import Final

import liblog
from server.master.children import WORKER, Child, Children
from server.master.resources import Resources

log = liblog.get("master")


class Hung:
    """Looks for them; what follows their end is that of any other death."""

    def __init__(self, resources: Resources, children: Children) -> None:
        self._resources: Final = resources
        self._region: Final = resources.region
        self._children: Final = children

    def kill(self) -> None:
        """Kill who has stood still for `worker_timeout`."""
        now = time.monotonic()
        for child in self._children:
            if not (child.role.beat or child.role.watched):
                continue
            if self._beats(child):
                child.beat_seen = now
            elif child.role.slow_start and child.serving == math.inf:
                pass  # however long that takes
            elif now - child.beat_seen > self._resources.settings.worker_timeout:
                log.error(
                    "process_stuck",
                    process=child.name,
                    seconds=round(now - child.beat_seen, 1),
                    advice="where the machine was merely slow, raise --worker-timeout",
                )
                self._children.signal([child], signal.SIGKILL)
                self._region.repairs.kills += 1
                child.beat_seen = now

    def _beats(self, child: Child) -> bool:
        """Has it given a sign of life since the last look?"""
        if child.role.watched:
            return self._resources.admin_alive.clear()
        index, before = child.slot if child.role is WORKER else 0, child.beat
        child.beat = self._region.words[self._region.layout[child.role.beat].at(index, "beat")]
        return child.beat != before
