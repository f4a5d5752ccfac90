"""The segments of the workers' pools, as somebody sees them who touches nothing."""

import os
from collections.abc import Iterator

from server.files.channel import Kind
from server.files.segments import OFFSETS, SEGMENT_SIZE, SHM, WORD, SegmentState, pools
from server.region.region import Region

Row = tuple[int, int, str, str, int, int, str]
"""Worker, segment, state, request, user, file_id, and how much of the file is there."""


def segments_in_use(region: Region) -> Iterator[Row]:
    """Those that are not empty, at about this moment."""
    for slot, number in enumerate(region.column("workers", "pool")):
        for name in pools(region.name, slot) if number else ():
            yield from _of_pool(slot, name)


def _of_pool(slot: int, name: str) -> Iterator[Row]:
    try:
        fd = os.open(f"{SHM}/{name}", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return  # its worker has ended just now
    try:
        size = os.fstat(fd).st_size
        data = os.pread(fd, size, 0) if size % SEGMENT_SIZE == 0 else b""
    finally:
        os.close(fd)
    words = memoryview(data).cast("Q") if data else memoryview(b"")
    for segment in range(len(data) // SEGMENT_SIZE):
        base = segment * SEGMENT_SIZE // WORD
        state, kind, user, file_id, size, at, chunk, received = (
            words[base + OFFSETS[field]]
            for field in (
                "state",
                "kind",
                "user",
                "file_id",
                "size",
                "offset",
                "chunk",
                "received",
            )
        )
        if state == SegmentState.EMPTY or state not in tuple(SegmentState):
            continue
        named = Kind(kind).name if kind in tuple(Kind) else "-"
        moved = received or at + chunk
        share = f"{100 * min(moved, size) // size} %" if size else "-"
        yield slot, segment, SegmentState(state).name, named, user, file_id, share
