"""The stress client: a load that users choose, its latencies, and a verdict on its own history.

`run` leads: it starts a server (unless one is named), the load processes (`fleet`), and tells them
when a run begins and ends. Each process (`worker`) has threads, each thread (`load`) an epoll loop
over its connections (`connection`), and writes down what it sees (`record`, `rooms`, by `notes`).
What is on the way of a request is compiled: the load shares the cores with what it measures.
Afterwards the leader puts the parts together: figures (`results`), and the verdict (`ledger`,
`rooms`).
"""
