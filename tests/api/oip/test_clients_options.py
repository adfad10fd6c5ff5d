"""Parameters of infer requests, and refusals, by all four of tritonclient's clients."""

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.conftest import MAX_BYTES
from tests.support import pictures
from tests.support.triton import ALL_VIEWS, BUDGET_SECONDS, Triton, check, expectation, predict, probabilities, sample
from tta_server.api.oip.grpc_server import MESSAGE_OVERHEAD

# ---- parameters ----


def test_the_response_has_the_receipt_as_parameters(triton: Triton) -> None:
    result = triton.infer("clothing", triton.images(sample("clothing")), request_id="mine 1")
    assert result.payload["id"] == "mine 1"
    assert (result.payload["model_name"], result.payload["model_version"]) == ("clothing", "1")
    found = result.parameters
    assert (found["tta_views"], found["tta_planned"], found["tta_stop"]) == (8, 8, "all_views")
    assert (found["tta_merge"], found["tta_policy"]) == ("mean_probabilities", "flip_and_shifts")
    assert found["tta_budget_ms"] == BUDGET_SECONDS * 1000
    assert 0 < found["tta_elapsed_ms"] < BUDGET_SECONDS * 1000
    assert found["tta_request_id"]


@pytest.mark.parametrize(
    ("tta", "query"),
    [
        ({"tta_policy": "hflip"}, {"policy": "hflip"}),
        ({"tta_policy": '["identity", {"shift": [2, 0]}]'}, {"policy": '["identity", {"shift": [2, 0]}]'}),
        ({"tta_max_views": 3}, {"max_views": "3"}),
        ({"tta_max_views": "3", "tta_merge": "vote"}, {"max_views": "3", "merge": "vote"}),
        ({"tta_max_views": 1}, {"max_views": "1"}),
    ],
    ids=lambda found: "-".join(found) if all(key.startswith("tta") for key in found) else "",
)
def test_parameters_mean_the_same_as_the_query_of_predict(
    triton: Triton, client: httpx.Client, tta: dict[str, Any], query: dict[str, str]
) -> None:
    image = sample("cifar10")
    expected = predict(client, "cifar10", image, include="probabilities", **query)
    result = triton.infer("cifar10", triton.images(image), tta=ALL_VIEWS | tta)
    np.testing.assert_allclose(probabilities(result)[0], expected["prediction"]["probabilities"], atol=1e-5)
    receipt = expected["receipt"]
    assert result.views == len(receipt["views"])
    assert result.parameters["tta_merge"] == receipt["merge"]
    assert result.parameters["tta_policy"] == receipt["policy"]["name"]


@pytest.mark.parametrize("stop", ["certain", '{"epsilon": 0.05}'])
def test_a_stop_rule_may_be_requested(triton: Triton, stop: str) -> None:
    """How early it ends a request depends on how many views share a batch."""
    result = triton.infer("cifar10", triton.images(sample("cifar10")), ["RECEIPT"], {"tta_stop": stop})
    receipt = json.loads(result.texts("RECEIPT")[0])
    assert receipt["stop"] == (stop if stop == "certain" else json.loads(stop))
    assert result.parameters["tta_stop"] == receipt["stop_reason"]
    assert receipt["stop_reason"] in ("certain", "confident", "all_views")
    assert result.views == 6 or receipt["stop_reason"] != "all_views"


def test_a_priority_is_accepted(triton: Triton, client: httpx.Client) -> None:
    image = sample("cifar10")
    for priority in (0, 1, 2, 7):
        check(triton.infer("cifar10", triton.images(image), priority=priority), expectation(client, "cifar10", image))


def test_a_version_may_be_named(triton: Triton) -> None:
    tensor = triton.images(sample("cifar10"))
    assert triton.infer("cifar10", tensor, model_version="1").payload["model_version"] == "1"
    assert triton.refusal("cifar10", tensor, model_version="7") == "cifar10 has only version 1, not '7'"


def test_too_small_a_budget_is_refused_at_once(triton: Triton) -> None:
    sentence = triton.refusal("nuclei", triton.images(sample("nuclei")), timeout=50)
    assert "give a budget of at least" in sentence, sentence


# ---- refusals ----

PIXELS = np.zeros((8, 8, 3), np.uint8)

MISTAKES: dict[str, tuple[Callable[[Triton], Any], dict[str, Any], str]] = {
    "a wrong type": (
        lambda t: t.tensor("PIXELS", PIXELS.astype(np.float32), "FP32"),
        {},
        "PIXELS takes the datatype UINT8, not 'FP32'",
    ),
    "pixels as an image": (
        lambda t: t.tensor("IMAGE", PIXELS, "UINT8"),
        {},
        "IMAGE takes the datatype BYTES, not 'UINT8'",
    ),
    "channels first": (
        lambda t: t.pixels(np.zeros((3, 8, 8), np.uint8)),
        {},
        "PIXELS takes the shape [H, W, 3] or [B, H, W, 3], upright RGB pixels, not [3, 8, 8]",
    ),
    "images in a square": (
        lambda t: t.tensor("IMAGE", np.full((2, 2), b"x", np.object_), "BYTES"),
        {},
        "IMAGE takes the shape [B] or [B, 1] for B images, not [2, 2]",
    ),
    "an unknown input": (
        lambda t: t.tensor("input0", PIXELS, "UINT8"),
        {},
        "unknown input 'input0'; inputs are IMAGE (BYTES) and PIXELS (UINT8)",
    ),
    "an unknown output": (
        lambda t: t.pixels(PIXELS),
        {"outputs": ["MASK"]},
        "unknown output 'MASK'; clothing has PROBABILITIES, LABEL, INDEX, RECEIPT",
    ),
    "an output twice": (
        lambda t: t.pixels(PIXELS),
        {"outputs": ["LABEL", "LABEL"]},
        "an output is requested twice",
    ),
    "an unknown parameter": (
        lambda t: t.pixels(PIXELS),
        {"tta": {"tta_views": 3}},
        "unknown parameter 'tta_views'; known: tta_policy, tta_max_views, tta_min_views, tta_merge, tta_stop",
    ),
    "an unknown policy": (lambda t: t.pixels(PIXELS), {"tta": {"tta_policy": "everything"}}, "everything"),
    "no views": (lambda t: t.pixels(PIXELS), {"tta": {"tta_max_views": 0}}, "tta_max_views takes"),
    "more views than there are": (
        lambda t: t.pixels(PIXELS),
        {"tta": {"tta_max_views": 2, "tta_min_views": 3}},
        "tta_min_views is 3, but only 2 views are planned",
    ),
    "an unknown model": (
        lambda t: t.pixels(PIXELS),
        {"model": "clothes"},
        "unknown model 'clothes'; known: bloodcells",
    ),
    "no image": (lambda t: t.images(b"hello"), {}, "supported format"),
    "an empty image": (lambda t: t.images(b""), {}, "empty"),
    "half a JPEG": (lambda t: t.images(pictures.jpeg()[:1000]), {}, "broken"),
    "half a PNG among others": (lambda t: t.images(pictures.png(), pictures.png()[:2000]), {}, "broken"),
    "too many images": (lambda t: t.images(*[b"x"] * 65), {}, "a request takes 1 to 64 images (--max-batch), not 65"),
    "shared memory": (
        lambda t: t.shared(),
        {},
        "shared_memory_region, a parameter of IMAGE, is not supported; send and receive whole tensors without it",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_invalid_request_is_refused_with_its_reason(triton: Triton, mistake: str) -> None:
    tensor, options, sentence = MISTAKES[mistake]
    found = triton.refusal(**{"model": "clothing", "tensor": tensor(triton), **options})
    assert sentence in found, found


def test_two_inputs_are_refused(triton: Triton) -> None:
    both = [triton.pixels(PIXELS), triton.images(pictures.png())]
    with pytest.raises(InferenceServerException, match="one input, IMAGE or PIXELS, not 2: PIXELS, IMAGE"):
        triton.call("infer", "clothing", both)


def test_outputs_in_shared_memory_are_refused(triton: Triton) -> None:
    output = triton.output("LABEL")
    output.set_shared_memory("region", 100)
    assert "shared_memory_region, a parameter of LABEL" in triton.refusal("clothing", triton.pixels(PIXELS), [output])


def test_classes_by_name_are_refused(triton: Triton) -> None:
    output = triton.output("PROBABILITIES", class_count=2)
    assert "classification, a parameter of PROBABILITIES" in triton.refusal("clothing", triton.pixels(PIXELS), [output])


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's
def test_an_image_over_the_limit_is_refused(triton: Triton, client: httpx.Client) -> None:
    sentence = triton.refusal("clothing", triton.images(b"\xff\xd8" + bytes(MAX_BYTES)))
    assert re.search(rf"\b{MAX_BYTES}\b.*--max-bytes", sentence), sentence
    check(triton.infer("clothing", triton.pixels(PIXELS)), expectation(client, "clothing", pictures.encoded(PIXELS)))


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_message_far_over_the_limit_is_refused(triton: Triton) -> None:
    """Over gRPC the library refuses it."""
    sentence = triton.refusal("clothing", triton.images(b"\xff\xd8" + bytes(5_000_000)))
    limit = MAX_BYTES if triton.is_http else MAX_BYTES + MESSAGE_OVERHEAD
    assert str(limit) in sentence, sentence
