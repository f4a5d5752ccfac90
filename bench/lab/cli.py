"""What every program of bench does the same way at its edge: exit codes, messages, signals.

Results go to standard output, messages to standard error under the program's name. SIGTERM, and a
terminal that is closed, end a program as Ctrl-C does: in order, with whatever it started. A reader
that closes standard output early has seen enough.
"""

import argparse
import json
import signal
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from libcli import output
from libnet.errors import NetError
from libproto import version_of
from libproto.form import FORM

EXIT_GOOD: Final = 0
EXIT_VIOLATED: Final = 1
"""A promise of the server was broken, or a part of what was asked for failed."""
EXIT_USAGE: Final = 2
"""argparse's own."""
EXIT_FAILED: Final = 3
"""Nothing can be said: the server did not start, or the load could not be made."""
EXIT_THRESHOLD: Final = 4
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_TERMINATED: Final = 128 + signal.SIGTERM

R = TypeVar("R", bound=Mapping[str, Any])


class BenchFailed(Exception):
    """The program cannot do what was asked for; the text says why."""


def number(least: float, most: float, kind: type[int] | type[float] = int) -> Callable[[str], Any]:
    """What reads an option's number, for argparse: from `least` to `most`, and never NaN."""

    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:g}")
        return value

    parse.__name__ = "number"  # how argparse calls it in "invalid number value"
    return parse


class Program:
    """A program by its name, as its messages have it; `code` is that of the signal that came."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.code = EXIT_INTERRUPTED

    def tell(self, text: str) -> None:
        """A line of results. OutputFailed."""
        output.put_line(text)

    def tell_row(self, row: Mapping[str, Any]) -> None:
        """A measurement as a JSON object, and the form of the server that was measured."""
        self.tell(json.dumps({"form": FORM.name, **row}))

    def tell_table(self, table: str) -> None:
        """All measurements, below what was measured."""
        self.tell(f"{version_of('tradechat')}\n\n{table}")

    def tell_measured(
        self,
        measure: Callable[[Callable[[R], None]], list[R]],
        table: Callable[[list[R]], str],
        *,
        as_json: bool,
    ) -> int:
        """Run a program that measures: each row as it comes, or all of them at the end. measure
        gets what each row is told to, and answers all; the exit code."""

        def told(row: R) -> None:
            if as_json:
                self.tell_row(row)

        def body() -> int:
            rows = measure(told)
            if not as_json:
                self.tell_table(table(rows))
            return EXIT_GOOD

        return self.run(body)

    def warn(self, text: str) -> None:
        """A message about the run."""
        output.complain(f"{self.name}: {text}")

    def _terminate(self, number: int, _: object) -> None:
        # As Ctrl-C: a running event loop makes a cancellation of that. An exception raised here
        # could be lost in a callback of the loop.
        self.code = 128 + number
        signal.raise_signal(signal.SIGINT)

    def run(self, body: Callable[[], int]) -> int:
        """The exit code of the body, or of what ended it. For the main thread."""
        return output.run(self.name, lambda: self._run(body), failed=EXIT_FAILED)

    def _run(self, body: Callable[[], int]) -> int:
        # A shell's background job has SIGINT ignored; what SIGTERM becomes here must not be.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, self._terminate)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # it is for nohup
            signal.signal(signal.SIGHUP, self._terminate)
        try:
            return body()
        except (BenchFailed, NetError, OSError) as error:
            self.warn(str(error))
            return EXIT_FAILED
        except KeyboardInterrupt:
            return self.code
