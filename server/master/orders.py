"""What the operator has the master do while it serves, by a signal or over the socket."""

import os
import signal
import sys
from typing import Final

import liblog
from server import control
from server.config import Action, ConfigError, Configuration
from server.control import Answer, Ask
from server.early import signal_name
from server.master.crew import Crew
from server.master.resources import Resources

COMMANDS: Final = frozenset({signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2})
"""Signals that are obeyed while it serves, and kept until then."""

TAKE_OVER_FLAG: Final = f"--{Action.TAKE_OVER.value}"

log = liblog.get("master")


class Orders:
    """Carries them out; what takes longer is begun, and goes on by itself."""

    def __init__(self, resources: Resources, configuration: Configuration, crew: Crew) -> None:
        """configuration: where the settings come from."""
        self._resources, self._configuration, self._crew = resources, configuration, crew

    def obey(self, number: int) -> None:
        """One of COMMANDS."""
        if number == signal.SIGHUP:
            self._reload()
            return
        if number == signal.SIGUSR2:
            self._upgrade()
            return
        before, most = len(self._crew), self._resources.seats
        count = self._crew.resize(before + (1 if number == signal.SIGTTIN else -1))
        if count == before:
            log.info("workers_not_resized", signal=signal_name(number), workers=count, most=most)
        else:
            log.info("workers_resized", signal=signal_name(number), workers=count, most=most)

    def _upgrade(self) -> None:
        """Start the program again, as it was started, to take the place of this server: a service
        manager takes only a process of this service for its new main one."""
        command = [each for each in sys.orig_argv if each != TAKE_OVER_FLAG]
        environ = {name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"}
        try:
            pid = os.posix_spawn(sys.executable, [*command, TAKE_OVER_FLAG], environ)
        except OSError as error:
            log.error("upgrade_not_started", program=sys.executable, reason=error.strerror)
        else:
            log.info("upgrade_started", successor=pid)

    def answer(self, ask: Ask) -> Answer:
        """What was asked for over the socket."""
        match ask.command:
            case "restart":
                return self._reload()
            case "drain":
                if process := self._crew.replace(ask.worker):
                    return Answer(True, f"worker {ask.worker} is being replaced", process)
                there = ", ".join(map(str, self._crew.slots())) or "none"
                text = f"no worker {ask.worker} accepts connections; those that do: {there}"
                return Answer(False, text)
            case control.PROGRESS:
                left = self._crew.progress(ask.worker)
                return Answer(not left, left)
        return Answer(False, f"{ask.command!r} is nothing that this server can be asked for")

    def _reload(self) -> Answer:
        """Read the settings again, and replace the workers one by one. Where something is wrong
        with the settings, nothing changes."""
        before = self._resources.settings
        try:
            settings, changed, kept = self._configuration.reread(before)
        except ConfigError as error:
            log.error(
                "settings_refused",
                reason=str(error),
                advice="correct it and ask again: the server keeps the settings it had",
            )
            return Answer(False, f"the settings are refused, and nothing changes: {error}")
        self._resources.settings = settings
        if kept:
            log.warning("settings_kept", settings=kept, advice="restart the server for these")
        if "workers" in changed:
            self._crew.resize(settings.workers)
        self._crew.replace_all()
        log.info("reloading", changed=changed, workers=len(self._crew))
        more = f"; {', '.join(kept)} wait for a restart of the whole server" if kept else ""
        return Answer(True, f"{len(self._crew)} workers are being replaced one by one{more}")
