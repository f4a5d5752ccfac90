"""The files of deploy/: the unit is one, the programs they start exist, and the settings parse."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from server.admin import cli as admin
from server.config import SETTINGS, Settings, load
from server.exits import Exit

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "tradechat.service").read_text()
PROGRAMS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
TIMEOUT_S = 60


def value(name: str) -> str:
    """Of the unit."""
    (found,) = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(found)


def test_the_example_of_a_configuration_file_has_the_defaults(tmp_path: Path) -> None:
    example = (DEPLOY / "tradechat.toml").read_text()
    used = tmp_path / "used.toml"
    used.write_text(re.sub(r"^#(?=\w)", "", example, flags=re.MULTILINE))
    names = {row.name for row in SETTINGS if not row.spec.default_text}
    assert set(tomllib.loads(used.read_text())) == names
    loaded = load(["--config", str(used)], {}).settings
    assert {n: getattr(loaded, n) for n in names} == {n: getattr(Settings(), n) for n in names}
    assert tomllib.loads(example) == {}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="it is of systemd")
def test_the_unit_is_one(tmp_path: Path) -> None:
    unit = tmp_path / "tradechat.service"
    unit.write_text(UNIT.replace("=/usr/local/bin/tradechat-server ", "=/bin/true "))
    run = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")


def test_the_unit_starts_the_server_with_arguments_that_it_takes() -> None:
    program, *arguments = value("ExecStart").split()
    assert Path(program).name in PROGRAMS
    assert arguments[:2] == ["--config", "/etc/tradechat/tradechat.toml"]
    assert load(arguments[2:], {}).settings.data == Path("/var/lib", value("StateDirectory"))
    check, tell = re.findall(r"^ExecReload=(.*)$", UNIT, re.MULTILINE)
    assert check == f"{value('ExecStart')} --check-config"
    assert tell == "/bin/kill -HUP $MAINPID"
    assert int(value("TimeoutStopSec")) > Settings().graceful_timeout
    assert {int(code) for code in value("RestartPreventExitStatus").split()} == {
        Exit.USAGE, Exit.NOT_STARTED, Exit.JOURNAL,
    }  # fmt: skip


def test_the_image_starts_programs_that_there_are() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    commands = [re.findall(r'"([^"]+)"', line) for line in text.splitlines() if "[" in line]
    assert (
        {words[0] for words in commands} == {"tradechat-admin", "tradechat-server"} <= {*PROGRAMS}
    )
    (probe,) = (words[1:] for words in commands if words[0] == "tradechat-admin")
    asked = admin.parser().parse_args(probe)
    (arguments,) = (words[1:] for words in commands if words[0] == "tradechat-server")
    settings = load(arguments, {}).settings
    assert asked.data == settings.data  # whatever --port and --name are
    assert re.search(rf"^VOLUME {settings.data}$", text, re.MULTILINE)
    assert re.search(rf"^EXPOSE {settings.port} {settings.admin_port}$", text, re.MULTILINE)


def test_the_composition_mounts_files_that_there_are() -> None:
    text = (DEPLOY / "compose.yml").read_text()
    mounted = re.findall(r"- \./(\S+?):", text)
    assert mounted
    assert all((DEPLOY / name).is_file() for name in mounted)
    (command,) = re.findall(r"^    command: (.*)$", text, re.MULTILINE)
    assert load(command.split(), {}).settings.registration == "open"
    assert "127.0.0.1:7878:7878" in text  # which is why it may be
    (boards,) = re.findall(r"path: (\S+)", (DEPLOY / "grafana/dashboards.yml").read_text())
    assert f":{boards}/" in text
    (dockerfile,) = re.findall(r"dockerfile: (\S+)", text)
    assert (ROOT / dockerfile).is_file()


def test_logrotate_sends_the_signal_that_opens_the_log_anew() -> None:
    text = (DEPLOY / "tradechat.logrotate").read_text()
    assert "--kill-whom=main --signal=USR1 tradechat.service" in text
    assert text.count(f"/var/log/{value('LogsDirectory')}/*.log {{") == 1
