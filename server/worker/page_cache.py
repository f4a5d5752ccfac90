"""Large contents as a worker reads them by itself: from the memory that the system caches files in.

A chunk that the files process has read is read here the next time, where its pages are still there;
where they are not, the system says so at once (RWF_NOWAIT), and the files process is asked. So no
worker waits for a disk. A chunk's checksum is kept, so its bytes are not passed over again.
"""

import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

CHUNKS_MAX: Final = 16384  # whose checksums are kept: of about a gigabyte
OPEN_MAX: Final = 32  # contents

Path = str | os.PathLike[str]


class PageCache:
    """Of one worker."""

    def __init__(self, content: Callable[[bytes], Path]) -> None:
        """content: where the contents of a hash are."""
        self._content = content
        self._crcs: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        self._fds: OrderedDict[bytes, int] = OrderedDict()
        self._works = True  # not all file systems can say what is in memory

    def note(self, sha256: bytes, offset: int, crc: int) -> None:
        """The checksum of a chunk that was read just now."""
        self._crcs[sha256, offset] = crc
        while len(self._crcs) > CHUNKS_MAX:
            self._crcs.popitem(last=False)

    def read(self, sha256: bytes, offset: int, length: int) -> tuple[bytes, int] | None:
        """A chunk and its checksum; None: it is not known here, or not all of it is in memory."""
        crc = self._crcs.get((sha256, offset))
        if crc is None or not self._works:
            return None
        data = bytearray(length)
        try:
            if os.preadv(self._opened(sha256), [data], offset, os.RWF_NOWAIT) != length:
                return None
        except BlockingIOError:
            return None
        except OSError as error:  # that it is not there, the files process tells
            self._works = error.errno != errno.EOPNOTSUPP
            return None
        return bytes(data), crc

    def _opened(self, sha256: bytes) -> int:
        fd = self._fds.get(sha256)
        if fd is None:
            while len(self._fds) >= OPEN_MAX:
                os.close(self._fds.popitem(last=False)[1])
            fd = os.open(self._content(sha256), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._fds[sha256] = fd
        else:
            self._fds.move_to_end(sha256)
        return fd

    def forget_all(self) -> None:
        """Something went from the store."""
        self._crcs.clear()
        while self._fds:
            os.close(self._fds.popitem()[1])
