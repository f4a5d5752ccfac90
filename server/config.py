"""The server's settings: one table, from which everything else about them is made.

The table is the dataclass `Settings`. Each field carries its bounds, unit and help text; from it
come the flags of `tradechat-server`, the names in the environment and in the configuration file,
the checks, and docs/SETTINGS.md (`python -m server.config --write`).

A value is taken from the first of: flag, environment, file, default. Whatever is wrong is said at
once, each problem with the setting, where its value came from, and what is allowed.
"""

import argparse
import difflib
import ipaddress
import json
import math
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import liblog
from libproto.messages import MIN_ITERATIONS
from server import __version__

PROGRAM = "tradechat-server"
_DOCUMENT_PROGRAM = f"python -m {__spec__.name}"
ENVIRONMENT_PREFIX = "TRADECHAT_"
WORKERS_MAX = 64


class ConfigError(Exception):
    """The configuration cannot be used; the text tells the operator why, a problem a line."""


class Spec(NamedTuple):
    """What a field of Settings carries beside its type and default; see `setting`."""

    group: str
    about: str
    unit: str = ""
    minimum: float = 0
    maximum: float = math.inf
    zero: str = ""
    choices: tuple[str, ...] = ()
    power_of_two: bool = False
    pattern: str = ""
    pattern_text: str = ""
    default_text: str = ""


def setting(default: object, group: str, about: str, **rest: Any) -> Any:
    """Declare one setting: a field of Settings, described by a Spec whose other fields are `rest`.

    `default` may be a function. `minimum` and `maximum` bound a number, in `unit`; `zero` says
    what 0 means where that is allowed beside them. A text must match `pattern` wholly, which
    `pattern_text` puts in words. `default_text` describes a default that is not the same
    everywhere.
    """
    metadata = {"spec": Spec(group, about, **rest)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def cores_available() -> int:
    """Return how many cores this process may run on, at most WORKERS_MAX."""
    return min(len(os.sched_getaffinity(0)), WORKERS_MAX)


def is_loopback(host: str) -> bool:
    """Tell whether `host` surely means this machine only; a name other than localhost may not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


LISTENING = "Listening"
SERVER = "Server"
DURABILITY = "Durability"
CAPACITY = "Capacity of the shared region"
PEOPLE = "People and chat"
TIMES = "Times and limits"
LOG = "Log"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of the server, checked: an object of this class never holds a wrong value.

    Making one raises ConfigError. `sources` says, for its message, where the values came from.
    """

    host: str = setting(
        "127.0.0.1",
        LISTENING,
        "address to listen on, IPv4, IPv6 or a name; 0.0.0.0 and :: are all addresses",
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
    workers: int = setting(
        cores_available,
        SERVER,
        "worker processes",
        unit="processes",
        minimum=1,
        maximum=WORKERS_MAX,
        default_text=f"the cores available, at most {WORKERS_MAX}",
    )
    data: Path = setting(  # noqa: RUF009 - it makes a field
        Path("data"),
        SERVER,
        "directory of everything the server keeps on disk; a relative one starts where the"
        " server is started",
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
        "how long chat, and with async money, may be in memory only, beside one write",
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
        "a snapshot is made after so much of journal",
        unit="MiB",
        minimum=1,
        maximum=1 << 20,
    )
    snapshot_interval: float = setting(
        300.0,
        DURABILITY,
        "a snapshot is made after so long, if anything has changed",
        unit="s",
        minimum=1.0,
        maximum=86400.0,
        zero="only by snapshot_size, and at the end",
    )
    history_size: int = setting(
        1024,
        DURABILITY,
        "journal that is kept for TXN_HISTORY; what a restart needs is kept in any case",
        unit="MiB",
        minimum=1,
        maximum=1 << 20,
    )
    room_history: int = setting(
        1000,
        DURABILITY,
        "events of each room that are kept for ROOM_HISTORY",
        unit="events",
        minimum=1,
        maximum=1_000_000,
    )
    accounts: int = setting(
        4096, CAPACITY, "users that can register", unit="users", minimum=1, maximum=1 << 20
    )
    clients: int = setting(
        4096,
        CAPACITY,
        "clients (a user's client_id) whose last outcomes are kept for exactly-once retries",
        unit="clients",
        minimum=1,
        maximum=1 << 20,
    )
    client_retention: float = setting(
        86400.0,
        CAPACITY,
        "how long a client without a session keeps its outcomes once another wants its place",
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
    )
    scram_iterations: int = setting(
        MIN_ITERATIONS,
        PEOPLE,
        "iterations of PBKDF2 over a new password; higher is slower to guess and slower to log in",
        unit="iterations",
        minimum=MIN_ITERATIONS,
        maximum=10_000_000,
    )
    max_message: int = setting(
        4096, PEOPLE, "longest chat message", unit="bytes", minimum=1, maximum=32768
    )
    heartbeat: int = setting(
        15,
        TIMES,
        "how often clients are told to send HEARTBEAT; less than idle_timeout",
        unit="s",
        minimum=1,
        maximum=65535,
    )
    idle_timeout: int = setting(
        60,
        TIMES,
        "a connection that sends no valid frame for so long is closed",
        unit="s",
        minimum=1,
        maximum=65535,
    )
    handshake_timeout: float = setting(
        10.0,
        TIMES,
        "a connection that has not logged in for so long is closed",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
    )
    graceful_timeout: float = setting(
        10.0,
        TIMES,
        "time to answer and flush after SIGTERM or SIGINT, before workers are killed",
        unit="s",
        minimum=0.1,
        maximum=3600.0,
    )
    worker_timeout: float = setting(
        10.0,
        TIMES,
        "a worker that stands still for so long is killed and replaced",
        unit="s",
        minimum=1.0,
        maximum=3600.0,
    )
    rate_limit: int = setting(
        0,
        TIMES,
        "requests of one session; more are answered ERR_SERVER_BUSY",
        unit="requests per second",
        minimum=1,
        maximum=1_000_000,
        zero="no limit",
    )
    stats_interval: float = setting(
        5.0,
        TIMES,
        "how often the master logs a line of totals",
        unit="s",
        minimum=0.1,
        maximum=86400.0,
        zero="never",
    )
    log_level: str = setting(
        "info", LOG, "the least grave events that are logged", choices=liblog.LEVELS
    )
    log_format: str = setting(
        "auto",
        LOG,
        "form of the lines; auto is console on a terminal, else json",
        choices=liblog.FORMATS,
    )
    log_file: Path | None = setting(  # noqa: RUF009 - it makes a field
        None,
        LOG,
        "file that log lines are added to; empty is standard error",
        default_text="standard error",
    )
    sources: InitVar[Mapping[str, "Source"] | None] = None

    def __post_init__(self, sources: Mapping[str, "Source"] | None) -> None:
        if not self.registration and (sources is None or sources["registration"] == DEFAULT):
            chosen = "open" if is_loopback(self.host) else "closed"
            object.__setattr__(self, "registration", chosen)
        problems = list(_problems(self, sources))
        if problems:
            raise ConfigError("\n".join(problems))

    def name_on(self, port: int) -> str:
        """Return the server's name, given the port it listens on (known late where that is 0)."""
        return self.name or f"tradechat-{port}"


class Setting(NamedTuple):
    """A row of the table, as the rest of this module reads it."""

    name: str
    kind: type[int] | type[float] | type[str] | type[Path]
    optional: bool
    default: str
    spec: Spec

    @property
    def flag(self) -> str:
        """Its flag: --max-message."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment: TRADECHAT_MAX_MESSAGE."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        spec = self.spec
        if spec.choices:
            return f"one of {', '.join(spec.choices)}"
        if spec.pattern:
            return spec.pattern_text
        if self.kind is Path:
            return "a path"
        noun = "a number" if self.kind is float else "a whole number"
        noun = "a power of two" if spec.power_of_two else noun
        zero = f", or 0: {spec.zero}" if spec.zero else ""
        return f"{noun} from {spec.minimum} to {spec.maximum}{zero}"

    def convert(self, value: object) -> object:
        """Return a value read from a file in this setting's type, or as it is if it has no such."""
        if self.kind is Path and isinstance(value, str):
            return Path(value) if value else None if self.optional else value
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value) if abs(value) <= self.spec.maximum else value
        return value

    def parse(self, text: str) -> object:
        """Return the value that `text` writes, or `text` itself, which `accepts` then refuses."""
        if self.kind is int or self.kind is float:
            try:
                return self.kind(text)
            except ValueError:
                return text
        return self.convert(text)

    def accepts(self, value: object) -> bool:
        """Tell whether `value` has this setting's type and lies in its bounds."""
        spec = self.spec
        if self.kind is int or self.kind is float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                return False
            if isinstance(value, float) and self.kind is int:
                return False
            if spec.zero and value == 0:
                return True
            if spec.power_of_two and (not isinstance(value, int) or value & (value - 1)):
                return False
            return spec.minimum <= value <= spec.maximum  # False for what is not a number
        if value is None:
            return self.optional
        if not isinstance(value, self.kind) or not str(value).isprintable():
            return False
        if spec.choices:
            return value in spec.choices
        return not spec.pattern or re.fullmatch(spec.pattern, str(value)) is not None


def _rows() -> Iterator[Setting]:
    hints = get_type_hints(Settings)
    for each in fields(Settings):
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
        ("account_locks", "accounts"),
        lambda s: s.account_locks <= s.accounts,
        "account_locks must not be more than accounts: the rest would never be used",
    ),
)


class Source(NamedTuple):
    """Where a value came from, for messages and --print-config."""

    kind: Literal["flag", "environment", "file", "default"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.detail}".rstrip()


DEFAULT = Source("default")


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


class Action(Enum):
    """What the operator asked for."""

    RUN = "run"
    CHECK_CONFIG = "check-config"
    PRINT_CONFIG = "print-config"


class Loaded(NamedTuple):
    """The outcome of `load`: the settings, where each came from, and what to do with them."""

    settings: Settings
    sources: Mapping[str, Source]
    action: Action


CONFIG_VARIABLE = ENVIRONMENT_PREFIX + "CONFIG"

# Flags that are no settings: they say what to do, and have no place in a file.
CONFIG_ABOUT = f"TOML file with settings, named as the flags are; also {CONFIG_VARIABLE}"
ACTIONS = (
    (Action.CHECK_CONFIG, "check the configuration, say what is wrong, and end"),
    (Action.PRINT_CONFIG, "print the settings in force and where each comes from, and end"),
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the flags; it leaves values as text, for `load` to check."""
    made = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Serve rooms and money over one binary protocol.",
        epilog="A value is taken from the first of: flag, environment, file, default.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    made.add_argument("--config", metavar="FILE", help=CONFIG_ABOUT)
    what = made.add_mutually_exclusive_group()
    for action, about in ACTIONS:
        what.add_argument(
            f"--{action.value}", dest="action", action="store_const", const=action, help=about
        )
    made.set_defaults(action=Action.RUN)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for row in SETTINGS:
        spec = row.spec
        if spec.group not in groups:
            groups[spec.group] = made.add_argument_group(spec.group)
        unit = f" [{spec.unit}]" if spec.unit else ""
        allowed = "" if spec.choices or row.kind is Path else f": {row.allowed}"
        about = f"{spec.about}{unit}{allowed} (default: {row.default}; {row.variable})"
        groups[spec.group].add_argument(
            row.flag,
            dest=row.name,
            metavar="|".join(spec.choices) or row.kind.__name__.upper(),
            help=about.replace("%", "%%"),
        )
    return made


def _read(path: str, origin: str) -> tuple[dict[str, object], list[str]]:
    """Read a configuration file; return its values by setting, and what is wrong with its keys."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration file {path!r} ({origin}): {error.strerror}"
        ) from error
    except ValueError as error:  # TOML and UTF-8 errors both are
        raise ConfigError(
            f"the configuration file {path!r} ({origin}) is not valid TOML: {error}"
        ) from error
    names = [row.name for row in SETTINGS]
    values: dict[str, object] = {}
    problems = []
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            problems.append(f"unknown key {key!r} in {path!r}: did you mean {nearest}?")
        elif name in values:
            problems.append(f"{name} is given twice in {path!r}, with '-' and with '_'")
        else:
            values[name] = value
    return values, problems


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Loaded:
    """Return the settings that flags, environment and file give.

    Raises ConfigError; SystemExit comes from argparse, for --help, --version and unknown flags.
    """
    flags = vars(parser().parse_args(argv))
    path, origin = flags["config"], "flag --config"
    if path is None:
        path, origin = environ.get(CONFIG_VARIABLE), f"environment {CONFIG_VARIABLE}"
    content, problems = _read(path, origin) if path is not None else ({}, [])

    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for row in SETTINGS:
        if flags[row.name] is not None:
            values[row.name] = row.parse(flags[row.name])
            sources[row.name] = Source("flag", row.flag)
        elif row.variable in environ:
            values[row.name] = row.parse(environ[row.variable])
            sources[row.name] = Source("environment", row.variable)
        elif row.name in content:
            values[row.name] = row.convert(content[row.name])
            sources[row.name] = Source("file", path if path.isprintable() else repr(path))
        else:
            sources[row.name] = DEFAULT
    try:
        settings = Settings(**values, sources=sources)
    except ConfigError as error:
        raise ConfigError("\n".join([*problems, str(error)])) from None
    if problems:
        raise ConfigError("\n".join(problems))
    return Loaded(settings, sources, flags["action"])


def effective(loaded: Loaded) -> str:
    """Return the settings in force as TOML that `load` reads back; comments tell the sources."""
    lines = [f"# {PROGRAM} {__version__}"]
    group = ""
    for row in SETTINGS:
        if row.spec.group != group:
            group = row.spec.group
            lines += ["", f"# {group}"]
        value = getattr(loaded.settings, row.name)
        if not isinstance(value, int | float):
            # A JSON string of printable text is a TOML basic string too.
            value = json.dumps("" if value is None else str(value), ensure_ascii=False)
        source = loaded.sources[row.name]
        why = f": {row.spec.default_text}" if source == DEFAULT and row.spec.default_text else ""
        lines.append(f"{row.name} = {value}  # {source}{why}")
    return "\n".join(lines) + "\n"


def document() -> str:
    """Return docs/SETTINGS.md."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    lines = [
        "# Settings of the server",
        "",
        f"<!-- Made from server/config.py by `{_DOCUMENT_PROGRAM} --write`. Do not edit. -->",
        "",
        f"A value is taken from the first of: flag, environment (`{ENVIRONMENT_PREFIX}...`),",
        "file, default. The file is TOML, one `name = value` a line without sections; in names",
        "`-` and `_` are the same. An unknown key in it is an error. An empty variable is an",
        "empty value, not an absent one.",
        "",
        "| flag | meaning |",
        "|------|---------|",
        f"| `--config FILE` | {cell(CONFIG_ABOUT)} |",
        *(f"| `--{action.value}` | {cell(about)} |" for action, about in ACTIONS),
        "| `--version` | print the version, and end |",
        "| `--help` | print the flags, and end |",
    ]
    group = ""
    for row in SETTINGS:
        spec = row.spec
        if spec.group != group:
            group = spec.group
            lines += [
                "",
                f"## {group}",
                "",
                "| flag | environment | default | unit | allowed | meaning |",
                "|------|-------------|---------|------|---------|---------|",
            ]
        cells = (f"`{row.flag}`", f"`{row.variable}`", row.default, spec.unit, row.allowed)
        lines.append("| " + " | ".join(map(cell, (*cells, spec.about))) + " |")
    lines += ["", "## Between settings", "", *(f"- {rule.text}." for rule in RULES)]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the document; return 1 where it is stale."""
    made = argparse.ArgumentParser(prog=_DOCUMENT_PROGRAM, description=main.__doc__)
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="write the document")
    what.add_argument("--check", action="store_true", help="fail if it is not up to date")
    made.add_argument("--output", type=Path, default=Path("docs/SETTINGS.md"), metavar="FILE")
    chosen = made.parse_args(argv)
    output: Path = chosen.output
    if chosen.write:
        output.write_text(document(), encoding="utf-8")
    elif not output.exists() or output.read_text(encoding="utf-8") != document():
        sys.stderr.write(f"{output} is stale: run {_DOCUMENT_PROGRAM} --write\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
