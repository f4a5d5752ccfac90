"""What the documents share that are made from the tables that the code runs on."""

from collections.abc import Sequence

from server.region.records import BY_KIND, RecordKind


def kinds_by_fields() -> list[list[RecordKind]]:
    """The kinds, those of the same fields together."""
    groups: list[list[RecordKind]] = []
    for kind, fields in BY_KIND.items():
        for group in groups:
            if BY_KIND[group[0]] == fields:
                group.append(kind)
                break
        else:
            groups.append([kind])
    return groups


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
