"""`tradechat-admin drain` and `restart`: what the server's master is asked to do.

The tool changes nothing itself. It finds the master's socket in the data directory, which is named,
or is one that the master of the named region has open.
"""

import argparse
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from libcli.output import complain, put
from server import control
from server.admin.command import EXIT_GOOD, Command, NotDone
from server.admin.master import connected
from server.admin.target import add_server, number, serving
from server.config import WORKERS_MAX
from server.control import MESSAGE_MAX, PROGRESS, SOCKET, Answer, Ask

ANSWER_S: Final = 5.0  # that the master may take
WAIT_S: Final = 60.0  # for a worker's end, if nothing else is said: twice the server's default
TIMEOUT_MAX_S: Final = 86400.0
LOOK_S: Final = 0.2  # between looks whether it has ended


def _drain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "worker",
        metavar="WORKER",
        type=number(0, WORKERS_MAX),
        help="its number, as `inspect` and ps show it",
    )
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=_seconds,
        default=WAIT_S,
        help=f"how long to wait until it has ended (default {WAIT_S:g})",
    )
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it has ended")
    add_server(parser)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= TIMEOUT_MAX_S:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {TIMEOUT_MAX_S:g}")
    return value


def _drain(options: argparse.Namespace) -> int:
    answer = _asked(options, Ask("drain", options.worker))
    if options.no_wait or not answer.process:  # a server of an older version names none
        put(f"{answer.text}\n")
        return EXIT_GOOD
    until, last = time.monotonic() + options.timeout, ""
    while (now := _ask(options, Ask(PROGRESS, answer.process))).text:
        if now.text != last:
            last = now.text
            complain(f"worker {options.worker}: {last}")
        if time.monotonic() >= until:
            raise NotDone(
                f"worker {options.worker} has not ended within {options.timeout:g} s ({last}), and "
                "still will: see `tradechat-admin status`, or --drain-timeout of the server"
            )
        time.sleep(LOOK_S)
    put(f"worker {options.worker} has ended, and another one has its place\n")
    return EXIT_GOOD


def _restart(options: argparse.Namespace) -> int:
    put(f"{_asked(options, Ask('restart')).text}\n")
    return EXIT_GOOD


def _asked(options: argparse.Namespace, ask: Ask) -> Answer:
    """The answer to what was done. NotDone."""
    answer = _ask(options, ask)
    if not answer.done:
        raise NotDone(answer.text)
    return answer


def _ask(options: argparse.Namespace, ask: Ask) -> Answer:
    """NotDone: there is none."""
    data = directory_of(options)
    late = "its master is stopped, stuck or very busy; look at its log"
    try:
        with connected(data, ANSWER_S, late) as sock:
            sock.send(control.encode(ask))
            return control.decode_answer(sock.recv(MESSAGE_MAX))
    except (OSError, ValueError) as error:
        raise NotDone(f"the server on {data} has ended without an answer") from error


def directory_of(options: argparse.Namespace) -> Path:
    """The data directory of the server that was named. NotDone."""
    return options.data or _directory_of_region(options)


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
    " most), and ends. This waits until it has ended, and writes what it waits for to standard"
    " error.",
    _drain_arguments,
    _drain,
    examples="examples:\n  tradechat-admin drain 1 --data data\n"
    "  tradechat-admin drain 1 --data data --no-wait\n",
)
RESTART: Final = Command(
    "restart",
    "replace all workers of a running server, one by one, without losing a client",
    "The server reads its settings again, and replaces its workers one by one, as SIGHUP has it"
    " do. This does not wait for that: `inspect` shows it.",
    add_server,
    _restart,
    examples="examples:\n  tradechat-admin restart --data data\n",
)
