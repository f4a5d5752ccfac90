"""Records as attributes: the table's names and no others, and every use in the sources is one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.region.layout import SEGMENTS, ServerState
from server.region.region import Region
from tests.helpers.region import small_region

ROOT = Path(__file__).resolve().parents[3]
FIELDS = {segment.name: {field.name for field in segment.fields} for segment in SEGMENTS}
VIEWS = {
    name for name, value in vars(Region).items() if isinstance(value, property) and name in FIELDS
}


@pytest.fixture
def region() -> Iterator[Region]:
    with small_region() as region:
        yield region


def test_a_field_is_the_word_of_the_table(region: Region) -> None:
    at = region.layout["header"].at(0, "state")
    region.header.state = ServerState.SERVING
    assert region.words[at] == region.header.state == ServerState.SERVING
    assert region.header.index("state") == at
    worker = region.record("workers", region.layout["workers"].records - 1)
    worker.beat += 1
    assert region.column("workers", "beat")[-1] == 1


def test_every_view_of_a_region_shows_its_segment(region: Region) -> None:
    for name in VIEWS:
        record = getattr(region, name)
        assert FIELDS[name] <= set(dir(record))
        for field in FIELDS[name]:
            assert record.index(field) == region.layout[name].at(0, field)


def test_what_the_table_does_not_have(region: Region) -> None:
    with pytest.raises(AttributeError, match="header has no field 'stat'"):
        region.header.stat  # noqa: B018 - the access is what is tested
    with pytest.raises(AttributeError, match="header has no field 'stat'"):
        region.header.stat = 1
    with pytest.raises(IndexError):
        region.record("workers", region.layout["workers"].records)
    with pytest.raises(KeyError):
        region.record("nothing")


def _uses(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(segment, field) of every `….region.SEGMENT.FIELD`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(
                value=ast.Attribute(
                    value=ast.Name(id="region" | "_region")
                    | ast.Attribute(attr="region" | "_region"),
                    attr=segment,
                ),
                attr=field,
            ) if segment in VIEWS:
                yield segment, field


def test_the_sources_name_fields_of_the_table() -> None:
    """mypy takes every name here: this does not."""
    found = {
        use
        for path in (ROOT / "server").rglob("*.py")
        for use in _uses(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert len(found) > 10
    assert {(s, f) for s, f in found if f not in FIELDS[s] | {"index"}} == set()


def test_a_wrong_name_in_the_sources_is_found() -> None:
    assert list(_uses(ast.parse("self._region.log.haed = 1\nregion.log.head"))) == [
        ("log", "haed"),
        ("log", "head"),
    ]
