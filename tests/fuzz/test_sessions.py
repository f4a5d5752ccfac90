"""Recorded sessions with changes, for a moment; `make fuzz` goes on from there."""

import json
import random
from pathlib import Path

import pytest

from libproto.framing import Decoder
from libproto.messages import Opcode
from tests.fuzz import sessions
from tests.fuzz.mutate import CHANGES, Change, changed
from tests.helpers.wire import request

SESSIONS = 40
FRAMES = [request(Opcode.CHAT_SEND, 5, 3, "hello"), request(Opcode.DEPOSIT, 6, 100)]


def test_nothing_is_found(tmp_path: Path) -> None:
    server = sessions.Server(tmp_path)
    try:
        done = sessions.fuzz(server, sessions.SEED, 0, 60.0, SESSIONS, tmp_path)
    finally:
        server.close()
    assert not done.violation
    assert done.sessions == SESSIONS
    assert done.frames > 2 * SESSIONS


def test_a_violation_is_written_down_and_can_be_replayed(tmp_path: Path) -> None:
    server = sessions.Server(tmp_path)
    try:
        server.pids.reverse()  # so that nothing is as it was
        done = sessions.fuzz(server, sessions.SEED, 0, 60.0, 5, tmp_path)
        assert "its workers are" in done.violation
        (path,) = (tmp_path / "findings").iterdir()
        assert str(path) in done.violation
        again = [sessions.Session.of(told) for told in json.loads(path.read_text())["sessions"]]
        made = [sessions.make(server.recordings, f"{sessions.SEED}/{n}") for n in range(5)]
        assert again == made
    finally:
        server.close()


@pytest.mark.parametrize("change", dict.fromkeys(CHANGES))
def test_each_change_changes_something(change: Change) -> None:
    """And leaves what is not a frame alone, where it is about frames."""
    rng = random.Random(3)  # noqa: S311
    seen = []
    for _ in range(20):
        frames = list(FRAMES)
        change(rng, frames, rng.randrange(2))
        seen.append(frames)
        change(rng, [b"", b"x"], 0)
    assert sum(frames != FRAMES for frames in seen) >= 8


def test_most_of_what_is_changed_gets_past_the_checksum() -> None:
    rng = random.Random(4)  # noqa: S311
    faults = []
    for _ in range(300):
        decoder = Decoder(1 << 16)
        decoder.feed(b"".join(changed(rng, FRAMES)))
        while (frame := decoder.next()) is not None and not decoder.dead:
            faults.append(frame[-1])
    assert faults.count(0) > len(faults) / 2
