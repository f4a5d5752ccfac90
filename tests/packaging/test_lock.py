"""The lock of what a checkout and its tests run with."""

import re
import tomllib
from typing import Any

from tests.packaging.conftest import ROOT

ON_LINUX = ' ; sys_platform == "linux"'
"""What stands behind a requirement that the client can do without."""


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _requirement_name(line: str) -> str:
    """The name at the start of a requirement, in the one spelling of all that stand for it."""
    match = re.match(r"[A-Za-z0-9._-]+", line)
    assert match is not None, line
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _locked() -> dict[str, list[str]]:
    """The requirements of all lock files: `name==version` by line, and the options after it."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "requirements").glob("*.txt")):
        text = re.sub(r"^ *#.*$", "", file.read_text(), flags=re.MULTILINE)
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip():
                requirement, *options = line.replace(ON_LINUX, "").split()
                found[requirement] = options
    return found


def test_the_lock_is_versions_and_hashes_and_nothing_else() -> None:
    """No address of an index in it: where packages come from is for who installs them to say."""
    for requirement, options in _locked().items():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", requirement)
        assert options
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options)


def test_the_lock_holds_whatever_the_project_asks_for() -> None:
    project = _project()
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        asked += extra
    locked = {_requirement_name(requirement) for requirement in _locked()}
    assert {_requirement_name(requirement) for requirement in asked} - locked == set()
