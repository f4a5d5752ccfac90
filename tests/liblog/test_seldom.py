"""Lines about what goes on and on."""

import time

import pytest

from liblog import Seldom, seldom


def test_one_at_once_and_then_one_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    line = Seldom()
    assert [line.due() for _ in range(3)] == [True, False, False]
    now += seldom.EVERY_S - 0.1
    assert not line.due()
    now += 0.1
    assert [line.due() for _ in range(3)] == [True, False, False]
