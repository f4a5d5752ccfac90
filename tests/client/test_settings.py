"""The settings of the chat: their file, their words, and what is kept of them."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.chat.memory import Memory
from client.chat.settings import BY_NAME, SETTINGS, SettingError, Settings, config_file


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_default_is_read_as_it_is_shown(tmp_path: Path, setting: object) -> None:
    name = getattr(setting, "name", "")
    settings = Settings(tmp_path / "config.toml")
    _, _, text = settings.line(name).partition(" ")
    settings.set(name, text)
    assert settings[name] == BY_NAME[name].default
    again = Settings(tmp_path / "config.toml")
    assert again.load() == []
    assert again[name] == BY_NAME[name].default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("notify", "bell", "bell"),
        ("highlight", "lunch, beer", ("lunch", "beer")),
        ("ignore", "bob", ("bob",)),
        ("joins", "off", False),
        ("joins", "TRUE", True),
        ("confirm_over", "12.50", 1250),
        ("confirm_over", "0", 0),
        ("paste_lines", "7", 7),
        ("log", "~/chat logs", "~/chat logs"),
    ],
)
def test_values(tmp_path: Path, name: str, text: str, value: object) -> None:
    path = tmp_path / "sub" / "config.toml"
    Settings(path).set(name, text)
    again = Settings(path)
    assert again.load() == []
    assert again[name] == value


@pytest.mark.parametrize(("name", "text"), [("highlight", "tea"), ("ignore", "bob"), ("log", "x")])
def test_what_may_be_empty_is_emptied_again(tmp_path: Path, name: str, text: str) -> None:
    settings = Settings(tmp_path / "config.toml")
    settings.set(name, text)
    settings.set(name, '""')
    assert settings.line(name) == f'{name} ""'
    again = Settings(tmp_path / "config.toml")
    assert again.load() == []
    assert again[name] == BY_NAME[name].default


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nofity", "bell", "there is no setting nofity: did you mean notify?"),
        ("zzz", "1", "there is no setting zzz: /set lists them"),
        ("notify", "loud", "'loud' is none of none, bell, desktop"),
        ("joins", "perhaps", "'perhaps' is neither on nor off"),
        ("paste_lines", "0", "'0' is no whole number from 1 to 1000"),
        ("backlog", "-1", "'-1' is no whole number from 0 to 1000"),
        ("backlog", "many", "'many' is no whole number from 0 to 1000"),
        ("confirm_over", "-1", "'-1' is"),
        ("ignore", "b@b", "'b@b' is"),
    ],
)
def test_what_cannot_be_set(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(SettingError) as refused:
        Settings(path).set(name, text)
    assert said in str(refused.value)
    assert not path.exists()


def test_what_a_file_has_that_cannot_be_used(tmp_path: Path) -> None:
    """It is told, and the rest holds."""
    path = tmp_path / "config.toml"
    path.write_text('nofity = "bell"\njoins = "perhaps"\nbacklog = 5\nhost = "example.org"\n')
    settings = Settings(path)
    problems = settings.load()
    assert len(problems) == 2
    assert "did you mean notify?" in problems[0]
    assert "joins: 'perhaps' is neither on nor off" in problems[1]
    assert settings["backlog"] == 5
    path.write_text("joins = \n")
    assert "is not valid TOML" in Settings(path).load()[0]


def test_what_is_written_around_a_setting_stays(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# mine\n\njoins = true # why\n[other]\njoins = 1\n")
    settings = Settings(path)
    settings.set("joins", "off")
    settings.set("backlog", "7")
    assert path.read_text() == ("# mine\n\njoins = false\nbacklog = 7\n[other]\njoins = 1\n")
    path.write_text("highlight = [\n  'beer',\n]\n")
    with pytest.raises(SettingError, match="you must change it there"):
        settings.set("highlight", "wine")
    assert settings["highlight"] == ("wine",), "it holds now"
    assert path.read_text() == "highlight = [\n  'beer',\n]\n"


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_any_text_is_kept(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        Settings(path).set("log", text)
        again = Settings(path)
        assert again.load() == []
        assert again["log"] == text
        assert tomllib.loads(path.read_text("utf-8")) == {"log": text}


def test_where_the_file_is() -> None:
    assert config_file({"HOME": "/h"}) == Path("/h/.config/tradechat/config.toml")
    assert config_file({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == Path("/x/tradechat/config.toml")
    relative = {"HOME": "/h", "XDG_CONFIG_HOME": "x"}
    assert config_file(relative) == Path("/h/.config/tradechat/config.toml")
    assert config_file({}) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rooms": 5}', '{"rooms": {"x": [1, 2]}}', "\0"])
def test_a_damaged_memory_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "memory"
    path.write_text(text)
    memory = Memory(path)
    assert (memory.rooms, memory.unsent) == ({}, [])


def test_a_memory(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory = Memory(path)
    memory.rooms = {9: (1, 5), 7: (2**64 - 1, 3)}
    memory.unsent = ["gr\u00fc\u00df\ndich"]
    memory.save()
    assert path.stat().st_mode & 0o777 == 0o600
    again = Memory(path)
    assert (list(again.rooms.items()), again.unsent) == (
        [(9, (1, 5)), (7, (2**64 - 1, 3))],
        memory.unsent,
    )
    Memory(tmp_path / "no" / "such" / "folder").save()
