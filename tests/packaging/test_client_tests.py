"""The tests of the client, run against the installed wheel.

They are moved as the packages are, so that they import `tradechat.client`; the servers and programs
that they start are the installed ones. A user's modules with our names are beside them.
`make installed` runs all of them. Without it the first of every sixth file stand for the rest, as
they all import and start the same things.
"""

import ast
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from build_backend.hooks import PACKAGE, modules_of, packages_of
from build_backend.imports import move_imports
from tests.helpers import leaks
from tests.packaging.conftest import ROOT, run

TESTS = ROOT / "tests"
ALL = os.environ.get("TRADECHAT_INSTALLED") == "all"
EVERY = 6
FIRST_OF_SOME_FILES = f"""
def pytest_collection_modifyitems(items):
    firsts = {{item.path: item for item in reversed(items)}}
    items[:] = [firsts[path] for path in sorted(firsts)[::{EVERY}]]
"""


def _needed() -> set[Path]:
    """The tests of the client, and the modules of tests/ that they import."""
    found: set[Path] = set()
    ahead = [*(TESTS / "client").glob("*.py"), TESTS / "conftest.py"]
    while ahead:
        path = ahead.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        ahead += [folder / "__init__.py" for folder in path.parents if folder.is_relative_to(TESTS)]
        for node in ast.walk(ast.parse(path.read_bytes())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}", *(f"{node.module}.{each.name}" for each in node.names)]
            ahead += [ROOT / f"{n.replace('.', '/')}.py" for n in names if n.startswith("tests.")]
    return found


def _move_tests(target: Path) -> None:
    """The tests, for packages that are inside of `tradechat`. CannotMove names what is not."""
    modules = modules_of(ROOT, packages_of(ROOT))
    for path in _needed():
        name = path.relative_to(ROOT)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        moved = move_imports(path.read_bytes(), str(name), modules, PACKAGE)
        (target / name).write_bytes(moved)
    shutil.copytree(TESTS / "data", target / "tests/data")
    shutil.copytree(ROOT / "examples", target / "examples")


@pytest.mark.timeout(0 if ALL else 1200)  # a run of many tests, on a machine that may be busy
def test_the_tests_of_the_client_pass(environment: Path, hostile: Path) -> None:
    _move_tests(hostile)
    shutil.copy2(ROOT / "pyproject.toml", hostile)
    options = ["-p", "no:cacheprovider", "-m", "not checkout", "-q"]
    if not ALL:
        (hostile / "first_of_some_files.py").write_text(FIRST_OF_SOME_FILES)
        options += ["-p", "first_of_some_files"]
    else:
        options += ["-n", str(len(os.sched_getaffinity(0))), "--dist=worksteal"]
    done = run(
        # Each of its processes is charged with what it leaves behind, and not this one with all.
        *("env", f"--unset={leaks.OWNER}", environment / "bin/python"),
        *("-m", "pytest", *options, "tests/client"),
        cwd=hostile,
        variables={"PYTHONPATH": str(hostile)},
        timeout_s=None,
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) passed", done.stdout)
    files = len(list((hostile / "tests/client").glob("test_*.py")))
    deselected = re.search(r"(\d+) deselected", done.stdout)  # of a checkout only
    assert found
    ran = int(found[1]) + (int(deselected[1]) if deselected else 0)
    assert ran >= (files if ALL else files // EVERY)
