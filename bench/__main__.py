"""`tradechat-bench`: the stress client, and in words of their own what else is measured."""

import sys
from collections.abc import Callable

from libcli.entry import run


def load() -> Callable[[], int]:
    """Import the program; answers what runs it."""
    from bench import connections, delivery, encryption, files, hostile, room, spread, start
    from bench.cpu import cli as cpu
    from bench.lab.cli import EXIT_FAILED
    from bench.stress import cli
    from libcli import output

    others = {
        "connections": connections.main,
        "cpu": cpu.main,
        "delivery": delivery.main,
        "encryption": encryption.main,
        "files": files.main,
        "hostile": hostile.main,
        "room": room.main,
        "spread": spread.main,
        "start": start.main,
    }

    def main() -> int:
        words = sys.argv[1:]
        if words and words[0] in others:
            return others[words[0]](words[1:])
        return cli.main(words[1:] if words[:1] == ["run"] else words)

    return lambda: output.run("tradechat-bench", main, failed=EXIT_FAILED)


if __name__ == "__main__":
    sys.exit(run(load))
