"""The key that says who a server is, in its data directory.

It is made at the first start and stays: clients that have seen its fingerprint refuse a server with
another one. It is a secret, and a part of what is backed up, so that a server which is restored
elsewhere is the same to its clients.
"""

from pathlib import Path

from libproto.sealing import ServerKey
from server.journal.directory import DirectoryUnusable
from server.journal.disk import Disk, read_file
from server.journal.format import SERVER_KEY, TEMPORARY


def read_key(disk: Disk, directory: Path) -> ServerKey | None:
    """The key of the server that has this data directory; None where there is none yet.
    DirectoryUnusable, OSError."""
    if SERVER_KEY not in disk.names(directory):
        return None
    path = directory / SERVER_KEY
    try:
        return ServerKey.from_pem(read_file(disk, path))
    except ValueError as error:
        raise DirectoryUnusable(
            f"{path} is damaged ({error}): put it back from a backup; without it, remove the file: "
            "the next start makes another, and clients will say that the server's identity changed"
        ) from error


def keep_key(disk: Disk, directory: Path) -> tuple[ServerKey, bool]:
    """The key, made and kept for good where there is none; was it made? DirectoryUnusable,
    OSError."""
    key = read_key(disk, directory)
    if key is not None:
        return key, False
    key = ServerKey.generate()
    temporary = directory / (SERVER_KEY + TEMPORARY)
    if temporary.name in disk.names(directory):
        disk.remove(temporary)  # of a start that was killed
    fd = disk.create(temporary)
    try:
        disk.write(fd, [key.to_pem()], 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(temporary, directory / SERVER_KEY)
    disk.sync_directory(directory)
    return key, True
