"""What `tradechat-server` was asked for: to serve, or to say something about its configuration."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import liblog
from libcli import output
from libcli.environment import PassedOver
from server.config import (
    PROGRAM,
    Action,
    ConfigError,
    Configuration,
    Settings,
    effective,
    load,
)
from server.early import open_streams
from server.exits import Exit
from server.master.serve import serve

log: Final = liblog.get("config")


def run(release_signals: Callable[[], object]) -> int:
    """Do what the command line asks for; the exit code, FAILED where what was asked for cannot be
    written. release_signals: called where the program does not serve, and may be interrupted."""
    return output.run(PROGRAM, partial(_run, release_signals))


def _run(release_signals: Callable[[], object]) -> int:
    try:
        loaded = load(sys.argv[1:], os.environ)
    except ConfigError as error:
        output.complain(f"{PROGRAM}: {error}")
        return Exit.USAGE
    if loaded.action in (Action.RUN, Action.TAKE_OVER):
        take_over = loaded.action is Action.TAKE_OVER
        if take_over and loaded.settings.durability == "none":
            output.complain(f"{PROGRAM}: --take-over needs a journal: durability must not be none")
            return Exit.USAGE
        open_streams()
        _warn(loaded.settings, loaded.passed_over)
        configuration = Configuration(
            loaded.settings, lambda: load(sys.argv[1:], os.environ).settings
        )
        return serve(loaded.settings, configuration, take_over=take_over)
    release_signals()
    for variable in loaded.passed_over:
        output.complain(f"{PROGRAM}: {variable}")
    output.put(
        effective(loaded)
        if loaded.action is Action.PRINT_CONFIG
        else "the configuration is valid\n"
    )
    return Exit.OK


def _warn(settings: Settings, passed_over: Sequence[PassedOver]) -> None:
    """Log the variables that are not used, as the master logs everything else."""
    if not passed_over:
        return
    try:
        liblog.configure(settings.log_level, settings.log_format, settings.log_file)
    except OSError:
        return  # the master cannot start then, and says why
    for each in passed_over:
        log.warning(
            "variable_passed_over", variable=each.variable, reason=each.reason, advice=each.advice
        )
