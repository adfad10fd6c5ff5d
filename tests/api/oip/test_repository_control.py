"""Loading and unloading of models while the server runs, by all four of tritonclient's clients."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import numpy_helper
from tritonclient.utils import InferenceServerException

from tests.support.references import MODELS
from tests.support.serving import Server, until
from tests.support.toys import metric
from tests.support.triton import ALL_VIEWS, BUDGET_SECONDS, CLIENTS, Result, Triton, probabilities, sample

pytestmark = pytest.mark.timing

IMAGE = sample("cifar10")
REFUSED = "loading and unloading models is disabled; the operator can enable it with --model-control"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`other` is shared by all tests; each test may modify `changing`."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("other", "changing"):
        fresh(folder / name)
    return folder


def fresh(folder: Path) -> None:
    """Copy the model without its calibration, which belongs to its policy and model file."""
    shutil.copytree(MODELS / "cifar10", folder, ignore=shutil.ignore_patterns("calibration.json"))


@pytest.fixture(scope="module")
def controlled(folder: Path) -> Iterator[Server]:
    with Server("--port", "0", "--slots", "2", "--models", str(folder), "--model-control") as running:
        assert running.url
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


@pytest.fixture(params=CLIENTS)
def triton(request: pytest.FixtureRequest, controlled: Server) -> Triton:
    return Triton(request.param, controlled)


@pytest.fixture
def changing(folder: Path, controlled: Server) -> Iterator[Path]:
    """The folder of a model, restored and loaded after the test."""
    yield folder / "changing"
    shutil.rmtree(folder / "changing")
    fresh(folder / "changing")
    Triton("http", controlled).call("load_model", "changing")


def configure(folder: Path, **more: Any) -> None:
    path = folder / "tta.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | more))


def index(triton: Triton) -> dict[str, tuple[str, str, str]]:
    """Version, state and reason of each model."""
    found = triton.call_json("get_model_repository_index")
    found = found if triton.is_http else found["models"]
    return {m["name"]: (m.get("version", ""), m["state"], m.get("reason", "")) for m in found}


def infer_model(triton: Triton, model: str = "changing", **options: Any) -> Result:
    return triton.infer(model, triton.images(IMAGE), **options)


# ---- permission ----


@pytest.mark.parametrize("method", ["load_model", "unload_model"])
@pytest.mark.parametrize("kind", CLIENTS)
def test_without_model_control_nothing_is_loaded_or_unloaded(server: Server, kind: str, method: str) -> None:
    triton = Triton(kind, server)
    with pytest.raises(InferenceServerException) as caught:
        triton.call(method, "cifar10")
    assert caught.value.message() == REFUSED
    assert caught.value.status() == ("403" if triton.is_http else "StatusCode.PERMISSION_DENIED")
    assert infer_model(triton, "cifar10").views == 6


def test_the_extension_is_listed_with_model_control(triton: Triton) -> None:
    assert "model_repository" in triton.call_json("get_server_metadata")["extensions"]


# ---- unloading ----


def test_an_unloaded_model_is_gone_until_it_is_loaded_again(triton: Triton, changing: Path) -> None:
    before = probabilities(infer_model(triton))
    triton.call("unload_model", "changing")
    assert "unknown model 'changing'; known: other" in triton.refusal("changing", triton.images(IMAGE))
    assert triton.call("is_model_ready", "changing") is False
    assert triton.call("is_model_ready", "other") is True
    assert triton.call("is_server_ready") is True
    assert index(triton) == {"changing": ("", "UNAVAILABLE", "not loaded"), "other": ("1", "READY", "")}
    np.testing.assert_allclose(probabilities(infer_model(triton, "other")), before, atol=1e-6)
    triton.call("load_model", "changing")
    assert triton.call("is_model_ready", "changing") is True
    np.testing.assert_allclose(probabilities(infer_model(triton)), before, atol=1e-6)
    assert index(triton)["changing"] == ("1", "READY", "")


@pytest.mark.parametrize("method", ["load_model", "unload_model"])
@pytest.mark.parametrize("name", ["nothing", "../models", "..", "other/1"])
def test_what_is_not_there_can_t_be_loaded_or_unloaded(triton: Triton, method: str, name: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton.call(method, name)
    payload = caught.value.message()
    if not triton.is_http or name == "nothing":  # over HTTP the empty name is another path
        assert "unknown model" in payload or "there is no model" in payload, payload
    assert infer_model(triton).views == 6


def test_predict_and_health_follow(controlled: Server, changing: Path) -> None:
    triton = Triton("grpc", controlled)
    with controlled.client() as client, grpc.insecure_channel(controlled.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="changing"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        triton.call("unload_model", "changing")
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["other"]
        assert client.get("/v1/models/changing").status_code == 404
        assert client.post("/v1/models/changing/predict", content=IMAGE).status_code == 404
        assert client.get("/readyz").status_code == 200
        assert metric(client, 'tta_model_ready{model="changing"}') == 0
        assert metric(client, 'tta_model_ready{model="other"}') == 1
        triton.call("load_model", "changing")
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        assert metric(client, 'tta_model_ready{model="changing"}') == 1
        assert client.get("/v1/models/changing").status_code == 200


# ---- reloading ----


def test_a_changed_policy_is_reloaded(triton: Triton, changing: Path) -> None:
    assert infer_model(triton).views == 6
    configure(changing, policy="hflip", budget={"default_ms": 4321, "max_ms": 9000, "min_views": 1})
    assert infer_model(triton).views == 6, "before it is loaded"
    triton.call("load_model", "changing")
    found = infer_model(triton).parameters
    assert (found["tta_views"], found["tta_policy"], found["tta_budget_ms"]) == (2, "hflip", 9000)
    assert infer_model(triton, timeout=None).parameters["tta_budget_ms"] == 4321
    assert infer_model(triton, "other").views == 6


def test_a_changed_model_file_is_reloaded(triton: Triton, changing: Path) -> None:
    before = probabilities(infer_model(triton))
    path = changing / "1" / "model.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    onnx.save(model, path)
    triton.call("load_model", "changing")
    np.testing.assert_allclose(probabilities(infer_model(triton)), 0.1, atol=1e-6)
    np.testing.assert_allclose(probabilities(infer_model(triton, "other")), before, atol=1e-6)


def test_a_new_version_is_reloaded(triton: Triton, changing: Path) -> None:
    (changing / "1").rename(changing / "2")
    triton.call("load_model", "changing")
    assert index(triton)["changing"] == ("2", "READY", "")
    assert infer_model(triton, model_version="2").payload["model_version"] == "2"
    assert "changing has only version 2" in triton.refusal("changing", triton.images(IMAGE), model_version="1")


def test_a_model_that_is_new_in_the_folder_can_be_loaded(controlled: Server, folder: Path) -> None:
    triton = Triton("http", controlled)
    shutil.copytree(MODELS / "nuclei-count", folder / "new")
    try:
        assert index(triton)["new"] == ("", "UNAVAILABLE", "not loaded")
        triton.call("load_model", "new")
        assert triton.infer("new", triton.images(sample("nuclei-count")))["VALUES"].shape == (1, 1)
        triton.call("unload_model", "new")
    finally:
        shutil.rmtree(folder / "new")
    assert "new" not in index(triton)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an unknown policy": (lambda folder: configure(folder, policy="everything"), "policy"),
    "an unknown key": (lambda folder: configure(folder, colour="RGB"), "colour"),
    "no YAML": (lambda folder: (folder / "tta.yaml").write_text("a: [\n"), "tta.yaml"),
    "another model's calibration": (
        lambda folder: shutil.copy(MODELS / "clothing" / "calibration.json", folder),
        "calibration.json",
    ),
    "no config": (lambda folder: (folder / "tta.yaml").unlink(), "changing"),
    "no model": (lambda folder: (folder / "1" / "model.onnx").write_bytes(b"no model"), "model.onnx"),
    "nothing at all": (shutil.rmtree, "changing"),
}


@pytest.mark.parametrize("mistake", BROKEN)
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_failed_load_changes_nothing(
    controlled: Server, folder: Path, changing: Path, kind: str, mistake: str
) -> None:
    triton, (spoil, word) = Triton(kind, controlled), BROKEN[mistake]
    before = probabilities(infer_model(triton))
    spoil(changing)
    try:
        with pytest.raises(InferenceServerException) as caught:
            triton.call("load_model", "changing")
        assert word in caught.value.message()
        assert str(folder) not in caught.value.message(), "no paths in errors"
        assert "ONNXRuntimeError" not in caught.value.message(), "nor a library's own words"
        np.testing.assert_allclose(probabilities(infer_model(triton)), before, atol=1e-6)
        assert index(triton)["changing"] == ("1", "READY", "")
    finally:
        changing.mkdir(exist_ok=True)  # for the fixture to remove


def test_requests_are_answered_while_a_model_is_reloaded(controlled: Server, changing: Path) -> None:
    """None fails, and from some moment on all have the new policy."""
    stop, seen, failures = threading.Event(), list[int](), list[BaseException]()

    def keep_asking() -> None:
        triton = Triton("grpc", controlled)
        while not stop.is_set():
            try:
                seen.append(infer_model(triton).views)
            except BaseException as error:  # noqa: BLE001 - asserted below
                failures.append(error)

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for policy, views in (("hflip", 2), ("plain", 1), ("hflip", 2)):
            until(lambda: seen or failures)
            configure(changing, policy=policy)
            Triton("http", controlled).call("load_model", "changing")
            assert infer_model(Triton("grpc", controlled)).views == views
            seen.clear()
            until(lambda: len(seen) > 6 or failures)
            assert set(seen[3:]) == {views}, "the first ones may have been on their way"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_admitted_requests_are_answered_when_the_model_is_unloaded(controlled: Server, changing: Path) -> None:
    triton = Triton("grpc", controlled)
    answers: list[Result] = []
    tensor = triton.images(*[IMAGE] * 60)
    thread = threading.Thread(target=lambda: answers.append(triton.infer("changing", tensor)))
    thread.start()
    with controlled.client() as client:
        until(lambda: metric(client, "tta_jobs") > 0 or answers)
        triton.call("unload_model", "changing")
    thread.join()
    assert answers[0]["PROBABILITIES"].shape == (60, 10)
    assert answers[0].views == 6


def test_statistics_restart_with_the_model(triton: Triton, changing: Path) -> None:
    def counts() -> tuple[int, int]:
        (found,) = triton.call_json("get_inference_statistics", "changing")["model_stats"]
        return int(found.get("inference_count", 0)), int(found["inference_stats"]["success"].get("count", 0))

    triton.call("load_model", "changing")
    assert counts() == (0, 0)
    infer_model(triton)
    assert counts() == (6, 1)
    triton.call("load_model", "changing")
    assert counts() == (0, 0)


def test_a_model_unloaded_twice_is_unknown(triton: Triton, changing: Path) -> None:
    triton.call("unload_model", "changing")
    with pytest.raises(InferenceServerException, match="unknown model 'changing'"):
        triton.call("unload_model", "changing")


def test_only_ready_models_are_listed_on_request(controlled: Server, changing: Path) -> None:
    Triton("http", controlled).call("unload_model", "changing")
    with controlled.client() as client:
        payload = client.post("/v2/repository/index", json={"ready": True}).json()
    assert [model["name"] for model in payload] == ["other"]


def test_a_running_request_keeps_its_policy(controlled: Server, changing: Path) -> None:
    """No image of it is answered by the reloaded model."""
    triton = Triton("grpc", controlled)
    tensor, answers = triton.images(*[IMAGE] * 60), list[Result]()
    thread = threading.Thread(
        target=lambda: answers.append(
            triton.infer("changing", tensor, ["RECEIPT"], ALL_VIEWS, timeout=BUDGET_SECONDS * 1_000_000)
        )
    )
    thread.start()
    with controlled.client() as client:
        until(lambda: metric(client, "tta_jobs") > 0 or answers)
    configure(changing, policy="hflip")
    triton.call("load_model", "changing")
    thread.join()
    digests = {yaml.safe_load(text)["policy"]["digest"] for text in answers[0].texts("RECEIPT")}
    assert len(digests) == 1
