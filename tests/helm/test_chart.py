"""What the chart renders: valid objects, settings that the server knows, pods that are restricted, paths that exist."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.charts import (
    CHART,
    HELM,
    RELEASE,
    ROOT,
    VALUE_SETS,
    Invalid,
    Manifest,
    environment,
    helm,
    metrics_in,
    notes,
    one,
    queries,
    refusal,
    render,
    render_set,
    server_container,
    validate,
)
from tests.support.serving import PATIENCE, Server
from tests.support.wrong_values import WRONG_VALUES
from tta_server import __version__
from tta_server.cli.sources import read_settings, unknown_variables
from tta_server.repository.loader import find_models, load_model
from tta_server.settings import Settings, public_name

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not HELM.is_file(), reason="needs Helm: make helm"),
]
SAMPLE = ROOT / "models" / "clothing" / "sample.jpg"
for_each_set = pytest.mark.parametrize("values", VALUE_SETS)


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


# ---- wrong values ----


def test_many_wrong_values_are_known() -> None:
    assert len(WRONG_VALUES) >= 20


@pytest.mark.parametrize(("values", "sentence"), WRONG_VALUES, ids=[values for values, _ in WRONG_VALUES])
def test_a_wrong_value_is_refused_with_a_sentence(values: str, sentence: str) -> None:
    assert sentence in refusal("--set", values)


def test_right_values_are_not_refused() -> None:
    assert refusal("--set", "replicas=2") == ""


# ---- settings ----

ORIGINS = st.lists(st.sampled_from(["https://a.example", "https://b.example:8443", "*"]), unique=True, max_size=2)


def values_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    kinds = {
        "integer": st.integers(low, schema.get("maximum", 10**12)),
        "number": st.integers(low, 10**6) | st.floats(low, 1e6),
        "boolean": st.booleans(),
    }
    return kinds[schema["type"]]


SETTINGS: dict[str, Any] = chart_script().settings_schema()["properties"]
NUMBERS = {name: schema for name, schema in SETTINGS.items() if schema.get("type") in ("integer", "number", "boolean")}
OPTIONAL = {name: values_of(schema) for name, schema in NUMBERS.items() if name != "drain_seconds"} | {
    "cors_origin": ORIGINS,
    "host": st.sampled_from(["0.0.0.0", "127.0.0.1", "::"]),
}


@given(st.fixed_dictionaries({"drain_seconds": st.integers(0, 300) | st.floats(0, 300)}, optional=OPTIONAL))
def test_settings_arrive_as_they_were_given(tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any]) -> None:
    values = tmp_path_factory.mktemp("values") / "values.yaml"
    values.write_text(yaml.safe_dump({"settings": given, "terminationGracePeriodSeconds": 10**7}))
    with pytest.MonkeyPatch.context() as patch:
        settings = settings_of(server_container(render("--values", values)), patch)
    found = {public_name(field): value for field, value in settings}
    assert {name: found[name] for name in given} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }


def test_every_setting_is_in_the_schema_or_has_a_key_of_the_chart() -> None:
    own = chart_script().OWN_KEYS
    assert {public_name(field) for field in Settings.model_fields.keys() - own} == set(SETTINGS)


def test_the_table_and_the_schema_are_up_to_date() -> None:
    for path, text in chart_script().written().items():
        assert path.read_text() == text, f"{path.name} is out of date: make chart"


def test_every_value_is_described() -> None:
    described = {key for key, _, _ in chart_script().rows((CHART / "values.yaml").read_text())}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert not [key for key in values if not any(each.split(".")[0] == key for each in described)]


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


def test_queries_parse_and_name_metrics_that_the_server_has(client: httpx.Client) -> None:
    pytest.importorskip("promql_parser", reason="needs the extra deploy")
    assert client.post("/v1/models/clothing/predict", content=SAMPLE.read_bytes()).status_code == 200
    page = client.get("/metrics").text
    asked = queries(render_set("keda"))
    assert {"backlog", "demand"} < set(asked)
    for name, query in asked.items():
        named = metrics_in(query)
        assert named, name
        for metric in named:
            assert f"\n# TYPE {metric.removesuffix('_sum')} " in page, f"{name} names {metric}"


def test_the_rules_are_those_of_the_dashboards() -> None:
    shared = ROOT / "dashboards" / "alerts.yaml"
    if not shared.is_file():
        pytest.skip("there is no dashboards/alerts.yaml")
    assert (CHART / "files" / "alerts.yaml").read_text() == shared.read_text()


def test_the_chart_has_a_dashboard_where_it_has_the_file(tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "tta-server")
    (copy / "files" / "dashboard.json").write_text('{"title": "{{ label }}"}')
    made = render("--set", "metrics.dashboard.enabled=true", chart=copy)
    config = one(made, "ConfigMap", f"{RELEASE}-tta-server-dashboard")
    assert config["data"]["tta-server.json"].strip() == '{"title": "{{ label }}"}'
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


# ---- single keys ----


def test_scaled_pods_have_no_number_of_their_own() -> None:
    assert one(render(), "Deployment")["spec"]["replicas"] == 1
    assert "replicas" not in one(render("--set", "autoscaling.kind=hpa"), "Deployment")["spec"]


def test_a_change_of_inline_models_restarts_the_pods(tmp_path: Path) -> None:
    def pods(text: str) -> object:
        values = tmp_path / "values.yaml"
        values.write_text(yaml.safe_dump({"models": {"source": "inline", "inline": {"m": text}}}))
        return one(render("--values", values), "Deployment")["spec"]["template"]

    assert pods("task: regression") == pods("task: regression") != pods("task: embedding")


def test_what_is_fetched_from_is_admitted_by_the_policy() -> None:
    policy = one(render_set("fetch-http"), "NetworkPolicy")
    assert {"ports": [{"port": 8080, "protocol": "TCP"}]} in policy["spec"]["egress"]
    policy = one(render_set("fetch-s3"), "NetworkPolicy")
    assert {"ports": [{"port": 443, "protocol": "TCP"}]} in policy["spec"]["egress"]


def test_a_store_that_speaks_s3_is_reached() -> None:
    store = ("models.fetch.url=s3://bucket/folder", "models.fetch.s3Endpoint=http://minio.storage:9000")
    made = render("--set", ",".join(["models.source=fetch", *store]))
    assert {"ports": [{"port": 9000, "protocol": "TCP"}]} in one(made, "NetworkPolicy")["spec"]["egress"]
    (fetch,) = one(made, "Deployment")["spec"]["template"]["spec"]["initContainers"]
    variables = environment(fetch)
    assert (variables["RCLONE_S3_PROVIDER"], variables["RCLONE_S3_ENDPOINT"]) == ("Other", "http://minio.storage:9000")
    assert fetch["args"][-2:] == [":s3,env_auth=true:bucket/folder", "/models"]


def test_models_of_config_maps_are_found(tmp_path: Path) -> None:
    """As the kubelet mounts them: links to links, beside a folder with two dots."""
    config = tmp_path / "..2026_11_28" / "cifar10"
    (config / "1").mkdir(parents=True)
    for name in ("tta.yaml", "1/model.onnx"):
        (config / name).write_bytes((ROOT / "models" / "cifar10" / name).read_bytes())
    (tmp_path / "..data").symlink_to("..2026_11_28")
    (tmp_path / "cifar10").symlink_to("..data/cifar10")
    (found,) = find_models(tmp_path)
    model = load_model(found)
    assert model.name == "cifar10"
    model.retire()


def test_secrets_are_mounted_without_more_than_is_needed() -> None:
    manifests = render_set("ingress-tls-keys")
    in_test = {each["name"]: each for each in one(manifests, "Pod")["spec"]["volumes"]}
    assert "tls.key" not in [item["key"] for item in in_test["tls"]["secret"]["items"]]
    for pod in (one(manifests, "Deployment")["spec"]["template"]["spec"], one(manifests, "Pod")["spec"]):
        modes = [each["secret"]["defaultMode"] for each in pod["volumes"] if "secret" in each]
        assert set(modes) == {0o440}


def test_the_commands_of_the_notes_work(client: httpx.Client, server: Server, tmp_path: Path) -> None:
    text = notes("--set", "test.model=clothing", folder=tmp_path)
    listing, predict = re.findall(r"^  (curl .*)$", text, re.MULTILINE)
    for command, expected in ((listing, "models"), (predict, "receipt")):
        here = command.replace("http://127.0.0.1:8000", server.url).replace("photo.jpg", str(SAMPLE))
        done = subprocess.run(here, shell=True, capture_output=True, text=True, timeout=PATIENCE)
        assert expected in json.loads(done.stdout)
    assert "Requests need no key" in text


def test_the_notes_name_keys_and_tls(tmp_path: Path) -> None:
    text = notes("--values", CHART / "ci" / "ingress-tls-keys-values.yaml", folder=tmp_path)
    assert 'curl --cacert CA.CRT -H "Authorization: Bearer $KEY" https://127.0.0.1:8000/v1/models\n' in text
    assert "Requests need no key" not in text


# ---- the page ----

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
COMMANDS = re.findall(r"^helm (?:install|upgrade) tta helm/tta-server((?:\\\n|.)*)$", PAGE, re.MULTILINE)
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_has_commands_and_values() -> None:
    assert (len(COMMANDS), len(BLOCKS)) == (3, 2)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_work(command: str) -> None:
    words = [word for word in shlex.split(command.replace("\\\n", " ")) if word != "--reuse-values"]
    assert one(render(*words), "Deployment")


@pytest.mark.parametrize("block", BLOCKS)
def test_values_of_the_page_work(block: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(block)
    assert one(render("--values", tmp_path / "values.yaml"), "Deployment")


def test_the_sentence_of_the_page_is_the_charts() -> None:
    assert f"```text\n{refusal('--set', 'models.source=pvc')}\n```" in PAGE
