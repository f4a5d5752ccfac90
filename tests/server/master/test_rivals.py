"""Two servers that want the same: a port, a name in /dev/shm."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from libnet.errors import AddressInUse
from libnet.sockets import listen, listen_first
from libproto.messages import Opcode
from server.exits import Exit
from server.region.layout import Capacities
from server.region.region import Region, RegionError, RegionInUse
from tests.helpers import leaks
from tests.helpers.server import ROOT, StartServer, lasting_port, wait_until
from tests.helpers.wire import Lobby

END_S = 60.0
SMALL = Capacities(1, 4, 2, 4, 4, 4, 4, 16, 4, 2, 2, 2)


@pytest.mark.parametrize("rivals", range(4))
def test_two_servers_that_start_at_the_same_instant(tmp_path: Path, rivals: int) -> None:
    """With other names and other data, on one port: one serves, the other is refused."""
    port = lasting_port()
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "server", f"--port={port}"),
                *(f"--name={leaks.region_name()}", f"--data={tmp_path / str(number)}"),
                f"--log-file={tmp_path / f'{number}.log'}",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2 + rivals % 2)
    ]

    def refused() -> list["subprocess.Popen[str]"]:
        return [each for each in processes if each.poll() is not None]

    try:
        wait_until(lambda: len(refused()) == len(processes) - 1, "all but one are refused", END_S)
        (serves,) = (each for each in processes if each not in refused())
        assert serves.stdout is not None
        assert serves.stdout.readline().startswith(f"ready host=127.0.0.1 port={port} ")
        assert {each.returncode for each in refused()} == {Exit.NOT_STARTED}
    finally:
        for each in processes:
            if each.poll() is None:
                each.terminate()
            _, error = each.communicate(timeout=END_S)
            if each.returncode:
                assert f"port {port}" in error
                assert "--port" in error
    assert sorted(each.returncode for each in processes)[0] == Exit.OK


HOSTS = ["127.0.0.1", "0.0.0.0", "::1", "::", "localhost"]  # noqa: S104 - the case


def overlap(one: str, other: str) -> bool:
    """Does a listener on one address get connections to the other?"""
    families = {"127.0.0.1": "4", "localhost": "4", "0.0.0.0": "4*", "::1": "6", "::": "46*"}  # noqa: S104 - the case
    return bool(set(families[one].strip("*")) & set(families[other].strip("*")))


@pytest.mark.parametrize("first", HOSTS)
@pytest.mark.parametrize("second", HOSTS)
def test_listeners_on_addresses_that_overlap(first: str, second: str) -> None:
    """Refused, though the first one shares its port with listeners of its own."""
    if socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)[0][0] != socket.AF_INET:
        pytest.skip("localhost is not 127.0.0.1 here")
    with listen_first(first, 0) as one:
        port = one.getsockname()[1]
        with listen(first, port):
            if overlap(first, second):
                with pytest.raises(AddressInUse):
                    listen_first(second, port)
            else:
                listen_first(second, port).close()


def test_a_port_between_bind_and_listen() -> None:
    """The instant of the race: the other one binds, and listens only when this one does already."""
    port = lasting_port()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        with listen_first("127.0.0.1", port):
            with pytest.raises(OSError, match="in use"):
                other.listen()
            with pytest.raises(AddressInUse):
                listen_first("127.0.0.1", port)


# ---- names in /dev/shm


def test_a_name_that_was_removed_and_taken_by_another(start_server: StartServer) -> None:
    """The first server serves on, and leaves the other's region alone when it ends."""
    first = start_server()
    path = Path(leaks.SHM, first.name)
    path.unlink()
    second = start_server("--name", first.name)
    inode = path.stat().st_ino
    assert first.stop() == Exit.OK
    assert "Traceback" not in first.log_text()
    assert path.stat().st_ino == inode
    second.name = first.name
    with Lobby(second) as lobby:
        lobby.enter().ok(Opcode.DEPOSIT, 5)
    assert second.stop() == Exit.OK
    assert not path.exists()


def test_a_name_that_was_removed(start_server: StartServer) -> None:
    server = start_server()
    Path(leaks.SHM, server.name).unlink()
    assert server.stop() == Exit.OK
    assert "Traceback" not in server.log_text()


def test_a_region_is_removed_only_by_its_own() -> None:
    name = leaks.region_name()
    path = Path(leaks.SHM, name)
    region = Region.create(name, SMALL, 1)
    with pytest.raises(RegionInUse):
        Region.create(name, SMALL, 1)
    path.unlink()
    path.write_text("another's")
    try:
        region.unlink()
        assert path.read_text() == "another's"
        with pytest.raises(RegionError, match="not a region"):
            Region.create(name, SMALL, 1)
        assert path.read_text() == "another's"
    finally:
        path.unlink()
        region.close()


def test_what_a_dead_server_left_is_replaced() -> None:
    """Whether it had finished its region or not."""
    name = leaks.region_name()
    path = Path(leaks.SHM, name)
    old = Region.create(name, SMALL, 1)
    whole = path.read_bytes()
    old.unlink()
    old.close()
    for content in (b"", bytes(4096), whole):
        path.touch(mode=0o600)
        path.write_bytes(content)
        region = Region.create(name, SMALL, 1)
        region.unlink()
        region.close()
        assert not path.exists()
