"""`tradechat-bench cpu`, on real servers, and the floor that it measures beside them."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from bench.compare import programs
from bench.compare.fanout import receive
from bench.cpu import cli
from bench.cpu.floor import COMPILER, Floor, compile_floor
from bench.lab.caller import Caller, CallFailed
from bench.lab.generator import LOADS, Generator
from libproto.codec import REQUEST, RESPONSE
from libproto.messages import Opcode

SMALL = (
    *("--connections=4", "--accounts=20", "--members=5", "--requests=400", "--runs=2"),
    "--seconds=0.1",
)
ACCOUNTS = 4
FUNDS = 10**12


@pytest.fixture
def compiler() -> str:
    try:
        return programs.find(*COMPILER)
    except programs.Missing as error:
        pytest.skip(str(error))


@pytest.fixture
def floor(compiler: str) -> Iterator[Floor]:
    """Two processes, and so few accounts that they are all paid all the time."""
    with Floor(compiler, 2, ACCOUNTS) as made:
        yield made


def test_the_compiler_has_nothing_to_say_about_the_floor(compiler: str, tmp_path: Path) -> None:
    compile_floor(compiler, f"{tmp_path}/floor", "-Wall", "-Wextra", "-Werror")


def opened(floor: Floor, stack: ExitStack) -> Caller:
    return stack.enter_context(closing(Caller("127.0.0.1", floor.port)))


def test_the_floor_keeps_the_money_together(floor: Floor) -> None:
    """Every user is a connection here, and under load all four of them pay one another."""
    load = Generator("127.0.0.1", floor.port, ACCOUNTS, ACCOUNTS, 1, log_in=False)
    with closing(load):
        for opcode in LOADS:
            for pipeline in (1, 16):
                assert load.run(pipeline, 500, opcode=opcode).requests == ACCOUNTS * 500
        with ExitStack() as stack:  # four more connections, so that the users come round again
            found = [opened(floor, stack).call(Opcode.BALANCE) for _ in range(ACCOUNTS)]
    assert sum(balance for balance, _ in found) == ACCOUNTS * FUNDS
    assert any(balance != FUNDS for balance, _ in found)
    assert max(last for _, last in found) == 2 * ACCOUNTS * 500


def test_a_transfer_of_the_floor(floor: Floor) -> None:
    with ExitStack() as stack:
        first = opened(floor, stack)
        assert first.call(Opcode.BALANCE) == (FUNDS, 0)
        assert first.call(Opcode.TRANSFER, 2, 5) == (1, FUNDS - 5)
        assert first.call(Opcode.BALANCE) == (FUNDS - 5, 1)
        assert first.call(Opcode.HEARTBEAT, 7)[0] == 7
        with pytest.raises(CallFailed, match="ERR_INSUFFICIENT_FUNDS"):
            first.call(Opcode.TRANSFER, 2, FUNDS)
        with pytest.raises(CallFailed, match="ERR_NOT_FOUND"):
            first.call(Opcode.TRANSFER, ACCOUNTS + 1, 1)
        assert opened(floor, stack).call(Opcode.BALANCE) == (FUNDS + 5, 1)


@pytest.mark.parametrize("at", [0, 2, 3, 5, 14, 22, 33])
def test_the_floor_looks_at_what_it_is_sent(floor: Floor, at: int) -> None:
    """Each bit counts: a frame with a wrong one ends its connection, and does nothing."""
    with ExitStack() as stack:
        caller = opened(floor, stack)
        frame = bytearray(REQUEST[Opcode.TRANSFER].frame(1, 0, 2, 5))
        frame[at] ^= 1
        caller.sock.sendall(frame)
        assert caller.sock.recv(1) == b""
        for _ in range(ACCOUNTS - 1):
            assert opened(floor, stack).call(Opcode.BALANCE) == (FUNDS, 0)


def test_frames_in_pieces(floor: Floor) -> None:
    with ExitStack() as stack:
        caller = opened(floor, stack)
        frames = b"".join(REQUEST[Opcode.TRANSFER].frame(n, 0, 2, 1) for n in range(1, 4))
        for at in range(0, len(frames), 7):
            caller.sock.sendall(frames[at : at + 7])
        caller.req_id = 3
        answer = RESPONSE[Opcode.TRANSFER].frame(1, 0, 1, 1)
        assert len(receive(caller.sock, 3 * len(answer))) == 3 * len(answer)
        assert caller.call(Opcode.BALANCE) == (FUNDS - 3, 3)


def test_every_server_is_measured_under_every_load(
    compiler: str,  # noqa: ARG001 - skip where there is none
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*SMALL, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [(row["operation"], row["pipeline"], row["server"]) for row in told]
    one_run = [
        *((opcode.name, server) for opcode in LOADS for server in ("none", "sync", cli.FLOOR)),
        *((cli.DELIVERY, server) for server in ("none", "sync")),
    ]
    wanted = [(operation, pipeline, of) for pipeline in (1, 16) for operation, of in one_run]
    assert found == 2 * wanted
    for row in told:
        assert row["requests"] > 0
        assert row["requests_per_s"] > 0
        assert row["server_us"] >= 0


def test_without_a_compiler_the_floor_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "PLACES", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    words = [*SMALL, "--operation", "HEARTBEAT", "--durability", "none", "--pipeline=4"]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert "apt-get install gcc; the floor is left out" in told.err
    assert [line.split()[:3] for line in told.out.splitlines()[3:]] == [["HEARTBEAT", "none", "4"]]


def row(server: str, server_us: float, operation: str = "TRANSFER") -> cli.Row:
    names = ("operation", "server", "pipeline", "requests_per_s", "server_us", "client_us")
    return dict(zip(names, (operation, server, 1, 20000, server_us, 3), strict=True))


def test_multiples_of_the_floor_are_of_the_same_run() -> None:
    rows = [row("none", 10), row("floor", 5), row("none", 40), row("floor", 8), row("none", 9)]
    rows += [row("floor", 9), row("none", 7, cli.DELIVERY)]
    head, ours, floor, delivery = cli.table(rows).splitlines()
    assert head.endswith("server_us / floor")
    assert ours.split()[:4] == ["TRANSFER", "none", "1", "3"]
    assert "10 (9 to 40)" in ours
    assert ours.endswith("  2 (1 to 5)")
    assert floor.endswith("  1")
    assert delivery.endswith("  3")


@pytest.mark.parametrize(
    "word",
    ["--accounts=50", "--runs=0", "--seconds=0", "--seconds=nan", "--operation=LOGIN"],
)
def test_wrong_usage(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main([word])
    assert raised.value.code == 2
    assert capsys.readouterr().err
