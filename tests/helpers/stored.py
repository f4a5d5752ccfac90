"""Data directories that a version left, kept for the versions after it: tests/data/format-N.tar.gz.

    python -m tests.helpers.stored tests/data/format-4.tar.gz

makes one with the code that is here: two users, with money and messages, a room of their own with
an offer on its board, and what an operator has done to them and to a third one; a server that was
stopped, and one after it that was killed. Whoever
changes the format keeps the archive of the format before, makes one of the new format, and has a
test convert the old one.
"""

import argparse
import os
import signal
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from libproto.messages import MIN_ITERATIONS, Opcode, RoomAccess, RoomRole
from libproto.scram import make_verifier
from server.admin.operate import Fields, ask
from tests.helpers.server import RunningServer
from tests.helpers.wire import PASSWORD, Lobby

DATA: Final = Path(__file__).parents[1] / "data"
NAMES: Final = ("alice", "bob")
ROOM: Final = 1
SMALL: Final = ("--event-ring", "64", "--txn-ring", "64", "--max-message", "256")
"""So that segments are small."""
BALANCES: Final = {"alice": 1000 - 2 * 70, "bob": 2 * 70}
"""Of both, in the directory."""
NAMED: Final = "gold"
"""A room of alice's, from format 4 on."""
PAID: Final = {"key": "of the first run", "amount": 500, "note": "what it is for"}
"""Money that the operator gave to Carol, from format 5 on, who was paid out and deleted."""
MESSAGES: Final = ("hello from run 0", "hello from run 1")
"""In the room."""


def extract(name: str, target: Path) -> Path:
    """The data directory of an archive."""
    with tarfile.open(DATA / name) as archive:
        archive.extractall(target, filter="data")
    return target / "data"


def work(data: Path) -> None:
    """What is in each of these directories."""
    for run in range(2):
        with RunningServer(data, *SMALL) as server, Lobby(server) as lobby:
            if not run:
                for name in NAMES:
                    wire = lobby.open()
                    wire.hello(name)
                    wire.register(name)
            alice, bob = (lobby.enter(name, client_id=7 + run) for name in NAMES)
            if not run:
                alice.ok(Opcode.DEPOSIT, 1000)
            alice.ok(Opcode.TRANSFER, 2, 70)
            for wire in (alice, bob):
                wire.ok(Opcode.JOIN_ROOM, ROOM)
            named = alice.ok(Opcode.ROOM_OPEN, NAMED).room_id
            bob.ok(Opcode.JOIN_ROOM, named)
            bob.ok(Opcode.BOARD_ADD, named, 5 + run, f"offer of run {run}")
            if not run:
                alice.ok(Opcode.ROOM_SET, named, "for members", RoomAccess.INVITED)
                alice.ok(Opcode.ROOM_ROLE, named, 2, RoomRole.MODERATOR, 0)
                bob.ok(Opcode.BLOCK, 1, 1)
            alice.ok(Opcode.CHAT_SEND, ROOM, f"hello from run {run}")
            bob.ok(Opcode.DIRECT_SEND, 1, f"for alice, run {run}")
            operate(server, run)
            if run:
                kill(server)
            else:
                server.stop()


def operate(server: RunningServer, run: int) -> None:
    """What an operator does."""
    if run:
        asked("delete", server, user="carol", pay_out=True, key="bye", note="")
        return
    made = make_verifier(PASSWORD, bytes(16), MIN_ITERATIONS)
    keys = {"stored_key": made.stored_key.hex(), "server_key": made.server_key.hex()}
    verifier = {"salt": made.salt.hex(), "iterations": made.iterations, **keys}
    asked("add", server, user="carol", **verifier)
    asked("deposit", server, user="carol", **PAID)
    asked("role", server, user="bob", role="teller")
    asked("passwd", server, user="bob", **verifier)
    asked("disable", server, user="carol")


def asked(act: str, server: RunningServer, **fields: object) -> Fields:
    """The answer to an act."""
    return ask(argparse.Namespace(data=server.data), act, once=False, **fields)


def kill(server: RunningServer) -> None:
    """All its processes."""
    for pid in (*server.children(), server.process.pid):
        os.kill(pid, signal.SIGKILL)
    server.process.wait()


def main() -> None:
    target = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        work(data)
        with tarfile.open(target, "w:gz") as archive:
            archive.add(data, "data")


if __name__ == "__main__":
    main()
