"""The wheel has every module that has two forms in both; it runs where there is no compiler, and
says so where it cannot run compiled.
"""

import json
import shutil
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

from build_backend.compiled import SUFFIX, declarations, modules
from build_backend.hooks import PACKAGE
from libproto import __version__
from libproto.form import STAMP, VARIABLE
from tests.helpers.server import RunningServer
from tests.packaging.conftest import MOVED, ROOT, listed_packages, run

NO_COMPILER = "/nonexistent"
CALLED = f"tradechat-server {__version__}"


def test_the_wheel_is_for_this_python_and_this_platform(wheel: Path) -> None:
    *_, python, abi, platform = wheel.stem.split("-")
    assert python == abi == f"cp{sysconfig.get_config_var('py_version_nodot')}"
    assert platform == sysconfig.get_platform().replace("-", "_").replace(".", "_")


def test_the_wheel_has_both_forms(wheel: Path) -> None:
    packages = listed_packages()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    compiled = {f"{PACKAGE}/{path.with_suffix('')}" for path in modules(ROOT, packages)}
    assert compiled
    for suffix in (".py", ".pxd", SUFFIX):
        assert {f"{name}{suffix}" for name in compiled} <= names
    assert {f"{PACKAGE}/{path}" for path in declarations(ROOT, packages)} <= names
    assert f"{PACKAGE}/libproto/{STAMP}" in names
    assert [name for name in names if name.endswith(".o") or "/build/" in name] == []


def test_declarations_name_modules_where_they_are(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {n: archive.read(n).decode() for n in archive.namelist() if n.endswith(".pxd")}
    cimports = [
        line
        for text in texts.values()
        for line in text.splitlines()
        if line.startswith(tuple(f"from {top}" for top in (*MOVED, PACKAGE)))
    ]
    assert cimports
    assert [line for line in cimports if not line.startswith(f"from {PACKAGE}.")] == []


def version_told(environment: Path, folder: Path, pure: str = "") -> str:
    """What `--version` tells with TRADECHAT_PURE set to `pure`."""
    done = run(
        *(environment / "bin/tradechat-server", "--version"),
        cwd=folder,
        variables={"PATH": NO_COMPILER, "PYTHONPATH": str(folder), VARIABLE: pure},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.rstrip("\n")


def events(environment: Path, folder: Path, pure: str = "") -> dict[str, dict[str, Any]]:
    """The log of a server that was started and stopped, by event."""

    class Installed(RunningServer):
        program = (str(environment / "bin/tradechat-server"),)

    Installed.folder = folder
    with Installed(
        folder / "data", PATH=NO_COMPILER, PYTHONPATH=str(folder), TRADECHAT_PURE=pure
    ) as server:
        assert server.stop() == 0, server.log_text()
        lines = map(json.loads, server.log_text().splitlines())
        return {line["event"]: line for line in lines}


def test_it_runs_compiled_where_there_is_no_compiler(environment: Path, tmp_path: Path) -> None:
    assert version_told(environment, tmp_path) == f"{CALLED} (compiled)"
    told = events(environment, tmp_path)
    assert "not_compiled" not in told
    assert told["serving"]["form"] == "compiled"


def test_it_runs_interpreted_where_somebody_asks_for_it(environment: Path, tmp_path: Path) -> None:
    assert version_told(environment, tmp_path, pure="1") == f"{CALLED} (interpreted)"
    told = events(environment, tmp_path, pure="1")
    assert "not_compiled" not in told
    assert "variable_passed_over" not in told
    assert told["serving"]["form"] == "interpreted"


@pytest.fixture
def copy(environment: Path, tmp_path: Path) -> Path:
    """A folder with the installed package, to be changed; it is found before the installed one."""
    (installed,) = environment.glob(f"lib/python*/site-packages/{PACKAGE}")
    shutil.copytree(installed, tmp_path / PACKAGE)
    return tmp_path


def test_it_runs_interpreted_and_says_so_without_its_extensions(
    environment: Path, copy: Path
) -> None:
    assert version_told(environment, copy) == f"{CALLED} (compiled)"
    for path in copy.rglob("*.so"):
        path.unlink()
    assert version_told(environment, copy) == f"{CALLED} (interpreted)"
    told = events(environment, copy)
    assert told["not_compiled"]["level"] == "warning"
    assert told["not_compiled"]["reason"] == "not compiled"
    assert told["not_compiled"]["advice"] == "install tradechat anew"
    assert told["serving"]["form"] == "interpreted"


def test_it_runs_interpreted_and_says_so_once_a_source_was_edited(
    environment: Path, copy: Path
) -> None:
    path = copy / PACKAGE / "libproto/framing.py"
    path.write_text(path.read_text() + "\n# edited\n")
    assert version_told(environment, copy) == f"{CALLED} (interpreted)"
    assert "changed" in events(environment, copy)["not_compiled"]["reason"]
