"""The admin process: HTTP for whoever operates the server, off the path of its clients.

It takes no lock, stores nothing and waits for nobody, so it answers under full load, while a repair
goes on, and while the state is loaded. Its death concerns nobody else.
"""

import gc
import os
import signal
import socket
import time
from dataclasses import dataclass
from threading import Thread
from typing import Final, NoReturn

import liblog
from libnet.wakeup import Wakeup
from server.child import BEAT_S, Report, enter, limit_of
from server.config import Settings
from server.exits import Exit
from server.region.region import Region

ACCEPT_S: Final = 0.1  # between looks whether it is to end: at most so much longer takes a stop
FINISH_S: Final = 1.0  # that it has, told to end, for what it has accepted

log = liblog.get("admin")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the master hands to the admin process over the fork."""

    settings: Settings
    region: Region
    listener: socket.socket
    ready: int  # for its Report
    place: int
    alive: Wakeup  # set again and again, so that the master sees that it does its work


def _serve(inherited: Inherited, report: Report) -> None:
    """Until SIGTERM, which is held."""
    # Here, as nobody else needs what this imports.
    from server.admin.history import EVERY_S, History
    from server.admin.web.routes import routes
    from server.admin.web.server import AdminServer

    region = inherited.region
    region.protect()
    history = History(region)
    history.sample()
    server = AdminServer(inherited.listener, routes(region, history))
    Thread(target=server.serve_forever, args=(ACCEPT_S,), name="http", daemon=True).start()
    inherited.alive.set()
    report.serves()
    due = time.monotonic() + EVERY_S
    while signal.sigtimedwait({signal.SIGTERM}, BEAT_S) is None:
        now = time.monotonic()
        if server.accepts(now):
            inherited.alive.set()
        if now >= due:
            due = now + EVERY_S
            history.sample()
    server.finish(FINISH_S)


def run(inherited: Inherited, master: int) -> NoReturn:
    """The whole life of an admin process, after its fork. Ends the process."""
    code, report = Exit.OK, Report(inherited.ready, inherited.place)
    try:
        enter(inherited.settings, "admin", master)
        gc.freeze()  # what the master made stays as it is
        _serve(inherited, report)
    except BaseException as error:
        code = Exit.FAILED
        if not report.served and (limit := limit_of(error)):
            report.fails(limit)
        else:
            log.error("admin_crashed", exc_info=error)
    finally:
        os._exit(code)
