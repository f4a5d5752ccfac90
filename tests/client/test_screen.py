"""The chat on a whole terminal: what a person sees there, by a model of the terminal."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client import Client, RoomAccess, RoomRole
from client.amounts import format_amount
from client.chat.settings import Settings
from libproto.messages import Opcode
from tests.client.conftest import register
from tests.client.peer import PASSWORD as PEER_PASSWORD
from tests.client.peer import USER_ID, USERNAME, Wire, answer, push, serving
from tests.client.programs import PASSWORD
from tests.client.screens import OnScreen
from tests.client.test_model import HOSTILE
from tests.helpers.server import RunningServer, StartServer

F1, F2, F3 = "\x1bOP", "\x1bOQ", "\x1bOR"
PAGE_UP, PAGE_DOWN = "\x1b[5~", "\x1b[6~"
CTRL_END = "\x1b[1;5F"
CTRL_C, CTRL_D, CTRL_N, CTRL_P = "\x03", "\x04", "\x0e", "\x10"
CTRL_R, CTRL_S = "\x12", "\x13"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server for all tests here, with rooms enough that each has one of its own."""
    data = tmp_path_factory.mktemp("screen") / "data"
    with RunningServer(data, "--rooms", "272", "--numbered-rooms", "256") as made:
        register(made, "alice", "bob")
        yield made


@pytest.fixture
def bob(shared: RunningServer) -> Iterator[Client]:
    with Client(port=shared.port) as client:
        client.login("bob", PASSWORD)
        yield client


def _on(server: RunningServer, room: int, *arguments: str, **changes: Any) -> OnScreen:
    """alice in a room. changes: as OnScreen takes them."""
    return OnScreen(server.port, "--user", "alice", "--room", str(room), *arguments, **changes)


def _messages(screen: OnScreen) -> list[str]:
    """The rows of the middle, without what is beside them."""
    parts = [row.split("\u2502") for row in screen.rows[1:-2]]
    return [each[1].rstrip() if len(each) > 1 else each[0] for each in parts]


# ---- what is where


def test_what_a_person_sees(shared: RunningServer, bob: Client) -> None:
    bob.join(101)
    with _on(shared, 101) as alice:
        alice.expect_row(r"^ room 101 \u00b7 2 members$")
        alice.expect_row(r"^2 room 101 .*\u2502.*\u2502\u25cf bob$")
        alice.expect_row(r"^1 chat .*\u2502\u25cf alice$")
        alice.expect_row(r"\u2500\u2500 \w+day \d+ \w+ 20\d\d \(UTC[+-]\d\d:\d\d\) \u2500")
        bob.send(101, "hello alice, lunch?")
        alice.expect_row(r"\u2502\d\d:\d\d bob: hello alice, lunch\?")
        alice.say("yes")
        alice.expect_row(r"\u2502\d\d:\d\d alice: yes")
        alice.say("/deposit 12.50")
        alice.expect_row(
            r"\u2502\d\d:\d\d \u00a4 deposited 12.50, balance [0-9.]+, transaction \d+"
        )
        alice.expect_row(r"^ alice \u00b7 balance \d+\.50 \u00b7 connected, lag \d+ ms$")
        bob.leave(101)
        alice.expect_row(r"\u2502\u25cb bob$")
        alice.expect_row(r"^\[room 101\]$")
        alice.until(lambda: alice.model.cursor.y == 23, "the cursor is in the input line")
        alice.press(CTRL_D)
        assert alice.end() == 0
        assert not alice.mode("alternate screen")


def test_what_is_unread_and_where(shared: RunningServer, bob: Client) -> None:
    """Counts at the left; looking at a room takes them away."""
    bob.join(111)
    with _on(shared, 111) as alice:
        alice.expect("alice joined")
        alice.say("/join 112")
        alice.expect_row(r"^\[room 112\]")
        for text in ("one", "two", "alice: three"):
            bob.send(111, text)
        alice.expect_row(r"^2 room 111 +3! *\u2502")
        bob.direct(bob.lookup("alice").user_id, "psst")
        alice.expect_row(r"^4 @bob +\d! *\u2502")  # those of before are unread too
        alice.press("\x1ba")  # Alt-A: to what names this person
        alice.expect_row(r"^\[@bob\]|^\[room 111\]")
        alice.press("\x1b2")  # Alt-2
        alice.expect_row(r"^\[room 111\]")
        alice.expect_row(r"\u2502\d\d:\d\d bob: alice: three")
        alice.expect_row(r"^2 room 111 +\u2502")
        alice.press(CTRL_N)
        alice.expect_row(r"^\[room 112\]")
        alice.press(CTRL_P)
        alice.expect_row(r"^\[room 111\]")
        alice.say("/buffer bob")
        alice.expect_row(r"^\[@bob\]")
        alice.expect_row(r"\u2502\d\d:\d\d bob: psst")
        alice.say("what is it?")
        alice.expect_row(r"\u2502\d\d:\d\d alice: what is it\?")
        push_ = bob.next_push(30)
        while getattr(push_, "message", "") != "what is it?":
            push_ = bob.next_push(30)
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_a_narrow_terminal(shared: RunningServer, bob: Client) -> None:
    """The sides fold away; what is unread is told by the status line; and they come back."""
    bob.join(121)
    with _on(shared, 121, columns=100) as alice:
        alice.expect("alice joined")
        alice.expect("\u25cf bob")
        alice.resize(70, 20)
        alice.expect_gone("\u25cf bob")
        alice.expect_row(r"^2 room 121")
        alice.resize(50, 12)
        alice.until(lambda: "\u2502" not in alice.text, "the rooms are folded away")
        alice.say("/join 122")
        alice.expect_row(r"^\[room 122\]")
        bob.send(121, "hello")
        alice.expect("2:room 121 1")
        for columns, lines in ((20, 5), (10, 3), (4, 2), (100, 30)):
            alice.resize(columns, lines)
            alice.press("x")
        alice.expect_row(r"\u2502\u25cf alice$")
        alice.expect_row(r"^\[room 122\] xxxx$")
        alice.press(F2)
        alice.until(lambda: not alice.rows[1].startswith("1 chat"), "rooms are folded")
        alice.press(F3)
        alice.expect_gone("\u2502")
        alice.press(CTRL_C + CTRL_D)
        assert alice.end() == 0


def test_help(shared: RunningServer) -> None:
    with _on(shared, 131) as alice:
        alice.expect("alice joined")
        alice.press(F1)
        alice.expect("Alt-Enter begins another line")
        alice.press(PAGE_DOWN)
        alice.expect("/join ROOM")
        alice.press(F1)
        alice.expect("alice joined")
        alice.press(CTRL_D)
        assert alice.end() == 0


# ---- typing


def test_what_is_typed_is_not_touched_by_what_arrives(shared: RunningServer, bob: Client) -> None:
    bob.join(141)
    with _on(shared, 141) as alice:
        alice.expect("alice joined")
        typed = ""
        for number, word in enumerate(["what", "I", "am", "typing", "stays", "你好", "é"]):
            alice.press(f"{word} ")
            typed += f"{word} "
            bob.send(141, f"message {number} {'x' * 200}")
            alice.expect(f"message {number} ")
        alice.until(lambda: "stays" in alice.rows[-1], "it is all there")
        alice.press("\r")
        heard = bob.next_push(30)
        while getattr(heard, "from_name", "") != "alice" or not getattr(heard, "message", ""):
            heard = bob.next_push(30)
        assert getattr(heard, "message", "") == typed
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_drafts_stay_with_their_buffer(shared: RunningServer) -> None:
    with _on(shared, 142) as alice:
        alice.expect("alice joined")
        alice.press("half a line")
        alice.expect_row(r"^\[room 142\] half a line$")
        alice.press("\x1b1")
        alice.expect_row(r"^\[chat\]$")
        alice.press("\x1b2")
        alice.expect_row(r"^\[room 142\] half a line$")
        alice.press(CTRL_C)
        alice.expect_row(r"^\[room 142\]$")
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_completion_and_what_was_typed_before(
    shared: RunningServer, bob: Client, tmp_path: Path
) -> None:
    bob.join(143)
    state = {"XDG_STATE_HOME": str(tmp_path)}
    with _on(shared, 143, **state) as alice:
        alice.expect("\u25cf bob")
        alice.press("/bal\t")
        alice.expect_row(r"^\[room 143\] /balance$")
        alice.press("\r")
        alice.expect("\u00a4 balance ")
        alice.press("/pay bo\t")
        alice.expect_row(r"^\[room 143\] /pay bob$")
        alice.press(CTRL_C)
        alice.press("bo\t")
        alice.expect_row(r"^\[room 143\] bob:$")
        alice.press(CTRL_C + CTRL_D)
        assert alice.end() == 0
    [kept] = (tmp_path / "tradechat" / "clients").glob("*.typed")
    assert kept.stat().st_mode & 0o777 == 0o600
    with _on(shared, 143, **state) as alice:
        alice.expect("alice joined")
        alice.press("\x1b[A")
        alice.expect_row(r"^\[room 143\] /balance$")
        alice.press(CTRL_C + CTRL_D)
        assert alice.end() == 0


# ---- what was said before


def _scroll_up_to(screen: OnScreen, text: str) -> None:
    """Press PageUp until it is shown; what is older comes when it has been fetched."""

    def look() -> bool:
        if text in screen.text:
            return True
        screen.press(PAGE_UP)
        return False

    screen.until(look, f"{text!r} is shown")


def test_searching_what_was_typed_before(shared: RunningServer) -> None:
    """Both ways, without a line in the input at first; Ctrl-C and Ctrl-D leave the search alone."""
    with _on(shared, 152) as alice:
        alice.expect_row(r"^\[room 152\]$")
        for line in ("first words", "other things"):
            alice.say(line)
            alice.expect(f"alice: {line}")
        alice.press(CTRL_R + "fir")
        alice.expect("search backward: fir")
        alice.expect_row(r"^\[room 152\] first words$")
        alice.press("\r")
        alice.expect_gone("search backward")
        alice.press("\x05 again\r")
        alice.expect("alice: first words again")
        alice.press(CTRL_R + "other" + CTRL_C)
        alice.expect_row(r"^\[room 152\]$")
        alice.press(CTRL_R)
        alice.expect("search backward:")
        alice.press(CTRL_D + "thi" + CTRL_S)
        alice.expect("search forward: thi")
        alice.press(CTRL_P)  # another buffer ends it
        alice.expect_row(r"^\[chat\]$")
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_a_question_ends_a_search(shared: RunningServer) -> None:
    with _on(shared, 153) as alice:
        alice.expect_row(r"^\[room 153\]$")
        alice.press("/pay bob 1000\r" + CTRL_R)
        alice.expect("pay bob 1000.00? [y/N]")
        alice.press(CTRL_R + "n\r")  # what was typed before is no answer
        alice.expect("nothing was moved")
        alice.expect_row(r"^\[room 153\]$")


def test_no_key_breaks_the_screen(shared: RunningServer) -> None:
    """What a person may press by accident: each control key and each Alt with a character."""
    ends = CTRL_C + CTRL_D + "\x1a"
    controls = [chr(code) for code in range(32) if chr(code) not in ends]
    keys = [*controls, *(f"\x1b{chr(code)}" for code in range(33, 127) if chr(code) not in "[OP")]
    with _on(shared, 154) as alice:
        alice.expect_row(r"^\[room 154\]$")
        for key in keys:
            alice.press(key)
        alice.press("\x1b2" + CTRL_C)
        alice.until(lambda: "[room 154]" in alice.text, "the input line is back")
        assert b"Exception" not in alice.written
        alice.press("\x15the end\r")
        alice.expect("alice: the end")


def test_scrolling_back_fetches_what_is_older(shared: RunningServer, bob: Client) -> None:
    bob.join(151)
    for number in range(200):
        bob.send(151, f"line {number}")
    with _on(shared, 151) as alice:
        alice.expect("bob: line 199")
        _scroll_up_to(alice, "bob: line 0")
        assert any("bob joined" in row for row in alice.rows)
        before = _messages(alice)
        bob.send(151, "something new")
        alice.expect("1 more below")
        assert _messages(alice) == before, "what arrives moves nothing"
        alice.press(CTRL_END)
        alice.expect("bob: something new")
        alice.expect_gone("more below")
        alice.say("/find line 42")
        alice.expect("bob: line 42")
        alice.press(CTRL_END)
        alice.say("/find no such text")
        alice.expect("'no such text' is not found here")
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_find_fetches_what_is_older(shared: RunningServer, bob: Client) -> None:
    bob.join(152)
    bob.send(152, "the needle")
    for number in range(100):
        bob.send(152, f"hay {number}")
    with _on(shared, 152) as alice:
        alice.expect("bob: hay 99")
        alice.say("/find NEEDLE")
        alice.expect("bob: the needle")
        alice.press(CTRL_D)
        assert alice.end() == 0


# ---- the connection


def test_a_connection_that_is_lost(start_server: StartServer) -> None:
    """What was missed is shown in its place, and counted."""
    server = start_server(workers=1)
    register(server, "alice", "bob")
    with _on(server, 7) as alice, Client(port=server.port, reconnect=True) as bob:
        bob.login("bob", PASSWORD)
        bob.join(7)
        alice.expect("bob joined")
        alice.signal(signal.SIGSTOP)
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
        for text in ("one", "two", "three"):
            bob.send(7, text)
        alice.signal(signal.SIGCONT)
        alice.expect("connected again, 3 missed messages fetched")
        alice.expect("bob: three")
        found = [row for row in _messages(alice) if " bob: " in row]
        assert [row.partition("bob: ")[2] for row in found] == ["one", "two", "three"]
        alice.expect_row(r"\u00b7 connected")
        alice.say("here again")
        alice.expect("alice: here again")
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_a_line_that_waits_is_shown_and_kept(start_server: StartServer) -> None:
    server = start_server()
    register(server, "alice")
    with _on(server, 7, "--give-up-after", "15") as alice:
        alice.expect("alice joined")
        assert server.stop() == 0
        alice.expect_row(r"^ alice .*reconnecting\u2026")
        alice.say("message one")
        alice.expect("\u2026   message one")
        alice.press("and a draft")
        alice.expect_row(r"^\[room 7\] and a draft$")
        assert alice.end() == 4
        written = alice.written.decode()
        assert "not sent: message one" in written
        assert "not sent: and a draft" in written
        assert "did not come back within 15 s" in written


def test_the_terminal_goes_away(shared: RunningServer) -> None:
    """As when an SSH connection is lost: the program ends, and its session with it."""
    with _on(shared, 161) as alice, Client(port=shared.port) as bob:
        alice.expect("alice joined")
        bob.login("bob", PASSWORD)
        bob.join(161)
        alice.expect("bob joined")
        alice.hang_up()
        assert alice.end() in (128 + signal.SIGHUP, -signal.SIGHUP)
        heard = bob.next_push(60)
        while getattr(heard, "kind", 0) != 2 or getattr(heard, "from_name", "") != "alice":
            heard = bob.next_push(60)


# ---- what others write


HOSTILE_NAME = "a\x1b]0;owned\x07\u202e\u4f60\u597d"
HOSTILE_TOPIC = "\u00a4 paid\n1 chat \u05d0"


def test_hostile_texts_break_nothing(tmp_path: Path) -> None:
    """From a server that lets everything through: columns stay, nothing rings, titles or moves."""
    texts = [text for text in HOSTILE if "\udcff" not in text]

    def script(wire: Wire) -> None:
        wire.log_in()
        wire.send(answer(wire.request(), 7, 0, 1, 1))
        requests = 0
        while requests < 2:
            request = wire.request()
            if request.opcode == Opcode.ROOM_MEMBERS:
                wire.send(answer(request, [(USER_ID, USERNAME)] if not requests else []))
                requests += 1
            elif request.opcode == Opcode.ROOM_INFO:
                wire.send(answer(request, HOSTILE_NAME, HOSTILE_TOPIC, 0, 0, 0))
            elif request.opcode == Opcode.BALANCE or request.opcode == Opcode.HEARTBEAT:
                wire.send(answer(request, 0, 0))
        for seq, text in enumerate([*texts, "the end"], 1):
            wire.send(push(Opcode.CHAT_BROADCAST, 7, seq, 0, 0, 3, "bob", text))
        wire.wait_closed()

    with (
        serving(script) as port,
        OnScreen(
            port, "--user", USERNAME, "--room", "7", lines=70,
            TRADECHAT_PASSWORD=PEER_PASSWORD, XDG_STATE_HOME=str(tmp_path),
        ) as ann,
    ):  # fmt: skip
        ann.expect("bob: the end")
        ann.press("still here")
        place = "#a\\x1b]0;owned\\x07\\u202e\u4f60\u597d"
        shown = f" {place} \u00b7 1 member \u00b7 \\xa4 paid\\n1 chat \u05d0"
        ann.until(lambda: ann.rows[-1] == f"[{place}] still here", "the input line")
        ann.until(lambda: ann.rows[0] == shown, "the title")
        assert (ann.model.bells, ann.model.titles) == (0, [])
        end = len(f"[{place}] still here") + 2, 69
        ann.until(lambda: (ann.model.cursor.x, ann.model.cursor.y) == end, "the cursor is there")
        middle = ann.rows[1:-2]
        for row in range(1, 68):
            cells = ann.model.buffer[row]
            assert cells[18].data == "\u2502", ann.text
            assert cells[81].data == "\u2502", ann.text
        assert "\u00a4" not in "".join(middle)
        assert "owned" in ann.text, "it is shown, as the text that it is"
        assert b"\x1b]" not in ann.written
        assert b"\x07" not in ann.written
        ann.press(CTRL_C + CTRL_D)
        assert ann.end() == 0


def test_wide_characters_emoji_and_combining_marks(shared: RunningServer, bob: Client) -> None:
    bob.join(171)
    with _on(shared, 171) as alice:
        alice.expect("alice joined")
        texts = (
            "\u4f60\u597d" * 25,
            "e\u0301" * 70,
            "\U0001f469\u200d\U0001f680 a",
            "\u0e01\u0e33",
        )
        for text in texts:
            bob.send(171, text)
        bob.send(171, "the end")
        alice.expect("bob: the end")
        for row in range(1, 22):
            assert alice.model.buffer[row][81].data == "\u2502", alice.text
        found = [row.partition("bob: ")[2] for row in _messages(alice)]
        assert "\u4f60\u597d" * 12 + "\u4f60" in found, alice.text
        assert "\u00e9" * 50 in found, alice.text
        assert "      " + "\u00e9" * 20 in _messages(alice), alice.text
        assert any(each.startswith("\U0001f469") for each in found)
        alice.press(CTRL_D)
        assert alice.end() == 0


# ---- settings


def _configured(tmp_path: Path, text: str) -> dict[str, str | None]:
    folder = tmp_path / "tradechat"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}


def test_a_bell_at_a_mention(shared: RunningServer, bob: Client, tmp_path: Path) -> None:
    bob.join(181)
    with _on(shared, 181, **_configured(tmp_path, 'notify = "bell"\n')) as alice:
        alice.expect("alice joined")
        bob.send(181, "nothing special")
        alice.expect("nothing special")
        assert alice.model.bells == 0
        bob.send(181, "hey Alice!")
        alice.until(lambda: alice.model.bells == 1, "it rings")
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_a_desktop_notice(shared: RunningServer, bob: Client, tmp_path: Path) -> None:
    """The text of it is harmless, whatever the message holds."""
    with _on(shared, 182, **_configured(tmp_path, 'notify = "desktop"\n')) as alice:
        alice.expect("alice joined")
        bob.direct(bob.lookup("alice").user_id, "psst\n\tgr\u00fc\u00df dich")
        alice.until(
            lambda: "\x1b]9;@bob: bob: psst\\n\\tgr\u00fc\u00df dich\x07".encode() in alice.written,
            "the notice",
        )
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_settings_are_changed_and_kept(shared: RunningServer, bob: Client, tmp_path: Path) -> None:
    before = '# mine\njoins = true  # all of them\nhighlight = ["beer"]\n'
    variables = _configured(tmp_path, before)
    bob.join(183)
    with _on(shared, 183, **variables) as alice:
        alice.expect("alice joined")
        alice.say("/set joins off")
        alice.expect_gone("alice joined")
        alice.say("/set confirm_over 5.00")
        alice.expect("= confirm_over 5.00")
        alice.say("/set jions off")
        alice.expect("there is no setting jions: did you mean joins?")
        alice.press(CTRL_D)
        assert alice.end() == 0
    kept = (tmp_path / "tradechat" / "config.toml").read_text()
    assert kept == '# mine\njoins = false\nhighlight = ["beer"]\nconfirm_over = "5.00"\n'
    settings = Settings(tmp_path / "tradechat" / "config.toml")
    assert settings.load() == []
    assert (settings["joins"], settings["confirm_over"]) == (False, 500)


@pytest.mark.parametrize(
    ("changes", "coloured"),
    [({"NO_COLOR": None}, True), ({"NO_COLOR": "1"}, False)],
)
def test_colours(
    shared: RunningServer, bob: Client, changes: dict[str, str | None], coloured: bool
) -> None:
    """The 16 that every terminal has, or none."""
    bob.join(184)
    with _on(shared, 184, **changes) as alice:
        alice.expect("alice joined")
        bob.send(184, "alice!")
        alice.expect("bob: alice!")
        found = {cell.fg for row in alice.model.buffer.values() for cell in row.values()} - {
            "default"
        }
        assert bool(found) == coloured
        assert b"38;5;" not in alice.written
        assert b"38;2;" not in alice.written
        alice.press(CTRL_D)
        assert alice.end() == 0


# ---- rooms with a name


def test_a_room_is_shown_by_its_name_and_topic(shared: RunningServer, bob: Client) -> None:
    """What somebody changes of it is shown as they do it, whoever is looked at."""
    gold = bob.open_room("Gold & silver").room_id
    bob.join(gold)
    bob.set_room(gold, "all things gold", RoomAccess.PUBLIC)
    with _on(shared, 185) as alice:
        alice.expect("alice joined")
        alice.press("/join Gol\t")
        alice.expect_row(r"^\[room 185\] /join Gold & silver$")
        alice.press("\r")
        alice.expect_row(r"^\[#Gold & silver\]$")
        alice.expect_row(r"^ #Gold & silver \u00b7 2 members \u00b7 all things gold$")
        alice.expect_row(r"^3 #Gold & silver *\u2502")
        bob.set_room(gold, "\u00a4 \u05d0 or not", RoomAccess.INVITED)
        alice.expect_row(r"^ #Gold & silver .* private \u00b7 \\xa4 \u05d0 or not$")
        bob.set_role(gold, alice_id := bob.lookup("alice").user_id, RoomRole.MODERATOR)
        alice.expect_row(r"^ #Gold & silver .* private \u00b7 you are moderator \u00b7")
        alice.press("\x1b2")
        alice.expect_row(r"^\[room 185\]$")
        bob.set_role(gold, alice_id, RoomRole.MEMBER)
        bob.send(gold, "one")
        alice.expect_row(r"^3 #Gold & silv\u2026 2 *\u2502")
        alice.press("\x1b3")
        alice.expect_row(r"^ #Gold & silver .* you are member \u00b7")
        alice.press(CTRL_D)
        assert alice.end() == 0
    assert alice.model.bells == 0


def test_a_room_is_joined_again_by_its_name(
    shared: RunningServer, bob: Client, tmp_path: Path
) -> None:
    """Its number may be another room's by then; and one that is closed is not opened by that."""
    state = {"XDG_STATE_HOME": str(tmp_path)}
    lost, kept = (bob.open_room(name).room_id for name in ("lost", "kept"))
    with OnScreen(shared.port, "--user", "alice", **_any(state)) as alice:
        alice.expect("logged in")
        for name in ("lost", "kept"):
            alice.say(f"/join {name}")
            alice.expect_row(rf"^\[#{name}\]$")
        alice.press(CTRL_D)
        assert alice.end() == 0
    for room in (lost, kept):
        bob.set_room(room, "", RoomAccess.CLOSED)
    [file] = (tmp_path / "tradechat" / "clients").glob("*.chat")
    again = bob.open_room("Kept").room_id
    bob.join(again)  # so that it is listed
    remembered = json.loads(file.read_text())
    assert remembered["names"] == {str(lost): "lost", str(kept): "kept"}
    with OnScreen(shared.port, "--user", "alice", **_any(state)) as alice:
        alice.expect_row(r"^\[#Kept\]$")
        alice.press("\x1b1")
        alice.expect("room lost is not there any more: /join lost opens it anew")
        alice.press(CTRL_D)
        assert alice.end() == 0
    assert [each.username for each in bob.iter_members(again)] == ["bob"]
    assert bob.open_room("lost").created


# ---- boards

UP, DOWN, ESCAPE = "\x1b[A", "\x1b[B", "\x1b"


def _balance(client: Client) -> int:
    return client.balance().balance


def test_a_board_is_looked_at_and_an_offer_taken(shared: RunningServer, bob: Client) -> None:
    """It follows what others do; money is moved by a yes alone; the receipt is shown."""
    with Client(port=shared.port) as alice_:
        alice_.login("alice", PASSWORD)
        alice_.deposit(10_000)
        before = _balance(alice_)
    bob.join(186)
    lamp = bob.board_add(186, 250, "a lamp").entry_id
    with _on(shared, 186) as alice:
        alice.expect("alice joined")
        alice.say("/board")
        alice.expect_row(rf"\u2502> #{lamp} +2\.50 bob +now a lamp")
        alice.expect_row(r"^ board of room 186 \u00b7 t takes")
        chair = bob.board_add(186, 1000, "a Chair \u05d0\u05d1").entry_id
        note = bob.board_add(186, 0, "at noon").entry_id
        alice.expect_row(rf"  #{note} +note bob +now at noon")
        alice.press(DOWN)
        alice.expect_row(rf"> #{chair} +10\.00 bob")
        alice.press(DOWN + DOWN + "t")
        alice.expect(f"#{note} is a note, which has no price")
        alice.press(UP + "t")
        alice.expect(f"pay bob 10.00 and take #{chair}?")
        alice.expect_row(r"^\[y/n\]$")
        alice.press("n")
        alice.expect("nothing was")
        alice.press("t")
        alice.expect_row(r"^\[y/n\]$")
        alice.press("y")
        alice.expect(f"took #{chair} for 10.00, balance {format_amount(before - 1000)}")
        alice.expect_gone("a Chair")
        alice.press("/CHA\r")
        alice.expect("0 of 2 entries with CHA")
        alice.press("/LAM\r")
        alice.expect("1 of 2 entries with LAM")
        alice.expect_row(rf"> #{lamp} ")
        alice.press("/\r")
        alice.expect_row(r"\u25022 entries")
        bob.board_remove(186, lamp)
        alice.expect_row(rf"bob took #{lamp} off the board")
        alice.expect_row(rf"> #{note} ")
        alice.press("/\x15")
        alice.press("/")
        alice.expect_row(r"\] /board find$")
        alice.press("\x7f" * 11 + "offer 1.25 mine\r")
        own = alice.expect_row(r"  #\d+ +1\.25 alice +now mine")
        assert own
        alice.press(DOWN + "d")
        alice.expect("off the board? mine")
        alice.expect_row(r"^\[y/n\]$")
        alice.press("y")
        alice.expect_row(r"\u25021 entry$")
        alice.press(ESCAPE)
        alice.expect_row(r"^\[room 186\]$")
        alice.expect(f"took #{chair} for 10.00, balance")
        alice.press(CTRL_D)
        assert alice.end() == 0
    assert [entry.entry_id for entry in bob.iter_board(186)] == [note]


def test_an_offer_that_somebody_else_takes_meanwhile(shared: RunningServer, bob: Client) -> None:
    with Client(port=shared.port) as cid:
        cid.register("cid", PASSWORD)
        cid.login("cid", PASSWORD)
        cid.deposit(500)
        cid.join(187)
        bob.join(187)
        lamp = bob.board_add(187, 250, "a lamp").entry_id
        with _on(shared, 187) as alice:
            alice.expect("alice joined")
            alice.say("/board")
            alice.expect_row(rf"> #{lamp} ")
            alice.press("t")
            alice.expect_row(r"^\[y/n\]$")
            cid.board_take(187, lamp, 250)
            alice.expect(f"cid took #{lamp} of bob for 2.50")
            alice.press("y")
            alice.expect(f"cid has taken #{lamp} meanwhile: nothing was done")
            alice.press("q")
            alice.expect_row(r"^\[room 187\]$")
            alice.press(CTRL_D)
            assert alice.end() == 0
        assert _balance(cid) == 250


@pytest.mark.parametrize("is_bracketed", [False, True])
def test_nothing_that_is_pasted_moves_money(
    shared: RunningServer, bob: Client, is_bracketed: bool
) -> None:
    """Whether the terminal says that it is pasted, or its keys come one after the other."""
    room = 188 + is_bracketed
    bob.join(room)
    with Client(port=shared.port) as rich:
        rich.login("alice", PASSWORD)
        rich.deposit(10_000)
        before = _balance(rich)
    lamp = bob.board_add(room, 250, "a lamp").entry_id
    with _on(shared, room) as alice:
        alice.expect("alice joined")
        alice.say("/board")
        alice.expect_row(rf"> #{lamp} ")
        for text in ("ty", "tyyyyy\ry\r", "/take 1\ry\r", f"t\x15/take {lamp}\ry\ry"):
            alice.press(f"\x1b[200~{text}\x1b[201~" if is_bracketed else text)
        asked = f"pay bob 2.50 and take #{lamp}?"

        def look() -> bool:
            if " with take " in alice.text:
                alice.press("/\x15\r")  # a part of it was taken for what is to be found
            elif asked not in alice.text:
                alice.press("t")  # what was pasted may be under way, and then it is nothing
            return asked in alice.text

        def waits() -> bool:
            return look() and "[y/n]" in alice.rows

        alice.until(look, "it is asked")
        alice.press("yyyy")
        alice.press("\x1b[200~y\x1b[201~")
        alice.until(waits, "a yes would count")
        alice.press("\x1b[200~y\x1b[201~")
        alice.expect_row(r"^\u2026$")
        alice.expect_row(r"^\[y/n\]$")
        bob.send(room, "all this time")
        assert [entry.entry_id for entry in bob.iter_board(room)] == [lamp]
        alice.press("n")
        alice.expect("nothing was")
        alice.press(CTRL_D)
        assert alice.end() == 0
    with Client(port=shared.port) as rich:
        rich.login("alice", PASSWORD)
        assert _balance(rich) == before


# ---- what is kept for the next time


def test_the_rooms_of_the_last_time(shared: RunningServer, bob: Client, tmp_path: Path) -> None:
    """They are joined again, and what was said in them meanwhile is unread."""
    state = {"XDG_STATE_HOME": str(tmp_path)}
    bob.join(191)
    with _on(shared, 191, **state) as alice:
        alice.expect("alice joined")
        bob.send(191, "before")
        alice.expect("bob: before")
        alice.say("/join 192")
        alice.expect_row(r"^\[room 192\]")
        alice.press(CTRL_D)
        assert alice.end() == 0
    for text in ("one", "two", "alice: three"):
        bob.send(191, text)
    with OnScreen(shared.port, "--user", "alice", **_any(state)) as alice:
        alice.expect_row(r"^2 room 191 +3! *\u2502")
        alice.expect_row(r"^\[room 192\]")
        alice.press("\x1b2")
        alice.expect("bob: before")
        alice.expect("bob: alice: three")
        alice.press(CTRL_D)
        assert alice.end() == 0


def test_what_was_typed_survives_a_terminal_that_goes_away(
    shared: RunningServer, tmp_path: Path
) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    with _on(shared, 193, **state) as alice:
        alice.expect("alice joined")
        alice.press("half a thought")
        alice.expect_row(r"^\[room 193\] half a thought$")
        alice.hang_up()
        alice.end()
    for mode in ("", "--plain"):
        with OnScreen(shared.port, *mode.split(), "--user", "alice", **_any(state)) as alice:
            if mode:
                alice.expect("[room 193] >")
                assert "half a thought" not in alice.text, "it was told by the run before"
            else:
                alice.press("\x1b1")
                alice.expect("not sent the last time: half a thought")
            alice.press(CTRL_D)
            assert alice.end() == 0


def test_a_log_of_rooms(shared: RunningServer, bob: Client, tmp_path: Path) -> None:
    variables = _configured(tmp_path, f'log = "{tmp_path}/logs"\n')
    bob.join(194)
    with _on(shared, 194, **variables) as alice:
        alice.expect("alice joined")
        bob.send(194, "hello\nthere")
        alice.expect("bob: hello")
        bob.direct(bob.lookup("alice").user_id, "psst")
        alice.expect_row(r"@bob +\d!")  # those of before are unread too
        direct = tmp_path / "logs" / "user-bob.log"
        alice.until(lambda: direct.read_text().endswith("[bob -> you] psst\n"), "it is written")
        alice.press(CTRL_D)
        assert alice.end() == 0
    log = tmp_path / "logs" / "room-194.log"
    assert log.stat().st_mode & 0o777 == 0o600
    [line] = [line for line in log.read_text().splitlines() if "hello" in line]
    assert line[10:].partition("[")[2] == "room 194] bob: hello\\nthere"


def _any(changes: dict[str, str]) -> dict[str, Any]:
    return dict(changes)
