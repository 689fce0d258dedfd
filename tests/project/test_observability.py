"""The alerts and the dashboard ask for metrics that the server has."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, Metric

from unsee_server.metrics import CallMetrics, EngineMetrics, add_device_memory

DEPLOY = Path(__file__).parents[2] / "deploy"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
# What every metric has: Prometheus adds the first, and histograms the second.
ALWAYS = {"instance", "le"}


@pytest.fixture(scope="module")
def metrics() -> list[Metric]:
    registry = CollectorRegistry()
    CallMetrics(registry)
    EngineMetrics(registry)
    add_device_memory(registry, lambda: 0)
    return list(registry.collect())


def questions() -> list[str]:
    """Return every expression of the alerts and the dashboard."""
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text(encoding="utf-8"))
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    dashboard = json.loads((DEPLOY / "grafana/unsee.json").read_text(encoding="utf-8"))
    return alerts + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def asked() -> set[str]:
    return {name for expr in questions() for name in re.findall(r"\b(?:unsee|grpc_server)_\w+", expr)}


def test_every_metric_that_is_asked_for_exists(metrics: list[Metric]) -> None:
    exposed = {metric.name + suffix for metric in metrics for suffix in SUFFIXES[metric.type]}
    assert asked() - exposed == set()


def test_every_metric_of_the_product_is_asked_for(metrics: list[Metric]) -> None:
    own = {metric.name for metric in metrics if metric.name.startswith("unsee_")}
    assert {name for name in own if not any(found.startswith(name) for found in asked())} == set()


def test_alerts_and_dashboard_split_by_labels_that_exist() -> None:
    used = {
        label for expr in questions() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(", ")
    }
    assert used - ALWAYS <= {"grpc_method", "grpc_code", "kind"}
