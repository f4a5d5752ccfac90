"""The trading chatroom server: a master, its workers, and the memory they share."""

from libproto import __version__  # libproto also chooses the form of our modules

__all__ = ["__version__"]
