"""The commands of `tradechat-cli` about files of rooms."""

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager

from client.blocking import Client
from client.cli.command import KEY, Argument, Command, done_as, once, room_of
from client.errors import CallTimeout, ClientError, ConnectionLost, MisuseError, NotFound
from client.terminal.advice import at_stake, is_unknown
from client.terminal.arguments import read_count, read_place, read_text
from client.terminal.display import Screen
from client.terminal.files import (
    Bar,
    Shared,
    file_fields,
    file_line,
    place_of,
    shared_in,
    size_of,
    told,
)

_CHECK = "`tradechat-cli file list`"
_AGAIN = "it is not whole: the same command goes on from where it was"


class FileUnusable(MisuseError):
    """A file of the user's own cannot be read or written."""


@contextmanager
def _usable(path: str) -> Iterator[None]:
    """Around what reads or writes it. FileUnusable."""
    try:
        yield
    except ClientError:  # some of which are OSErrors, too
        raise
    except OSError as error:
        raise FileUnusable(told(error, path)) from error


@contextmanager
def _goes_on(screen: Screen) -> Iterator[None]:
    """Around a transfer: what became of it, where it is interrupted."""
    try:
        yield
    except (CallTimeout, ConnectionLost) as error:
        if not is_unknown(error):
            error.add_note(_AGAIN)
        raise
    except KeyboardInterrupt as error:
        if not getattr(error, "req_id", 0):
            screen.complain(_AGAIN)
        raise


def _put(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    room = room_of(client, options.room)
    client.join(room)
    bar = Bar(quiet=screen.as_json)
    with (
        at_stake("file", _CHECK, screen),
        _goes_on(screen),
        _usable(options.path),
        closing(bar),
    ):
        sent = client.send_file(
            room,
            options.path,
            name=options.name,
            media_type=options.media_type,
            progress=bar,
            once=None if options.key is None else options.once,
        )
    with done_as(f"it is file {sent.file_id} of room {room}"):
        fields = {**sent._asdict(), "sha256": sent.sha256.hex(), "room_id": room}
        shown = f"shared as file {sent.file_id}, event {sent.room_seq} of room {room}"
        earlier = " (by an earlier run)" if sent.recorded else ""
        screen.result([f"{shown}, {size_of(sent.size)}{earlier}"], fields)


def _get(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    name = ""
    if options.room is not None:
        name = _shared(client, room_of(client, options.room), options.file).file.name
    path = place_of(options.file, name, options.to)
    bar = Bar(quiet=screen.as_json)
    with _goes_on(screen), _usable(path), closing(bar):
        found = client.fetch_file(options.file, path, progress=bar)
    with done_as(f"the file is {path}"):
        fields = {"file_id": options.file, "path": path, "size": found.size}
        screen.result([f"{path}, {size_of(found.size)}"], {**fields, "sha256": found.sha256.hex()})


def _list(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    room = room_of(client, options.room)
    for shared in shared_in(client.iter_history(room))[-(options.limit or 0) :]:
        screen.result(file_line(shared), file_fields(shared))


def _show(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    shared = _shared(client, room_of(client, options.room), options.file)
    screen.result(file_line(shared), file_fields(shared))


def _shared(client: Client, room: int, file_id: int) -> Shared:
    for shared in shared_in(client.iter_history(room)):
        if shared.file.file_id == file_id:
            return shared
    raise NotFound(f"the history of room {room} has no file {file_id}")


def _link(client: Client, options: argparse.Namespace, screen: Screen) -> None:
    room = room_of(client, options.room)
    client.join(room)
    with at_stake("link", _CHECK, screen):
        done = client.fetch_link(room, options.link, **once(options))
    with done_as(f"it is file {done.file_id} of room {room}"):
        shown = f"shared as file {done.file_id}, event {done.room_seq} of room {room}"
        screen.result([f"{shown}, {size_of(done.size)}"], {"room_id": room, **done._asdict()})


_ROOM = Argument("ROOM", "room", read_place, "its number, or its name")
_FILE = Argument("FILE_ID", "file", read_count, "the number of the file")
_PATH = Argument("PATH", "path", str, "the file to share")
_NAME = Argument("--name", "name", read_text, "what it is called there", metavar="NAME")
_TYPE = Argument("--type", "media_type", read_text, "its media type", metavar="TYPE")
_TO = Argument(
    "--to", "to", read_text, "where to put it, a directory or a new name (file-ID here)",
    metavar="PATH",
)  # fmt: skip
_IN = Argument("--room", "room", read_place, "take the name it has in this room", metavar="ROOM")
_LIMIT = Argument("--limit", "limit", read_count, "only the last N")
_URL = Argument("URL", "link", read_text, "an http or https link, of a host that is allowed")

GROUPS = {"file": "files of a room, which who may read it can fetch"}

FILE_COMMANDS: tuple[Command, ...] = (
    Command(
        "file put", (_ROOM, _PATH, _NAME, _TYPE, KEY),
        "share a file; again after an interruption, it goes on from there", _put, is_once=True,
        lasts=True,
    ),
    Command(
        "file get", (_FILE, _TO, _IN),
        "fetch a file; nothing is overwritten, and again it goes on", _get, lasts=True,
    ),
    Command("file list", (_ROOM, _LIMIT), "print the files of a room", _list),
    Command("file show", (_ROOM, _FILE), "print one of them", _show),
    Command(
        "file link", (_ROOM, _URL, KEY),
        "have the server fetch a link and share it (with --timeout 60)", _link, is_once=True,
    ),
)  # fmt: skip
