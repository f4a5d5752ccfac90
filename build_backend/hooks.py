"""The hooks of PEP 517 and PEP 660: setuptools, on a tree with one top-level package.

In a checkout the packages are folders at the top. Installed under those names, `client`, `server`
and `bench` would clash with a user's own modules: another program would run, without a word. So a
wheel is built from a copy of the tree in which every package is inside of `tradechat`, with its
imports rewritten and the entry points of pyproject.toml too. Which packages there are is said by
pyproject.toml and the tree alone. An editable install runs the checkout as it is; the source
distribution is the tree as it is, with this backend in it.

On Linux the modules that have two forms are compiled in that copy, so that the wheel is one for
this platform and this Python and has both; elsewhere, where only the client runs, it has one.
"""

import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, Final

from setuptools import build_meta, find_packages
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    prepare_metadata_for_build_editable,
)

from build_backend.compiled import compile_all
from build_backend.imports import CannotMove, move_cimports, move_imports
from libproto.form import STAMP

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

PACKAGE: Final = "tradechat"
"""The one top-level package of a wheel."""
PYPROJECT: Final = "pyproject.toml"
SETUP: Final = """\
from setuptools import Distribution, setup


class Compiled(Distribution):
    def has_ext_modules(self):  # they are compiled already
        return True


setup(distclass=Compiled)
"""
"""Tells setuptools that the wheel is for one platform."""

Settings = Mapping[str, str | list[str] | None]


def build_wheel(
    wheel_directory: str,
    config_settings: Settings | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the wheel of the tree in the working directory; the name of its file (PEP 517)."""
    target = os.path.abspath(wheel_directory)
    metadata = metadata_directory and os.path.abspath(metadata_directory)
    with _in_moved_tree() as root:
        if sys.platform == "linux":
            compile_all(root, packages_of(root), PACKAGE)
            shutil.rmtree(root / "build", ignore_errors=True)
            (root / "setup.py").write_text(SETUP, encoding="utf-8")
        return str(build_meta.build_wheel(target, config_settings, metadata))


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings | None = None
) -> str:
    """Write the metadata that the wheel will have; the name of its folder (PEP 517)."""
    target = os.path.abspath(metadata_directory)
    with _in_moved_tree():
        return str(build_meta.prepare_metadata_for_build_wheel(target, config_settings))


@contextmanager
def _in_moved_tree() -> Iterator[Path]:
    root = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="tradechat-build-") as folder:
        move_tree(root, Path(folder))
        with chdir(folder):
            yield Path(folder)


def packages_of(root: Path) -> list[str]:
    """The packages of the tree, dotted, as pyproject.toml has setuptools look for them."""
    project = tomllib.loads((root / PYPROJECT).read_text(encoding="utf-8"))
    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    return [str(name) for name in find_packages(str(root), include=include)]


def modules_of(root: Path, packages: list[str]) -> frozenset[str]:
    """Packages and modules, dotted."""
    return frozenset(packages) | {
        f"{package}.{path.stem}"
        for package in packages
        for path in (root / package.replace(".", "/")).glob("*.py")
    }


def move_tree(root: Path, target: Path) -> None:
    """Write what the wheel is built from into an empty folder: sources only, what was compiled in
    the tree stays there. CannotMove: see `move_imports`."""
    packages = packages_of(root)
    modules = modules_of(root, packages)
    for package in packages:
        source = root / package.replace(".", "/")
        inside = PACKAGE if package.partition(".")[0] != PACKAGE else ""
        folder = target / inside / package.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if path.suffix == ".py":
                moved = move_imports(path.read_bytes(), str(path), modules, PACKAGE)
                (folder / path.name).write_bytes(moved)
                shutil.copystat(path, folder / path.name)
            elif path.suffix == ".pxd":
                moved = move_cimports(path.read_bytes(), str(path), modules, PACKAGE)
                (folder / path.name).write_bytes(moved)
            elif path.is_file() and path.suffix != ".so" and path.name != STAMP:
                shutil.copy2(path, folder)
    text = (root / PYPROJECT).read_text(encoding="utf-8")
    project = tomllib.loads(text)
    (target / PYPROJECT).write_text(_move_references(text, project), encoding="utf-8")
    for name in (project["project"]["readme"], *project["project"]["license-files"]):
        shutil.copy2(root / name, target)


def _move_references(text: str, project: dict[str, Any]) -> str:
    """pyproject.toml, the objects that it names being in the one package."""
    named = {
        *project["project"]["scripts"].values(),
        project["tool"]["setuptools"]["dynamic"]["version"]["attr"],
    }
    for name in named:
        if name.partition(".")[0] == PACKAGE:
            continue
        if f'"{name}"' not in text:
            raise CannotMove(f'{PYPROJECT}: {name} must be written as "{name}"')
        text = text.replace(f'"{name}"', f'"{PACKAGE}.{name}"')
    return text
