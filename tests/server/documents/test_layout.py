"""The layout document: complete, made from the tables, and the one that is committed."""

import re
from pathlib import Path

import pytest

from server.core.events import SlotKind
from server.documents.__main__ import main
from server.documents.layout import WRITERS, document
from server.region import layout
from server.region.layout import DEFAULT_CAPACITIES, SEGMENTS, WORD, Layout
from server.region.records import BY_KIND, COMMON, OFFSETS, RecordKind

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "LAYOUT.md"


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(
        rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", document(), re.MULTILINE | re.DOTALL
    )
    assert found, title
    return found[1]


def test_the_committed_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()


@pytest.mark.parametrize("segment", SEGMENTS, ids=lambda segment: segment.name)
def test_every_segment_is_there_with_all_its_fields(segment: layout.Segment) -> None:
    placed = Layout(DEFAULT_CAPACITIES)[segment.name]
    text = section(segment.name)
    assert segment.about in text
    assert f"Written by: {WRITERS[segment.name]}." in text
    for field in segment.fields:
        at, size = placed.offsets[field.name] * WORD, placed.lengths[field.name] * WORD
        assert f"| {at} | {size} | `{field.name}` | {field.kind.value} | {field.about}" in text
    sizes = (placed.base * WORD, placed.records, placed.stride * WORD)
    row = " | ".join(map(str, (*sizes, placed.stride * WORD * placed.records)))
    assert f"| [{segment.name}](#{segment.name}) | {row} |" in section("Segments")


@pytest.mark.parametrize("kind", RecordKind)
def test_every_kind_of_record_is_there(kind: RecordKind) -> None:
    titles = [line for line in document().splitlines() if f"{kind.name} ({kind.value})" in line]
    assert len(titles) == 1
    text = section(titles[0].removeprefix("### "))
    for field in BY_KIND[kind]:
        row = f"| {OFFSETS[kind][field.name] * WORD} | {field.words * WORD} | `{field.name}` |"
        assert row in text
    for field in COMMON:
        assert f"`{field.name}`" in section("Records of the txn log")


def test_codes_and_capacities_are_there() -> None:
    for kind in SlotKind:
        assert f"| {kind.value} | {kind.name} |" in section("Codes")
    for name in DEFAULT_CAPACITIES.__slots__:
        assert f"| `{name}` | {getattr(DEFAULT_CAPACITIES, name)} |" in section("Capacities")


def test_every_table_is_one() -> None:
    """As many cells in each row as in its heading: no text of the tables holds a bar."""
    for block in re.findall(r"(?:^\|.*\|\n)+", document(), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


# ---- the command


def test_doc_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "LAYOUT.md"
    assert main(["layout", "--check", "--output", str(path)]) == 1
    assert "run `python -m server.documents layout`" in capsys.readouterr().err
    assert not path.exists()
    assert main(["layout", "--output", str(path)]) == 0
    assert main(["layout", "--check", "--output", str(path)]) == 0
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert main(["layout", "--check", "--output", str(path)]) == 1


def test_a_change_of_the_table_makes_the_document_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "LAYOUT.md")
    assert main(["layout", "--output", path]) == 0
    more = layout.Segment("more", "", 1, (layout.Field("word", ""),))
    monkeypatch.setattr(layout, "SEGMENTS", (*SEGMENTS, more))
    monkeypatch.setitem(WRITERS, "more", "nobody")
    assert main(["layout", "--check", "--output", path]) == 1


@pytest.mark.parametrize(
    "arguments", [["--output", "x"], ["nothing"], ["layout", "--output", "/dev/null/x"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "python -m server.documents" in capsys.readouterr().err
