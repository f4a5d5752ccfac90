"""The client_ids of the command line: kept per server and user, so that a command does not make the
server remember one more client for each payment.

`$XDG_STATE_HOME/tradechat/clients` has up to POOL files for each server and user, each with a
client_id and its next req_id. A program takes the first that no other one holds, by a lock that
ends with the process, so that programs which run at the same time never supersede each other. The
number is advanced and synced before it is used: whatever happens, no number is used twice. A file
that is damaged is not guessed at, a fresh client_id takes its place.
Where the system has no such locks, nothing is kept.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from client import known
from client.core.numbers import REQ_ID_MAX

POOL = 8
"""Programs of one user that run at the same time and have a client_id to take up again; others get
one for themselves."""


class Identity:
    """One client_id and its numbers, held by this process."""

    def __init__(self, path: Path) -> None:
        """path: of the file, whose lock is held."""
        self._path = path
        self.client_id, self.next_req_id = _read(path) or (_fresh_id(), 1)

    def keep(self, next_req_id: int) -> None:
        """Write the next number; it is on the disk when this returns. OSError."""
        text = f"{self.client_id} {next_req_id}\n"
        _write_synced(self._path, text)
        self.next_req_id = next_req_id

    def renew(self) -> None:
        """The server does not take this client_id any more: draw a fresh one. OSError."""
        self.client_id = _fresh_id()
        self.keep(1)


def _write_synced(path: Path, text: str) -> None:
    scratch = path.with_name(path.name + ".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    scratch.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _fresh_id() -> int:
    return secrets.randbits(64) or 1


def _read(path: Path) -> tuple[int, int] | None:
    try:
        words = path.read_text(encoding="ascii").split()
        client_id, next_req_id = (int(word) for word in words)
    except (FileNotFoundError, ValueError):
        return None
    if not (0 < client_id < 2**64 and 0 < next_req_id <= REQ_ID_MAX):
        return None
    return client_id, next_req_id


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where the client_ids are."""
    return known.state_directory(environ) / "clients"


def _name(host: str, port: int, user: str) -> str:
    """What the files of a user at a server begin with."""
    return hashlib.sha256(f"{host}\n{port}\n{user}".encode()).hexdigest()[:32]


class Key:
    """A key of the caller's: a request of which it is known on this machine whether it was sent.

    Its client_id is made of the user and the key, so it is the same for every run, and on every
    machine. The server forgets a client_id that is long unused, and would carry the request out
    anew; here it stays noted, so that such a run is told that the outcome is unknown.
    """

    def __init__(self, environ: Mapping[str, str], host: str, port: int, user: str, key: str):
        """OSError where the state directory cannot be written."""
        digest = hashlib.sha256(f"key\n{user}\n{key}".encode()).digest()
        self.client_id = int.from_bytes(digest[:8], "big") or 1
        directory = state_directory(environ)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / f"{_name(host, port, user)}.key.{digest.hex()[:32]}"

    @property
    def is_used(self) -> bool:
        """Whether it was perhaps sent by an earlier run."""
        return self._path.exists()

    @property
    def mark(self) -> str:
        """What an earlier run has noted of its request; empty: nothing. OSError."""
        return self._path.read_text(encoding="ascii", errors="replace") if self.is_used else ""

    def keep(self, next_req_id: int) -> None:
        """It is about to be sent; this is on the disk when it returns. OSError."""
        del next_req_id
        if not self.is_used:
            self.note("")

    def note(self, mark: str) -> None:
        """The same, with what the next run is to know of it."""
        _write_synced(self._path, mark)


def kept_file(
    environ: Mapping[str, str], host: str, port: int, user: str, what: str
) -> Path | None:
    """The file of what a chat keeps of this user at this server, as the `inbox`, up to where it was
    read; None where the state directory cannot be written."""
    directory = state_directory(environ)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return directory / f"{_name(host, port, user)}.{what}"


@contextmanager
def identity(
    environ: Mapping[str, str], host: str, port: int, user: str
) -> Iterator[Identity | None]:
    """Hold a client_id of this user at this server; None where all of the pool are held, or the
    system has no locks to hold one by. OSError where the state directory cannot be written."""
    if not _has_locks():
        yield None
        return
    directory = state_directory(environ)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(POOL):
        path = directory / f"{_name(host, port, user)}.{number}"
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _is_locked(lock):
                yield Identity(path)
                return
        finally:
            os.close(lock)
    yield None


def _has_locks() -> bool:
    try:
        import fcntl  # noqa: F401 - only to see whether it is there: some systems have none
    except ImportError:
        return False
    return True


def _is_locked(descriptor: int) -> bool:
    """Lock a file for this process, if no other one has it."""
    import fcntl  # not at the top: some systems have none

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
