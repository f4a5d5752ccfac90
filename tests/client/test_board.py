"""The board that a chat shows, without a terminal: entries, cursor, rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.chat.board import Board
from client.chat.board_rows import age, board_rows
from client.chat.model import Buffer, Kind, Model
from client.core.room_events import read_event
from client.terminal.display import text_of
from client.terminal.text import width_of
from libproto.messages import BoardEntry, ChatBroadcast, EventKind
from tests.client.test_model import HOSTILE, NOON_US

MINUTE_US = 60_000_000


def _entry(number: int, text: str = "a lamp", price: int = 250, owner: str = "bob") -> BoardEntry:
    return BoardEntry(number, NOON_US, 2, owner, price, text)


def _board(*numbers: int) -> Board:
    board = Board()
    board.reading()
    board.read([_entry(number) for number in numbers])
    return board


def _numbers(board: Board) -> list[int]:
    return [entry.entry_id for entry in board.shown()]


def _follow(board: Board, kind: int, text: str) -> bool:
    event = ChatBroadcast(7, 1, NOON_US, kind, 3, "cid", text)
    return board.follow(read_event(event), event)


def test_it_follows_events() -> None:
    board = _board(4, 5)
    assert _follow(board, EventKind.OFFER_ADDED, "6 100 a chair")
    assert _follow(board, EventKind.OFFER_TAKEN, "4 99 250 2")
    assert _follow(board, EventKind.OFFER_REMOVED, "5")
    assert not _follow(board, EventKind.MESSAGE, "7 100 a table")
    assert not _follow(board, EventKind.OFFER_ADDED, "x")
    assert board.shown() == [BoardEntry(6, NOON_US, 3, "cid", 100, "a chair")]
    assert board.takers == {4: "cid"}


def test_what_comes_while_it_is_read_is_newer() -> None:
    board = _board(4, 5)
    board.reading()
    _follow(board, EventKind.OFFER_TAKEN, "5 99 250 2")
    _follow(board, EventKind.OFFER_ADDED, "7 100 a chair")
    board.read([_entry(number) for number in (4, 5, 6)])
    assert _numbers(board) == [4, 6, 7]
    board.reading()
    board.read([_entry(6)])
    assert _numbers(board) == [6], "what is not read any more has gone unseen"


def test_the_cursor_stays_with_its_entry() -> None:
    board = _board(4, 5, 6)
    assert board.cursor == 4
    board.move(1)
    board.remove(4)
    assert board.cursor == 5
    board.remove(5)
    assert board.cursor == 6
    _follow(board, EventKind.OFFER_ADDED, "7 100 a chair")
    board.move(9)
    assert board.cursor == 7
    board.remove(7)
    assert board.cursor == 6, "the last one, where there is none below"
    board.remove(6)
    assert (board.cursor, board.selected) == (0, None)
    board.move(1)
    _follow(board, EventKind.OFFER_ADDED, "8 100 a table")
    assert board.cursor == 8


def test_what_is_not_shown_is_not_under_the_cursor() -> None:
    board = _board(4)
    _follow(board, EventKind.OFFER_ADDED, "5 100 a STRASSE")
    board.find("stra\u00dfe")
    assert (_numbers(board), board.cursor) == ([5], 5)
    board.find("nothing")
    assert (board.shown(), board.selected) == ([], None)
    board.find("")
    assert _numbers(board) == [4, 5]


@pytest.mark.parametrize(
    ("minutes", "shown"), [(-5, "now"), (0, "now"), (1, "1m"), (59, "59m"), (60, "1h"),
                           (1439, "23h"), (1440, "1d"), (144_000, "100d")],
)  # fmt: skip
def test_how_old_an_entry_is(minutes: int, shown: str) -> None:
    assert age(NOON_US, NOON_US + minutes * MINUTE_US) == shown


def _buffer(*texts: str) -> Buffer:
    buffer = Model("alice").open_board(7)
    assert buffer.board is not None
    buffer.board.read([_entry(number, text) for number, text in enumerate(texts, 4)])
    return buffer


def test_rows() -> None:
    buffer = _buffer("a lamp", "a chair")
    found = board_rows(buffer, 60, 6, NOON_US + MINUTE_US, "")
    assert [text_of(line) for line in found] == [
        "2 entries",
        "> #4           2.50 bob              1m a lamp",
        "  #5           2.50 bob              1m a chair",
        "", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize("question", ["", f"pay bob 2.50 and take #5? {'x' * 200}"])
def test_rows_fit_and_the_cursor_is_among_them(question: str) -> None:
    buffer = _buffer(*(f"{text} {'y' * 200}" for text in HOSTILE))
    board = buffer.board
    assert board is not None
    for width in (12, 33, 40, 80):
        for height in (0, 1, 2, 5, 12, 40):
            for _ in board.shown():
                board.move(1)
                found = board_rows(buffer, width, height, NOON_US, question)
                assert len(found) == height
                assert all(width_of(text_of(line)) <= width for line in found)
                texts = [text_of(line) for line in found]
                assert not any("\x1b" in text or "\n" in text for text in texts)
                if height >= 2 and not question:
                    assert any(text.startswith(f"> #{board.cursor} ") for text in texts)
            board.move(-99)
    if question:
        shown = "".join(text_of(line) for line in board_rows(buffer, 60, 12, NOON_US, question))
        assert "pay bob 2.50 and take #5?" in shown


@given(st.lists(st.tuples(st.sampled_from("arm"), st.integers(1, 9)), max_size=40))
def test_the_cursor_is_always_on_what_is_shown(steps: list[tuple[str, int]]) -> None:
    board = Board()
    there: set[int] = set()
    gone: set[int] = set()
    for what, number in steps:
        match what:
            case "a":
                _follow(board, EventKind.OFFER_ADDED, f"{number} 100 a lamp")
                there |= {number} - gone
            case "r":
                board.remove(number)
                there.discard(number)
                gone.add(number)
            case _:
                board.move(number - 5)
        assert _numbers(board) == sorted(there)
        assert (board.cursor in there) if there else board.cursor == 0


def test_a_board_stands_behind_its_room_and_goes_with_it() -> None:
    model = Model("alice")
    room = model.open_room(65)
    room.called = "gold"
    model.open_room(70)
    model.open_direct("bob")
    board = model.open_board(65)
    titles = ["chat", "#gold", "board of #gold", "room 70", "@bob"]
    assert [each.title for each in model.buffers] == titles
    assert model.room(65) is room
    assert model.open_board(65) is board
    assert model.rooms == [70, 65] or set(model.rooms) == {65, 70}
    model.switch(board)
    model.close(room)
    assert model.board(65) is None
    assert model.active.kind is not Kind.BOARD
