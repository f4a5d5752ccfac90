"""The distribution: its lock, what the wheel holds, and that it works away from the checkout.

The wheel is built from a copy of the working tree with the locked setuptools and without an index,
so the test needs no network and leaves the checkout alone. It is put into an environment of its
own, which borrows the dependencies from the one the tests run in.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from libproto import __version__

ROOT = Path(__file__).resolve().parents[1]
# Made by tools, or of another program: never part of the sources.
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "data", "docs"
)
TOP_LEVEL = {"libproto", "libcli", "libnet", "liblog", "server", "client", "bench", "tradechat"}
LIBRARIES = {"libproto", "libcli", "libnet", "liblog", "client", "tradechat"}
# A HEARTBEAT request, req_id 7.
FRAME = "4e530100002000000008000400000000000000000007c4d6e36100000000000000060a24181e4000"


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _listed_packages() -> set[str]:
    return set(_project()["tool"]["setuptools"]["packages"])


def _requirement_name(line: str) -> str:
    """The name at the start of a requirement, in the one spelling of all that stand for it."""
    match = re.match(r"[A-Za-z0-9._-]+", line)
    assert match is not None, line
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _locked() -> dict[str, list[str]]:
    """The requirements of both lock files: `name==version` by line, and the options after it."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "requirements").glob("*.txt")):
        text = re.sub(r"^ *#.*$", "", file.read_text(), flags=re.MULTILINE)
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip():
                requirement, *options = line.split()
                found[requirement] = options
    return found


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it as a user would who knows nothing of the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "tree", ignore=NOT_SOURCES)
    run = _run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"),
        *("--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist"),
        folder / "tree",
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with this wheel and the dependencies of the running one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    run = _run(
        *(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet"),
        *("--disable-pip-version-check", "--no-index", "--no-deps", wheel),
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr
    # Only now, or pip would find tradechat installed already. The .pth files of a folder that is
    # named in a .pth file are not read: the checkout, which one of them names, stays out of sight.
    (folder_of_packages,) = folder.glob("lib/python*/site-packages")
    borrowed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (folder_of_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder


def test_the_lock_is_versions_and_hashes_and_nothing_else() -> None:
    """No address of an index in it: where packages come from is for who installs them to say."""
    for requirement, options in _locked().items():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", requirement)
        assert options
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options)


def test_the_lock_holds_whatever_the_project_asks_for() -> None:
    project = _project()
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        asked += extra
    locked = {_requirement_name(requirement) for requirement in _locked()}
    assert {_requirement_name(requirement) for requirement in asked} - locked == set()


def test_every_package_of_the_tree_is_listed() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in TOP_LEVEL
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert _listed_packages() == found


def test_the_top_level_packages_are_these_seven() -> None:
    assert {name.partition(".")[0] for name in _listed_packages()} == TOP_LEVEL


def test_every_folder_of_tests_is_a_package() -> None:
    """tests/server would hide server otherwise, as pytest puts the first folder without an
    `__init__.py` above a test file on the module path.
    """
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def _contents(wheel: Path) -> set[str]:
    """The files in the wheel, but for its metadata."""
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


def test_the_wheel_holds_the_listed_packages_and_no_others(wheel: Path) -> None:
    folders = {name.rpartition("/")[0] for name in _contents(wheel)}
    assert {folder.replace("/", ".") for folder in folders} == _listed_packages()


def _is_measured(path: Path) -> bool:
    """A result of `make real-test` or `make compare`: kept in the tree, not packaged."""
    top, folder, *_ = path.relative_to(ROOT).parts
    return top == "bench" and re.match(r"(compared|results(-trial)?)(\.|$)", folder) is not None


def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    """What a module reads beside it (a template, `py.typed`) is in the wheel as well."""
    expected = {
        str(path.relative_to(ROOT))
        for top in TOP_LEVEL
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and not _is_measured(path)
    }
    assert _contents(wheel) == expected


def test_the_libraries_say_that_they_are_typed(wheel: Path) -> None:
    assert {f"{library}/py.typed" for library in LIBRARIES} <= _contents(wheel)


def test_the_wheel_carries_licence_and_version(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata_name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = archive.read(metadata_name).decode()
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    assert "\nLicense-Expression: MIT\n" in metadata
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata


def test_the_environment_runs_the_wheel(environment: Path, tmp_path: Path) -> None:
    """The fixture borrows dependencies only: each of our packages comes from the wheel."""
    for top in sorted(TOP_LEVEL):
        run = _run(
            environment / "bin/python", "-c", f"import {top}; print({top}.__file__)", cwd=tmp_path
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith(str(environment)), run.stdout


@pytest.mark.parametrize("command", sorted(_project()["project"]["scripts"]))
def test_a_command_tells_its_version(environment: Path, tmp_path: Path, command: str) -> None:
    run = _run(environment / "bin" / command, "--version", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"{command} {__version__}\n"


@pytest.mark.parametrize("command", sorted(_project()["project"]["scripts"]))
def test_a_command_explains_itself(environment: Path, tmp_path: Path, command: str) -> None:
    run = _run(environment / "bin" / command, "--help", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"usage: {command} ")
    assert "--version" in run.stdout


def test_a_frame_is_explained_away_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    run = _run(environment / "bin/python", "-m", "libproto", "decode", FRAME, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert "HEARTBEAT" in run.stdout
