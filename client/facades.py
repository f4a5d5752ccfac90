"""The two clients, written from the one description of the calls: `python -m client.facades` writes
`blocking.py`, `aio.py` and `protocol.py` beside this file, `--check` says which of them is not what
it would write.

What differs between them is in the rows of `FACADES`; a method is made of the source of its
description: name, arguments, result and docstring.
"""

import argparse
import ast
import builtins
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from client.core import calls, files, login, numbers, paging
from libproto import messages

HERE = Path(__file__).parent
PACKAGE = calls.__name__.removesuffix(".core.calls")
PROGRAM = f"python -m {PACKAGE}.facades"
LINE_MAX = 100

SECTIONS: tuple[tuple[str, tuple[Callable[..., Any], ...]], ...] = (
    (
        "who one is",
        (login.register, login.login, login.change_password, calls.logout, calls.heartbeat),
    ),
    (
        "chat",
        (
            calls.join,
            calls.leave,
            calls.send,
            calls.delete,
            calls.history,
            calls.rooms,
            calls.members,
            calls.direct,
            calls.inbox_history,
            calls.lookup,
            calls.user_name,
        ),
    ),
    (
        "rooms with a name, and who may do what in them",
        (
            calls.open_room,
            calls.room_info,
            calls.set_room,
            calls.set_role,
            calls.invite,
            calls.kick,
            calls.ban,
            calls.mute,
            calls.pardon,
            calls.block,
            calls.unblock,
        ),
    ),
    (
        "boards: offers in a room that others can take; prices are in minor units (cents)",
        (calls.board_add, calls.board, calls.board_remove, calls.board_take),
    ),
    (
        "files, sent and fetched in parts, of any size",
        (files.send_file, files.fetch_file, calls.fetch_link),
    ),
    (
        "lists, read to their end in as many requests as it takes",
        (
            paging.iter_rooms,
            paging.iter_members,
            paging.iter_history,
            paging.iter_inbox,
            paging.iter_board,
            paging.iter_transactions,
        ),
    ),
    (
        "ledger: amounts are in minor units (cents)",
        (
            calls.deposit,
            calls.withdraw,
            calls.transfer,
            calls.transfer_in_room,
            numbers.retry,
            calls.balance,
            calls.transactions,
        ),
    ),
)
"""The methods, in their order."""

OUTCOMES = frozenset(each.__name__ for each in get_args(numbers.Outcome))
"""What those calls give whose requests may be repeated under their req_id."""
RESULTS = OUTCOMES | {"RoomInfo"}
"""What calls give that is described beside them."""

OF_FILES = frozenset({"FileFetched", "FileSent", "Progress", "Source", "Target"})
"""What the calls of files take and give that is described beside them."""
WAYS = {"login": "_run", "paging": "_turn_pages", "files": "_transfer"}
"""How the calls of a module are made; any other is one request."""

FILLED = {"core": "self._core", "numbers": "self._core.numbers", "client_time": "now_us()"}
"""Arguments of a description that no caller gives."""


@dataclass(frozen=True, slots=True)
class Facade:
    """What one of the two clients has of its own."""

    file: str
    name: str
    base: str
    home: str
    about: str
    define: str = "def"
    wait: str = ""
    iterator: str = "Generator[{}, None, None]"
    abstract: bool = False
    beside: str = ""  # members that are not described calls


FACADES = (
    Facade(
        "blocking.py",
        "Client",
        "BlockingBase",
        "io.blocking",
        """\
A blocking client; `with Client(...) as client` connects and closes.

Every method takes `timeout_s`, seconds, by default the client's own, and raises what
`client.errors` lists. Methods may be called from several threads; a second `connect`,
`register` or `login` while one is under way is a MisuseError, and so is a call from the
client's own thread; in a forked process it is a WrongPlace. `on_push` and `on_reconnect` are
plain functions, called in a thread of their own, and may make calls. A signal handler that
raises may come at any moment of a call:
the client is as it would be if the call had timed out.

Pushes wait for the program in at most `pushes_max_bytes`, and answers are not behind them: what
does not fit is dropped, and named by a RoomGap or a PaymentGap in its place.
""",
    ),
    Facade(
        "aio.py",
        "AsyncClient",
        "AsyncBase",
        "io.aio",
        """\
A client for asyncio; `async with AsyncClient(...) as client` connects and closes.

Every method takes `timeout_s`, seconds, by default the client's own, and raises what
`client.errors` lists. Calls of several tasks are pipelined; a second `connect`, `register` or
`login` while one is under way is a MisuseError, and a call from another event loop, in whatever
thread, is a WrongPlace. A call that is cancelled may have been executed: the CancelledError of
a numbered request has its `req_id`, for `retry`. `on_push` and
`on_reconnect` are called in the loop, and awaited if they are coroutine functions.

Pushes wait for the program in at most `pushes_max_bytes`, and answers are not behind them: what
does not fit is dropped, and named by a RoomGap or a PaymentGap in its place.
""",
        define="async def",
        wait="await ",
        iterator="AsyncGenerator[{}, None]",
    ),
    Facade(
        "protocol.py",
        "AnyClient",
        "Protocol",
        "typing",
        """\
What `Client` and `AsyncClient` have in common, for functions that take either.

A call gives its result, or with an AsyncClient what is to be awaited for it.
""",
        iterator="Items[{}]",
        abstract=True,
        beside="""\
    host: str
    port: int
    timeout_s: float

    def connect(self, *, timeout_s: float | None = None) -> Awaitable[None] | None:
        \"""Connect; again after a loss, too.\"""

    def close(self) -> Awaitable[None] | None:
        \"""Close the connection, and make no other.\"""

    def new_req_id(self) -> int:
        \"""A number for one numbered request, to be taken before the call.\"""

    @property
    def unanswered(self) -> tuple[Unanswered, ...]:
        \"""The numbered requests whose outcome this program was not given.\"""

    @property
    def connected(self) -> bool:
        \"""Whether there is a connection that can be used, as far as is known.\"""

    @property
    def client_id(self) -> int:
        \"""What this client's numbered requests are known by.\"""

    @property
    def user_id(self) -> int:
        \"""Of the last login; 0 before.\"""

    @property
    def username(self) -> str:
        \"""Of the last login; empty before.\"""

""",
    ),
)


def write(facade: Facade) -> str:
    """Return the source of a client."""
    body: list[str] = []
    names: set[str] = set()
    for title, functions in SECTIONS:
        body.append(_comment(f"---- {title}"))
        for function in functions:
            source = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
            assert isinstance(source, ast.FunctionDef)
            shown = [each for each in source.args.args if each.arg not in FILLED]
            for part in (*shown, *source.args.defaults, _result(source)):
                names |= {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}
            body.append(_method(facade, source, function.__module__.rpartition(".")[2]))
    imported = sorted((name for name in names if hasattr(messages, name)), key=_import_order)
    described = {"Once", "Outcome", "RoomRestarted", *RESULTS, *OF_FILES}
    assert names - set(imported) <= {*described, *vars(builtins)}
    head = [
        f'"""The calls of `{facade.name}`, written by `{PROGRAM}`.',
        "",
        "Change them where they are described: `client.core.calls`, `.files`, `.login`, `.paging`.",
        '"""',
        "",
        *(_PROTOCOL_IMPORTS if facade.abstract else _client_imports(facade)),
        *([] if facade.abstract else [f"from {PACKAGE}.{facade.home} import {facade.base}"]),
        f"from {messages.__name__} import (",
        *(f"    {name}," for name in imported),
        ")",
        "",
        "",
        f"class {facade.name}({facade.base}):",
        textwrap.indent(f'"""{facade.about}"""', "    "),
        "",
    ]
    return "\n".join([*head, facade.beside + "\n\n".join(body), ""])


_RESULTS_IMPORT = (
    f"from {PACKAGE}.core.calls import (",
    *(f"    {name}," for name in sorted(RESULTS)),
    ")",
)


_FILES_IMPORT = f"from {PACKAGE}.core.files import {', '.join(sorted(OF_FILES))}"


def _client_imports(facade: Facade) -> tuple[str, ...]:
    return (
        f"from collections.abc import {facade.iterator.partition('[')[0]}",
        "",
        f"from {PACKAGE}.base import now_us",
        f"from {PACKAGE}.core import calls, files, login, numbers, paging",
        *_RESULTS_IMPORT,
        _FILES_IMPORT,
        f"from {PACKAGE}.core.numbers import Outcome",
        f"from {PACKAGE}.core.once import Once",
        f"from {PACKAGE}.core.pushes import RoomRestarted",
    )


_PROTOCOL_IMPORTS = (
    "from collections.abc import Awaitable",
    "from typing import Protocol",
    "",
    *_RESULTS_IMPORT,
    _FILES_IMPORT,
    f"from {PACKAGE}.core.numbers import Outcome, Unanswered",
    f"from {PACKAGE}.core.once import Once",
    f"from {PACKAGE}.core.paging import Items",
    f"from {PACKAGE}.core.pushes import RoomRestarted",
)


def _import_order(name: str) -> tuple[bool, str]:
    return not name.isupper(), name


def _comment(text: str) -> str:
    return textwrap.indent(text, "    # ")


def _result(source: ast.FunctionDef) -> ast.expr:
    """What is inside of `Call[...]`, `Steps[...]` or `Pages[...]`."""
    assert isinstance(source.returns, ast.Subscript)
    return source.returns.slice


def _method(facade: Facade, source: ast.FunctionDef, module: str) -> str:
    defaults = [None] * (len(source.args.args) - len(source.args.defaults)) + source.args.defaults
    arguments, passed = ["self"], []
    for argument, default in zip(source.args.args, defaults, strict=True):
        passed.append(FILLED.get(argument.arg, argument.arg))
        if argument.arg not in FILLED:
            assert argument.annotation is not None
            written = f"{argument.arg}: {ast.unparse(argument.annotation)}"
            arguments.append(written + (f" = {_value(default)}" if default else ""))
    arguments.append("*")
    also = "timeout_s"
    if ast.unparse(_result(source)) in OUTCOMES:
        arguments += ["req_id: int | None = None", "possible_duplicate: bool = False"]
        also = "timeout_s, req_id, possible_duplicate"
    elif source.name == "retry":  # whose outcome is any of them
        also = "timeout_s, req_id, True"
    arguments.append("timeout_s: float | None = None")
    result = ast.unparse(_result(source))
    define, wait, does = facade.define, facade.wait, WAYS.get(module, "_call")
    if module == "paging":  # what it gives is iterated, not awaited
        result = facade.iterator.format(result)
        define, wait = "def", ""
    elif facade.abstract:
        result = f"Awaitable[{result}] | {result}"
    text = ast.get_docstring(source)
    assert text is not None
    call = f"{module}.{source.name}({', '.join(passed)})"
    start = ("" if result == "None" else "return ") + wait
    statements = [f"{start}self.{does}({call}, {also})"]
    if len(f"        {statements[0]}") > LINE_MAX:
        statements = [f"call = {call}", f"{start}self.{does}(call, {also})"]
    if facade.abstract:
        statements = []
    lines = [
        *_signature(f"{define} {source.name}", arguments, result),
        *textwrap.indent(f'"""{text}' + ('\n"""' if "\n" in text else '"""'), "    ").split("\n"),
        *(f"    {statement}" for statement in statements),
    ]
    return textwrap.indent("\n".join(lines), "    ")


def _value(default: ast.expr) -> str:
    """As the formatter of the project quotes it."""
    if isinstance(default, ast.Constant) and isinstance(default.value, str):
        return json.dumps(default.value)
    return ast.unparse(default)


def _signature(start: str, arguments: list[str], result: str) -> Iterator[str]:
    """As the formatter of the project breaks it."""
    inside, end = ", ".join(arguments), f") -> {result}:"
    if len(f"    {start}({inside}{end}") <= LINE_MAX:
        yield f"{start}({inside}{end}"
    elif len(f"        {inside}") <= LINE_MAX:
        yield from (f"{start}(", f"    {inside}", end)
    else:
        yield from (f"{start}(", *(f"    {argument}," for argument in arguments), end)


def main(arguments: list[str] | None = None) -> int:
    """Write the two files, or with --check say which is stale; answers the exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    stale = []
    for facade in FACADES:
        path, wanted = HERE / facade.file, write(facade)
        if options.check:
            if not path.exists() or path.read_text(encoding="utf-8") != wanted:
                stale.append(path.name)
        else:
            path.write_text(wanted, encoding="utf-8")
    if stale:
        sys.stderr.write(f"stale: {', '.join(stale)}: run `{PROGRAM}`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
