"""The reference of the library, from its docstrings: `python -m client.reference` writes
docs/CLIENT.md, and `--check` says whether it is what would be written.

`reference_template.md` has the prose. What a program imports is described in the sections of
`_reference`; a name that is exported and not described is an error.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

import client
from client import AsyncClient, AsyncEvents, Client, Event, Events, Push, errors, facades
from client.base import ClientBase
from client.core.numbers import Outcome

PROGRAM: Final = f"python -m {client.__name__}.reference"
ALIASES: Final[tuple[tuple[Any, str], ...]] = (
    (Event, "Event"),
    (Push, "Push"),
    (Outcome, "Outcome"),
)
_MODULE = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z_])")
_WIDTH = 100


def reference() -> str:
    """The document. AssertionError if something that is exported is not in it."""
    text = "\n".join(_reference())
    missing = [name for name in client.__all__ if not re.search(rf"\b{name}\b", text)]
    assert not missing, f"exported, and not described: {missing}"
    template = files(client.__name__).joinpath("reference_template.md")
    return Template(template.read_text(encoding="utf-8")).substitute(
        program=PROGRAM, reference=text.rstrip()
    )


def _reference() -> Iterator[str]:
    yield from _client(Client)
    yield from ("## AsyncClient", "", *_doc(AsyncClient), "")
    yield "Its methods are those of `Client`, awaited; `pushes` and the `iter_` methods give"
    yield "asynchronous generators, and `events` gives `AsyncEvents`. `AnyClient` is the protocol"
    yield from ("that both have in common, for functions that take either.", "")
    yield from _class(client.RetryPolicy, "## ")
    for kind in (Events, AsyncEvents):
        yield from _class(kind, "## ")
        yield from _members(kind, lambda name: not name.startswith("_"))
    yield from ("## What comes unasked", "")
    yield "`Event` is any of these, `Push` any but `Disconnected` and `Reconnected`."
    yield ""
    for event in Event.__args__:
        yield from _tuple(event)
    yield from ("## What an event of a room says", "")
    yield from _function("read_event", client.read_event)
    yield from ("`RoomEvent` is any of these.", "")
    for said in client.RoomEvent.__args__:
        yield from _tuple(said)
    yield from ("## What calls answer", "")
    outcomes = [each.__name__ for each in Outcome.__args__]
    answers = (*outcomes, "Unanswered", "RoomInfo")
    wire = sorted(
        name for name in client.__all__ if name.endswith("Response") or name in _WIRE_ITEMS
    )
    yield f"`Outcome` is any of the first {len(outcomes)}."
    yield ""
    for name in (*answers, *wire):
        yield from _tuple(getattr(client, name))
    yield from ("## Names of numbers", "")
    for name in ("EventKind", "RoomAccess", "RoomRole", "TxnKind", "State", "Status", "Opcode"):
        values = ", ".join(f"`{each.name}` {int(each)}" for each in getattr(client, name))
        yield from (f"- `{name}`: {values}", "")
    yield from ("## Amounts", "")
    for name in ("parse_amount", "format_amount"):
        yield from _function(name, getattr(client, name))
    yield "`AmountError` is raised for what is not an amount. `AMOUNT_MAX` is the greatest, in"
    yield f"minor units, and `DECIMALS`, {client.DECIMALS}, is how many digits these are."
    yield from ("", "## Exceptions", "", *(errors.__doc__ or "").split("\n"))
    for error in _raised():
        yield from _class(error, "### ")


_WIRE_ITEMS: Final = frozenset({"BoardEntry", "Member", "RoomEntry", "Transaction"})


def _raised() -> list[type]:
    found = [value for value in map(vars(client).get, client.__all__) if inspect.isclass(value)]
    return [kind for kind in found if issubclass(kind, client.ClientError)]


def _client(kind: type) -> Iterator[str]:
    described = {f.__name__ for _, functions in facades.SECTIONS for f in functions}
    yield from (f"## {kind.__name__}", "", *_doc(kind), "")
    yield from _function(kind.__name__, vars(ClientBase)["__init__"])
    own = [name for name in dir(kind) if not name.startswith("_") and name not in described]
    yield from ("### Connecting, events, and what is known", "")
    yield from _members(kind, own.__contains__)
    for title, functions in facades.SECTIONS:
        yield from (f"### {title[0].upper()}{title[1:]}", "")
        for function in functions:
            yield from _function(function.__name__, getattr(kind, function.__name__))


def _members(kind: type, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Methods first, then the properties, by name."""
    names = [name for name in dir(kind) if wanted(name) and not name.startswith("_")]
    for name in names:
        if inspect.isfunction(getattr(kind, name)):
            yield from _function(name, getattr(kind, name))
    for name in names:
        member = getattr(kind, name)
        if isinstance(member, property) and member.fget is not None:
            shown = _annotation(inspect.signature(member.fget).return_annotation)
            yield from (f"**`{name}`** `: {shown}`", "", *_doc(member), "")


def _function(name: str, function: Callable[..., Any]) -> Iterator[str]:
    yield from (f"#### `{name}`", "")
    yield from ("```python", *_signature(name, function), "```", "", *_doc(function), "")


def _signature(name: str, function: Callable[..., Any]) -> Iterator[str]:
    signature = inspect.signature(function)
    shown, keyword_only = [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            shown.append("*")
        text = f"{parameter.name}: {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}"
        shown.append(text)
    gives = signature.return_annotation
    end = ")" if gives in (None, signature.empty) else f") -> {_annotation(gives)}"
    line = f"{name}({', '.join(shown)}{end}"
    if len(line) <= _WIDTH:
        yield line
    else:
        yield from (f"{name}(", *(f"    {each}," for each in shown), end)


def _annotation(annotation: Any) -> str:
    shown = _MODULE.sub("", inspect.formatannotation(annotation))
    for alias, name in ALIASES:
        shown = shown.replace(_MODULE.sub("", inspect.formatannotation(alias)), name)
    return shown


def _class(kind: type, level: str) -> Iterator[str]:
    names = [base.__name__ for base in kind.__bases__ if base is not object]
    bases = ", ".join(f"`{name}`" for name in names if not name.startswith("_"))
    yield f"{level}`{kind.__name__}`" + (f" ({bases})" if bases else "")
    yield from ("", *_doc(kind), "")


def _tuple(kind: Any) -> Iterator[str]:
    """A NamedTuple: its fields, and what it is where it says that."""
    fields = ", ".join(kind._fields) or "nothing"
    yield from (f"**`{kind.__name__}`** `({fields})`", "")
    text = inspect.getdoc(kind) or ""
    if text and not text.startswith(f"{kind.__name__}("):
        yield from (text, "")


def _doc(what: Any) -> list[str]:
    text = inspect.getdoc(what)
    assert text, f"{what} has no docstring"
    return text.split("\n")


def main(arguments: list[str] | None = None) -> int:
    """Write the document, or with --check say whether it is stale; answers the exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="The reference of the library.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--output", type=Path, default=Path("docs/CLIENT.md"), metavar="PATH")
    options = parser.parse_args(arguments)
    path: Path = options.output
    text = reference()
    try:
        if not options.check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{path} is not what the docstrings say: run `{PROGRAM}`\n")
            return 1
    except OSError as error:
        parser.error(f"{path}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
