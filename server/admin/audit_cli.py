"""`tradechat-admin audit`: whether the state of a running server holds together."""

import argparse
import time
from typing import Final

from libcli.output import put
from server.admin.audit import audit
from server.admin.command import EXIT_DAMAGED, EXIT_GOOD, Command
from server.admin.show import put_json, put_lines
from server.admin.target import add_server, attached


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _run(options: argparse.Namespace) -> int:
    with attached(options) as region:
        done = audit(region, time.sleep)
    if options.json:
        put_json({"txn_id": done.txn, "checked": done.checked, "problems": done.problems})
    else:
        put_lines([("at transaction", str(done.txn))])
        put_lines([(what, f"{count} checked") for what, count in done.checked.items()])
        for problem in done.problems:
            put(f"PROBLEM  {problem}\n")
        put("all holds\n" if not done.problems else "the state is damaged\n")
    return EXIT_DAMAGED if done.problems else EXIT_GOOD


COMMAND: Final = Command(
    "audit",
    "check the state of a running server, without taking a lock",
    "Check that money is conserved, that the transactions follow from one another, and that rings,"
    " locks, sessions and memberships are consistent. Takes about a second, while the server runs.",
    _arguments,
    _run,
)
