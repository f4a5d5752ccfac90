"""Fuzz a real server over sockets: recorded sessions with changes, in the clear, sealed and
compressed, in every state.

    python -m tests.fuzz.sessions --seconds N
    python -m tests.fuzz.sessions --replay FILE

After every few sessions the server must be as before: the same workers, no fault in the log, an
honest connection served, no descriptor more; whatever it sends is in order, and it closes what was
closed. At the end the audit must hold, and its memory not have grown. A violation is written to a
file with all that was sent since the last look, and can be replayed. Which sessions come follows
from the seed; a run goes on where the one before has ended.
"""

import argparse
import json
import os
import random
import select
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from libproto.codec import ERROR, PUSH, RESPONSE
from libproto.errors import MisuseError, Status
from libproto.framing import Fault
from libproto.messages import Opcode
from server.admin.audit import audit
from server.region.region import Region
from tests.fuzz.__main__ import KEPT
from tests.fuzz.mutate import changed
from tests.fuzz.recordings import CAPABILITIES, Begin, Recording, begin, of_file, record
from tests.fuzz.targets import summed
from tests.helpers.server import RunningServer, wait_until
from tests.helpers.wire import Lobby, Wire

SEED: Final = 1
LOOK_EVERY: Final = 40  # sessions
SPARE: Final = 4  # descriptors of a worker that it opens when they are wanted first
END_S: Final = 30.0  # by which a connection that was closed on this side ends
GROWTH: Final = 32 << 20  # bytes of a worker after its first part of a run; what leaks passes it
FLAGS: Final = (
    "--unauthenticated-rate", "0", "--login-failures", "0", "--accounts", "20000",
    "--max-message", "4096",
)  # fmt: skip


class Violation(Exception):
    """Something that must not be; its text says what."""


class Session(NamedTuple):
    """What is sent on one connection, after it has come so far."""

    begin: Begin
    capabilities: int
    frames: list[bytes]
    file: int  # of the recorded frames
    seed: str  # of how it is cut, and of what becomes of it once it is sealed

    def told(self) -> dict[str, object]:
        return {**self._asdict(), "frames": [frame.hex() for frame in self.frames]}

    @classmethod
    def of(cls, told: dict[str, object]) -> "Session":
        frames = told["frames"]
        assert isinstance(frames, list)
        capabilities = int(str(told["capabilities"]))
        plain = [bytes.fromhex(frame) for frame in frames]
        file = int(str(told["file"]))
        return cls(Begin(str(told["begin"])), capabilities, plain, file, str(told["seed"]))


def make(recordings: Sequence[Recording], seed: str) -> Session:
    """The session that follows from a seed."""
    rng = random.Random(seed)  # noqa: S311 - the same for the same seed
    recording = rng.choice(recordings)
    frames = changed(rng, recording.frames)
    capabilities = int(rng.choice(CAPABILITIES))
    return Session(recording.begin, capabilities, frames, recording.file, seed)


def transmitted(wire: Wire, session: Session, file: int) -> list[bytes]:
    """As it goes over the connection, in pieces."""
    rng = random.Random(session.seed)  # noqa: S311
    sent = []
    for recorded in session.frames:
        data = frame = of_file(recorded, session.file, file)
        with suppress(MisuseError):  # no whole frame: it goes as it is
            data = wire.wrapped(frame)
        if wire.wrapper is not None and data and rng.random() < 0.05:
            altered = bytearray(data)
            altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
            data = summed(bytes(altered))
        sent.append(data)
    stream = b"".join(sent)
    if rng.random() < 0.5:
        return [stream]
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.choice((1, 5, 30))))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


class Server:
    """The server under test, and an honest pair beside."""

    def __init__(self, folder: Path) -> None:
        self.running = RunningServer(folder / "data", *FLAGS)
        wait_until(lambda: bool(self._lines("serving")), "it says in which form it serves")
        self.form = str(self._lines("serving")[0]["form"])
        self.lobby = Lobby(self.running)
        self.pids = self.running.worker_pids()
        self.honest, self.payee = self.lobby.enter(), self.lobby.enter()
        self.honest.ok(Opcode.DEPOSIT, 10**9)
        self._faults = 0
        self.user = self.lobby.new_user()
        self.recordings = record(self.running, self.user)
        self.files = self._descriptors()
        self.frames = 0

    def close(self) -> None:
        self.lobby.close()
        self.running.stop()

    def _lines(self, event: str) -> list[dict[str, object]]:
        every = [json.loads(line) for line in self.running.log_text().splitlines()]
        return [line for line in every if line["event"] == event]

    def _descriptors(self) -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids]

    def memory(self) -> list[int]:
        """Bytes that each worker has for itself."""
        found = []
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/statm").read_text().split()
            found.append((int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE"))
        return found

    # ---- one session

    def play(self, session: Session) -> None:
        """Violation."""
        with self.running.connect() as sock, Wire(sock) as wire:
            try:
                file = begin(wire, session.begin, self.user, session.capabilities)
            except AssertionError:  # its password is another one now
                self.user = self.lobby.new_user()
                return
            self.frames += len(session.frames)
            pieces = [piece for piece in transmitted(wire, session, file) if piece]
            self._exchange(wire, pieces)

    def _exchange(self, wire: Wire, pieces: list[bytes]) -> None:
        """Send all of it, and read until the server has ended it."""
        wire.sock.setblocking(False)
        deadline, sent = time.monotonic() + END_S, 0
        while True:
            if time.monotonic() > deadline:
                raise Violation(f"a connection has not ended within {END_S:.0f} s")
            writes = [wire.sock] if pieces else []
            reads, writes, _ = select.select([wire.sock], writes, [], 1.0)
            try:
                if writes:
                    sent += wire.sock.send(pieces[0][sent:])
                    if sent == len(pieces[0]):
                        del pieces[0]
                        sent = 0
                    if not pieces:
                        wire.sock.shutdown(1)
                if reads and not self._take(wire, wire.sock.recv(1 << 18)):
                    return
                if not pieces and not writes and not reads:
                    with suppress(OSError):
                        wire.sock.shutdown(1)
            except OSError:
                return  # it was reset

    @staticmethod
    def _take(wire: Wire, data: bytes) -> bool:
        """What the server sends is in order. False: it has closed."""
        decoder = wire._decoder
        decoder.feed(data)
        while (frame := decoder.next()) is not None:
            opcode, _, flags, status, buf, start, end, fault = frame
            if fault != Fault.NONE:
                raise Violation(f"the server sent a frame with a fault: {Fault(fault).name}")
            codecs = RESPONSE if flags & 4 else PUSH
            codec = ERROR if status else codecs.get(opcode)
            if codec is None or status not in set(Status):
                raise Violation(f"the server sent opcode {opcode:#x}, status {status}")
            codec.decode(buf, start, end)
        return bool(data)

    # ---- between sessions

    def look(self) -> None:
        """Violation: it is not as it was."""
        if self.running.worker_pids() != self.pids:
            raise Violation(f"its workers are {self.running.children()}, and were {self.pids}")
        self.honest.ok(Opcode.HEARTBEAT, 1)
        self.honest.ok(Opcode.TRANSFER, self.payee.user, 1)
        self.payee.ok(Opcode.BALANCE)
        for line in self.running.log_text().splitlines()[self._faults :]:
            self._faults += 1
            if json.loads(line)["level"] == "error":
                raise Violation(f"its log says: {line}")
        try:
            wait_until(
                lambda: all(
                    now <= before + SPARE
                    for now, before in zip(self._descriptors(), self.files, strict=True)
                ),
                "descriptors are closed",
                END_S,
            )
        except AssertionError:
            raise Violation(f"descriptors: {self._descriptors()}, were {self.files}") from None

    def check_state(self) -> None:
        """Violation: what it holds is wrong."""
        region = Region.attach(self.running.name)
        try:
            if problems := audit(region, time.sleep).problems:
                raise Violation(f"the audit finds {problems}")
        finally:
            region.close()


def replay(path: Path) -> int:
    """The sessions of a finding, once more."""
    told = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            for session in told["sessions"]:
                server.play(Session.of(session))
            server.look()
            server.check_state()
        finally:
            server.close()
    sys.stdout.write(f"{path}: nothing is found\n")
    return 0


class Run(NamedTuple):
    """What came of a run."""

    sessions: int
    frames: int
    violation: str  # "": none


def fuzz(server: Server, seed: int, first: int, seconds: float, most: int, kept: Path) -> Run:
    """Sessions from number `first` on, for so long, or so many."""
    end, number = time.monotonic() + seconds, first
    since: list[Session] = []
    early: list[int] = []
    try:
        while time.monotonic() < end and number - first < most:
            session = make(server.recordings, f"{seed}/{number}")
            since.append(session)
            number += 1
            server.play(session)
            if number % LOOK_EVERY == 0:
                server.look()
                since.clear()
                early = early or (server.memory() if number - first > 1000 else [])
                sys.stderr.write(f"\r{number - first} sessions, {server.frames} frames ")
        server.look()
        server.check_state()
        for before, now in zip(early, server.memory(), strict=bool(early)):
            if now - before > GROWTH:
                raise Violation(f"a worker has grown from {before} to {now} bytes")
    except (Violation, AssertionError, OSError) as error:
        path = kept / "findings" / f"sessions-{seed}-{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"sessions": [each.told() for each in since]}))
        return Run(number - first, server.frames, f"{error!r}: {path}")
    return Run(number - first, server.frames, "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.sessions", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=1 << 62, help="sessions at most")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--kept", type=Path, default=KEPT, help="where it keeps how far it is")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run a finding once more")
    options = parser.parse_args()
    if options.replay:
        return replay(options.replay)
    path = options.kept / f"sessions-{options.seed}.json"
    total = json.loads(path.read_text()) if path.exists() else {"sessions": 0, "frames": 0}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            first = total["sessions"]
            done = fuzz(server, options.seed, first, options.seconds, options.runs, options.kept)
        finally:
            server.close()
    total = {
        "sessions": total["sessions"] + done.sessions,
        "frames": total["frames"] + done.frames,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(total) + "\n")
    sys.stdout.write(
        f"sessions, {server.form}: {done.sessions} with {done.frames} frames in "
        f"{time.monotonic() - began:.0f} s, {total['sessions']} with {total['frames']} in all "
        f"runs; findings: {done.violation or 'none'}\n"
    )
    return 1 if done.violation else 0


if __name__ == "__main__":
    sys.exit(main())
