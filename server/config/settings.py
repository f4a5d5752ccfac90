"""The server's settings: one table, from which everything else about them is made.

The table is the dataclass `Settings`. Each field carries its bounds, unit and help text; from it
come the flags of `tradechat-server`, the names in the environment and in the configuration file
(sources.py), the checks, and docs/SETTINGS.md (`python -m server.documents settings`).

Whatever is wrong is said at once, each problem with the setting, where its value came from, and
what is allowed.
"""

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, fields
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

import liblog
from libproto.messages import MAX_BALANCE, MIN_ITERATIONS
from libproto.scram import NEW_ITERATIONS
from server.config.cores import cores_available
from server.config.limits import BEYOND_LOOPBACK, LIMITS, Limits
from server.config.spec import DEFAULT, ConfigError, Setting, Source, Spec, setting

WORKERS_MAX = 64


def is_loopback(host: str) -> bool:
    """Tell whether `host` surely means this machine only; a name other than localhost may not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _default_workers() -> int:
    return min(cores_available(), WORKERS_MAX)


LISTENING = "Listening"
SERVER = "Server"
DURABILITY = "Durability"
CAPACITY = "Capacity of the shared region"
PEOPLE = "People and chat"
FILES = "Files in rooms"
TIMES = "Times and overload"
LOG = "Log"
GROUPS = (LISTENING, SERVER, DURABILITY, CAPACITY, PEOPLE, FILES, LIMITS, TIMES, LOG)
"""In the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class Settings(Limits):
    """Every setting of the server, checked: an object of this class never holds a wrong value.

    Making one raises ConfigError. `sources` says, for its message, where the values came from.
    """

    host: str = setting(
        "127.0.0.1",
        LISTENING,
        "address to listen on, IPv4, IPv6 or a name; 0.0.0.0 and :: mean all addresses",
        pattern=r"[^\s/]+",
        pattern_text="an address or a host name",
    )
    port: int = setting(
        7878,
        LISTENING,
        "TCP port to listen on",
        minimum=1,
        maximum=65535,
        zero="a free port, named in the line `ready`",
    )
    max_connections: int = setting(
        4096,
        LISTENING,
        "connections at a time over all workers; one more is answered ERR_SERVER_BUSY",
        unit="connections",
        minimum=1,
        maximum=1 << 20,
    )
    admin_host: str = setting(
        "127.0.0.1",
        LISTENING,
        "address of the admin port; whoever can connect sees the server's figures, nothing else",
        pattern=r"[^\s/]+",
        pattern_text="an address or a host name",
    )
    admin_port: int = setting(
        7879,
        LISTENING,
        "TCP port with /health, /metrics, /stats and a page for a browser, over HTTP",
        minimum=1,
        maximum=65535,
        zero="none",
    )
    run_as: str = setting(
        "",
        SERVER,
        "user to become, once the port is listened on; root alone can. Empty: stay who started it",
        pattern=r"[A-Za-z0-9_.-]{0,32}",
        pattern_text="the name of a user of this machine",
        default_text="nobody else",
    )
    workers: int = setting(
        _default_workers,
        SERVER,
        "worker processes",
        unit="processes",
        minimum=1,
        maximum=WORKERS_MAX,
        default_text=f"the cores that it may use, at most {WORKERS_MAX}",
        reload=True,
    )
    max_workers: int = setting(
        0,
        SERVER,
        "most workers that SIGTTIN or a new value of workers can make; each has its part of the"
        " region reserved; not less than workers",
        unit="processes",
        minimum=1,
        maximum=WORKERS_MAX,
        zero=f"twice workers, at most {WORKERS_MAX}",
    )
    balance: str = setting(
        "on",
        SERVER,
        "whether a worker that accepts a connection gives it to another one that has clearly"
        " fewer, or is clearly less late; off: each keeps what the kernel gives it",
        choices=("on", "off"),
    )
    data: Path = setting(  # noqa: RUF009 - it makes a field
        Path("data"),
        SERVER,
        "directory of all files that the server keeps; a relative path starts in the directory"
        " that the server is started in",
    )
    name: str = setting(
        "",
        SERVER,
        "name of the shared region in /dev/shm; empty is the default",
        pattern=r"(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?",
        pattern_text="up to 64 of A-Z a-z 0-9 _ . -, the first a letter or a digit",
        default_text="tradechat-PORT",
    )
    durability: str = setting(
        "sync",
        DURABILITY,
        "sync: an answer leaves once it would survive a power cut; async: within flush_interval"
        " after it; none: memory only, nothing is written or read",
        choices=("sync", "async", "none"),
    )
    flush_interval: float = setting(
        0.01,
        DURABILITY,
        "with async, longest time that an answered change is in memory only, besides one write",
        unit="s",
        minimum=0.001,
        maximum=10.0,
    )
    segment_size: int = setting(
        16, DURABILITY, "size of a journal file", unit="MiB", minimum=1, maximum=1024
    )
    snapshot_size: int = setting(
        64,
        DURABILITY,
        "make a snapshot after this much journal",
        unit="MiB",
        minimum=1,
        maximum=1 << 20,
    )
    snapshot_interval: float = setting(
        300.0,
        DURABILITY,
        "make a snapshot after this time, if anything has changed",
        unit="s",
        minimum=1.0,
        maximum=86400.0,
        zero="only by snapshot_size, and at the end",
    )
    history_size: int = setting(
        1024,
        DURABILITY,
        "size of the journal kept for TXN_HISTORY; what a restart needs is always kept",
        unit="MiB",
        minimum=1,
        maximum=1 << 20,
    )
    history_days: float = setting(
        0.0,
        DURABILITY,
        "how long the journal is kept for TXN_HISTORY that history_size has no place for:"
        " compressed, however much it is",
        unit="days",
        minimum=0.001,
        maximum=36500.0,
        zero="not at all",
    )
    room_history: int = setting(
        1000,
        DURABILITY,
        "events kept of each room for ROOM_HISTORY; who joined and left is counted apart, and"
        " pushes nothing out that was said",
        unit="events",
        minimum=1,
        maximum=1_000_000,
    )
    inbox_history: int = setting(
        1000,
        DURABILITY,
        "direct messages kept of each user for INBOX_HISTORY; one sender can fill at most a"
        " tenth of them",
        unit="messages",
        minimum=1,
        maximum=1_000_000,
    )
    archive_lag_max: int = setting(
        256,
        DURABILITY,
        "how far the histories of rooms and inboxes may lag behind; beyond it, requests that"
        " create events are refused until the archive has caught up",
        unit="MiB",
        minimum=1,
        maximum=1 << 20,
    )
    accounts: int = setting(
        4096, CAPACITY, "users that can register", unit="users", minimum=1, maximum=1 << 20
    )
    clients: int = setting(
        4096,
        CAPACITY,
        "client records (user and client_id) with the outcomes needed for exactly-once retries",
        unit="clients",
        minimum=1,
        maximum=1 << 20,
    )
    client_retention: float = setting(
        86400.0,
        CAPACITY,
        "how long a client record without a session is kept once another user's client needs "
        "its place; only the time that the server runs counts",
        unit="s",
        minimum=1.0,
        maximum=31_536_000.0,
    )
    client_grace: float = setting(
        600.0,
        CAPACITY,
        "for this time after a start, no client record is removed that was in use within "
        "client_retention before it",
        unit="s",
        minimum=1.0,
        maximum=31_536_000.0,
    )
    sessions: int = setting(
        8192,
        CAPACITY,
        "sessions; not less than max_connections",
        unit="sessions",
        minimum=1,
        maximum=1 << 20,
    )
    rooms: int = setting(
        256, CAPACITY, "rooms, numbered from 1", unit="rooms", minimum=1, maximum=1 << 16
    )
    numbered_rooms: int = setting(
        64,
        CAPACITY,
        "rooms that are there without being opened; those above are opened by name",
        unit="rooms",
        minimum=1,
        maximum=1 << 16,
    )
    room_retention: float = setting(
        2_592_000.0,
        CAPACITY,
        "how long the number of a room that was closed is not used for another",
        unit="s",
        minimum=0.001,
        maximum=315_360_000.0,
    )
    room_roles: int = setting(
        8192,
        CAPACITY,
        "roles that users may have in rooms, in all: members by invitation, moderators, muted, "
        "banned",
        unit="roles",
        minimum=16,
        maximum=1 << 22,
    )
    offers: int = setting(
        4096,
        CAPACITY,
        "entries on the boards of all rooms together",
        unit="entries",
        minimum=1,
        maximum=1 << 20,
    )
    board_entries: int = setting(
        256,
        PEOPLE,
        "entries on the board of one room",
        unit="entries",
        minimum=1,
        maximum=1 << 16,
        reload=True,
    )
    blocks: int = setting(
        8192,
        CAPACITY,
        "users that others block, in all",
        unit="blocks",
        minimum=16,
        maximum=1 << 22,
    )
    txn_ring: int = setting(
        65536,
        CAPACITY,
        "transactions kept in memory: the queue to the journal, and recent history",
        unit="records",
        minimum=64,
        maximum=1 << 24,
        power_of_two=True,
    )
    event_ring: int = setting(
        2048,
        CAPACITY,
        "chat events kept in memory: how far a worker may lag, and recent history of rooms",
        unit="events",
        minimum=16,
        maximum=1 << 20,
        power_of_two=True,
    )
    account_locks: int = setting(
        0,
        CAPACITY,
        "locks that the accounts share; not more than accounts",
        unit="locks",
        minimum=1,
        maximum=1 << 20,
        zero="one for each account",
    )
    registration: str = setting(
        "",
        PEOPLE,
        "whether anybody who can connect may register",
        choices=("open", "closed"),
        default_text="open where host is a loopback address, else closed",
        reload=True,
    )
    require_encryption: str = setting(
        "",
        PEOPLE,
        "whether only encrypted connections are served; REGISTER is for them and for connections"
        " from this machine alone in any case",
        choices=("on", "off"),
        default_text="off where host is a loopback address, else on",
        reload=True,
    )
    scram_iterations: int = setting(
        NEW_ITERATIONS,
        PEOPLE,
        "iterations of PBKDF2 over a new password, which its client computes; higher is slower to"
        " guess and slower to log in (the default takes about 50 ms of a core)",
        unit="iterations",
        minimum=MIN_ITERATIONS,
        maximum=10_000_000,
        reload=True,
    )
    login_failures: int = setting(
        10,
        PEOPLE,
        "wrong passwords for one name from one address, ten times as many from one address, after"
        " which logins are answered later and later; right ones as well, until time has passed",
        unit="failures",
        minimum=1,
        maximum=1_000_000,
        zero="logins are never delayed",
        reload=True,
    )
    max_balance: int = setting(
        MAX_BALANCE,
        PEOPLE,
        "most money that one account may have; a payment that would exceed it is refused",
        unit="minor units",
        minimum=1,
        maximum=MAX_BALANCE,
        reload=True,
    )
    deposits: str = setting(
        "",
        PEOPLE,
        "who may deposit and withdraw: everybody, users with the role of teller or operator, or"
        " nobody; the operator moves money by `tradechat-admin ledger`",
        choices=("open", "tellers", "closed"),
        default_text="open where host is a loopback address, else tellers",
        reload=True,
    )
    min_transfer: int = setting(
        1,
        PEOPLE,
        "least that a payment to another user may be",
        unit="minor units",
        minimum=1,
        maximum=MAX_BALANCE,
        reload=True,
    )
    max_transfer: int = setting(
        MAX_BALANCE,
        PEOPLE,
        "most that a payment to another user may be; not less than min_transfer",
        unit="minor units",
        minimum=1,
        maximum=MAX_BALANCE,
        reload=True,
    )
    max_message: int = setting(
        4096, PEOPLE, "longest chat message", unit="bytes", minimum=1, maximum=32768
    )
    max_file: int = setting(
        16, FILES, "largest file that users may share", unit="MiB", minimum=1, maximum=4096
    )
    files_max_bytes: int = setting(
        1 << 30,
        FILES,
        "most space of the disk for files, unfinished uploads included; then no more are taken",
        unit="bytes",
        minimum=1 << 20,
        maximum=1 << 50,
    )
    files_user_bytes: int = setting(
        256 << 20,
        FILES,
        "the part of that space that the files of one user may take",
        unit="bytes",
        minimum=1 << 20,
        maximum=1 << 50,
    )
    file_retention: int = setting(
        30,
        FILES,
        "how long a file is kept after it was shared the last time",
        unit="days",
        minimum=1,
        maximum=36500,
    )
    segments: int = setting(
        16,
        FILES,
        "shared segments of 64 KiB each that a worker has for chunks of files",
        unit="segments",
        minimum=2,
        maximum=1024,
    )
    segment_timeout: float = setting(
        5.0,
        FILES,
        "how long a request for a file waits for the files process before it is answered "
        "ERR_SERVER_BUSY",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
    )
    link_hosts: str = setting(
        "",
        FILES,
        "hosts from which the server fetches links that users send: names, parted by blanks or"
        " commas; NAME:PORT where it is not 80 or 443, NAME=ADDRESS for one inside your network;"
        " empty: none",
        pattern=r"[A-Za-z0-9.:=,_\[\] -]*",
        pattern_text="host names, with ports and addresses",
    )
    link_ttl: float = setting(
        300.0,
        FILES,
        "how long a link that was fetched is not fetched again, where its origin does not say",
        unit="s",
        minimum=1.0,
        maximum=31_536_000.0,
    )
    file_cache_mb: int = setting(
        16,
        FILES,
        "memory of each worker for files of at most 1 MiB that were read lately",
        unit="MiB",
        minimum=1,
        maximum=65536,
        zero="no cache",
    )
    heartbeat: int = setting(
        15,
        TIMES,
        "how often clients are asked to send HEARTBEAT; less than idle_timeout",
        unit="s",
        minimum=1,
        maximum=65535,
        reload=True,
    )
    idle_timeout: int = setting(
        60,
        TIMES,
        "close a connection that has sent no valid frame for this time",
        unit="s",
        minimum=1,
        maximum=65535,
        reload=True,
    )
    handshake_timeout: float = setting(
        10.0,
        TIMES,
        "close a connection that has not logged in within this time",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
        reload=True,
    )
    graceful_timeout: float = setting(
        10.0,
        TIMES,
        "time to answer and flush after SIGTERM or SIGINT, before workers are killed",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
    )
    drain_timeout: float = setting(
        30.0,
        TIMES,
        "how long a worker that is being replaced serves its clients, which are asked to connect"
        " elsewhere; it ends once all have left",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
        reload=True,
    )
    worker_timeout: float = setting(
        10.0,
        TIMES,
        "kill and replace a worker that has not responded for this time",
        unit="s",
        minimum=1.0,
        maximum=3600.0,
        reload=True,
    )
    lag_limit: float = setting(
        0.05,
        TIMES,
        "how late a worker may be in reading what clients sent; one that stays later is overloaded"
        " and answers requests ERR_SERVER_BUSY, chat first",
        unit="s",
        minimum=0.01,
        maximum=60.0,
        zero="no limit",
        reload=True,
    )
    queue_limit: int = setting(
        20_000,
        TIMES,
        "answers of a worker that may wait for the disk; one that has more is overloaded likewise",
        unit="answers",
        minimum=1,
        maximum=100_000_000,
        zero="no limit",
        reload=True,
    )
    shed: str = setting(
        "ledger",
        TIMES,
        "what an overloaded worker may refuse at most: chat alone; new logins, when all chat is"
        " refused; ledger requests, when all of these are",
        choices=("chat", "logins", "ledger"),
        reload=True,
    )
    stats_interval: float = setting(
        5.0,
        TIMES,
        "how often the master logs a line of totals, if they have changed",
        unit="s",
        minimum=0.1,
        maximum=86400.0,
        zero="never",
        reload=True,
    )
    log_level: str = setting("info", LOG, "minimum level to log", choices=liblog.LEVELS)
    log_format: str = setting(
        "auto",
        LOG,
        "format of the lines; auto is console on a terminal, else json",
        choices=liblog.FORMATS,
    )
    log_file: Path | None = setting(  # noqa: RUF009 - it makes a field
        None,
        LOG,
        "file that log lines are added to; empty is standard error",
        default_text="standard error",
    )
    audit_file: Path | None = setting(  # noqa: RUF009 - it makes a field
        None,
        LOG,
        "file of the audit log: who has logged in, failed, been refused or changed, by whom and"
        " from where; empty is the default",
        default_text="audit.log in data, or none with durability none",
    )
    sources: InitVar[Mapping[str, Source] | None] = None

    def __post_init__(self, sources: Mapping[str, Source] | None) -> None:
        for name, elsewhere in (("registration", "closed"), ("deposits", "tellers")):
            if not getattr(self, name) and (sources is None or sources[name] == DEFAULT):
                chosen = "open" if is_loopback(self.host) else elsewhere
                object.__setattr__(self, name, chosen)
        if sources is not None and not is_loopback(self.host):
            for name, limit in BEYOND_LOOPBACK.items():
                if sources[name] == DEFAULT:
                    object.__setattr__(self, name, limit)
        if not self.require_encryption and (
            sources is None or sources["require_encryption"] == DEFAULT
        ):
            chosen = "off" if is_loopback(self.host) else "on"
            object.__setattr__(self, "require_encryption", chosen)
        problems = list(_problems(self, sources))
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def unauthenticated_limit(self) -> int:
        """How many connections there may be that are not logged in."""
        return self.unauthenticated_connections or max(1, self.max_connections // 2)

    @property
    def seats(self) -> int:
        """How many workers there can be."""
        return self.max_workers or min(2 * self.workers, WORKERS_MAX)

    def name_on(self, port: int) -> str:
        """Return the server's name, given the port it listens on (known late where that is 0)."""
        return self.name or f"tradechat-{port}"


def _rows() -> Iterator[Setting]:
    hints = get_type_hints(Settings)
    by_group = sorted(fields(Settings), key=lambda each: GROUPS.index(each.metadata["spec"].group))
    for each in by_group:
        hint = hints[each.name]
        kind, *none = get_args(hint) or (hint,)
        spec: Spec = each.metadata["spec"]
        yield Setting(each.name, kind, bool(none), spec.default_text or str(each.default), spec)


SETTINGS: tuple[Setting, ...] = tuple(_rows())


class Rule(NamedTuple):
    """What must hold between settings; `text` says so, and what it is good for."""

    names: tuple[str, ...]
    holds: Callable[[Settings], bool]
    text: str


RULES = (
    Rule(
        ("heartbeat", "idle_timeout"),
        lambda s: s.heartbeat < s.idle_timeout,
        "heartbeat must be less than idle_timeout: clients that keep to it would be closed as idle",
    ),
    Rule(
        ("sessions", "max_connections"),
        lambda s: s.sessions >= s.max_connections,
        "sessions must not be less than max_connections: there would be connections that cannot"
        " log in",
    ),
    Rule(
        ("workers", "max_workers"),
        lambda s: s.workers <= s.seats,
        "workers must not be more than max_workers: nothing is reserved for the others",
    ),
    Rule(
        ("account_locks", "accounts"),
        lambda s: s.account_locks <= s.accounts,
        "account_locks must not be more than accounts: the rest would never be used",
    ),
    Rule(
        ("min_transfer", "max_transfer"),
        lambda s: s.min_transfer <= s.max_transfer,
        "min_transfer must not be more than max_transfer: no payment could be made",
    ),
)


def _problems(settings: Settings, sources: Mapping[str, Source] | None) -> Iterator[str]:
    def shown(name: str) -> str:
        value = getattr(settings, name)
        try:
            text = repr(str(value) if isinstance(value, Path) else value)
        except ValueError:  # Python writes no whole number of thousands of digits
            text = "far too large"
        text = text if len(text) <= 80 else text[:80] + "..."
        return f"{name} is {text}" + (f" ({sources[name]})" if sources else "")

    wrong = [row for row in SETTINGS if not row.accepts(getattr(settings, row.name))]
    for row in wrong:
        yield f"{shown(row.name)}: it must be {row.allowed}"
    if not wrong:
        for rule in RULES:
            if not rule.holds(settings):
                yield f"{' and '.join(map(shown, rule.names))}: {rule.text}"
