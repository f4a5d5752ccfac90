"""Run simulations: `python -m tests.simulation --seed N --steps M`."""

import os
import sys
from typing import Final

if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a run
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])  # noqa: S606

from tests.helpers import form  # isort: skip - it chooses the form of all that follows
from libproto import messages  # isort: skip - before whatever is made from its numbers

WINDOW: Final = 8
"""Outcomes that are kept of a client: so few that they go all the time."""
messages.OUTCOME_WINDOW = WINDOW
form.check()

from tests.simulation.cli import main  # noqa: E402 - it is made with the small window

sys.exit(main(sys.argv[1:]))
