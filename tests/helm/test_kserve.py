"""The manifests for KServe: a runtime that Kubernetes takes, and a command line that the server knows."""

from typing import Any

import pytest
import yaml

from tests.support.charts import ROOT, validate
from tests.support.commands import run
from tta_server import __version__
from tta_server.cli.sources import unknown_variables

pytestmark = pytest.mark.deploy
KSERVE = ROOT / "helm" / "kserve"


def runtime() -> dict[str, Any]:
    return yaml.safe_load((KSERVE / "cluster-serving-runtime.yaml").read_text())


def services() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KSERVE / "inference-service.yaml").read_text()))


def test_the_runtime_is_one_of_kserve() -> None:
    made = runtime()
    assert (made["apiVersion"], made["kind"]) == ("serving.kserve.io/v1alpha1", "ClusterServingRuntime")
    assert made["spec"]["protocolVersions"] == ["v2", "grpc-v2"]
    formats = {each["name"]: each for each in made["spec"]["supportedModelFormats"]}
    assert formats["tta"]["autoSelect"] is True
    assert formats["onnx"]["autoSelect"] is False  # or Triton would lose its models
    (container,) = made["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert container["image"] == f"tta-server:{__version__}"


def test_kubernetes_takes_the_pod_of_the_runtime() -> None:
    pytest.importorskip("kubernetes_validate", reason="needs the extra deploy")
    spec = runtime()["spec"]
    pod = {"containers": spec["containers"], "volumes": spec["volumes"]}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m"}, "spec": pod})
    for service in services():
        predictor = service["spec"]["predictor"]
        added = {key: predictor["model"][key] for key in ("lifecycle", "ports") if key in predictor["model"]}
        merged = pod | {"containers": [spec["containers"][0] | added]}
        merged["terminationGracePeriodSeconds"] = predictor["terminationGracePeriodSeconds"]
        validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m"}, "spec": merged})


def test_the_services_use_the_runtime() -> None:
    made = runtime()
    for service in services():
        model = service["spec"]["predictor"]["model"]
        assert model["runtime"] == made["metadata"]["name"]
        assert model["protocolVersion"] in made["spec"]["protocolVersions"]
        assert model["modelFormat"]["name"] in {each["name"] for each in made["spec"]["supportedModelFormats"]}
        assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] >= 5 + 10 + 5


def test_the_server_knows_the_command_line() -> None:
    (container,) = runtime()["spec"]["containers"]
    command = [*container["command"], *container["args"]]
    assert command[:2] == ["tta-server", "serve"]
    listed = run("serve", "--help").stdout
    flags = [word.partition("=")[0] for word in command[2:]]
    assert flags == ["--model", "--host", "--port", "--grpc-port"]
    known = flags if "--model " in listed else flags[1:]
    assert all(f"{flag} " in listed for flag in known)
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert not list(unknown_variables(variables))
    assert variables["TTA_MODELS"] == ""  # the image states a folder, which would be served beside the model
