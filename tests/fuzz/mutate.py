"""Changes to recorded frames, as somebody makes them who knows the protocol: what is changed has a
right checksum, most of the time, so that it gets as far as it can."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from libproto import wire
from libproto.codec import REQUEST
from libproto.errors import MisuseError, PeerError
from libproto.fields import fields_of
from libproto.messages import HEADER_LEN
from tests.fuzz.targets import summed

INTEGERS: Final = (
    *(0, 1, 2, 3, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1),
)  # fmt: skip
TEXTS: Final = (
    *(
        "",
        "a",
        "system",
        "\0",
        "\x1b[2J",
        "\u202eabc",
        "\r\n",
        "\u00e9" * 40,
        "x" * 5000,
        "-",
        "..",
    ),
    *("-", "..", "https://[", "http://127.0.0.1:1/", "\ud7ff\ue000"),
)
BLOBS: Final = (
    *(b"", b"\0", bytes(16), bytes(32), b"\xff" * 32, b"\xff\xfe", bytes(70), bytes(40_000)),
)
PLACES: Final = {
    "version": 2, "flags": 3, "length": 4, "header": 8, "opcode": 10, "status": 12, "req_id": 14,
}  # fmt: skip
"""Offsets of fields in a header."""

Frames = list[bytes]
Change = Callable[[random.Random, Frames, int], None]


def flip(rng: random.Random, frames: Frames, at: int) -> None:
    """A bit anywhere."""
    changed = bytearray(frames[at])
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        frames[at] = summed(bytes(changed)) if rng.random() < 0.8 else bytes(changed)


def lie(rng: random.Random, frames: Frames, at: int) -> None:
    """A field of the header says something else; most often the length."""
    frame = frames[at]
    if len(frame) >= HEADER_LEN:
        name = rng.choice((*PLACES, "length", "length"))
        size = {"length": 4, "req_id": 8, "version": 1, "flags": 1}.get(name, 2)
        was = int.from_bytes(frame[PLACES[name] : PLACES[name] + size])
        value = rng.choice((*INTEGERS, was - 1, was + 1, len(frame))) % 256**size
        put = frame[: PLACES[name]] + value.to_bytes(size) + frame[PLACES[name] + size :]
        frames[at] = summed(put)


def resize(rng: random.Random, frames: Frames, at: int) -> None:
    """A body is longer or shorter than its fields, and the header says so."""
    frame = frames[at]
    if len(frame) >= HEADER_LEN:
        body = frame[HEADER_LEN:]
        end = rng.randrange(len(body) + 1)
        body = body[:end] if rng.random() < 0.5 else body + rng.randbytes(rng.choice((1, 7, 300)))
        frames[at] = summed(frame[:4] + len(body).to_bytes(4) + frame[8:HEADER_LEN] + body)


def replace(rng: random.Random, frames: Frames, at: int) -> None:
    """One field of the body is another one of those that programs stumble over."""
    frame = frames[at]
    head = wire.header(frame, 0) if len(frame) >= HEADER_LEN else None
    codec = REQUEST.get(head[3]) if head else None
    if head is None or codec is None:
        return
    try:
        values: list[Any] = list(codec.decode(frame, HEADER_LEN, len(frame)))
    except PeerError:
        return
    if values:
        place = rng.randrange(len(values))
        kind = fields_of(codec.body)[place].kind
        if kind.name == "str":
            values[place] = rng.choice((*TEXTS, values[place] * 2))
        elif kind.name == "bytes":
            values[place] = rng.choice((*BLOBS, values[place][:-1], values[place] * 2))
        elif isinstance(values[place], int):
            values[place] = rng.choice((*INTEGERS, values[place] + 1)) % 256**kind.size
        try:
            frames[at] = codec.frame(head[5], head[0] & 0xFF, *values)
        except MisuseError:
            return


def repeat(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at:at] = [frames[at]] * rng.choice((1, 1, 2, 20))


def drop(rng: random.Random, frames: Frames, at: int) -> None:
    del rng
    del frames[at]


def move(rng: random.Random, frames: Frames, at: int) -> None:
    frames.insert(rng.randrange(len(frames)), frames.pop(at))


def cut_off(rng: random.Random, frames: Frames, at: int) -> None:
    """A frame ends early, and the next one begins."""
    if frames[at]:
        frames[at] = frames[at][: rng.randrange(len(frames[at]))]


def junk(rng: random.Random, frames: Frames, at: int) -> None:
    frames.insert(at, rng.randbytes(rng.choice((1, 31, 32, 33, 400))))


CHANGES: Final[Sequence[Change]] = (
    *(flip, flip, lie, lie, resize, replace, replace, replace, replace),
    *(repeat, repeat, drop, move, move, cut_off, junk),
)


def changed(rng: random.Random, recorded: Sequence[bytes]) -> Frames:
    """A recording with some changes."""
    frames = list(recorded)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 9))):
        if frames:
            rng.choice(CHANGES)(rng, frames, rng.randrange(len(frames)))
    return frames
