"""docs/OPERATIONS.md: its figures are those of the layout and the formats, its names are there."""

import re
from dataclasses import replace
from pathlib import Path

from server.admin.cli import COMMANDS
from server.config import ACTIONS, SETTINGS
from server.journal.format import BATCH, BATCH_END
from server.region.layout import DEFAULT_CAPACITIES, Layout
from server.region.records import RECORD_SIZE

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/OPERATIONS.md").read_text()


def test_what_each_one_more_takes_of_the_region() -> None:
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \| ([0-9,]+) \|", TEXT, re.MULTILINE))
    assert {"accounts", "rooms", "clients", "sessions"} < set(rows)
    default = Layout(DEFAULT_CAPACITIES).size
    for flag, text in rows.items():
        name = flag.replace("-", "_").removeprefix("room_")
        count = getattr(DEFAULT_CAPACITIES, name)
        twice = Layout(replace(DEFAULT_CAPACITIES, **{name: 2 * count})).size
        assert int(text.replace(",", "")) == round((twice - default) / count), flag
    assert f"{default / 2**20:.1f} MiB with the defaults" in TEXT


def test_what_a_transaction_takes_on_disk() -> None:
    alone = BATCH.size + RECORD_SIZE + len(BATCH_END)
    assert f"| a transaction that is alone in its batch | {alone} |" in TEXT
    assert f"| a transaction among many | {RECORD_SIZE} |" in TEXT


def test_settings_commands_and_files_that_are_named_exist() -> None:
    flags = {row.flag for row in SETTINGS} | {f"--{action.value}" for action, _ in ACTIONS}
    docker = {"--shm-size", "--init", "--publish", "--volume", "--file", "--tag", "--system"}
    others = {
        "--encrypt",
        "--shell",
        "--target-directory",
        "--now",
        "--data",
        "--key",
        "--note",
        "--password-file",
        "--pay-out",
        "--role",
        "--once",
        "--kill-whom",
        "--signal",
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) <= flags | docker | others
    commands = {command.name for command in COMMANDS}
    assert set(re.findall(r"tradechat-admin ([a-z]+)", TEXT)) <= commands
    for name in re.findall(r"\]\((?:\.\./)?([\w./-]+)(?:#[\w-]+)?\)", TEXT):
        assert (ROOT / name).exists() or (ROOT / "docs" / name).exists(), name
