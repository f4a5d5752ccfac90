"""The client_ids of tradechat-cli: one for many commands, never one for two at a time."""

import os
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from client import Client
from client.cli import identity as identity_module
from client.cli.identity import POOL, Identity, identity, state_directory
from tests.client.programs import COMMAND, PASSWORD, ROOT, environment, run
from tests.helpers.server import RunningServer

USER = ("127.0.0.1", 7878, "ann")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


def _held(environ: dict[str, str], user: tuple[str, int, str] = USER) -> tuple[int, int]:
    with identity(environ, *user) as held:
        assert held is not None
        held.keep(held.next_req_id + 1)
        return held.client_id, held.next_req_id


def test_one_client_id_and_its_numbers_go_on(environ: dict[str, str]) -> None:
    first = _held(environ)
    assert first[1] == 2
    assert _held(environ) == (first[0], 3)
    others = [("127.0.0.1", 7879, "ann"), ("127.0.0.1", 7878, "bob"), ("localhost", 7878, "ann")]
    assert len({first[0], *(_held(environ, other)[0] for other in others)}) == 4


def test_those_at_the_same_time_take_others(environ: dict[str, str]) -> None:
    for _ in range(2):
        with ExitStack() as stack:
            held = [stack.enter_context(identity(environ, *USER)) for _ in range(POOL + 1)]
            assert held.pop() is None
            for each in held:
                assert each is not None
                each.keep(each.next_req_id + 1)
            ids = {each.client_id for each in held if each is not None}
    assert len(ids) == POOL
    with identity(environ, *USER) as again:
        assert again is not None
        assert again.client_id in ids
        assert again.next_req_id == 3


def test_another_process_holds_it(environ: dict[str, str]) -> None:
    source = (
        f"import sys; from {identity_module.__name__} import identity\n"
        f"with identity({environ!r}, *{USER!r}) as held:\n"
        "    held.keep(2); print(held.client_id, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        taken = int(other.stdout.readline())
        assert _held(environ)[0] != taken
        other.kill()
    assert _held(environ)[0] == taken


def test_who_may_read_it(environ: dict[str, str]) -> None:
    before = os.umask(0)
    try:
        _held(environ)
    finally:
        os.umask(before)
    directory = state_directory(environ)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert all("ann" not in path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    "text", ["", "7", "7 x", "0 1", "7 0", f"{2**64} 1", f"7 {2**63}", "7 8 9", "\xff"]
)
def test_a_damaged_file_is_not_guessed_at(environ: dict[str, str], text: str) -> None:
    client_id, _ = _held(environ)
    [path] = [path for path in state_directory(environ).iterdir() if path.suffix != ".lock"]
    path.write_text(text, encoding="latin-1")
    assert _held(environ)[0] not in (client_id, 7)


def test_the_number_is_on_the_disk_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    held = Identity(tmp_path / "x.0")
    held.keep(9)
    assert synced == [str(tmp_path / "x.0.new"), str(tmp_path)]
    assert Identity(tmp_path / "x.0").next_req_id == 9


def test_a_system_without_locks(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with identity(environ, *USER) as held:
        assert held is None
    assert not state_directory(environ).exists()


# --- the program


def _records(server: RunningServer, name: str) -> set[int]:
    """The client_ids that payments of a user were made under, as the server knows them."""
    with Client(port=server.port, client_id=0) as client:
        client.login(name, PASSWORD)
        return {entry.req_id for entry in client.transactions().transactions}


def test_commands_share_a_client(server: RunningServer, tmp_path: Path) -> None:
    with Client(port=server.port) as client:
        client.register("ann", PASSWORD)
    state = str(tmp_path / "state")
    for _ in range(3):
        done = run(server.port, "--user", "ann", "deposit", "1", XDG_STATE_HOME=state)
        assert (done.code, done.err) == (0, "")
    files = list(state_directory({"XDG_STATE_HOME": state}).iterdir())
    assert len(files) == 2  # one client_id, and its lock
    assert _records(server, "ann") == {1, 2, 3}


def test_commands_at_the_same_time(server: RunningServer, tmp_path: Path) -> None:
    with Client(port=server.port) as client:
        client.register("ann", PASSWORD)
    made = environment(server.port, XDG_STATE_HOME=str(tmp_path / "state"))
    running = [
        subprocess.Popen(
            [*COMMAND, "--user", "ann", "deposit", "1"],
            cwd=ROOT,
            env=made,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for _ in range(4)
    ]
    said = [each.communicate(timeout=60) for each in running]
    assert [each.returncode for each in running] == [0] * 4, said
    with Client(port=server.port) as client:
        client.login("ann", PASSWORD)
        assert client.balance().balance == 400


def test_where_nothing_can_be_kept(server: RunningServer, tmp_path: Path) -> None:
    with Client(port=server.port) as client:
        client.register("ann", PASSWORD)
    (tmp_path / "file").touch()
    done = run(server.port, "--user", "ann", "deposit", "1", XDG_STATE_HOME=str(tmp_path / "file"))
    assert done.code == 0
    assert "cannot keep what payments are numbered by" in done.err
