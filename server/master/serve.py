"""One run of `tradechat-server`: its log, its limits, and a server; a new one where the region of
the one before was damaged and there is a journal to begin anew from.
"""

import errno
import os
import resource
from collections import deque
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Final

import setproctitle

import liblog
from libproto.form import FORM
from server import faults
from server.child import limit_of
from server.config import Configuration, Settings
from server.early import open_streams, reset_signals, write_line
from server.exits import Exit
from server.master.acquire import CannotStart, refuse
from server.master.listening import Listening, begin
from server.master.predecessor import Predecessor
from server.master.privileges import become, exposed, keep_memory_private
from server.master.resources import Resources, slots
from server.master.successor import Fate, Successor
from server.master.supervisor import Supervisor

REBUILDS_MAX: Final = 3  # times that a server begins anew after damage
OF_A_WORKER: Final = 6
"""Descriptors: a listener, a wake-up, both ends of its queue and of what leads to the archive."""
OTHER_FILES: Final = 64  # descriptors of a process, for all else

log = liblog.get("master")


def serve(settings: Settings, configuration: Configuration, *, take_over: bool = False) -> Exit:
    """Run a server; answers its exit code. configuration: of the settings. take_over: in the place
    of the one that runs on the data directory."""
    try:
        reset_signals()
        open_streams()
        setproctitle.setproctitle("tradechat: master")
        keep_memory_private()
        listening = _as_whom(settings, take_over=take_over)
        _open_log(settings)
        faults.to_log()
    except CannotStart as error:
        write_line(2, f"tradechat-server: cannot start: {error}")
        return Exit.NOT_STARTED
    if FORM.advice:
        log.warning("not_compiled", reason=FORM.reason, advice=FORM.advice)
    _raise_limits(settings)
    predecessor: Predecessor | None = None
    if take_over:
        try:
            predecessor = Predecessor(settings)
        except CannotStart as error:
            refuse(settings, str(error))
            return Exit.NOT_STARTED
        if not predecessor.await_release():
            return Exit.OK
        settings = predecessor.settings
    return _run(settings, configuration, predecessor, listening)


def _as_whom(settings: Settings, *, take_over: bool) -> Listening | None:
    """Become the user that the server is to run as. What only root may listen on is listened on
    before; None: nothing is yet. CannotStart."""
    if not settings.run_as:
        return None
    with ExitStack() as undo:
        listening = None
        if not take_over and os.geteuid() == 0:
            listening = undo.enter_context(closing(begin(settings)))
        become(settings.run_as)
        undo.pop_all()
    return listening


def _warn_of_exposure(settings: Settings) -> None:
    if os.geteuid() == 0:
        log.warning(
            "runs_as_root",
            advice="give it a user of its own with --run-as: it needs no right of root",
        )
    if settings.durability != "none" and (path := exposed(settings.data)):
        log.warning(
            "data_exposed",
            path=path,
            advice="others can write there, and so put what they like in the place of the server's "
            "files: take that right away (chmod go-w), or choose another --data",
        )


def _run(
    settings: Settings,
    configuration: Configuration,
    predecessor: Predecessor | None,
    listening: Listening | None,
) -> Exit:
    """One server after the other, on the same sockets: until one ends that is to be the last."""
    if predecessor is not None:
        listening = predecessor.listening
    waiting = [] if predecessor is None else predecessor.waiting
    asked: deque[int] = deque()
    rebuilds = 0
    while True:
        successor = Successor()
        alone = (successor,) if predecessor is None else (successor, predecessor)
        try:
            resources = Resources(settings, listening, alone)
        except CannotStart as error:
            refuse(settings, str(error))
            return Exit.NOT_STARTED
        with closing(resources):
            if not rebuilds:
                _warn_of_exposure(settings)
            resources.queue(waiting)
            supervisor = Supervisor(resources, configuration, asked, successor, predecessor)
            code = supervisor.run()
            damaged = code is Exit.DAMAGED and settings.durability != "none"
            if not damaged and not successor.wants_it:
                return code
            settings = replace(resources.settings, port=resources.port, sources=None)
            listening, predecessor = resources.listening.copies(), None
            waiting = successor.waiting = resources.take_queued()
        if successor.wants_it:
            successor.release()
            if supervisor.told_to_stop or successor.await_serving() is not Fate.GONE:
                return Exit.OK if damaged else code
        elif rebuilds == REBUILDS_MAX:
            return code
        else:
            rebuilds += 1


def _open_log(settings: Settings) -> None:
    """CannotStart: the log cannot be written where it should be."""
    path = settings.log_file
    try:
        liblog.configure(settings.log_level, settings.log_format, path)
    except OSError as error:
        reason = limit_of(error) or error.strerror
        if error.errno == errno.ENXIO:
            reason = "it is a FIFO or a socket that nobody reads"
        raise CannotStart(f"cannot open the log file {path}: {reason}; see --log-file") from error


def open_files_needed(settings: Settings) -> int:
    """Descriptors that one process may need. A worker's share of the connections is not known
    before, so all of them; listeners, wake-ups and sockets to the archive are of every worker."""
    return settings.max_connections + OF_A_WORKER * slots(settings) + OTHER_FILES


def _raise_limits(settings: Settings) -> None:
    """Have as many open files as connections need, or say that it is not so."""
    needed = open_files_needed(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except OSError:  # a container may forbid the call
        allowed = soft
    if allowed < needed:
        log.warning(
            "open_files_limited",
            allowed=allowed,
            needed=needed,
            advice="raise `ulimit -n` or lower --max-connections",
        )
