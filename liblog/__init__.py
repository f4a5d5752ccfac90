"""Structured logging for programs of several processes: one event, one line, one write.

Every process calls `configure` for itself, after its fork; see `liblog.setup` for the reasons.
"""

from liblog.setup import FORMATS, LEVELS, bind, capture, configure, dropped, get

__all__ = ["FORMATS", "LEVELS", "bind", "capture", "configure", "dropped", "get"]
