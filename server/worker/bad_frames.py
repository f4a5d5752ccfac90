"""The rows of the protocol's table "Bad input" that concern a frame itself."""

from typing import NamedTuple

from libproto.errors import Status
from libproto.framing import Fault
from libproto.messages import Flag


class BadFrame(NamedTuple):
    """How a frame is answered that is none of this connection."""

    counter: str
    detail: str
    status: Status = Status.ERR_BAD_PACKET
    ends: bool = False  # nothing more is taken from the connection


def bad_frame(flags: int, fault: int) -> BadFrame:
    """What is wrong with a frame. fault: what the decoder found, or 0."""
    if fault == Fault.HEADER:
        return BadFrame("bad_header", "magic, version, header_len or body_len", ends=True)
    if fault == Fault.CHECKSUM:
        return BadFrame("bad_checksum", "dropped", Status.ERR_CHECKSUM_FAIL)
    if fault == Fault.SEALING and flags & Flag.ENCRYPTED:
        detail = "it does not open: altered, repeated, or not in its turn"
        return BadFrame("unopened", detail, ends=True)
    if fault == Fault.SEALING:
        return BadFrame("bad_sealing", "encryption was agreed", ends=True)
    if flags & Flag.ENCRYPTED:
        return BadFrame("bad_sealing", "encryption was not agreed", ends=True)
    detail = "flags, status, reserved bytes or req_id"
    if fault == Fault.INFLATION:
        detail = "it is not exactly one complete zlib stream, of at most max_body_len"
    elif flags & Flag.COMPRESSED:
        detail = "compression was not granted"
    return BadFrame("bad_frame", detail)
