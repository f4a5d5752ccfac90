"""`make crash-images`: every image that the shared region takes while a worker does one thing.

The crash points of tests/server/core die before each store that Python makes. This looks below
that: a real process is stepped through an operation one machine instruction at a time (ptrace), and
whatever stands in the region after an instruction is what a SIGKILL there would leave: blocks that
are half copied, a semaphore that is taken, one with the count of a waiter. The real repair is run
on each. Of compiled code, what each word may hold is told by the same operation, interpreted.

| module | what it has |
| --- | --- |
| `tracer.py` | a process, stepped |
| `histories.py` | what the words of the region held, one after the other |
| `operations.py` | what is stepped through |
| `verdict.py` | what has to hold for each image |
"""
