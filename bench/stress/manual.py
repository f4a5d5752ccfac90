"""The manual page of tradechat-bench: `python -m bench.stress.manual` writes it, or checks it."""

import sys
from pathlib import Path
from typing import Final

from bench import stress
from bench.stress.options import parser
from libcli import man
from libproto import __version__

COMMAND: Final = f"python -m {stress.__name__}.manual"
PATH: Final = Path("docs/man/tradechat-bench.1")


def manual() -> str:
    """tradechat-bench(1)."""
    others = "tradechat-server", "tradechat-admin", "tradechat-cli"
    about = "load a server, measure it, and judge what its clients saw"
    return man.page(parser(), __version__, about, COMMAND, others)


if __name__ == "__main__":
    sys.exit(man.keep(PATH, manual, COMMAND))
