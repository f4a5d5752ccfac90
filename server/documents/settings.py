"""docs/SETTINGS.md, made from the table of settings."""

from typing import Final

from libcli.environment import PREFIX
from libproto.form import VARIABLE
from server import documents, early, exits
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
        f"`{VARIABLE}=1` is not a setting: with it, any program of tradechat runs interpreted.",
        "",
        "SIGHUP to the server has it read all of them again. Those that have `yes` below come into",
        "effect with that; a new value of another one waits for a restart, and the log says so",
        "(`settings_kept`). Where something is wrong, nothing changes (`settings_refused`).",
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
                "| flag | environment | default | unit | allowed | SIGHUP | meaning |",
                "|------|-------------|---------|------|---------|--------|---------|",
            ]
        cells = (f"`{row.flag}`", f"`{row.variable}`", row.default, spec.unit, row.allowed)
        reload = "yes" if spec.reload else ""
        lines.append("| " + " | ".join(map(cell, (*cells, reload, spec.about))) + " |")
    lines += ["", "## Between settings", "", *(f"- {rule.text}." for rule in RULES)]
    lines += [
        "",
        "## Signals",
        "",
        "To the process whose id is in the line `ready`, the master:",
        "",
    ]
    lines += ["| signal | what the server does |", "|--------|----------------------|"]
    lines += [f"| {names} | {about} |" for names, about in early.SIGNALS.items()]
    lines += [
        "",
        "All others are ignored. One that comes while the server starts or repairs is obeyed when",
        "that is done; while it stops, only those that stop it and SIGUSR1 are.",
    ]
    lines += ["", "## Exit codes", "", *exits.table().splitlines()]
    return "\n".join(lines) + "\n"
