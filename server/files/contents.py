"""Where the contents of files are: what the files process and the workers share."""

from pathlib import Path
from typing import Final

FOLDER: Final = "files"
"""In the data directory: the store."""


def content_of(store: Path, sha256: bytes) -> Path:
    """The file of these contents."""
    name = sha256.hex()
    return store / "contents" / name[0] / name[1] / name
