"""Lines as people see them, and nothing in them that steers a terminal."""

import io
import json
import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.terminal import display
from client.terminal.display import Screen
from client.terminal.style import Line, Style
from client.terminal.text import escape, isolate
from libcli.output import OutputClosed
from libproto.messages import (
    ChatBroadcast,
    DirectMessage,
    EventKind,
    Payment,
    RoomGap,
    Transaction,
    TxnKind,
)


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def _on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal()
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return made


def _text(line: Line) -> str:
    return "".join(part if isinstance(part, str) else part[1] for part in line)


def _event(kind: int, message: str = "", name: str = "alice") -> ChatBroadcast:
    return ChatBroadcast(7, 12, 1_700_000_000_000_000, kind, 1, name, message)


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (_event(EventKind.MESSAGE, "hello"), "[room 7] alice: hello"),
        (_event(EventKind.JOINED), "[room 7] alice joined"),
        (_event(EventKind.LEFT), "[room 7] alice left"),
        (_event(EventKind.SYSTEM, "back soon"), "[room 7] * back soon"),
    ],
)
def test_events(event: ChatBroadcast, shown: str) -> None:
    assert _text(display.event_line(event)) == shown
    dated = _text(display.event_line(event, dated=True))
    assert dated == f"{display.moment(event.time)} {shown}"


def test_what_comes_in_besides() -> None:
    assert _text(display.direct_line(DirectMessage(1, 0, 2, "bob", "psst"))) == "[bob -> you] psst"
    assert (
        _text(display.payment_line(Payment(9, 0, 2, "bob", 1250, 3000)))
        == "bob paid you 12.50, balance 30.00"
    )


@pytest.mark.parametrize(
    ("gap", "shown"),
    [
        (RoomGap(7, 3, 5), "[room 7] events 3 to 5 cannot be fetched any more"),
        (RoomGap(7, 3, 3), "[room 7] event 3 cannot be fetched any more"),
    ],
)
def test_gaps(gap: RoomGap, shown: str) -> None:
    assert _text(display.gap_line(gap)) == shown


def test_a_gap_of_direct_messages() -> None:
    assert "direct messages were missed (3)" in _text(display.gap_line(RoomGap(0, 3, 5)))


@pytest.mark.parametrize(
    ("kind", "source", "target", "shown"),
    [
        (TxnKind.DEPOSIT, 0, 1, "deposited 12.50, balance 30.00"),
        (TxnKind.WITHDRAW, 1, 0, "withdrew 12.50, balance 30.00"),
        (TxnKind.TRANSFER, 1, 2, "paid bob 12.50, balance 30.00"),
        (TxnKind.TRANSFER, 2, 1, "bob paid you 12.50, balance 30.00"),
    ],
)
def test_transactions(kind: int, source: int, target: int, shown: str) -> None:
    names = {0: "", 1: "alice", 2: "bob"}
    entry = Transaction(5, 1_700_000_000_000_000, kind, source, target, 1250, 3000, 4)
    line = _text(display.transaction_line(entry, 1, names))
    assert line == f"#5 {display.moment(entry.time)} {shown}"
    assert display.transaction_fields(entry, names) == {
        "txn_id": 5, "time": entry.time, "kind": TxnKind(kind).name.lower(),
        "from_user": source, "from_name": names[source], "to_user": target,
        "to_name": names[target], "amount": 1250, "balance": 3000, "req_id": 4,
    }  # fmt: skip


def test_a_time_that_no_calendar_has() -> None:
    assert display.moment(2**64 - 1) == f"{2**64 - 1} us"


def test_fields_of_events() -> None:
    assert display.event_fields(_event(EventKind.JOINED)) == {
        "event": "joined", "room_id": 7, "room_seq": 12, "time": 1_700_000_000_000_000,
        "from_user": 1, "from_name": "alice", "message": "",
    }  # fmt: skip
    assert display.event_fields(_event(99))["event"] == "99"
    assert display.event_fields(RoomGap(7, 3, 5)) == {
        "event": "gap", "room_id": 7, "first_seq": 3, "last_seq": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("gr\u00fc\u00df dich \u4f60\u597d", "gr\u00fc\u00df dich \u4f60\u597d"),
        ("\u3000\u00a0", "\u3000\u00a0"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x00\x7f", r"\x00\x7f"),
        ("\x1bc", r"\x1bc"),
        ("\r[room 7] alice: I agree", r"\r[room 7] alice: I agree"),
        ("\u202eevil", r"\u202eevil"),
        ("\u2067evil\u2069", r"\u2067evil\u2069"),
        ("\u200b\ufeff", r"\u200b\ufeff"),
        ("\u05d0\u200f!\u200e\u061c", "\u05d0\u200f!\u200e\u061c"),  # marks that such text needs
        ("\u00a4 bob paid you 5.00", r"\xa4 bob paid you 5.00"),  # the mark of lines about money
        ("\u2028\u2029", r"\u2028\u2029"),
        ("e\u0301", "e\u0301"),  # an accent of its own
        ("\U000e0041", r"\U000e0041"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),  # one picture: a joiner
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert escape(text) == shown


@pytest.mark.parametrize("text", ["\u05d0\u05d1", "abc\u200f", "\u0661", "see \u0627", "\u200ea"])
def test_text_from_right_to_left_turns_nothing_around_it(text: str) -> None:
    assert isolate(text) == f"\u2068{text}\u2069"


@pytest.mark.parametrize("text", ["", "abc", "gr\u00fc\u00df", "\u4f60\u597d", "e\u0301"])
def test_other_text_is_not_isolated(text: str) -> None:
    assert isolate(text) == text


def test_a_time_tells_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    try:
        assert display.moment(1_700_000_000_000_000) == "2023-11-14 23:13:20+01:00"
        assert display.moment(1_690_000_000_000_000) == "2023-07-22 06:26:40+02:00"
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    harmful = {"Cc", "Zl", "Zp", "Cs"}
    assert not harmful & {unicodedata.category(char) for char in escape(text)}


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_json_is_ascii_and_says_the_same(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written = io.StringIO()
        patch.setattr(sys, "stdout", written)
        Screen(as_json=True).result(["unused"], {"message": text})
    line = written.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    assert json.loads(line) == {"message": text}


def test_every_part_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.show(["a\x1b", (Style.PERSON, "b\x1b")])
    screen.remark("c\x1b")
    screen.complain("d\x1b")
    written = capsys.readouterr()
    assert written.out == "a\\x1bb\\x1b\n"
    assert written.err == "c\\x1b\nd\\x1b\n"


def test_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _on_a_terminal(monkeypatch)
    Screen().show(["a ", (Style.MONEY, "12.50")])
    assert terminal.getvalue() == "a \x1b[32m12.50\x1b[0m\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colours_where_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    terminal = _on_a_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    Screen().show([(Style.MONEY, "12.50")])
    assert terminal.getvalue() == "12.50\n"


def test_an_empty_no_color_forbids_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _on_a_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "")
    Screen().show([(Style.MONEY, "1")])
    assert "\x1b" in terminal.getvalue()


def test_no_colours_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show([(Style.MONEY, "12.50")])
    assert capsys.readouterr().out == "12.50\n"


class Closed(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


def test_an_output_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", Closed())
    with pytest.raises(OutputClosed):
        Screen().show(["text"])
    Screen().complain("nobody to tell")


def test_a_program_without_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    Screen().show(["text"])
