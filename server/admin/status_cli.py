"""`tradechat-admin status`: one screen on a running server, and an exit code for scripts."""

import argparse
from typing import Final

import orjson

from libcli.output import put
from server.admin.board import status_lines
from server.admin.command import EXIT_DAMAGED, EXIT_GOOD, Command
from server.admin.figures import figures
from server.admin.health import health
from server.admin.snapshot import look
from server.admin.target import add_server, serving

_EXAMPLES: Final = """\
examples:
  tradechat-admin status                  the server on port 7878
  tradechat-admin status --name prod --json
  tradechat-admin status > /dev/null || echo "look at it"

exit code 0: it is ready for clients, and nothing is wrong; 1: it is not ready, or something is
wrong, such as a worker that does not respond; 3: there is no such server.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _run(options: argparse.Namespace) -> int:
    with serving(options) as region:
        now = look(region)
        found = health(now)
        if options.json:
            put(orjson.dumps(figures(region)).decode() + "\n")
        else:
            for line in status_lines(now, found):
                put(f"{line.text}\n")
    return EXIT_GOOD if found.ready and not found.warnings else EXIT_DAMAGED


COMMAND: Final = Command(
    "status",
    "show the server's health on one screen, and by the exit code",
    "Show how a running server is: its health, clients, workers, and what is on disk. The shared"
    " region is read and no lock is taken, so this works on a server that is stuck.",
    _arguments,
    _run,
    _EXAMPLES,
)
