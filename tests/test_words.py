"""What people read is said in plain words: documents, help texts, errors and advice.

A row of WORDS is a pattern that must not occur, with what to write instead. It is for phrases that
are never right here; what depends on the sentence is for a reader to see.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.stress import options as bench
from build_backend.hooks import packages_of
from client.cli import options as cli
from server.admin import cli as admin
from server.config import sources as server

ROOT = Path(__file__).parent.parent

WORDS = {
    r"st(and|ands|ood|anding) still": "pauses, stops or does not respond: say which",
    r"least grave|graver": "minimum level; more severe",
    r"(?<!there )\bis no (amount|number|name|setting|address|file|user)\b": "is not a valid amount",
    r"is no (unit|part|sign) of": "says nothing about, carries no meaning for",
    r"holds? together": "is consistent",
    r"has gone|have gone before": "was removed, closed or has left: say which",
    r"goes on meanwhile": "keeps running, continues",
    r"money goes on": "payments continue",
    r"who (reads|reaches|asks|waits) (it|for|so)\b": "whoever reads it, anyone who can read it",
    r"is given up\b": "the master, or the program, gave up: say who",
    r"(that|which) owes an answer": "that has not answered",
    r"nothing can be said": "there is no result",
    r"\bkeeper process\b": "archive",
    r"begins anew from": "rebuilds it from",
}
# Where a text quotes one of them to say what it means.
QUOTED = {"docs/LAYOUT.md": "st(and|ands|ood|anding) still"}

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/man/*", "server/*/README.md", "deploy/*")
    for path in ROOT.glob(pattern)
    if path.is_file() and path.name != "CHANGELOG.md"
)
SAID = {"help", "advice", "reason", "description", "epilog", "about"}
"""Keywords whose texts people read."""


def check(where: str, text: str) -> list[str]:
    """What must not occur in it."""
    plain = " ".join(text.split())
    return [
        f"{where}: «{found[0]}»; write: {instead}"
        for pattern, instead in WORDS.items()
        if QUOTED.get(where) != pattern
        for found in re.finditer(pattern, plain)
    ]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """It and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents(path: Path) -> None:
    assert check(str(path.relative_to(ROOT)), path.read_text()) == []


def test_help() -> None:
    found = [
        each
        for made in (server.parser(), admin.parser(), cli.make_parser(), bench.parser())
        for parser in parsers(made)
        for each in check(f"{parser.prog} --help", parser.format_help())
    ]
    assert found == []


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The texts of errors and of the keywords in SAID, with their lines."""
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            parts = [*node.exc.args]
        elif isinstance(node, ast.Call):
            parts = [each.value for each in node.keywords if each.arg in SAID]
        for part in parts:
            words = [
                each.value
                for each in ast.walk(part)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            yield part.lineno, "".join(words)


def test_errors_and_advice() -> None:
    found = [
        each
        for package in packages_of(ROOT)
        for path in (ROOT / package.replace(".", "/")).glob("*.py")
        for line, text in texts(ast.parse(path.read_bytes()))
        for each in check(f"{path.relative_to(ROOT)}:{line}", text)
    ]
    assert found == []


def test_a_phrase_is_found_wherever_it_stands() -> None:
    assert check("a", "It is so that money\n  goes on.") == [
        "a: «money goes on»; write: payments continue"
    ]
    tree = ast.parse(
        'raise Error("x stands " f"still {y}")\nlog.error("e", advice="it holds together")'
    )
    assert [check("b", text) != [] for _, text in texts(tree)] == [True, True]
