"""The document of the metrics, made from their table."""

from typing import Final

from server.admin.web.metrics import BUILD_INFO, METRICS
from server.admin.web.samples import PREFIX
from server.documents.tables import table
from server.region.histogram import SIZES_FIRST, TIMES_FIRST, bounds

COMMAND: Final = f"python -m {__spec__.parent} metrics"


def document() -> str:
    """Return docs/METRICS.md."""
    rows = [(f"`{PREFIX}build_info`", "gauge", "version, form", BUILD_INFO)]
    rows += [
        (f"`{metric.full_name}`", metric.kind.value, ", ".join(metric.labels), metric.about)
        for metric in METRICS
    ]
    times, sizes = bounds(TIMES_FIRST), bounds(SIZES_FIRST)
    return "\n".join(
        [
            "# Metrics",
            "",
            f"<!-- Made from server/admin/web/metrics.py by `{COMMAND}`. Do not edit. -->",
            "",
            "`/metrics` of the [admin port](OPERATIONS.md) answers these in the text format of",
            "Prometheus. All are summed over the workers, but for those with the label `worker`.",
            "They begin at 0 when the server starts; a worker that replaces another continues its",
            "slot's. Of opcodes and statuses those are there that have occurred. Metrics of the",
            "disk are there if something is kept on disk (`--durability` other than `none`).",
            "",
            "Each bound of a histogram is twice the one before: of times from",
            f"{times[0] / 1e6:g} s to {times[-1] / 1e6:g} s, of records from {sizes[0]} to",
            f"{sizes[-1]}.",
            "",
            table(("metric", "type", "labels", "meaning"), rows),
            "",
        ]
    )
