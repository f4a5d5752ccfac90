"""`tradechat-bench`: the stress client; `tradechat-bench cpu` measures the server's CPU time, and
`tradechat-bench delivery` how long a message takes."""

import sys

from bench import delivery
from bench.cpu import cli as cpu
from bench.stress import cli


def main() -> int:
    """The console script. Answers the exit code."""
    words = sys.argv[1:]
    if words[:1] == ["cpu"]:
        return cpu.main(words[1:])
    if words[:1] == ["delivery"]:
        return delivery.main(words[1:])
    return cli.main(words[1:] if words[:1] == ["run"] else words)


if __name__ == "__main__":
    sys.exit(main())
