"""`tradechat-bench room`: short, on a real server; and that a gap is seen."""

import json

import pytest

from bench import room
from bench.room import Seen


def test_members_that_read_get_everything(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--members=80", "--speakers=20", "--rate=100", "--seconds=1", "--json"]
    assert room.main(words) == 0
    [found] = map(json.loads, capsys.readouterr().out.splitlines())
    assert (found["members"], found["workers"], found["messages"]) == (80, 4, 100)
    assert found["deliveries"] == 80 * (100 - found["refused"]) > 0
    assert (found["silent"], found["repeated"], found["told"], found["told_joining"]) == (0,) * 4
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_what_is_left_out_is_a_silent_gap() -> None:
    seen = Seen()
    seen.last = 7
    seen.pushed(8)
    seen.gap(9, 11)
    seen.pushed(12)
    assert (seen.silent, seen.told, seen.repeated) == (0, 3, 0)
    seen.pushed(15)
    assert seen.silent == 2
    seen.gap(17, 17)
    assert (seen.silent, seen.told) == (3, 4)
    seen.pushed(16)
    assert (seen.repeated, seen.last) == (1, 17)


def test_a_server_that_is_silent_about_a_gap_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A member does not get a message, and later ones: here it passes over them itself."""
    pushed = Seen.pushed
    passed: list[int] = []

    def passes_over(seen: Seen, seq: int) -> None:
        if seq % 50 or passed:
            pushed(seen, seq)
        else:
            passed.append(seq)

    monkeypatch.setattr(Seen, "pushed", passes_over)
    words = ["--members=20", "--speakers=1", "--rate=100", "--seconds=1", "--json"]
    assert room.main(words) == 1
    assert json.loads(capsys.readouterr().out)["silent"] == len(passed) == 1


def test_more_speakers_than_members_are_refused() -> None:
    with pytest.raises(SystemExit) as ended:
        room.main(["--members=2", "--speakers=3"])
    assert ended.value.code == 2
