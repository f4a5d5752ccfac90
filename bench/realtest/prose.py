"""The prose of the report: paragraphs of prose.md, by name, with $values put in."""

from importlib.resources import files
from string import Template
from typing import Final


def _read() -> dict[str, Template]:
    """`# name`, then the paragraph; line breaks in it are blanks."""
    text = files(__package__).joinpath("prose.md").read_text(encoding="utf-8")
    found = {}
    for part in text.split("\n# ")[1:]:
        name, _, paragraph = part.partition("\n")
        found[name] = Template(" ".join(paragraph.split()))
    return found


_PARAGRAPHS: Final = _read()


def say(name: str, **values: object) -> str:
    """A paragraph. KeyError where there is none of that name, or a value is missing."""
    return _PARAGRAPHS[name].substitute(values)
