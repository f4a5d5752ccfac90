"""Measurements of the server, from outside: it is started as a process and spoken to over TCP."""
