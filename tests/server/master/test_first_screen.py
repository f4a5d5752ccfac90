"""What a server says to a person at a terminal, and to nobody else."""

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from server.config import Settings
from server.master.first_screen import first_screen
from tests.helpers import leaks
from tests.helpers.server import ROOT

END_S = 60.0


def lines(**settings: object) -> list[str]:
    return first_screen(Settings(**settings), 7878, 4242).splitlines()  # type: ignore[arg-type] # by keyword


def test_the_defaults() -> None:
    assert lines() == [
        "tradechat is serving on 127.0.0.1 port 7878",
        "  state    ./data (--durability sync)",
        "  connect  tradechat-cli --user NAME --register",
        "  look     tradechat-admin status",
        "           http://localhost:7879/ in a browser",
        "  stop     Ctrl-C, or kill 4242: everything received is answered and saved first",
    ]


def test_what_is_not_the_default() -> None:
    said = lines(
        host="::1", data=Path("/var/lib/t"), name="ten", admin_host="::1", durability="async"
    )
    assert said[1:5] == [
        "  state    /var/lib/t (--durability async)",
        "  connect  tradechat-cli --host ::1 --user NAME --register",
        "  look     tradechat-admin status --name ten",
        "           http://[::1]:7879/ in a browser",
    ]
    said = lines(host="0.0.0.0", admin_port=0, durability="none")  # noqa: S104 - the case
    assert said[1:4] == [
        "  state    in memory only: it ends with the server (--durability none)",
        "  connect  tradechat-cli --encrypt require --user NAME",
        "           registration is closed: --registration open lets anyone register",
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_only_on_a_terminal(tmp_path: Path, is_terminal: bool) -> None:
    name, (ours, theirs) = leaks.region_name(), pty.openpty()
    with open(ours, "rb", buffering=0) as terminal, open(tmp_path / "err", "wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "server", "--port=0", "--admin-port=0", "--workers=1"),
                *(f"--name={name}", f"--data={tmp_path / 'data'}"),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=theirs if is_terminal else file,
        )
        os.close(theirs)
        seen = b""
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"ready ")
            while is_terminal and b"Ctrl-C, or kill" not in seen:
                assert select.select([terminal], [], [], END_S)[0]
                seen += terminal.read(65536)
        finally:
            process.terminate()
            process.communicate(timeout=END_S)
    text = seen.decode() + (tmp_path / "err").read_text()
    assert ("tradechat is serving on" in text) == is_terminal
    assert (f"  state    {tmp_path / 'data'} (--durability sync)" in text) == is_terminal
