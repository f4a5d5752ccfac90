"""`python -m client` is `tradechat-cli`."""

import sys

from client.cli.program import main
from libcli.entry import run

if __name__ == "__main__":
    sys.exit(run(lambda: main))
