"""`tradechat-bench hostile`: short, on a real server, with few attackers of every kind."""

import json

import pytest

from bench import hostile
from bench.hostile import members


def test_honest_users_beside_attackers(capsys: pytest.CaptureFixture[str]) -> None:
    """How they fare depends on the machine, so the verdict is not asked for."""
    options = [
        "--traders=4",
        "--chatters=2",
        "--attackers=50",
        "--seconds=2",
        "--factor=1000",
        "--json",
    ]
    code = hostile.main(options)
    found = json.loads(capsys.readouterr().out)
    for phase in ("alone", "beside"):
        assert found[f"{phase}_answered"] + found[f"{phase}_refused"] > 20
        assert found[f"{phase}_memory_bytes"] > 1 << 20
    assert code == (0 if found["good"] else 1)


def test_some_of_every_kind() -> None:
    assert members(1000) == 300
    assert members(50) == 15
