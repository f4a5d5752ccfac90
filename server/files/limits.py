"""How much the store takes, and how long it keeps it."""

from dataclasses import dataclass
from typing import Final

CHUNK_MAX: Final = 60 << 10
"""Bytes of a FILE_PUT and a FILE_GET."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bytes and seconds."""

    file_bytes: int = 16 << 20
    total_bytes: int = 1 << 30
    user_bytes: int = 256 << 20
    user_uploads: int = 64
    upload_kept_s: int = 3600
    retention_s: int = 30 * 86400
    spare_bytes: int = 0
    """What is left of the file system for others, as the journal."""
