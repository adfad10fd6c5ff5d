"""The alert rules: promtool's unit tests, and what each rule states."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import PROMTOOL, promtool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "dashboards"
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
CASES = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]

needs_promtool = pytest.mark.skipif(not PROMTOOL.is_file(), reason="needs promtool: make prometheus")
for_each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


@for_each_alert
def test_an_alert_states_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, section = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert section in {heading.lower().replace(" ", "-") for heading in headings}
    assert f"`{alert['alert']}`" in (ROOT / page).read_text()


@for_each_alert
def test_an_alert_has_a_case_in_which_it_fires(alert: dict[str, Any]) -> None:
    fired = [s["labels"] for case in CASES for test in case["promql_expr_test"] for s in test["exp_samples"]]
    assert any(f'alertname="{alert["alert"]}"' in labels for labels in fired)


@needs_promtool
@pytest.mark.deploy
def test_promtool_takes_the_rules_and_their_tests_pass() -> None:
    checked = promtool("check", "rules", FOLDER / "alerts.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", FOLDER / "alerts_test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
