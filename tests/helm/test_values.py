"""Single values of the chart: which are refused and how, settings, and what each key changes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.charts import (
    CHART,
    HELM,
    ROOT,
    chart_script,
    environment,
    one,
    refusal,
    render,
    render_set,
    server_container,
    settings_of,
)
from tests.support.examples import times
from tests.support.wrong_values import WRONG_VALUES
from tta_server.repository.loader import find_models, load_model
from tta_server.settings import Settings, public_name

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not HELM.is_file(), reason="needs Helm: make helm"),
]


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


@settings(max_examples=times(20))
@given(st.fixed_dictionaries({"drain_seconds": st.integers(0, 300) | st.floats(0, 300)}, optional=OPTIONAL))
def test_settings_arrive_as_they_were_given(tmp_path_factory: pytest.TempPathFactory, given: dict[str, Any]) -> None:
    values = tmp_path_factory.mktemp("values") / "values.yaml"
    values.write_text(yaml.safe_dump({"settings": given, "terminationGracePeriodSeconds": 10**7}))
    with pytest.MonkeyPatch.context() as patch:
        read = settings_of(server_container(render("--values", values)), patch)
    found = {public_name(field): value for field, value in read}
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
