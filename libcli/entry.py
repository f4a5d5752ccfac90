"""How a program begins and ends: a signal that asks it to stop is never a traceback.

Where Python raises KeyboardInterrupt while a module is imported, or after the last statement of the
program, nobody is there to catch it. So until the program is loaded, and once it has ended, the
signal ends the process at once.
"""

import gc
import signal
from collections.abc import Callable

from libcli.early import end, end_at_signals


def run(load: Callable[[], Callable[[], int]]) -> int:
    """Run a program, for a console script; its exit code, or that of the signal which ended it:
    128 and its number, as a shell shows it.

    load: imports the program, and answers what runs it. It is the program that catches the
    KeyboardInterrupt of its time; what it lets through is caught here.
    """
    end_at_signals()
    try:
        try:
            gc.disable()  # next to nothing of what is loaded is garbage
            program = load()
            gc.freeze()
            gc.enable()
            if signal.getsignal(signal.SIGINT) is end:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return program()
        finally:
            end_at_signals()
            gc.freeze()  # what is left is for the system to free, which takes it no time
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
