"""`tradechat-admin top`: a running server, live on a terminal."""

import argparse
import curses
import signal
import sys
import time
from types import FrameType
from typing import Final

from libcli.output import put
from server.admin.board import SORTS, Line, rates, top_lines
from server.admin.command import EXIT_GOOD, Command, NotDone, UsageError
from server.admin.conservation import Conservation
from server.admin.health import health
from server.admin.history import History
from server.admin.snapshot import look
from server.admin.target import add_server, check_held, serving
from server.region.region import Region

_EXAMPLES: Final = """\
examples:
  tradechat-admin top                     the server on port 7878
  tradechat-admin top --interval 5 --name prod
  tradechat-admin top --once              one interval of 2 s, for a pipe

keys: q quits, s sorts the workers by the next column, p pauses and resumes.
"""
_KEYS: Final = "q quit   s sort   p pause"
_FIRST_S: Final = 1.0  # to the second look, at most
_QUIT, _SORT, _PAUSE = map(ord, "qsp")
_PAUSED: Final = "paused: p resumes"


class Watch:
    """A region that is looked at again and again."""

    def __init__(self, region: Region) -> None:
        self._region, self._history = region, History(region)
        self._history.sample()
        self._conservation = Conservation(region)
        self._before = self._now = look(region, self._conservation)
        self._rates: dict[int, float] = {}

    def look(self) -> None:
        """Take the next look."""
        self._history.sample()
        self._before, self._now = self._now, look(self._region, self._conservation)
        # A worker that has said nothing new keeps its rate: it speaks once a second.
        self._rates |= rates(self._before, self._now)

    def lines(self, sort: str) -> list[Line]:
        """What there is to see of the newest two looks; nothing before there are two."""
        if not self._history.samples:
            return []
        sample, found = self._history.samples[-1], health(self._now)
        return top_lines(self._before, self._now, found, sample, self._rates, sort)


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=2.0,
        metavar="S",
        help="seconds between updates (default: 2)",
    )
    parser.add_argument("--once", action="store_true", help="print one interval as lines, and exit")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return seconds


def _run(options: argparse.Namespace) -> int:
    if not options.once and not (sys.stdout is not None and sys.stdout.isatty()):
        raise UsageError("standard output is no terminal: --once shows one interval as lines")
    with serving(options) as region:
        watch = Watch(region)
        if options.once:
            time.sleep(options.interval)
            watch.look()
            for line in watch.lines(SORTS[0]):
                put(f"{line.text}\n")
        else:
            _show(region, watch, options.interval)
    return EXIT_GOOD


def _show(region: Region, watch: Watch, interval_s: float) -> None:
    """Until `q`. NotDone."""
    signal.signal(signal.SIGTERM, _end)
    try:
        curses.wrapper(_live, region, watch, interval_s)
    except curses.error as error:
        raise NotDone(
            f"this terminal cannot be written to ({error}): is TERM right? --once needs none"
        ) from error


def _end(number: int, _: FrameType | None) -> None:
    """Leave the terminal as it was."""
    sys.exit(128 + number)


def _live(screen: "curses.window", region: Region, watch: Watch, interval_s: float) -> None:
    sort, is_paused = SORTS[0], False
    due = time.monotonic() + min(interval_s, _FIRST_S)
    while True:
        if not is_paused and time.monotonic() >= due:
            check_held(region)
            watch.look()
            due = time.monotonic() + interval_s
        _draw(screen, watch.lines(sort), _PAUSED if is_paused else _KEYS)
        left_ms = -1 if is_paused else max(0, int((due - time.monotonic()) * 1000) + 1)
        screen.timeout(left_ms)
        key = screen.getch()
        if key == _QUIT:
            return
        if key == _SORT:
            sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
        elif key == _PAUSE:
            is_paused = not is_paused


def _draw(screen: "curses.window", lines: list[Line], foot: str) -> None:
    """As much of the lines as there is room for, and below them what the keys do."""
    height, width = screen.getmaxyx()
    screen.erase()
    shown = lines[: height - 1]
    for row, line in enumerate(shown):
        screen.addnstr(row, 0, line.text, width - 1, curses.A_BOLD if line.is_strong else 0)
    screen.addnstr(height - 1, 0, foot, width - 1, curses.A_REVERSE)
    screen.refresh()


COMMAND: Final = Command(
    "top",
    "workers, rates and latency of a running server, live",
    "Show a running server live: rates, latency, rings, each worker and the busiest opcodes. The"
    " shared region is read and no lock is taken.",
    _arguments,
    _run,
    _EXAMPLES,
)
