"""The planted bugs still fit the code, and the tests that they name are there. That the tests find
them is shown by `make mutants`."""

import shutil
from pathlib import Path

import pytest

from tests.mutants import ROOT, Mutant, all_mutants, read
from tests.mutants.__main__ import patch

MUTANTS = all_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits(mutant: Mutant, tmp_path: Path) -> None:
    for package in ("libproto", "libnet", "liblog", "server", "client"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    assert patch(tmp_path, mutant) == ""
    changed = [
        path
        for path in tmp_path.rglob("*.py")
        if path.read_text() != (ROOT / path.relative_to(tmp_path)).read_text()
    ]
    assert changed
    for path in changed:
        compile(path.read_text(), path, "exec")
    test = mutant.test.split("::")
    file = ROOT / test[0]
    assert f"def {test[1].split('[')[0]}(" in file.read_text()


def test_what_is_no_mutant_is_told(tmp_path: Path) -> None:
    path = tmp_path / "no.patch"
    path.write_text("--- a/x\n+++ b/x\n")
    with pytest.raises(ValueError, match=r"no\.patch"):
        read(path)
