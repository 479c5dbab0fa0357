"""What deploy/ names exists: settings, metrics, pages of the runbook; and its times fit the service's own."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from harness.http import request
from harness.service import service_here
from jobstatus.processes.child_metrics import ChildMetrics
from jobstatus.processes.supervisor import SupervisorLimits
from jobstatus.settings import Settings
from jobstatus.settings.sources import PREFIX
from jobstatus.telemetry.collectors import Format
from prometheus_client.parser import text_string_to_metric_families

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
CHART: Final = DEPLOY / "helm" / "jobstatus"
RUNBOOK: Final = ROOT / "docs" / "runbook"
SUFFIXES: Final = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def rules() -> list[dict[str, Any]]:
    """Return the rules of all groups."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[str]:
    """Return the names of the alerts."""
    return [rule["alert"] for rule in rules() if "alert" in rule]


def queries() -> Iterator[str]:
    """Yield each expression of the rules and of the dashboard."""
    yield from (rule["expr"] for rule in rules())
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ()))
    yield from (variable["query"]["query"] for variable in dashboard["templating"]["list"][1:])


def samples(exposition: str) -> set[str]:
    """Return the names that samples of these metrics have."""
    families = text_string_to_metric_families(exposition)
    return {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES.get(family.type, ())}


async def test_rules_and_dashboard_use_metrics_that_a_service_exposes() -> None:
    """Those of a service, and those that a supervisor adds."""
    async with service_here() as service:
        exposed = samples((await request(service.admin_port, "/metrics")).body.decode())
    exposed |= samples((await ChildMetrics(ask_seconds=1).exposition([], Format.TEXT)).decode())
    used = {name for query in queries() for name in re.findall(r"\b(?:jobstatus|process)_\w+", query)}
    assert used
    assert used <= exposed


def test_recorded_series_that_are_used_are_recorded() -> None:
    """An alert on a series that no rule records would never fire."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for query in queries() for name in re.findall(r"\bjobstatus:[\w:]+", query)} <= recorded


def test_each_alert_has_a_page_and_each_page_an_alert() -> None:
    """Under the name that the alert's URL ends with."""
    assert {path.stem for path in RUNBOOK.glob("*.md")} - {"README"} == set(alerts())
    urls = {rule["annotations"]["runbook_url"] for rule in rules() if "alert" in rule}
    assert urls == {f"docs/runbook/{alert}.md" for alert in alerts()}
    index = (RUNBOOK / "README.md").read_text()
    assert re.findall(r"^\| \[(\w+)\]", index, re.MULTILINE) == alerts()


@pytest.mark.parametrize("alert", alerts())
def test_a_page_says_what_an_operator_needs(alert: str) -> None:
    """Meaning, impact, how to see it, what to do."""
    headings = re.findall(r"^##? (.*)", (RUNBOOK / f"{alert}.md").read_text(), re.MULTILINE)
    assert headings == [alert, "Meaning", "Impact", "How to see it", "What to do"]


def test_each_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    """`make deploy-check` runs them."""
    tests = yaml.safe_load((DEPLOY / "prometheus" / "tests.yaml").read_text())["tests"]
    cases = Counter((case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"])
    assert set(cases) == {(alert, fires) for alert in alerts() for fires in (True, False)}


@pytest.mark.parametrize("path", ["compose.yaml", "Containerfile", "helm/jobstatus/templates/configmap.yaml"])
def test_variables_are_settings(path: str) -> None:
    """A misspelt one would be a warning in the log only."""
    names = re.findall(rf"\b{PREFIX}([A-Z_]+)", (DEPLOY / path).read_text())
    assert names
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


@pytest.mark.parametrize("path", sorted((CHART / "ci").glob("*.yaml")), ids=lambda path: path.stem)
def test_values_name_settings(path: Path) -> None:
    """The chart makes a variable of each, and of those that edges share with the service."""
    values = yaml.safe_load(path.read_text())
    shared = re.search(r"pick \.Values\.settings (.*) }}", (CHART / "templates" / "configmap.yaml").read_text())
    assert shared is not None
    names = {
        *values.get("settings", ()),
        *values.get("edge", {}).get("settings", ()),
        *shared[1].replace('"', "").split(),
    }
    assert names <= Settings.model_fields.keys()


def test_what_ends_a_process_waits_for_its_stop() -> None:
    """The service kills its serving processes after a time of its own; it has to come first."""
    stop = SupervisorLimits().stop_seconds
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    grace = re.search(r"terminationGracePeriodSeconds: {{ add \.stopDelaySeconds (\d+) }}", helpers)
    assert grace is not None
    assert int(grace[1]) >= stop + 5
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["jobstatus"]
    assert int(compose["stop_grace_period"].removesuffix("s")) >= stop + 5


def test_the_chart_carries_the_rules_and_the_dashboard() -> None:
    """They are links, so that there is one of each."""
    assert (CHART / "files" / "rules.yaml").samefile(DEPLOY / "prometheus" / "rules.yaml")
    assert (CHART / "files" / "dashboard.json").samefile(DEPLOY / "grafana" / "dashboard.json")
