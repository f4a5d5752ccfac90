"""The wheel of the working tree, an environment with it, and a user's folder full of our names.

The wheel is built from a copy of the tree with the locked setuptools and without an index, so the
tests need no network and leave the checkout alone. The environment borrows the dependencies from
the one that the tests run in. Both are made once for all processes of a run.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from build_backend.hooks import PACKAGE, packages_of

ROOT = Path(__file__).resolve().parents[2]
# Made by tools, or of another program: never part of the sources.
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "data", "docs"
)
TOP_LEVEL = {"libproto", "libcli", "libnet", "liblog", "server", "client", "bench", "tradechat"}
MOVED = sorted(TOP_LEVEL - {PACKAGE})
"""What are top-level packages in a checkout only."""


BUILD_S: Final = 800.0
"""At most: it compiles every module with two forms, which takes minutes beside other load."""
TIMEOUT_S: Final = BUILD_S + 100.0
"""Of a test here: the first one that asks for the wheel builds it, and the others wait for that."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Called with the tests of all folders."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def listed_packages() -> set[str]:
    """The packages as they are named in a checkout."""
    return set(packages_of(ROOT))


def installed(name: str) -> str:
    """How a module of the checkout is named where the wheel is installed."""
    return name if name.partition(".")[0] == PACKAGE else f"{PACKAGE}.{name}"


def run(
    *command: str | Path,
    cwd: Path,
    variables: Mapping[str, str] | None = None,
    timeout_s: float | None = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run it as a user would who knows nothing of the checkout.

    variables: further ones of its environment.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    kept["CFLAGS"] = "-O0"  # what is compiled here is tried, not measured: a third of the time
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills; the first process of this run that asks for it makes it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all processes of the run
    folder, done = base / name, base / f"{name}.done"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that has failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def build(tree: Path, folder: Path) -> Path:
    """Build the wheel of a tree or of a source distribution into the folder; its path."""
    done = run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"),
        *("--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, tree),
        cwd=folder,
        timeout_s=BUILD_S,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources; not to be changed."""

    def make(folder: Path) -> None:
        shutil.copytree(ROOT, folder, ignore=NOT_SOURCES, dirs_exist_ok=True)

    return made_once(tmp_path_factory, "tree", make)


@pytest.fixture(scope="session")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree as it is."""

    def make(folder: Path) -> None:
        build(tree, folder)

    (built,) = made_once(tmp_path_factory, "wheel", make).iterdir()
    return built


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with this wheel and the dependencies of the running one."""

    def make(folder: Path) -> None:
        venv.create(folder, symlinks=True, with_pip=False)
        done = run(
            *(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install"),
            *("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", wheel),
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        # Only now, or pip would find tradechat installed already. The .pth files of a folder that
        # is named in a .pth file are not read: the checkout, which one of them names, stays out of
        # sight.
        (packages,) = folder.glob("lib/python*/site-packages")
        borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")

    return made_once(tmp_path_factory, "environment", make)


def write_hostile(folder: Path) -> None:
    """Modules of a user's own, under each of the names that our packages have in a checkout."""
    complaint = 'raise RuntimeError(f"{__file__} of the user was taken for ours")\n'
    for number, name in enumerate(MOVED):
        if number % 2:
            (folder / f"{name}.py").write_text(complaint)
        else:
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(complaint)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of a user with such modules, to be the working directory and on PYTHONPATH."""
    folder = tmp_path / "user"
    folder.mkdir()
    write_hostile(folder)
    return folder
