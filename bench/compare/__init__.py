"""`make compare`: tradechat beside servers that people know, on one machine and in one run.

Transfers of money: the floor, a server in C that does the least that can be done; Redis, with the
transfer as a Lua script, under redis-benchmark; PostgreSQL, with the transfer as a function, under
pgbench. Messages to a room of 100 members: Redis pub/sub and NATS, under one and the same client.
What is alike and what is not is in docs/BENCH.md.
"""
