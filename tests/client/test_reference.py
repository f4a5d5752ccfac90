"""docs/CLIENT.md is what the docstrings say."""

import inspect
import re
from pathlib import Path

import pytest

import client
from client import AsyncClient, Client, reference

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.checkout
def test_the_document_is_fresh_and_a_stale_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert reference.main(["--check"]) == 0
    path = tmp_path / "CLIENT.md"
    assert reference.main(["--check", "--output", str(path)]) == 1
    assert reference.main(["--output", str(path)]) == 0
    assert path.read_bytes() == (ROOT / "docs" / "CLIENT.md").read_bytes()
    path.write_text(path.read_text().replace("Pay another user", "Pay a user", 1))
    assert reference.main(["--check", "--output", str(path)]) == 1
    assert "is not what the docstrings say" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        reference.main(["--output", str(tmp_path / "no" / "CLIENT.md")])


def test_every_method_and_every_argument_is_in_it() -> None:
    text = reference.reference()
    for kind in (Client, AsyncClient):
        for name in dir(kind):
            if not name.startswith("_"):
                assert f"`{name}`" in text, name
                member = getattr(kind, name)
                doc = inspect.getdoc(member)
                assert doc is not None
                assert kind is AsyncClient or doc in text
    for name in inspect.signature(Client).parameters:
        assert re.search(rf"^    {name}: ", text, re.MULTILINE), name
        assert re.search(rf"\b{name}(:|,| is)", inspect.getdoc(Client.__init__) or ""), name


def test_what_is_exported_and_not_described_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "__all__", [*client.__all__, "Unheard"])
    with pytest.raises(AssertionError, match="Unheard"):
        reference.reference()
