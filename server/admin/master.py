"""The connection to the master of the server on a data directory."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from server import control
from server.admin.command import NotDone
from server.control import SOCKET

_START: Final = "start one with `tradechat-server --data {}`"


@contextmanager
def connected(data: Path, answer_s: float, late: str) -> Iterator[socket.socket]:
    """A socket to it, on which each answer may take so long. late: what is said besides where it
    takes longer. NotDone: there is no server, none for this user, or no answer in time; OSError:
    the connection ended."""
    try:
        where, fd = control.address(data)
    except OSError as error:
        raise NotDone(f"the data directory {data} cannot be opened: {error.strerror}") from error
    with closing(control.make()) as sock:
        sock.settimeout(answer_s)
        try:
            sock.connect(where)
            yield sock
        except FileNotFoundError as error:
            raise NotDone(f"no server runs on {data}: {_START.format(data)}") from error
        except ConnectionRefusedError as error:
            text = f"no server runs on {data}, the last one was killed: {_START.format(data)}"
            raise NotDone(text) from error
        except PermissionError as error:
            text = f"{data / SOCKET} is of another user: run this as the server's own user, or root"
            raise NotDone(text) from error
        except (TimeoutError, BlockingIOError) as error:  # the latter: its queue is full
            raise NotDone(
                f"the server on {data} has not answered within {answer_s:g} s, and may do it yet: "
                f"{late}"
            ) from error
        finally:
            os.close(fd)
