"""Connections that one worker has accepted and another one serves (SCM_RIGHTS).

Each slot has a pair of sockets that keep messages apart; all workers have the sending ends of all.
A message is one descriptor. Who sends never waits: where a queue is full it serves the connection
itself. What is in the queue of a worker that has ended, the master gives to another one, or to the
server that takes the place of this one.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress

_SPACE = socket.CMSG_SPACE(4)  # of one descriptor
_MARK = b"c"  # a message without a byte would be the end of the stream


def give(to: socket.socket, sock: socket.socket) -> bool:
    """Send a connection, and close it here; False where it cannot be sent now."""
    if not give_copy(to, sock.fileno()):
        return False
    sock.close()
    return True


def give_copy(to: socket.socket, fd: int) -> bool:
    """Send a descriptor of a connection; False where it cannot be sent now."""
    try:
        socket.send_fds(to, [_MARK], [fd], socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def take(queue: socket.socket, most: int) -> Iterator[socket.socket]:
    """Those that have come, at most so many. OSError (EMFILE): there is no descriptor for one; it
    stays in the queue."""
    for _ in range(most):
        try:
            # A look first: one for whose descriptor there is no place would come without it.
            _, came, _, _ = queue.recvmsg(len(_MARK), _SPACE, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return
        if not came:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        queue.recv(len(_MARK), socket.MSG_DONTWAIT)
        for _, _, data in came:
            fd = int.from_bytes(data, sys.byteorder)
            with suppress(OSError):  # it was reset meanwhile, and is of no family any more
                yield socket.socket(fileno=fd)
