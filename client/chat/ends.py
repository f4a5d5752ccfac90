"""How a chat may end, beside its last line."""

SIGHUP = 1
"""The number of the signal for a terminal that went away; some systems have no such signal."""


class Interrupted(Exception):
    """Ctrl-C where there is nothing to give up."""


class Terminated(Exception):
    """A signal asks the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
