"""What a segment carries to the files process beside its fields."""

from struct import Struct
from typing import Final, NamedTuple

_BEGIN: Final = Struct("=QQ32sHH")  # place, whether it may be read, hash, lengths of the texts


class Begin(NamedTuple):
    """What the segment of a BEGIN carries."""

    place: int
    readable: bool
    sha256: bytes
    media_type: str
    name: str

    def pack(self) -> bytes:
        media, name = self.media_type.encode(), self.name.encode()
        head = _BEGIN.pack(self.place, self.readable, self.sha256, len(media), len(name))
        return head + media + name

    @classmethod
    def unpack(cls, data: bytes) -> "Begin":
        place, readable, sha256, first, second = _BEGIN.unpack_from(data)
        at = _BEGIN.size
        media, name = data[at : at + first], data[at + first : at + first + second]
        return cls(place, bool(readable), sha256, media.decode(), name.decode())
