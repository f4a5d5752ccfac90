"""`tradechat-server`: configuration, then the master. Exit codes are those of master.py; 1 where
what was asked for cannot be written."""

import os
import sys
from collections.abc import Sequence
from typing import Final

import liblog
from libcli import output
from libcli.environment import PassedOver
from server.config import PROGRAM, Action, ConfigError, Settings, effective, load
from server.master.supervisor import EXIT_OK, EXIT_USAGE, serve

log: Final = liblog.get("config")


def main() -> int:
    """The console script. Answers the exit code."""
    return output.run(PROGRAM, _main)


def _main() -> int:
    try:
        loaded = load(sys.argv[1:], os.environ)
    except ConfigError as error:
        output.complain(f"{PROGRAM}: {error}")
        return EXIT_USAGE
    if loaded.action is Action.RUN:
        _warn(loaded.settings, loaded.passed_over)
        return serve(loaded.settings)
    for variable in loaded.passed_over:
        output.complain(f"{PROGRAM}: {variable}")
    output.put(
        effective(loaded)
        if loaded.action is Action.PRINT_CONFIG
        else "the configuration is valid\n"
    )
    return EXIT_OK


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


if __name__ == "__main__":
    sys.exit(main())
