"""The manual pages: roff without a warning, and everything that the programs take is in them."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import libcli.man
from bench.stress import manual as bench
from client.cli import manual as cli
from client.cli.commands import COMMANDS as CLI_COMMANDS
from server.admin.cli import COMMANDS
from server.admin.command import Command
from server.config import SETTINGS
from server.documents import man

TIMEOUT_S = 60
ROOT = Path(__file__).resolve().parents[3]


def shown(page: str) -> str:
    """What a reader sees; it is roff that groff has nothing to say against."""
    run = subprocess.run(
        ["groff", "-man", "-ww", "-k", "-Tutf8", "-P-cbu", "-rLL=200n"],
        input=page, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def names(commands: tuple[Command, ...], above: str = "") -> Iterator[str]:
    for command in commands:
        name = f"{above}{command.name}"
        if command.commands:
            yield from names(command.commands, f"{name} ")
        else:
            yield name


@pytest.mark.skipif(not shutil.which("groff"), reason="there is no groff to show them")
@pytest.mark.parametrize("page", [man.server, man.admin, cli.manual, bench.manual])
def test_groff_shows_a_page(page: Callable[[], str]) -> None:
    text = shown(page())
    headings = ["NAME", "SYNOPSIS", "SEE ALSO"]
    headings += ["EXIT STATUS"] if page in (man.server, man.admin) else ["OPTIONS", "NOTES"]
    assert all(heading in text for heading in headings)


@pytest.mark.parametrize("module", [cli, bench])
def test_a_page_is_up_to_date(module: ModuleType) -> None:
    assert (ROOT / module.PATH).read_text() == module.manual()


def test_every_command_and_option_of_the_others_is_there() -> None:
    page = cli.manual().replace("\\-", "-")
    for command in CLI_COMMANDS:
        assert f"\n.SS {command.name}\n" in page
    assert "\\fB--password-file\\fR \\fIFILE\\fR" in page
    assert "\\fB--rate\\fR" in bench.manual().replace("\\-", "-")


def test_every_setting_and_every_command_is_there() -> None:
    server, admin = (page().replace("\\-", "-") for page in (man.server, man.admin))
    assert [row.flag for row in SETTINGS if f"\n\\fB{row.flag}\\fR " not in server] == []
    assert [name for name in names(COMMANDS) if f"\n.SS {name}\n" not in admin] == []


@pytest.mark.parametrize(
    ("text", "roff"), [(".x", "\\&.x"), ("'x", "\\&'x"), ("a\\b-c", "a\\eb\\-c"), ("a.b", "a.b")]
)
def test_no_text_is_a_command_of_roff(text: str, roff: str) -> None:
    assert libcli.man.text(text) == roff
