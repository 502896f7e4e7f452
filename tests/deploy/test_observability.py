"""Dashboard, alerts and compose services ask for what the service has: names, labels, files, versions."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/camserve.json").read_text(encoding="utf-8"))

OBSERVERS = ["prometheus", "grafana"]
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
RULES = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
EXPRESSIONS = {
    **{f"{title} {each['refId']}": each["expr"] for title, panel in PANELS.items() for each in panel["targets"]},
    **{name: rule["expr"] for name, rule in RULES.items()},
}

PROMETHEUS_OWN = {"up"}
LABELS_OF_PROMETHEUS = {"instance", "job", "le"}


def exposed() -> dict[str, set[str]]:
    """Every name that a scrape can hold, with its labels."""
    metrics = Metrics()
    labels = {each._name: set(each._labelnames) for each in vars(metrics).values() if hasattr(each, "_labelnames")}
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {
        family.name + suffix: labels.get(family.name, set())
        for family in metrics.registry.collect()
        for suffix in suffixes[family.type]
    }


def words(expression: str) -> set[str]:
    """What is neither a function, a keyword, a label nor a value: the names of metrics."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|on|without)\s*\([^)]*\)', " ", expression.replace("$", ""))
    return set(re.findall(r"[a-zA-Z_]\w*\b(?!\s*\()", bare)) - {
        "and",
        "or",
        "unless",
        "by",
        "sum",
        "min",
        "max",
        "count",
    }


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_uses_only_what_is_exposed(name: str) -> None:
    known = exposed()
    used = words(EXPRESSIONS[name])
    assert used
    assert used <= known.keys() | PROMETHEUS_OWN


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_uses_only_labels_that_its_metrics_have(name: str) -> None:
    known, expression = exposed(), EXPRESSIONS[name]
    for metric, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r'(\w+)\s*(?:=~|!=|!~|=)\s*"', matchers))
        assert labels <= known.get(metric, set()) | LABELS_OF_PROMETHEUS, metric
    grouped = {label for part in re.findall(r"\bby\s*\(([^)]*)\)", expression) for label in re.findall(r"\w+", part)}
    assert grouped <= set().union(*(known.get(metric, set()) for metric in words(expression))) | LABELS_OF_PROMETHEUS


def test_the_measure_finds_a_name_that_is_not_there() -> None:
    assert words('sum by (x) (rate(camserve_a_total{b="c"}[5m])) / y > 1 or vector(0)') == {"camserve_a_total", "y"}


def test_every_metric_of_the_service_is_on_the_dashboard_or_in_an_alert() -> None:
    used = set(chain(*map(words, EXPRESSIONS.values())))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed() if name.startswith("camserve_")}
    missing = {family for family in families if not any(name.startswith(family) for name in used)}
    assert missing == set()


def test_panels_say_what_they_show_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for title, panel in PANELS.items():
        assert panel["description"], title
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, title
        taken |= cells
    assert len(PANELS) == len(DASHBOARD["panels"]) == len({panel["id"] for panel in PANELS.values()})


def test_the_dashboard_finds_its_source_and_grafana_the_dashboard() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/camserve.yml").read_text(encoding="utf-8"))["providers"]
    asked = {each["datasource"]["uid"] for panel in PANELS.values() for each in (panel, *panel["targets"])}
    assert asked == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    grafana = COMPOSE["services"]["grafana"]
    mounted = dict(each.split(":")[:2][::-1] for each in grafana["volumes"])
    assert ROOT / mounted[provider["options"]["path"]] == ROOT / "./deploy/grafana/dashboards"
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].startswith(provider["options"]["path"])


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_how_bad_and_what_to_do(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description"}
    labels = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"])))) | {"instance"}
    plain = " by " not in rule["expr"]
    assert plain or labels <= kept, "an aggregation keeps the labels that it is grouped by, and no others"
    for document in re.findall(r"docs/\S+\.md", rule["annotations"]["description"]):
        assert (ROOT / document).is_file()


def test_prometheus_scrapes_the_services_of_the_compose_file() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    services = {name for name, service in COMPOSE["services"].items() if service["image"].startswith("camserve:")}
    assert set(discovery["names"]) == services
    for name in services:
        assert str(discovery["port"]) == COMPOSE["services"][name]["ports"][0].rpartition(":")[2]
    assert all((DEPLOY / "prometheus" / file).is_file() for file in PROMETHEUS["rule_files"])


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers_are_asked_for_and_closed_to_the_outside(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    assert service["profiles"] == ["observe"]
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), "a version, not whatever is newest"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    for volume in service["volumes"]:
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert (ROOT / source).exists()
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]
            assert target.startswith("/")
