"""The metrics in the text format of Prometheus. Only here is prometheus_client imported."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from libproto import __version__
from libproto.form import FORM
from server.admin.snapshot import Snapshot
from server.admin.web.metrics import BUILD_INFO, METRICS
from server.admin.web.samples import PREFIX, SIZE_BOUNDS, TIME_BOUNDS, Distribution, Kind, Sample
from server.admin.web.samples import Metric as Row

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
_BOUNDS: Final = {
    bounds: [*map(floatToGoString, bounds), "+Inf"] for bounds in (TIME_BOUNDS, SIZE_BOUNDS)
}
"""As text, which takes longer than all else in a scrape."""


_INFO: Final = GaugeMetricFamily(f"{PREFIX}build_info", BUILD_INFO, labels=("version", "form"))
_INFO.add_metric((__version__, FORM.name), 1)


class _Collector(Collector):
    """One family of samples."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _family(metric: Row, samples: list[Sample]) -> Metric:
    name, about, labels = metric.full_name, metric.about, metric.labels
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, about, labels=labels)
        for values, value in samples:
            assert isinstance(value, Distribution)
            buckets = zip(_BOUNDS[tuple(value.bounds)], accumulate(value.counts), strict=True)
            histogram.add_metric(values, [*buckets], value.total)
        return histogram
    family = (CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily)(
        name, about, labels=labels
    )
    for values, value in samples:
        assert not isinstance(value, Distribution)
        family.add_metric(values, value)
    return family


class Exposition:
    """What /metrics answers. To write a sample takes far longer than to look whether it has
    changed, so what has not changed since the scrape before is kept as text: by metric, and of
    histograms by their labels."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], tuple[list[Sample], bytes]] = {}

    def text(self, snapshot: Snapshot) -> bytes:
        """The metrics of a snapshot."""
        parts = [generate_latest(_Collector(_INFO))]
        for metric in METRICS:
            samples = [*metric.samples(snapshot)]
            if metric.kind is Kind.HISTOGRAM and samples:
                head, *rest = (self._of(metric, [one], one[0]) for one in samples)
                parts += [head, *(text.split(b"\n", 2)[2] for text in rest)]  # one HELP and TYPE
            else:
                parts.append(self._of(metric, samples, ()))
        return b"".join(parts)

    def _of(self, metric: Row, samples: list[Sample], labels: tuple[str, ...]) -> bytes:
        key = metric.name, *labels
        before, text = self._kept.get(key, (None, b""))
        if before != samples:
            text = generate_latest(_Collector(_family(metric, samples)))
            self._kept[key] = samples, text
        return text
