"""`tradechat-server`: configuration, then the master. Exit codes are those of master.py."""

import os
import sys

from server.config import Action, ConfigError, effective, load
from server.master.supervisor import EXIT_USAGE, serve


def main() -> int:
    """The console script. Answers the exit code."""
    try:
        loaded = load(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(f"tradechat-server: {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return EXIT_USAGE
    if loaded.action is Action.PRINT_CONFIG:
        print(effective(loaded), end="")  # noqa: T201 - the program's output
        return 0
    if loaded.action is Action.CHECK_CONFIG:
        print("the configuration is valid")  # noqa: T201 - the program's output
        return 0
    return serve(loaded.settings)


if __name__ == "__main__":
    sys.exit(main())
