"""The prose of the real test's report: what the code says is there, and nothing else."""

import ast
from pathlib import Path

import pytest

from bench import realtest
from bench.realtest import prose
from bench.realtest.prose import say

SOURCES = sorted(Path(realtest.__path__[0]).glob("*.py"))


def _said(path: Path) -> dict[str, set[str]]:
    """The paragraphs that a module says, with the values it gives each."""
    return {
        str(ast.literal_eval(node.args[0])): {str(each.arg) for each in node.keywords}
        for node in ast.walk(ast.parse(path.read_bytes(), str(path)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say"
    }


def test_paragraphs_and_their_values_are_those_of_the_code() -> None:
    said = {name: values for path in SOURCES for name, values in _said(path).items()}
    assert said == {
        name: set(template.get_identifiers()) for name, template in prose._PARAGRAPHS.items()
    }


def test_a_value_that_is_missing_is_told() -> None:
    assert say("cores", cores=2, so="it is.").endswith("processes: it is.")
    with pytest.raises(KeyError):
        say("cores", cores=2)
    with pytest.raises(KeyError):
        say("no such paragraph")
