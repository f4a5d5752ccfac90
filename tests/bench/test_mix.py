"""Mixes and payees: what is chosen is what was asked for."""

import random
from collections import Counter
from pathlib import Path

import pytest

from bench.stress.mix import NAMES, RATIO, Choice, Payees, mix_of
from bench.stress.options import PORT, parse
from libproto.messages import Opcode
from server.config.settings import Settings

DRAWS = 20_000


@pytest.mark.parametrize(
    ("name", "ratio", "shares"),
    [
        ("chat-heavy", RATIO, {"CHAT_SEND": 0.8, "HEARTBEAT": 0.2}),
        (
            "trade-heavy",
            "1:1:2:0",
            {"TRANSFER": 0.25, "WITHDRAW": 0.25, "DEPOSIT": 0.5},
        ),
        (
            "mixed",
            "7:1:1:1",
            {
                "CHAT_SEND": 0.4,
                "HEARTBEAT": 0.1,
                "TRANSFER": 0.35,
                "WITHDRAW": 0.05,
                "DEPOSIT": 0.05,
                "BALANCE": 0.05,
            },
        ),
        (
            "board",
            RATIO,
            {
                "BOARD_TAKE": 0.5,
                "BOARD_ADD": 0.3,
                "BOARD_LIST": 0.1,
                "BOARD_REMOVE": 0.05,
                "DEPOSIT": 0.05,
            },
        ),
    ],
)
def test_a_named_mix(name: str, ratio: str, shares: dict[str, float]) -> None:
    found = {opcode.name: share for opcode, share in mix_of(name, ratio).items()}
    assert found == pytest.approx(shares)


@pytest.mark.parametrize("name", NAMES)
def test_choices_have_the_shares_of_the_mix(name: str) -> None:
    mix = mix_of(name, RATIO)
    choice, rng = Choice(mix), random.Random(1)  # noqa: S311 - to be repeated
    drawn = Counter(choice.pick(rng) for _ in range(DRAWS))
    assert drawn.keys() == mix.keys()
    for opcode, share in mix.items():
        assert drawn[opcode] / DRAWS == pytest.approx(share, abs=0.02)


def test_a_mix_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mix.toml"
    file.write_text("BALANCE = 3\nTRANSFER = 1.0\nDEPOSIT = 0\n")
    assert mix_of(str(file), RATIO) == {Opcode.BALANCE: 0.75, Opcode.TRANSFER: 0.25}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LOGIN = 1", "LOGIN is none of"),
        ("BALANCE = 'x'", "not a number"),
        ("BALANCE = -1", "0 or more"),
        ("BALANCE = 0", "not all 0"),
        ("BALANCE = nan\nTRANSFER = 1", "must be numbers"),
        ("BALANCE = inf", "must be numbers"),
        (f"BALANCE = 1{'0' * 400}", "too large"),
        ("", "nothing in it"),
        ("BALANCE", "Expected '='"),
    ],
)
def test_a_file_that_is_no_mix(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mix.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        mix_of(str(file), RATIO)


@pytest.mark.parametrize(
    "ratio",
    ["1:2:3", "a:1:1:1", "0:0:0:0", "-1:1:1:1", "nan:1:1:1", "1:1:inf:1", "1e308:1e308:1:1"],
)
def test_a_ratio_that_is_none(ratio: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        mix_of("mixed", ratio)


def paid(payees: Payees, payer: int = 0) -> Counter[int]:
    rng = random.Random(1)  # noqa: S311 - to be repeated
    return Counter(payees.pick(rng, payer) for _ in range(DRAWS))


def test_nobody_pays_themselves() -> None:
    for payees in (Payees(5, 0, 0.0), Payees(5, 0, 1.2), Payees(5, 1, 0.0), Payees(2, 1, 2.0)):
        for payer in range(2):
            assert payer not in paid(payees, payer)


def test_uniform_payees() -> None:
    found = paid(Payees(10, 0, 0.0), payer=99)
    assert sorted(found) == list(range(10))
    assert max(found.values()) < 1.2 * min(found.values())


@pytest.mark.parametrize("zipf", [1.2, 2.0])
def test_payees_by_zipf(zipf: float) -> None:
    found = paid(Payees(100, 0, zipf), payer=999)
    assert found[0] / found[1] == pytest.approx(2**zipf, rel=0.15)
    assert found[0] / found[2] == pytest.approx(3**zipf, rel=0.15)


def test_hot_payees() -> None:
    assert set(paid(Payees(100, 3, 0.0), payer=50)) == {0, 1, 2}
    assert set(paid(Payees(100, 1, 0.0), payer=50)) == {0}


# ---- options


def test_the_defaults() -> None:
    options = parse([])
    assert options.connections >= 100
    assert (options.pipeline, options.is_open, options.is_own) == (1, False, True)
    assert options.rooms * options.fanout >= options.connections
    assert parse(["--rate", "100"]).pipeline == 64


def test_rooms_follow_from_the_fanout_and_the_other_way_round() -> None:
    assert parse(["--fanout", "30"]).rooms == 4
    assert parse(["--rooms", "3"]).fanout == 34


def test_what_is_not_said_agrees_with_what_is() -> None:
    one = parse(["--connections=1"])
    assert (one.threads, one.processes, one.rooms, one.fanout) == (1, 1, 1, 1)
    assert parse(["--threads=1"]).processes == 1
    assert parse(["--processes=12"]).threads == 12
    assert parse(["--fanout=200"]).connections == 200
    assert parse(["--rooms=2", "--fanout=3"]).connections == 6
    assert parse(["--hot-accounts=2000"]).accounts == 2000


def test_a_server_is_named_by_its_host_or_its_port() -> None:
    """The port that a server has by default, and never a server of our own under another name."""
    away = parse(["--host=203.0.113.9"])
    assert (away.host, away.port, away.is_own) == ("203.0.113.9", PORT, False)
    here = parse(["--port=1"])
    assert (here.host, here.port, here.is_own) == ("127.0.0.1", 1, False)
    assert Settings().port == PORT


def test_options_survive_the_way_to_a_process() -> None:
    options = parse(["--mix", "trade-heavy", "--server-flag=--account-locks=1"])
    assert type(options).from_object(options.as_object()) == options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threads=4", "--processes=5"], "not be less than --processes"),
        (["--threads=4", "--connections=3"], "nor more than --connections"),
        (["--fanout=200", "--connections=100"], "--fanout must not be more"),
        (["--rooms=2", "--fanout=3", "--connections=7"], "all are in a room"),
        (["--accounts=1000", "--hot-accounts=2000"], "--hot-accounts"),
        (["--pid=1"], "name that too"),
        (["--port=1", "--kill-every=1"], "needs --pid"),
        (["--port=1", "--server-flag=x"], "our own server"),
        (["--mix=nothing"], "no file"),
        (["--ratio=1"], "four numbers"),
        (["--payload=31"], "from 32 to 4096"),
        (["--payload=4097"], "from 32 to 4096"),
        (["--pipeline=65"], "from 1 to 64"),
        (["--duration=0"], "from 0.001"),
        (["--rate=nan"], "nan"),
        (["--runs=x"], "invalid number"),
        (["--unknown"], "unrecognized"),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
