"""The two clients have the same calls: both are written from one description."""

import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client import AsyncClient, AsyncEvents, Client, Events, facades
from client.core import calls, login, paging

ROOT = Path(__file__).resolve().parents[2]
DESCRIBED: list[Callable[..., Any]] = [f for _, functions in facades.SECTIONS for f in functions]


def _public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_have_the_same_names() -> None:
    assert _public(Client) == _public(AsyncClient)


@pytest.mark.parametrize("name", sorted(_public(Client)))
def test_signatures_and_docstrings_are_equal(name: str) -> None:
    one, other = getattr(Client, name), getattr(AsyncClient, name)
    assert inspect.getdoc(one)
    assert inspect.getdoc(one) == inspect.getdoc(other)
    if callable(one):
        first, second = inspect.signature(one), inspect.signature(other)
        assert first.parameters == second.parameters
        if name == "events":
            assert (first.return_annotation, second.return_annotation) == (Events, AsyncEvents)
        elif name == "pushes" or name.startswith("iter_"):  # the other one is asynchronous
            assert str(second.return_annotation).startswith("collections.abc.AsyncGenerator[")
        else:
            assert first == second


def test_every_description_is_a_call_of_the_clients() -> None:
    described = {
        name
        for module in (calls, login, paging)
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    } | {"retry", "send_file", "fetch_file"}
    assert {function.__name__ for function in DESCRIBED} == described
    assert len(DESCRIBED) == len(described)


@pytest.mark.parametrize("function", DESCRIBED, ids=lambda function: function.__name__)
def test_a_method_is_as_it_is_described(function: Callable[..., Any]) -> None:
    method = getattr(Client, function.__name__)
    assert inspect.getdoc(method) == inspect.getdoc(function)
    wanted = [
        parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in facades.FILLED
    ]
    given = list(inspect.signature(method).parameters.values())
    assert given[1 : 1 + len(wanted)] == wanted
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in given[1 + len(wanted) :])


def _check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", facades.__name__, "--check"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.checkout
def test_the_files_are_fresh_and_a_stale_one_is_found(tmp_path: Path) -> None:
    for package in ("client", "libnet", "libproto"):
        shutil.copytree(ROOT / package, tmp_path / package)
    fresh = _check(tmp_path)
    assert (fresh.returncode, fresh.stderr) == (0, "")
    path = tmp_path / "client" / "aio.py"
    path.write_text(path.read_text().replace("amount: int", "amount: float", 1))
    stale = _check(tmp_path)
    assert stale.returncode == 1
    assert "stale: aio.py:" in stale.stderr
