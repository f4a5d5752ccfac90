"""Directories for servers of another user."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user may enter; pytest's are its user's alone."""
    with tempfile.TemporaryDirectory(prefix="tradechat-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
