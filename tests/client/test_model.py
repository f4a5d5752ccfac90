"""What a chat shows, without a terminal: buffers, what is unread, rows, panes."""

import os
import time
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcwidth

from client.chat import entries, panes, rows
from client.chat.commands import COMMANDS
from client.chat.model import ENTRIES_MAX, Buffer, Entry, Kind, Model, Sort
from client.terminal.display import text_of
from client.terminal.style import Line, Style
from client.terminal.text import clusters, escape, fitted, settled, width_of
from client.terminal.wrap import NARROWEST, wrap
from libproto.messages import ChatBroadcast, EventKind, RoomGap, RoomRole

NOON_US = 1_700_049_600_000_000  # 15 November 2023, 12:00 UTC
DAY_US = 86_400_000_000


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _said(text: str, who: str = "bob", seq: int = 0, time_us: int = NOON_US) -> Entry:
    return Entry(Sort.SAID, time_us, [text], [text], who, seq)


def _filled(count: int, *, older: int = 0) -> Buffer:
    buffer = Buffer(Kind.ROOM, "7", 7, older=older)
    buffer.entries = [_said(f"line {number}", seq=number) for number in range(1, count + 1)]
    return buffer


def _texts(found: list[Line]) -> list[str]:
    return [text_of(line) for line in found]


# ---- buffers


def test_buffers_stand_in_order() -> None:
    model = Model("alice")
    model.open_direct("zoe")
    model.open_room(12)
    model.open_direct("bob")
    model.open_room(7)
    names = ["chat", "room 7", "room 12", "@bob", "@zoe"]
    assert [buffer.title for buffer in model.buffers] == names


def test_the_one_before_is_active_again() -> None:
    model = Model("alice")
    for room in (11, 12):
        model.switch(model.open_room(room))
    model.switch(model.open_room(11))
    assert model.rooms == [12, 11]
    model.close(model.active)
    assert model.active.room == 12
    model.close(model.active)
    assert model.active is model.program
    model.close(model.program)
    assert model.active is model.program


def test_what_is_unread() -> None:
    """What is said where nobody looks; not what one says oneself, nor who comes and goes."""
    model = Model("alice")
    room = model.open_room(7)
    event = ChatBroadcast(7, 1, NOON_US, EventKind.MESSAGE, 2, "bob", "hello")
    for each in (
        event,
        event._replace(message="alice: hello"),
        event._replace(kind=EventKind.JOINED, message=""),
        event._replace(from_name="alice", message="alice says this herself"),
        RoomGap(7, 2, 5),
    ):
        model.add(room, entries.of_event(model, each))
    assert (room.unread, room.mentions) == (3, 1)
    assert model.next_unread() is room
    model.switch(room)
    assert (room.unread, room.mentions) == (0, 0)
    model.add(room, entries.of_event(model, event))
    assert room.unread == 0
    room.bottom = (0, 0)
    model.add(room, entries.of_event(model, event))
    assert room.unread == 1, "somebody who has scrolled up does not see it"


def test_a_mention_goes_before_what_is_merely_unread() -> None:
    model = Model("alice")
    seven, nine = model.open_room(7), model.open_room(9)
    for _ in range(5):
        model.add(seven, _said("x"))
    entry = _said("alice!")
    entry.is_mention = True
    model.add(nine, entry)
    assert model.next_unread() is nine


@pytest.mark.parametrize(
    ("text", "is_mention"),
    [
        ("alice: hello", True),
        ("hello ALICE", True),
        ("(alice)", True),
        ("alice's", True),
        ("alice2 and malice", False),
        ("not-alice", False),
        ("lunch at noon", True),
        ("", False),
    ],
)
def test_mentions(text: str, is_mention: bool) -> None:
    model = Model("alice")
    model.highlights = ("lunch",)
    assert model.is_mention(text) == is_mention


def test_buffers_by_name() -> None:
    model = Model("alice")
    room, bob = model.open_room(1), model.open_direct("bob")
    assert model.named("1") is model.program, "a number is a place"
    assert model.named("2") is room
    assert model.named("#1") is model.named("room 1") is room
    assert model.named("bob") is model.named("@BOB") is bob
    assert model.named("9") is model.named("nobody") is model.named("#3") is None


def test_old_lines_are_dropped_and_can_be_fetched_again() -> None:
    model = Model("alice")
    room = model.open_room(7)
    room.bottom = (9, 0)
    for number in range(1, ENTRIES_MAX + 6):
        model.add(room, _said("x", seq=number))
    assert len(room.entries) == ENTRIES_MAX
    assert (room.entries[0].seq, room.older, room.bottom) == (6, 5, (4, 0))


def test_who_is_there() -> None:
    model = Model("alice")
    room = model.open_room(7)
    model.add(room, _said("hello", "zoe"))
    model.present(7, ["bob", "alice"])
    assert room.present() == ["alice", "bob", "zoe"]
    model.went(7, "bob")
    model.came(7, "zoe")
    assert room.present() == ["alice", "zoe", "bob"]
    assert _texts(panes.members(room)) == ["\u25cf alice", "\u25cf zoe", "\u25cb bob"]


def test_finding() -> None:
    buffer = _filled(30)
    assert Model.find(buffer, "LINE 2") == 28
    assert Model.find(buffer, "line 2", 28) == 27
    assert Model.find(buffer, "bob: line 1", 1) == 0
    assert Model.find(buffer, "nothing") is None


# ---- rows


def test_a_buffer_as_rows() -> None:
    model = Model("alice")
    room = model.open_room(7)
    model.add(room, _said("hello", time_us=NOON_US - DAY_US))
    model.add(room, _said("a longer message that goes on", time_us=NOON_US + 60_000_000))
    model.add(room, Entry(Sort.MONEY, NOON_US + 60_000_000, [], ["bob paid you 1.00"]))
    assert _texts(rows.page(room, 24, 20)) == [
        "\u2500\u2500 Tuesday 14 November 2"[:24],
        "12:00 bob: hello",
        "\u2500\u2500 Wednesday 15 November"[:24],
        "12:01 bob: a longer",
        "      message that goes",
        "      on",
        "12:01 \u00a4 bob paid you",
        "      1.00",
    ]
    assert "(UTC+00:00)" in text_of(rows.day_line(NOON_US, 60))
    assert _texts(rows.page(room, 24, 2)) == ["12:01 \u00a4 bob paid you", "      1.00"]
    assert rows.page(room, 24, 0) == []


def test_who_comes_and_goes_may_be_hidden() -> None:
    buffer = _filled(1)
    buffer.entries.append(Entry(Sort.PRESENCE, NOON_US, [], ["zoe joined"]))
    assert len(rows.page(buffer, 40, 9)) == 3
    assert len(rows.page(buffer, 40, 9, joins=False)) == 2


def test_scrolling() -> None:
    buffer = _filled(100)

    def shown() -> list[str]:
        return [text.partition("line ")[2] for text in _texts(rows.page(buffer, 40, 5))]

    assert shown() == ["96", "97", "98", "99", "100"]
    assert not rows.scroll(buffer, 40, 5, 4)
    assert shown() == ["92", "93", "94", "95", "96"]
    buffer.entries.append(_said("line 101"))
    assert shown() == ["92", "93", "94", "95", "96"], "what arrives moves nothing"
    rows.scroll(buffer, 40, 5, -4)
    assert shown()[-1] == "100"
    rows.scroll(buffer, 40, 5, -4)
    assert (shown()[-1], buffer.bottom) == ("101", None)
    assert rows.scroll(buffer, 40, 5, 10**9), "the beginning is reached"
    assert shown() == ["", "1", "2", "3", "4"]
    Model.prepend(buffer, [_said(f"line {number}") for number in range(-9, 1)], 0)
    assert shown() == ["0", "1", "2", "3", "4"], "the day line went to the front"
    rows.scroll(buffer, 40, 5, -(10**9))
    assert buffer.bottom is None


def test_a_line_is_shown_where_it_is_found() -> None:
    buffer = _filled(100)
    for place in (0, 1, 50, 98, 99):
        rows.show_at(buffer, place, 40, 9)
        assert f"line {place + 1}" in "\n".join(_texts(rows.page(buffer, 40, 9)))


@given(
    texts=st.lists(st.text(max_size=60), max_size=12),
    width=st.integers(10, 60),
    height=st.integers(1, 12),
    steps=st.lists(st.integers(-15, 15), max_size=12),
)
def test_a_page_is_a_part_of_all_rows(
    texts: list[str], width: int, height: int, steps: list[int]
) -> None:
    """However it is scrolled: rows that follow one another, as many as there are place for."""
    buffer = Buffer(Kind.ROOM, "7", 7)
    for number, text in enumerate(texts):
        buffer.entries.append(_said(text, time_us=NOON_US + number * DAY_US // 3))
    everything = _texts(
        [row for place in range(len(texts)) for row in rows.rows_of(buffer, place, width)]
    )
    for step in steps:
        rows.scroll(buffer, width, height, step)
        found = _texts(rows.page(buffer, width, height))
        assert len(found) == min(height, len(everything))
        starts = range(len(everything) - len(found) + 1)
        assert any(everything[start : start + len(found)] == found for start in starts)


@given(count=st.integers(1, 30), height=st.integers(1, 9), step=st.integers(1, 40))
def test_up_and_down_again(count: int, height: int, step: int) -> None:
    buffer = _filled(count)
    before = _texts(rows.page(buffer, 40, height))
    rows.scroll(buffer, 40, height, step)
    rows.scroll(buffer, 40, height, -step - 40)
    assert _texts(rows.page(buffer, 40, height)) == before
    assert buffer.bottom is None


# ---- text in rows


@pytest.mark.parametrize(
    ("text", "width", "found"),
    [
        ("", 20, [""]),
        ("hello", 20, ["hello"]),
        ("hello there, all of you", 12, ["hello there,", "    all of", "    you"]),
        ("one\ntwo", 20, ["one", "    two"]),
        ("\n", 20, ["", "    "]),
        ("abcdefghijklmnop", 12, ["abcdefghijkl", "    mnop"]),
        ("\u4f60\u597d\u4f60\u597d\u4f60\u597d\u4f60", 13, ["\u4f60\u597d" * 3, "    \u4f60"]),
        ("e\u0301" * 14, 12, ["e\u0301" * 12, "    " + "e\u0301" * 2]),
        ("a\tb", 20, ["a    b"]),
        ("\x1b[2J", 20, ["\\x1b[2J"]),
        ("x" * 12 + " " * 9 + "y", 12, ["x" * 12, "    y"]),
        ("bob: abcdefghijklm", 12, ["bob: abcdefg", "    hijklm"]),  # too long for any row
        ("bob: \u4f60\u597d\u4f60\u597d", 12, ["bob: \u4f60\u597d\u4f60", "    \u597d"]),
    ],
)
def test_wrapping(text: str, width: int, found: list[str]) -> None:
    assert _texts(wrap([text], width, 4)) == found


HOSTILE = [
    "\x1b[2J\x1b[H", "\x1b]0;owned\x07", "\x1b]9;rung\x07", "\x07\x07", "\x9b31m", "\x90q\x9c",
    "\r[room 7] alice: I agree", "\x08" * 40, "\x0b\x0c\x85", "\u2028a\u2029b", "\x0e\x0f",
    "\u202eevil\u202c", "\u202dabc", "\u2066\u2067\u2068\u2069\u2069", "\u200f\u200e\u061c",
    "\u05e9\u05dc\u05d5\u05dd!", "\ufeff\u200b\u2060", "\U000e0041\U000e007f", "e" + "\u0301" * 500,
    "\u1160\u115f\u3164\uffa0", "\u00a4 bob paid you 500.00, balance 1.00", "\udcff\ud800",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f", "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea", "\u0e33\u0e33", "\ufdfd" * 30, "\x00\x7f", "\t\t\t",
]  # fmt: skip
"""Texts that have steered, confused or overrun terminals."""


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_steer_nothing(text: str) -> None:
    _check_rows(text, 40)


@given(st.text(max_size=300), st.integers(NARROWEST, 100))
def test_no_text_steers_anything(text: str, width: int) -> None:
    _check_rows(text, width)


def _check_rows(text: str, width: int) -> None:
    found = wrap([(Style.PERSON, "bob"), ": ", text], width, 6)
    for number, row in enumerate(_texts(found)):
        assert sum(max(0, wcwidth(char)) for char in row) <= max(width, NARROWEST + 1)
        assert number == 0 or row.startswith(" ")
        assert not {unicodedata.category(char) for char in row} & {"Cc", "Cs", "Zl", "Zp"}
        # Of what has to do with direction, only marks within what is isolated are there.
        assert row.count("\u2068") == row.count("\u2069")
        assert not set(row) & {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067"}
        outside = "".join(part.partition("\u2068")[0] for part in row.split("\u2069"))
        assert not any(
            unicodedata.bidirectional(char) in ("R", "AL", "AN") or char in "\u200e\u200f\u061c"
            for char in outside
        )
        assert "\u00a4" not in row


@given(st.text(max_size=80))
def test_clusters_are_the_text_and_stay_together(text: str) -> None:
    found = list(clusters(escape(text)))
    assert sum(map(width_of, found)) == width_of("".join(found))
    assert all(wcwidth(char) == 0 for cluster in found for char in cluster[1:])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\U0001f469\u200d\U0001f680", "\U0001f469\U0001f680"),
        ("\u2764\ufe0f", "\u2764"),
        ("\U0001f44d\U0001f3fd", "\U0001f44d"),
        ("\U0001f1e9\U0001f1ea", "DE"),
        ("\u0646\u200c\u0647", "\u0646\u200c\u0647"),  # Persian needs its joiners
        ("\u0915\u094d\u200d", "\u0915\u094d\u200d"),
    ],
)
def test_what_terminals_do_not_agree_about(text: str, shown: str) -> None:
    assert settled(text) == shown


# ---- panes


def test_rooms_with_what_is_unread() -> None:
    model = Model("alice")
    room = model.open_room(7)
    model.open_direct("a-name-that-is-as-long-as-may-be")
    model.switch(model.open_room(9))
    for _ in range(12):
        model.add(room, _said("x"))
    room.mentions = 1
    assert _texts(panes.rooms(model, 18)) == [
        "1 chat            ",
        "2 room 7       12!",
        "3 room 9          ",
        "4 @a-name-that-is\u2026",
    ]


def test_a_room_with_a_name() -> None:
    """It is called by that, made harmless; another's name for a room shadows nothing."""
    model = Model("alice")
    room = model.open_room(65)
    other = model.open_room(7)
    direct = model.open_direct("bob")
    for wanted, name in ((None, "#gold"), (other, "#7"), (direct, "bob"), (direct, "@bob")):
        assert model.named(name) is wanted
    for called in ("room 7", "chat", "bob", "@bob", "@zoe"):
        room.called = called
        assert model.named(f"#{called}") is room
    assert model.named("room 7") is other
    assert model.named("chat") is model.program
    assert model.named("@zoe") is None, "that is a person"
    room.called = "\u4f60\u597d \x1b[2J\u05d0 of all that is"
    for width in range(6, 30):
        shown = panes.rooms(model, width)[2]
        assert width_of(text_of(shown)) == width
        assert escape(text_of(shown)).count("\\u") <= 2, "but for what isolates it"
        assert "\x1b" not in text_of(shown)
    for width in range(1, 90):
        assert width_of(panes.title(room, width)) == width
    room.topic = "x" * 99
    assert panes.title(room, 70).rstrip().endswith("xx\u2026")


def test_what_changes_a_room() -> None:
    model = Model("alice")
    room = model.open_room(65)

    def changed(text: str, kind: int = EventKind.ROOM_CHANGED, number: int = 65) -> None:
        model.changed(ChatBroadcast(number, 4, NOON_US, kind, 2, "bob", text), 1)

    changed("topic all \x07 gold")
    changed("access 1")
    changed("role 1 2")
    assert (room.topic, room.access, room.role, room.changes) == ("all \x07 gold", 1, 2, 3)
    for text in ("role 9 5", "topic", "access 9", "deleted 4"):
        changed(text)
    changed("topic no", EventKind.MESSAGE)
    changed("topic no", number=66)
    assert (room.topic, room.access, room.role) == ("all \x07 gold", 1, 2)
    changed("role 1 3")
    changed("role 9 3")
    assert room.role == RoomRole.MODERATOR, "it was given away"


@given(st.text(max_size=30), st.integers(1, 20))
def test_what_is_fitted_fits(text: str, width: int) -> None:
    shown = fitted(text, width)
    assert width_of(shown) <= width
    plain = shown.strip("\u2068\u2069").replace("\u2069", "")
    assert escape(plain) == plain


def test_the_status_line() -> None:
    model = Model("alice")
    assert text_of(panes.status(model, 80)) == " alice \u00b7 balance \u2026 \u00b7 connected"
    model.balance, model.lag_ms = 1250, 3
    line = " alice \u00b7 balance 12.50 \u00b7 connected, lag 3 ms"
    assert text_of(panes.status(model, 80)) == line
    model.is_connected = False
    model.add(model.open_room(7), _said("x"))
    shown = text_of(panes.status(model, 80, note="wait", shows_rooms=False))
    parts = ("reconnecting\u2026", "2:room 7 1", "wait", "balance 12.50", "alice")
    assert shown == " " + " \u00b7 ".join(parts)
    for width in range(1, 60):
        assert width_of(text_of(panes.status(model, width, shows_rooms=False))) <= width


def test_help_has_every_command() -> None:
    shown = "\n".join(_texts(panes.help_rows(COMMANDS, 100)))
    for command in COMMANDS:
        assert command.usage in shown
    for width in (30, 50, 100):
        assert all(width_of(row) <= width for row in _texts(panes.help_rows(COMMANDS, width)))


def test_times_are_of_the_zone_where_the_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    assert os.environ["TZ"] == "Asia/Kolkata"
    assert rows.clock(NOON_US) == "17:30"
    assert "(UTC+05:30)" in text_of(rows.day_line(NOON_US, 60))
    assert rows.clock(2**64 - 1) == rows.NO_TIME
