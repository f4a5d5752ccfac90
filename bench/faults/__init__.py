"""Faults on purpose, under load, and a verdict on what the clients then saw.

`python -m bench.faults kill9|stop|reset|journal|crash|take-over|interrupt|all`. The load records
what it sent and what it was told (`load`, `history`), a script breaks something meanwhile
(`scripts`), and the verdict is a function of the record alone (`verdict`).
"""
