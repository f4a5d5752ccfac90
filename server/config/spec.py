"""What a setting is: its bounds, its texts, and how a value of it is read and checked."""

import math
import re
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from libcli.environment import PREFIX


class ConfigError(Exception):
    """The configuration cannot be used; the text tells the operator why, a problem a line."""


class Source(NamedTuple):
    """Where a value came from, for messages and --print-config."""

    kind: Literal["flag", "environment", "file", "default"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.detail}".rstrip()


DEFAULT = Source("default")


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
    reload: bool = False


def setting(default: object, group: str, about: str, **rest: Any) -> Any:
    """Declare one setting: a field of Settings, described by a Spec whose other fields are `rest`.

    `default` may be a function. `minimum` and `maximum` bound a number, in `unit`; `zero` says
    what 0 means where that is allowed beside them. A text must match `pattern` wholly, which
    `pattern_text` puts in words. `default_text` describes a default that is not the same
    everywhere. `reload`: SIGHUP brings a new value into effect; else a restart does.
    """
    metadata = {"spec": Spec(group, about, **rest)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


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
        return PREFIX + self.name.upper()

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
