"""Who a server is: its key is made once, is nobody else's to read, and goes with its data."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from libproto.messages import Capability
from libproto.sealing import ServerKey, fingerprint
from server.journal.format import TEMPORARY
from tests.helpers.server import RunningServer
from tests.helpers.wire import Lobby, Wire

ENCRYPTION = int(Capability.ENCRYPTION)
KEY = "server.key"


def identity_of(server: RunningServer) -> bytes:
    """What it says of itself on the wire."""
    with Wire(server.connect()) as wire:
        wire.hello(capabilities=ENCRYPTION)
        return wire.identity


def admin(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.admin.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_it_stays_over_a_restart_and_the_admin_shows_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with RunningServer(data) as server:
        first = identity_of(server)
        shown = admin("identity", "--data", data)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.strip() == fingerprint(first)
        assert '"identity_made"' in server.log_text()
    kept = data / KEY
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with RunningServer(data) as server:
        assert identity_of(server) == first
        assert '"identity_made"' not in server.log_text()


def test_all_workers_have_it_also_one_that_replaces_a_dead_one(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server, Lobby(server, ENCRYPTION) as lobby:
        wires = [lobby.open_on(slot) for slot in (0, 1)]
        for wire in wires:
            wire.hello(capabilities=ENCRYPTION)
        assert wires[0].identity == wires[1].identity != b""


def test_a_server_in_the_place_of_another_is_the_same(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", "--admin-port", "0") as before:
        first = identity_of(before)
        flags = ("--admin-port", "0", "--name", before.name, "--take-over")
        with RunningServer(before.data, *flags) as after:
            assert before.wait() == 0, before.log_text()
            assert identity_of(after) == first


def test_a_backup_that_is_restored_elsewhere_is_the_same_server(tmp_path: Path) -> None:
    data, copy, elsewhere = (tmp_path / name for name in ("data", "copy", "elsewhere"))
    with RunningServer(data) as server:
        first = identity_of(server)
        made = admin("backup", "--data", data, copy)
        assert made.returncode == 0, made.stderr
    assert stat.S_IMODE((copy / KEY).stat().st_mode) == 0o600
    restored = admin("restore", copy, "--data", elsewhere)
    assert restored.returncode == 0, restored.stderr
    with RunningServer(elsewhere) as server:
        assert identity_of(server) == first


def test_a_server_of_before_gets_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with RunningServer(data) as server:
        first = identity_of(server)
    (data / KEY).unlink()
    (data / f"{KEY}{TEMPORARY}").write_bytes(b"half")  # of a start that was killed
    with RunningServer(data) as server:
        assert identity_of(server) not in (first, b"")
    assert not list(data.glob(f"{KEY}?*"))


@pytest.mark.parametrize(
    "text",
    [b"", b"no key", ServerKey.generate().to_pem()[:60]],
    ids=["empty", "other", "half"],  # not the key, which is another one each time
)
def test_one_that_is_damaged_is_told_and_stays_as_it_is(tmp_path: Path, text: bytes) -> None:
    data = tmp_path / "data"
    with RunningServer(data):
        pass
    (data / KEY).write_bytes(text)
    with pytest.raises(AssertionError) as raised, RunningServer(data):
        pass
    said = str(raised.value)
    assert "server.key is damaged" in said, said
    assert "put it back from a backup" in said
    assert (data / KEY).read_bytes() == text
    shown = admin("identity", "--data", data)
    assert shown.returncode != 0
    assert "damaged" in shown.stderr


def test_a_directory_without_one_is_told(tmp_path: Path) -> None:
    shown = admin("identity", "--data", tmp_path)
    assert shown.returncode != 0
    assert "is this its --data?" in shown.stderr


def test_where_nothing_is_kept_it_is_another_one_at_every_start(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        with RunningServer(tmp_path / "data", "--durability", "none") as server:
            found.append(identity_of(server))
    assert found[0] != found[1]
    assert not (tmp_path / "data").exists() or KEY not in os.listdir(tmp_path / "data")
