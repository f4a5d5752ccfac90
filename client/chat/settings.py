"""What a person may set of the chat: one table, which reads `config.toml`, makes /set and its help.

The file is `$XDG_CONFIG_HOME/tradechat/config.toml`. /set changes it, too: one line of it, so that
what a person wrote around it stays.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from client.amounts import format_amount, parse_amount
from client.terminal.arguments import read_user

CONNECTION: Final = ("host", "port", "user", "encrypt", "pin")
"""Keys of the file that say where the server is, who one is, and how the connection is protected;
flags, a URL and environment win."""


NOTHING: Final = '""'
"""How /set writes an empty value, as TOML does; without a value it shows the setting."""


class SettingError(ValueError):
    """A setting that there is not, or a value that it cannot have; the text says which."""


def _on_off(text: str) -> bool:
    try:
        return {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}[
            text.lower()
        ]
    except KeyError:
        raise SettingError(f"{text[:40]!r} is neither on nor off") from None


def _choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise SettingError(f"{text[:40]!r} is none of {', '.join(choices)}")
        return text

    return read


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        if not (is_number and least <= int(text) <= most):
            raise SettingError(f"{text[:40]!r} is no whole number from {least} to {most}")
        return int(text)

    return read


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.replace(",", " ").split() if word)


def _users(text: str) -> tuple[str, ...]:
    return tuple(map(read_user, _words(text)))


def _amount(text: str) -> int:
    return 0 if text.strip("0.") == "" and text else parse_amount(text)


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the table. read: of the text behind /set; show: the same text again."""

    name: str
    default: Any
    read: Callable[[str], Any]
    about: str
    show: Callable[[Any], str] = str


def _show_words(value: Any) -> str:
    return " ".join(value)


def _show_on_off(value: Any) -> str:
    return "on" if value else "off"


SETTINGS: Final = (
    Setting(
        "notify",
        "none",
        _choice("none", "bell", "desktop"),
        "at a mention, a message to you alone or a payment: ring the bell, or a desktop notice "
        "(OSC 9), or none",
    ),
    Setting("highlight", (), _words, "words that are a mention, beside your own name", _show_words),
    Setting("ignore", (), _users, "users whose messages are not shown", _show_words),
    Setting("joins", True, _on_off, "whether it is shown who comes and goes", _show_on_off),
    Setting(
        "confirm_over",
        10_000,
        _amount,
        "ask before more than this is paid or withdrawn, like 100.00",
        format_amount,
    ),
    Setting("paste_lines", 3, _number(1, 1000), "ask before so many lines are sent at once"),
    Setting("backlog", 20, _number(0, 1000), "messages of a room that are shown when it is joined"),
    Setting("rejoin", True, _on_off, "join the rooms of the last time again", _show_on_off),
    Setting("log", "", str, "a directory to write what is said to; empty: it is not written"),
    Setting("times", True, _on_off, "show the time of messages in the line mode", _show_on_off),
    Setting("input_history", True, _on_off, "keep what was typed for the next time", _show_on_off),
    Setting("theme", "dark", _choice("dark", "light", "none"), "colours for such a background"),
)

BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


def config_file(environ: Mapping[str, str]) -> Path | None:
    """Where the file is, if there is one (XDG Base Directory); None where there is no home."""
    given = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "tradechat" / "config.toml"
    home = environ.get("HOME") or environ.get("USERPROFILE")
    return Path(home) / ".config" / "tradechat" / "config.toml" if home else None


def read_file(path: Path) -> dict[str, Any]:
    """The table of a file; empty where there is none. SettingError."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not valid TOML: {error}") from error


class Settings:
    """The values that apply now."""

    def __init__(self, path: Path | None = None) -> None:
        """path: of the file that /set writes to; None: none."""
        self.path = path
        self._values = {setting.name: setting.default for setting in SETTINGS}
        self._watchers: list[Callable[[], object]] = []

    def load(self) -> list[str]:
        """Take the values of the file; what of it cannot be used, in words."""
        if self.path is None:
            return []
        try:
            table = read_file(self.path)
        except SettingError as error:
            return [str(error)]
        problems = []
        for name, value in table.items():
            if name in CONNECTION:
                continue
            try:
                self._values[name] = _named(name).read(_as_text(value))
            except ValueError as error:
                problems.append(f"{self.path}: {name}: {error}")
        return problems

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def watch(self, changed: Callable[[], object]) -> None:
        """Have this called after each change, and now."""
        self._watchers.append(changed)
        changed()

    def line(self, name: str) -> str:
        """A setting and its value, as /set takes them. SettingError."""
        setting = _named(name)
        return f"{name} {setting.show(self._values[name]) or NOTHING}"

    def set(self, name: str, text: str) -> None:
        """Change a setting, here and in the file. SettingError; then nothing has changed but
        perhaps the value here, where the file cannot be written."""
        setting = _named(name)
        try:
            value = setting.read("" if text == NOTHING else text)
        except ValueError as error:
            raise SettingError(f"{name}: {error}") from error
        self._values[name] = value
        for changed in self._watchers:
            changed()
        if self.path is not None:
            _write(self.path, name, _in_toml(value, setting))


def _named(name: str) -> Setting:
    found = BY_NAME.get(name)
    if found is None:
        near = difflib.get_close_matches(name, BY_NAME, n=1)
        hint = f": did you mean {near[0]}?" if near else ": /set lists them"
        raise SettingError(f"there is no setting {name[:40]}{hint}")
    return found


def _as_text(value: Any) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case list():
            return " ".join(map(str, value))
    return str(value)


def _in_toml(value: Any, setting: Setting) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case tuple():
            return _quoted(list(value))
        case int() if setting.show is str:
            return str(value)
    return _quoted(setting.show(value))


def _quoted(value: str | list[str]) -> str:
    """As TOML writes it: like JSON, but no surrogate pairs, and DEL not as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _write(path: Path, name: str, value: str) -> None:
    """Put one key into the file, in the place of its line or before the first table."""
    before = read_file(path)
    text = path.read_text("utf-8") if before or path.exists() else ""
    lines = text.removesuffix("\n").split("\n") if text else []
    end = next((n for n, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    own = [n for n in range(end) if lines[n].partition("=")[0].strip() == name]
    if own:
        lines[own[0]] = f"{name} = {value}"
    else:
        lines.insert(end, f"{name} = {value}")
    text = "\n".join([*lines, ""])
    wanted = {**before, **tomllib.loads(f"{name} = {value}")}
    try:
        fits = tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        fits = False
    if not fits:
        raise SettingError(f"it holds now, but {path} is written so that you must change it there")
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch.write_text(text, "utf-8")
        scratch.replace(path)
    except OSError as error:
        raise SettingError(f"it holds now, but cannot be kept: {error.strerror}") from error
