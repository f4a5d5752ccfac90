"""The settings table and all that is made from it: sources, bounds, rules, texts."""

import dataclasses
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import liblog
from libproto.form import FORM
from libproto.messages import MAX_BALANCE, MIN_ITERATIONS
from libproto.scram import NEW_ITERATIONS
from server.config import (
    PROGRAM,
    RULES,
    SETTINGS,
    WORKERS_MAX,
    Action,
    ConfigError,
    Setting,
    Settings,
    effective,
    is_loopback,
    load,
)
from server.config.cores import cores_available

SOURCES = ("flag", "environment", "file")
BY_NAME = {row.name: row for row in SETTINGS}
NUMBERS = [row for row in SETTINGS if row.kind in (int, float)]
TEXTS = [row for row in SETTINGS if row.kind in (str, Path)]


def name_of(row: Setting) -> str:
    return row.name


def toml(value: object) -> str:
    """Write a value of these tests as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else f'"{value}"'


class Given:
    """Flags, environment and file, put together for one call of `load`."""

    def __init__(self, folder: Path) -> None:
        self.argv: list[str] = []
        self.environ: dict[str, str] = {}
        self.path = folder / "settings.toml"

    def put(self, source: str, row: Setting, value: object) -> str:
        """Give `row` a value by one source, and return how a message names that source."""
        if source == "flag":
            self.argv.append(f"{row.flag}={value}")
            return f"(flag {row.flag})"
        if source == "environment":
            self.environ[row.variable] = str(value)
            return f"(environment {row.variable})"
        self.write(f"{row.name} = {toml(value)}\n")
        return f"(file {self.path})"

    def write(self, text: str) -> None:
        if "--config" not in self.argv:
            self.argv += ["--config", str(self.path)]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def settings(self) -> Settings:
        return load(self.argv, self.environ).settings

    def refusal(self) -> str:
        with pytest.raises(ConfigError) as caught:
            load(self.argv, self.environ)
        return str(caught.value)


@pytest.fixture
def given_(tmp_path: Path) -> Given:
    return Given(tmp_path)


# The table


def test_names_and_defaults_are_as_agreed() -> None:
    assert dataclasses.asdict(load([], {}).settings) == {
        "host": "127.0.0.1",
        "port": 7878,
        "admin_host": "127.0.0.1",
        "admin_port": 7879,
        "run_as": "",
        "workers": min(cores_available(), WORKERS_MAX),
        "max_workers": 0,
        "balance": "on",
        "data": Path("./data"),
        "name": "",
        "durability": "sync",
        "flush_interval": 0.01,
        "segment_size": 16,
        "snapshot_size": 64,
        "snapshot_interval": 300.0,
        "history_size": 1024,
        "history_days": 0.0,
        "room_history": 1000,
        "inbox_history": 1000,
        "archive_lag_max": 256,
        "accounts": 4096,
        "rooms": 256,
        "numbered_rooms": 64,
        "room_retention": 2_592_000.0,
        "room_roles": 8192,
        "offers": 4096,
        "board_entries": 256,
        "blocks": 8192,
        "max_connections": 4096,
        "address_connections": 0,
        "unauthenticated_connections": 0,
        "registration": "open",
        "require_encryption": "off",
        "clients": 4096,
        "client_retention": 86400.0,
        "client_grace": 600.0,
        "worker_timeout": 10.0,
        "drain_timeout": 30.0,
        "sessions": 8192,
        "txn_ring": 65536,
        "event_ring": 2048,
        "login_failures": 10,
        "max_balance": MAX_BALANCE,
        "deposits": "open",
        "min_transfer": 1,
        "max_transfer": MAX_BALANCE,
        "max_message": 4096,
        "account_locks": 0,
        "scram_iterations": NEW_ITERATIONS,
        "heartbeat": 15,
        "idle_timeout": 60,
        "handshake_timeout": 10.0,
        "graceful_timeout": 10.0,
        "rate_limit": 0,
        "user_rate": 0,
        "address_rate": 0,
        "unauthenticated_rate": 50,
        "chat_rate": 0,
        "payment_rate": 0,
        "registrations": 0,
        "address_registrations": 0,
        "user_writes": 0,
        "user_sessions": 0,
        "session_rooms": 0,
        "user_clients": 256,
        "lag_limit": 0.05,
        "queue_limit": 20_000,
        "shed": "ledger",
        "stats_interval": 5.0,
        "log_level": "info",
        "log_format": "auto",
        "max_file": 16,
        "files_max_bytes": 1073741824,
        "files_user_bytes": 268435456,
        "file_retention": 30,
        "segments": 16,
        "segment_timeout": 5.0,
        "link_hosts": "",
        "link_ttl": 300.0,
        "file_cache_mb": 16,
        "log_file": None,
        "audit_file": None,
    }


def test_bounds_that_the_wire_sets() -> None:
    assert BY_NAME["max_message"].spec.maximum == 32768
    assert BY_NAME["scram_iterations"].spec.minimum == MIN_ITERATIONS
    for name in ("heartbeat", "idle_timeout"):
        assert (BY_NAME[name].kind, BY_NAME[name].spec.maximum) == (int, 65535)
    assert BY_NAME["log_level"].spec.choices == liblog.LEVELS
    assert BY_NAME["log_format"].spec.choices == liblog.FORMATS


@pytest.mark.parametrize("row", NUMBERS, ids=name_of)
def test_every_number_is_bounded_and_sizes_have_units(row: Setting) -> None:
    assert 0 < row.spec.minimum < row.spec.maximum < math.inf
    assert row.spec.unit or row.name in ("port", "admin_port")


# Sources


def a_value(row: Setting, n: int) -> Any:
    """The n-th of some valid values other than the default, none of which breaks a rule."""
    if row.spec.choices:
        return row.spec.choices[n % len(row.spec.choices)]
    if row.name == "host":
        return f"127.0.0.{n + 2}"
    if row.kind is str:
        return f"name-{n}"
    if row.kind is Path:
        return Path(f"folder {n}")
    if row.spec.power_of_two:
        return int(row.spec.minimum) << n
    least = {"idle_timeout": 20, "sessions": 9000, "max_workers": WORKERS_MAX - 4}
    value = row.spec.minimum + n + least.get(row.name, 0)
    return int(value) if row.kind is int else float(value)


@pytest.mark.parametrize("row", SETTINGS, ids=name_of)
def test_first_of_flag_environment_file_default_is_taken(row: Setting, given_: Given) -> None:
    default = getattr(given_.settings(), row.name)
    assert load([], {}).sources[row.name].kind == "default"
    for n, source in enumerate(reversed(SOURCES)):
        value = a_value(row, n)
        given_.put(source, row, value)
        loaded = load(given_.argv, given_.environ)
        got = getattr(loaded.settings, row.name)
        assert (got, type(got)) == (value, type(value))
        assert loaded.sources[row.name].kind == source
        others = {name: kind for name, (kind, _) in loaded.sources.items() if name != row.name}
        assert set(others.values()) == {"default"}
    assert default == getattr(load([], {}).settings, row.name)


@pytest.mark.parametrize("row", SETTINGS, ids=name_of)
def test_all_sources_agree_on_what_a_value_means(row: Setting, tmp_path: Path) -> None:
    value = a_value(row, 1)
    seen = []
    for source in SOURCES:
        (folder := tmp_path / source).mkdir()
        given = Given(folder)
        given.put(source, row, value)
        seen.append(getattr(given.settings(), row.name))
    assert seen == [value] * len(SOURCES)


def test_file_may_be_named_by_the_environment_and_the_flag_goes_before(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text("rooms = 1\n")
    two.write_text("rooms = 2\n")
    environ = {"TRADECHAT_CONFIG": str(one)}
    assert load([], environ).settings.rooms == 1
    assert load(["--config", str(two)], environ).settings.rooms == 2


def test_keys_of_the_file_take_either_form_but_not_both(given_: Given) -> None:
    given_.write("max-message = 100\n")
    assert given_.settings().max_message == 100
    given_.write("max_message = 200\n")
    assert "max_message is given twice" in given_.refusal()


def test_whole_numbers_do_for_numbers_in_every_source(given_: Given) -> None:
    given_.put("file", BY_NAME["handshake_timeout"], 3)
    given_.put("environment", BY_NAME["graceful_timeout"], 4)
    given_.put("flag", BY_NAME["stats_interval"], 0)
    settings = given_.settings()
    times = (settings.handshake_timeout, settings.graceful_timeout, settings.stats_interval)
    assert times == (3.0, 4.0, 0.0)
    assert {type(time) for time in times} == {float}


def test_variables_of_other_programs_are_none_of_ours() -> None:
    assert load([], {"TRADECHAT_PASSWORD": "x", "PORT": "1"}) == load([], {})


@pytest.mark.parametrize("row", SETTINGS, ids=name_of)
def test_an_empty_variable_is_passed_over(row: Setting, given_: Given) -> None:
    """The next source is taken, and it is said."""
    value = a_value(row, 1)
    given_.put("file", row, value)
    given_.put("environment", row, "")
    loaded = load(given_.argv, given_.environ)
    assert getattr(loaded.settings, row.name) == value
    assert [(each.variable, each.reason) for each in loaded.passed_over] == [
        (row.variable, "it is empty")
    ]


def test_an_empty_name_of_the_file_is_passed_over() -> None:
    loaded = load([], {"TRADECHAT_CONFIG": ""})
    assert [each.variable for each in loaded.passed_over] == ["TRADECHAT_CONFIG"]


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("TRADECHAT_PROT", "TRADECHAT_PORT"),
        ("TRADECHAT_MAX-MESSAGE", "TRADECHAT_MAX_MESSAGE"),
        ("tradechat_workers", "TRADECHAT_WORKERS"),
        ("TRADECHAT_CONFG", "TRADECHAT_CONFIG"),
    ],
)
def test_a_misspelt_variable_is_warned_of_with_the_nearest(variable: str, nearest: str) -> None:
    loaded = load([], {variable: "5", "TRADECHAT_ROOMS": "7"})
    assert loaded.settings == load(["--rooms=7"], {}).settings
    (warned,) = loaded.passed_over
    assert (warned.variable, warned.advice) == (variable, f"did you mean {nearest}?")


# Bounds


def refused(row: Setting) -> list[object]:
    """Values of a setting's type that are out of its bounds."""
    spec = row.spec
    step = 1 if row.kind is int else 0.01
    values: list[object] = [row.kind(spec.minimum - step) if row.kind is float else None]
    if row.kind is int:
        values = [int(spec.minimum) - 1, int(spec.maximum) + 1, 2**64, -1]
        values += [int(spec.minimum) + 1] if spec.power_of_two else []
    if row.kind is float:
        values = [spec.minimum - step, spec.maximum + step, -1.0, math.inf, -math.inf, math.nan]
    return [value for value in values if not (spec.zero and value == 0)]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("row", NUMBERS, ids=name_of)
def test_number_out_of_its_bounds_is_refused(row: Setting, source: str, tmp_path: Path) -> None:
    for n, value in enumerate(refused(row)):
        (folder := tmp_path / str(n)).mkdir()
        given = Given(folder)
        origin = given.put(source, row, value)
        assert given.refusal() == f"{row.name} is {value!r} {origin}: it must be {row.allowed}"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("row", NUMBERS, ids=name_of)
def test_bounds_themselves_are_allowed(row: Setting, source: str, tmp_path: Path) -> None:
    values = [row.spec.minimum, row.spec.maximum, *([0] if row.spec.zero else [])]
    for n, value in enumerate(values):
        (folder := tmp_path / str(n)).mkdir()
        given = Given(folder)
        given.put(source, row, value)
        # What a rule between settings wants with this value, by another source.
        for rule in RULES:
            for name in rule.names:
                if row.name in rule.names and name != row.name:
                    other = BY_NAME[name].spec
                    wants_low = name in (
                        "heartbeat", "max_connections", "workers", "account_locks", "min_transfer",
                    )  # fmt: skip
                    limit = int(other.minimum if wants_low else other.maximum)
                    given.argv.append(f"{BY_NAME[name].flag}={limit}")
        if (row.name, value) in {("heartbeat", 65535), ("idle_timeout", 1)}:
            assert "heartbeat must be less than idle_timeout" in given.refusal()
        else:
            assert getattr(given.settings(), row.name) == value


def given_texts(*texts: str) -> list[tuple[str, str]]:
    """Each text from each source; an empty variable of the environment is passed over."""
    return [(source, text) for source in SOURCES for text in texts if text or source != SOURCES[1]]


@pytest.mark.parametrize(
    ("source", "text"), given_texts("", "ten", "1.5.2", "0x10", "10s", "ten" * 5000)
)
@pytest.mark.parametrize("row", NUMBERS, ids=name_of)
def test_text_that_is_no_number_is_refused(
    row: Setting, source: str, text: str, given_: Given
) -> None:
    origin = given_.put(source, row, text)
    refusal = given_.refusal()
    assert refusal.startswith(f"{row.name} is '{text[:70]}")
    assert refusal.endswith(f"{origin}: it must be {row.allowed}")
    assert len(refusal) < 400


def test_number_too_long_for_python_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^rooms is '9{79}\.\.\. \(flag --rooms\): it must be"):
        load(["--rooms", "9" * 5000], {})


@pytest.mark.parametrize(
    ("row", "written"),
    [
        (row, written)
        for written, fitting in (
            ("true", ()),
            ("[1]", ()),
            ("{a = 1}", ()),
            ("1979-05-27", ()),
            ("7", (int, float)),
            ("7.5", (float,)),
            ("'7'", (str, Path)),
            ("9" * 400, ()),
            ("0x" + "f" * 9999, ()),
        )
        for row in SETTINGS
        if row.kind not in fitting
    ],
    ids=lambda value: value.name if isinstance(value, Setting) else value[:10],
)
def test_wrong_type_in_the_file_is_refused(row: Setting, written: str, given_: Given) -> None:
    given_.write(f"{row.name} = {written}\n")
    assert re.fullmatch(rf"{row.name} is .* \(file .*\): it must be .*", given_.refusal())


@pytest.mark.parametrize(("source", "value"), given_texts("", "loud", "OPEN", "Info"))
@pytest.mark.parametrize("row", [row for row in SETTINGS if row.spec.choices], ids=name_of)
def test_only_listed_choices_are_allowed(
    row: Setting, source: str, value: str, given_: Given
) -> None:
    origin = given_.put(source, row, value)
    choices = ", ".join(row.spec.choices)
    assert given_.refusal() == f"{row.name} is {value!r} {origin}: it must be one of {choices}"


@pytest.mark.parametrize(
    ("name", "source", "value"),
    [
        (name, source, value)
        for name, values in (
            ("host", ("", "a b")),
            ("name", (".", "-x", "a/b", "é", "x" * 65)),
            ("data", ("",)),
        )
        for source, value in given_texts(*values)
    ],
)
def test_unfit_text_is_refused(source: str, name: str, value: str, given_: Given) -> None:
    origin = given_.put(source, BY_NAME[name], value)
    allowed = BY_NAME[name].allowed
    assert given_.refusal() == f"{name} is {value!r} {origin}: it must be {allowed}"


@pytest.mark.parametrize("row", TEXTS, ids=name_of)
@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "a\x1bb", "a\udc80b"])
def test_unprintable_text_is_refused_and_shown_harmlessly(
    row: Setting, value: str, given_: Given
) -> None:
    origin = given_.put("environment", row, value)
    assert given_.refusal() == f"{row.name} is {value!r} {origin}: it must be {row.allowed}"


def test_every_problem_is_said_at_once(given_: Given) -> None:
    given_.write("prot = 1\n")
    given_.put("file", BY_NAME["rooms"], 0)
    given_.put("flag", BY_NAME["port"], 70000)
    given_.put("environment", BY_NAME["log_level"], "loud")
    problems = given_.refusal().splitlines()
    assert [problem.split()[0] for problem in problems] == ["unknown", "port", "rooms", "log_level"]


# Rules between settings


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--idle-timeout=15"],
            (
                "heartbeat is 15 (default) and idle_timeout is 15 (flag --idle-timeout): heartbeat"
                " must be less than idle_timeout"
            ),
        ),
        (
            ["--max-connections=8193"],
            (
                "sessions is 8192 (default) and max_connections is 8193 (flag --max-connections):"
                " sessions must not be less than max_connections"
            ),
        ),
        (
            ["--accounts=10", "--account-locks=11"],
            (
                "account_locks is 11 (flag --account-locks) and accounts is 10 (flag --accounts):"
                " account_locks must not be more than accounts"
            ),
        ),
    ],
)
def test_rules_name_both_settings_and_where_they_came_from(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(argv, {})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "argv",
    [
        ["--idle-timeout=16"],
        ["--max-connections=8192"],
        ["--accounts=10", "--account-locks=10"],
        ["--accounts=10", "--account-locks=0"],
    ],
)
def test_rules_allow_their_limits(argv: list[str]) -> None:
    load(argv, {})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - the case
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example.org", False),
        ("chat.example.org", False),
    ],
)
def test_registration_is_open_by_default_on_loopback_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    loaded = load(["--host", host], {})
    assert loaded.settings.registration == ("open" if loopback else "closed")
    assert loaded.sources["registration"].kind == "default"
    assert loaded.settings.require_encryption == ("off" if loopback else "on")
    for chosen in ("on", "off"):
        given = load(["--host", host, "--require-encryption", chosen], {}).settings
        assert given.require_encryption == chosen
    assert loaded.settings.deposits == ("open" if loopback else "tellers")
    assert loaded.sources["deposits"].kind == "default"
    for chosen in ("open", "closed"):
        assert load(["--host", host, "--registration", chosen], {}).settings.registration == chosen


def test_name_follows_the_port_unless_it_is_given() -> None:
    assert load(["--port=0"], {}).settings.name_on(40001) == "tradechat-40001"
    assert load(["--name=shop"], {}).settings.name_on(40001) == "shop"


# Settings made without a command line


def test_settings_are_checked_however_they_are_made() -> None:
    settings = Settings(host="::", port=0, workers=2)
    assert (settings.registration, settings.rooms) == ("closed", 256)
    assert dataclasses.replace(settings, rooms=2).rooms == 2
    with pytest.raises(ConfigError, match=r"^rooms is 0: it must be a whole number from 1 to"):
        dataclasses.replace(settings, rooms=0)
    with pytest.raises(ConfigError, match=r"^rooms is 1.0: it must be"):
        Settings(rooms=1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^heartbeat is 60 and idle_timeout is 60: heartbeat"):
        Settings(heartbeat=60)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]


# The file


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("prot", "port"),
        ("max-mesage", "max_message"),
        ("worker", "workers"),
        ("Rooms", "rooms"),
        ("config", None),
        ("check-config", None),
        ('"ünknown\\n"', None),
    ],
)
def test_unknown_key_is_refused_with_the_nearest(
    key: str, nearest: str | None, given_: Given
) -> None:
    given_.write(f"{key} = 1\n")
    found = re.fullmatch(r"unknown key '.+' in '(.+)': did you mean (\w+)\?", given_.refusal())
    assert found
    assert found[1] == str(given_.path)
    assert found[2] in BY_NAME
    assert nearest in (None, found[2])


def test_section_in_the_file_is_an_unknown_key(given_: Given) -> None:
    given_.write("[server]\nport = 1\n")
    assert "unknown key 'server'" in given_.refusal()


@pytest.mark.parametrize(
    "content", [b"port = \n", b"port 7878\n", b"port = 1\nport = 2\n", b"\xff\xfe", b"a = [" * 9]
)
@pytest.mark.parametrize("source", ["flag", "environment"])
def test_malformed_file_is_refused(content: bytes, source: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    argv = ["--config", str(path)] if source == "flag" else []
    environ = {"TRADECHAT_CONFIG": str(path)} if source == "environment" else {}
    origin = {"flag": "flag --config", "environment": "environment TRADECHAT_CONFIG"}[source]
    with pytest.raises(ConfigError) as caught:
        load(argv, environ)
    start = f"the configuration file {str(path)!r} ({origin}) is not valid TOML: "
    assert str(caught.value).startswith(start)


@pytest.mark.parametrize(
    ("name", "reason"), [("missing.toml", "No such file"), ("", "Is a directory")]
)
def test_unreadable_file_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    with pytest.raises(ConfigError, match=reason) as caught:
        load(["--config", path], {})
    assert str(caught.value).startswith(f"cannot read the configuration file {path!r} (flag")


# What else the command line can ask for


def test_actions() -> None:
    assert load([], {}).action is Action.RUN
    assert load(["--check-config"], {}).action is Action.CHECK_CONFIG
    assert load(["--print-config"], {}).action is Action.PRINT_CONFIG


@pytest.mark.parametrize(
    "argv", [["--prot=1"], ["--max-conn=1"], ["serve"], ["--check-config", "--print-config"]]
)
def test_unknown_flags_end_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(argv, {})
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"usage: {PROGRAM}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(["--version"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"tradechat-server 0.1.0 ({FORM.name})\n"


def test_help_shows_groups_defaults_and_variables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(["--help"], {})
    assert caught.value.code == 0
    text = "".join(capsys.readouterr().out.split())
    for row in SETTINGS:
        assert f"{row.spec.group}:".replace(" ", "") in text
        assert f"default:{row.default};{row.variable})".replace(" ", "") in text
    for flag in ("--config", "--check-config", "--print-config", "--version"):
        assert flag in text


# The settings in force, printed


def test_printed_settings_tell_where_each_came_from(given_: Given) -> None:
    given_.put("file", BY_NAME["rooms"], 3)
    given_.put("environment", BY_NAME["log_file"], "a b.log")
    given_.put("flag", BY_NAME["port"], 0)
    given_.put("flag", BY_NAME["heartbeat"], 7)
    lines = effective(load(given_.argv, given_.environ)).splitlines()
    assert f"rooms = 3  # file {given_.path}" in lines
    assert 'log_file = "a b.log"  # environment TRADECHAT_LOG_FILE' in lines
    assert "port = 0  # flag --port" in lines
    assert 'host = "127.0.0.1"  # default' in lines
    assert 'name = ""  # default: tradechat-PORT' in lines
    assert "heartbeat = 7  # flag --heartbeat; SIGHUP changes it" in lines


def valid(row: Setting) -> st.SearchStrategy[Any]:
    spec = row.spec
    if spec.choices:
        return st.sampled_from(spec.choices)
    if spec.pattern:
        printed = st.characters(exclude_categories=("C", "Z"))
        return st.from_regex(spec.pattern, fullmatch=True, alphabet=printed).filter(row.accepts)
    if row.kind is Path:
        printable = st.text(min_size=1).filter(str.isprintable).map(Path)
        return st.none() | printable if row.optional else printable
    if spec.power_of_two:
        low, high = int(spec.minimum).bit_length() - 1, int(spec.maximum).bit_length() - 1
        return st.integers(low, high).map(lambda bits: 1 << bits)
    inside: st.SearchStrategy[Any] = (
        st.integers(int(spec.minimum), int(spec.maximum))
        if row.kind is int
        else st.floats(spec.minimum, spec.maximum)
    )
    return st.just(0) | inside if spec.zero else inside


@st.composite
def valid_settings(draw: st.DrawFn) -> Settings:
    values = {row.name: draw(valid(row)) for row in SETTINGS}
    values["heartbeat"] = min(values["heartbeat"], 65534)
    values["idle_timeout"] = max(values["idle_timeout"], values["heartbeat"] + 1)
    values["sessions"] = max(values["sessions"], values["max_connections"])
    values["account_locks"] = min(values["account_locks"], values["accounts"])
    values["max_transfer"] = max(values["max_transfer"], values["min_transfer"])
    values["workers"] = min(values["workers"], values["max_workers"] or WORKERS_MAX)
    return Settings(**values)


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=25,  # of all settings at once
)
@given(settings=valid_settings())
def test_printed_settings_load_back(settings: Settings, tmp_path: Path) -> None:
    environ = {
        row.variable: str(value) if (value := getattr(settings, row.name)) is not None else ""
        for row in SETTINGS
    }
    loaded = load([], environ)
    assert loaded.settings == settings
    path = tmp_path / "printed.toml"
    path.write_text(effective(loaded), encoding="utf-8")
    again = load(["--config", str(path)], {})
    assert again.settings == settings
    assert {source.kind for source in again.sources.values()} == {"file"}


def test_printed_settings_load_back_from_a_file_with_an_odd_name(tmp_path: Path) -> None:
    path = tmp_path / "odd\nport = 1 #.toml"
    path.write_text("rooms = 3\n")
    printed = effective(load(["--config", str(path)], {}))
    assert tomllib.loads(printed)["port"] == 7878
