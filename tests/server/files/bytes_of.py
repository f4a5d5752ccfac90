"""Contents and hashes for tests."""

from hashlib import sha256


def content(number: int, size: int) -> bytes:
    """Always the same, and no two numbers alike."""
    seed = f"{number} of {size}; ".encode()
    return (seed * (size // len(seed) + 1))[:size]


def hash_of(data: bytes) -> bytes:
    return sha256(data).digest()
