"""The form of the compiled modules: which one is chosen, for which reason, and that it is in force.

Where a choice is made anew, it is made by a copy of libproto in a process of its own.
"""

import importlib
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import libproto
from build_backend.compiled import compile_all, extension, modules
from build_backend.hooks import packages_of
from libproto.form import FORM, STAMP, VARIABLE, read_stamp
from tests.helpers import form

ROOT = Path(libproto.__file__).resolve().parents[1]
TOLD = """
import libproto.framing
from libproto.form import FORM
print(libproto.framing.__file__, *FORM, sep="|")
"""
CHANGED = "sources changed since they were compiled"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of libproto, compiled; not to be changed."""
    root = tmp_path_factory.mktemp("compiled")
    shutil.copytree(
        ROOT / "libproto",
        root / "libproto",
        ignore=shutil.ignore_patterns("*.so", STAMP, "__pycache__"),
    )
    assert compile_all(root, ["libproto"]) == modules(root, ["libproto"])
    return root


@pytest.fixture
def copy(compiled: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(compiled / "libproto", tmp_path / "libproto")
    return tmp_path


def told(root: Path, **variables: str) -> tuple[str, ...]:
    """How a program there tells its form: `.so` or `.py`, the name, the reason, the advice."""
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", TOLD],
        cwd=root,
        env={**kept, "PYTHONPATH": str(root), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    file, *rest = done.stdout.rstrip("\n").split("|")
    assert Path(file).parent == root / "libproto"
    return Path(file).suffix, *rest


def test_what_was_compiled_runs_compiled(copy: Path) -> None:
    assert told(copy) == (".so", "compiled", "", "")


def test_it_is_interpreted_where_somebody_asks_for_it(copy: Path) -> None:
    for value, suffix in (("1", ".py"), ("no", ".py"), ("0", ".so"), ("", ".so")):
        found = told(copy, **{VARIABLE: value})
        assert found[0] == suffix, value
    assert told(copy, **{VARIABLE: "1"}) == (".py", "interpreted", f"{VARIABLE} is set", "")


@pytest.mark.parametrize("name", ["framing.py", "framing.pxd", "wire.pxd"])
def test_it_is_interpreted_once_a_source_has_changed(copy: Path, name: str) -> None:
    path = copy / "libproto" / name
    path.write_text(path.read_text() + "\n")
    assert told(copy) == (".py", "interpreted", CHANGED, "make install")


def test_it_is_interpreted_where_a_source_is_gone(copy: Path) -> None:
    (copy / "libproto/wire.pxd").unlink()
    assert told(copy) == (".py", "interpreted", CHANGED, "make install")


def test_it_is_interpreted_where_an_extension_is_gone(copy: Path) -> None:
    extension(copy / "libproto/framing.py").unlink()
    assert told(copy) == (".py", "interpreted", "not compiled", "make install")


def test_it_is_interpreted_where_it_was_compiled_for_another_python(copy: Path) -> None:
    """The extensions of this one lie there, too."""
    stamp = copy / "libproto" / STAMP
    stamp.write_text(stamp.read_text().replace(f"suffix {EXTENSION_SUFFIXES[0]}", "suffix .pyd"))
    assert told(copy) == (".py", "interpreted", "not compiled", "make install")


@pytest.mark.parametrize("text", ["", "nonsense\n", "suffix\nmodule\nsource\n", "\0"])
def test_a_stamp_that_says_nothing_fails_no_start(copy: Path, text: str) -> None:
    (copy / "libproto" / STAMP).write_text(text)
    for path in copy.glob("libproto/*.so"):
        path.unlink()
    assert told(copy)[1:] == ("interpreted", "not compiled", "make install")


def test_only_what_changed_is_compiled_again(copy: Path) -> None:
    framing = Path("libproto/framing.py")
    assert compile_all(copy, ["libproto"]) == []
    (copy / framing).write_text((copy / framing).read_text() + "ADDED = 1\n")
    assert framing in compile_all(copy, ["libproto"])
    assert told(copy)[0] == ".so"


def test_what_is_not_compiled_any_more_is_removed(copy: Path) -> None:
    framing = copy / "libproto/framing.py"
    framing.with_suffix(".pxd").unlink()
    compile_all(copy, ["libproto"])
    assert not extension(framing).exists()
    assert told(copy)[0] == ".py"


def test_an_interrupted_compilation_leaves_it_interpreted(copy: Path) -> None:
    """The extension of the old source is still there when the compiler fails at the new one."""
    framing = copy / "libproto/framing.py"
    source = framing.read_text()
    framing.write_text(source + "def broken() -> None:\n    return ]\n")
    with pytest.raises(Exception, match="framing"):
        compile_all(copy, ["libproto"])
    framing.write_text(source)
    assert told(copy)[:3] == (".py", "interpreted", CHANGED)


def test_the_modules_of_these_tests_have_the_form_that_was_asked_for() -> None:
    for module in modules(ROOT, packages_of(ROOT)):
        name = ".".join(module.with_suffix("").parts)
        file = importlib.import_module(name).__file__
        assert file is not None
        assert file.endswith(".so") == form.COMPILED, name
    assert (FORM.name == "compiled") == form.COMPILED


def test_the_form_is_chosen_before_any_module_that_has_two() -> None:
    """By whatever package is imported first."""
    chosen = f"{libproto.__name__}.form"
    for top in {module.parts[0] for module in modules(ROOT, packages_of(ROOT))}:
        program = f"import sys, {top}; raise SystemExit({chosen!r} not in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
        assert done.returncode == 0, top


def test_this_checkout_has_a_stamp_of_all_of_them() -> None:
    assert libproto.__file__ is not None
    stamp = read_stamp(str(Path(libproto.__file__).with_name(STAMP)))
    assert [Path(name) for name in stamp.modules] == modules(ROOT, packages_of(ROOT))
