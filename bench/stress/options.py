"""What a user may say: the options of the stress client, and what of them makes no sense."""

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from bench.lab.cli import number
from bench.stress.mix import NAMES, RATIO, mix_of
from client.core.address import Address, read_url
from client.core.security import AUTO, CHOICES, REQUIRE, is_loopback
from client.errors import BadUrl
from libcli.arguments import Parser
from libproto import version_of
from libproto.messages import OUTCOME_WINDOW, Opcode

PROGRAM: Final = "tradechat-bench"
PORT: Final = 7878  # a server's own default
PAYLOAD: Final = range(32, 4097)
"""Bytes of a chat message, for `in`; its head says when it was sent."""
_ABOUT: Final = """\
Put a tradechat server under load, and judge what it did: throughput, latencies, and whether its
history is consistent. A server is started for it on a free port, with its state in a temporary
directory, and ended; or name one with --host and --port, or with --url. Do that only with a server
that nobody else uses: users are registered, and messages are sent in rooms 1, 2, ...
"""
_EXAMPLES: Final = """\
examples:
  tradechat-bench                                    the mix for 10 s, as fast as it goes
  tradechat-bench --mix trade-heavy --pipeline 16 --connections 200 --zipf 1.2
  tradechat-bench --rate 5000 --duration 30 --max-p99 20
                                                     5,000 requests a second, whatever the answers
  tradechat-bench --runs 5 --csv out/trial --json    for a table
  tradechat-bench --port 7878 --pid 4242             a server of yours, and its master's pid
  tradechat-bench cpu                                the server's CPU time per request

exit codes: 0 good, 1 the verdict on the history is bad, 2 wrong usage, 3 there is no result:
the server does not start, or users cannot log in, 4 a threshold (--max-failed, --max-p99,
--min-rate) is not met, or nothing succeeded, 130 interrupted, 143 terminated; in both cases with a
report of what was done before
"""


@dataclass(frozen=True, slots=True)
class Options:
    """All of them, checked."""

    host: str
    port: int  # 0: a server of our own
    pid: int  # of the named server's master; 0: not known
    workers: int  # of our own server
    server_flags: tuple[str, ...]
    processes: int
    threads: int
    connections: int
    pipeline: int  # requests in flight on a connection, at most
    rate: float  # requests per second; 0: closed loop
    mix: str
    shares: dict[Opcode, float]
    payload: int  # bytes
    accounts: int
    zipf: float
    hot_accounts: int  # 0: all
    funds: int  # cents
    rooms: int
    fanout: int
    slow_consumers: int
    kill_every: float  # s; 0: never
    restart_every: float  # s; 0: never
    duration: float  # s
    warmup: float  # s
    runs: int
    seed: int
    timeout: float  # s
    max_p99: float  # ms; 0: any
    max_failed: float  # percent
    min_rate: float  # successes per second; 0: any
    json: bool
    csv: str
    hgrm: str
    ignore_busy: bool
    apart: bool
    interpreted: bool
    encrypt: str

    @property
    def encrypts(self) -> bool:
        """All connections of the load are encrypted."""
        return self.encrypt == REQUIRE or (self.encrypt == AUTO and not is_loopback(self.host))

    @property
    def is_own(self) -> bool:
        """The server is started for the load."""
        return not self.port

    @property
    def is_open(self) -> bool:
        """Requests are sent when they are due, not when the one before is answered."""
        return self.rate > 0

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        found["shares"] = {opcode.name: share for opcode, share in self.shares.items()}
        return found

    @classmethod
    def from_object(cls, found: dict[str, Any]) -> "Options":
        """What `as_object` gave, after a way through JSON."""
        shares = {Opcode[name]: share for name, share in found["shares"].items()}
        return cls(**found | {"shares": shares, "server_flags": tuple(found["server_flags"])})


class _Flag(NamedTuple):
    """An option: `--name METAVAR`, what reads its value, its default, its help."""

    flag: str
    kind: Callable[[str], Any]
    default: Any
    about: str


_CONNECTIONS: Final = 100
_THREADS: Final = 8
_PROCESSES_MAX: Final = 8
_ACCOUNTS: Final = 1000
_HOST: Final = "127.0.0.1"


def _server(text: str) -> Address:
    try:
        address = read_url(text)
    except BadUrl as error:
        raise argparse.ArgumentTypeError(error.rule) from error
    if address.username is not None or address.settings:
        raise argparse.ArgumentTypeError(
            "it names a user or options: leave them out, the users are registered for the load"
        )
    return address


_POSITIVE: Final = number(0.001, 1e7, float)
_GROUPS: Final[dict[str, tuple[_Flag, ...]]] = {
    "the load": (
        _Flag(
            "--connections N",
            number(1, 100_000),
            None,
            f"one user each, over all threads (default {_CONNECTIONS}, or what the rooms need)",
        ),
        _Flag(
            "--threads N",
            number(1, 1024),
            None,
            f"over all processes (default {_THREADS}, or as many as there are connections)",
        ),
        _Flag(
            "--processes N",
            number(1, 64),
            None,
            "load processes (default: the cores, at most 8, or as many as there are threads)",
        ),
        _Flag(
            "--pipeline N",
            number(1, OUTCOME_WINDOW),
            None,
            "requests in flight on a connection, at most (default 1; with --rate, 64)",
        ),
        _Flag(
            "--rate N",
            _POSITIVE,
            0,
            "open loop: so many requests per second, over all; latency counts from when a request "
            "was due. Without it, closed loop: the next request follows the answer",
        ),
        _Flag(
            "--mix MIX",
            str,
            "mixed",
            f"{', '.join(NAMES)}, or a TOML file of `OPERATION = weight`",
        ),
        _Flag(
            "--ratio T:W:D:B",
            str,
            RATIO,
            "of TRANSFER:WITHDRAW:DEPOSIT:BALANCE in trade-heavy, mixed",
        ),
        _Flag("--payload BYTES", number(PAYLOAD[0], PAYLOAD[-1]), 64, "bytes of a chat message"),
        _Flag(
            "--timeout S",
            _POSITIVE,
            5.0,
            "seconds to wait for an answer; then the connection is closed",
        ),
        _Flag("--seed N", int, 1, "of what is random"),
    ),
    "how long": (
        _Flag("--duration S", _POSITIVE, 10.0, "seconds that are measured, of a run"),
        _Flag("--warmup S", number(0, 1e6, float), 2.0, "seconds before them, of each run"),
        _Flag("--runs N", number(1, 1000), 1, "one after the other; their spread is reported"),
    ),
    "money": (
        _Flag(
            "--accounts N",
            number(2, 1_000_000),
            None,
            f"that are paid (default {_ACCOUNTS}); not less than users",
        ),
        _Flag("--zipf S", number(0, 10, float), 0.0, "account n is paid in proportion to 1/n**S"),
        _Flag("--hot-accounts N", number(0, 1_000_000), 0, "only the first so many are paid"),
        _Flag("--funds CENTS", number(1, 10**12), 10**9, "cents that each user has at first"),
    ),
    "chat": (
        _Flag(
            "--fanout N",
            number(1, 100_000),
            None,
            "members of a room (default: 10, or the connections over --rooms)",
        ),
        _Flag(
            "--rooms N",
            number(1, 65536),
            None,
            "rooms (default: as few as give everybody one)",
        ),
        _Flag(
            "--slow-consumers N",
            number(0, 10_000),
            0,
            "additional members, who read more slowly than is sent",
        ),
    ),
    "the server": (
        _Flag(
            "--host ADDRESS",
            str,
            None,
            f"address of a server that runs already (with --port, default {_HOST})",
        ),
        _Flag("--port N", number(1, 65535), None, f"its port (with --host, default {PORT})"),
        _Flag("--url URL", _server, None, "the same as one URL, tradechat://host:port"),
        _Flag("--pid N", number(1, 2**22), 0, "its master's process id, to measure its CPU time"),
        _Flag("--workers N", number(1, 64), 2, "worker processes of our own server"),
        _Flag("--kill-every S", _POSITIVE, 0, "SIGKILL a random worker every so many seconds"),
        _Flag(
            "--restart-every S",
            _POSITIVE,
            0,
            "SIGHUP to the server every so many seconds: it replaces its workers, and no client may"
            " lose its connection",
        ),
    ),
    "what is told": (
        _Flag(
            "--csv PREFIX",
            str,
            "",
            "write PREFIX-runs.csv, PREFIX-seconds.csv and PREFIX-counted.csv",
        ),
        _Flag(
            "--hgrm PREFIX",
            str,
            "",
            "write PREFIX-runN-OPERATION.hgrm, for HdrHistogram's tools",
        ),
        _Flag("--max-p99 MS", _POSITIVE, 0, "milliseconds; a run above them ends with exit code 4"),
        _Flag(
            "--max-failed PERCENT",
            number(0, 100, float),
            1.0,
            "of the requests that fail or are never sent; a run above ends with exit code 4",
        ),
        _Flag(
            "--min-rate N",
            _POSITIVE,
            0,
            "successes per second; a run below ends with exit code 4",
        ),
    ),
}


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog=PROGRAM,
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=version_of(PROGRAM))
    groups = {title: made.add_argument_group(title) for title in _GROUPS}
    for title, flags in _GROUPS.items():
        for flag, kind, default, about in flags:
            name, _, metavar = flag.partition(" ")
            known = "" if default in (None, "", 0) else f" (default {default})"
            groups[title].add_argument(
                name, type=kind, default=default, help=about + known, metavar=metavar
            )
    groups["the server"].add_argument(
        "--server-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="of our own server, as --server-flag=--account-locks=1; may be repeated",
    )
    groups["the load"].add_argument(
        "--ignore-busy",
        action="store_true",
        help="with --rate: send what is due, whatever time ERR_SERVER_BUSY asks for, as users would"
        " who know nothing of each other",
    )
    groups["the server"].add_argument(
        "--encrypt",
        choices=CHOICES,
        default=AUTO,
        metavar="HOW",
        help="auto (as it is): encrypted connections, unless the host is this machine; require;"
        " off. Who the server is, is not looked at",
    )
    groups["the server"].add_argument(
        "--apart",
        action="store_true",
        help="our own server on the first half of the cores, the load on the others; where there is"
        " only one, both on that",
    )
    groups["the server"].add_argument(
        "--interpreted", action="store_true", help="our own server interpreted, though compiled"
    )
    groups["what is told"].add_argument(
        "--json", action="store_true", help="one JSON object, not a table"
    )
    return made


def parse(words: list[str]) -> Options:
    """SystemExit with code 2 where the words make no sense."""
    made = parser()
    found = vars(made.parse_args(words))
    try:
        found["shares"] = mix_of(found["mix"], found.pop("ratio"))
    except ValueError as error:
        made.error(f"--mix, --ratio: {error}")
    found["server_flags"] = tuple(found.pop("server_flag"))
    if found["pipeline"] is None:
        found["pipeline"] = OUTCOME_WINDOW if found["rate"] else 1
    if found["url"] and (found["host"] or found["port"]):
        made.error("--url names the host and the port: give it without --host and --port")
    _fit(found)
    options = Options(**found)
    if wrong := _contradiction(options):
        made.error(wrong)
    return options


def _fit(found: dict[str, Any]) -> None:
    """Whatever was not said, so that it agrees with what was."""
    url = found.pop("url")
    if url is not None:
        found["host"], found["port"] = url.host, url.port
    if found["port"] is None:
        found["port"] = 0 if found["host"] is None else PORT
    if found["host"] is None:
        found["host"] = _HOST
    rooms, fanout = found["rooms"], found["fanout"]
    if found["connections"] is None:
        wanted = max(_CONNECTIONS, fanout or 0)
        found["connections"] = min(wanted, rooms * fanout) if rooms and fanout else wanted
    connections = found["connections"]
    if found["threads"] is None:
        found["threads"] = min(max(_THREADS, found["processes"] or 0), connections)
    if found["processes"] is None:
        found["processes"] = min(os.cpu_count() or 1, _PROCESSES_MAX, found["threads"])
    if fanout is None:
        found["fanout"] = math.ceil(connections / rooms) if rooms else min(10, connections)
    if rooms is None:
        found["rooms"] = math.ceil(connections / found["fanout"])
    if found["accounts"] is None:
        found["accounts"] = max(_ACCOUNTS, found["hot_accounts"])
    found["accounts"] = max(found["accounts"], connections)


def _contradiction(options: Options) -> str:
    if not options.processes <= options.threads <= options.connections:
        return "--threads must not be less than --processes, nor more than --connections"
    if options.fanout > options.connections:
        return "--fanout must not be more than --connections: they are the members"
    if options.rooms * options.fanout < options.connections:
        return "--rooms times --fanout must not be less than --connections: all are in a room"
    if options.hot_accounts > options.accounts:
        return "--hot-accounts must not be more than --accounts"
    if options.pid and not options.port:
        return "--pid is of the server on --port: name that too"
    if options.kill_every and options.port and not options.pid:
        return "--kill-every needs --pid, the master of the server on --port"
    if options.restart_every and options.port and not options.pid:
        return "--restart-every needs --pid, the master of the server on --port"
    if options.ignore_busy and not options.is_open:
        return "--ignore-busy needs --rate: without it a request waits for the answer before it"
    if (options.apart or options.interpreted) and options.port:
        return "--apart and --interpreted are for our own server, not for one that is named"
    if options.server_flags and options.port:
        return "--server-flag is for our own server, not for one that is named"
    return ""
