"""`python -m client` is `tradechat-cli`."""

import sys
from collections.abc import Callable

from libcli.entry import run


def load() -> Callable[[], int]:
    """Import the program; answers what runs it."""
    from client.cli.program import main

    return main


if __name__ == "__main__":
    sys.exit(run(load))
