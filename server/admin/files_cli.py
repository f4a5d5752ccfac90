"""`tradechat-admin files`: what users have shared, and whether it is what it was."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from libcli.output import put
from server.admin.command import EXIT_DAMAGED, EXIT_GOOD, Command, NotDone
from server.admin.inspect import Time, Value
from server.admin.operate import ask
from server.admin.show import put_json, put_lines, put_table
from server.admin.target import add_data, add_server, files_in
from server.admin.values import as_text
from server.files.books import Books
from server.files.contents import FOLDER
from server.files.errors import FilesError
from server.files.place import room_of
from server.files.records import File, index_of, records_of
from server.files.verify import verify
from server.journal.disk import Disk, read_file

_EXAMPLES: Final = """\
examples:
  tradechat-admin files list --data data
  tradechat-admin files list --data data --room 1 --json
  tradechat-admin files show 42 --data data
  tradechat-admin files verify --data data          hash all of them anew
  tradechat-admin files invalidate https://example.org/a.png

list, show and verify read the data directory and store nothing, so they work beside a running
server. docs/FILES.md describes what is where.
"""


class _Listed(NamedTuple):
    file: File
    at: int
    state: str


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) < 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--room", type=_number, metavar="ROOM", help="only those of this room")
    parser.add_argument("--user", type=_number, metavar="ID", help="only those of this user")
    parser.add_argument("--json", action="store_true", help="a JSON object per file and line")


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file_id", type=_number, metavar="FILE_ID")
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _invalidate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="URL|FILE_ID")
    add_server(parser)


def _store(data: Path) -> Path:
    """The directory of the store. NotDone."""
    store = data / FOLDER
    if not index_of(store).exists():
        raise NotDone(f"there is no store of files in {data}: has a server run on it?")
    return store


def _files(data: Path) -> Iterator[_Listed]:
    """All files and uploads, in the order of their numbers. NotDone."""
    store, books = _store(data), Books()
    try:
        with files_in(store):
            path = index_of(store)
            for record in records_of(path, read_file(Disk(), path))[0]:
                books.take(record)
    except FilesError as error:
        raise NotDone(str(error), EXIT_DAMAGED) from error
    for file_id in sorted(books.uploads.keys() | books.stored.keys()):
        if file_id in books.stored:
            stored = books.stored[file_id]
            state = "published" if stored.published else "stored"
            yield _Listed(stored.file, stored.at, state)
        else:
            upload = books.uploads[file_id]
            yield _Listed(upload.file, upload.at, "upload")


def _values(listed: _Listed) -> dict[str, Value]:
    file = listed.file
    return {
        "file_id": file.file_id,
        "state": listed.state,
        "room": room_of(file.room),
        "user": file.user,
        "size": file.size,
        "time": Time(listed.at),
        "media_type": file.media_type,
        "name": file.name,
        "sha256": file.sha256.hex(),
    }


def _list(options: argparse.Namespace) -> int:
    rows = [["file_id", "state", "room", "user", "size", "time", "media_type", "name"]]
    for listed in _files(options.data):
        file = listed.file
        if options.room not in (None, room_of(file.room)) or options.user not in (None, file.user):
            continue
        values = _values(listed)
        if options.json:
            put_json(values)
        else:
            rows.append([as_text(values[name]) for name in rows[0]])
    if not options.json:
        put_table(rows)
    return EXIT_GOOD


def _show(options: argparse.Namespace) -> int:
    for listed in _files(options.data):
        if listed.file.file_id == options.file_id:
            values = _values(listed)
            if options.json:
                put_json(values)
            else:
                put_lines([(name, as_text(value)) for name, value in values.items()])
            return EXIT_GOOD
    raise NotDone(f"there is no file {options.file_id}, or it is not kept any more")


def _verify(options: argparse.Namespace) -> int:
    store = _store(options.data)
    try:
        with files_in(store):
            found = verify(store)
    except FilesError as error:
        raise NotDone(str(error), EXIT_DAMAGED) from error
    if options.json:
        put_json(
            {
                "contents": found.contents,
                "bytes": found.size,
                "problems": [
                    {"sha256": each.sha256.hex(), "files": each.files, "what": each.what}
                    for each in found.problems
                ],
            }
        )
    else:
        for each in found.problems:
            numbers = ", ".join(map(str, each.files)) or "none"
            put(f"PROBLEM: {each.sha256.hex()} (files: {numbers}): {each.what}\n")
        put(f"{found.contents} contents, {found.size} bytes, {len(found.problems)} problems\n")
    return EXIT_DAMAGED if found.problems else EXIT_GOOD


def _invalidate(options: argparse.Namespace) -> int:
    ask(options, "invalidate", what=options.what)
    put("what was kept of it is forgotten\n")
    return EXIT_GOOD


COMMAND: Final = Command(
    "files",
    "list what users have shared, verify it, have a link fetched anew",
    "Look at the files that users have shared in rooms: list them, show one, hash all of them anew,"
    " or have the server forget what a link was.",
    examples=_EXAMPLES,
    commands=(
        Command(
            "list",
            "list files and unfinished uploads",
            "List the files in the store, and uploads that are not finished.",
            _list_arguments,
            _list,
        ),
        Command(
            "show", "show one file", "Show all that is known of a file.", _show_arguments, _show
        ),
        Command(
            "verify",
            "hash all files anew",
            "Hash the contents of all files anew and compare them with their names. The exit code"
            " is 1 where one is missing or is not what it was.",
            _verify_arguments,
            _verify,
        ),
        Command(
            "invalidate",
            "have a link fetched anew",
            "Have a running server forget what a link was, or, of a file_id, what its workers keep"
            " of it and the links that led to it.",
            _invalidate_arguments,
            _invalidate,
        ),
    ),
)
