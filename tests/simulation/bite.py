"""What the simulation finds of bugs that are known: `python -m tests.simulation.bite [NAME ...]`.

Each patch of tests/mutants that lies in code which a simulation runs is planted in a copy of the
tree, and seeds are run until one finds it. What is printed is how many that took.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutants import Mutant, all_mutants
from tests.mutants.__main__ import copy_tree, patch
from tests.simulation.output import FOUND, say

SIMULATED = tuple(f"server/{each}/" for each in ("core", "region", "worker", "journal", "master"))
SEEDS = 60


def is_simulated(mutant: Mutant) -> bool:
    """Does it change only what a simulation runs?"""
    files = [
        line[len("+++ b/") :]
        for line in mutant.path.read_text().splitlines()
        if line.startswith("+++ b/")
    ]
    return all(file.startswith(SIMULATED) for file in files)


def seeds_until_found(tree: Path, seeds: int) -> int | None:
    """How many seeds it takes, from the first on; None: more."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seeds", str(seeds), "--until-found"],
        cwd=tree,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(FOUND):
            return int(line.removeprefix(FOUND))
    return None


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.bite", description=__doc__)
    parser.add_argument("names", nargs="*", help="of mutants, or parts of them; all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"that may be tried ({SEEDS})")
    given = parser.parse_args(arguments)
    found = 0
    chosen = [
        mutant
        for mutant in all_mutants()
        if is_simulated(mutant)
        and (not given.names or any(name in mutant.path.stem for name in given.names))
    ]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        for mutant in chosen:
            problem = patch(tree, mutant)
            if problem:
                say(f"{mutant.path.stem}: {problem}")
                continue
            took = seeds_until_found(tree, given.seeds)
            found += took is not None
            say(f"{mutant.path.stem:52} {took or 'not found'}")
            patch(tree, mutant, "--reverse")
    say(f"{found} of {len(chosen)} are found within {given.seeds} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
