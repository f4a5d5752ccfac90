"""The dashboard and the alerts in deploy/: every metric in them is one that the server has."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.admin.web.metrics import METRICS
from server.admin.web.samples import PREFIX, Kind

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD, ALERTS = DEPLOY / "grafana-dashboard.json", DEPLOY / "alerts.yml"
OF_A_HISTOGRAM = ("_bucket", "_sum", "_count")
LABELS = {metric.full_name: set(metric.labels) for metric in METRICS}
OF_PROMETHEUS = {"instance", "job", "le"}


def series() -> set[str]:
    """The names that Prometheus has of our metrics."""
    found = set[str]()
    for metric in METRICS:
        histogram = metric.kind is Kind.HISTOGRAM
        found |= {metric.full_name + end for end in (OF_A_HISTOGRAM if histogram else ("",))}
    return found


def names_in(text: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}[a-z_]+", text))


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    """All of both files."""
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    yield from re.findall(r"^ +expr: (.*)$", ALERTS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", [DASHBOARD, ALERTS], ids=lambda path: path.name)
def test_every_metric_is_one_of_the_server(path: Path) -> None:
    names = names_in(path.read_text())
    assert len(names) > 10
    assert names <= series(), "a metric that the server does not have"


def test_a_name_that_is_wrong_is_found() -> None:
    assert names_in("rate(tradechat_request_total[1m])") - series() == {"tradechat_request_total"}
    assert names_in("x tradechat_request_duration_seconds y") - series(), "it has no such series"


def test_every_label_is_one_of_its_metric() -> None:
    found = 0
    for expression in expressions():
        for name, labels in re.findall(rf"\b({PREFIX}[a-z_]+)\{{([^}}]*)\}}", expression):
            metric = next(m for m in LABELS if name in {m, *(m + end for end in OF_A_HISTOGRAM)})
            used = set(re.findall(r"([a-z]+)(?:=~|!~|!=|=)", labels))
            assert used <= LABELS[metric] | OF_PROMETHEUS, expression
            found += 1
    assert found > 20


def test_the_panels_are_apart_and_have_titles() -> None:
    places = set[tuple[int, int]]()
    for panel in panels():
        at = panel["gridPos"]
        assert panel["title"]
        assert panel["targets"]
        here = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not here & places
        places |= here
        assert at["x"] + at["w"] <= 24
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    text = ALERTS.read_text()
    alerts = text.split("- alert: ")[1:]
    assert len({alert.split()[0] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert re.search(r"severity: (critical|warning|info)", alert), alert
        assert "summary: " in alert
        assert "$labels.instance" in alert


def test_promtool_finds_nothing_wrong() -> None:
    if not (promtool := shutil.which("promtool")):
        pytest.skip("there is no promtool here: it comes with Debian's prometheus")
    for what, path in (("rules", ALERTS), ("config", DEPLOY / "prometheus.yml")):
        run = subprocess.run(
            [promtool, "check", what, str(path)], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
