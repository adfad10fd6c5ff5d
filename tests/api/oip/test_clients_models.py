"""Metadata, statistics and the tensors of every task, by all four of tritonclient's clients."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.support import pictures
from tests.support.onnx_models import write_model
from tests.support.serving import Server
from tests.support.triton import ALL_VIEWS, CLIENTS, EXPECTED, Triton, check, predict, sample
from tests.tasks.test_every_task import TINY

# ---- server and models ----


def test_the_server_has_a_name_and_version(triton: Triton) -> None:
    found = triton.call_json("get_server_metadata")
    assert (found["name"], bool(found["version"])) == ("tta-server", True)
    assert found["extensions"] == ["binary_tensor_data", "model_configuration", "schedule_policy", "statistics"]


def test_the_server_and_models_are_live_and_ready(triton: Triton) -> None:
    assert triton.call("is_server_live") is True
    assert triton.call("is_server_ready") is True
    assert triton.call("is_model_ready", "clothing") is True
    assert triton.call("is_model_ready", "clothing", "1") is True
    assert triton.call("is_model_ready", "clothing", "7") is False
    assert triton.call("is_model_ready", "clothes") is False


def test_metadata_describes_inputs(triton: Triton) -> None:
    found = triton.call_json("get_model_metadata", "nuclei")
    assert (found["name"], found["versions"]) == ("nuclei", ["1"])
    inputs = {i["name"]: (i["datatype"], [int(size) for size in i["shape"]]) for i in found["inputs"]}
    assert inputs == {"IMAGE": ("BYTES", [-1, 1]), "PIXELS": ("UINT8", [-1, -1, -1, 3])}


def test_a_model_s_config_is_triton_s(triton: Triton) -> None:
    found = triton.call_json("get_model_config", "clothing")
    found = found if triton.is_http else found["config"]
    assert (found["name"], int(found["max_batch_size"])) == ("clothing", 64)
    assert [entry["data_type"] for entry in found["input"]] == ["TYPE_STRING", "TYPE_UINT8"]
    assert [entry["name"] for entry in found["output"]] == ["PROBABILITIES", "LABEL", "INDEX", "RECEIPT"]
    assert found["parameters"]["tta_policy"] == {"string_value": "flip_and_shifts"}
    assert int(found["instance_group"][0]["count"]) == 2


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
def test_an_unknown_model_is_not_described(triton: Triton, method: str) -> None:
    with pytest.raises(InferenceServerException, match="unknown model 'clothes'"):
        triton.call(method, "clothes")
    with pytest.raises(InferenceServerException, match="clothing has only version 1"):
        triton.call(method, "clothing", "7")


def test_the_repository_lists_all_models(triton: Triton) -> None:
    found = triton.call_json("get_model_repository_index")
    found = found if triton.is_http else found["models"]
    assert [(m["name"], m["version"], m["state"]) for m in found] == [(name, "1", "READY") for name in sorted(EXPECTED)]


# ---- statistics ----


def statistics(triton: Triton, model: str) -> dict[str, int]:
    """Counts by name, and times as `<name>_ns`."""
    (found,) = triton.call_json("get_inference_statistics", model)["model_stats"]
    counts = {key: int(found.get(key, 0)) for key in ("inference_count", "execution_count", "last_inference")}
    for stage, duration in found["inference_stats"].items():
        counts[stage], counts[f"{stage}_ns"] = int(duration.get("count", 0)), int(duration.get("ns", 0))
    batches = found.get("batch_stats", [])
    counts["batches"] = sum(int(b["compute_infer"]["count"]) for b in batches)
    counts["batched_views"] = sum(int(b["batch_size"]) * int(b["compute_infer"]["count"]) for b in batches)
    return counts


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {key: after[key] - before.get(key, 0) for key in after}


STAGES = ("success", "queue", "compute_input", "compute_infer", "compute_output")


@pytest.mark.parametrize(("images", "views"), [(1, 3), (2, 6)])
def test_statistics_count_requests_and_views(triton: Triton, images: int, views: int) -> None:
    before = statistics(triton, "cifar10")
    triton.infer("cifar10", triton.images(*[sample("cifar10")] * images), tta=ALL_VIEWS | {"tta_max_views": 3})
    more = grown(before, statistics(triton, "cifar10"))
    assert {stage: more[stage] for stage in STAGES} == dict.fromkeys(STAGES, 1)
    assert (more["fail"], more["cache_hit"], more["cache_miss"]) == (0, 0, 0)
    assert more["inference_count"] == more["batched_views"] == views
    assert 1 <= more["execution_count"] == more["batches"] <= views
    assert more["compute_infer_ns"] > 0
    assert more["success_ns"] > 0
    assert more["last_inference"] > 0


def test_statistics_count_failures(triton: Triton) -> None:
    before = statistics(triton, "cifar10")
    triton.refusal("cifar10", triton.images(pictures.png()[:2000]))
    triton.refusal("cifar10", triton.images(b"hello"))
    more = grown(before, statistics(triton, "cifar10"))
    assert (more["fail"], more["success"], more["inference_count"]) == (2, 0, 0)
    assert more["fail_ns"] > 0


def test_statistics_of_all_models_at_once(triton: Triton) -> None:
    found = triton.call_json("get_inference_statistics")["model_stats"]
    assert [entry["name"] for entry in found] == sorted(EXPECTED)


# ---- tiny models of the other tasks, two images at most ----


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("embedding", "multilabel", "masks"):
        write_model(folder / name, *TINY[name])
    arguments = ("--port", "0", "--slots", "2", "--models", str(folder), "--max-batch", "2")
    with Server(*arguments) as running:
        assert running.url
        yield running


@pytest.fixture(params=CLIENTS)
def tiny(request: pytest.FixtureRequest, zoo: Server) -> Triton:
    return Triton(request.param, zoo)


def test_an_embedding_is_a_vector(tiny: Triton, zoo: Server) -> None:
    file = pictures.png(20, 30, seed=1)
    with zoo.client() as client:
        payload = predict(client, "embedding", file, policy="hflip")["prediction"]
    result = tiny.infer("embedding", tiny.images(file), tta=ALL_VIEWS | {"tta_policy": "hflip"})
    check(result, {"EMBEDDING": payload["embedding"]})


def test_several_labels_may_be_present(tiny: Triton, zoo: Server) -> None:
    array = np.zeros((8, 8, 3), np.uint8)
    array[..., 0] = 255
    array[..., 1] = 200
    with zoo.client() as client:
        payload = predict(client, "multilabel", pictures.encoded(array), include="probabilities")["prediction"]
    result = tiny.infer("multilabel", tiny.pixels(array))
    assert result["PRESENT"].tolist() == [[True, True, False]]
    check(result, {"PROBABILITIES": payload["probabilities"]})


def test_masks_that_overlap_are_booleans(tiny: Triton) -> None:
    array = np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8)
    result = tiny.infer("masks", tiny.pixels(np.stack([array, array[::-1]])))
    assert result.outputs == ["MASKS", "AREA"]
    expected = np.moveaxis(np.stack([array, array[::-1]]) >= 128, 3, 1)
    assert result["MASKS"].dtype == np.bool_
    assert np.array_equal(result["MASKS"], expected)
    assert np.array_equal(result["AREA"], expected.sum(axis=(2, 3)))


def test_the_limit_of_images_per_request_is_a_setting(tiny: Triton) -> None:
    arrays = np.zeros((3, 8, 8, 3), np.uint8)
    assert tiny.infer("embedding", tiny.pixels(arrays[:2]))["EMBEDDING"].shape == (2, 3)
    assert tiny.refusal("embedding", tiny.pixels(arrays)) == "a request takes 1 to 2 images (--max-batch), not 3"


def test_models_are_listed_from_the_folder(zoo: Server, tmp_path: Path) -> None:
    assert [m["name"] for m in Triton("http", zoo).call("get_model_repository_index")] == [
        "embedding",
        "masks",
        "multilabel",
    ]
