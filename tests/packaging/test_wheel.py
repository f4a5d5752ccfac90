"""What is in the wheel: one top-level package, no name of another, the same from the sdist."""

import ast
import email
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from packaging.requirements import Requirement

from build_backend.hooks import PACKAGE, move_tree
from libproto import __version__
from tests.packaging.conftest import (
    BUILD_S,
    MOVED,
    ROOT,
    TOP_LEVEL,
    installed,
    listed_packages,
    run,
)
from tests.test_imports import ARROWS

CLIENT_HALF = {PACKAGE, "client", *ARROWS["client"]}


def test_the_top_level_packages_are_these_eight() -> None:
    assert {name.partition(".")[0] for name in listed_packages()} == TOP_LEVEL


def test_every_package_of_the_tree_is_found() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in TOP_LEVEL
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert listed_packages() == found


def test_every_folder_of_tests_is_a_package() -> None:
    """tests/server would hide server otherwise, as pytest puts the first folder without an
    `__init__.py` above a test file on the module path.
    """
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def _files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _contents(wheel: Path) -> set[str]:
    """The files in the wheel, but for its metadata."""
    return {name for name in _files(wheel) if ".dist-info/" not in name}


def _metadata(wheel: Path, name: str) -> str:
    (found,) = [data for path, data in _files(wheel).items() if path.endswith(f".dist-info/{name}")]
    return found.decode()


def _headers(wheel: Path) -> Message:
    return email.message_from_string(_metadata(wheel, "METADATA"))


def test_the_wheel_holds_one_top_level_package_and_no_other_name(wheel: Path) -> None:
    metadata = f"{PACKAGE}-{__version__}.dist-info"
    assert {name.partition("/")[0] for name in _files(wheel)} == {PACKAGE, metadata}
    assert _metadata(wheel, "top_level.txt").split() == [PACKAGE]


def test_the_wheel_holds_the_packages_of_the_tree_and_no_others(wheel: Path) -> None:
    folders = {name.rpartition("/")[0].replace("/", ".") for name in _contents(wheel)}
    assert folders == {installed(name) for name in listed_packages()}


def _is_measured(path: Path) -> bool:
    """A result of `make real-test` or `make compare`: kept in the tree, not packaged."""
    top, folder, *_ = path.relative_to(ROOT).parts
    return top == "bench" and re.match(r"(compared|results(-trial)?)(\.|$)", folder) is not None


def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    """What a module reads beside it (a template, `py.typed`) is in the wheel as well."""
    expected = {
        str(path.relative_to(ROOT) if top == PACKAGE else PACKAGE / path.relative_to(ROOT))
        for top in TOP_LEVEL
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__" and not _is_measured(path)
    }
    assert _contents(wheel) == expected


def test_the_package_says_that_it_is_typed(wheel: Path) -> None:
    assert f"{PACKAGE}/py.typed" in _contents(wheel)


def test_the_wheel_carries_licence_and_version(wheel: Path) -> None:
    assert any(name.endswith("/licenses/LICENSE") for name in _files(wheel))
    headers = _headers(wheel)
    assert headers["License-Expression"] == "MIT"
    assert headers["Version"] == __version__
    assert headers["Requires-Python"] == ">=3.11"


def _imported(source: bytes) -> Iterator[str]:
    """The top-level names that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def test_no_name_of_the_checkout_is_left_in_the_wheel(wheel: Path) -> None:
    left = [
        f"{path}: {name}"
        for path, source in _files(wheel).items()
        if path.endswith(".py")
        for name in _imported(source)
        if name in MOVED
    ]
    assert left == []


def test_no_command_of_the_wheel_names_a_module_of_the_checkout(wheel: Path) -> None:
    lines = _metadata(wheel, "entry_points.txt").splitlines()
    named = [line.partition(" = ")[2] for line in lines if " = " in line]
    assert len(named) == 4
    assert [name for name in named if not name.startswith(f"{PACKAGE}.")] == []


def test_a_checkout_has_the_same_commands(wheel: Path) -> None:
    """An editable install runs the modules where they are, so its entry points are others."""
    mine = {
        point.name: installed(point.value)
        for point in distribution(PACKAGE).entry_points
        if callable(point.load())
    }
    lines = _metadata(wheel, "entry_points.txt").splitlines()
    assert mine == dict(line.split(" = ") for line in lines if " = " in line)


def test_a_source_distribution_makes_the_same_wheel(
    wheel: Path, tree: Path, tmp_path: Path
) -> None:
    """It has the same backend, which builds from the same sources and says the same of them: to
    compile all of it once more would show nothing else."""

    def hook(name: str, cwd: Path) -> Path:
        """Call a hook of the backend, as a build frontend does: a new process in the tree."""
        call = f"import sys; from build_backend import hooks; print(hooks.{name}(sys.argv[1]))"
        done = run(sys.executable, "-c", call, tmp_path, cwd=cwd, timeout_s=BUILD_S)
        assert done.returncode == 0, done.stderr
        return tmp_path / done.stdout.splitlines()[-1]

    def sources(root: Path) -> dict[Path, bytes]:
        """What a wheel is built from in this tree, and the backend that does."""
        with TemporaryDirectory(dir=tmp_path) as folder:
            move_tree(root, Path(folder))
            return _read(Path(folder)) | _read(root / "build_backend")

    with tarfile.open(hook("build_sdist", tree)) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        archive.extractall(tmp_path / "unpacked", filter="data")
    folders = {name.partition("/")[0] for name in names if "/" in name}
    assert folders == TOP_LEVEL | {"build_backend", "tradechat.egg-info"}
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert sources(unpacked) == sources(tree)
    said = _read(hook("prepare_metadata_for_build_wheel", unpacked))
    for path in (Path("METADATA"), Path("entry_points.txt"), Path("top_level.txt")):
        assert said[path].decode() == _metadata(wheel, path.name)


def _read(folder: Path) -> dict[Path, bytes]:
    """The files below a folder, but for what Python has made of them."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def _asked(wheel: Path, platform: str) -> set[str]:
    """What an installation without extras asks for on a platform."""
    requirements = map(Requirement, _headers(wheel).get_all("Requires-Dist", []))
    return {
        each.name
        for each in requirements
        if not each.marker or each.marker.evaluate({"sys_platform": platform, "extra": ""})
    }


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_away_from_linux_only_what_the_client_imports_is_asked_for(
    wheel: Path, platform: str
) -> None:
    imported = {
        name
        for top in CLIENT_HALF
        for path in (ROOT / top).rglob("*.py")
        for name in _imported(path.read_bytes())
    }
    others = imported - sys.stdlib_module_names - TOP_LEVEL
    assert _asked(wheel, platform) == others
    assert others < _asked(wheel, "linux")
