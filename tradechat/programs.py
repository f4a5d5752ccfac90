"""The console scripts. Each is loaded only where an interrupt is an end in order."""

from libcli.early import end_at_signals

end_at_signals()  # before anything else is imported, which may take long

TYPE_CHECKING = False  # as type checkers know it, without the import of `typing`
if TYPE_CHECKING:
    from collections.abc import Callable


def _run(load: "Callable[[], Callable[[], int]]") -> int:
    from libcli.entry import run

    return run(load)


def admin() -> int:
    """`tradechat-admin`. Answers the exit code, as each of them."""

    def load() -> "Callable[[], int]":
        from server.admin.cli import main

        return main

    return _run(load)


def bench() -> int:
    """`tradechat-bench`."""

    def load() -> "Callable[[], int]":
        from bench.__main__ import load

        return load()

    return _run(load)


def cli() -> int:
    """`tradechat-cli`."""

    def load() -> "Callable[[], int]":
        from client.cli.program import main

        return main

    return _run(load)


def server() -> int:
    """`tradechat-server`."""

    def load() -> "Callable[[], int]":
        from server.__main__ import load

        return load()

    return _run(load)
