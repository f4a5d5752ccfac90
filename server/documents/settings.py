"""docs/SETTINGS.md, made from the table of settings."""

from typing import Final

from libcli.environment import PREFIX
from libproto.form import VARIABLE
from server import documents, exits
from server.config import (
    ACTIONS,
    CONFIG_ABOUT,
    RULES,
    SETTINGS,
)

COMMAND: Final = f"python -m {documents.__name__} settings"


def document() -> str:
    """Return docs/SETTINGS.md."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    lines = [
        "# Settings of the server",
        "",
        f"<!-- Made from server/config/settings.py by `{COMMAND}`. Do not edit. -->",
        "",
        f"A value is taken from the first of: flag, environment (`{PREFIX}...`),",
        "file, default. The file is TOML, one `name = value` a line without sections; in names",
        "`-` and `_` are the same. An unknown key in it is an error. A variable is passed over,",
        "with a warning, if it is empty, if no setting has its name, or if a platform set",
        f"it for a service called tradechat (as Kubernetes: `{PREFIX}PORT=tcp://...`).",
        f"`{VARIABLE}=1` is no setting: any program of tradechat runs interpreted with it.",
        "",
        "| flag | meaning |",
        "|------|---------|",
        f"| `--config FILE` | {cell(CONFIG_ABOUT)} |",
        *(f"| `--{action.value}` | {cell(about)} |" for action, about in ACTIONS),
        "| `--version` | print the version and the form, compiled or interpreted, and end |",
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
    lines += ["", "## Exit codes", "", *exits.table().splitlines()]
    return "\n".join(lines) + "\n"
