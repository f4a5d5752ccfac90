"""Frames that are compressed and sealed: any of them, cut anywhere, come out as they went in."""

import subprocess
import sys
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libproto.errors import MisuseError
from libproto.framing import Decoder, Fault, Frame, assemble
from libproto.messages import HEADER_LEN, Flag
from libproto.sealing import Opener, Sealer
from libproto.wrapping import COMPRESS_MIN, Unwrapper, Wrapper, inflate
from tests.libproto.test_framing import cut
from tests.libproto.vectors import ENCRYPTION

MAX = 65536
KEY = bytes(range(32))
ALL = 0  # flags of a frame that is to be compressed
ZEROS = bytes(10 * COMPRESS_MIN)

frames = st.builds(
    lambda opcode, req_id, flags, status, body, times: assemble(
        opcode, req_id, flags, status, body * times
    ),
    st.integers(0, 0xFFFF),
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, Flag.RESPONSE, Flag.POSSIBLE_DUPLICATE]),
    st.integers(0, 0xFFFF),
    st.binary(max_size=40),
    st.sampled_from([1, 1, 1, 30, 120]),
)


def wrapper(*, seals: bool = True, compressed: int | None = None) -> Wrapper:
    return Wrapper(Sealer(bytearray(KEY)) if seals else None, compressed)


def unwrapper(*, opens: bool = True, inflates: bool = False, most: int = MAX) -> Unwrapper:
    return Unwrapper(Decoder(most), Opener(bytearray(KEY)) if opens else None, inflates)


def taken(decoder: Decoder, *pieces: bytes) -> list[Frame]:
    return list(_taken(decoder, *pieces))


def _taken(decoder: Decoder, *pieces: bytes) -> Iterator[Frame]:
    for piece in pieces:
        decoder.feed(piece)
        while (frame := decoder.next()) is not None:
            yield frame


def whole(frame: Frame) -> bytes:
    opcode, req_id, flags, status, buf, start, end, fault = frame
    assert not fault
    return assemble(opcode, req_id, flags, status, buf[start:end])


@given(
    st.lists(frames, min_size=1, max_size=6),
    st.lists(st.integers(min_value=0), max_size=8),
    st.booleans(),
    st.sampled_from([None, ALL, int(Flag.RESPONSE)]),
    st.data(),
)
def test_what_goes_in_comes_out(
    sent: list[bytes], places: list[int], seals: bool, compressed: int | None, data: st.DataObject
) -> None:
    ours = wrapper(seals=seals, compressed=compressed)
    split = data.draw(st.integers(0, len(sent)))
    parts = [b"".join(sent[:split]), b"".join(sent[split:])]
    stream = b"".join(ours.wrap(part) for part in parts if part)
    theirs = unwrapper(opens=seals, inflates=compressed is not None)
    assert [whole(frame) for frame in taken(theirs, *cut(stream, places))] == sent
    assert not theirs.buffered


def test_the_frame_of_the_vector() -> None:
    key = bytes.fromhex(ENCRYPTION["client_to_server_key"])
    plain = assemble(
        ENCRYPTION["opcode"], ENCRYPTION["req_id"], 0, 0, bytes.fromhex(ENCRYPTION["plaintext"])
    )
    sealed = Wrapper(Sealer(bytearray(key))).wrap(plain)
    assert sealed.hex() == ENCRYPTION["frame_counter_0"]
    [frame] = taken(Unwrapper(Decoder(MAX), Opener(bytearray(key)), False), sealed)
    assert whole(frame) == plain


def test_what_was_not_agreed_is_left_as_it_is() -> None:
    sealed = assemble(4, 1, Flag.ENCRYPTED, 0, bytes(24))
    deflated = assemble(4, 1, Flag.COMPRESSED, 0, zlib.compress(ZEROS))
    for frame, sent in zip(
        taken(unwrapper(opens=False), sealed, deflated), (sealed, deflated), strict=True
    ):
        assert whole(frame) == sent


def test_it_may_be_agreed_between_two_frames_of_one_read() -> None:
    clear, sealed = (
        assemble(1, 1, Flag.RESPONSE, 0, b"hello"),
        wrapper().wrap(assemble(4, 2, 0, 0, b"x")),
    )
    decoder = unwrapper(opens=False)
    decoder.feed(clear + sealed)
    assert (frame := decoder.next()) is not None
    assert whole(frame) == clear
    decoder.agree(Opener(bytearray(KEY)), False)
    assert (frame := decoder.next()) is not None
    assert whole(frame) == assemble(4, 2, 0, 0, b"x")


def test_what_is_in_the_clear_or_does_not_open_is_a_fault_of_its_sealing() -> None:
    good = assemble(4, 1, 0, 0, b"body")
    other = Wrapper(Sealer(bytearray(32))).wrap(good)
    for wrong in (
        good,
        other,
        assemble(4, 1, Flag.ENCRYPTED, 0, b""),
        wrapper().wrap(good + good)[52:],
    ):
        [frame] = taken(unwrapper(), wrong)
        assert frame[-1] == Fault.SEALING
        assert frame[:2] == (4, 1)


def test_every_whole_frame_counts_whatever_it_is_answered_with() -> None:
    ours, theirs = wrapper(), unwrapper()
    damaged = bytearray(ours.wrap(assemble(4, 1, 0, 0, b"body")))
    damaged[-1] ^= 1
    reserved = bytearray(ours.wrap(assemble(4, 2, 0, 0, b"body")))
    reserved[31] = 1  # and its checksum is wrong by that
    assert [frame[-1] for frame in taken(theirs, bytes(damaged), bytes(reserved))] == [
        Fault.CHECKSUM,
        Fault.CHECKSUM,
    ]
    good = assemble(4, 3, 0, 0, b"good")
    [frame] = taken(theirs, ours.wrap(good))
    assert whole(frame) == good


def test_no_bit_of_a_frame_can_be_changed() -> None:
    plain = assemble(0x0203, 7, 0, 0, bytes(12))
    sealed = wrapper().wrap(plain)
    assert [whole(frame) for frame in taken(unwrapper(), sealed)] == [plain]
    for bit in range(22 * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        # whoever changes it makes the checksum anew
        head, body = changed[:HEADER_LEN], bytes(changed[HEADER_LEN:])
        remade = remake(bytes(head), body)
        for frame in taken(unwrapper(), remade):
            assert frame[-1] in (Fault.HEADER, Fault.CHECKSUM, Fault.SEALING)


def remake(head: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(head[26:] + body, zlib.crc32(head[:22]))
    return head[:22] + crc.to_bytes(4, "big") + head[26:] + body


def test_a_reserved_byte_is_a_fault_behind_that_of_the_sealing() -> None:
    sealed = wrapper().wrap(assemble(4, 1, 0, 0, b"body"))
    remade = remake(sealed[:31] + b"\1", sealed[32:])
    [frame] = taken(unwrapper(), remade)
    assert frame[-1] == Fault.RESERVED
    clear = assemble(4, 1, 0, 0, b"body")
    [frame] = taken(unwrapper(), remake(clear[:31] + b"\1", clear[32:]))
    assert frame[-1] == Fault.SEALING


def test_a_bad_header_is_the_end() -> None:
    decoder = unwrapper(most=100)
    [frame] = taken(decoder, assemble(4, 1, Flag.ENCRYPTED, 0, bytes(101)))
    assert frame[-1] == Fault.HEADER
    assert decoder.dead
    assert not taken(decoder, wrapper().wrap(assemble(4, 1, 0, 0, b"")))


def test_the_longest_body_is_that_which_was_sent_and_that_which_was_inflated() -> None:
    decoder = unwrapper(inflates=True, most=1000)
    ours = wrapper(compressed=ALL)
    exact, over = assemble(4, 1, 0, 0, bytes(1000)), assemble(4, 2, 0, 0, bytes(1001))
    first, second = taken(decoder, ours.wrap(exact), ours.wrap(over))
    assert whole(first) == exact
    assert second[-1] == Fault.INFLATION
    decoder.max_body_len = 1001
    [third] = taken(decoder, ours.wrap(over))
    assert whole(third) == over
    decoder.max_body_len = 20
    [fourth] = taken(decoder, wrapper().wrap(assemble(4, 1, 0, 0, bytes(5))))
    assert fourth[-1] == Fault.HEADER


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(60 << 20), 9)
    assert len(bomb) < MAX
    assert inflate(bomb, MAX) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        ZEROS,
        zlib.compress(ZEROS)[:-1],
        zlib.compress(ZEROS) + b"x",
        zlib.compress(ZEROS) + zlib.compress(ZEROS),
        zlib.compress(ZEROS)[2:-4],
        zlib.compressobj(wbits=31).flush(),
        zlib.compress(ZEROS)[:-1] + b"x",
    ],
    ids=["nothing", "plain", "cut", "longer", "two", "raw", "gzip", "wrong sum"],
)
def test_what_is_not_exactly_one_zlib_stream_is_not_inflated(body: bytes) -> None:
    assert inflate(body, MAX) is None


def test_a_stream_that_needs_a_dictionary_is_not_inflated() -> None:
    stream = zlib.compressobj(zdict=b"word")
    assert inflate(stream.compress(b"word word") + stream.flush(), MAX) is None


@given(st.binary(max_size=300), st.integers(0, 9))
def test_inflate_undoes_compress(body: bytes, level: int) -> None:
    assert inflate(zlib.compress(body, level), len(body)) == body
    if body:
        assert inflate(zlib.compress(body, level), len(body) - 1) is None


def test_what_gets_no_shorter_and_what_is_short_goes_as_it_is() -> None:
    ours = wrapper(seals=False, compressed=ALL)
    short, noise = assemble(4, 1, 0, 0, bytes(COMPRESS_MIN - 1)), assemble(4, 1, 0, 0, NOISE)
    assert ours.wrap(short + noise) == short + noise
    long = assemble(4, 1, 0, 0, ZEROS)
    assert len(ours.wrap(long)) < len(long) // 10


NOISE = b"".join(zlib.crc32(bytes([n])).to_bytes(4, "big") for n in range(250)) + bytes(range(256))


def test_only_whole_frames_are_wrapped_and_nothing_after_the_end() -> None:
    ours = wrapper()
    with pytest.raises(MisuseError):
        ours.wrap(assemble(4, 1, 0, 0, b"body")[:-1])
    ours.close()
    with pytest.raises(MisuseError):
        ours.wrap(assemble(4, 1, 0, 0, b"body"))


def test_an_unwrapper_that_was_closed_opens_nothing() -> None:
    theirs = unwrapper()
    theirs.close()
    [frame] = taken(theirs, wrapper().wrap(assemble(4, 1, 0, 0, b"body")))
    assert frame[-1] == Fault.SEALING


def test_who_needs_no_encryption_does_not_load_what_it_takes() -> None:
    program = "import sys, libproto.wrapping; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
