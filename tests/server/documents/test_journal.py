"""The document of the data directory: complete, made from the tables, the one that is committed."""

import re
from pathlib import Path

import pytest

from server.admin.inspect import SECRETS
from server.documents.__main__ import main
from server.documents.journal import document
from server.journal import format as tables
from server.journal.format import Header, HeaderField
from server.region.layout import WORD
from server.region.records import BY_KIND, OFFSETS, RecordField, RecordKind

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "JOURNAL.md"
HEADERS = list(
    {each.name: each for each in vars(tables).values() if isinstance(each, Header)}.values()
)


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(
        rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", document(), re.MULTILINE | re.DOTALL
    )
    assert found, title
    return found[1]


def test_the_committed_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.name)
def test_every_header_is_there_with_its_offsets(header: Header) -> None:
    assert len(HEADERS) == 11
    text = section(header.name.capitalize())
    assert header.about in " ".join(text.split())
    assert f"\n{header.size} bytes." in text
    letters = re.search(r"8 letters `(.{8})`", text)
    assert letters is not None
    assert tables.magic(letters[1]) == header.magic
    at = 0
    for field in header.fields:
        row = f"| {at} | {field.words * WORD} | `{field.name}` | {field.about} |"
        assert row in text
        at += field.words * WORD
    assert at == header.size


@pytest.mark.parametrize("kind", RecordKind)
def test_every_kind_of_record_is_there(kind: RecordKind) -> None:
    titles = re.findall(r"^### (.*)$", document(), re.MULTILINE)
    [title] = [title for title in titles if f"{kind.name} ({kind.value})" in title]
    text = section(title)
    for field in BY_KIND[kind]:
        at, secret = OFFSETS[kind][field.name] * WORD, " (secret)" * (field.name in SECRETS)
        assert f"| {at} | {field.words * WORD} | `{field.name}` |" in text
        assert f"{field.about}{secret} |" in text


@pytest.mark.parametrize(
    ("title", "fields"),
    [
        ("A user in a snapshot", tables.SNAPSHOT_USER),
        ("A client in a snapshot", tables.SNAPSHOT_CLIENT),
        ("A room in a snapshot", tables.SNAPSHOT_ROOM),
    ],
)
def test_a_snapshots_rows_are_there(title: str, fields: tuple[RecordField, ...]) -> None:
    text, at = section(title), 0
    for field in fields:
        assert f"| {at} | {field.words * WORD} | `{field.name}` |" in text
        at += field.words * WORD


def test_an_event_is_there() -> None:
    for place, field in enumerate(tables.EVENT):
        row = f"| {place * WORD} | 8 | `{field.name}` | {field.about} |"
        assert row in section("An event")


def test_a_room_record_is_there() -> None:
    fields: tuple[HeaderField, ...] = tables.ROOM_RECORD
    for place, field in enumerate(fields):
        assert f"| {place * WORD} | 8 | `{field.name}` |" in section("A record of a history")


def test_what_is_said_elsewhere_is_there() -> None:
    """The message that refuses another format names this section."""
    assert "a directory of another format is refused" in section("Other formats").lower()
    for name in (
        tables.IDENTITY,
        tables.POSITION_FILE,
        tables.JOURNAL,
        tables.SNAPSHOTS,
        tables.ROOMS,
    ):
        assert f"`{name}" in section("What stands where")
    for command in ("verify", "dump", "repair"):
        assert f"tradechat-admin journal {command} --data DIR" in section("The tool")


def test_no_line_is_too_long_but_in_tables() -> None:
    lines = document().splitlines()
    assert [line for line in lines if len(line) > 200 and not line.startswith("|")] == []
    assert "\n\n\n" not in document()


def test_the_command_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "JOURNAL.md"
    assert main(["journal", "--check", "--output", str(path)]) == 1
    assert "python -m server.documents journal" in capsys.readouterr().err
    assert main(["journal", "--output", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == document()
    assert main(["journal", "--check", "--output", str(path)]) == 0
    path.write_text("stale", encoding="utf-8")
    assert main(["journal", "--check", "--output", str(path)]) == 1
    with pytest.raises(SystemExit) as error:
        main(["journal", "--output", str(tmp_path / "no" / "where.md")])
    assert error.value.code == 2
