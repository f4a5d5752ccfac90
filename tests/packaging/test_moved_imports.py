"""How imports are rewritten when the modules are moved, and which strings are refused."""

import json
import sys
from pathlib import Path

import pytest

from build_backend.hooks import PACKAGE, modules_of, packages_of
from build_backend.imports import CannotMove, move_cimports, move_imports
from tests.packaging.conftest import ROOT, run

MODULES = ("server", "server.admin", "server.admin.cli", "client", "client.core", "tradechat")


def moved(source: str) -> str:
    return move_imports(source.encode(), "planted.py", MODULES, PACKAGE).decode()


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("import server", "import tradechat.server as server"),
        ("import server as s", "import tradechat.server as s"),
        ("import server.admin as a", "import tradechat.server.admin as a"),
        (
            "import server.admin",
            "import tradechat.server.admin as server, tradechat.server as server",
        ),
        (
            "import os, server, client.core as c  # ä",
            "import os, tradechat.server as server, tradechat.client.core as c  # ä",
        ),
        ("from server import admin", "from tradechat.server import admin"),
        ("from client.core import *", "from tradechat.client.core import *"),
        ("from  \t client import core", "from  \t tradechat.client import core"),
        ("from \\\n  client import core", "from \\\n  tradechat.client import core"),
        (
            "from client import (  # ü\n    core as c,\n    Client,\n)\n",
            "from tradechat.client import (  # ü\n    core as c,\n    Client,\n)\n",
        ),
        ("ü = 1; import client", "ü = 1; import tradechat.client as client"),
        ("x = 'ü'; from client import core", "x = 'ü'; from tradechat.client import core"),
        (
            "if TYPE_CHECKING:\r\n    from server.admin import cli\r\n",
            "if TYPE_CHECKING:\r\n    from tradechat.server.admin import cli\r\n",
        ),
        (
            "try:\n    import client\nfinally:\n    from server import x",
            """try:\n    import tradechat.client as client
finally:\n    from tradechat.server import x""",
        ),
    ],
)
def test_an_import_is_rewritten(source: str, wanted: str) -> None:
    assert moved(source) == wanted


@pytest.mark.parametrize(
    "source",
    [
        "from . import server",
        "from .server import client",
        "from .. import client",
        "import servers, clientele",
        "from clientele import core",
        "from tradechat import Client",
        "import os.path as client",
        "server = client.server",
        '"""A docstring: import client; `python -m server`."""',
        "def f():\n    'python -m client'",
        "# import client",
        "text = 'an import of the client, from server to client'",
        "key = 'server.connections'",
        "kind = 'server', 'client'",
        "import_module(f'{__package__}.client')",
        "[sys.executable, '-m', server.__name__]",
    ],
)
def test_all_else_is_left_alone(source: str) -> None:
    assert moved(source) == source


BOUND = """
import json, runpy, sys, types
sys.path.insert(0, ".")
found = runpy.run_path("source.py").items()
print(json.dumps({k: v.__name__ for k, v in found if isinstance(v, types.ModuleType)}))
"""


def _bound(folder: Path, source: bytes) -> dict[str, str]:
    """The names that a source binds to modules `a`, `a.b`, `a.c` of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.py").write_bytes(source)
    done = run(sys.executable, "-c", BOUND, cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_what_is_rewritten_binds_the_same_names(tmp_path: Path) -> None:
    """Run, as no reading of a text shows what a name is bound to, or what was imported."""
    source = b"import a.b\nimport a.c as c\nfrom a import b as d\nx = a.b.__name__\n"
    for package in (tmp_path / "before/a", tmp_path / "after/into/a"):
        package.mkdir(parents=True)
        for name in ("__init__", "b", "c"):
            (package / f"{name}.py").touch()
    wanted = {"a": "a", "c": "a.c", "d": "a.b"}
    assert _bound(tmp_path / "before", source) == wanted
    source = move_imports(source, "source.py", ["a", "a.b", "a.c"], "into")
    found = _bound(tmp_path / "after", source)
    assert found == {name: f"into.{module}" for name, module in wanted.items()}


@pytest.mark.parametrize(
    "source",
    [
        "import_module('server')",
        "importlib.import_module('client.core')",
        "__import__('client')",
        "files('client')",
        "pkgutil.get_data('client', 'x.md')",
        "name = 'server.admin.cli'",
        "name = f'server.{x}'",
        "[sys.executable, '-m', 'server', '--port']",
        "run(python, '-m', 'client.core')",
        "print('run `python -m server` again')",
        "print(f'usage: python -m client {x}')",
        "[python, '-c', 'import client.core, sys']",
        "code = 'import sys; from client import core'",
        "code = '''\\\nimport os\nfrom server import admin\n'''",
    ],
)
def test_a_string_that_names_a_module_is_refused(source: str) -> None:
    with pytest.raises(CannotMove, match=r"^planted\.py:\d+: .* names a module of ours: make it"):
        moved(source)


def test_every_such_string_is_told_with_its_line() -> None:
    with pytest.raises(CannotMove) as refused:
        moved("import client\na = 'client.core'\n\nb = 'server.admin'\n")
    lines = str(refused.value).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["planted.py:2:", "planted.py:4:"]


@pytest.mark.parametrize("source", ["import client . core", "from client . core import x"])
def test_an_import_that_is_written_in_pieces_is_refused(source: str) -> None:
    with pytest.raises(
        CannotMove, match=r"^planted\.py:1: write the import of client\.core in one"
    ):
        moved(source)


def moved_declarations(source: str) -> str:
    return move_cimports(source.encode(), "planted.pxd", MODULES, PACKAGE).decode()


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (
            "from server.admin cimport cli, x\n",
            "from tradechat.server.admin cimport cli, x\n",
        ),
        (
            "cdef f():\n    from client.core import x\n",
            "cdef f():\n    from tradechat.client.core import x\n",
        ),
        ("# a\nfrom client cimport core", "# a\nfrom tradechat.client cimport core"),
        (
            "from libc.stdint cimport uint64_t\nfrom clientele cimport core\ncimport cython\n",
            "from libc.stdint cimport uint64_t\nfrom clientele cimport core\ncimport cython\n",
        ),
        ("cdef class server:\n    pass\n", "cdef class server:\n    pass\n"),
        ("from tradechat.client cimport core", "from tradechat.client cimport core"),
    ],
)
def test_a_cimport_is_rewritten(source: str, wanted: str) -> None:
    assert moved_declarations(source) == wanted


@pytest.mark.parametrize(
    "line",
    [
        "cimport client.core",
        "import client.core",
        "from client  cimport core",
        "from  client import core",
    ],
)
def test_a_cimport_in_another_form_is_refused(line: str) -> None:
    with pytest.raises(CannotMove, match=r"^planted\.pxd:2: write `from a\.b cimport c`"):
        moved_declarations(f"cimport cython\n{line}\n")


def test_the_modules_of_the_tree_can_be_moved() -> None:
    """As the build of the wheel says, but in a second."""
    packages = packages_of(ROOT)
    modules, refused = modules_of(ROOT, packages), []
    for package in packages:
        for path in sorted((ROOT / package.replace(".", "/")).glob("*.p[yx]*")):
            move = move_cimports if path.suffix == ".pxd" else move_imports
            try:
                move(path.read_bytes(), str(path.relative_to(ROOT)), modules, PACKAGE)
            except CannotMove as error:
                refused.append(str(error))
    assert refused == []
