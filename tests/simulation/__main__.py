"""Run simulations: `python -m tests.simulation --seed N --steps M`."""

import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a run
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])  # noqa: S606

from tests.helpers import form  # isort: skip - the form of our modules comes first
from tests.simulation.cli import main

form.check()

sys.exit(main(sys.argv[1:]))
