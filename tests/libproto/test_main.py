"""The command line, as a process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.libproto.vectors import INVALID, VALID

ROOT = Path(__file__).parents[2]
GOOD: str = next(v["frame"] for v in VALID if v["name"] == "transfer request")
BAD: str = next(v["frame"] for v in INVALID if v["name"] == "checksum mismatch")


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "libproto", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )


def test_decode_of_a_good_frame() -> None:
    done = run("decode", GOOD)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("frame 1 at byte 0: TRANSFER request\n")
    assert "    to_user  2\n    amount   250\n" in done.stdout


def test_decode_ignores_white_space_and_reads_standard_input() -> None:
    spaced = " ".join(GOOD[i : i + 2] for i in range(0, len(GOOD), 2))
    lines = "\n".join(GOOD[i : i + 7] for i in range(0, len(GOOD), 7)) + "\n"
    expected = run("decode", GOOD)
    assert run("decode", *spaced.split()).stdout == expected.stdout
    done = run("decode", "-", stdin=lines)
    assert (done.returncode, done.stdout) == (0, expected.stdout)


def test_decode_of_a_bad_frame() -> None:
    done = run("decode", BAD + GOOD)
    assert (done.returncode, done.stderr) == (1, "")
    assert "PROBLEM: the checksum is 0x00000001, expected 0x" in done.stdout
    assert "TRANSFER request" in done.stdout


def test_the_dissector(tmp_path: Path) -> None:
    done = run("dissector")
    assert (done.returncode, done.stderr) == (0, "")
    assert '[0x0203] = "TRANSFER"' in done.stdout
    path = tmp_path / "tradechat.lua"
    assert run("dissector", "--output", str(path)).returncode == 0
    assert path.read_text(encoding="utf-8") == done.stdout
    done = run("dissector", "--output", str(tmp_path / "no" / "x.lua"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("decode",), ("decode", "4e5"), ("decode", "hello"), ("decode", ""), ("nonsense",)],
    ids=" ".join,
)
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: python -m libproto" in done.stderr


def test_the_document_is_checked_and_written(tmp_path: Path) -> None:
    fresh = run("doc", "--check")
    assert (fresh.returncode, fresh.stderr) == (0, "")
    path = tmp_path / "PROTOCOL.md"
    for stale in (None, "old\n"):
        if stale:
            path.write_text(stale, encoding="utf-8")
        done = run("doc", "--check", "--output", str(path))
        assert done.returncode == 1
        assert "run `python -m libproto doc" in done.stderr
    assert run("doc", "--output", str(path)).returncode == 0
    assert path.read_bytes() == (ROOT / "docs" / "PROTOCOL.md").read_bytes()
    assert run("doc", "--check", "--output", str(path)).returncode == 0
    done = run("doc", "--output", str(tmp_path / "missing" / "PROTOCOL.md"))
    assert done.returncode == 2
    assert "No such file" in done.stderr
