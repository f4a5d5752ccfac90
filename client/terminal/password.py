"""A password, asked for at the terminal.

Unlike `getpass`, what is typed stays hidden after the program was stopped and continued (Ctrl-Z and
`fg`, where a shell has set the terminal as it likes it), and a signal that ends the program leaves
the terminal as it was.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

TERMINAL = "/dev/tty"
_LINE_MAX = 4096


class NoTerminal(Exception):
    """There is nobody to ask."""


class NoPassword(Exception):
    """None was given, or one that cannot be one; the text says which."""


def ask(prompt: str) -> str:
    """The password that is typed after `prompt`. NoTerminal, NoPassword."""
    if sys.platform == "win32":  # no terminal to be set there
        import getpass

        return getpass.getpass(prompt)
    try:
        terminal = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        raise NoTerminal(str(error)) from error
    try:
        with _hidden(terminal, prompt):
            typed = _read_line(terminal)
    finally:
        os.close(terminal)
    try:
        return typed.decode()
    except UnicodeDecodeError as error:
        raise NoPassword(
            "what was typed is not UTF-8 text: see to the terminal's encoding"
        ) from error


def _read_line(terminal: int) -> bytes:
    line = os.read(terminal, _LINE_MAX)
    if not line:
        raise NoPassword("no password was given")
    return line.rstrip(b"\r\n")


@contextmanager
def _hidden(terminal: int, prompt: str) -> Iterator[None]:
    """Nothing that is typed is shown, and the prompt is shown again whenever the program goes on
    after a stop; then the terminal is as it was, whatever ends this."""
    import termios  # not at the top: there is none on some systems

    as_it_was = termios.tcgetattr(terminal)
    quiet = [*as_it_was]
    quiet[3] &= ~termios.ECHO

    def hide() -> None:
        termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)

    def show() -> None:
        with suppress(termios.error):  # it may be gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, as_it_was)

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        show()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # comes back when the program goes on, or is not stopped
        signal.signal(number, stop)
        hide()

    def go_on(number: int, frame: FrameType | None) -> None:
        del number, frame
        hide()
        os.write(terminal, b"\r" + prompt.encode())

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise SystemExit(128 + number)

    handlers = {signal.SIGTSTP: stop, signal.SIGCONT: go_on}
    handlers |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP), end)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        # What was typed ahead is taken, as it is meant; getpass throws it away.
        hide()
        os.write(terminal, prompt.encode())
        yield
    finally:
        show()
        with suppress(OSError):
            os.write(terminal, b"\r\n")
        for number, earlier in before.items():
            signal.signal(number, earlier or signal.SIG_DFL)
