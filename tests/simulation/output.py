"""What the programs of the simulation print."""

import sys
from typing import Final

FOUND: Final = "seeds until something was found: "


def say(line: str) -> None:
    """A line of output."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
