"""`tradechat-admin drain` and `restart`: what the server's master is asked to do.

The tool changes nothing itself. It finds the master's socket in the data directory, which is named,
or is one that the master of the named region has open.
"""

import argparse
import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from libcli.output import put
from server import control
from server.admin.command import EXIT_GOOD, Command, NotDone
from server.admin.target import add_server, number, serving
from server.config import WORKERS_MAX
from server.control import MESSAGE_MAX, SOCKET, Ask

ANSWER_S: Final = 5.0  # that the master may take

_START: Final = "start one with `tradechat-server --data {}`"


def _add_where(parser: argparse.ArgumentParser) -> None:
    server = add_server(parser)
    server.add_argument("--data", type=Path, help="the server's data directory")


def _drain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "worker",
        metavar="WORKER",
        type=number(0, WORKERS_MAX),
        help="its number, as `inspect` and ps show it",
    )
    _add_where(parser)


def _drain(options: argparse.Namespace) -> int:
    return _ask(options, Ask("drain", options.worker))


def _restart(options: argparse.Namespace) -> int:
    return _ask(options, Ask("restart"))


def _ask(options: argparse.Namespace, ask: Ask) -> int:
    data = options.data or _directory_of_region(options)
    try:
        where, fd = control.address(data)
    except OSError as error:
        raise NotDone(f"the data directory {data} cannot be opened: {error.strerror}") from error
    sock = control.make()
    with closing(sock):
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(where)
            sock.send(control.encode(ask))
            answer = control.decode_answer(sock.recv(MESSAGE_MAX))
        except FileNotFoundError as error:
            raise NotDone(f"no server runs on {data}: {_START.format(data)}") from error
        except ConnectionRefusedError as error:
            text = f"no server runs on {data}, the last one was killed: {_START.format(data)}"
            raise NotDone(text) from error
        except PermissionError as error:
            text = f"{data / SOCKET} is of another user: run this as the server's own user, or root"
            raise NotDone(text) from error
        except (TimeoutError, BlockingIOError) as error:  # the latter: its queue is full
            raise NotDone(
                f"the server on {data} has not answered within {ANSWER_S:g} s, and may do it yet: "
                "its master is stopped, stuck or very busy; look at its log"
            ) from error
        except (OSError, ValueError) as error:
            raise NotDone(f"the server on {data} has ended without an answer") from error
        finally:
            os.close(fd)
    if not answer.done:
        raise NotDone(answer.text)
    put(f"{answer.text}\n")
    return EXIT_GOOD


def _directory_of_region(options: argparse.Namespace) -> Path:
    """The data directory that the master of a region has open. NotDone."""
    with serving(options) as region:
        master, name = region.header.master_pid, region.name
    with suppress(FileNotFoundError):
        try:
            for fd in Path(f"/proc/{master}/fd").iterdir():
                with suppress(FileNotFoundError):  # it was closed just now
                    place = Path(os.readlink(fd))
                    if (place / SOCKET).is_socket():
                        return place
        except PermissionError as error:
            text = f"the server {name} is of another user: run this as that user, or root"
            raise NotDone(text) from error
    raise NotDone(
        f"the server {name} has no {SOCKET}: it is starting or stopping, or it keeps nothing on "
        f"disk (--durability none), and then `kill -HUP {master}` replaces its workers"
    )


DRAIN: Final = Command(
    "drain",
    "replace one worker of a running server, without losing a client",
    "Another worker is started. When it serves, the named one accepts nothing more, tells its"
    " clients to go elsewhere, serves them until they have gone (--drain-timeout of the server at"
    " most), and ends. This does not wait for that: `inspect` shows it.",
    _drain_arguments,
    _drain,
    examples="examples:\n  tradechat-admin drain 1 --data data\n",
)
RESTART: Final = Command(
    "restart",
    "replace all workers of a running server, one by one, without losing a client",
    "The server reads its settings again, and replaces its workers one by one, as SIGHUP has it"
    " do. This does not wait for that: `inspect` shows it.",
    _add_where,
    _restart,
    examples="examples:\n  tradechat-admin restart --data data\n",
)
