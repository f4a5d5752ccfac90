"""docs/SETTINGS.md: it has every setting, and nothing of the machine it is made on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.config import RULES, SETTINGS
from server.documents.__main__ import main
from server.documents.settings import document

ROOT = Path(__file__).parents[3]


def test_document_is_up_to_date_and_complete() -> None:
    text = (ROOT / "docs" / "SETTINGS.md").read_text(encoding="utf-8")
    assert text == document()
    for row in SETTINGS:
        assert text.count(f"| `{row.flag}` | `{row.variable}` |") == 1
    for rule in RULES:
        assert rule.text in text


def test_document_does_not_depend_on_the_machine() -> None:
    code = (
        "import os, sys; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from server.documents.settings import document; sys.stdout.write(document())"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"TRADECHAT_PORT": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert made.stdout.decode() == document()


def test_document_is_written_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "SETTINGS.md"
    assert main(["settings", "--check", "--output", str(path)]) == 1
    assert str(path) in capsys.readouterr().err
    assert main(["settings", "--output", str(path)]) == 0
    assert main(["settings", "--check", "--output", str(path)]) == 0
    path.write_text(path.read_text() + "\n")
    assert main(["settings", "--check", "--output", str(path)]) == 1
