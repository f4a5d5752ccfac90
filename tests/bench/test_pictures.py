"""The pictures: real programs in pseudo-terminals, what is drawn of them, and what is refused."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.lab.process import family_of
from bench.lab.terminal import Stage, TerminalFailed, plain
from bench.pictures import PictureFailed, draw, make
from tests.helpers.server import ROOT, wait_until

RUN_S = 240.0  # a run that hangs
SMALL = (
    *("--connections=12", "--threads=3", "--processes=1", "--accounts=20", "--fanout=4"),
    *("--duration=1", "--warmup=0.2"),
)
NAMESPACE = "http://www.w3.org/2000/svg"
SCRIPT = (sys.executable, "-m", "bench.pictures")


def texts(svg: str) -> str:
    """What is written in it, line by line."""
    lines: dict[float, str] = {}
    for text in ElementTree.fromstring(svg).iter(f"{{{NAMESPACE}}}text"):  # noqa: S314 - our own
        at = float(text.attrib["y"])
        lines[at] = lines.get(at, "") + (text.text or "").strip("\n")
    return "\n".join(lines.values()).replace("\xa0", " ")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


def test_a_server_a_stress_run_and_a_look_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What somebody has set for other purposes is not in the pictures.
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TRADECHAT_DURABILITY", "none")
    pictures = make(tmp_path, 0, SMALL)
    assert pictures.keys() == {"server", "stress", "metrics", "chat"}
    for svg in pictures.values():
        assert len(svg) < 60_000
        assert "url(http" not in svg  # nothing is fetched
        assert str(tmp_path) not in svg
    server, stress, metrics = (texts(pictures[name]) for name in ("server", "stress", "metrics"))
    chat = texts(pictures["chat"])
    for shown in ("room 7 \u00b7 3 members", "3 room 12", "\u00a4 bob paid you 2.25", "see you th"):
        assert shown in chat
    assert re.search(r"^\$ tradechat-server --port 0 --data \./data$", server, re.MULTILINE)
    assert re.search(r"^ready host=127\.0\.0\.1 port=\d+ ", server, re.MULTILINE)
    assert "signal='SIGINT'" in server
    assert server.rindex("stopping") < server.rindex("stopped")
    assert len(set(re.findall(r"fill: #\w+", pictures["server"]))) > 4  # as on a terminal
    assert "durability='sync'" in server
    assert re.search(r"^\$ tradechat-bench --port \d+ --pid \d+ ", stress, re.MULTILINE)
    assert "warming up" not in stress  # the line of progress was rewritten
    assert re.search(r"^TRANSFER  ", stress, re.MULTILINE)
    assert re.search(r"^conserved, serializable, no silent gap +good$", stress, re.MULTILINE)
    assert re.search(r"^state +SERVING$", metrics, re.MULTILINE)
    assert re.search(r"^accounts +20 ", metrics, re.MULTILINE)
    assert re.search(r"^requests_TRANSFER +[1-9]", metrics, re.MULTILINE)


def test_a_line_that_is_rewritten_and_coloured(stage: Stage) -> None:
    program = stage.start("printf", r"50 %%\r\033[K100 %%\n\033[31mred <&>\033[0m  x\n")
    stage.await_end(program)
    svg = draw("x", program)
    assert texts(svg).splitlines()[-2:] == ["100 %", "red <&>  x"]
    assert svg == draw("x", program)


def test_a_program_that_moves_about_is_refused() -> None:
    with pytest.raises(TerminalFailed, match="moves about"):
        plain("two\x1b[1Aone")


@pytest.mark.parametrize(
    "text", ["see /x", "at='/home/x'", "data=/x/y:", "(/x)", "//x", "'\x1b[1m/x"]
)
def test_a_path_of_this_machine_is_refused(stage: Stage, text: str) -> None:
    program = stage.start("printf", "%b", text.replace("\x1b", r"\033"))
    stage.await_end(program)
    with pytest.raises(PictureFailed, match="paths of this machine: /"):
        draw("x", program)


@pytest.mark.parametrize(
    "text", ["./data/x", "../x", "1/5 s", "tradechat/0.1.0", "3,000/s", "a / b"]
)
def test_what_is_no_path_of_this_machine(stage: Stage, text: str) -> None:
    program = stage.start("echo", text)
    stage.await_end(program)
    assert text in texts(draw("x", program))


def test_a_path_in_the_command_is_refused(stage: Stage) -> None:
    program = stage.start("test", "-d", "/")
    stage.await_end(program)
    draw("x", program)  # a bare slash says nothing about the machine
    program = stage.start("test", "-d", "/etc")
    stage.await_end(program)
    with pytest.raises(PictureFailed, match="/etc"):
        draw("x", program)


def test_a_program_that_fails(stage: Stage) -> None:
    program = stage.start("sh", "-c", "echo it is broken; exit 7")
    with pytest.raises(TerminalFailed, match=r"(?s)exit code 7.*it is broken"):
        stage.await_end(program)
    program = stage.start("sh", "-c", "echo it is broken; exit 7")
    with pytest.raises(TerminalFailed, match="exit code 7 before 'ready'"):
        stage.await_text(program, "ready")
    program = stage.start("no-such-program")
    with pytest.raises(TerminalFailed, match="No such file"):
        stage.await_end(program)


def test_nothing_is_written_where_the_server_does_not_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        run = subprocess.run(
            [*SCRIPT, "--port", port, "--out", str(tmp_path / "out")],
            cwd=ROOT, capture_output=True, text=True, timeout=RUN_S, check=False,
        )  # fmt: skip
    assert run.returncode == 3
    assert f"tradechat-server --port {port}" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_what_was_started(tmp_path: Path, number: signal.Signals) -> None:
    words = [*SCRIPT, "--port", "0", "--out", str(tmp_path / "out")]
    with subprocess.Popen(words, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}) as run:
        wait_until(lambda: len(family_of(run.pid)) > 2, "the server has children")
        run.send_signal(number)
        assert run.wait(RUN_S) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage() -> None:
    run = subprocess.run([*SCRIPT, "--ports"], cwd=ROOT, capture_output=True, check=False)
    assert run.returncode == 2
