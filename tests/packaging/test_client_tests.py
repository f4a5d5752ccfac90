"""The tests of the client, run against the installed wheel.

They are moved as the packages are, so that they import `tradechat.client`; the servers and programs
that they start are the installed ones. A user's modules with our names are beside them.
`make installed` runs all of them. Without it the first of each file stand for the rest, as they all
import and start the same things.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from build_backend.hooks import PACKAGE, modules_of, packages_of
from build_backend.imports import move_imports
from tests.packaging.conftest import ROOT, run

ROOMS = ("client", "data", "helpers", "libproto")
"""Of tests: those of the client, and what they use."""
ALL = os.environ.get("TRADECHAT_INSTALLED") == "all"
OF_EACH_FILE = 1
FIRST_OF_EACH_FILE = f"""
from collections import Counter

def pytest_collection_modifyitems(items):
    seen = Counter()
    for item in list(items):
        seen[item.path] += 1
        if seen[item.path] > {OF_EACH_FILE}:
            items.remove(item)
"""


def _move_tests(target: Path) -> None:
    """The tests, for packages that are inside of `tradechat`. CannotMove names what is not."""
    modules = modules_of(ROOT, packages_of(ROOT))
    source = ROOT / "tests"
    for path in [*source.glob("*.py"), *(p for room in ROOMS for p in (source / room).rglob("*"))]:
        moved = target / "tests" / path.relative_to(source)
        moved.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            if path.is_relative_to(source / "client") or not path.name.startswith("test_"):
                name = str(path.relative_to(ROOT))
                moved.write_bytes(move_imports(path.read_bytes(), name, modules, PACKAGE))
        elif path.is_file():
            shutil.copy2(path, moved)


def test_the_tests_of_the_client_pass(environment: Path, hostile: Path) -> None:
    _move_tests(hostile)
    shutil.copy2(ROOT / "pyproject.toml", hostile)
    options = ["-p", "no:cacheprovider", "-m", "not checkout", "-q"]
    if not ALL:
        (hostile / "first_of_each_file.py").write_text(FIRST_OF_EACH_FILE)
        options += ["-p", "first_of_each_file"]
    else:
        options += ["-n", str(len(os.sched_getaffinity(0))), "--dist=worksteal"]
    done = run(
        environment / "bin/python",
        *("-m", "pytest", *options, "tests/client"),
        cwd=hostile,
        variables={"PYTHONPATH": str(hostile)},
        timeout_s=None,
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) passed", done.stdout)
    files = len(list((hostile / "tests/client").glob("test_*.py")))
    assert found
    assert int(found[1]) >= files
