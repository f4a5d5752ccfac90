"""Connections from one process to another: none is lost on the way."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from server import handover


@contextmanager
def no_descriptor() -> Iterator[None]:
    """This process can open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_without_a_descriptor_stays_in_the_queue() -> None:
    taking, giving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair()
    with closing(taking), closing(giving), closing(ours):
        assert handover.give(giving, theirs)
        assert theirs.fileno() == -1, "it is the other process's now"
        found = handover.take(taking, 1)
        with no_descriptor(), pytest.raises(OSError, match="Too many open files") as failed:
            next(found)
        assert failed.value.errno == errno.EMFILE
        (taken,) = handover.take(taking, 8)
        with closing(taken):
            taken.send(b"here")
            assert ours.recv(8) == b"here"
