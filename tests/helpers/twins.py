"""Twins in C (see CONTRIBUTING.md), made callable for tests that compare them with their Python."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from build_backend.compiled import compile_all

_ROOT: Final = Path(__file__).resolve().parents[2]


@contextmanager
def in_c(folder: Path, given_on: str, cimports: str) -> Iterator[Any]:
    """A module compiled in this empty folder, whose functions give twins on. given_on: its source.
    cimports: its `.pxd`."""
    for path in ("libproto", "bench/stress", "server/region"):
        for below in (*reversed(Path(path).parents), Path(path)):
            (folder / below).mkdir(exist_ok=True)
            if below != Path():
                (folder / below / "__init__.py").touch()
        for declaration in (_ROOT / path).glob("*.pxd"):
            shutil.copy(declaration, folder / path)
    package = folder / f"{folder.name}_in_c"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "all.py").write_text(given_on)
    (package / "all.pxd").write_text(cimports)
    compile_all(folder, [package.name])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module(f"{package.name}.all")
        for name in [name for name in sys.modules if name.startswith(package.name)]:
            del sys.modules[name]
