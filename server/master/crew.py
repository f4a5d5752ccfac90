"""The workers: how many there are, which of them accepts where, and one in the place of another.

A *seat* is a listener and the worker that accepts on it. One is replaced by forking another worker
in a free slot of the region; when that serves it gets the listener, and the one before is told to
leave: it tells its clients to go elsewhere, serves them until they have gone, and ends. So there is
one slot more than there can be seats, and one worker at a time is replaced.

A worker that has died is replaced likewise, but for that nobody leaves. Until there is another one,
a sibling accepts on its listener; and on those of seats that there are not, which get no new
connections but may have some left.
"""

import math
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import liblog
from server import handover
from server.child import LEAVE, fork_failure
from server.control import Answer
from server.master.children import WORKER, Child, Children
from server.master.resources import QUEUE_MAX, Resources
from server.master.vacancy import Vacancy
from server.region import status

ALONE_S: Final = 0.2  # the longest back-off while no worker is there at all
SLOT_S: Final = 0.1  # between looks for a slot that is free

log = liblog.get("master")


@dataclass(slots=True)
class _Seat:
    """A listener, and who accepts on it."""

    child: Child | None = None
    coming: Child | None = None  # who was forked for it, and does not serve yet
    vacancy: Vacancy = field(default_factory=Vacancy)


class Crew:
    """The workers of one server."""

    def __init__(self, resources: Resources, children: Children) -> None:
        self._resources, self._children = resources, children
        self._seats: list[_Seat] = []
        self._leaving: list[Child] = []
        self._generation = 0  # of workers: those of an earlier one are to be replaced
        words = resources.region.layout["workers"]
        self._hosts = [words.at(number, "host") for number in range(resources.seats)]

    def __len__(self) -> int:
        return len(self._seats)

    def begin(self, count: int) -> None:
        """Fork the first ones. OSError."""
        self._resources.spread(count)
        for slot in range(count):
            self._seats.append(_Seat(coming=self._children.spawn(WORKER, slot)))

    # ---- what the operator wants

    def resize(self, count: int) -> int:
        """Have so many workers, as far as there can be; how many that are."""
        count = max(1, min(count, self._resources.seats))
        if count == len(self._seats):
            return count
        while len(self._seats) < count:
            seat = _Seat()
            seat.vacancy.open(failed=False)
            self._seats.append(seat)
        removed = self._seats[count:]
        del self._seats[count:]
        self._resources.spread(count)
        self._assign()
        for seat in removed:
            for child in (seat.child, seat.coming):
                if child is not None:
                    self._let_go(child)
        return count

    def replace_all(self) -> None:
        """Replace those that there are, one by one."""
        self._generation += 1

    def slots(self) -> list[int]:
        """Of the workers that accept."""
        return sorted(seat.child.slot for seat in self._seats if seat.child is not None)

    def replace(self, slot: int) -> int:
        """Replace the worker in this slot; its process id, 0 if there is none that accepts."""
        for seat in self._seats:
            if seat.child is not None and seat.child.slot == slot:
                seat.child.generation = -1
                return seat.child.pid
        return 0

    def hand_over(self, sock: socket.socket) -> Answer | None:
        """Have a worker go on with an operator's connection; else say why not."""
        for slot in self.slots():
            if handover.give(self._resources.queues[slot][1], sock):
                return None
        return Answer(False, "no worker can do it now: try again in a moment")

    def progress(self, pid: int) -> str:
        """What the end of a worker that is replaced waits for; "" where it has ended."""
        for child in self._children.of(WORKER):
            if child.pid == pid:
                if child not in self._leaving:
                    return "another worker is being started"
                now_us = time.monotonic_ns() // 1000
                count = status.read(self._resources.region, child.slot, now_us).connections
                return f"it serves the clients it still has: {count}"
        return ""

    # ---- what happens

    def serves(self, child: Child) -> None:
        """It says that it serves: the seat is its own."""
        for seat in self._seats:
            if seat.coming is child:
                before, seat.child, seat.coming = seat.child, child, None
                seat.vacancy.close()
                self._assign()
                if before is not None:
                    self._let_go(before)

    def ended(self, child: Child, code: int) -> bool:
        """It has been reaped. True if it has ended as it was told to, with nothing to repair."""
        if child in self._leaving:
            self._leaving.remove(child)
            return not code
        for seat in self._seats:
            if child is seat.child:
                seat.child = None
            elif child is seat.coming:
                seat.coming = None
            else:
                continue
            alone = not self._children.of(WORKER)
            seat.vacancy.ended(child.serving, ALONE_S if alone else math.inf)
            self._assign()
        return False

    def dues(self) -> Iterator[float]:
        """When something is to be forked: time.monotonic()."""
        return (seat.vacancy.due for seat in self._seats)

    def fill(self) -> None:
        """Fork what is due. No worker is dead and not repaired after: its slot would be filled."""
        self._pass_on()
        now = time.monotonic()
        for seat in self._seats:
            if seat.coming is None and seat.child is None and seat.vacancy.due <= now:
                self._fork_for(seat)
        if not self._leaving and all(seat.coming is None for seat in self._seats):
            for seat in self._seats:
                if seat.child is not None and seat.child.generation < self._generation:
                    if not now < seat.vacancy.due < math.inf:
                        self._fork_for(seat)
                    break

    def _fork_for(self, seat: _Seat) -> None:
        taken = {child.slot for child in self._children.of(WORKER)}
        free = [slot for slot in range(self._resources.seats + 1) if slot not in taken]
        if not free:
            seat.vacancy.due = time.monotonic() + SLOT_S  # those that leave have them all
            return
        try:
            seat.coming = self._children.spawn(WORKER, free[0])
        except OSError as error:
            log.warning(
                "process_not_forked", process=WORKER.name, slot=free[0], reason=fork_failure(error)
            )
            seat.vacancy.open(failed=True)
            return
        seat.coming.generation = self._generation
        seat.vacancy.close()

    def _let_go(self, child: Child) -> None:
        self._leaving.append(child)
        log.info("worker_leaves", process=child.name, process_pid=child.pid)
        os.kill(child.pid, LEAVE)

    def _pass_on(self) -> None:
        """Give to workers that there are the connections that were given to one that has ended; its
        siblings may have done so until they saw that."""
        queues, there = self._resources.queues, self.slots()
        taken = {child.slot for child in self._children.of(WORKER)}
        for slot in range(len(queues) if there else 0):
            if slot in taken:
                continue
            try:
                for number, sock in enumerate(handover.take(queues[slot][0], QUEUE_MAX)):
                    if not handover.give(queues[there[number % len(there)]][1], sock):
                        sock.close()
            except OSError as error:
                log.warning("connections_lost", worker=slot, reason=error.strerror)

    def _assign(self) -> None:
        """Say in the region who accepts where, and wake them."""
        slots = [None if seat.child is None else seat.child.slot for seat in self._seats]
        there = [slot for slot in slots if slot is not None]
        words, changed = self._resources.region.words, False
        for number, at in enumerate(self._hosts):
            slot = slots[number] if number < len(slots) else None
            if slot is None and there:
                slot = there[number % len(there)]
            value = 0 if slot is None else slot + 1
            changed |= words[at] != value
            words[at] = value
        if changed:
            for wakeup in self._resources.wakeups:
                wakeup.set()
