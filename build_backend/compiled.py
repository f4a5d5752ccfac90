"""Compiles the modules that have two forms (see libproto/form.py), in place.

A module is compiled if a `.pxd` of its name stands beside it. The module says what it does, in
Python; the `.pxd` says only which C types stand behind it. A `.pxd` that begins with TWIN says in C
what the Python beside it says: it is compiled into the modules that cimport it.

It is compiled anew when a source that was read for it has changed. Until all of them are, the stamp
says so, and modules are interpreted.
"""

import os
import re
import shlex
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from platform import python_version
from typing import Final

from libproto.form import STAMP, Stamp, digest, read_stamp

TWIN: Final = "# Twin of "
DIRECTIVES: Final = {"language_level": 3, "annotation_typing": False, "cdivision": True}
# No debugging information: it would name the folder of the build, and what is built twice from the
# same sources shall be the same. A number that is too narrow for what is done with it would be
# another number. The compiler does not know that no `with` of ours goes on after an error. What
# CFLAGS says in the environment comes last, and so counts.
FLAGS: Final = (
    *("-O2", "-g0", "-Werror=shift-count-overflow", "-Werror=overflow"),
    "-Wno-maybe-uninitialized",
    *shlex.split(os.environ.get("CFLAGS", "")),
)
UNFINISHED: Final = "--------"
"""The digest of a source that is still to be compiled."""
SUFFIX: Final = str(sysconfig.get_config_var("EXT_SUFFIX"))
CIMPORT: Final = re.compile(r"^from ([\w.]+) cimport (.+)$", re.MULTILINE)
"""The one way in which a `.pxd` names another one of ours."""


def declarations(root: Path, packages: Iterable[str]) -> list[Path]:
    """The `.pxd` files of the packages, relative to the root."""
    folders = {root / package.replace(".", "/") for package in packages}
    return sorted(path.relative_to(root) for folder in folders for path in folder.glob("*.pxd"))


def modules(root: Path, packages: Iterable[str]) -> list[Path]:
    """The modules that are to be compiled: paths of sources, relative to the root."""
    return [
        path.with_suffix(".py")
        for path in declarations(root, packages)
        if not (root / path).read_text(encoding="utf-8").startswith(TWIN)
    ]


def sources(root: Path, module: Path) -> set[Path]:
    """What is read when a module is compiled: its two files, and the `.pxd` files they lead to."""
    found = {module}
    ahead = [module.with_suffix(".pxd")]
    while ahead:
        path = ahead.pop()
        if path in found:
            continue
        found.add(path)
        for package, names in CIMPORT.findall((root / path).read_text(encoding="utf-8")):
            folder = Path(package.replace(".", "/"))
            below = [folder / f"{name.split()[0]}.pxd" for name in names.split(",")]
            named = folder.with_suffix(".pxd"), *below
            ahead += [each for each in named if (root / each).is_file()]
    return found


def compile_all(root: Path, packages: Iterable[str], into: str = "") -> list[Path]:
    """Compile what is not up to date; those modules, relative to the root.

    `into`: the package that all of them were moved into, which has the stamp then.
    """
    base = root / into
    stamp_path = base / "libproto" / STAMP
    old = read_stamp(str(stamp_path))
    read = {module: sources(root, module) for module in modules(root, packages)}
    every = sorted({path for each in read.values() for path in each})
    names = {path: (root / path).relative_to(base).as_posix() for path in every}
    digests = {path: digest(str(root / path)) for path in every}
    by = f"Python {python_version()}, Cython {version('cython')}, {' '.join(FLAGS)}"

    def stamp(unfinished: set[Path]) -> Stamp:
        found = (
            (names[path], UNFINISHED if path in unfinished else digests[path]) for path in every
        )
        return Stamp(SUFFIX, by, tuple(names[module] for module in read), tuple(found))

    new = stamp(set())
    same = set(old.sources) if (old.suffix, old.by) == (SUFFIX, by) else set()
    stale = [
        module
        for module, each in read.items()
        if not extension(root / module).is_file()
        or not {(names[path], digests[path]) for path in each} <= same
    ]
    for gone in set(old.modules) - set(new.modules):
        extension(base / gone).unlink(missing_ok=True)
    if stale:
        # Until all of them are there: what was compiled of an old source must not seem to be new.
        _write(stamp_path, stamp({path for module in stale for path in read[module]}))
        _compile(root, stale)
    if stale or new != old:
        _write(stamp_path, new)
    return stale


def extension(module: Path) -> Path:
    """Where the compiled form of a module is."""
    return module.with_name(module.stem + SUFFIX)


def _write(path: Path, stamp: Stamp) -> None:
    lines = [f"suffix {stamp.suffix}", f"by {stamp.by}"]
    lines += [f"module {module}" for module in stamp.modules]
    lines += [f"source {found} {source}" for source, found in stamp.sources]
    new = path.with_name(f"{path.name}.new")
    new.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    new.replace(path)


def _compile(root: Path, stale: list[Path]) -> None:
    """In processes of their own: Cython keeps what it has read, by names relative to the root."""
    processors = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(min(processors, len(stale)), get_context("fork")) as processes:
        list(processes.map(partial(_compile_one, root), stale))


def _compile_one(root: Path, module: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    os.chdir(root)
    name = ".".join(module.with_suffix("").parts)
    (made,) = cythonize(
        [Extension(name, [module.as_posix()], extra_compile_args=list(FLAGS))],
        build_dir="build/cython",
        compiler_directives=DIRECTIVES,
        force=True,  # what is stale is said by the stamp, and not by times
        quiet=True,
    )
    command = Distribution({"ext_modules": [made]}).get_command_obj("build_ext")
    command.inplace = True
    command.force = True
    command.build_temp = command.build_lib = "build/temp"
    command.ensure_finalized()
    command.run()
