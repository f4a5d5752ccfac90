"""How a command of the chat is written: its name, and what stands behind it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


class UsageError(ValueError):
    """A line that is no command, or one that lacks something; the text says what to write."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a command. `kind` names the words that complete it."""

    name: str
    read: Callable[[str], Any]
    kind: str = ""
    optional: bool = False
    rest: bool = False  # takes what is left of the line, blanks and all

    def __str__(self) -> str:
        return f"[{self.name}]" if self.optional else self.name


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table. `run` gets the chat and an argument per parameter, None where absent."""

    name: str
    parameters: tuple[Parameter, ...]
    about: str
    run: Callable[..., Awaitable[None]]

    @property
    def usage(self) -> str:
        """How it is written: /pay USER AMOUNT."""
        return " ".join([f"/{self.name}", *map(str, self.parameters)])

    def arguments(self, text: str) -> list[Any]:
        """Return the arguments that `text`, the line after the name, gives. UsageError."""
        found: list[Any] = []
        for parameter in self.parameters:
            text = text.lstrip()
            word = text if parameter.rest else text.split(maxsplit=1)[0] if text else ""
            text = text[len(word) :]
            if not word and parameter.optional:
                found.append(None)
                continue
            if not word:
                raise UsageError(f"{parameter.name} is missing: {self.usage}")
            try:
                found.append(parameter.read(word))
            except ValueError as error:
                raise UsageError(f"{error}; {self.usage}") from error
        if text.strip():
            raise UsageError(f"{text.strip()!r} is too much: {self.usage}")
        return found
