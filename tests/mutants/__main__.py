"""The command line: `python -m tests.mutants [TEXT ...]` plants each bug in a copy of the tree.

The named test must pass without the patch and fail with it. Exit code 1 where one does not: the
test no longer finds its bug, or the patch no longer fits the code it was made for.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants import ROOT, Mutant, all_mutants

NOT_COPIED = ("build", "dist")
TIMEOUT_S = 120
PASSED, FAILED = 0, 1  # exit codes of pytest; others tell that it did not run the test


def copy_tree(to: Path) -> None:
    """The sources, without what was made from them."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == ROOT
        return {
            name
            for name in names
            if name == "__pycache__" or (top and (name.startswith(".") or name in NOT_COPIED))
        }

    shutil.copytree(ROOT, to, ignore=left_out)


def patch(tree: Path, mutant: Mutant, *flags: str) -> str:
    """Apply it; answers why it cannot be, or nothing."""
    done = subprocess.run(
        ["git", "apply", *flags, str(mutant.path)],
        cwd=tree,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stderr.strip() if done.returncode else ""


def run(tree: Path, *tests: str) -> int:
    """The tests as that tree has them; answers pytest's exit code, or that of the signal that
    ended it when its time was over."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            *tests,
        ],
        cwd=tree,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    if process.returncode not in (PASSED, FAILED):
        say(output)
    return process.returncode


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; answers the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description="Plants known bugs, one after the other, and insists that the tests find them.",
    )
    parser.add_argument("text", nargs="*", help="only the mutants that have it in their name")
    options = parser.parse_args(arguments)
    chosen = [
        mutant
        for mutant in all_mutants()
        if not options.text or any(text in mutant.name for text in options.text)
    ]
    if not chosen:
        parser.error("there is no such mutant")
    survived = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        if run(tree, *sorted({mutant.test for mutant in chosen})) != PASSED:
            say("the tests do not pass without any mutant: nothing can be told")
            return 1
        for mutant in chosen:
            problem = patch(tree, mutant)
            if not problem:
                code = run(tree, mutant.test)
                if code == PASSED:
                    problem = f"{mutant.test} passes with it"
                elif code != FAILED:
                    problem = f"{mutant.test} could not be run (exit code {code})"
                patch(tree, mutant, "--reverse")
            say(f"{mutant.name}: {problem or 'found'}")
            if problem:
                survived.append(mutant)
    say(f"{len(chosen) - len(survived)} of {len(chosen)} mutants found")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
