"""Data directories that versions left: the one of this format is read, older ones are refused in a
sentence, unless they have a converter.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import server as server_package
from libproto.messages import Opcode, RoomRole
from server.admin.cli import main
from server.admin.journal_verify import HISTORIES_ANEW, verify
from server.exits import Exit
from server.journal.directory import DataDirectory
from server.journal.disk import Disk
from server.journal.format import FORMAT_VERSION
from server.journal.start import load_state
from server.region.records import UserRole, UserState
from tests.helpers import leaks
from tests.helpers.server import ROOT, RunningServer
from tests.helpers.stored import (
    BALANCES,
    DATA,
    MESSAGES,
    NAMED,
    NAMES,
    PAID,
    ROOM,
    asked,
    extract,
)
from tests.helpers.wire import Lobby

THIS = f"format-{FORMAT_VERSION}.tar.gz"
CONVERTED = ["format-3.tar.gz", "format-4.tar.gz"]
UNNAMED = CONVERTED[0]  # it has no rooms with names
REFUSED = ["format-2.tar.gz"]
TIMEOUT_S = 60


def content(path: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}


def test_every_format_has_its_directory() -> None:
    """One that was changed without a number of its own, or without one kept, is noticed."""
    assert {path.name for path in DATA.glob("format-*.tar.gz")} == {THIS, *CONVERTED, *REFUSED}


@pytest.mark.parametrize("name", [THIS, *CONVERTED])
def test_this_format_is_read(name: str, tmp_path: Path) -> None:
    data = DataDirectory(extract(name, tmp_path))
    report = verify(Disk(), data)
    assert (report.is_good, report.refusal) == (True, "")
    log_id = data.identity(Disk()).log_id
    books = load_state(Disk(), data, log_id, lambda _done, _of: None).books
    users = {name.decode(): user for name, user in books.user_ids.items()}
    balances = {name: books.balances[user] for name, user in users.items()}
    assert balances == (BALANCES | {"carol": 0} if name == THIS else BALANCES)
    assert books.skips == 0
    assert books.ring > 0
    assert books.rooms[ROOM] == 8
    if name != UNNAMED:
        [(room, named)] = books.named.rooms.items()
        assert (named.name.decode(), named.owner, named.topic) == (NAMED, 1, b"for members")
        offers = [(offer.room, offer.price, offer.text) for offer in books.named.offers.values()]
        assert offers == [(room, 5, b"offer of run 0"), (room, 6, b"offer of run 1")]
        assert books.named.roles == {(room, 2): (RoomRole.MODERATOR, 0, 0)}
        assert books.blocks == {(2, 1)}
    if name == THIS:
        assert list(books.roles) == [0, 0, UserRole.TELLER, 0]
        assert list(books.states) == [0, 0, 0, UserState.DELETED]
        assert len(books.keys) == 2


@pytest.mark.parametrize("name", [THIS, *CONVERTED])
def test_a_server_goes_on_with_it(name: str, tmp_path: Path) -> None:
    """With passwords, money and messages; the numbers of rooms rise, since it was killed. A
    directory of an older format is one of this then."""
    data = extract(name, tmp_path)
    with RunningServer(data) as server, Lobby(server) as lobby:
        for user in NAMES:
            wire = lobby.enter(user)
            assert wire.ok(Opcode.BALANCE).balance == BALANCES[user]
        history = wire.ok(Opcode.ROOM_HISTORY, ROOM, 0, 100)
        said = [event.message for event in history.events if event.message]
        assert said == list(MESSAGES)
        joined = wire.ok(Opcode.JOIN_ROOM, ROOM)
        assert joined.last_seq == 8 + 64, "its ring is left out"
        if name == THIS:
            assert asked("deposit", server, user="carol", **PAID)["recorded"] is True
        room, created = wire.ok(Opcode.ROOM_OPEN, NAMED)
        assert created == (name == UNNAMED)
        wire.ok(Opcode.JOIN_ROOM, room)
        offers = [entry.text for entry in wire.ok(Opcode.BOARD_LIST, room, 0, 9, "").entries]
        assert offers == (["offer of run 0", "offer of run 1"] if name != UNNAMED else [])
        assert server.stop() == 0
    assert f"format {FORMAT_VERSION}\n" in (data / "identity").read_text()
    converted = "data_directory_converted" in server.log_text()
    assert converted == (name != THIS)
    assert verify(Disk(), DataDirectory(data)).is_good
    with RunningServer(data) as server, Lobby(server) as lobby:
        assert lobby.enter(NAMES[0]).ok(Opcode.ROOM_OPEN, NAMED) == (room, 0)
        assert server.stop() == 0


def test_a_damaged_history_stops_no_server(tmp_path: Path) -> None:
    """verify tells of it, and that a server starts; and one does, with all it had."""
    data = DataDirectory(extract(THIS, tmp_path))
    [path] = data.rooms.iterdir()
    whole = path.read_bytes()
    at = whole.index(MESSAGES[0].encode())
    path.write_bytes(whole[:at] + b"J" + whole[at + 1 :])
    report = verify(Disk(), data)
    assert report.refusal == ""
    [problem] = report.files[path].problems
    assert problem.effect == HISTORIES_ANEW
    with RunningServer(data.path) as server, Lobby(server) as lobby:
        wire = lobby.enter(NAMES[0])
        assert wire.ok(Opcode.BALANCE).balance == BALANCES[NAMES[0]]
        history = wire.ok(Opcode.ROOM_HISTORY, ROOM, 0, 100)
        said = [event.message for event in history.events if event.message]
        assert said == list(MESSAGES)
        assert server.stop() == 0
    assert verify(Disk(), data).is_good


@pytest.mark.parametrize("name", REFUSED)
def test_an_older_format_is_refused_in_a_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = extract(name, tmp_path)
    before = content(path)
    number = name[7:8]
    sentence = (
        rf"{path}/identity says 'tradechat data, format {number}', and this version of tradechat "
        rf"reads format {FORMAT_VERSION}: start the version that wrote it; "
        r"docs/JOURNAL\.md says under «Other formats» how to go on"
    )
    done = subprocess.run(
        [sys.executable, "-m", server_package.__name__, "--data", str(path), "--port", "0",
         "--name", leaks.region_name(), "--log-file", str(tmp_path / "log")],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.NOT_STARTED
    assert re.fullmatch(rf"tradechat-server: cannot start: .*{sentence}\n", done.stderr)
    for command in ("verify", "dump", "repair"):
        assert main(["journal", command, "--data", str(path)]) == 3
        assert re.fullmatch(rf"tradechat-admin: {sentence}\n", capsys.readouterr().err)
    assert content(path) == before
