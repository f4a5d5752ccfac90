"""Where the screen puts what a command answers, without a terminal."""

from pathlib import Path

from client.chat.model import Model
from client.chat.screen_face import ScreenFace
from client.chat.settings import Settings
from client.terminal.display import text_of


def test_results_stay_where_they_were_asked_for(tmp_path: Path) -> None:
    """A person who has gone on to another room meanwhile finds all of them there."""
    model = Model("alice")
    face = ScreenFace(model, Settings(tmp_path / "config.toml"))
    first, second = model.open_room(1), model.open_room(2)
    model.switch(first)
    face.begin()
    face.result(["one"])
    model.switch(second)
    face.result(["two"])
    assert [text_of(entry.body) for entry in first.entries] == ["one", "two"]
    assert not second.entries
    assert not first.unread
    model.close(first)
    face.result(["three"])
    assert [text_of(entry.body) for entry in second.entries] == ["three"]
    face.begin()
    face.result(["four"])
    assert len(second.entries) == 2
