"""Which form of our modules this process runs: compiled to machine code, or interpreted.

A module with a `.pxd` of its name beside it exists in both forms. What was compiled, and from which
sources, stands in STAMP; `build_backend/compiled.py` writes it. The form is chosen once, when
`libproto` is imported, and for all modules: every package that has modules with two forms imports
`libproto` before any of them. All or nothing, as compiled modules call each other in C: one that
was compiled with other sources than the others would read the wrong bytes.

A choice costs each start, so next to nothing is imported here; and it never fails one: where in
doubt, modules are interpreted.
"""

import os
import sys
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from typing import Final, NamedTuple
from zlib import crc32

COMPILED: Final = "compiled"
INTERPRETED: Final = "interpreted"
VARIABLE: Final = "TRADECHAT_PURE"
"""Set in the environment, and neither empty nor "0", it asks for INTERPRETED."""
STAMP: Final = "compiled.txt"
"""Beside this file, in lines: the `suffix` of extension modules; `by` what they were compiled; each
`module`; and each `source` that was read for one, behind its digest. Paths begin at the folder of
the packages."""

_LIBPROTO: Final = __name__.rpartition(".")[0]
_PACKAGES: Final = _LIBPROTO[: _LIBPROTO.rfind(".") + 1]  # what they were moved into, with a dot
_ADVICE: Final = "install tradechat anew" if _PACKAGES else "make install"


class Form(NamedTuple):
    """`reason` says why modules are interpreted, `advice` what to do about it; it is empty where
    somebody asked for it, and both are where they are compiled."""

    name: str
    reason: str = ""
    advice: str = ""


class Stamp(NamedTuple):
    """What STAMP says."""

    suffix: str = ""
    by: str = ""
    modules: tuple[str, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()
    """Each with its digest."""


def read_stamp(path: str) -> Stamp:
    """What a stamp says; an empty one where there is none, or none that can be read."""
    said: dict[str, list[str]] = {"suffix": [""], "by": [""], "module": [], "source": []}
    try:
        for line in _read(path).decode().splitlines():
            word, _, rest = line.partition(" ")
            said[word].append(rest)
    except (OSError, ValueError, KeyError):
        return Stamp()
    sources = tuple((line[9:], line[:8]) for line in said["source"])
    return Stamp(said["suffix"][-1], said["by"][-1], tuple(said["module"]), sources)


def digest(path: str) -> str:
    """CRC-32 of a file: it finds an edit, and is not there for one who hides it. OSError."""
    return f"{crc32(_read(path)):08x}"


def _read(path: str) -> bytes:
    """The bytes of a file; half of what `open` costs."""
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


class SourceFinder:
    """Finds modules by their sources only, though extension modules lie beside them."""

    def __init__(self, root: str, modules: tuple[str, ...]) -> None:
        """root: the folder of the packages. modules: paths of sources below it."""
        self._folders = {
            _PACKAGES + module.removesuffix(".py").replace("/", "."): os.path.dirname(
                os.path.join(root, module)
            )
            for module in modules
        }

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        del path, target
        folder = self._folders.get(name)
        if folder is None:
            return None
        return FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)


def _choose() -> Form:
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(here)
    stamp = read_stamp(os.path.join(here, STAMP))
    form = _form(root, stamp)
    if form.name == INTERPRETED and stamp.modules:
        sys.meta_path.insert(0, SourceFinder(root, stamp.modules))
    return form


def _form(root: str, stamp: Stamp) -> Form:
    if os.environ.get(VARIABLE, "") not in ("", "0"):
        return Form(INTERPRETED, f"{VARIABLE} is set")
    extensions = [f"{root}/{module.removesuffix('.py')}{stamp.suffix}" for module in stamp.modules]
    if stamp.suffix not in EXTENSION_SUFFIXES or not all(map(os.path.exists, extensions)):
        return Form(INTERPRETED, "not compiled", _ADVICE)
    try:
        if all(digest(f"{root}/{source}") == found for source, found in stamp.sources):
            return Form(COMPILED)
    except OSError:
        pass  # a source is gone, or hidden
    return Form(INTERPRETED, "sources changed since they were compiled", _ADVICE)


FORM: Final = _choose()
"""That of this process."""
