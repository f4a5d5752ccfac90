"""Connections, and what waits on them: `blocking` with sockets and a thread, `aio` on a loop."""
