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

from tests.api.oip.test_clients import ALL_VIEWS, MODULES, SECONDS, Result, Triton, probabilities, sample
from tests.support.references import MODELS
from tests.support.serving import Server, until
from tests.support.toys import metric

pytestmark = pytest.mark.timing

IMAGE = sample("cifar10")
REFUSED = "loading and unloading models is disabled; the operator can enable it with --model-control"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`other` is there for all, `changing` is each test's own to change."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("other", "changing"):
        fresh(folder / name)
    return folder


def fresh(folder: Path) -> None:
    """Without its calibration, which fits its own policy and model file only."""
    shutil.copytree(MODELS / "cifar10", folder, ignore=shutil.ignore_patterns("calibration.json"))


@pytest.fixture(scope="module")
def controlled(folder: Path) -> Iterator[Server]:
    with Server("--port", "0", "--slots", "2", "--models", str(folder), "--model-control") as running:
        assert running.url
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


@pytest.fixture(params=MODULES)
def triton(request: pytest.FixtureRequest, controlled: Server) -> Triton:
    return Triton(request.param, controlled)


@pytest.fixture
def changing(folder: Path, controlled: Server) -> Iterator[Path]:
    """The folder of a model that is as it was, and loaded, after the test."""
    yield folder / "changing"
    shutil.rmtree(folder / "changing")
    fresh(folder / "changing")
    Triton("http", controlled).call("load_model", "changing")


def configure(folder: Path, **more: Any) -> None:
    path = folder / "tta.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | more))


def index(triton: Triton) -> dict[str, tuple[str, str, str]]:
    """Of each model: version, state, reason."""
    found = triton.tell("get_model_repository_index")
    found = found if triton.is_http else found["models"]
    return {m["name"]: (m.get("version", ""), m["state"], m.get("reason", "")) for m in found}


def ask(triton: Triton, model: str = "changing", **options: Any) -> Result:
    return triton.infer(model, triton.images(IMAGE), **options)


# ---- who may ----


@pytest.mark.parametrize("method", ["load_model", "unload_model"])
@pytest.mark.parametrize("kind", MODULES)
def test_nothing_is_loaded_or_unloaded_unless_the_server_was_told_so(server: Server, kind: str, method: str) -> None:
    triton = Triton(kind, server)
    with pytest.raises(InferenceServerException) as caught:
        triton.call(method, "cifar10")
    assert caught.value.message() == REFUSED
    assert caught.value.status() == ("403" if triton.is_http else "StatusCode.PERMISSION_DENIED")
    assert ask(triton, "cifar10").views == 6


def test_the_extension_is_told_where_it_is_on(triton: Triton) -> None:
    assert "model_repository" in triton.tell("get_server_metadata")["extensions"]


# ---- unloading ----


def test_an_unloaded_model_is_gone_until_it_is_loaded_again(triton: Triton, changing: Path) -> None:
    before = probabilities(ask(triton))
    triton.call("unload_model", "changing")
    assert "unknown model 'changing'; known: other" in triton.refusal("changing", triton.images(IMAGE))
    assert triton.call("is_model_ready", "changing") is False
    assert triton.call("is_model_ready", "other") is True
    assert triton.call("is_server_ready") is True
    assert index(triton) == {"changing": ("", "UNAVAILABLE", "not loaded"), "other": ("1", "READY", "")}
    np.testing.assert_allclose(probabilities(ask(triton, "other")), before, atol=1e-6)
    triton.call("load_model", "changing")
    assert triton.call("is_model_ready", "changing") is True
    np.testing.assert_allclose(probabilities(ask(triton)), before, atol=1e-6)
    assert index(triton)["changing"] == ("1", "READY", "")


@pytest.mark.parametrize("method", ["load_model", "unload_model"])
@pytest.mark.parametrize("name", ["nothing", "../models", "..", "other/1"])
def test_what_is_not_there_can_t_be_loaded_or_unloaded(triton: Triton, method: str, name: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton.call(method, name)
    told = caught.value.message()
    if not triton.is_http or name == "nothing":  # else it is another path
        assert "unknown model" in told or "there is no model" in told, told
    assert ask(triton).views == 6


def test_the_plain_door_and_health_follow(controlled: Server, changing: Path) -> None:
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


# ---- loading anew ----


def test_a_changed_policy_is_taken_over(triton: Triton, changing: Path) -> None:
    assert ask(triton).views == 6
    configure(changing, policy="hflip", budget={"default_ms": 4321, "max_ms": 9000, "min_views": 1})
    assert ask(triton).views == 6, "before it is loaded"
    triton.call("load_model", "changing")
    found = ask(triton).parameters
    assert (found["tta_views"], found["tta_policy"], found["tta_budget_ms"]) == (2, "hflip", 9000)
    assert ask(triton, timeout=None).parameters["tta_budget_ms"] == 4321
    assert ask(triton, "other").views == 6


def test_a_changed_model_file_is_taken_over(triton: Triton, changing: Path) -> None:
    before = probabilities(ask(triton))
    path = changing / "1" / "model.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    onnx.save(model, path)
    triton.call("load_model", "changing")
    np.testing.assert_allclose(probabilities(ask(triton)), 0.1, atol=1e-6)
    np.testing.assert_allclose(probabilities(ask(triton, "other")), before, atol=1e-6)


def test_a_new_version_is_taken_over(triton: Triton, changing: Path) -> None:
    (changing / "1").rename(changing / "2")
    triton.call("load_model", "changing")
    assert index(triton)["changing"] == ("2", "READY", "")
    assert ask(triton, model_version="2").told["model_version"] == "2"
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
def test_what_can_t_be_loaded_changes_nothing(
    controlled: Server, folder: Path, changing: Path, kind: str, mistake: str
) -> None:
    triton, (spoil, word) = Triton(kind, controlled), BROKEN[mistake]
    before = probabilities(ask(triton))
    spoil(changing)
    try:
        with pytest.raises(InferenceServerException) as caught:
            triton.call("load_model", "changing")
        assert word in caught.value.message()
        assert str(folder) not in caught.value.message(), "a client is told no paths"
        assert "ONNXRuntimeError" not in caught.value.message(), "nor a library's own words"
        np.testing.assert_allclose(probabilities(ask(triton)), before, atol=1e-6)
        assert index(triton)["changing"] == ("1", "READY", "")
    finally:
        changing.mkdir(exist_ok=True)  # for the fixture to remove


def test_requests_go_on_while_a_model_is_loaded_anew(controlled: Server, changing: Path) -> None:
    """None of them fails, and from some moment on all have the new policy."""
    stop, seen, failures = threading.Event(), list[int](), list[BaseException]()

    def keep_asking() -> None:
        triton = Triton("grpc", controlled)
        while not stop.is_set():
            try:
                seen.append(ask(triton).views)
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for policy, views in (("hflip", 2), ("plain", 1), ("hflip", 2)):
            until(lambda: seen or failures)
            configure(changing, policy=policy)
            Triton("http", controlled).call("load_model", "changing")
            assert ask(Triton("grpc", controlled)).views == views
            seen.clear()
            until(lambda: len(seen) > 6 or failures)
            assert set(seen[3:]) == {views}, "the first ones may have been on their way"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_who_is_admitted_is_answered_though_the_model_is_unloaded(controlled: Server, changing: Path) -> None:
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


def test_statistics_begin_anew_with_the_model(triton: Triton, changing: Path) -> None:
    def counts() -> tuple[int, int]:
        (found,) = triton.tell("get_inference_statistics", "changing")["model_stats"]
        return int(found.get("inference_count", 0)), int(found["inference_stats"]["success"].get("count", 0))

    triton.call("load_model", "changing")
    assert counts() == (0, 0)
    ask(triton)
    assert counts() == (6, 1)
    triton.call("load_model", "changing")
    assert counts() == (0, 0)


def test_a_model_unloaded_twice_is_unknown(triton: Triton, changing: Path) -> None:
    triton.call("unload_model", "changing")
    with pytest.raises(InferenceServerException, match="unknown model 'changing'"):
        triton.call("unload_model", "changing")


def test_only_ready_models_are_listed_where_asked(controlled: Server, changing: Path) -> None:
    Triton("http", controlled).call("unload_model", "changing")
    with controlled.client() as client:
        told = client.post("/v2/repository/index", json={"ready": True}).json()
    assert [model["name"] for model in told] == ["other"]


def test_a_batch_on_its_way_keeps_its_policy(controlled: Server, changing: Path) -> None:
    """As a whole: no image of it is answered by the new form."""
    triton = Triton("grpc", controlled)
    tensor, answers = triton.images(*[IMAGE] * 60), list[Result]()
    thread = threading.Thread(
        target=lambda: answers.append(
            triton.infer("changing", tensor, ["RECEIPT"], ALL_VIEWS, timeout=SECONDS * 1_000_000)
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
