"""deploy/tradechat.toml, an example of a configuration file, made from the table of settings."""

import json
import textwrap
from typing import Final

from server import documents
from server.config import SETTINGS, Settings

COMMAND: Final = f"python -m {documents.__name__} example"
_WIDTH: Final = 96


def document() -> str:
    """Every setting with its default, commented out."""
    defaults = Settings()
    lines = [
        "# Settings of tradechat-server: docs/SETTINGS.md. What is commented out is the default.",
        f"# Made from server/config/settings.py by `{COMMAND}`; copy it, and change the copy.",
    ]
    group = ""
    for row in SETTINGS:
        if row.spec.group != group:
            group = row.spec.group
            lines += ["", f"# ---- {group}"]
        unit = f" [{row.spec.unit}]" if row.spec.unit else ""
        text = f"{row.spec.about}{unit}"
        if row.spec.default_text:  # it is not the same everywhere
            text = f"{row.name}: {text}; by default {row.spec.default_text}"
        lines += ["", *textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")]
        if not row.spec.default_text:
            value = getattr(defaults, row.name)
            if not isinstance(value, int | float):
                value = json.dumps("" if value is None else str(value), ensure_ascii=False)
            lines.append(f"#{row.name} = {value}")
    return "\n".join(lines) + "\n"
