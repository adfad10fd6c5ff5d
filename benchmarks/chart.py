"""Whether the Helm chart renders what Kubernetes and policies take, for every set of values, and refuses wrong values.

Needs Helm (`make helm`) and the extra `deploy`; policies are checked with `--checkov PATH`, the command of checkov in
an environment of its own (`pip install checkov`). Exits with 1 if a target is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from benchmarks.installed import Report
from tests.support.charts import CHART, HELM, VALUE_SETS, Invalid, helm, metrics_in, queries, refusal, render_set
from tests.support.charts import validate as validate_object
from tests.support.wrong_values import WRONG_VALUES

FEWEST_SETS, FEWEST_REFUSALS = 12, 20


def count_linted() -> int:
    """The sets of values that Helm lints without a warning."""
    done = [helm("lint", "--strict", CHART, "--values", CHART / "ci" / f"{name}-values.yaml") for name in VALUE_SETS]
    return sum(each.returncode == 0 and "[WARNING]" not in each.stdout for each in done)


def mistakes_of(names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """The number of valid objects by kind, and a sentence for each that is not."""
    valid, mistakes = dict[str, int](), list[str]()
    for name in names:
        for each in render_set(name):
            try:
                validate_object(each)
            except Invalid as error:
                mistakes.append(f"{name}: {error}")
            else:
                valid[each["kind"]] = valid.get(each["kind"], 0) + 1
    return valid, mistakes


def policy_results(checkov: Path, name: str) -> tuple[int, list[str]]:
    """Of one set: how many checks pass, and those that fail."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(render_set(name), file)
        file.flush()
        config = ("--config-file", CHART / ".checkov.yaml")
        command = [checkov, "--file", file.name, *config, "--skip-download", "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    failed = found["results"]["failed_checks"]
    return found["summary"]["passed"], [f"{name}: {each['check_id']} of {each['resource']}" for each in failed]


def exceptions() -> list[str]:
    """Those of all objects, and those that annotations state of one."""
    stated = list(yaml.safe_load((CHART / ".checkov.yaml").read_text())["skip-check"])
    for each in render_set("default"):
        for key, text in each["metadata"].get("annotations", {}).items():
            if key.startswith("checkov.io/skip"):
                stated.append(f"{text.partition('=')[0]} of the {each['kind']} of helm test")
    return stated


def add_policies(report: Report, checkov: Path) -> None:
    results = [policy_results(checkov, name) for name in VALUE_SETS]
    passed, failed = sum(number for number, _ in results), [each for _, wrong in results for each in wrong]
    found = f"{passed} pass; fail: {', '.join(failed) or 'none'}"
    report.add("checks of checkov", found, "none fails", passed > 0 and not failed)
    report.add("exceptions", ", ".join(exceptions()), "each stated with its reason", True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkov", type=Path, help="command of checkov; without it policies are not checked")
    options = parser.parse_args()
    if not HELM.is_file():
        sys.exit("Helm is not installed: make helm")
    report = Report()
    sets = len(VALUE_SETS)
    report.add("sets of values", str(sets), f"at least {FEWEST_SETS}", sets >= FEWEST_SETS)
    linted = count_linted()
    report.add("helm lint --strict", f"{linted} of {sets} without a warning", "all", linted == sets)
    valid, mistakes = mistakes_of(VALUE_SETS)
    found = ", ".join(f"{number} {kind}" for kind, number in sorted(valid.items()))
    report.add("valid objects", f"{found}; invalid: {'; '.join(mistakes) or 'none'}", "all", not mistakes)
    asked = [query for values in VALUE_SETS for query in queries(render_set(values)).values()]
    named = sorted(set[str]().union(*map(metrics_in, asked)))
    report.add("queries of PromQL", f"{len(asked)} parse: {', '.join(named)}", "all", bool(asked))
    accepted = [values for values, sentence in WRONG_VALUES if sentence not in refusal("--set", values)]
    found = f"{len(WRONG_VALUES) - len(accepted)} refused; not: {', '.join(accepted) or 'none'}"
    enough = len(WRONG_VALUES) - len(accepted) >= FEWEST_REFUSALS
    report.add("wrong values", found, f"all, at least {FEWEST_REFUSALS}", enough and not accepted)
    if options.checkov:
        add_policies(report, options.checkov)
    Console(width=140).print(report.table)
    for values, _ in WRONG_VALUES:
        print(f"{values}\n    {refusal('--set', values)}")
    sys.exit(not report.met)


if __name__ == "__main__":
    main()
