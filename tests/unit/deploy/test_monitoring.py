"""The alert rules, tried on sample series by Prometheus's own tool."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.deploy.conftest import Checker

HERE = Path(__file__).parent
RULES = HERE.parents[2] / "deploy/monitoring/alerts.yaml"
CASES = HERE / "alerts_test.yaml"


def test_rules_are_valid(checker: Checker) -> None:
    done = checker("promtool", "check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_not_before(checker: Checker) -> None:
    done = checker("promtool", "test", "rules", CASES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing_and_silent() -> None:
    cases = CASES.read_text()
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    fires = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", cases))
    silent = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", cases))
    assert fires == silent == alerts
