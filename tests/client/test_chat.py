"""The chat: its commands as a table, its lines through pipes and at a terminal."""

import asyncio
import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from client import AsyncClient, BadPacket, Client, ConnectionLost
from client.chat.command import Command, UsageError
from client.chat.commands import COMMANDS, parse, show_help
from client.chat.completing import CommandCompleter
from client.chat.incoming import Incoming
from client.chat.line_face import LineFace
from client.chat.model import Model
from client.chat.person import Chat
from client.chat.script import LINE_MAX, PipeLines
from client.chat.settings import Settings
from client.terminal.display import Screen
from client.terminal.position import InboxPosition
from libproto.errors import Status
from libproto.messages import LIST_MAX, Flag, Opcode
from tests.client.conftest import register
from tests.client.peer import (
    LOG_ID,
    USER_ID,
    USERNAME,
    Handshake,
    Wire,
    answer,
    push,
    refuse,
    serving,
)
from tests.client.peer import PASSWORD as PEER_PASSWORD
from tests.client.programs import PASSWORD, Piped, Terminal, run
from tests.client.relay import Relay
from tests.client.screens import ECHO_STATE, OnScreen, ShellOnScreen
from tests.helpers.server import RunningServer, StartServer, wait_until

ROOM = 7


@pytest.fixture
def bob(shared: RunningServer) -> Iterator[Client]:
    """bob, through the library."""
    with Client(port=shared.port) as client:
        client.login("bob", PASSWORD)
        yield client


def _chat(client: AsyncClient) -> Chat:
    """A chat in the line mode, on this process's standard output."""
    settings = Settings()
    face = LineFace(Screen(), settings, for_a_person=False)
    return Chat(client, Model(client.username), face, settings)


def _pay_in(server: RunningServer, name: str, amount: int) -> None:
    with Client(port=server.port) as client:
        client.login(name, PASSWORD)
        client.deposit(amount)


# ---- the table


@pytest.mark.parametrize(
    ("line", "name", "arguments"),
    [
        ("/join 7", "join", [7]),
        ("/leave", "leave", [None]),
        ("/leave  7 ", "leave", [7]),
        ("/rooms", "rooms", []),
        ("/who", "who", [None]),
        ("/msg bob  hi  there ", "msg", ["bob", "hi  there "]),
        ("/msg bob /x", "msg", ["bob", "/x"]),
        ("/history 5", "history", [5]),
        ("/inbox", "inbox", [None]),
        ("/deposit 12.50", "deposit", [1250]),
        ("/withdraw 1", "withdraw", [100]),
        ("/pay bob 0.05", "pay", ["bob", 5, None]),
        ("/pay bob 1 for lunch", "pay", ["bob", 100, "for lunch"]),
        ("/join all things gold", "join", ["all things gold"]),
        ("/take #17", "take", [17]),
        ("/drop 17", "drop", ["17"]),
        ("/drop mine", "drop", ["mine"]),
        ("/board", "board", [None, None]),
        ("/board find a lamp", "board", ["find", "a lamp"]),
        ("/offer 2.50 a lamp", "offer", [250, "a lamp"]),
        ("/ban bob 60", "ban", ["bob", 60]),
        ("/topic", "topic", [None]),
        ("/txns", "txns", [None]),
        ("/help pay", "help", ["pay"]),
        ("/find lunch at 12", "find", ["lunch at 12"]),
        ("/buffer", "buffer", [None]),
        ("/buffer #7", "buffer", ["#7"]),
        ("/set", "set", [None, None]),
        ("/set highlight lunch beer", "set", ["highlight", "lunch beer"]),
        ("/quit", "quit", []),
    ],
)
def test_commands_are_read(line: str, name: str, arguments: list[Any]) -> None:
    command, found = parse(line)
    assert (command.name, found) == (name, arguments)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/", "there is no command /:"),
        ("/nope 1", "there is no command /nope"),
        ("/Join 7", "there is no command /Join"),
        ("/join", "ROOM is missing: /join ROOM"),
        ("/join " + 65 * "x", "is not a valid name of a room: 1 to 64 bytes"),
        ("/leave 0", "'0' is no room: rooms are numbered from 1"),
        ("/take x", "'x' is no whole number"),
        ("/drop all", "'all' is no whole number"),
        ("/board look", "'look' is not one of: find, show, stats, clear"),
        ("/access closed", "'closed' is not one of: public, private"),
        ("/rooms 7", "'7' is too much: /rooms"),
        ("/msg bob", "TEXT is missing: /msg USER TEXT"),
        ("/pay bob", "AMOUNT is missing: /pay USER AMOUNT"),
        ("/pay bob 1.005", "'1.005' is not a valid amount"),
        ("/pay bob -1", "'-1' is not a valid amount"),
        ("/pay b@b 1", "'b@b' is no username"),
        ("/txns 0", "'0' is no whole number"),
    ],
)
def test_what_is_no_command(line: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(line)
    assert said in str(refused.value)


def test_usage_is_made_from_the_table() -> None:
    assert {command.usage for command in COMMANDS} >= {"/leave [ROOM]", "/pay USER AMOUNT [NOTE]"}


@pytest.fixture
def completer() -> CommandCompleter:
    chat = _chat(AsyncClient())
    for room in (12, 7):
        chat.model.open_room(room)
    chat.people = {"bob", "bert", "carol"}
    return CommandCompleter(chat)


@pytest.mark.parametrize(
    ("typed", "choices"),
    [
        ("/", [f"/{command.name}" for command in COMMANDS]),
        ("/h", ["/history", "/help"]),
        ("/leave ", ["7", "12"]),
        ("/leave 1", ["12"]),
        ("/pay b", ["bert", "bob"]),
        ("/msg ", ["bert", "bob", "carol"]),
        ("/help t", ["topic", "take", "txns"]),
        ("/buffer ", ["chat", "#7", "#12"]),
        ("/set n", ["notify"]),
        ("/pay bob ", []),
        ("/rooms ", []),
        ("/nope ", []),
        ("hello", []),
        ("", []),
    ],
)
def test_completion(completer: CommandCompleter, typed: str, choices: list[str]) -> None:
    found = completer.get_completions(Document(typed), CompleteEvent())
    assert [completion.text for completion in found] == choices


# ---- lines from pipes and files


async def _lines(descriptor: int) -> list[str]:
    source = PipeLines(descriptor)
    found: list[str] = []
    while True:
        try:
            line = await source.read_line()
        except UsageError as error:
            line = f"! {error}"
        if line is None:
            return found
        found.append(line)


LINES = [
    (b"", []),
    (b"one\n", ["one"]),
    (b"one\ntwo", ["one", "two"]),
    (b"one\r\n\r\n two \n", ["one", "", " two "]),
    ("gr\u00fc\u00df\n".encode(), ["gr\u00fc\u00df"]),
    (b"\xff\xfe\ntwo\n", ["! a line is not UTF-8 text, and was passed over", "two"]),
]


@pytest.mark.parametrize(("data", "lines"), LINES)
def test_lines_of_a_pipe(data: bytes, lines: list[str]) -> None:
    source, target = os.pipe()
    os.write(target, data)
    os.close(target)
    assert asyncio.run(_lines(source)) == lines
    os.close(source)


@pytest.mark.parametrize(("data", "lines"), LINES)
def test_lines_of_a_file(data: bytes, lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert asyncio.run(_lines(file.fileno())) == lines


def test_a_line_comes_in_pieces() -> None:
    source, target = os.pipe()

    def is_empty() -> bool:
        return not select.select([source], [], [], 0)[0]

    async def read() -> list[str | None]:
        lines = PipeLines(source)
        first = asyncio.create_task(lines.read_line())
        for piece in (b"o", b"n", b"e\ntw"):
            os.write(target, piece)
            await asyncio.to_thread(wait_until, is_empty, "the piece is read")
        found = [await first]
        os.write(target, b"o\n")
        return [*found, await lines.read_line()]

    assert asyncio.run(read()) == ["one", "two"]
    os.close(source)
    os.close(target)


def test_a_line_without_an_end_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\n" + b"x" * (LINE_MAX + 200_000) + b"\ntwo\n")
    with path.open("rb") as file:
        one, refused = asyncio.run(_lines(file.fileno()))
    assert one == "one"
    assert "longer than" in refused


# ---- through pipes


def test_a_script(shared: RunningServer) -> None:
    done = run(
        shared.port, "--user", "carol",
        text="/join 3\nhello\n//not a command\n\n/balance\n/deposit 12.5\n/withdraw 0.25\n"
        "/balance\n/who\n/rooms\n/leave\n/rooms\n/help pay\n",
    )  # fmt: skip
    first = int(done.lines[4].split()[-1])
    assert [line.partition(", last heard ")[0] for line in done.lines] == [
        "[room 3] carol joined",
        "[room 3] carol: hello",
        "[room 3] carol: /not a command",
        "\u00a4 balance 0.00",
        f"\u00a4 deposited 12.50, balance 12.50, transaction {first}",
        f"\u00a4 withdrew 0.25, balance 12.25, transaction {first + 1}",
        "\u00a4 balance 12.25",
        "carol",
        "[room 3] 1 member, last event 3",
        "[room 3] 0 members, last event 4",
        "/pay USER AMOUNT [NOTE]: pay somebody; in a room, shown there",
    ]
    assert done.err.splitlines() == [
        "logged in as carol to tradechat/0.1.0; /help lists the commands",
        "joined room 3, 1 member",
        "left room 3",
    ]
    assert done.code == 0


def test_a_line_that_fails_does_not_end_a_script(shared: RunningServer) -> None:
    """It is told with its number and its text."""
    done = run(
        shared.port, "--user", "carol",
        text="to nobody\n/nope\n/pay bob 999999\n/pay nobody 1\n/msg nobody hi\n/leave 5\n"
        "/join 9999\n/history\n/deposit 0\n/balance\n",
    )  # fmt: skip
    assert [line.split()[1] for line in done.lines] == ["balance"]
    assert done.err.splitlines()[1:] == [
        "line 1, 'to nobody': no room is joined: /join ROOM",
        "line 2, '/nope': there is no command /nope: /help lists them, //nope sends it as text",
        "line 3, '/pay bob 999999': the balance is too low for this amount; nothing was moved",
        "line 4, '/pay nobody 1': not found: no such user",
        "line 5, '/msg nobody hi': not found: no such user",
        "line 6, '/leave 5': not found: the room is not joined",
        "line 7, '/join 9999': not found: no such room",
        "line 8, '/history': no room is joined: /join ROOM",
        "line 9, '/deposit 0': the server refused this as not valid: the amount is 0",
    ]
    assert done.code == 1


def test_a_script_that_stops_at_the_first_error(shared: RunningServer) -> None:
    done = run(
        shared.port, "--user", "carol", "--stop-on-error", text="/balance\n/nope\n/deposit 1\n"
    )
    assert len(done.lines) == 1
    assert done.err.endswith("stopped at line 2\n")
    assert done.code == 1


def test_a_script_over_a_restart(tmp_path: Path) -> None:
    """Every line is carried out once, in order, whatever became of the server in between."""
    data = tmp_path / "data"
    with RunningServer(data) as server:
        register(server, "carol")
        with Piped(server.port, "--user", "carol", "--room", "3", "--timeout", "2") as carol:
            for number in range(20):
                carol.say(f"line {number}")
            carol.expect("carol: line 19\n")
            assert server.stop() == 0
            for number in range(20, 60):
                carol.say(f"line {number}")
            carol.say("/deposit 5")
            carol.expect("connection lost, reconnecting\u2026\n")
            with RunningServer(data, "--port", str(server.port)):
                carol.expect("deposited 5.00, balance 5.00")
                carol.close_input()
                assert carol.wait() == 0, carol.written
    shown = carol.written.splitlines()
    said = [line.partition("carol: ")[2] for line in shown if "carol: " in line]
    assert said == [f"line {number}" for number in range(60)]


def test_a_message_that_its_room_does_not_show() -> None:
    """A message has arrived when it is back as an event; the next line waits for that."""

    def script(wire: Wire) -> None:
        wire.log_in()
        wire.send(answer(wire.request(), ROOM, 0, 1, 1))
        wire.send(answer(wire.request(), [(USER_ID, USERNAME)]))
        wire.send(answer(wire.request(), []))
        wire.send(answer(wire.request(), 2, 0))
        balance = wire.request()
        assert balance.opcode == Opcode.BALANCE
        wire.send(answer(balance, 0, 0))
        wire.wait_closed()

    with serving(script) as port:
        done = run(
            port, "--user", USERNAME, "--room", str(ROOM), "--timeout", "1",
            text="hello\n/balance\n", TRADECHAT_PASSWORD=PEER_PASSWORD,
        )  # fmt: skip
    assert done.err.endswith("sent to room 7, which has not shown it yet\n")
    assert (done.code, done.lines) == (0, ["\u00a4 balance 0.00"])


def test_quit_ends_a_script(shared: RunningServer) -> None:
    done = run(shared.port, "--user", "carol", text="/balance\n/quit\n/deposit 1\n")
    assert len(done.lines) == 1
    assert done.code == 0


@pytest.mark.parametrize("text", ["x" * 4097, "x" * 100_000])
def test_a_message_that_is_too_long(shared: RunningServer, text: str) -> None:
    done = run(shared.port, "--user", "carol", "--room", "3", text=f"{text}\nshort\n")
    assert done.lines[-1] == "[room 3] carol: short"
    assert len(done.err.splitlines()) == 3
    assert done.code == 1


def test_several_rooms(shared: RunningServer) -> None:
    done = run(
        shared.port, "--user", "carol",
        text="/join 11\n/join 12\nin 12\n/join 11\nin 11\n/leave\nin 12 again\n/leave 12\n"
        "nowhere\n",
    )  # fmt: skip
    assert [line for line in done.lines if ": " in line] == [
        "[room 12] carol: in 12",
        "[room 11] carol: in 11",
        "[room 12] carol: in 12 again",
    ]
    assert done.code == 1


def test_history(shared: RunningServer) -> None:
    script = "/join 13\n" + "".join(f"line {i}\n" for i in range(30))
    assert run(shared.port, "--user", "carol", text=script).code == 0
    done = run(shared.port, "--user", "carol", text="/join 13\n/history 3\n/history\n")
    dated = [line.split(" ", 2)[2] for line in done.lines if line[0] != "["]
    assert dated[:5] == [
        *(f"[room 13] carol: line {number}" for number in (27, 28, 29)),
        "[room 13] carol left",
        "[room 13] carol joined",
    ]
    assert len(dated) == 5 + 22


def test_what_others_do_is_shown(shared: RunningServer, bob: Client) -> None:
    _pay_in(shared, "bob", 5000)
    with Piped(shared.port, "--user", "alice", "--room", str(ROOM)) as alice:
        alice.expect("[room 7] alice joined\n")
        bob.join(ROOM)
        alice.expect("[room 7] bob joined\n")
        bob.send(ROOM, "hello")
        alice.expect("[room 7] bob: hello\n")
        me = bob.lookup("alice").user_id
        bob.direct(me, "psst")
        alice.expect("[bob -> you] psst\n")
        bob.transfer(me, 1250)
        alice.expect("bob paid you 12.50, balance ")
        bob.leave(ROOM)
        alice.expect("[room 7] bob left\n")
        alice.say("/txns 1")
        alice.expect(" bob paid you 12.50, balance ")
        alice.close_input()
        assert alice.wait() == 0


def test_no_message_steers_the_terminal(shared: RunningServer, bob: Client) -> None:
    with Piped(shared.port, "--user", "alice", "--room", str(ROOM)) as alice:
        alice.expect("alice joined\n")
        bob.join(ROOM)
        her = bob.lookup("alice").user_id
        for text in ("\x1b]0;owned\x07", "\x9b2J", "\r[room 7] alice: I agree", "\u202e"):
            with pytest.raises(BadPacket):  # the server takes none of these
                bob.send(ROOM, text)
            with pytest.raises(BadPacket):
                bob.direct(her, text)
        bob.send(ROOM, "\tso\n[room 7] alice: I agree\n\u202eevil\u202c\u200b\u200f")
        alice.expect(
            "bob: \u2068\\tso\\n[room 7] alice: I agree\\n\\u202eevil\\u202c\\u200b\u200f\u2069\n"
        )
        bob.direct(her, "\n[alice -> you]")
        alice.expect("[bob -> you] \\n[alice -> you]\n")
        alice.close_input()
        assert alice.wait() == 0
        assert {each for each in alice.written if not each.isascii()} <= {
            *"\u2068\u200f\u2069\u00a4"
        }
        assert not {"\x1b", "\t", "\r"} & {*alice.written}
        assert "owned" not in alice.written


def _flood(server: RunningServer, relay: Relay, chat: Piped) -> list[str]:
    """bob says more than the buffers of a connection hold that is not read; all that was said."""
    said = [f"{number} {'x' * 32000}" for number in range(500)]
    with Client(port=server.port) as bob:
        bob.login("bob", PASSWORD)
        bob.join(ROOM)
        relay.pause()
        for text in said:
            bob.send(ROOM, text)
        relay.resume()
        bob.send(ROOM, "the end")
        chat.expect("bob: the end\n")
    return [*said, "the end"]


def _heard(chat: Piped) -> list[str]:
    lines = chat.written.splitlines()
    return [line.partition("bob: ")[2] for line in lines if line.startswith("[room 7] bob: ")]


def test_a_gap_is_filled_in_its_place(start_server: StartServer) -> None:
    server = start_server("--event-ring", "1024", "--max-message", "32768")
    register(server, "alice", "bob")
    with (
        Relay(server.port) as relay,
        Piped(relay.port, "--user", "alice", "--room", str(ROOM)) as alice,
    ):
        alice.expect("alice joined\n")
        said = _flood(server, relay, alice)
        alice.close_input()
        assert alice.wait() == 0
        assert "cannot be fetched" not in alice.written
        assert _heard(alice) == said


def test_what_is_gone_is_said_in_its_place(start_server: StartServer) -> None:
    server = start_server("--event-ring", "64", "--max-message", "32768", "--durability", "none")
    register(server, "alice", "bob")
    with (
        Relay(server.port) as relay,
        Piped(relay.port, "--user", "alice", "--room", str(ROOM)) as alice,
    ):
        alice.expect("alice joined\n")
        said = _flood(server, relay, alice)
        alice.close_input()
        assert alice.wait() == 0
        number, gaps = 3, 0  # bob's first line is event 3, after the two joins
        for line in alice.written.splitlines():
            if "cannot be fetched" in line:
                words = line.split()
                assert int(words[3]) == number
                number, gaps = int(words[5]) + 1, gaps + 1
            elif line.startswith("[room 7] bob: "):
                assert line.partition("bob: ")[2] == said[number - 3]
                number += 1
        assert number == len(said) + 3
        assert gaps


@pytest.mark.parametrize("cut", [False, True])
def test_money_whose_outcome_is_unknown(shared: RunningServer, cut: bool) -> None:
    with (
        Relay(shared.port, Opcode.DEPOSIT, cut=cut) as relay,
        Piped(relay.port, "--user", "carol", "--timeout", "1", "--give-up-after", "2") as carol,
    ):
        carol.say("/deposit 5")
        if cut:
            carol.expect("connection lost, reconnecting\u2026\n")
            carol.expect("it did not come back within 2 s")
        else:
            carol.expect("no answer in time")
            carol.expect("whether the deposit was carried out is unknown: look with /txns")
            carol.close_input()
        assert carol.wait() == (4 if cut else 1)
        assert "whether the deposit was carried out is unknown" in carol.written


def test_a_worker_is_killed(start_server: StartServer) -> None:
    """The chat goes on, and shows what was said meanwhile."""
    server = start_server(workers=1)
    register(server, "alice", "bob")
    with (
        Piped(server.port, "--user", "alice", "--room", str(ROOM)) as alice,
        Client(port=server.port, reconnect=True) as bob,
    ):
        alice.expect("alice joined\n")
        bob.login("bob", PASSWORD)
        bob.join(ROOM)
        alice.expect("bob joined\n")
        alice.say("/deposit 5")
        alice.expect("deposited 5.00, balance 5.00, ")
        for _ in range(2):
            for pid in server.worker_pids():
                os.kill(pid, signal.SIGKILL)
            alice.expect("connection lost, reconnecting\u2026\n")
            alice.expect("connected again\n")
            alice.say("/balance")
            alice.expect("balance 5.00\n")
            bob.balance()  # he is back, too
            bob.send(ROOM, "still there?")
            alice.expect("bob: still there?\n")
            alice.say("yes")
            alice.expect("alice: yes\n")
        alice.close_input()
        assert alice.wait() == 0


# ---- the inbox


def _direct_lines(text: str) -> list[str]:
    return [
        line.partition("bob -> you] ")[2] for line in text.splitlines() if "bob -> you]" in line
    ]


def test_what_came_while_one_was_away_is_shown_once(server: RunningServer, tmp_path: Path) -> None:
    """In its order, by every run what is new to it; /inbox and the command show the last again."""
    register(server, "alice", "bob")
    state = str(tmp_path / "state")

    def chat(text: str = "", *arguments: str) -> list[str]:
        done = run(server.port, "--user", "alice", *arguments, text=text, XDG_STATE_HOME=state)
        assert done.code == 0, done.err
        return _direct_lines(done.out)

    with Client(port=server.port) as bob:
        bob.login("bob", PASSWORD)
        alice = bob.lookup("alice").user_id
        assert chat() == []
        bob.direct(alice, "one")
        bob.direct(alice, "two")
        assert chat() == ["one", "two"]
        assert chat() == []
        bob.direct(alice, "three")
        assert chat("/inbox 2\n") == ["three", "two", "three"]
        assert chat("", "inbox", "--limit", "2") == ["two", "three"]
        with Piped(server.port, "--user", "alice", XDG_STATE_HOME=state) as piped:
            piped.expect("logged in as alice")
            bob.direct(alice, "four")
            piped.expect("[bob -> you] four\n")
            piped.close_input()
            assert piped.wait() == 0
        assert chat() == [], "what was pushed was shown"
        (position,) = (Path(state) / "tradechat" / "clients").glob("*.inbox")
        epoch, seq = position.read_text().split()
        assert seq == "4"
        position.write_text(f"{int(epoch) - 1} 3\n")
        assert chat() == ["one", "two", "three", "four"], "of another epoch: from the beginning"
        position.write_text("what?\n")
        assert chat() == ["one", "two", "three", "four"]


def test_payments_while_one_was_away_are_shown_once(server: RunningServer, tmp_path: Path) -> None:
    """Those that came while the chat did not run, from the second run on; with their time."""
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    ids = {}
    with Client(port=server.port) as client:
        for name in ("ann", "bob"):
            ids[name] = client.register(name, PASSWORD)
        client.login("bob", PASSWORD)
        client.deposit(1000)
        client.transfer(ids["ann"], 100)
        with Piped(server.port, "--user", "ann", **state) as ann:
            ann.expect("logged in as ann")
            ann.say("/balance")
            ann.expect("balance 1.00\n")
            ann.close_input()
            assert ann.wait() == 0
        assert "bob paid you" not in ann.written
        for amount in (200, 300):
            client.transfer(ids["ann"], amount)
        with Piped(server.port, "--user", "ann", **state) as ann:
            ann.expect("bob paid you 2.00, balance 3.00\n")
            ann.expect("bob paid you 3.00, balance 6.00\n")
            ann.close_input()
            assert ann.wait() == 0
        with Piped(server.port, "--user", "ann", **state) as ann:
            client.transfer(ids["ann"], 400)
            ann.expect("bob paid you 4.00, balance 10.00\n")
        assert "balance 6.00" not in ann.written


def test_direct_messages_that_are_missing_are_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    """A number beyond the next, or a gap; what the server keeps no longer is said."""

    def direct(seq: int) -> tuple[Any, ...]:
        return seq, 0, 3, "bob", f"text {seq}"

    def script(wire: Wire) -> None:
        wire.log_in()
        wire.send(push(Opcode.DIRECT_MESSAGE, *direct(4)), push(Opcode.DIRECT_MESSAGE, *direct(7)))
        page: tuple[int, ...]
        for after, oldest, page in ((4, 5, (5, 7)), (7, 5, ())):
            asked = wire.any_request()
            assert (asked.opcode, asked.fields) == (Opcode.INBOX_HISTORY, (after, LIST_MAX))
            wire.send(answer(asked, 9, oldest, [direct(seq) for seq in page]))
        wire.send(push(Opcode.DIRECT_MESSAGE, *direct(7)), push(Opcode.ROOM_GAP, 0, 8, 9))
        for after, oldest, page in ((7, 9, (9,)), (9, 9, ())):
            asked = wire.any_request()
            assert asked.fields == (after, LIST_MAX)
            wire.send(answer(asked, 9, oldest, [direct(seq) for seq in page]))
        wire.send(push(Opcode.DIRECT_MESSAGE, *direct(10)))

    async def main(port: int) -> None:
        async with AsyncClient(port=port) as client:
            await client.login(USERNAME, PEER_PASSWORD)
            with pytest.raises(ConnectionLost):
                await Incoming(_chat(client), InboxPosition()).follow()

    with serving(script) as port:
        asyncio.run(main(port))
    shown = capsys.readouterr().out
    assert _direct_lines(shown) == ["text 4", "text 5", "text 7", "text 9", "text 10"]
    assert shown.splitlines()[3] == "direct messages were missed (1), and are kept no longer"


def test_payments_that_could_not_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What the client had to drop is said, and where to look."""

    def script(wire: Wire) -> None:
        wire.log_in()
        for txn_id in range(1, 101):
            wire.send(push(Opcode.PAYMENT, txn_id, 0, 3, "bob", 500, 500))
        wire.send(answer(wire.request(), 500, 100))

    async def main(port: int) -> None:
        async with AsyncClient(port=port, payments=True, pushes_max_bytes=4096) as client:
            await client.login(USERNAME, PEER_PASSWORD)
            await client.balance()
            with pytest.raises(ConnectionLost):
                await Incoming(_chat(client), InboxPosition()).follow()

    with serving(script) as port:
        asyncio.run(main(port))
    shown = capsys.readouterr()
    assert 0 < shown.out.count("bob paid you 5.00") < 100
    assert shown.err.count("some payments are not shown") == 1


def test_another_log_after_a_reconnection() -> None:
    """The person learns that the data was replaced, and that the payment is to be looked for."""

    def first(wire: Wire) -> None:
        wire.log_in()
        assert wire.request().opcode == Opcode.DEPOSIT

    def second(wire: Wire) -> None:
        wire.log_in(Handshake(login={"log_id": LOG_ID + 1}))
        assert wire.wait_closed() == [], "it is not repeated"

    with (
        serving(first, second) as port,
        Piped(port, "--user", USERNAME, TRADECHAT_PASSWORD=PEER_PASSWORD) as ann,
    ):
        ann.say("/deposit 5")
        ann.expect("connection lost, reconnecting\u2026\n")
        ann.expect_all(
            "the connection was lost: whether the deposit was carried out is unknown: look with "
            "/txns before you repeat it\n",
            "the data of the server was replaced while it was away: balances, transactions and "
            "messages may be others than were shown here\n",
            "connected again\n",
        )
        ann.close_input()
        assert ann.wait() == 1


def test_a_client_id_that_is_not_taken_any_more() -> None:
    """By a chat that draws its own, as it can keep none: the payment is to be looked for."""

    def first(wire: Wire) -> None:
        wire.log_in()
        assert wire.request().opcode == Opcode.DEPOSIT

    def second(wire: Wire) -> None:
        handshake = Handshake()
        wire.send(handshake.respond(wire.request()))
        wire.send(refuse(wire.request(), Status.ERR_ALREADY_EXISTS, "in use"))
        wire.log_in(handshake)
        assert wire.wait_closed() == [], "it is not repeated"

    with (
        serving(first, second) as port,
        Piped(
            port, "--user", USERNAME,
            TRADECHAT_PASSWORD=PEER_PASSWORD, XDG_STATE_HOME="/dev/null/none",
        ) as ann,
    ):  # fmt: skip
        ann.say("/deposit 5")
        ann.expect("connection lost, reconnecting\u2026\n")
        ann.expect_all(
            "the server does not know any more: in use; whether the deposit was carried out is "
            "unknown: look with /txns before you repeat it\n",
            "the server does not know this program's payments of before any more: whether those "
            "without an answer were carried out is unknown; look with /txns before you repeat "
            "one\n",
            "connected again\n",
        )
        ann.close_input()
        assert ann.wait() == 1


def test_a_room_after_a_reconnection() -> None:
    """One that began anew, one that is refused; and what was being said is said once."""

    def first(wire: Wire) -> None:
        wire.log_in()
        for room in (ROOM + 1, ROOM):
            wire.send(answer(wire.request(), room, 9, 1, 1))
            wire.send(answer(wire.request(), []))
        wire.request()

    def second(wire: Wire) -> None:
        wire.log_in(Handshake(login={"resumed": 1}))
        wire.send(answer(wire.request(), ROOM, 0, 1, 2))
        wire.send(refuse(wire.request(), Status.ERR_NOT_FOUND, "no such room"))
        for seq, (text, flags) in enumerate((("hello", Flag.POSSIBLE_DUPLICATE), ("hello?", 0)), 1):
            while (said := wire.request()).opcode == Opcode.ROOM_LIST:  # up to where it missed
                wire.send(answer(said, []))
            assert (said.fields, said.flags) == ((ROOM, text), flags)
            wire.send(
                push(Opcode.CHAT_BROADCAST, ROOM, seq, 0, 0, USER_ID, USERNAME, text),
                answer(said, seq, 0),
            )
        with suppress(EOFError):
            while (asked := wire.request()).opcode == Opcode.ROOM_LIST:
                wire.send(answer(asked, []))

    with serving(first, second) as port:
        chat = Piped(port, "--user", USERNAME, TRADECHAT_PASSWORD=PEER_PASSWORD)
        with chat:
            for line in (f"/join {ROOM + 1}", f"/join {ROOM}", "hello", "hello?"):
                chat.say(line)
            chat.expect("connection lost, reconnecting\u2026\n")
            chat.expect_all(
                f"room {ROOM} began anew: what was said before is gone\n",
                f"room {ROOM + 1} is not joined any more: no such room\n",
                f"[room {ROOM}] {USERNAME}: hello\n",
                f"[room {ROOM}] {USERNAME}: hello?\n",
                "connected again",
            )
            chat.close_input()
            assert chat.wait() == 0
    assert chat.written.count(f"{USERNAME}: hello") == 2


def test_ctrl_c_while_money_is_on_its_way(shared: RunningServer) -> None:
    with (
        Relay(shared.port, Opcode.DEPOSIT) as relay,
        Piped(relay.port, "--user", "carol") as carol,
    ):
        carol.say("/deposit 5")
        assert relay.held.wait(10)
        carol.signal(signal.SIGINT)
        carol.expect("whether the deposit was carried out is unknown")
        assert carol.wait() == 130


def test_the_server_goes(start_server: StartServer) -> None:
    server = start_server()
    register(server, "alice", "bob")
    with Piped(
        server.port, "--user", "alice", "--room", str(ROOM), "--give-up-after", "3"
    ) as alice:
        alice.expect("alice joined\n")
        assert server.stop() == 0
        alice.expect("tradechat-cli: no connection: ")
        assert alice.wait() == 4


# ---- at a terminal


def test_the_server_goes_while_somebody_types(start_server: StartServer) -> None:
    server = start_server()
    register(server, "alice", "bob")
    with Terminal(server.port, "--user", "alice", "--plain", "--give-up-after", "3") as alice:
        alice.expect(">")
        alice.press("half a li")
        alice.expect("half a li")
        assert server.stop() == 0
        alice.expect("tradechat-cli: no connection: ")
        assert alice.end() == 4


def test_keys_of_the_input_line(shared: RunningServer) -> None:
    with Terminal(shared.port, "--plain", "--user", "alice", "--room", "21") as alice:
        alice.expect("[room 21] >")
        alice.press("/bal\t")
        alice.expect("ance")  # completed
        alice.press("\r")
        alice.expect("> /balance")
        alice.expect("balance ")
        alice.expect("[room 21] >")
        alice.press("not sent\x03")  # Ctrl-C drops a line
        alice.say("sent")
        alice.expect("[room 21] alice: sent")
        alice.expect("[room 21] >")
        alice.press("\x1b[A\r")  # up: once more
        alice.expect("[room 21] alice: sent")
        alice.say("//done")
        assert "not sent\r\n" not in alice.expect("[room 21] alice: /done")
        alice.expect("[room 21] >")
        alice.press("\x04")  # Ctrl-D
        assert alice.end() == 0


@pytest.mark.parametrize("by_signal", [False, True])
def test_ctrl_c_on_an_empty_line_ends_it(shared: RunningServer, by_signal: bool) -> None:
    with Terminal(shared.port, "--plain", "--user", "alice") as alice:
        alice.expect(">")
        alice.expect("\x1b[?25h")  # drawn: the keys are ours
        if by_signal:
            alice.signal(signal.SIGINT)
        else:
            alice.press("\x03")
        assert alice.end() == 130


def test_colours(shared: RunningServer) -> None:
    with Terminal(
        shared.port, "--plain", "--user", "alice", "--room", "22", NO_COLOR=None
    ) as alice:
        alice.expect(">")
        alice.say("hello")
        alice.expect("\x1b[36m[room 22]\x1b[0m \x1b[1malice\x1b[0m: hello")
        alice.say("/quit")
        assert alice.end() == 0


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_knows_every_command(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    chat = _chat(AsyncClient())
    asyncio.run(show_help(chat, None))
    assert f"{command.usage} " in capsys.readouterr().out
    asyncio.run(show_help(chat, f"/{command.name}"))
    assert capsys.readouterr().out == f"{command.usage}: {command.about}\n"


# ---- at a terminal, line after line: what goes wrong


def _await_prompt(screen: OnScreen, room: int, mode: str) -> None:
    """Until what is typed goes into the input line of a room."""
    screen.expect(f"[room {room}] >" if mode else f"\n[room {room}]")
    screen.until(lambda: screen.mode("bracketed paste"), "the keys are the program's")


def test_a_line_that_waits_is_not_lost(start_server: StartServer) -> None:
    """The prompt stays, what is typed meanwhile waits too, and all of it is told in the end; the
    shell gets none of it."""
    server = start_server()
    register(server, "alice")
    with ShellOnScreen(server.port) as shell:
        shell.say("$CLI --plain --user alice --room 7 --give-up-after 10; echo ended=$?")
        shell.expect("[room 7] >")
        assert server.stop() == 0
        shell.expect("connection lost, reconnecting")
        shell.say("message one")
        shell.expect("waiting: message one")
        shell.expect("(waiting) [room 7] >")
        shell.say("echo typed-by-$0")
        shell.expect("\nended=4")
        assert "not sent: message one\n" in shell.text
        assert "not sent: echo typed-by-$0\n" in shell.text
        assert "did not come back within 10 s" in shell.text.replace("\n", "")
        shell.say("echo next; echo $0")
        shell.expect("\nnext\nbash")
        assert "typed-by-bash" not in shell.text
        shell.leave()


def test_what_was_not_read_is_not_for_the_shell(start_server: StartServer) -> None:
    """On a terminal where lines are read one after the other."""
    server = start_server()
    register(server, "alice")
    with ShellOnScreen(server.port, TERM="dumb") as shell:
        shell.say("$CLI --user alice --room 7 --give-up-after 5; echo ended=$?")
        shell.expect("alice joined")
        shell.press("hello\r")
        shell.expect("alice: hello")
        assert server.stop() == 0
        shell.expect("connection lost, reconnecting")
        shell.press("message one\r")
        shell.press("echo typed-by-$0\r")
        shell.expect("\nended=4")
        assert "not sent: message one\n" in shell.text, shell.text
        shell.say("echo next; echo $0")
        shell.expect("\nnext\nbash")
        assert "typed-by-bash" not in shell.text
        shell.leave()


def test_money_over_an_outage_that_is_longer_than_a_call() -> None:
    """It is moved once, under the number that it had, and its receipt is shown."""
    numbers = []

    def first(wire: Wire) -> None:
        wire.log_in()
        numbers.append(wire.request().req_id)

    def second(wire: Wire) -> None:
        wire.wait_closed()  # no answer, until the client tries again

    def third(wire: Wire) -> None:
        wire.log_in(Handshake(login={"resumed": 1}))
        again = wire.request()
        assert (again.opcode, again.fields) == (Opcode.DEPOSIT, (500,))
        assert (again.req_id, again.flags) == (numbers[0], Flag.POSSIBLE_DUPLICATE)
        wire.send(answer(again, 9, 500))
        wire.wait_closed()

    with (
        serving(first, second, third) as port,
        Piped(port, "--user", USERNAME, "--timeout", "1", TRADECHAT_PASSWORD=PEER_PASSWORD) as ann,
    ):
        ann.say("/deposit 5")
        ann.expect("deposited 5.00, balance 5.00, transaction 9\n")
        ann.close_input()
        assert ann.wait() == 0


@pytest.mark.parametrize("mode", ["--plain", ""])
def test_a_line_in_doubt_is_not_called_unsent(shared: RunningServer, mode: str) -> None:
    with (
        Relay(shared.port, Opcode.DEPOSIT, cut=True) as relay,
        OnScreen(relay.port, *mode.split(), "--user", "alice", "--give-up-after", "3") as alice,
    ):
        alice.expect("logged in")
        alice.press("/deposit 5\r")
        assert alice.end() == 4
        written = alice.written.decode()
        assert "it is not known whether this was carried out: /deposit 5" in written
        assert "not sent" not in written


@pytest.mark.parametrize("mode", ["--plain", ""])
def test_a_question_does_not_take_what_is_being_typed(shared: RunningServer, mode: str) -> None:
    _pay_in(shared, "alice", 100_000)
    with (
        Relay(shared.port, pause_at=Opcode.USER_LOOKUP) as relay,
        OnScreen(relay.port, *mode.split(), "--user", "alice", "--timeout", "600") as alice,
    ):
        alice.expect("logged in")
        alice.until(lambda: alice.mode("bracketed paste"), "the keys are the program's")
        alice.say("/pay bob 500")
        alice.press("half a li")
        alice.expect_row(r"^(> |\[chat\] )half a li$")
        wait_until(lambda: relay.passed[Opcode.USER_LOOKUP] == 1, "the question is asked")
        relay.resume()
        alice.expect_row(r"^pay bob 500.00\? \[y/N\]$")
        alice.press("n\r")
        alice.expect("nothing was moved")
        alice.expect_row(r"^(> |\[chat\] )half a li$")
        alice.press("\x03")
        alice.expect_gone("half a li")
        alice.press("\x04")
        assert alice.end() == 0


def test_a_line_that_waits_is_sent_after_a_restart(tmp_path: Path) -> None:
    """However long the outage was, longer than a call may take too."""
    data = tmp_path / "data"
    with RunningServer(data) as server:
        register(server, "alice", "bob")
        chat = ("--plain", "--user", "alice", "--room", "7", "--timeout", "1")
        with OnScreen(server.port, *chat) as alice:
            alice.expect("[room 7] >")
            assert server.stop() == 0
            alice.expect("connection lost, reconnecting")
            alice.say("message one")
            alice.expect("waiting: message one")
            alice.say("message two")
            with RunningServer(data, "--port", str(server.port)):
                alice.expect("[room 7] alice: message one")
                alice.expect("[room 7] alice: message two")
                alice.say("/quit")
                assert alice.end() == 0


def test_ctrl_c_gives_up_a_command_and_not_the_chat(shared: RunningServer) -> None:
    with (
        Relay(shared.port, Opcode.BALANCE) as relay,
        OnScreen(relay.port, "--plain", "--user", "alice", "--timeout", "600") as alice,
    ):
        alice.expect(">")
        alice.say("/balance")
        alice.expect("waiting: /balance")
        alice.press("\x03")
        alice.expect("given up: /balance")
        alice.expect_row("^> /balance$")  # it is there again, to be tried once more
        alice.press("\x03")
        alice.expect_row("^>$")
        alice.press("\x03")
        assert alice.end() == 130


@pytest.mark.parametrize("mode", ["--plain", ""])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(
    shared: RunningServer, number: signal.Signals, mode: str
) -> None:
    with ShellOnScreen(shared.port) as shell:
        shell.say(f"$CLI {mode} --user alice --room 7; echo ended=$?")
        shell.expect("room 7]")
        shell.until(lambda: shell.mode("bracketed paste"), "the keys are the program's")
        os.killpg(shell.foreground(), number)
        shell.expect(f"\nended={128 + number}")
        shell.say(ECHO_STATE)
        shell.expect("\nstate=echo")
        assert not shell.mode("alternate screen")
        shell.leave()


@pytest.mark.parametrize("mode", ["--plain", ""])
def test_ctrl_z_stops_the_chat(shared: RunningServer, mode: str) -> None:
    """What was being typed is there again after `fg`."""
    with ShellOnScreen(shared.port) as shell:
        shell.say(f"$CLI {mode} --user alice --room 7")
        _await_prompt(shell, 7, mode)
        shell.press("half a ")
        shell.expect("half a")
        shell.press("\x1a")
        shell.expect("Stopped")
        shell.say("clear")
        shell.expect_gone("half a")
        shell.say("fg")
        shell.expect("half a")
        shell.press("line\r")
        shell.expect("alice: half a line")
        shell.press("\x04")
        shell.leave()


def test_messages_of_the_program_go_where_they_are_sent(
    shared: RunningServer, tmp_path: Path
) -> None:
    with ShellOnScreen(shared.port, ERRORS=str(tmp_path / "errors")) as shell:
        shell.say("$CLI --plain --user alice --room 7 2>$ERRORS")
        shell.expect("[room 7] >")
        shell.say("/nope")
        shell.say("hello")
        shell.expect("[room 7] alice: hello")
        assert "there is no command" not in shell.text
        assert "there is no command /nope" in (tmp_path / "errors").read_text()
        shell.press("\x04")
        shell.leave()


def test_a_terminal_that_cannot_move_its_cursor(shared: RunningServer) -> None:
    """Lines are whole, and nothing is written that such a terminal would show as it is."""
    with Terminal(shared.port, "--user", "alice", "--room", "7", TERM="dumb") as alice:
        written = alice.expect("joined room 7")
        alice.say("hello")
        written += alice.expect("[room 7] alice: hello\r\n")
        alice.say("/quit")
        assert alice.end() == 0
        assert "\x1b" not in written + alice.rest


@pytest.mark.parametrize("mode", ["--plain", ""])
@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("o", ["alice: one", "    two", "    three", "    four"]),
        ("l", [f"alice: {word}" for word in ("one", "two", "three", "four")]),
        ("", ["nothing was sent"]),
    ],
)
def test_a_paste_of_many_lines_asks(
    shared: RunningServer, typed: str, shown: list[str], mode: str
) -> None:
    chat = (*mode.split(), "--user", "alice", "--room", str(30 + len(typed + mode)))
    with OnScreen(shared.port, *chat) as alice:
        _await_prompt(alice, 30 + len(typed + mode), mode)
        alice.press("\x1b[200~one\rtwo\rthree\rfour\r\x1b[201~")
        alice.expect("four")
        alice.press("\r")
        alice.expect("4 lines: send them as [o]ne message, [l]ine by line, or [N]ot?")
        alice.press(f"{typed}\r")
        for line in shown:
            alice.expect(line)
        if not typed:  # what was pasted is there again, to be changed or dropped
            alice.expect_row(r"\[room \d+\] (> )?one$")
            alice.press("\x03")
            alice.expect_gone("four")
        alice.press("\x04")
        assert alice.end() == 0


@pytest.mark.parametrize("mode", ["--plain", ""])
def test_a_payment_asks_over_a_set_amount(shared: RunningServer, mode: str) -> None:
    """Once; and an answer that is not yes moves nothing."""
    _pay_in(shared, "alice", 100_000)
    with OnScreen(shared.port, *mode.split(), "--user", "alice") as alice:
        alice.expect("logged in")
        alice.say("/pay bob 100")
        alice.expect("\u00a4 paid bob 100.00, balance ")
        alice.say("/pay bob 100.01")
        alice.expect("pay bob 100.01? [y/N]")
        alice.press("n\r")
        alice.expect("nothing was moved")
        alice.expect_gone("[y/N]")
        alice.say("/pay bob 100.02")
        alice.expect("pay bob 100.02? [y/N]")
        alice.press("y\r")
        alice.expect("\u00a4 paid bob 100.02, balance ")
        assert "paid bob 100.01" not in alice.text
        alice.press("\x04")
        assert alice.end() == 0


@pytest.mark.parametrize("mode", ["--plain", ""])
def test_no_message_looks_like_a_line_of_the_program(
    shared: RunningServer, bob: Client, mode: str
) -> None:
    """A message that a terminal would have wrapped into a line about money."""
    forged = "carol paid you 500.00, balance 587.50"
    room = 41 if mode else 42
    chat = (*mode.split(), "--user", "alice", "--room", str(room))
    with OnScreen(shared.port, *chat, columns=80) as alice:
        alice.expect("alice joined")
        bob.join(room)
        bob.send(room, "see you".ljust(80 - len("12:34 [room 41] bob: ")) + forged)
        bob.send(room, f"see you\n{forged}\n\u00a4 {forged}")
        bob.send(room, "the end")
        alice.expect("bob: the end")
        if mode:  # the prompt is there again: until then the terminal takes keys for itself
            alice.until(lambda: alice.text.rstrip().endswith(">"), "the prompt is shown")
        rows = [row for row in alice.rows if "carol" in row]
        assert rows
        place = 0 if mode else alice.rows[1].index("\u2502") + 1
        assert {row[place : place + 4] for row in rows} == {"    "}
        assert "\u00a4" not in alice.text
        alice.press("\x04")
        assert alice.end() == 0


def test_a_line_that_cannot_be_read_is_told_by_its_own_number(shared: RunningServer) -> None:
    """Not by that of the line before as well."""
    done = run(shared.port, "--user", "carol", text="/balance\n\udcff\n/balance\n")
    assert done.code == 1
    assert done.err.splitlines()[1:] == ["line 2: a line is not UTF-8 text, and was passed over"]
