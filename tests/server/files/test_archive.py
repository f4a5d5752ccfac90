"""What the files process and the archive say to each other."""

import select
import socket

from server.archive.protocol import pack_hello
from server.files.archive import Asking


def test_a_greeting_that_nobody_waits_for_does_not_keep_a_poll_awake() -> None:
    mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine, other:
        mine.setblocking(False)
        asking, poll = Asking(mine), select.poll()
        poll.register(asking, select.POLLIN)
        other.send(pack_hello())
        assert poll.poll(0)
        asking.drain()
        assert not poll.poll(0)
