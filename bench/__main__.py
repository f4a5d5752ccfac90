"""`tradechat-bench`: the stress client, and in words of their own what else is measured."""

import sys

from bench import connections, delivery, start
from bench.cpu import cli as cpu
from bench.stress import cli
from libcli.entry import run

_OTHERS = {
    "connections": connections.main,
    "cpu": cpu.main,
    "delivery": delivery.main,
    "start": start.main,
}


def main() -> int:
    """The console script. Answers the exit code."""
    words = sys.argv[1:]
    if words and words[0] in _OTHERS:
        return _OTHERS[words[0]](words[1:])
    return cli.main(words[1:] if words[:1] == ["run"] else words)


if __name__ == "__main__":
    sys.exit(run(lambda: main))
