"""Errors of sockets, as types: a caller decides by class and never by errno or text."""


class NetError(OSError):
    """A socket could not do what was asked; the message names the address and the reason."""


class AddressInUse(NetError):
    """Another process listens on this address."""


class ConnectFailed(NetError):
    """No connection came about: refused, unreachable, not resolved, or not in time."""


class _TransferError(NetError):
    """A transfer ended early; the stream is out of step unless `transferred` is 0."""

    def __init__(self, message: str, transferred: int) -> None:
        super().__init__(message)
        self.transferred = transferred
        """Bytes received, or given to the kernel to send, before the end."""


class DeadlineExceeded(_TransferError, TimeoutError):
    """The deadline passed before all bytes were transferred."""


class PeerClosed(_TransferError, ConnectionError):
    """The peer closed or lost the connection before all bytes were transferred."""
