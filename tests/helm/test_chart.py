"""What the chart renders for each set of values: valid objects, restricted pods, a server that takes its settings."""

import json
import shutil
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.charts import (
    CHART,
    HELM,
    RELEASE,
    ROOT,
    VALUE_SETS,
    Invalid,
    helm,
    metrics_in,
    one,
    queries,
    render,
    render_set,
    server_container,
    settings_of,
    validate,
)
from tta_server import __version__
from tta_server.settings import public_name

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not HELM.is_file(), reason="needs Helm: make helm"),
]
SAMPLE = ROOT / "models" / "clothing" / "sample.jpg"
for_each_set = pytest.mark.parametrize("values", VALUE_SETS)


# ---- all sets of values ----


def test_there_are_sets_of_values_of_all_kinds() -> None:
    assert len(VALUE_SETS) >= 12


@for_each_set
def test_the_chart_is_linted_without_a_warning(values: str) -> None:
    done = helm("lint", "--strict", CHART, "--values", CHART / "ci" / f"{values}-values.yaml")
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@for_each_set
def test_every_object_is_valid(values: str) -> None:
    pytest.importorskip("kubernetes_validate", reason="needs the extra deploy")
    manifests = render_set(values)
    assert {"Deployment", "Service", "Pod"} <= {each["kind"] for each in manifests}
    for each in manifests:
        validate(each)


@pytest.mark.parametrize(
    ("values", "kind", "place", "wrong"),
    [
        ("default", "Deployment", ("spec", "replica"), 1),
        ("keda", "ScaledObject", ("spec", "minReplicas"), 1),
        ("keda", "ServiceMonitor", ("spec", "endpoint"), []),
        ("gateway", "HTTPRoute", ("spec", "hostnames"), [7]),
    ],
)
def test_an_invalid_object_would_be_found(values: str, kind: str, place: tuple[str, str], wrong: object) -> None:
    pytest.importorskip("kubernetes_validate", reason="needs the extra deploy")
    manifest = one(render_set(values), kind)
    manifest[place[0]][place[1]] = wrong
    with pytest.raises(Invalid):
        validate(manifest)


@for_each_set
def test_the_server_takes_its_command_and_variables(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    container = server_container(render_set(values))
    assert [*container["command"], *container["args"]] == ["tta-server", "serve"]
    settings = settings_of(container, monkeypatch)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (settings.port, settings.grpc_port, settings.host) == (ports["http"], ports["grpc"], "0.0.0.0")
    stated = yaml.safe_load((CHART / "ci" / f"{values}-values.yaml").read_text()).get("settings", {})
    by_name = {public_name(field): value for field, value in settings}
    assert {name: by_name[name] for name in stated} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()
    }


@for_each_set
def test_every_pod_is_restricted(values: str) -> None:
    """The profile `restricted` of Pod Security, and more: a read-only root, no token, limits, no host."""
    manifests = render_set(values)
    pods = [one(manifests, "Deployment")["spec"]["template"]["spec"], one(manifests, "Pod")["spec"]]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


@for_each_set
def test_every_mount_has_its_volume(values: str) -> None:
    pod = one(render_set(values), "Deployment")["spec"]["template"]["spec"]
    volumes = [each["name"] for each in pod["volumes"]]
    mounts = {
        m["name"] for c in [*pod["containers"], *pod.get("initContainers", [])] for m in c.get("volumeMounts", [])
    }
    assert len(volumes) == len(set(volumes))
    assert mounts == set(volumes)


@for_each_set
def test_selectors_find_the_server_and_not_the_test(values: str) -> None:
    manifests = render_set(values)
    deployment = one(manifests, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    test_labels = one(manifests, "Pod")["metadata"]["labels"]
    selectors = [deployment["selector"]["matchLabels"]]
    selectors += [each["spec"]["selector"] for each in manifests if each["kind"] == "Service"]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in manifests if each["kind"] == "NetworkPolicy"]
    selectors += [
        each["spec"]["selector"]["matchLabels"] for each in manifests if each["kind"] == "PodDisruptionBudget"
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= test_labels.items()
    for monitor in (each for each in manifests if each["kind"] == "ServiceMonitor"):
        found = [
            each["metadata"]["name"]
            for each in manifests
            if each["kind"] == "Service"
            and monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
        ]
        assert found == [one(manifests, "Deployment")["metadata"]["name"]]


@for_each_set
def test_a_pod_has_time_to_end(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render_set(values)
    container = server_container(manifests)
    grace = one(manifests, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert waits >= 1
    assert grace >= waits + settings_of(container, monkeypatch).drain_seconds + 2


# ---- the server behind it ----


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__
    assert server_container(render())["image"] == f"tta-server:{__version__}"
    assert server_container(render("--set", "gpu.enabled=true"))["image"] == f"tta-server:{__version__}-gpu"


def test_probes_ask_for_paths_that_need_no_key(client: httpx.Client) -> None:
    container = server_container(render())
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert client.get(container[name]["httpGet"]["path"]).status_code == 200
    with_tls = server_container(render("--set", "tls.secretName=tls"))
    assert {with_tls[name]["httpGet"]["scheme"] for name in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        "HTTPS"
    }


def test_triggers_parse_and_name_metrics_that_the_server_has(client: httpx.Client) -> None:
    pytest.importorskip("promql_parser", reason="needs the extra deploy")
    assert client.post("/v1/models/clothing/predict", content=SAMPLE.read_bytes()).status_code == 200
    page = client.get("/metrics").text
    asked = queries(each for each in render_set("keda") if each["kind"] == "ScaledObject")
    assert {"backlog", "demand"} == set(asked)
    for name, query in asked.items():
        named = metrics_in(query)
        assert named, name
        for metric in named:
            assert f"\n# TYPE {metric.removesuffix('_sum')} " in page, f"{name} names {metric}"


def test_rules_and_dashboard_are_installed() -> None:
    enabled = ("--set", "metrics.prometheusRule.enabled=true", "--set", "metrics.dashboard.enabled=true")
    made = render(*enabled)
    rules = one(made, "PrometheusRule", f"{RELEASE}-tta-server")["spec"]
    assert rules == yaml.safe_load((ROOT / "dashboards" / "alerts.yaml").read_text())
    config = one(made, "ConfigMap", f"{RELEASE}-tta-server-dashboard")["data"]["tta-server.json"]
    assert json.loads(config) == json.loads((ROOT / "dashboards" / "tta-server.json").read_text())


def test_the_dashboard_is_no_template(tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "tta-server")
    (copy / "files" / "dashboard.json").write_text('{"title": "{{ label }}"}')
    made = render("--set", "metrics.dashboard.enabled=true", chart=copy)
    config = one(made, "ConfigMap", f"{RELEASE}-tta-server-dashboard")
    assert config["data"]["tta-server.json"].strip() == '{"title": "{{ label }}"}'
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
