"""What may be shown to others, and which names are alike; against the rules written out again."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libproto.texts import (
    is_media_type,
    may_be_registered,
    may_be_shown,
    may_name_a_file,
    skeleton,
)

LRE, RLE, PDF, LRO, RLO = map(chr, range(0x202A, 0x202F))
LRI, RLI, FSI, PDI = map(chr, range(0x2066, 0x206A))
TURNS = LRE + RLE + PDF + LRO + RLO + LRI + RLI + FSI + PDI


def is_refused_anywhere(code: int) -> bool:
    """One character alone: by its number, as the protocol lists them."""
    control = code < 0x20 or 0x7F <= code < 0xA0
    separator = code in (0x2028, 0x2029)
    noncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return control or separator or noncharacter


def test_every_character_alone() -> None:
    for code in range(0x110000):
        char = chr(code)
        if 0xD800 <= code < 0xE000:  # no text has these
            continue
        refused = is_refused_anywhere(code) or char in TURNS
        assert may_be_shown(f"a{char}b") is not refused, hex(code)
        refused &= char not in "\t\n"
        assert may_be_shown(f"a{char}b", lines=True) is not refused, hex(code)


def test_line_and_paragraph_ends() -> None:
    """Of the controls, messages alone have tab and newline; and a carriage return is neither."""
    assert may_be_shown("a\n\tb\n", lines=True)
    assert not may_be_shown("a\r\nb", lines=True)
    assert not may_be_shown("a\x85b", lines=True)
    assert may_be_shown("")
    assert may_be_shown("", lines=True)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        *((f"a{turn}b{PDF}c", True) for turn in (LRE, RLE, LRO, RLO)),
        *((f"a{turn}b{PDI}c", True) for turn in (LRI, RLI, FSI)),
        *((f"a{turn}b", False) for turn in TURNS),
        *((f"a{turn}b{PDI}c", False) for turn in (LRE, RLE, LRO, RLO)),
        *((f"a{turn}b{PDF}c", False) for turn in (LRI, RLI, FSI)),
        (f"{LRE}{LRI}{PDI}{PDF}", True),
        (f"{LRI}{LRE}{PDF}{PDI}", True),
        (f"{LRE}{LRI}{PDF}{PDI}", False),  # not in order
        (f"{LRI}{LRE}{PDI}{PDF}", False),
        (f"{LRE}{PDF}{PDF}", False),  # closes nothing
        (f"{PDF}{LRE}{PDF}", False),
        (f"{RLO}{RLO}{PDF}", False),
        (f"{RLO}{RLO}{PDF}{PDF}", True),
    ],
)
def test_turns_of_one_line(text: str, good: bool) -> None:
    assert may_be_shown(text) is good
    assert may_be_shown(text, lines=True) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (f"{RLO}a\nb{PDF}", False),  # not before the end of its line
        (f"{RLI}a\n{PDI}", False),
        (f"{RLO}a{PDF}\n{RLO}b{PDF}", True),
        (f"{RLO}a{PDF}\nb{PDF}", False),
        (f"a\n{RLO}", False),
    ],
)
def test_turns_of_several_lines(text: str, good: bool) -> None:
    assert may_be_shown(text, lines=True) is good


def test_marks_that_open_nothing_are_taken() -> None:
    """Directional marks, joiners, variation selectors: people write with them."""
    assert may_be_shown("a\u200e\u200f\u061cb\u200d\u200c\ufe0f\u00ad\ufeff")


@given(st.text(st.sampled_from("ab\n" + TURNS), max_size=8))
@example(f"{LRE}{PDF}")
def test_turns_are_as_nested_brackets(text: str) -> None:
    """Each line, without its other characters, can be taken apart pair by pair."""
    pairs = [a + PDF for a in (LRE, RLE, LRO, RLO)] + [a + PDI for a in (LRI, RLI, FSI)]
    good = True
    for line in text.split("\n"):
        turns = "".join(char for char in line if char in TURNS)
        while any(pair in turns for pair in pairs):
            for pair in pairs:
                turns = turns.replace(pair, "")
        good = good and not turns
    assert may_be_shown(text, lines=True) is good


@given(st.text(st.characters(codec="utf-8")))
def test_nothing_else_depends_on_its_neighbours(text: str) -> None:
    bare = "".join(char for char in text if char not in TURNS)
    expected = not any(is_refused_anywhere(ord(char)) for char in bare)
    assert may_be_shown(bare) is expected


def test_what_is_shown_is_assigned_or_may_be_one_day() -> None:
    """Unassigned characters are taken: a newer Unicode may have them."""
    assert unicodedata.category("\u0378") == "Cn"
    assert may_be_shown("\u0378")


@pytest.mark.parametrize(
    "alike",
    [
        ("ann", "Ann", "ANN"),
        ("modem", "rnodern", "MODEM", "moDern"),
        ("wow", "vvow", "wovv", "W0W", "w0vv"),
        ("bill", "bi11", "b1l1", "BILL", "blll", "biII"),
        ("vvv", "wv"),
        ("rnn", "mn"),
    ],
)
def test_names_that_look_alike(alike: tuple[str, ...]) -> None:
    assert len(set(map(skeleton, alike))) == 1


def test_names_that_do_not() -> None:
    names = ["ann", "anne", "a.nn", "a-nn", "a_nn", "ban", "mn", "nm", "o", "l", "ol", "w", "v"]
    assert len(set(map(skeleton, names))) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 33,
        "a b",
        "ä",
        *("-", "-a", ".", ".a", "a.", "-."),
        *("system", "admin", "server", "tradechat"),
        *("System", "ADMIN", "sErVeR", "TradeChat"),
        *("adm1n", "adrnin", "aDMlN", "systern"),
    ],
)
def test_names_that_nobody_registers(name: str) -> None:
    assert not may_be_registered(name)


@pytest.mark.parametrize("name", ["a", "a-", "_", "a.b", "administrator", "system1", "x" * 32, "9"])
def test_names_that_somebody_may_register(name: str) -> None:
    assert may_be_registered(name)


@pytest.mark.parametrize(
    "name", ["a", "a.txt", "é" * 64, "x" * 128, "no..thing", "a b", "-rf", "~"]
)
def test_names_of_files(name: str) -> None:
    assert may_name_a_file(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".profile",
        "a/b",
        "/",
        "../x",
        "a\n",
        "a\tb",
        "a\0",
        "é" * 65,
        "x" * 129,
        RLO + "x",
    ],
)
def test_what_names_no_file(name: str) -> None:
    assert not may_name_a_file(name)


@pytest.mark.parametrize("text", ["text/plain", "a/b", "image/svg+xml", "x" * 32 + "/" + "y" * 31])
def test_media_types(text: str) -> None:
    assert is_media_type(text)


@pytest.mark.parametrize(
    "text",
    ["", "/", "text", "text/", "/plain", "text/plain ", "text/plain\n", "text /plain", "a/b/c",
     "é/b", "text/plain; charset=utf-8", "x" * 32 + "/" + "y" * 32, "a/\0"],
)  # fmt: skip
def test_what_is_no_media_type(text: str) -> None:
    assert not is_media_type(text)
