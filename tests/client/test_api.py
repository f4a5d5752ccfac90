"""What a program imports, what it may pass, and what its type checker says."""

import asyncio
import functools
import inspect
import os
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import client
import tradechat
from client import AsyncClient, BadArgument, Client, ClientError, MisuseError, NotLoggedIn, errors
from libproto import errors as wire_errors
from libproto.messages import Opcode
from tests.client.peer import PASSWORD, USERNAME, serving
from tests.client.relay import Relay
from tests.helpers.server import RunningServer, wait_until

ROOT = Path(__file__).resolve().parents[2]


# --- one import


def test_everything_is_there_and_sorted() -> None:
    assert len(set(client.__all__)) == len(client.__all__)
    assert all(hasattr(client, name) for name in client.__all__)
    assert set(client.__all__) <= set(dir(tradechat))


def test_every_exception_is_exported_and_of_one_tree() -> None:
    raised = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and issubclass(value, BaseException)
        and value.__module__ == errors.__name__
    }
    assert raised <= set(client.__all__)
    assert all(issubclass(getattr(client, name), ClientError) for name in raised)
    assert issubclass(MisuseError, wire_errors.MisuseError | ValueError)
    assert errors.__doc__ is not None
    assert [name for name in raised if name not in errors.__doc__] == []


def _classes(annotation: Any) -> set[type]:
    found = (
        {annotation} if inspect.isclass(annotation) and not typing.get_args(annotation) else set()
    )
    for argument in typing.get_args(annotation):
        found |= _classes(argument)
    return found


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_every_type_of_the_clients_is_exported(kind: type) -> None:
    """What a call answers, what is pushed, and what a property is."""
    types: set[type] = _classes(client.Push)
    for name in dir(kind):
        member = getattr(kind, name)
        function = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and inspect.isfunction(function):
            types |= _classes(typing.get_type_hints(function).get("return"))
    packages = client.__name__, wire_errors.__name__.removesuffix(".errors")
    ours = {each for each in types if each.__module__.startswith(packages)}
    assert ours
    assert {each.__name__ for each in ours} <= set(client.__all__)


def test_every_error_can_be_pickled() -> None:
    """Programs hand them between processes."""
    made = [
        BadArgument("amount", -1, "minor units"),
        errors.ReqIdTaken("no", 7),
        errors.CallTimeout("late", 7, Opcode.DEPOSIT),
        errors.ConnectionLost("gone", (1, 2)),
        errors.ServerBusy("full", 100, 3),
        errors.BadUrl("url", None, "it names no host"),
    ]
    for error in made:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert (type(again), str(again), again.req_id) == (type(error), str(error), error.req_id)


# --- arguments


CALLS: list[tuple[str, tuple[Any, ...], str, str]] = [
    ("deposit", (12.5,), "amount", "minor units"),
    ("deposit", (-1,), "amount", "minor units"),
    ("deposit", (True,), "amount", "minor units"),
    ("deposit", ("5",), "amount", "minor units"),
    ("deposit", (2**64,), "amount", "minor units"),
    ("withdraw", (None,), "amount", "minor units"),
    ("transfer", ("bob", 1), "to_user", "lookup()"),
    ("transfer", (2**32, 1), "to_user", "user_id"),
    ("transfer", (1, 0.01), "amount", "minor units"),
    ("send", (1, b"x"), "message", "str"),
    ("send", (1, "\ud800"), "message", "surrogate"),
    ("send", (1, "x" * 65536), "message", "65535 bytes"),
    ("send", ("1", "x"), "room_id", "number of a room"),
    ("join", (-1,), "room_id", "number of a room"),
    ("join", (1.0,), "room_id", "number of a room"),
    ("history", (1, -1), "after_seq", "number of the history"),
    ("history", (1, 0, 2**16), "limit", "items"),
    ("direct", ("bob", "hi"), "to_user", "user_id"),
    ("lookup", (7,), "username", "str"),
    ("user_name", ("bob",), "user_id", "user_id"),
    ("transactions", (None,), "before_txn_id", "number of the history"),
    ("login", ("ann", b"secret"), "password", "str"),
    ("login", ("a b", "secret"), "username", "1 to 32"),
    ("register", ("ann", None), "password", "str"),
]


def _refused(client: Client | AsyncClient, name: str, *args: Any, **options: Any) -> BadArgument:
    async def call() -> None:
        done = getattr(client, name)(*args, **options)
        if inspect.isawaitable(done):
            await done

    with pytest.raises(BadArgument) as caught:
        asyncio.run(call())
    return caught.value


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(("name", "args", "argument", "unit"), CALLS)
def test_a_bad_argument_is_named(
    kind: type[Client | AsyncClient], name: str, args: tuple[Any, ...], argument: str, unit: str
) -> None:
    error = _refused(kind(), name, *args)
    assert error.argument == argument
    assert str(error).startswith(f"{argument}=")
    assert unit in str(error)
    assert "secret" not in str(error)


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"timeout_s": True}, "seconds"),
    ({"timeout_s": float("nan")}, "seconds"),
    ({"timeout_s": "5"}, "seconds"),
    ({"timeout_s": -1}, "seconds"),
    ({"timeout_s": 10**400}, "seconds"),
    ({"port": 70000}, "from 1 to 65535"),
    ({"port": 0}, "from 1 to 65535"),
    ({"port": "7878"}, "from 1 to 65535"),
    ({"host": ""}, "address"),
    ({"host": 7}, "address"),
    ({"host": "127.0.0.1:7878"}, "without a port"),
    ({"host": "[::1]"}, "without a port, brackets"),
    ({"host": "alice@127.0.0.1"}, "tradechat://"),
    ({"host": "tradechat:/127.0.0.1"}, "tradechat://"),
    ({"host": "127.0.0.1 "}, "blanks"),
    ({"client_id": -1}, "id"),
    ({"client_id": True}, "id"),
    ({"next_req_id": 0}, "req_id"),
    ({"keep_next_req_id": 3}, "function"),
    ({"payments": 1}, "True or False"),
    ({"reconnect": "yes"}, "True or False"),
    ({"username": "a b"}, "1 to 32"),
    ({"retry": 5}, "RetryPolicy"),
    ({"client_name": "x" * 65}, "64 bytes"),
    ({"on_push": 3}, "function"),
    ({"on_reconnect": "f"}, "function"),
]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(("settings", "unit"), SETTINGS)
def test_a_bad_setting_is_named(
    kind: type[Client | AsyncClient], settings: dict[str, Any], unit: str
) -> None:
    with pytest.raises(BadArgument) as caught:
        kind(**settings)
    [argument] = settings
    assert caught.value.argument == argument
    assert unit in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "a.example.", "127.0.0.1", "::1", "fe80::1%lo"])
def test_what_may_be_a_host_is_taken(host: str) -> None:
    assert Client(host).host == host


class _Awaited:
    async def __call__(self, _: object) -> None: ...


@pytest.mark.parametrize("argument", ["on_push", "on_reconnect"])
@pytest.mark.parametrize(
    "callback",
    [_Awaited().__call__, functools.partial(_Awaited().__call__), _Awaited()],
    ids=["function", "partial", "object"],
)
def test_an_async_callback_of_the_blocking_client_is_refused(argument: str, callback: Any) -> None:
    """It would never be awaited; AsyncClient takes it."""
    settings: dict[str, Any] = {argument: callback}
    with pytest.raises(BadArgument, match="only AsyncClient awaits") as caught:
        Client(**settings)
    assert caught.value.argument == argument
    AsyncClient(**settings)


class _Unshown:
    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("value", [10**5000, _Unshown()], ids=["number", "repr"])
def test_a_bad_argument_that_cannot_be_shown_is_named(value: Any) -> None:
    error = _refused(Client(), "deposit", value)
    assert str(error).startswith(f"amount=(cannot be shown) ({type(value).__name__}): it takes ")


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"req_id": 0}, "req_id"),
        ({"req_id": True}, "req_id"),
        ({"req_id": 2**63}, "req_id"),
        ({"req_id": "7"}, "req_id"),
        ({"possible_duplicate": 1}, "possible_duplicate"),
        ({"timeout_s": "1"}, "timeout_s"),
    ],
)
def test_bad_options_of_a_ledger_request(options: dict[str, Any], argument: str) -> None:
    def script(wire: Any) -> None:
        wire.log_in()
        assert wire.wait_closed() == []

    with serving(script) as port, Client(port=port) as ann:
        ann.login(USERNAME, PASSWORD)
        assert _refused(ann, "deposit", 5, **options).argument == argument
        assert ann.unanswered == ()
        assert ann.next_req_id == 1


def test_a_call_before_the_login_sends_nothing() -> None:
    def script(wire: Any) -> None:
        assert wire.wait_closed() == []

    calls: list[Callable[[Client], object]] = [
        lambda ann: ann.deposit(1),
        lambda ann: ann.join(1),
        lambda ann: ann.balance(),
    ]
    with serving(script) as port, Client(port=port) as ann:
        for call in calls:
            with pytest.raises(NotLoggedIn, match="log in first"):
                call(ann)
        assert ann.next_req_id == 1


# --- types


PROGRAM = """\
import asyncio
import contextlib

from tradechat import (
    AnyClient,
    AsyncClient,
    ChatBroadcast,
    Client,
    ClientError,
    EventKind,
    MisuseError,
    Push,
    Receipt,
    Status,
    parse_amount,
)


class Wallet(Client):
    def pay(self, name: str, text: str) -> Receipt:
        return self.transfer(self.lookup(name).user_id, parse_amount(text))


class AsyncWallet(AsyncClient):
    async def pay(self, to_user: int) -> int:
        return (await self.transfer(to_user, 1, req_id=self.new_req_id())).balance


def who(client: AnyClient) -> str:
    return client.username


def blocking() -> None:
    with Wallet(timeout_s=1) as wallet:
        done: Receipt = wallet.pay("bob", "12.50")
        assert done.recorded or isinstance(wallet.retry(done.req_id), Receipt)
        for each in wallet.unanswered:
            wallet.retry(each.req_id)
        with contextlib.closing(wallet.pushes(timeout_s=1)) as pushes:
            for push in pushes:
                show(push)
        who(wallet)


def show(push: Push) -> None:
    if isinstance(push, ChatBroadcast) and push.kind == EventKind.MESSAGE:
        print(push.from_name, push.message)


async def main() -> None:
    async with AsyncWallet() as wallet:
        balance: int = await wallet.pay(7)
        print(balance, who(wallet), Status.OK)
        async with contextlib.aclosing(wallet.pushes()) as pushes:
            async for push in pushes:
                show(push)


def refused(error: ClientError) -> bool:
    return isinstance(error, MisuseError)


asyncio.run(main())
"""


def _mypy(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    path, cache = folder / "program.py", folder.parent / "mypy"  # of all tests of this process
    path.write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), str(path)],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_is_typed_and_pays_once(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first answer does not come, and the payment is asked for again."""
    source = (ROOT / "examples" / "pay_once.py").read_text()
    done = _mypy(tmp_path, source)
    assert done.returncode == 0, done.stdout
    with Client(port=server.port) as bob:
        bob.register("ann", PASSWORD)
        bob.register("bob", PASSWORD)
        bob.login("ann", PASSWORD)
        bob.deposit(1000)
        bob.logout()
        bob.login("bob", PASSWORD)
        monkeypatch.setenv("TRADECHAT_PASSWORD", PASSWORD)
        with (
            Relay(server.port, pause_at=Opcode.TRANSFER) as relay,
            ThreadPoolExecutor(1) as pool,
        ):
            command = [sys.executable, "-m", "examples.pay_once", "127.0.0.1", str(relay.port)]
            ended = pool.submit(
                subprocess.run,
                [*command, "ann", "bob", "100"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            wait_until(lambda: relay.passed[Opcode.TRANSFER] == 2, "it is asked for again")
            relay.resume()
            result = ended.result()
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.endswith("balance 9.00\n")
        assert bob.balance().balance == 100


def test_a_users_program_is_typed(tmp_path: Path) -> None:
    done = _mypy(tmp_path, PROGRAM)
    assert done.returncode == 0, done.stdout
    wrong = PROGRAM.replace('wallet.pay("bob", "12.50")', 'wallet.pay("bob", "12.50").amount')
    done = _mypy(tmp_path, wrong)
    assert done.returncode == 1
    assert '"Receipt" has no attribute "amount"' in done.stdout
