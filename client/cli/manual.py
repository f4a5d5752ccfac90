"""The manual page of tradechat-cli: `python -m client.cli.manual` writes it, or checks it."""

import sys
from pathlib import Path
from typing import Final

from client import cli
from client.cli.options import make_parser
from libcli import man
from libproto import __version__

COMMAND: Final = f"python -m {cli.__name__}.manual"
PATH: Final = Path("docs/man/tradechat-cli.1")


def manual() -> str:
    """tradechat-cli(1)."""
    others = "tradechat-server", "tradechat-admin", "tradechat-bench"
    return man.page(make_parser(), __version__, "chat in rooms and move money", COMMAND, others)


if __name__ == "__main__":
    sys.exit(man.keep(PATH, manual, COMMAND))
