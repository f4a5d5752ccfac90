"""The command line: `python -m tests.mutants [TEXT ...]` plants each bug in a copy of the tree.

The named test must pass without the patch and fail with it. Exit code 1 where one does not: the
test no longer finds its bug, or the patch no longer fits the code it was made for.

With --compiled the bug is planted in what is compiled, and compiled; the test runs in that form. A
test that counts stores has nothing to look at there: the crash images must find what it finds.
Bugs in sources that are not compiled are left out.
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


PYTEST = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=short")
IMAGES = ("-m", "tests.crash_images")
# Operations whose images are looked at, one after the other, until one shows the bug.
OPERATIONS = (
    "transfer",
    "send",
    "transfer-in-room",
    "board-add",
    "board-take",
    "room-set",
    "chat-delete",
    "withdraw",
    "waiting-deposit",
    "direct",
    "join",
    "leave",
    "login",
    "superseding-login",
    "logout",
)


def run(tree: Path, *arguments: str, compiled: bool = False) -> tuple[int, str]:
    """Python with these arguments, in that tree; answers its exit code, or that of the signal that
    ended it when its time was over, and what it said."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tree,
        env={
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "TRADECHAT_TESTS": "compiled" if compiled else "",
        },
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
    return process.returncode, output


def interpreted(tree: Path, mutant: Mutant) -> str:
    """Why the bug, which is planted, is not found; or nothing."""
    code, _ = run(tree, *PYTEST, mutant.test)
    return _unfound(mutant.test, code)


def _unfound(what: str, code: int) -> str:
    if code == FAILED:
        return ""
    return f"{what} passes with it" if code == PASSED else f"{what}: exit code {code}"


def compiled(tree: Path, mutant: Mutant) -> str:
    """The same in the compiled form."""
    code, output = run(tree, "-m", "build_backend")
    if code != PASSED:
        return f"it cannot be compiled: {output}"
    code, output = run(tree, *PYTEST, mutant.test, compiled=True)
    if " skipped" not in output or " passed" in output:
        return _unfound(mutant.test, code)
    for operation in OPERATIONS:
        code, _ = run(tree, *IMAGES, operation, compiled=True)
        if code != PASSED:
            return _unfound(f"{operation} by crash images", code)
    return "the crash images do not show it"


def is_compiled(mutant: Mutant) -> bool:
    """Is a source that it changes compiled?"""
    changed = [
        line.removeprefix("+++ b/")
        for line in mutant.path.read_text(encoding="utf-8").splitlines()
        if line.startswith("+++ b/")
    ]
    return any((ROOT / path).with_suffix(".pxd").is_file() for path in changed)


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
    parser.add_argument("--compiled", action="store_true", help="in the compiled form")
    options = parser.parse_args(arguments)
    chosen = [
        mutant
        for mutant in all_mutants()
        if (not options.text or any(text in mutant.name for text in options.text))
        and (not options.compiled or is_compiled(mutant))
    ]
    find = compiled if options.compiled else interpreted
    if not chosen:
        parser.error("there is no such mutant")
    survived = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        tests = sorted({mutant.test for mutant in chosen})
        code, _ = run(tree, *PYTEST, *tests, compiled=options.compiled)
        if code != PASSED:
            say("the tests do not pass without any mutant: nothing can be told")
            return 1
        for mutant in chosen:
            problem = patch(tree, mutant)
            if not problem:
                problem = find(tree, mutant)
                patch(tree, mutant, "--reverse")
            say(f"{mutant.name}: {problem or 'found'}")
            if problem:
                survived.append(mutant)
    say(f"{len(chosen) - len(survived)} of {len(chosen)} mutants found")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
