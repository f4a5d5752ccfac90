"""Events of the log: every call has a short stable key that the table explains, and its level."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from server.documents.events import EVENTS

ROOT = Path(__file__).parents[3]
LEVELS = ("debug", "info", "warning", "error")
BY_NAME = {event.name: event for event in EVENTS}
ROOMS = (
    *("server/program.py", "server/child.py", "server/faults.py"),
    *("server/master", "server/worker", "server/journal", "server/archive"),
    "server/admin/web",
)
OF_LIBLOG = "log_lines_dropped"  # made without a logger


class Call(NamedTuple):
    """A call of a logger: where, its level, the event if it is a literal, the names of fields."""

    place: str
    level: str
    event: str
    fields: tuple[str | None, ...]


def calls(tree: ast.AST, place: str) -> Iterator[Call]:
    """The calls of `log` or `...log` in a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Name(id="log") | ast.Attribute(attr="log"), attr=level
                ),
                args=[first, *_],
                keywords=keywords,
            ) if level in LEVELS:
                event = first.value if isinstance(first, ast.Constant) else ""
                fields = tuple(keyword.arg for keyword in keywords)
                yield Call(f"{place}:{node.lineno}", level, str(event), fields)


def all_calls() -> list[Call]:
    found: list[Call] = []
    for room in ROOMS:
        path = ROOT / room
        for file in [path] if path.suffix else sorted(path.rglob("*.py")):
            found += calls(ast.parse(file.read_bytes()), str(file.relative_to(ROOT)))
    return found


CALLS = all_calls()


def test_calls_are_found() -> None:
    (call,) = calls(ast.parse("self.log.info('a_b', n=1, **more)"), "x")
    assert call == ("x:1", "info", "a_b", ("n", None))
    assert {call.place.partition(":")[0] for call in CALLS} >= {
        "server/program.py", "server/child.py",
        "server/journal/process.py", "server/archive/process.py",
        "server/master/supervisor.py", "server/worker/connection.py",
    }  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.place)
def test_every_event_is_a_short_stable_key_of_the_table(call: Call) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", call.event), "a key, not a sentence"
    assert call.event in BY_NAME, "the table of events has it"
    assert LEVELS.index(call.level) >= LEVELS.index(BY_NAME[call.event].level)
    assert "event" not in call.fields


def test_the_table_has_no_event_that_is_never_logged() -> None:
    assert BY_NAME.keys() - {call.event for call in CALLS} == {OF_LIBLOG}
    assert len(BY_NAME) == len(EVENTS)


def test_the_document_has_them_all() -> None:
    text = (ROOT / "docs" / "EVENTS.md").read_text(encoding="utf-8")
    for event in EVENTS:
        assert f"| `{event.name}` | {event.level} | {event.about} |" in text
