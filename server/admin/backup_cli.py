"""`tradechat-admin backup` and `restore`: a copy of what a server has on disk, and its way back."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Final

from libcli.output import put
from server.admin.backup import Copied, backup, restore
from server.admin.command import EXIT_DAMAGED, EXIT_GOOD, Command, say
from server.admin.show import put_json
from server.admin.target import add_data, files_in
from server.journal.directory import DataDirectory
from server.journal.disk import Disk

_EXAMPLES: Final = """\
examples:
  tradechat-admin backup --data data /backup/monday      while the server runs
  tradechat-admin restore /backup/monday --data data     before one is started; data is new or empty
"""
_TELL_S: Final = 0.5  # between two words on progress
_MIB: Final = 1 << 20


class _Progress:
    """How far it is, on a terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr is not None and sys.stderr.isatty()
        self._next = time.monotonic() + _TELL_S

    def __call__(self, done: int, of: int) -> None:
        if self._is_shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + _TELL_S
            say(f"copied {done // _MIB} of {max(done, of) // _MIB} MiB")


def _backup_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("to", type=Path, metavar="DIR", help="where to: a new or empty directory")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _restore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backup", type=Path, metavar="DIR", help="what `backup` has made")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="where to: a new or empty directory"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _backup(options: argparse.Namespace) -> int:
    with files_in(options.data):
        made = backup(Disk(), DataDirectory(options.data), options.to, _Progress())
    return _tell(options, options.to, made)


def _restore(options: argparse.Namespace) -> int:
    with files_in(options.backup):
        log_id = int.from_bytes(os.urandom(8)) or 1
        source, now = DataDirectory(options.backup), time.time_ns() // 1000
        made = restore(Disk(), source, options.data, _Progress(), log_id, now)
    return _tell(options, options.data, made)


def _tell(options: argparse.Namespace, where: Path, made: Copied) -> int:
    report = made.report
    if options.json:
        put_json(
            {
                "directory": str(where),
                "good": made.is_good,
                "can_start": not report.refusal,
                "refusal": report.refusal or None,
                "txn_id": report.txn,
                "event": report.event,
                "files": made.files,
                "bytes": made.bytes,
                "shared_files": made.shared.contents,
                "damaged_files": [problem.sha256.hex() for problem in made.shared.problems],
            }
        )
    else:
        put(
            f"{where}: transaction {report.txn} and event {report.event}; {made.files} files, "
            f"{made.shared.contents} contents of what users share; {made.bytes} bytes copied and "
            "verified\n"
        )
    for problem in made.shared.problems:
        say(f"content {problem.sha256.hex()} of files {problem.files}: {problem.what}")
    if made.is_good:
        return EXIT_GOOD
    what = f"no server can start with it: {report.refusal}" if report.refusal else (
        "a server can start with it, and something in it is damaged"
    )  # fmt: skip
    say(f"{what}. It is as what was copied: `tradechat-admin journal verify` tells where")
    return EXIT_DAMAGED


BACKUP: Final = Command(
    "backup",
    "copy what a server keeps on disk, while it runs, and verify the copy",
    "Copy the data directory of a server, which may be running and is not disturbed. What is copied"
    " is the state of one moment: all that was acknowledged before the command began is in it. The"
    " copy is read and checked; one that was interrupted has no file «identity», and no server"
    " starts with it. Keep it as safe as the data directory: it lets its reader pose as any user.",
    _backup_arguments,
    _backup,
    _EXAMPLES,
)
RESTORE: Final = Command(
    "restore",
    "make a data directory from a backup",
    "Copy a backup to a data directory that is new or empty, and give its log a new identity, so"
    " that clients which have seen more than it has notice. The backup stays as it is.",
    _restore_arguments,
    _restore,
    _EXAMPLES,
)
