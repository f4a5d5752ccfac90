"""Measurements of the server, from outside: it is started as a process and spoken to over TCP."""

from libproto import __version__  # libproto also chooses the form of our modules

__all__ = ["__version__"]
