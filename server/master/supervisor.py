"""The supervisor: forks the children, sees them end, and acts on signals. No event loop, no client
I/O, and no hand in the state that its children may damage.

With a journal a new region is filled from disk by a short-lived child, and the journal process
serves before the first worker and ends after the last. It holds no lock: its death is no recovery.
"""

import math
import os
import select
import signal
import socket
import time
from collections import deque
from typing import Final

import liblog
from libproto.form import FORM
from libproto.sealing import fingerprint
from server.child import REOPEN_LOG, WORKERS_SHARE, fork_failure, reopen_log
from server.config import Configuration, Settings
from server.control import Answer, Peer
from server.core import stats
from server.core.log import NO_JOURNAL
from server.early import STOP_SIGNALS, signal_name, write_line
from server.exits import Exit
from server.master import first_screen
from server.master.acquire import refuse
from server.master.children import (
    KEEP_JOURNAL,
    KEEPERS,
    LOAD,
    REPAIRS,
    REPLACED,
    SERVE_FILES,
    SHOW,
    WORKER,
    Child,
    Children,
    Death,
    Ended,
    Role,
)
from server.master.crew import ALONE_S, Crew
from server.master.hung import Hung
from server.master.notify import READY, STOPPING, ServiceManager
from server.master.orders import COMMANDS, Orders
from server.master.predecessor import Predecessor
from server.master.recovery import Outcome, Recovery
from server.master.resources import Resources
from server.master.successor import Successor
from server.master.vacancy import Vacancy
from server.region import status
from server.region.layout import ServerState

START_S: Final = 30.0  # the longest that workers may take to serve
KEEPER_TRIES: Final = 5  # to start or to end a journal or archive process that is killed
WATCH_S: Final = 0.25  # how often the master looks at the workers' alarms and beats
QUIT_S: Final = 1.0  # from SIGQUIT to the end, at most
KILLED_S: Final = 1.0  # how long a killed process is waited for at the end

log = liblog.get("master")


class Supervisor:
    """The life of one server, with resources that its owner gives back."""

    def __init__(
        self,
        resources: Resources,
        configuration: Configuration,
        asked: deque[int],
        successor: Successor,
        predecessor: Predecessor | None = None,
    ) -> None:
        """configuration: where the settings come from. asked: signals that are to be obeyed when it
        serves; more are added to them. successor: who may take its place. predecessor: whose place
        it takes, who waits until it serves."""
        self._resources: Final = resources
        self._asked: Final = asked
        self._successor: Final = successor
        self._predecessor: Final = predecessor
        self._region: Final = resources.region
        self._children: Final = Children(resources)
        self._recovery: Final = Recovery(resources, self._children, self._wait, self._overdue)
        self._crew: Final = Crew(resources, self._children)
        self._hung: Final = Hung(resources, self._children)
        self._orders: Final = Orders(resources, configuration, self._crew)
        self._vacancies: Final = {role: Vacancy() for role in REPLACED}
        self._early_ends: dict[Role, int] = {}  # of those that were killed before they served
        self._stops: list[int] = []  # signals that ask to stop, in order
        self._stop_by = math.inf  # time.monotonic()
        self._starting = True
        self._draining = self._killed = False
        self._finishes = 0
        self._poll = select.poll()
        self._poll.register(resources.signals, select.POLLIN)
        self._poll.register(resources.reports, select.POLLIN)
        self._stats = stats.Stats(self._region)
        self._manager: Final = ServiceManager()
        self._exit = Exit.OK

    @property
    def _settings(self) -> Settings:
        """As they are now."""
        return self._resources.settings

    @property
    def told_to_stop(self) -> bool:
        """A signal asks for it."""
        return bool(self._stops)

    def run(self) -> Exit:
        """Start, serve until told to stop, end. No child is left, whatever happens."""
        try:
            if self._start():
                self._announce()
                self._supervise()
            if self._exit not in (Exit.DAMAGED, Exit.NOT_STARTED):
                self._stop()
        finally:
            for child in self._children.kill(KILLED_S):
                log.error(
                    "process_unkillable",
                    process=child.name,
                    process_pid=child.pid,
                    advice="look whether a disk hangs: the system keeps the process until it is "
                    "served",
                )
        return self._exit

    # ---- what happens

    def _wait(self, seconds: float) -> None:
        """Wait for something to happen, so long at most, and take note of it."""
        self._manager.tell_alive()
        self._poll.poll(max(0.0, seconds) * 1000)
        self._take_signals()
        ended = self._children.reap()
        for slot in self._children.reported():  # after the reaping: a last word comes before
            self._serves(slot)
        for each in ended:
            self._take_end(each)

    def _take_signals(self) -> None:
        for number, sender in self._resources.signals.take():
            if number in STOP_SIGNALS or number == signal.SIGQUIT:
                self._stops.append(number)
                hurries = number == signal.SIGQUIT
                seconds = QUIT_S if hurries else self._settings.graceful_timeout
                if hurries or len(self._stops) == 1:
                    self._stop_by = min(self._stop_by, time.monotonic() + seconds)
            elif number == REOPEN_LOG:
                reopen_log()
                self._children.signal(self._children.of(WORKER, *REPLACED), REOPEN_LOG)
                log.info("log_reopened", sender=sender)
            elif number in COMMANDS and not self._draining:
                self._asked.append(number)
            else:
                log.info("signal_ignored", signal=signal_name(number), sender=sender)

    def _overdue(self) -> bool:
        """Has a stop taken as long as it may?"""
        return time.monotonic() >= self._stop_by

    def _serves(self, slot: int) -> None:
        """It says that it serves: nobody need accept for it any more."""
        for child in self._children:
            if child.slot == slot:
                child.serving = time.monotonic()
                if child.role is WORKER:
                    self._crew.serves(child)

    def _take_end(self, ended: Ended) -> None:
        child, code = ended.child, ended.code
        if child.role is WORKER:
            self._region.words[self._region.layout["workers"].at(child.slot, "pid")] = 0
            status.stopped(self._region, child.slot, time.monotonic_ns() // 1000)
        if child.role is REPAIRS:
            self._recovery.repair_ended(code)
            return
        if self._starting:
            self._start_failed(ended)
            return
        as_told = child.role is WORKER and self._crew.ended(child, code)
        if as_told or (self._draining and (not code or self._killed or child.role is LOAD)):
            return
        log.warning(
            "process_died",
            process=child.name,
            process_pid=child.pid,
            how=ended.how,
            reason=self._children.reasons.get(child.slot, ""),
        )
        if child.role.death is Death.RECOVER:
            self._recovery.dead.append(child.slot)
        elif code in child.role.final:
            log.error(
                "durability_lost",
                reason=self._children.reasons.get(child.slot, "see the journal's log lines above"),
            )
            self._exit = Exit.JOURNAL
            return
        if child.role in REPLACED:
            self._vacancies[child.role].ended(child.serving, self._longest_s(child.role))

    # ---- the start

    def _start(self) -> bool:
        """Until all serve. False where one cannot, or a signal came before."""
        try:
            if self._resources.admin_listener is not None:
                self._spawn(SHOW)
            if self._resources.data is not None:
                self._spawn(LOAD)
                while self._children.of(LOAD) and self._going_on():
                    self._wait(WATCH_S)
                if not self._going_on():
                    return False
                for role in KEEPERS:
                    self._spawn(role)
                if not self._await_serving(math.inf):  # as much as there is on disk
                    return False
                self._spawn(SERVE_FILES)
            self._crew.begin(self._settings.workers)
            return self._await_serving(START_S)
        except OSError as error:
            self._cannot_start(f"cannot fork: {fork_failure(error)}")
            return False
        finally:
            self._starting = False

    def _going_on(self) -> bool:
        return not self._stops and self._exit is Exit.OK

    def _await_serving(self, seconds: float) -> bool:
        """Until all that were forked serve. False where one cannot, or a signal came before."""
        deadline = time.monotonic() + seconds
        while self._going_on():
            late = [child for child in self._children if child.serving == math.inf]
            if not late:
                return True
            if time.monotonic() > deadline:
                names = ", ".join(child.name for child in late)
                self._cannot_start(f"after {START_S:g} s these do not serve: {names}")
            self._wait(min(deadline - time.monotonic(), WATCH_S))
        return False

    def _start_failed(self, ended: Ended) -> None:
        """A child has ended in the course of the start. One that is merely forked again where it
        dies has done no harm if it was killed."""
        child = ended.child
        if child.role.death is Death.END_START and not ended.code:
            return
        if not self._going_on():
            return  # one sentence is enough
        tries = self._early_ends.get(child.role, 0)
        if child.role in REPLACED and ended.code < 0 and tries < KEEPER_TRIES:
            log.warning("process_died_early", process=child.name, how=ended.how)
            self._early_ends[child.role] = tries + 1
            self._spawn(child.role)
            return
        reason = self._children.reasons.get(child.slot) or ended.how
        self._cannot_start(f"{child.name}: {reason}")

    def _cannot_start(self, reason: str) -> None:
        if self._exit is Exit.OK:
            self._exit = Exit.NOT_STARTED
            refuse(self._settings, reason)

    def _announce(self) -> None:
        settings, region = self._settings, self._region
        region.header.state = ServerState.SERVING
        if self._predecessor is not None:
            self._predecessor.serves()
        self._manager.tell(READY)
        problem = write_line(
            1,  # the one line on standard output, for scripts
            f"ready host={settings.host} port={self._resources.port} workers={settings.workers} "
            f"pid={os.getpid()}",
        )
        if problem:
            log.warning("ready_line_unwritable", reason=problem)
        log.info(
            "serving",
            host=settings.host,
            port=self._resources.port,
            admin_port=settings.admin_port,
            workers=settings.workers,
            region=region.name,
            region_mib=round(region.layout.size / 2**20, 1),
            registration=settings.registration,
            encryption="required" if settings.require_encryption == "on" else "offered",
            fingerprint=fingerprint(self._resources.key.identity),
            durability=settings.durability,
            form=FORM.name,
        )
        if first_screen.is_wanted():
            write_line(2, first_screen.first_screen(settings, self._resources.port, os.getpid()))

    # ---- while it serves

    def _supervise(self) -> None:
        """Until a signal, or damage that cannot be repaired."""
        desk, due = self._resources.desk, time.monotonic() + self._settings.stats_interval
        if desk is not None:
            desk.watch(self._poll)
            self._successor.watch(self._poll)
        while self._going_on():
            now, interval = time.monotonic(), self._settings.stats_interval
            dues = [now + WATCH_S, *self._crew.dues()]
            dues += [vacancy.due for vacancy in self._vacancies.values()]
            if interval:
                dues.append(due)
            self._wait(min(dues) - now)
            self._hung.kill()
            # Again for those that died in its course: a repair ends all sessions of a place, so
            # the place is filled after it only.
            while self._recovery.alarmed or self._recovery.dead:
                if not self._recover() or not self._going_on():
                    return
            while self._asked:
                self._orders.obey(self._asked.popleft())
            if desk is not None:
                desk.take(self._orders.answer, self._offer, self._crew.hand_over)
                if self._successor.look():
                    return
            self._fill()
            if interval and time.monotonic() >= due:
                due = time.monotonic() + interval
                if (line := self._stats.news(time.monotonic())) is not None:
                    log.info("stats", **line)

    def _offer(self, sock: socket.socket, peer: Peer) -> Answer | None:
        """A server asks for the place of this one; why it does not get it."""
        size = self._region.layout.size
        return self._successor.offer(sock, peer, self._resources.listening, size)

    def _recover(self) -> bool:
        """False where nobody may go on."""
        outcome = self._recovery.run()
        if outcome is Outcome.DAMAGED:
            self._exit = Exit.DAMAGED
        return outcome is Outcome.REPAIRED

    # ---- forking

    def _spawn(self, role: Role) -> Child:
        """Fork a child that is no worker. OSError."""
        child = self._children.spawn(role)
        if role in self._vacancies:
            self._vacancies[role].close()
        return child

    def _spawn_if_possible(self, role: Role) -> Child | None:
        """Fork a child, or try again later."""
        try:
            return self._spawn(role)
        except OSError as error:
            reason = fork_failure(error)
            log.warning("process_not_forked", process=role.name, slot=role.place, reason=reason)
            self._vacancies[role].open(failed=True, longest_s=self._longest_s(role))
            return None

    @staticmethod
    def _longest_s(role: Role) -> float:
        """The longest back-off: without a journal nothing is answered."""
        return ALONE_S if role is KEEP_JOURNAL else math.inf

    def _fill(self) -> None:
        """Fork what is due."""
        for role, vacancy in self._vacancies.items():
            if vacancy.due <= time.monotonic():
                self._spawn_if_possible(role)
        self._crew.fill()

    # ---- the stop

    def _stop(self) -> None:
        """In order: workers answer, flush and end; then journal and archive bring all to disk. All
        of it takes `graceful_timeout` at most; who needs longer is killed."""
        began = time.monotonic()
        self._draining, before = True, len(self._stops)
        self._stop_by = min(self._stop_by, began + self._settings.graceful_timeout)
        for number in self._asked:
            log.info("signal_ignored", signal=signal_name(number))
        self._asked.clear()
        if self._resources.desk is not None:
            self._resources.desk.close()
        if self._successor.wants_it:
            self._region.header.state = ServerState.HANDING_OVER
            log.info("handing_over", successor=self._successor.pid)
        else:
            self._region.header.state = ServerState.DRAINING
            self._manager.tell(STOPPING)
            self._resources.stop_listening()
        if self._stops:
            log.info("stopping", signal=signal_name(self._stops[0]))
        self._children.signal(self._children.of(WORKER), signal.SIGTERM)
        self._children.signal(self._children.of(LOAD, REPAIRS), signal.SIGKILL)
        if not self._end_workers(before):
            return
        self._resources.workers_alive.close()
        self._children.signal(self._children.of(*REPLACED), signal.SIGTERM)
        if self._end_keepers(before):
            log.info("stopped", seconds=round(time.monotonic() - began, 3))

    def _end_workers(self, before: int) -> bool:
        """Until no worker is left. One that dies meanwhile is repaired after, for the others may
        need its locks to end. False where the rest of the stop is not to be."""
        grace = self._settings.graceful_timeout
        kill_at, killed = self._stop_by - (1 - WORKERS_SHARE) * grace, False
        while workers := self._children.of(WORKER):
            now = time.monotonic()
            if signal.SIGQUIT in self._stops:
                kill_at = now
            if now >= self._stop_by:
                break  # killed, and they do not end
            if now >= kill_at and not killed:
                slots = sorted(child.slot for child in workers)
                if signal.SIGQUIT not in self._stops:
                    log.warning("workers_overdue", workers=slots)
                self._children.signal(workers, signal.SIGKILL)
                killed = self._killed = True
            self._wait(min((self._stop_by if killed else kill_at) - now, WATCH_S))
            if self._interrupted(before):
                return False
            if self._recovery.dead and not killed and not self._recover():
                if self._exit is Exit.DAMAGED:
                    return False
                kill_at = -math.inf
            for role in self._take_vacant():  # the workers' last answers wait for them
                self._spawn_if_possible(role)
        return True

    def _end_keepers(self, before: int) -> bool:
        """Until all is on disk. What one that dies has not written yet another one writes."""
        while self._children:
            if self._overdue():
                self._give_up_keepers()
                return False
            self._wait(min(self._stop_by - time.monotonic(), WATCH_S))
            if self._interrupted(before):
                return False
            for role in self._take_vacant():
                if role in KEEPERS:
                    self._finish(role)
        return True

    def _take_vacant(self) -> list[Role]:
        """Roles that are vacant, and are not any more."""
        found = [role for role, vacancy in self._vacancies.items() if vacancy.due < math.inf]
        for role in found:
            self._vacancies[role].close()
        return found

    def _finish(self, role: Role) -> None:
        self._finishes += 1
        if self._finishes > KEEPER_TRIES:
            log.error(
                "process_given_up",
                process=role.name,
                advice="see its own log lines, then start the server again: it finishes the disk's "
                "part",
            )
            self._exit = Exit.JOURNAL
        elif child := self._spawn_if_possible(role):
            self._children.signal([child], signal.SIGTERM)

    def _give_up_keepers(self) -> None:
        """Time is over. What is not durable was not answered, if answers wait for the disk."""
        words, at = self._region.words, self._region.layout["log"].at
        durable, head = words[at(0, "durable")], words[at(0, "head")]
        left = [child.name for child in self._children]
        if durable != NO_JOURNAL and durable < head:
            log.error(
                "journal_unfinished",
                processes=left,
                transactions=head - durable,
                advice="look at the disk, or raise --graceful-timeout",
            )
            self._exit = Exit.JOURNAL
        else:
            log.warning(
                "processes_overdue",
                processes=left,
                advice="look at the disk, or raise --graceful-timeout",
            )

    def _interrupted(self, before: int) -> bool:
        """Has a SIGINT come beside what began the stop?"""
        if signal.SIGINT not in self._stops[before:]:
            return False
        log.warning("interrupted_again")
        self._exit = Exit.INTERRUPTED
        return True
