"""One-shot commands of `tradechat-cli`: outputs, exit codes, options, passwords."""

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from client import Client
from client.cli.commands import COMMANDS
from client.cli.identity import state_directory
from client.cli.options import make_parser, read_options
from libproto.messages import Opcode
from server.region.region import Region
from tests.client.conftest import register
from tests.client.programs import (
    COMMAND,
    PASSWORD,
    ROOT,
    Ended,
    Piped,
    Terminal,
    environment,
    run,
)
from tests.client.relay import Relay
from tests.client.screens import ECHO_STATE, ShellOnScreen
from tests.helpers.server import RunningServer, StartServer, wait_until

ROOM = 7


@pytest.fixture
def alice(shared: RunningServer) -> Iterator[Client]:
    """alice through the library, to look at what the program did."""
    with Client(port=shared.port) as client:
        client.login("alice", PASSWORD)
        yield client


@pytest.fixture
def purse(alice: Client) -> int:
    """The balance that alice has for a test, at least 100.00."""
    return alice.deposit(10_000).balance


def _one(done: Ended) -> dict[str, Any]:
    """The one JSON object that a command has printed, and nothing on standard error."""
    assert (done.code, done.err) == (0, "")
    [line] = done.lines
    found: dict[str, Any] = json.loads(line)
    return found


def _many(done: Ended) -> list[dict[str, Any]]:
    assert (done.code, done.err) == (0, "")
    return [json.loads(line) for line in done.lines]


def _failed(done: Ended, code: int, said: str) -> None:
    """It ended so, said that, and printed no result."""
    assert (done.code, done.out) == (code, "")
    assert said in done.err


# ---- money


def test_balance(shared: RunningServer, purse: int, alice: Client) -> None:
    done = run(shared.port, "--user", "alice", "balance")
    assert done == Ended(0, f"balance {purse // 100}.{purse % 100:02}\n", "")
    found = _one(run(shared.port, "--user", "alice", "balance", "--json"))
    assert found == {"balance": purse, "last_txn_id": alice.balance().last_txn_id}


def test_deposit(shared: RunningServer, purse: int, alice: Client) -> None:
    done = run(shared.port, "--user", "alice", "deposit", "0.05")
    after = purse + 5
    assert done == Ended(0, f"deposited 0.05, balance {after // 100}.{after % 100:02}\n", "")
    found = _one(run(shared.port, "--user", "alice", "--json", "deposit", "12.5"))
    last = alice.balance()
    assert found == {"txn_id": last.last_txn_id, "balance": purse + 1255}
    assert last.balance == purse + 1255


def test_withdraw(shared: RunningServer, purse: int, alice: Client) -> None:
    done = run(shared.port, "--user", "alice", "withdraw", "0.05")
    after = purse - 5
    assert done == Ended(0, f"withdrew 0.05, balance {after // 100}.{after % 100:02}\n", "")
    found = _one(run(shared.port, "--user", "alice", "withdraw", "12.50", "--json"))
    assert found == {"txn_id": alice.balance().last_txn_id, "balance": purse - 1255}


def test_pay(shared: RunningServer, purse: int, alice: Client) -> None:
    done = run(shared.port, "--user", "alice", "pay", "bob", "0.05")
    after = purse - 5
    assert done == Ended(0, f"paid bob 0.05, balance {after // 100}.{after % 100:02}\n", "")
    found = _one(run(shared.port, "--user", "alice", "pay", "bob", "12.50", "--json"))
    assert found == {"txn_id": alice.balance().last_txn_id, "balance": purse - 1255}


def _clients_known(server: RunningServer) -> int:
    with closing(Region.attach(server.name)) as region:
        return region.words[region.layout["registry"].at(0, "clients")]


def test_what_moves_money_has_one_client_id(shared: RunningServer, tmp_path: Path) -> None:
    for command, more in (
        ("balance", 0),
        ("deposit 1", 1),
        ("pay bob 0.01", 0),
        ("withdraw 0.01", 0),
        ("txns", 0),
        ("send 7 x", 0),
    ):
        before = _clients_known(shared)
        done = run(shared.port, "--user", "alice", *command.split(), XDG_STATE_HOME=str(tmp_path))
        assert done.code == 0
        assert _clients_known(shared) - before == more, command


def test_numbers_that_were_set_back(shared: RunningServer, purse: int, tmp_path: Path) -> None:
    """The file of an old backup: its client_id is given up, by the command and by the chat."""
    state = {"XDG_STATE_HOME": str(tmp_path)}
    assert run(shared.port, "--user", "alice", "deposit", "1", **state).code == 0
    [kept] = [path for path in state_directory(state).iterdir() if path.suffix != ".lock"]
    for text, line, arguments in (
        ("", f"deposited 2.00, balance {purse / 100 + 3:.2f}", ("deposit", "2")),
        ("/deposit 3\n", f"deposited 3.00, balance {purse / 100 + 6:.2f}", ()),
    ):
        client_id, next_req_id = map(int, kept.read_text().split())
        assert next_req_id == 2
        kept.write_text(f"{client_id} 1\n")
        done = run(shared.port, "--user", "alice", *arguments, text=text, **state)
        assert done.code == 0, done.err
        assert done.lines[0].removeprefix("\u00a4 ").startswith(line)
        renewed, next_req_id = map(int, kept.read_text().split())
        assert renewed != client_id
        assert next_req_id == 2


def test_txns(shared: RunningServer, purse: int, alice: Client) -> None:
    with Client(port=shared.port) as bob:
        bob.login("bob", PASSWORD)
        bob.deposit(500)
        bob.transfer(alice.user_id, 250)
    alice.withdraw(1)
    alice.transfer(bob.user_id, 2)
    newest = alice.transactions(limit=4).transactions
    done = run(shared.port, "--user", "alice", "txns", "--limit", "4")
    assert (done.code, done.err) == (0, "")
    assert [line.split(" ", 3)[3].partition(",")[0] for line in done.lines] == [
        "paid bob 0.02", "withdrew 0.01", "bob paid you 2.50", "deposited 100.00",
    ]  # fmt: skip
    found = _many(run(shared.port, "--user", "alice", "txns", "--limit", "4", "--json"))
    assert [(each["txn_id"], each["amount"], each["balance"]) for each in found] == [
        (each.txn_id, each.amount, each.balance) for each in newest
    ]
    assert [(each["kind"], each["from_name"], each["to_name"]) for each in found] == [
        ("transfer", "alice", "bob"),
        ("withdraw", "alice", ""),
        ("transfer", "bob", "alice"),
        ("deposit", "", "alice"),
    ]
    assert found[3]["balance"] == purse


def test_txns_of_more_than_one_answer(shared: RunningServer) -> None:
    with Client(port=shared.port) as carl:
        carl.register("carl", PASSWORD)
        carl.login("carl", PASSWORD)
        for _ in range(300):
            carl.deposit(1)
    found = _many(run(shared.port, "--user", "carl", "txns", "--limit", "280", "--json"))
    assert [each["balance"] for each in found] == [*range(300, 20, -1)]
    assert len(_many(run(shared.port, "--user", "carl", "txns", "--limit", "999", "--json"))) == 300
    assert len(run(shared.port, "--user", "carl", "txns").lines) == 10


def test_txns_of_which_older_ones_are_gone(start_server: StartServer) -> None:
    server = start_server("--txn-ring", "64", "--durability", "none")
    register(server, "ann")
    with Client(port=server.port) as ann:
        ann.login("ann", PASSWORD)
        for _ in range(100):
            ann.deposit(1)
        kept = ann.transactions().transactions
        end = ann.transactions(kept[-1].txn_id)
        assert (end.transactions, end.oldest_txn_id) == ((), kept[-1].txn_id)
    more = "there were older transactions, which the server does not keep any more\n"
    done = run(server.port, "--user", "ann", "txns", "--limit", "999")
    assert (len(done.lines), done.err) == (len(kept), more)
    assert len(kept) < 100
    done = run(server.port, "--user", "ann", "txns", "--limit", "5")
    assert (len(done.lines), done.err) == (5, "")
    done = run(server.port, "--user", "ann", text="/txns 5\n/txns 999\n")
    assert done.err.splitlines(keepends=True)[1:] == [more]
    assert len(done.lines) > 60


# ---- rooms


def test_send_and_history(shared: RunningServer) -> None:
    done = run(shared.port, "--user", "alice", "send", "31", "hello", "there")
    assert done == Ended(0, "sent to room 31 as event 2\n", "")
    found = _one(run(shared.port, "--user", "bob", "send", "31", "hi \u200f", "--json"))
    assert (found["room_id"], found["room_seq"]) == (31, 5)
    for _ in range(2):  # reading it leaves nothing in it
        done = run(shared.port, "--user", "alice", "history", "31")
        assert [line.split(" ", 2)[2] for line in done.lines] == [
            "[room 31] alice joined",
            "[room 31] alice: hello there",
            "[room 31] alice left",
            "[room 31] bob joined",
            "[room 31] bob: \u2068hi \u200f\u2069",
            "[room 31] bob left",
        ]
    done = run(shared.port, "--user", "alice", "history", "31", "--limit", "1", "--json")
    assert done.out.isascii()
    events = _many(done)
    assert [(each["event"], each["room_seq"], each["from_name"]) for each in events] == [
        ("message", 5, "bob"), ("left", 6, "bob"),
    ]  # fmt: skip
    assert events[0].keys() == {
        "event", "room_id", "room_seq", "time", "from_user", "from_name", "message",
    }  # fmt: skip


def test_a_text_that_is_refused(shared: RunningServer) -> None:
    done = run(shared.port, "--user", "alice", "send", "32", "hi \x9b")
    assert (done.code, done.out) == (1, "")
    assert "not valid" in done.err
    assert done.err.isascii()
    done = run(shared.port, "--user", "alice", "history", "32")
    assert not any("hi" in line for line in done.lines)


def test_history_that_is_gone(start_server: StartServer) -> None:
    server = start_server("--event-ring", "16", "--durability", "none")
    with Client(port=server.port) as client:
        client.register("alice", PASSWORD)
        client.login("alice", PASSWORD)
        client.join(1)
        for number in range(30):
            client.send(1, str(number))
        found = _many(run(server.port, "--user", "alice", "history", "1", "--json"))
    first = found[0]
    assert (first["event"], first["room_id"], first["first_seq"]) == ("gap", 1, 1)
    numbers = [each["room_seq"] for each in found[1:]]
    assert numbers == [*range(first["last_seq"] + 1, 32)]


def test_rooms_and_who(shared: RunningServer, alice: Client) -> None:
    alice.join(41)
    alice.join(42)
    found = _many(run(shared.port, "--user", "bob", "rooms", "--json"))
    assert {
        "room_id": 41, "member_count": 1, "last_seq": 1, "name": "", "topic": "", "owner": 0,
        "access": "public", "role": "none",
    } in found  # fmt: skip
    lines = run(shared.port, "--user", "bob", "rooms").lines
    assert "[room 42] 1 member, last event 1" in lines
    assert run(shared.port, "--user", "bob", "who", "41") == Ended(0, "alice\n", "")
    found = _many(run(shared.port, "--user", "bob", "who", "41", "--json"))
    assert found == [{"user_id": alice.user_id, "username": "alice"}]
    assert run(shared.port, "--user", "bob", "who", "60") == Ended(0, "", "")


def test_listen(shared: RunningServer, alice: Client) -> None:
    with Piped(shared.port, "--user", "bob", "listen", str(ROOM), "--count", "4") as bob:
        bob.expect("[room 7] bob joined\n")
        alice.join(ROOM)
        bob.expect("[room 7] alice joined\n")
        alice.direct(alice.lookup("bob").user_id, "not of the room")
        alice.send(ROOM, "one\n\u200f")
        bob.expect("[room 7] alice: \u2068one\\n\u200f\u2069\n")
        alice.send(ROOM, "two")
        alice.send(ROOM, "three")
        assert bob.wait() == 0
        assert "three" not in bob.written
        assert "not of the room" not in bob.written


def test_listen_in_json(shared: RunningServer, alice: Client) -> None:
    alice.join(51)
    with Piped(shared.port, "--user", "bob", "listen", "51", "--json", "--count", "2") as bob:
        bob.expect('"joined"')
        alice.send(51, "gr\u00fc\u00df")
        assert bob.wait() == 0
        _, joined, said = bob.written.splitlines()
        assert json.loads(joined)["from_name"] == "bob"
        assert json.loads(said)["message"] == "gr\u00fc\u00df"


def test_listen_until_ctrl_c(shared: RunningServer) -> None:
    with Piped(shared.port, "--user", "bob", "listen", "52") as bob:
        bob.expect("bob joined\n")
        bob.signal(signal.SIGINT)
        assert bob.wait() == 130
        assert "Traceback" not in bob.written


def test_listen_until_the_server_stays_away(start_server: StartServer) -> None:
    server = start_server()
    with Piped(
        server.port, "--user", "bob", "--register", "listen", "1", "--give-up-after", "2"
    ) as bob:
        bob.expect("bob joined\n")
        assert server.stop() == 0
        bob.expect("connection lost, reconnecting\u2026\n")
        bob.expect("tradechat-cli: no connection: ")
        bob.expect("it did not come back within 2 s")
        assert bob.wait() == 4


def test_listen_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What is said afterwards is shown, and `--after` shows what was said before."""
    data = tmp_path / "data"
    with RunningServer(data) as server, Client(port=server.port) as alice:
        register(server, "alice", "bob")
        alice.login("alice", PASSWORD)
        alice.join(1)
        for text in ("one", "two", "three"):
            alice.send(1, text)
        with Piped(server.port, "--user", "bob", "listen", "1", "--after", "2") as bob:
            bob.expect("alice: two\n")
            bob.expect("alice: three\n")
            bob.expect("bob joined\n")
            assert "one" not in bob.written
            alice.close()
            assert server.stop() == 0
            bob.expect("connection lost, reconnecting\u2026\n")
            with RunningServer(data, "--port", str(server.port)), Client(port=server.port) as again:
                bob.expect("connected again\n")
                again.login("alice", PASSWORD)
                again.join(1)
                again.send(1, "four")
                bob.expect("alice: four\n")
                bob.signal(signal.SIGINT)
                assert bob.wait() == 130


def test_listen_fills_a_gap(start_server: StartServer) -> None:
    server = start_server("--event-ring", "1024", "--max-message", "32768")
    said = [f"{number} {'x' * 32000}" for number in range(500)]
    with (
        Relay(server.port) as relay,
        Piped(relay.port, "--user", "bob", "--register", "listen", "1", "--json") as bob,
        Client(port=server.port) as client,
    ):
        bob.expect('"joined"')
        client.register("alice", PASSWORD)
        client.login("alice", PASSWORD)
        client.join(1)
        relay.pause()
        for text in said:
            client.send(1, text)
        relay.resume()
        client.send(1, "the end")
        bob.expect('"the end"}\n')
        heard = [json.loads(line) for line in bob.written.splitlines() if "room_seq" in line]
        assert [each["room_seq"] for each in heard] == [*range(1, 504)]
        assert [each["message"] for each in heard[2:]] == [*said, "the end"]
        bob.signal(signal.SIGINT)
        assert bob.wait() == 130


@pytest.mark.parametrize("command", ["listen 53", "history 53", "rooms", "balance"])
def test_an_output_that_nobody_reads(shared: RunningServer, alice: Client, command: str) -> None:
    alice.join(53)
    program = shlex.join([*COMMAND, "--user", "bob", *command.split()])
    done = subprocess.run(
        ["bash", "-c", f"{program} | head -c 0; echo ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        env=environment(shared.port),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "141\n"
    assert done.stderr in ("", "listening to room 53\n")


# ---- what goes wrong


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("withdraw 99999999", "the balance is too low"),
        ("pay bob 99999999", "the balance is too low"),
        ("pay nobody 1", "no such user"),
        ("pay alice 1", "not valid"),
        ("deposit 0", "the amount is 0"),
        ("deposit 92233720368547758.08", "limit"),
        ("send 9999 x", "no such room"),
        ("listen 9999", "no such room"),
        ("history 9999", "no such room"),
        ("who 9999", "no such room"),
    ],
)
def test_what_the_server_refuses(
    shared: RunningServer, purse: int, alice: Client, command: str, said: str
) -> None:
    for form in ([], ["--json"]):
        _failed(run(shared.port, "--user", "alice", *command.split(), *form), 1, said)
    assert alice.balance().balance == purse


def test_a_wrong_password(shared: RunningServer) -> None:
    done = run(shared.port, "--user", "alice", "balance", TRADECHAT_PASSWORD="wrong")  # noqa: S106
    _failed(done, 1, "wrong username or password; check both, or create the user with --register")


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        done = run(bound.getsockname()[1], "--user", "alice", "balance")
    _failed(done, 4, "tradechat-cli: no connection: ")
    assert "Traceback" not in done.err


def test_something_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Piped(port, "--user", "alice", "balance") as program:
            accepted, _ = other.accept()
            with accepted:
                accepted.sendall(b"SSH-2.0-OpenSSH_9.7\r\n" + b" " * 32)
                assert program.wait() == 4
            program.expect("tradechat-cli: not the server this user is registered with")


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = run(port, "--user", "alice", "balance", "--timeout", "0.2")
    _failed(done, 4, "no answer in time")
    assert "unknown" not in done.err  # nothing was asked that could have moved money


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("command", "opcode", "what"),
    [
        ("deposit 1", Opcode.DEPOSIT, "deposit"),
        ("withdraw 1", Opcode.WITHDRAW, "withdrawal"),
        ("pay bob 1", Opcode.TRANSFER, "payment"),
        ("send 33 hello", Opcode.CHAT_SEND, "message"),
    ],
)
def test_money_whose_outcome_is_unknown(
    shared: RunningServer, command: str, opcode: Opcode, what: str, cut: bool
) -> None:
    with Relay(shared.port, opcode, cut=cut) as relay:
        done = run(relay.port, "--user", "alice", "--timeout", "5", *command.split())
    _failed(
        done,
        3,
        f"; whether the {what} was carried out is unknown: look with `tradechat-cli "
        f"{'history' if what == 'message' else 'txns'}` before you repeat it\n",
    )


def test_ctrl_c_while_money_is_on_its_way(shared: RunningServer) -> None:
    with (
        Relay(shared.port, Opcode.TRANSFER) as relay,
        Piped(relay.port, "--user", "alice", "pay", "bob", "1") as program,
    ):
        assert relay.held.wait(10)
        program.signal(signal.SIGINT)
        program.expect("whether the payment was carried out is unknown")
        assert program.wait() == 130
        assert "Traceback" not in program.written


# ---- registering


def test_register(shared: RunningServer) -> None:
    done = run(shared.port, "register", "--user", "dora")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("registered dora as user ")
    _failed(run(shared.port, "register", "--user", "dora"), 1, "this username is taken")
    found = _one(run(shared.port, "register", "--user", "ed", "--json"))
    assert found.keys() == {"user_id", "username"}
    assert run(shared.port, "balance", "--user", "ed").out == "balance 0.00\n"


def test_register_and_then_the_command(shared: RunningServer) -> None:
    done = run(shared.port, "deposit", "5", "--register", "--user", "fay")
    assert done == Ended(0, "deposited 5.00, balance 5.00\n", "")
    done = run(shared.port, "deposit", "5", "--register", "--user", "fay")
    _failed(done, 1, "this username is taken: log in without --register")
    assert run(shared.port, "balance", "--user", "fay").out == "balance 5.00\n"


def test_registration_is_closed(start_server: StartServer) -> None:
    server = start_server("--registration", "closed")
    done = run(server.port, "register", "--user", "alice")
    _failed(done, 1, "registration is closed; ask who runs the server")


# ---- options


@pytest.mark.parametrize(
    "command",
    [
        "--user alice --json balance",
        "balance --user alice --json",
        "--json balance --user alice",
        "--host 127.0.0.1 --timeout 5 balance --json --user alice",
        "balance --host 127.0.0.1 --timeout 5 --json --user alice",
        "--user bob --json balance --user alice",  # the later one wins
    ],
)
def test_options_stand_before_or_behind_the_command(
    shared: RunningServer, purse: int, command: str
) -> None:
    assert _one(run(shared.port, *command.split()))["balance"] == purse


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        ([], {}, ("127.0.0.1", 7878)),
        ([], {"TRADECHAT_HOST": "::1", "TRADECHAT_PORT": "9"}, ("::1", 9)),
        (["--host", "h", "--port", "8"], {"TRADECHAT_HOST": "g", "TRADECHAT_PORT": "9"}, ("h", 8)),
        ([], {"TRADECHAT_HOST": "", "TRADECHAT_PORT": ""}, ("127.0.0.1", 7878)),
        (["--port", "8"], {"TRADECHAT_PORT": "nonsense"}, ("127.0.0.1", 8)),
    ],
)
def test_flags_win_over_the_environment(
    flags: list[str], variables: dict[str, str], expected: tuple[str, int]
) -> None:
    options = read_options([*flags, "balance"], {"TRADECHAT_USER": "alice", **variables})
    assert (options.host, options.port) == expected
    assert options.user == "alice"
    other = read_options(["balance", "--user", "bob"], {"TRADECHAT_USER": "alice"})
    assert other.user == "bob"


def test_the_file_says_what_flags_and_environment_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tradechat" / "config.toml"
    file.parent.mkdir()
    file.write_text('host = "h"\nport = 9\nuser = "eve"\nbacklog = 5\n')
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}

    def read(*flags: str, **variables: str) -> tuple[str, int, str]:
        options = read_options([*flags, "balance"], {**environ, **variables})
        return options.host, options.port, options.user

    assert read() == ("h", 9, "eve")
    assert read(TRADECHAT_PORT="10", TRADECHAT_USER="bob") == ("h", 10, "bob")
    assert read("--host", "g", "--user", "ann", TRADECHAT_HOST="x") == ("g", 9, "ann")
    file.write_text("port = 0\n")
    with pytest.raises(SystemExit):
        read("--user", "ann")
    assert "port in config.toml: '0' is " in capsys.readouterr().err
    file.write_text("port = \n")
    with pytest.raises(SystemExit):
        read("--user", "ann")
    assert "is not valid TOML" in capsys.readouterr().err


PIN = "SHA256:" + "A" * 43
OTHER_PIN = "SHA256:" + "B" * 42 + "A"


@pytest.mark.parametrize(
    ("flags", "variables", "kept", "expected"),
    [
        ([], {}, "", {}),
        ([], {}, f'encrypt = "require"\npin = "{PIN}"\n', {"encrypt": "require", "pin": PIN}),
        ([], {"TRADECHAT_ENCRYPT": "off"}, 'encrypt = "require"\n', {"encrypt": "off"}),
        ([], {"TRADECHAT_PIN": PIN}, f'pin = "{OTHER_PIN}"\n', {"pin": PIN}),
        (
            ["--encrypt", "auto", "--pin", PIN],
            {"TRADECHAT_ENCRYPT": "off", "TRADECHAT_PIN": OTHER_PIN},
            'encrypt = "off"\n',
            {"encrypt": "auto", "pin": PIN},
        ),
        (
            ["--url", "tradechat://h?encrypt=require"],
            {"TRADECHAT_ENCRYPT": "off"},
            'encrypt = "off"\n',
            {"encrypt": "require"},
        ),
    ],
)
def test_how_a_connection_is_protected_can_be_kept(
    flags: list[str], variables: dict[str, str], kept: str, expected: dict[str, str], tmp_path: Path
) -> None:
    """Flags win over the URL, that over the environment, and that over the file."""
    file = tmp_path / "tradechat" / "config.toml"
    file.parent.mkdir()
    file.write_text(kept)
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "TRADECHAT_USER": "alice", **variables}
    assert read_options([*flags, "balance"], environ).trust == expected


SECRET_URL = "tradechat://alice:s3cret@h:9"  # noqa: S105 - of a user that there is in tests alone


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        (["--url", "tradechat://bob@h:9"], {}, ("h", 9, "bob", None)),
        (["--url", "tradechat://h"], {"TRADECHAT_USER": "bob"}, ("h", 7878, "bob", None)),
        (
            ["--url", "tradechat://bob@h"],
            {"TRADECHAT_USER": "eve", "TRADECHAT_HOST": "g", "TRADECHAT_PORT": "1"},
            ("h", 7878, "bob", None),
        ),
        (["--url", "tradechat://bob@h", "--user", "eve"], {}, ("h", 7878, "eve", None)),
        (["--url", "tradechat://bob@h"], {"TRADECHAT_URL": SECRET_URL}, ("h", 7878, "bob", None)),
        ([], {"TRADECHAT_URL": SECRET_URL}, ("h", 9, "alice", "s3cret")),
        ([], {"TRADECHAT_URL": SECRET_URL, "TRADECHAT_USER": "eve"}, ("h", 9, "alice", "s3cret")),
        (["--user", "eve"], {"TRADECHAT_URL": SECRET_URL}, ("h", 9, "eve", None)),
        # What is for one server goes to no other.
        (
            ["--host", "g"],
            {"TRADECHAT_URL": SECRET_URL, "TRADECHAT_USER": "eve"},
            ("g", 7878, "eve", None),
        ),
        (
            ["--port", "1", "--user", "alice"],
            {"TRADECHAT_URL": SECRET_URL},
            ("127.0.0.1", 1, "alice", None),
        ),
    ],
)
def test_a_url_says_where_the_server_is(
    flags: list[str], variables: dict[str, str], expected: tuple[str, int, str, str | None]
) -> None:
    options = read_options([*flags, "balance"], variables)
    assert (options.host, options.port, options.user, options.url_password) == expected


def test_the_timeout_of_a_url() -> None:
    url = "tradechat://alice@h?timeout_s=3"
    assert read_options(["--url", url, "balance"], {}).timeout == 3.0
    assert read_options(["--url", url, "--timeout", "4", "balance"], {}).timeout == 4.0
    assert read_options(["--url", "tradechat://alice@h", "balance"], {}).timeout == 10.0


def test_the_password_of_a_url(shared: RunningServer, purse: int) -> None:
    url = f"tradechat://alice:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{shared.port}"
    wrong = url.replace("alice:", "alice:x")
    said = "balance", "--json"
    done = run(1, *said, TRADECHAT_URL=url, TRADECHAT_PORT=None)
    assert _one(done)["balance"] == purse
    done = run(1, *said, TRADECHAT_URL=wrong, TRADECHAT_PORT=None, TRADECHAT_PASSWORD=None)
    _failed(done, 1, "check both")
    assert "horse" not in done.err


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        (["--url", "tradechat://a@h", "--port", "1"], {}, "without --host and --port"),
        (["--url", SECRET_URL], {}, "--url: leave the password out"),
        (["--url", "tradechat://alice:s3cret"], {}, "argument --url: url: its port is not"),
        (
            [],
            {"TRADECHAT_URL": "tradechat://alice:s3cret"},
            "error: TRADECHAT_URL: its port is not",
        ),
        ([], {"TRADECHAT_URL": SECRET_URL, "TRADECHAT_HOST": "h"}, "TRADECHAT_HOST are both set"),
        ([], {"TRADECHAT_URL": SECRET_URL, "TRADECHAT_PORT": "1"}, "TRADECHAT_PORT are both set"),
    ],
)
def test_urls_that_make_no_sense(
    flags: list[str],
    variables: dict[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        read_options([*flags, "balance"], variables)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert "s3cret" not in err


USAGE = [
    ("", "who are you? Give --user NAME or set TRADECHAT_USER"),
    ("balance", "who are you?"),
    ("--user alice nonsense", "invalid choice"),
    ("--user alice bal", "invalid choice"),
    ("--user al/ice balance", "is no username"),
    ("--user alice deposit", "AMOUNT"),
    ("--user alice deposit 1.005", "'1.005' is not a valid amount"),
    ("--user alice deposit -1", "'-1' is not a valid amount"),
    ("--user alice deposit +1", "'+1' is not a valid amount"),
    ("--user alice deposit 1e3", "'1e3' is not a valid amount"),
    ("--user alice deposit 1,50", "'1,50' is not a valid amount"),
    ("--user alice deposit 184467440737095516.16", "over the greatest one"),
    ("--user alice deposit 1 2", "unrecognized arguments"),
    ("--user alice pay b@b 1", "is no username"),
    ("--user alice send 0 x", "is no room"),
    ("--user alice send 7", "TEXT"),
    ("--user alice send 7 ''", "no text"),
    ("--user alice txns --limit 0", "is no whole number"),
    ("--user alice listen 7 --count x", "is no whole number"),
    ("--user alice --port 0 balance", "is no port"),
    ("--user alice --timeout 0 balance", "is no timeout"),
    ("--user alice --timeout nan balance", "is no timeout"),
    ("--user alice --json", "--json goes with a command"),
    ("--user alice --room 7 balance", "--room goes with the chat"),
    ("--user alice --password secret balance", "usage: "),
    ("--user alice balance --passwor secret", "unrecognized arguments"),
]


@pytest.mark.parametrize(("command", "said"), USAGE)
def test_usage(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(shlex.split(command), {})
    assert ended.value.code == 2
    written = capsys.readouterr()
    assert said in written.err
    assert not written.out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--user alice deposit abc --json", "tradechat-cli deposit: argument AMOUNT: 'abc' is not"),
        ("--json --user alice nonsense", "invalid choice"),
        ("balance --json", "who are you?"),
        ("--user alice board take tin x --json", "is no whole number"),
    ],
)
def test_wrong_usage_in_json(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One object on one line, as any other error: nothing else is on standard error."""
    with pytest.raises(SystemExit) as ended:
        read_options(shlex.split(command), {})
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert said in told.pop("message")
    assert told == {"error": "UsageError", "exit_code": 2}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TRADECHAT_PORT": "http"}, "TRADECHAT_PORT: 'http' is no port"),
        ({"TRADECHAT_USER": "al/ice"}, "TRADECHAT_USER: 'al/ice' is no username"),
        ({"TRADECHAT_ENCRYPT": "of"}, "TRADECHAT_ENCRYPT: 'of' is none of auto, require, off"),
        ({"TRADECHAT_PIN": "SHA256:x"}, "TRADECHAT_PIN: 'SHA256:x' is not "),
    ],
)
def test_the_environment_is_checked_too(
    variables: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(["balance"], {"TRADECHAT_USER": "alice", **variables})
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_port_that_a_container_platform_set_is_passed_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    environ = {
        "TRADECHAT_USER": "alice",
        "TRADECHAT_PORT": "tcp://10.96.0.12:7878",
        "TRADECHAT_PORT_7878_TCP": "tcp://10.96.0.12:7878",
        "TRADECHAT_SERVICE_HOST": "10.96.0.12",
        "TRADECHAT_HOTS": "example.org",
        "TRADECHAT_WORKERS": "4",
    }
    options = read_options(["balance"], environ)
    assert (options.host, options.port) == ("127.0.0.1", 7878)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in said] == ["TRADECHAT_PORT", "TRADECHAT_HOTS"]
    assert said[1].endswith("did you mean TRADECHAT_HOST?")


def test_usage_of_the_program() -> None:
    done = run(1, "balance")
    _failed(done, 2, "who are you?")


def test_a_text_that_looks_like_an_option(shared: RunningServer) -> None:
    done = run(shared.port, "--user", "alice", "send", "61", "--", "--json", "-x")
    assert done.code == 0
    assert "alice: --json -x" in run(shared.port, "--user", "alice", "history", "61").out


def test_help_and_version() -> None:
    done = run(1, "--help")
    assert done.code == 0
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        listed = run(1, group, "--help") if group else done
        assert f"    {name} " in listed.out
    assert "examples:" in done.out
    assert run(1, "--version") == Ended(0, "tradechat-cli 0.1.0 (compiled)\n", "")
    done = run(1, "pay", "--help")
    assert done.code == 0
    assert "USER AMOUNT" in done.out


def test_no_flag_takes_a_password() -> None:
    assert "--password-file" in make_parser().format_help()
    assert "--password " not in make_parser().format_help()


# ---- passwords


def test_a_password_file(shared: RunningServer, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\nsecond line\n")
    wrong = {"TRADECHAT_PASSWORD": "wrong"}
    done = run(shared.port, "--user", "bob", "--password-file", str(path), "who", "1", **wrong)
    assert done == Ended(0, "", "")  # it wins over the environment


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"", "is empty"), (b"\nx\n", "is empty"), (b"\xff\n", "UTF-8")],
)
def test_a_password_file_that_does_not_do(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    _failed(run(1, "--user", "bob", "--password-file", str(path), "balance"), 2, said)


def test_no_password_and_no_terminal() -> None:
    done = run(1, "--user", "bob", "balance", text="secret\n", TRADECHAT_PASSWORD=None)
    _failed(done, 2, "set TRADECHAT_PASSWORD or give --password-file FILE")


def test_an_empty_password() -> None:
    done = run(1, "--user", "bob", "balance", TRADECHAT_PASSWORD="")
    _failed(done, 2, "the password is empty")


def test_the_prompt_shows_nothing(shared: RunningServer) -> None:
    with Terminal(shared.port, "--user", "bob", "who", "1", TRADECHAT_PASSWORD=None) as bob:
        bob.expect("Password for bob: ")
        bob.say(PASSWORD)
        assert bob.end() == 0
        assert PASSWORD not in bob.rest


def test_the_password_to_register_is_asked_twice(shared: RunningServer) -> None:
    with Terminal(shared.port, "--user", "gil", "register", TRADECHAT_PASSWORD=None) as gil:
        gil.expect("Password for gil: ")
        gil.say(PASSWORD)
        gil.expect("The same again: ")
        gil.say("something else")
        gil.expect("the two passwords differ: nothing was registered")
        assert gil.end() == 2
    assert run(shared.port, "--user", "gil", "balance").code == 1


@pytest.mark.parametrize(("key", "code"), [("\x03", 130), ("\x04", 2)])
def test_no_password_after_all(shared: RunningServer, key: str, code: int) -> None:
    with Terminal(shared.port, "--user", "bob", "balance", TRADECHAT_PASSWORD=None) as bob:
        bob.expect("Password for bob: ")
        bob.press(key)
        assert bob.end() == code
        assert "Traceback" not in bob.rest


@pytest.mark.parametrize("given", ["environment", "typed"])
def test_a_password_that_is_not_utf_8(shared: RunningServer, given: str) -> None:
    if given == "environment":
        bad = {"TRADECHAT_PASSWORD": "\udcff\udcfe"}
        done = run(shared.port, "--user", "bob", "balance", **bad)
        assert (done.code, done.out) == (2, "")
        assert done.err == "tradechat-cli: TRADECHAT_PASSWORD is not UTF-8 text\n"
        return
    with Terminal(shared.port, "--user", "bob", "balance", TRADECHAT_PASSWORD=None) as bob:
        bob.expect("Password for bob: ")
        bob.press_bytes(b"\xff\xfe\r")
        bob.expect("what was typed is not UTF-8 text")
        assert bob.end() == 2
        assert "Traceback" not in bob.rest


def test_a_password_after_a_stop(shared: RunningServer) -> None:
    """After Ctrl-Z and `fg` it is asked for again, and still not shown."""
    with ShellOnScreen(shared.port, TRADECHAT_PASSWORD=None) as shell:
        shell.say("$CLI --user bob who 1; echo first=$?")
        shell.expect("Password for bob:")
        shell.press("\x1a")
        shell.expect("first=148")
        shell.say(ECHO_STATE)
        shell.expect("\nstate=echo")  # as the shell and its commands have it meanwhile
        shell.say("clear")
        shell.expect_gone("first")
        shell.say("fg")
        shell.expect("Password for bob:")
        shell.press(f"{PASSWORD}\r")
        shell.say("echo ended=$?")
        shell.expect("\nended=0")
        assert PASSWORD not in shell.text
        shell.say(ECHO_STATE)
        shell.expect("\nstate=echo")
        shell.leave()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_password_leaves_the_terminal_as_it_was(
    shared: RunningServer, number: signal.Signals
) -> None:
    with ShellOnScreen(shared.port, TRADECHAT_PASSWORD=None) as shell:
        shell.say("$CLI --user bob who 1; echo ended=$?")
        shell.expect("Password for bob:")
        os.killpg(shell.foreground(), number)
        shell.expect(f"\nended={128 + number}")
        shell.say(ECHO_STATE)
        shell.expect("\nstate=echo")
        shell.leave()


# ---- the program


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_standard_stream_is_missing(start_server: StartServer, closed: str) -> None:
    server = start_server(workers=1)
    with Client(port=server.port) as client:
        client.register("bob", PASSWORD)
    program = shlex.join([*COMMAND, "--user", "bob", "balance"])
    done = subprocess.run(
        ["bash", "-c", f"{program} {closed}"],
        cwd=ROOT,
        env=environment(server.port),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout == ("" if closed == ">&-" else "balance 0.00\n")


def _in_bash(port: int, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that calls $CLI."""
    return subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**environment(port), "CLI": shlex.join(COMMAND)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("asked", ["--user bob balance", "--user bob --json balance", "--help"])
def test_an_output_that_cannot_be_written(shared: RunningServer, asked: str) -> None:
    done = _in_bash(shared.port, f"$CLI {asked} >/dev/full")
    assert done.returncode == 5
    assert done.stderr == (
        "tradechat-cli: cannot write to standard output: No space left on device\n"
    )


@pytest.mark.parametrize(
    ("where", "code", "why"),
    [
        (">/dev/full; exit $?", 5, "No space left on device"),
        ("| head -c 0; exit ${PIPESTATUS[0]}", 141, "nobody reads it any more"),
    ],
)
@pytest.mark.parametrize("form", ["", "--json"])
def test_money_that_was_moved_is_told_where_it_cannot_be_shown(
    shared: RunningServer, alice: Client, purse: int, where: str, code: int, why: str, form: str
) -> None:
    """What was done, what could not be written, and a code of its own: nobody pays twice."""
    done = _in_bash(shared.port, f"$CLI --user alice pay bob 1 {form} {where}")
    assert done.returncode == code
    [line] = done.stderr.splitlines()
    assert line.startswith(f"tradechat-cli: cannot write to standard output: {why}; this was done")
    assert "paid bob 1.00, balance " in line
    assert alice.balance().balance == purse - 100


def test_standard_error_that_cannot_be_written(
    shared: RunningServer, alice: Client, purse: int
) -> None:
    done = _in_bash(shared.port, "$CLI --user alice pay bob 1 2>/dev/full")
    assert done.returncode == 0
    assert alice.balance().balance == purse - 100
    assert _in_bash(shared.port, "$CLI --user alice pay nobody 1 2>/dev/full").returncode == 1


def test_a_full_pipe_that_does_not_block_is_waited_for(shared: RunningServer) -> None:
    """Every line comes, however late it is read; and the pipe stays as it was."""
    with Client(port=shared.port) as client:
        client.login("alice", PASSWORD)
        client.join(34)
        for number in range(40):
            client.send(34, f"{number} {'x' * 4000}")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb") as seen:
        process = subprocess.Popen(
            [*COMMAND, "--user", "bob", "history", "34", "--limit", "40"],
            cwd=ROOT,
            env=environment(shared.port),
            stdout=writer,
            stderr=subprocess.PIPE,
        )
        # The pipe holds 64 KiB, which is less than there is: nothing is read before it is full.
        wait_until(lambda: not select.select([], [writer], [], 0)[1], "the pipe is full")
        assert not os.get_blocking(writer)
        os.close(writer)
        lines = seen.read().decode().splitlines()
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, b"")
    said = [line for line in lines if ": " in line]
    assert [line.split(": ")[1].split()[0] for line in said] == [str(n) for n in range(40)]


# ---- errors for programs


def test_an_error_in_json(shared: RunningServer) -> None:
    done = run(shared.port, "--user", "carol", "pay", "bob", "9999999", "--json")
    assert (done.code, done.out) == (1, "")
    told = json.loads(done.err)
    assert (told["error"], told["status"]) == ("InsufficientFunds", "ERR_INSUFFICIENT_FUNDS")
    assert (told["exit_code"], told["retry_after_ms"]) == (1, 0)
    assert "too low" in told["message"]


def test_an_unknown_outcome_in_json(shared: RunningServer) -> None:
    with Relay(shared.port, Opcode.TRANSFER) as relay:
        done = run(relay.port, "--user", "alice", "--timeout", "5", "pay", "bob", "1", "--json")
    assert (done.code, done.out) == (3, "")
    told = json.loads(done.err)
    assert (told["error"], told["exit_code"]) == ("CallTimeout", 3)
    assert told["req_id"] > 0
    assert "try again" not in told["message"]


def test_what_could_not_begin_in_json() -> None:
    done = run(1, "--user", "bob", "balance", "--json", TRADECHAT_PASSWORD="")
    assert done.code == 2
    assert json.loads(done.err)["exit_code"] == 2


# ---- a key of the caller's


def test_a_key_is_carried_out_once(
    shared: RunningServer, alice: Client, purse: int, tmp_path: Path
) -> None:
    """By each run the same is told; from a machine that knows nothing of it, too."""
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    pay = ("--user", "alice", "pay", "bob", "1", "--json", "--key", "rent for May")
    first = _one(run(shared.port, *pay, **state))
    assert first == {"txn_id": first["txn_id"], "balance": purse - 100, "recorded": False}
    again = _one(run(shared.port, *pay, **state))
    elsewhere = _one(run(shared.port, *pay, XDG_STATE_HOME=str(tmp_path / "other")))
    assert again == elsewhere == {**first, "recorded": True}
    assert alice.balance().balance == purse - 100
    other = run(shared.port, *pay[:4], "2", "--key", "rent for May", **state)
    assert (other.code, other.out) == (1, "")
    assert "if the --key was used for something else, take another one" in other.err
    assert alice.balance().balance == purse - 100


def test_a_key_after_an_answer_that_was_lost(
    shared: RunningServer, alice: Client, purse: int, tmp_path: Path
) -> None:
    """The run that repeats it makes the payment if the first did not."""
    state = {"XDG_STATE_HOME": str(tmp_path)}
    pay = ("--user", "alice", "--timeout", "5", "pay", "bob", "1", "--key", "rent")
    with Relay(shared.port, Opcode.TRANSFER, cut=True) as relay:
        assert run(relay.port, *pay, **state).code == 3
    assert alice.balance().balance == purse, "the relay has dropped it"
    done = run(shared.port, *pay, **state)
    assert done.code == 0
    assert alice.balance().balance == purse - 100
    assert run(shared.port, *pay, **state).code == 0
    assert alice.balance().balance == purse - 100


def test_a_key_that_the_server_has_forgotten(tmp_path: Path) -> None:
    """It is not carried out anew: this machine knows that it was sent."""
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    pay = ("--user", "ann", "deposit", "1", "--key", "rent")
    with RunningServer(tmp_path / "one") as server:
        register(server, "ann")
        assert run(server.port, *pay, **state).code == 0
        port = server.port
    with RunningServer(tmp_path / "two", "--port", str(port)) as server:
        register(server, "ann")
        done = run(server.port, *pay, **state)
        assert (done.code, done.out) == (3, "")
        assert "does not know any more" in done.err
        assert run(server.port, "--user", "ann", "balance").out == "balance 0.00\n"


def test_a_chat_without_standard_input(shared: RunningServer) -> None:
    program = shlex.join([*COMMAND, "--user", "bob"])
    done = subprocess.run(
        ["bash", "-c", f"{program} <&-"],
        cwd=ROOT,
        env=environment(shared.port),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no standard input" in done.stderr


def test_letters_that_the_output_lacks(shared: RunningServer) -> None:
    run(shared.port, "--user", "alice", "send", "62", "gr\u00fc\u00df")
    done = subprocess.run(
        [*COMMAND, "--user", "alice", "history", "62"],
        cwd=ROOT,
        env=environment(shared.port, PYTHONIOENCODING="ascii"),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert b"alice: gr\\xfc\\xdf" in done.stdout


def test_commands_do_not_load_the_chat() -> None:
    """The editor of input lines takes longer to load than a command takes."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import {make_parser.__module__}, sys; print('prompt_toolkit' in sys.modules)",
        ],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "False\n"
