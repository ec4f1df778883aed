"""The alert rules and the dashboard, tried by Prometheus' own promtool where it is installed (Debian: `prometheus`)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lakehouse.fleet.metrics import METRICS, exposition

HOUSE = Path(__file__).parent.parent
RULES = HOUSE / "ops/prometheus/lakehouse-fleet.rules.yaml"
DASHBOARD = json.loads((HOUSE / "ops/grafana/lakehouse-fleet.json").read_text())
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed, and PROMTOOL does not name one")


def promtool(*words: str, given: str | None = None) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *words], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_are_such_as_prometheus_loads() -> None:
    assert f"{len(_rules())} rules found" in promtool("check", "rules", str(RULES))


def test_what_the_watch_serves_is_such_as_prometheus_scrapes() -> None:
    samples = {name: [(dict.fromkeys(metric.labels, "x"), 1.0)] for name, metric in METRICS.items()}
    assert promtool("check", "metrics", given=exposition(samples)) == ""


def test_every_panel_asks_what_prometheus_understands(tmp_path: Path) -> None:
    """As recording rules, which promtool parses; Grafana's own variable is a range."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel_{number}", "expr": re.sub(r"\$__\w+", "5m", each)} for number, each in enumerate(asked)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(asked)} rules found" in promtool("check", "rules", str(file))


INCIDENT = 'incident_start_timestamp_seconds{key="k", cause="mirror", severity="warning", subject="2 topics"}'
WATCHED = {"watch_look_timestamp_seconds": "0+60x600"}
"""A look each minute: else it is an alert that nobody looks."""

FIRES: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, str]]] = {
    "LakehouseFleetIncident": (
        "2m",
        {INCIDENT: "0x600"},
        {"key": "k", "cause": "mirror", "severity": "warning", "subject": "2 topics"},
    ),
    "LakehouseFleetUnwatched": ("10m", {"watch_look_timestamp_seconds": "0x600"}, {"severity": "critical"}),
    "LakehouseFleetApplicationDown": (
        "10m",
        {'application_heartbeat_timestamp_seconds{application="ads"}': "0x600"},
        {"application": "ads", "severity": "critical"},
    ),
    "LakehouseFleetReleaseSkew": (
        "2h",
        {
            f'application_info{{application="{name}", release="{release}", host="h", state="running"}}': "1x600"
            for name, release in (("ads", "1"), ("plays", "2"))
        },
        {"severity": "warning"},
    ),
    "LakehouseFleetBudgetBurnsFast": (
        "5m",
        {'budget_burn_ratio{window="1h"}': "20x600", 'budget_burn_ratio{window="6h"}': "7x600"},
        {"severity": "critical", "window": "1h"},
    ),
    "LakehouseFleetBudgetBurnsSlowly": (
        "2h",
        {'budget_burn_ratio{window="3d"}': "2x600"},
        {"severity": "warning", "window": "3d"},
    ),
    "LakehouseFleetWebhooksFail": (
        "20m",
        {'watch_notifications_total{outcome="failed"}': "0+1x600"},
        {"severity": "warning", "outcome": "failed"},
    ),
}
"""Of each alert: when it is looked for, what was measured each minute until then, and the labels that it then has."""


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_every_alert_has_a_case() -> None:
    assert set(FIRES) == {rule["alert"] for rule in _rules()}


@pytest.mark.parametrize("alert", FIRES)
@pytest.mark.parametrize("is_measured", [True, False])
def test_an_alert_fires_for_what_it_is_made_for_and_else_never(alert: str, is_measured: bool, tmp_path: Path) -> None:
    at, measured, labels = FIRES[alert]
    series = {**WATCHED, **(measured if is_measured else {})}
    expected = [{"exp_labels": dict(labels), "exp_annotations": _annotations(alert, labels)}] if is_measured else []
    case = {
        "interval": "1m",
        "input_series": [{"series": f"lakehouse_fleet_{name}", "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
    }
    file = tmp_path / "cases.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]}))
    promtool("test", "rules", str(file))


def _annotations(alert: str, labels: Mapping[str, str]) -> dict[str, str]:
    """The rule's own, with the labels in their places."""
    found = next(rule["annotations"] for rule in _rules() if rule["alert"] == alert)

    def filled(text: str) -> str:
        return re.sub(r"{{ \$labels\.(\w+) }}", lambda named: labels[named[1]], text)

    return {name: filled(text) for name, text in found.items()}
