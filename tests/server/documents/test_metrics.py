"""The document of the metrics: complete, and the one that is committed."""

from pathlib import Path

from server.admin.web.metrics import METRICS
from server.documents.metrics import document

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "METRICS.md"


def test_the_committed_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_every_metric_is_there() -> None:
    for metric in METRICS:
        labels = ", ".join(metric.labels)
        assert f"| `{metric.full_name}` | {metric.kind} | {labels} | {metric.about} |" in document()
