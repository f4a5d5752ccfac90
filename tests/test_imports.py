"""The import arrows: packages import downwards only, the lower ones keep clear of the outside, and
no modules import each other in a circle.

The check reads the sources and runs none of them, so it sees an import in a function, in a branch
for another platform or under TYPE_CHECKING as well. What is allowed is said by the tables below.
"""

import ast
from collections.abc import Collection, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Package -> those of our packages that its modules may import, beside its own.
ARROWS: dict[str, frozenset[str]] = {
    "libproto": frozenset(),
    "libcli": frozenset(),
    "liblog": frozenset(),
    "libnet": frozenset({"libproto"}),
    "client": frozenset({"libcli", "libnet", "libproto"}),
    "server": frozenset({"libcli", "libnet", "libproto", "liblog"}),
    "bench": frozenset({"client", "libcli", "libnet", "libproto"}),
    "tradechat": frozenset({"bench", "client", "libcli", "libproto", "server"}),
    "build_backend": frozenset({"libproto"}),
}
# Never to be imported by what is installed.
TESTS = "tests"

INPUT_OUTPUT = frozenset({"socket", "selectors", "ssl", "asyncio", "uvloop"})
CLOCK = frozenset({"time", "datetime"})
LOGGING = frozenset({"logging", "structlog", "liblog"})
# (Sub)package -> modules that nothing in it may import, and why.
FORBIDDEN: dict[str, frozenset[str]] = {
    # The wire is a function of bytes.
    "libproto": INPUT_OUTPUT | CLOCK | LOGGING,
    # Of the edge of a program: below everything, and for every program.
    "libcli": INPUT_OUTPUT | CLOCK | LOGGING,
    # The region and what happens in it depend on nothing else; the time comes in with each call.
    "server.region": INPUT_OUTPUT | CLOCK | LOGGING | {"libnet"},
    "server.core": INPUT_OUTPUT | CLOCK | LOGGING | {"libnet"},
    # What both clients have in common moves no bytes and keeps no time.
    "client.core": INPUT_OUTPUT | CLOCK | LOGGING | {"libnet"},
}

# Room of the server or the client -> those there that it may import, beside its own. The part of
# a room that has a row of its own stands before the room.
SETTINGS = frozenset({"server.config", "server.child", "server.early", "server.exits"})
REGION = frozenset({"server.region"})
CORE = REGION | {"server.core"}
EVENTS = REGION | {"server.core.errors", "server.core.outcomes", "server.core.room_bits"}
SENDERS = REGION | {
    "server.core.audience",
    "server.core.errors",
    "server.core.events",
    "server.core.outcomes",
    "server.core.room_bits",
    "server.core.session",
    "server.core.users",
}
ARCHIVE = CORE | SETTINGS | {"server.journal"}
SHELL = frozenset({"client.errors", "client.core", "client.base"})
FACADES = SHELL | {"client.io"}
SHOWN = frozenset({"client.errors", "client.amounts", "client.core", "client.terminal"})
ROOMS: dict[str, frozenset[str]] = {
    "client.errors": frozenset(),
    "client.amounts": frozenset(),
    "client.core": frozenset({"client.errors"}),
    "client.known": frozenset({"client.errors"}),
    "client.base": frozenset({"client.errors", "client.core", "client.known"}),
    "client.io": SHELL,
    "client.facades": frozenset({"client.core"}),
    "client.protocol": frozenset({"client.core"}),
    "client.reference": frozenset(
        {"client.base", "client.core", "client.errors", "client.facades"}
    ),
    "client.blocking": FACADES,
    "client.aio": FACADES,
    "client.terminal": SHOWN,
    "client.chat": SHOWN | {"client.aio"},
    "client.cli": SHOWN | {"client.aio", "client.blocking", "client.chat", "client.known"},
    "server.config": frozenset(),
    "server.early": frozenset(),
    "server.exits": frozenset(),
    "server.faults": frozenset({"server.early"}),
    "server.child": frozenset({"server.config", "server.early"}),
    "server.control": frozenset(),
    "server.handover": frozenset(),
    "server.region": frozenset(),
    "server.core.room_bits": REGION,
    "server.core.audience": REGION,
    "server.core.outcomes": REGION | {"server.core.errors", "server.core.session"},
    "server.core.events": EVENTS,
    "server.core.table": REGION,
    "server.core.rooms": REGION | {"server.core.errors", "server.core.table"},
    "server.core.deletions": REGION | {"server.core.errors"},
    "server.core.boards": REGION | {"server.core.errors", "server.core.rooms"},
    "server.core.blocks": REGION
    | {
        "server.core.errors",
        "server.core.log",
        "server.core.session",
        "server.core.table",
        "server.core.users",
    },
    "server.core.chat": SENDERS | {"server.core.rooms", "server.core.blocks"},
    "server.core.memberships": SENDERS | {"server.core.rooms"},
    "server.core": REGION,
    "server.journal": CORE | SETTINGS,
    "server.archive": ARCHIVE,
    # What the workers have of the files: the two channels, and what is said in them.
    "server.files.segments": REGION,
    "server.files.channel": frozenset(),
    "server.files.asked": frozenset(),
    "server.files.place": frozenset(),
    "server.files.contents": frozenset(),
    "server.files": ARCHIVE | {"server.archive.protocol", "server.files"},
    # Of the archive, workers take the questions and the client that asks them.
    "server.worker": CORE
    | SETTINGS
    | {
        "server.archive.protocol",
        "server.archive.client",
        "server.files.asked",
        "server.files.channel",
        "server.files.contents",
        "server.files.place",
        "server.files.segments",
        "server.control",
        "server.handover",
    },
    "server.master": ARCHIVE
    | {
        "server.admin.web.process",
        "server.archive",
        "server.control",
        "server.faults",
        "server.files",
        "server.handover",
        "server.worker",
    },
    "server.program": SETTINGS | {"server.master"},
    "server.admin.web.process": SETTINGS | REGION | {"server.admin.web", "server.admin.history"},
    "server.admin.web": CORE | {"server.admin"},
    "server.admin": ARCHIVE | {"server.archive", "server.control", "server.files"},
    "server.documents": ARCHIVE | {"server.archive", "server.admin"},
}


class Import(NamedTuple):
    """One imported module, by its absolute dotted name, and where."""

    name: str
    path: Path
    line: int


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """The absolute names a statement or a call imports; `package` is what relative ones start at.

    `from a import b` counts as `a` and `a.b`: the syntax does not tell a module from an attribute.
    """
    match node:
        case ast.Import(names=names):
            for alias in names:
                yield alias.name
        case ast.ImportFrom(module=module, names=names, level=level):
            base = module or ""
            if level:
                parts = package.split(".")
                above = parts[: len(parts) - (level - 1)]
                base = ".".join([*above, module] if module else above)
            yield base
            for alias in names:
                yield f"{base}.{alias.name}"
        case ast.Call(
            func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            yield name


@cache
def _importing(source: bytes) -> tuple[ast.AST, ...]:
    """The statements and calls of a module that may import; most modules are looked at again."""
    kinds = ast.Import, ast.ImportFrom, ast.Call
    return tuple(node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))


def imports(root: Path, package: str) -> Iterator[Import]:
    """Every import in the modules below this dotted package of the tree at `root`."""
    for path in sorted((root / package.replace(".", "/")).rglob("*.py")):
        holder = ".".join(path.relative_to(root).parent.parts)
        for node in _importing(path.read_bytes()):
            for name in _imported(node, holder):
                yield Import(name, path.relative_to(root), getattr(node, "lineno", 0))


def wrong_arrows(root: Path) -> list[str]:
    """Every import in the tree at `root` that the tables do not allow, as `path:line: message`."""
    wrong = []

    def refuse(found: Import, why: str) -> None:
        line = f"{found.path}:{found.line}: {why}"
        if line not in wrong:  # `from a import b` is two names
            wrong.append(line)

    ours = ARROWS.keys() | {TESTS}
    for package, allowed in ARROWS.items():
        for found in imports(root, package):
            top = found.name.partition(".")[0]
            if top in ours - allowed - {package}:
                refuse(found, f"{package} imports {top}")
    for package, forbidden in FORBIDDEN.items():
        for found in imports(root, package):
            for module in sorted(forbidden):
                if _is_in(found.name, module):
                    refuse(found, f"{package} imports {module}")
    for found in [*imports(root, "client"), *imports(root, "server")]:
        room = _room(".".join(found.path.with_suffix("").parts))
        if room is None or _room(found.name) is None:
            continue  # the program itself stands above all rooms
        allowed = ROOMS[room] | {room}
        # `from server.archive import client` counts as its package too, which says nothing yet.
        if not any(_is_in(found.name, each) or _is_in(each, found.name) for each in allowed):
            refuse(found, f"{room} imports {found.name}")
    return wrong


def _room(module: str) -> str | None:
    """The room of the server or the client that a module is in."""
    return next((room for room in ROOMS if _is_in(module, room)), None)


def _modules(root: Path) -> dict[str, Path]:
    """Every module of the tree, those of the tests too, by its dotted name; a package is one."""
    found = {}
    for package in (*ARROWS, TESTS):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imported_modules(path: Path, package: str, modules: Collection[str]) -> set[str]:
    """Those of the modules that a module names in its imports, at run time or for types only. That
    a package's `__init__` runs before its modules is no import of theirs."""
    found: set[str] = set()
    for node in _importing(path.read_bytes()):
        names = list(_imported(node, package))
        if isinstance(node, ast.ImportFrom):
            base, *below = names
            # The package itself is meant where what is taken of it is no module.
            names = [name if name in modules else base for name in below]
        found.update(name for name in names if name in modules)
    return found


def import_circle(root: Path) -> list[str]:
    """Modules of which each imports the next, and the last is the first; empty: there are none."""
    modules = _modules(root)
    graph = {
        name: _imported_modules(path, ".".join(path.relative_to(root).parent.parts), modules)
        for name, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]  # graphlib names a node before those that need it
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_circle(ROOT) == []


@pytest.mark.parametrize(
    "back",
    [
        "import server.core.planted",
        "from server.core import planted",
        "from server.core.planted import thing",
        "from ..core.planted import thing",
        "def late():\n    from server.core import planted",
        "if TYPE_CHECKING:\n    from server.core.planted import Thing",
        "import importlib\nimportlib.import_module('server.core.planted')",
    ],
)
def test_a_circle_is_found(tmp_path: Path, back: str) -> None:
    """Three modules: of one room, of another, and a package that gives the name of a module on."""
    _plant(tmp_path, "server/core/planted.py", "from server.region import Thing\n")
    _plant(tmp_path, "server/region/__init__.py", "from server.region.deep import Thing\n")
    _plant(tmp_path, "server/region/deep.py", f"{back}\n")
    circle = import_circle(tmp_path)
    assert set(circle) == {"server.core.planted", "server.region", "server.region.deep"}
    assert circle[0] == circle[-1]


def test_a_module_that_imports_itself_is_a_circle(tmp_path: Path) -> None:
    _plant(tmp_path, "libproto/planted.py", "import libproto.planted\n")
    assert import_circle(tmp_path) == ["libproto.planted", "libproto.planted"]


def test_what_is_no_circle(tmp_path: Path) -> None:
    """A package that exports what its modules have, and modules that use each other's downwards."""
    _plant(tmp_path, "server/core/planted.py", "from server.core import lower\nimport server\n")
    _plant(tmp_path, "server/core/lower.py", "import ast\n")
    (tmp_path / "server/core/__init__.py").write_text("from server.core.planted import thing\n")
    assert import_circle(tmp_path) == []


def test_the_arrows_of_the_tree() -> None:
    assert wrong_arrows(ROOT) == []


@pytest.mark.parametrize("package", sorted(ARROWS.keys() | FORBIDDEN.keys()))
def test_every_package_of_the_tables_has_modules(package: str) -> None:
    """A package that was renamed or moved would pass unseen otherwise."""
    assert (ROOT / package.replace(".", "/") / "__init__.py").is_file()
    assert any(imports(ROOT, package))


def test_every_package_of_the_tree_is_in_the_table() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found - {TESTS} == ARROWS.keys()


def _plant(root: Path, path: str, source: str) -> None:
    """A tree with a module of this source at this path, every package of the tables being there."""
    for package in ARROWS.keys() | FORBIDDEN.keys():
        folder = root / package.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(source)


UPWARDS = [
    (package, other)
    for package, allowed in ARROWS.items()
    for other in sorted((ARROWS.keys() | {TESTS}) - allowed - {package})
]
DOWNWARDS = [(package, other) for package, allowed in ARROWS.items() for other in sorted(allowed)]
KEPT_OUT = [(package, module) for package, names in FORBIDDEN.items() for module in sorted(names)]


@pytest.mark.parametrize(("package", "other"), UPWARDS)
def test_an_arrow_upwards_is_found(tmp_path: Path, package: str, other: str) -> None:
    _plant(tmp_path, f"{package}/planted.py", f"\nfrom {other}.part import thing\n")
    assert f"{package}/planted.py:2: {package} imports {other}" in wrong_arrows(tmp_path)


@pytest.mark.parametrize(("package", "other"), DOWNWARDS)
def test_an_arrow_downwards_is_allowed(tmp_path: Path, package: str, other: str) -> None:
    _plant(tmp_path, f"{package}/planted.py", f"import {other}.part\nimport {package}.part\n")
    assert wrong_arrows(tmp_path) == []


@pytest.mark.parametrize(("package", "module"), KEPT_OUT)
def test_a_forbidden_module_is_found(tmp_path: Path, package: str, module: str) -> None:
    path = f"{package.replace('.', '/')}/deep/planted.py"
    _plant(tmp_path, path, f"import {module}\n")
    assert f"{path}:1: {package} imports {module}" in wrong_arrows(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "import struct, time",
        "import time as clock",
        "from time import monotonic",
        "from time import (\n    monotonic,\n)",
        "def now():\n    import time",
        "if TYPE_CHECKING:\n    import time",
        "try:\n    import time\nexcept ImportError:\n    time = None",
        "import importlib\nimportlib.import_module('time')",
        "from importlib import import_module\nimport_module('time')",
        "__import__('time')",
    ],
)
def test_every_way_of_importing_is_seen(tmp_path: Path, source: str) -> None:
    _plant(tmp_path, "server/core/planted.py", source)
    assert [line.partition(": ")[2] for line in wrong_arrows(tmp_path)] == [
        "server.core imports time"
    ]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from server.worker.process import run", "server.worker.process"),
        ("from server import worker", "server.worker"),
        ("from .. import worker", "server.worker"),
        ("from ..worker import run", "server.worker"),
        ("import server.worker.process", "server.worker.process"),
    ],
)
def test_every_way_of_importing_a_room_is_seen(tmp_path: Path, source: str, name: str) -> None:
    _plant(tmp_path, "server/core/planted.py", source)
    assert wrong_arrows(tmp_path)[0] == f"server/core/planted.py:1: server.core imports {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_the_arrows_upwards_between_rooms_are_found(tmp_path: Path, room: str) -> None:
    """Each of them by itself, at its line."""
    allowed = ROOMS[room] | {room}
    others = [
        other
        for other in sorted(ROOMS)
        if not any(_is_in(each, other) or _is_in(other, each) for each in allowed)
    ]
    path = f"{room.replace('.', '/')}.py"
    if not (ROOT / path).is_file():
        path = f"{room.replace('.', '/')}/planted.py"
    _plant(tmp_path, path, "".join(f"from {other} import thing\n" for other in others))
    assert others
    assert {f"{path}:{n}: {room} imports {other}" for n, other in enumerate(others, 1)} <= set(
        wrong_arrows(tmp_path)
    )


def test_a_worker_takes_of_the_archive_its_questions_only(tmp_path: Path) -> None:
    source = "from server.archive import client, protocol\nfrom server.archive.store import Store\n"
    _plant(tmp_path, "server/worker/planted.py", source)
    assert wrong_arrows(tmp_path)[0] == (
        "server/worker/planted.py:2: server.worker imports server.archive.store"
    )


def test_every_module_of_the_server_and_the_client_is_in_a_room() -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("client", "server")
        for path in (ROOT / package).rglob("*.py")
    }
    outside = {name for name in modules if _room(name) is None}
    assert outside == {
        f"{package}.{name}" for package in ("client", "server") for name in ("__init__", "__main__")
    }


@pytest.mark.parametrize(
    "source",
    [
        "from . import ledger",
        "from .ledger import Ledger",
        "from server.region.locks import Locks",
        "from libproto.errors import Status",
        "import timeit_of_ours",  # a name that only begins like a forbidden one
    ],
)
def test_what_a_room_may_import(tmp_path: Path, source: str) -> None:
    _plant(tmp_path, "server/core/planted.py", source)
    assert wrong_arrows(tmp_path) == []
