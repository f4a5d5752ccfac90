"""The page that the report is written on: titles, paragraphs, lists, tables, charts."""

from collections.abc import Iterable, Sequence

from bench.realtest.data import Results, Row
from bench.realtest.figures import Columns, table


class Page:
    """Lines of Markdown, and the results that they are about."""

    def __init__(self, results: Results, drawn: Sequence[str]) -> None:
        """drawn: the charts that there are."""
        self.lines: list[str] = []
        self.results = results
        self._drawn = frozenset(drawn)

    def title(self, text: str) -> None:
        self.lines += [f"## {text}", ""]

    def paragraph(self, *sentences: str) -> None:
        if told := " ".join(each for each in sentences if each):
            self.lines += [told, ""]

    def items(self, items: Iterable[str]) -> None:
        self.lines += [*(f"- {item}" for item in items), ""]

    def table(self, runs: Iterable[Row], *columns: Columns) -> None:
        self.lines += table(runs, {k: v for part in columns for k, v in part.items()})

    def chart(self, name: str, about: str) -> None:
        if name in self._drawn:
            self.lines += [f"![{about}]({name}.png)", ""]
