"""Structured logging for programs of several processes: one event, one line, one write.

Every process calls `configure` for itself, after its fork; see `liblog.setup` for the reasons.
No process ever waits for its log; see `liblog.sink`.

How an event is written, so that a program can rely on it and a person can read it:

- The event is a short stable key in snake_case that names what happened: `process_died`. It never
  changes with the values, and a program may match on it.
- Facts are fields, under the same name everywhere: `reason` (an error's text, never parsed),
  `path`, `process` ("worker 3"), `child_pid`, `signal`, `exit_code`, `seconds`.
- `advice` is a field as well: what the operator can do, as a sentence; on warnings and errors that
  the operator can do something about.
- Levels: error, the service is worse until somebody acts; warning, something went wrong and was
  dealt with; info, the life of the server; debug, each request.
"""

from liblog.seldom import Seldom
from liblog.setup import FORMATS, LEVELS, bind, capture, configure, dropped, get, reopen

__all__ = [
    "FORMATS",
    "LEVELS",
    "Seldom",
    "bind",
    "capture",
    "configure",
    "dropped",
    "get",
    "reopen",
]
