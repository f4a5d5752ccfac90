"""`tradechat-admin identity`: by what clients know a server."""

import argparse
from typing import Final

import orjson

from libcli.output import put
from libproto.sealing import fingerprint
from server.admin.command import EXIT_GOOD, Command, NotDone
from server.admin.target import add_data, files_in
from server.journal.disk import Disk
from server.journal.format import SERVER_KEY
from server.journal.server_key import read_key

_EXAMPLES: Final = """\
examples:
  tradechat-admin identity --data /var/lib/tradechat
  tradechat-cli --host chat.example.org --pin "$(tradechat-admin identity --data DIR)"
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object, with the public key")


def _run(options: argparse.Namespace) -> int:
    with files_in(options.data):
        key = read_key(Disk(), options.data)
    if key is None:
        raise NotDone(
            f"there is no {SERVER_KEY} in {options.data}: the first start of a server on it makes"
            " one; is this its --data?"
        )
    shown = fingerprint(key.identity)
    if options.json:
        found = {"fingerprint": shown, "public_key": key.identity.hex()}
        put(orjson.dumps(found).decode() + "\n")
    else:
        put(f"{shown}\n")
    return EXIT_GOOD


COMMAND: Final = Command(
    "identity",
    "show the fingerprint by which clients know the server",
    "Show the fingerprint of the server's key. tradechat-cli shows it at the first encrypted"
    " connection: who compares the two knows that nobody stands in between. It is no secret; the"
    " file it is read from is.",
    _arguments,
    _run,
    _EXAMPLES,
)
