"""How a command of `tradechat-cli` is written: a row with its arguments, and what rows share."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from client.blocking import Client
from client.errors import NotFound
from client.terminal.arguments import read_key
from client.terminal.display import Screen
from client.terminal.room_lines import plain_name
from libcli.output import OutputFailed

KEYED_REQ_ID = 1
"""The number under which the one request of a key is made."""


def typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader whose refusals argparse repeats word by word."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return typed


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command, or with dashes an option with a value."""

    name: str
    dest: str
    read: Callable[[str], Any]
    about: str = ""
    default: Any = None
    many: bool = False
    metavar: str = "N"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        settings: dict[str, Any] = {"type": typed(self.read), "help": self.about or None}
        if self.name.startswith("-"):
            parser.add_argument(
                self.name,
                dest=self.dest,
                metavar=self.metavar,
                default=self.default,
                **settings,
            )
        else:
            nargs = "+" if self.many else None
            parser.add_argument(self.dest, metavar=self.name, nargs=nargs, **settings)


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. `name`: of two words, it stands below another one. `logs_in` is False
    where the user need not be there yet; `is_once` marks what has a client_id, so that it is
    carried out once; `lasts`, what goes on over a connection that is lost."""

    name: str
    arguments: tuple[Argument, ...]
    about: str
    run: Callable[[Client, argparse.Namespace, Screen], None]
    is_once: bool = False
    logs_in: bool = True
    lasts: bool = False


KEY = Argument(
    "--key", "key", read_key,
    "carry it out once, however often it is run with this KEY: later runs print what the first did",
    metavar="KEY",
)  # fmt: skip


def once(options: argparse.Namespace) -> dict[str, Any]:
    """How a request with a key of the caller's is made: under the one number of its client_id."""
    if options.key is None:
        return {}
    return {"req_id": KEYED_REQ_ID, "possible_duplicate": True}


@contextmanager
def done_as(what: str) -> Iterator[None]:
    """Where this cannot be shown, it is told with the failure that it was done all the same."""
    try:
        yield
    except OutputFailed as error:
        error.add_note(f"this was done, and is not to be repeated: {what}")
        raise


def room_of(client: Client, place: int | str) -> int:
    """The number of a room that is named by its number or its name; NotFound: no room has that
    name. It is not opened by that: a misspelt name would make a room."""
    if isinstance(place, int):
        return place
    wanted = plain_name(place)
    for room in client.iter_rooms():
        try:
            name = client.room_info(room.room_id).name
        except NotFound:  # it was closed meanwhile
            continue
        if plain_name(name) == wanted:
            return room.room_id
    raise NotFound(f"no room is called {place!r}: `tradechat-cli rooms open` makes one")
