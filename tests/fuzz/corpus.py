"""The seeds that fuzzing begins with, in tests/fuzz/corpus: made from the frames that another
implementation made, and a few scripts.

    python -m tests.fuzz.corpus

writes them anew.
"""

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from client.core.pushes import MAKERS
from libproto.messages import HEADER_LEN
from tests.client.test_core import ROWS, any_call
from tests.fuzz.targets import NAMES
from tests.libproto.strategies import CODECS
from tests.libproto.vectors import INVALID, VALID, codec_of

FOLDER: Final = Path(__file__).parent / "corpus"
_EACH: Final = 12  # of one target


def seeds() -> dict[str, list[bytes]]:
    """By target."""
    frames = [bytes.fromhex(vector["frame"]) for vector in VALID]
    bad = [bytes.fromhex(vector["frame"]) for vector in INVALID]
    edits = [bytes([0, at, edit, 1, 2, 3]) for at in (0, 5) for edit in range(6)]
    changes = [b"", bytes([0, 1, 0, 40]), bytes([0, 0, 0, 70, 1, 255]), bytes([1, 0, 4, 0, 8, 7])]
    return {
        "framing": [bytes([cut]) + frame for cut in (0, 31, 200) for frame in frames[:2]]
        + [bytes([9]) + b"".join(frames[:4])]
        + [bytes([255]) + frame for frame in bad[:4]],
        "codec": _spread(list(_bodies())),
        "sealing": edits,
        "inflation": [b"\x08\x00" + zlib.compress(body) for body in (b"", b"x" * 3000)],
        "session": _spread(list(_pushes())) + _spread(list(_answers())),
        "journal": changes,
        "records": [b"", *(bytes([2 * n + n % 2, 0, 24 + 8 * n, 2, 1, n]) for n in range(11))],
        "snapshots": [bytes([right]) + change for right in (0, 1) for change in changes],
        "histories": changes,
    }


def _spread(every: list[bytes]) -> list[bytes]:
    """A few, from all over."""
    return every[:: max(1, len(every) // _EACH)][:_EACH]


def _bodies() -> Iterator[bytes]:
    for vector in VALID:
        number = next(n for n, name in enumerate(NAMES) if CODECS[name][2] is codec_of(vector))
        yield bytes([number]) + bytes.fromhex(vector["frame"])[HEADER_LEN:]


def _pushes() -> Iterator[bytes]:
    opcodes = sorted(MAKERS)
    for vector in VALID:
        if vector["direction"] == "push" and vector["opcode"] in opcodes:
            body = bytes.fromhex(vector["frame"])[HEADER_LEN:][:255]
            yield bytes([2, opcodes.index(vector["opcode"]), len(body)]) + body


def _answers() -> Iterator[bytes]:
    opcodes = [any_call(name).opcode for name in sorted(ROWS)]
    for vector in VALID:
        if vector["direction"] == "response" and vector["opcode"] in opcodes:
            body = bytes.fromhex(vector["frame"])[HEADER_LEN:][:255]
            row = opcodes.index(vector["opcode"])
            yield bytes([0, row, 0, 1, 0, len(body)]) + body


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for target, every in seeds().items():
        (FOLDER / target).mkdir(parents=True)
        for number, seed in enumerate(every):
            (FOLDER / target / f"{number:02}").write_bytes(seed)


if __name__ == "__main__":
    main()
