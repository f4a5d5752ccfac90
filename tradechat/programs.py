"""The console scripts. Each is loaded only where an interrupt is an end in order."""

from collections.abc import Callable

from libcli.entry import run


def admin() -> int:
    """`tradechat-admin`. Answers the exit code, as each of them."""

    def load() -> Callable[[], int]:
        from server.admin.cli import main

        return main

    return run(load)


def bench() -> int:
    """`tradechat-bench`."""

    def load() -> Callable[[], int]:
        from bench.__main__ import main

        return main

    return run(load)


def cli() -> int:
    """`tradechat-cli`."""

    def load() -> Callable[[], int]:
        from client.cli.program import main

        return main

    return run(load)


def server() -> int:
    """`tradechat-server`."""

    def load() -> Callable[[], int]:
        from server.__main__ import load

        return load()

    return run(load)
