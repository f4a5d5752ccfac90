"""The worker process: one event loop, its clients, its place in the event ring."""
