"""Moving modules into a package: their absolute imports rewritten, all else left byte for byte.

The places are those of the syntax tree, so an import in a function, under TYPE_CHECKING or in
brackets is found, and a text that only looks like one is left alone. After the move the names that
a module sees are the same: `import server` binds `server`, which now is `tradechat.server`.

What no rewriting could see is refused: a string that names one of the modules, for `import_module`,
`python -m` or a reader of package data. It would name nothing once the modules are moved, or a
module of the user's. Such a string is to be made from the `__name__` of a module.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

# Functions whose first argument is the name of a module.
_TAKE_A_MODULE = frozenset(
    {"__import__", "files", "find_spec", "get_data", "import_module", "run_module"}
)
_FROM = re.compile(rb"from(?:[ \t\f]|\\\r?\n)+")


class CannotMove(Exception):
    """A source would not mean the same once it is moved; the text has lines `path:line: why`."""


class _Edit(NamedTuple):
    start: int
    end: int
    text: bytes


def move_imports(source: bytes, path: str, modules: Iterable[str], into: str) -> bytes:
    """Return the source with the imports of the modules rewritten for their place in `into`.

    modules: the dotted names of all that are moved, packages and modules. `into`: the package that
    they are moved into; its own modules are named in full already. path: for messages.
    Raises CannotMove where a string names one of the modules, or an import has a form not known.
    """
    names = {name for name in modules if name.partition(".")[0] != into}
    tops = {name.partition(".")[0] for name in names}
    tree = ast.parse(source, path)
    if wrong := sorted(set(_naming_strings(tree, names, tops))):
        raise CannotMove("\n".join(f"{path}:{line}: {why}" for line, why in wrong))
    lines = source.splitlines(keepends=True)
    starts = [0]
    for each in lines:
        starts.append(starts[-1] + len(each))
    edits: list[_Edit] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in tops:
                    start = starts[alias.lineno - 1] + alias.col_offset
                    edits.append(_edit(source, path, start, alias.name, _import(alias, into)))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            name = node.module or ""  # which only a relative import leaves out
            if name.partition(".")[0] in tops:
                word = _FROM.match(source, starts[node.lineno - 1] + node.col_offset)
                start = word.end() if word else 0
                edits.append(_edit(source, path, start, name, f"{into}.{name}"))
    for edit in sorted(edits, reverse=True):
        source = source[: edit.start] + edit.text + source[edit.end :]
    return source


def move_cimports(source: bytes, path: str, modules: Iterable[str], into: str) -> bytes:
    """`move_imports` for the declarations of compiled modules (`.pxd`), which are no Python. They
    name modules of ours as `from a.b cimport c` or `from a.b import c` only, at the start of a line
    or indented; CannotMove where one does it in another way.
    """
    names = {name for name in modules if name.partition(".")[0] != into}
    tops = "|".join(sorted({re.escape(name.partition(".")[0]) for name in names}))
    known = re.compile(rf"^( *from )((?:{tops})(?:\.\w+)* c?import )".encode(), re.MULTILINE)
    other = re.compile(rf"^\s*(?:from|c?import)\s+(?:{tops})\b".encode())
    moved = known.sub(rf"\g<1>{into}.\g<2>".encode(), source)
    if wrong := [number for number, line in enumerate(moved.splitlines(), 1) if other.match(line)]:
        why = "write `from a.b cimport c`"
        raise CannotMove("\n".join(f"{path}:{line}: {why}" for line in wrong))
    return moved


def _import(alias: ast.alias, into: str) -> str:
    """What an imported name becomes; it binds the same name as before."""
    top = alias.name.partition(".")[0]
    if alias.asname:
        return f"{into}.{alias.name}"
    package = f"{into}.{top} as {top}"
    # `import a.b` imports both and binds `a`: the first name below is bound for an instant only.
    return package if alias.name == top else f"{into}.{alias.name} as {top}, {package}"


def _edit(source: bytes, path: str, start: int, name: str, new: str) -> _Edit:
    old = name.encode()
    if source[start : start + len(old)] != old:
        line = source.count(b"\n", 0, start) + 1
        raise CannotMove(f"{path}:{line}: write the import of {name} in one piece")
    return _Edit(start, start + len(old), new.encode())


def _naming_strings(tree: ast.AST, names: set[str], tops: set[str]) -> Iterator[tuple[int, str]]:
    """Line and complaint for each string that names a module, docstrings apart."""
    any_top = "|".join(sorted(map(re.escape, tops)))
    in_text = re.compile(
        rf"-m (?:{any_top})\b"
        rf"|(?:^|;)\s*(?:from (?:{any_top})[\w.]* import |import (?:{any_top})\b)",
        re.MULTILINE,
    )
    docstrings = set(_docstrings(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node not in docstrings and (
                ("." in node.value and node.value in names) or in_text.search(node.value)
            ):
                yield node.lineno, _complaint(node.value)
        elif isinstance(node, ast.JoinedStr):
            first = _text(node.values[0]) if node.values else ""
            if first.endswith(".") and first.partition(".")[0] in tops:
                yield node.lineno, _complaint(first)
        for argument in _module_arguments(node):
            if (text := _text(argument)).partition(".")[0] in tops:
                yield argument.lineno, _complaint(text)


def _module_arguments(node: ast.AST) -> Iterator[ast.expr]:
    """What a node takes for the name of a module: behind `"-m"`, or as an argument."""
    among: Sequence[ast.expr] = []
    if isinstance(node, ast.List | ast.Tuple):
        among = node.elts
    elif isinstance(node, ast.Call):
        among = node.args
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else _identifier(function)
        if called in _TAKE_A_MODULE:
            yield from node.args[:1]
    for first, second in pairwise(among):
        if _text(first) == "-m":
            yield second


def _identifier(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str:
    """The text of a literal string; empty for everything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant() as constant), *_]:
                    yield constant


def _complaint(text: str) -> str:
    return f"{text!r} names a module of ours: make it from the `__name__` of one (build_backend)"
