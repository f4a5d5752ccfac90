"""The command."""

import re

import pytest

from libproto.form import FORM
from tests.crash_images.__main__ import main


def test_it_says_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send"]) == 0
    form, heads, row, verdict = capsys.readouterr().out.splitlines()
    assert form == f"{FORM.name}:"
    assert heads.split()[:4] == ["operation", "instructions", "images", "repaired"]
    name, instructions, images, repaired, *_ = row.split()
    assert name == "send"
    assert int(images) == int(repaired) > 5
    assert re.fullmatch(
        rf"{instructions} instructions, {images} images, {images} repaired: .*well", verdict
    )


def test_an_unknown_operation_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dance"])
    assert ended.value.code == 2
    assert "no such operation: dance" in capsys.readouterr().err
