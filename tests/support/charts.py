"""Renders the Helm chart, and checks what it renders: core objects, those of operators, routes, queries."""

import copy
import functools
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tta_server.cli.sources import read_settings, unknown_variables
from tta_server.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "tta-server"
HELM = ROOT / "build" / "helm" / "helm"
VALUE_SETS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
KUBERNETES = "1.31"
RELEASE, NAMESPACE = "e", "vision"

Manifest = dict[str, Any]

ROUTES = """\
import {readFileSync} from "node:fs";
import * as gateway from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/index";
const {apiVersion, kind, ...rest} = JSON.parse(readFileSync(0));
try { new gateway[kind](rest).validate(); } catch (error) { console.error(error.message); process.exit(1); }
"""


class Invalid(Exception):
    """Why Kubernetes would not take an object."""


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60)


def template(*arguments: str | Path, chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    options = ("--namespace", NAMESPACE, "--kube-version", f"{KUBERNETES}.0")
    return helm("template", RELEASE, chart, *options, *arguments)


def render(*arguments: str | Path, chart: Path = CHART) -> list[Manifest]:
    done = template(*arguments, chart=chart)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]


@functools.cache
def _rendered(name: str) -> list[Manifest]:
    return render("--values", CHART / "ci" / f"{name}-values.yaml")


def render_set(name: str) -> list[Manifest]:
    """The objects of a set of values of `ci/`."""
    return copy.deepcopy(_rendered(name))


def notes(*arguments: str | Path, folder: Path) -> str:
    """NOTES.txt; Helm would print it of a cluster alone, so a copy of the chart in `folder` has it as an object."""
    chart = shutil.copytree(CHART, folder / "tta-server")
    shown = 'text: {{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}'
    (chart / "templates" / "notes.yaml").write_text(f"kind: Notes\nmetadata: {{name: notes}}\n{shown}\n")
    return str(one(render(*arguments, chart=chart), "Notes")["text"])


def refusal(*arguments: str | Path) -> str:
    """What Helm prints of values that the chart refuses; empty if it takes them."""
    done = template(*arguments)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.startswith(("- ", "Error: execution error"))]
    return "\n".join(re.sub(r"^Error: .*?\.(yaml|tpl|txt):\d+:\d+\): ", "", line) for line in lines)


def one(manifests: Iterable[Manifest], kind: str, name: str | None = None) -> Manifest:
    (found,) = (each for each in manifests if each["kind"] == kind and name in (None, each["metadata"]["name"]))
    return found


def server_container(manifests: Iterable[Manifest]) -> Manifest:
    """The server's container."""
    containers = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return next(each for each in containers if each["name"] == "server")


def environment(container: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


def validate(manifest: Manifest) -> None:
    """Checks an object of any kind that the chart makes. Raises Invalid; KeyError for another kind."""
    kind = manifest["kind"]
    group = manifest["apiVersion"].rpartition("/")[0]
    if group == "gateway.networking.k8s.io":
        _validate_route(manifest)
    elif group in ("keda.sh", "monitoring.coreos.com"):
        _validate_by_model(kind, manifest)
    else:
        _validate_core(manifest)


def _validate_core(manifest: Manifest) -> None:
    import kubernetes_validate

    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except Exception as error:  # of several classes without a common one
        raise Invalid(f"{manifest['kind']}: {error}") from error


def _validate_by_model(kind: str, manifest: Manifest) -> None:
    """By the operator's own types; these ignore keys that they do not know, so all must come back."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

    models: dict[str, Any] = {
        "ScaledObject": ScaledObject,
        "PrometheusRule": PrometheusRule,
        "ServiceMonitor": ServiceMonitor,
    }
    try:
        known = models[kind].model_validate(manifest).model_dump(by_alias=True, exclude_unset=True)
    except ValueError as error:
        raise Invalid(f"{kind}: {error}") from error
    if unknown := sorted(keys(manifest) - keys(known)):
        raise Invalid(f"{kind}: unknown keys {', '.join(unknown)}")


def _validate_route(manifest: Manifest) -> None:
    node = ["node", "--input-type=module", "--eval", ROUTES]
    text = json.dumps(manifest)
    done = subprocess.run(node, input=text, cwd=HELM.parent, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Invalid(f"{manifest['kind']}: {done.stderr}")


def keys(value: Any, place: str = "") -> set[str]:
    """The places of all keys."""
    if isinstance(value, Mapping):
        found = {f"{place}.{key}" for key in value}
        return found.union(*(keys(each, f"{place}.{key}") for key, each in value.items()))
    if isinstance(value, list):
        return set[str]().union(*(keys(each, f"{place}[]") for each in value))
    return set()


def queries(manifests: Iterable[Manifest]) -> dict[str, str]:
    """The PromQL of triggers and alerts, by name."""
    found: dict[str, str] = {}
    for each in manifests:
        if each["kind"] == "ScaledObject":
            found |= {trigger["name"]: trigger["metadata"]["query"] for trigger in each["spec"]["triggers"]}
        elif each["kind"] == "PrometheusRule":
            rules = [rule for group in each["spec"]["groups"] for rule in group["rules"]]
            found |= {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules}
    return found


def metrics_in(query: str) -> set[str]:
    """The server's metrics that a query names; raises ValueError if it is not PromQL."""
    import promql_parser

    promql_parser.parse(query)
    return set(re.findall(r"\btta_\w+", query))


def chart_script() -> Any:
    spec = importlib.util.spec_from_file_location("chart", ROOT / ".ci" / "chart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings_of(container: Manifest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the server reads of the container's variables; fails on one that it would not know."""
    variables = environment(container)
    assert not list(unknown_variables(variables))
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return read_settings(None, **dict.fromkeys(Settings.model_fields))
