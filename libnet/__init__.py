"""Sockets for both ends: listeners, whole reads and writes with deadlines, wake-ups.

It moves bytes and knows nothing of frames' meaning; `libproto` knows the meaning and no sockets.
"""

import libproto  # noqa: F401 - it chooses the form of our modules
from libnet.errors import AddressInUse, ConnectFailed, DeadlineExceeded, NetError, PeerClosed
from libnet.sockets import connect, listen, listen_first, probe_port, readn, tune, writen
from libnet.wakeup import Wakeup

__all__ = [
    "AddressInUse",
    "ConnectFailed",
    "DeadlineExceeded",
    "NetError",
    "PeerClosed",
    "Wakeup",
    "connect",
    "listen",
    "listen_first",
    "probe_port",
    "readn",
    "tune",
    "writen",
]
