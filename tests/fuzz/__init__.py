"""Fuzzing: `targets.py` of what reads bytes, in memory; `sessions.py` of a server, over sockets."""
