"""Statuses of the wire, and the exceptions that carry them.

Two parties can break the rules, and they are told apart by type: `MisuseError` says that the
code on this side asked for something the protocol cannot express, `PeerError` says that the other
side sent something it must not send. A `PeerError` carries the status that answers it, so that
nobody has to translate exception classes into statuses.
"""

from enum import IntEnum


class Status(IntEnum):
    """The status field of a response. 0 in requests and pushes."""

    OK = 0
    ERR_BAD_PACKET = 1
    ERR_CHECKSUM_FAIL = 2
    ERR_UNAUTHORIZED = 3
    ERR_NOT_FOUND = 4
    ERR_INSUFFICIENT_FUNDS = 5
    ERR_SERVER_BUSY = 6
    ERR_TIMEOUT = 7
    ERR_ALREADY_EXISTS = 8
    ERR_INTERNAL = 9
    ERR_LIMIT = 10


class LibprotoError(Exception):
    """Base of what libproto raises."""


class MisuseError(LibprotoError, ValueError):
    """This side asked for what the wire cannot carry: a value out of range, a wrong field count."""


class PeerError(LibprotoError):
    """The peer broke the protocol; `status` is what it is answered with, `detail` says why."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.status.name}: {self.detail}"
