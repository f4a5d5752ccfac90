"""Clients that share files, whatever becomes of the server meanwhile, and what they then say of it.

Each has one client_id and repeats what was not answered, as a client does: an upload goes on where
it was, a FILE_END is sent again under its req_id. The name of each file is the hash of what is in
it.
"""

import hashlib
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from bench.lab.caller import Caller, CallFailed
from bench.lab.verdict import Problem
from libnet.errors import NetError
from libproto.codec import ERROR, REQUEST, RESPONSE
from libproto.errors import Status
from libproto.messages import CHUNK_MAX, LIST_MAX, EventKind, Flag, LoginResponse, Opcode

ROOM: Final = 1
SIZES: Final = (1, 200_000)
MEDIA: Final = "application/octet-stream"
AGAIN_S: Final = 0.05  # before a lost connection is made anew
_DUPLICATE: Final = int(Flag.POSSIBLE_DUPLICATE)
_RESPONSE: Final = int(Flag.RESPONSE)


class Refused(Exception):
    """An answer that no repetition changes."""


@dataclass
class Shared:
    """What all of them have done."""

    acknowledged: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    """By file_id: room_seq and hash."""
    repeated: int = 0
    reconnects: int = 0
    problems: list[Problem] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sharer:
    """One client, in a thread of its own."""

    def __init__(self, port: int, name: str, client_id: int, seed: int, shared: Shared) -> None:
        self._port, self._name, self._client_id = port, name, client_id
        self._random = random.Random(seed)  # noqa: S311 - a run that can be repeated
        self._shared = shared
        self._caller: Caller | None = None
        self._drawn = 0
        self.stops = False
        self.give_up_at = float("inf")
        """time.monotonic(): who has not ended by then hangs."""

    # ---- requests

    def _connect(self) -> Caller:
        """NetError, CallFailed."""
        caller = Caller("127.0.0.1", self._port)
        try:
            greeting, body, answer = caller.greet(self._name)
            fields = greeting.login(body, answer, self._client_id, self._drawn + 1)
            LoginResponse._make(caller.call(Opcode.LOGIN, *fields))
            caller.call(Opcode.JOIN_ROOM, ROOM)
        except BaseException:
            caller.close()
            raise
        return caller

    def ask(self, opcode: Opcode, *fields: object, numbered: bool = False) -> tuple[Any, ...]:
        """An answer that is OK, over as many connections as that takes. Refused."""
        self._drawn += 1
        req_id, tries = self._drawn, 0
        while True:
            if time.monotonic() > self.give_up_at:
                raise Refused(f"{opcode.name} has no answer")
            try:
                if self._caller is None:
                    self._caller = self._connect()
                flags = _DUPLICATE if numbered and tries else 0
                status, found = self._once(self._caller, opcode, req_id, flags, fields)
            except (NetError, OSError, CallFailed):
                self._lose()
                tries += 1
                time.sleep(AGAIN_S)
                continue
            if status == Status.OK:
                with self._shared.lock:
                    self._shared.repeated += tries > 0
                return found
            retry_after_ms, detail = found
            if status != Status.ERR_SERVER_BUSY:
                raise Refused(f"{opcode.name} was refused, {Status(status).name}: {detail}")
            time.sleep(min(retry_after_ms / 1000, 0.2))
            if not numbered:
                self._drawn += 1
                req_id = self._drawn

    def _once(
        self, caller: Caller, opcode: Opcode, req_id: int, flags: int, fields: tuple[object, ...]
    ) -> tuple[int, tuple[Any, ...]]:
        caller.sock.sendall(REQUEST[opcode].frame(req_id, flags, *fields))
        while True:
            while (frame := caller.decoder.next()) is None:
                data = caller.sock.recv(1 << 18)
                if not data:
                    raise CallFailed("the server closed the connection")
                caller.decoder.feed(data)
            if frame[2] & _RESPONSE and frame[1] == req_id:
                codec = ERROR if frame[3] else RESPONSE[opcode]
                return frame[3], codec.decode(*frame[4:7])

    def _lose(self) -> None:
        if self._caller is not None:
            self._caller.close()
            self._caller = None
            with self._shared.lock:
                self._shared.reconnects += 1

    # ---- sharing

    def run(self) -> None:
        """Share one file after the other, until told to stop."""
        try:
            while not self.stops:
                self._share()
        except Refused as error:
            self._shared.problems.append(Problem("unexpected", f"{self._name}: {error}"))
        finally:
            self.close()

    def _share(self) -> None:
        size = self._random.randint(*SIZES)
        data = self._random.randbytes(size)
        sha256 = hashlib.sha256(data).digest()
        name = f"{sha256.hex()}.bin"
        file_id = 0
        while True:
            fields = (ROOM, size, sha256, MEDIA, name)
            file_id, received = self.ask(Opcode.FILE_BEGIN, *fields)
            try:
                while received < size:
                    chunk = data[received : received + CHUNK_MAX]
                    (received,) = self.ask(Opcode.FILE_PUT, file_id, received, chunk)
            except Refused:
                # A repeated FILE_PUT that was done already; or the upload went with the machine.
                again, arrived = self.ask(Opcode.FILE_BEGIN, *fields)
                if again == file_id and arrived < received:
                    raise
                continue
            break
        (seq,) = self.ask(Opcode.FILE_END, file_id, numbered=True)
        with self._shared.lock:
            self._shared.acknowledged[file_id] = seq, sha256

    # ---- looking at what there is

    def told(self) -> list[tuple[int, int, str]]:
        """Of each file that the room's history tells: room_seq, file_id, name. Refused."""
        after, found = 0, list[tuple[int, int, str]]()
        while True:
            *_, events = self.ask(Opcode.ROOM_HISTORY, ROOM, after, LIST_MAX)
            if not events:
                return found
            for event in events:
                if event.kind == EventKind.FILE:
                    file_id, _, _, name = event.message.split(" ", 3)
                    found.append((event.room_seq, int(file_id), name))
            after = events[-1].room_seq

    def hash_of(self, file_id: int) -> bytes:
        """Of what can be read under this number. Refused."""
        found, offset, size = hashlib.sha256(), 0, 1
        while offset < size:
            size, _, data = self.ask(Opcode.FILE_GET, file_id, offset, CHUNK_MAX)
            found.update(data)
            offset += len(data)
        return found.digest()

    def close(self) -> None:
        if self._caller is not None:
            with suppress(OSError):
                self._caller.close()
            self._caller = None


def judge(reader: Sharer, shared: Shared) -> dict[str, float]:
    """Compare what was acknowledged with what is there; problems are added. How much was compared.
    Refused."""
    told = reader.told()
    numbers = [file_id for _, file_id, _ in told]
    problems = shared.problems
    for file_id in {each for each in numbers if numbers.count(each) > 1}:
        problems.append(Problem("files_twice", f"file {file_id} is announced twice"))
    seqs = {file_id: seq for seq, file_id, _ in told}
    for file_id, (seq, _) in shared.acknowledged.items():
        if seqs.get(file_id) != seq:
            problems.append(Problem("files_lost", f"file {file_id} is not announced as {seq}"))
    for _, file_id, name in told:
        try:
            good = reader.hash_of(file_id).hex() == name.removesuffix(".bin")
        except Refused as error:
            problems.append(Problem("files_lost", f"file {file_id}: {error}"))
            continue
        if not good:
            problems.append(Problem("files_lost", f"file {file_id} is not what it was"))
    return {
        "files": len(shared.acknowledged),
        "files_read": len(told),
        "files_repeated": shared.repeated,
        "reconnects": shared.reconnects,
    }
