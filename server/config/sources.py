"""Where the values of settings come from: the first of flag, environment, file, default.

The environment holds variables that nobody set for this program: a container platform names one
TRADECHAT_PORT for every service called `tradechat`. These are passed over with a warning, and so is
an empty variable, or one whose name no setting has.
"""

import argparse
import difflib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from libcli.arguments import Parser
from libcli.environment import PREFIX, PassedOver, sift
from libproto import version_of
from server import __version__
from server.config.settings import SETTINGS, Settings
from server.config.spec import DEFAULT, ConfigError, Source

PROGRAM = "tradechat-server"


class Action(Enum):
    """What the operator asked for."""

    RUN = "run"
    TAKE_OVER = "take-over"
    CHECK_CONFIG = "check-config"
    PRINT_CONFIG = "print-config"


class Reloaded(NamedTuple):
    """The settings to go on with, and the names of those that have other values than before:
    `changed` in these settings, `kept` in the sources only, until a restart."""

    settings: Settings
    changed: Sequence[str]
    kept: Sequence[str]


class Configuration:
    """The sources of a running server's settings, which can be read again."""

    def __init__(self, settings: Settings, load: Callable[[], Settings]) -> None:
        """settings: as they were read at the start. load: reads them from where they came from;
        ConfigError."""
        self._last, self._load = settings, load
        self._workers_max = settings.seats

    def reread(self, running: Settings) -> Reloaded:
        """Read them again. running: those in force, with what was made of them meanwhile.
        ConfigError: something is wrong with them; what was read before still counts."""
        before, now = self._last, self._load()
        if now.workers > self._workers_max:
            raise ConfigError(
                f"workers is {now.workers}: it must not be more than {self._workers_max}, for which"
                " max_workers reserved space at the start"
            )
        differing = [row for row in SETTINGS if getattr(before, row.name) != getattr(now, row.name)]
        new: dict[str, Any] = {r.name: getattr(now, r.name) for r in differing if r.spec.reload}
        kept = [row.name for row in differing if not row.spec.reload]
        settings = replace(running, **new, max_workers=self._workers_max, sources=None)
        found = Reloaded(settings, list(new), kept)
        self._last = now
        return found


class Loaded(NamedTuple):
    """The outcome of `load`: the settings, where each came from, what to do with them, and the
    variables of the environment that were passed over."""

    settings: Settings
    sources: Mapping[str, Source]
    action: Action
    passed_over: Sequence[PassedOver] = ()


CONFIG_VARIABLE = PREFIX + "CONFIG"

# Flags that are no settings: they say what to do, and have no place in a file.
CONFIG_ABOUT = f"TOML file with settings, named as the flags are; also {CONFIG_VARIABLE}"
ACTIONS = (
    (
        Action.TAKE_OVER,
        "serve in the place of the server that runs on the data directory; nobody is refused",
    ),
    (Action.CHECK_CONFIG, "check the configuration, say what is wrong, and end"),
    (Action.PRINT_CONFIG, "print the settings in force and where each comes from, and end"),
)


def parser() -> Parser:
    """Return the parser of the flags; it leaves values as text, for `load` to check."""
    made = Parser(
        prog=PROGRAM,
        description="Serve rooms and money over one binary protocol.",
        epilog="A value is taken from the first of: flag, environment, file, default.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=version_of(PROGRAM))
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
    variables = (CONFIG_VARIABLE, *(row.variable for row in SETTINGS))
    environ, passed_over = sift(environ, variables)
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
    return Loaded(settings, sources, flags["action"], passed_over)


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
        how = "; SIGHUP changes it" if row.spec.reload else ""
        lines.append(f"{row.name} = {value}  # {source}{why}{how}")
    return "\n".join(lines) + "\n"
