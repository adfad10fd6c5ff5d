"""tritonclient in its four forms: each gets what `/v1/models/{name}/predict` answers."""

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import triton_to_np_dtype

from tests.support import pictures
from tests.support.serving import Server
from tests.support.triton import (
    ALL_VIEWS,
    EXPECTED,
    ROUNDED,
    Triton,
    check,
    expectation,
    picture_of,
    predict,
    probabilities,
    sample,
)


@pytest.mark.parametrize("model", EXPECTED)
def test_every_output_agrees_with_predict(triton: Triton, client: httpx.Client, model: str) -> None:
    image = sample(model)
    result, expected = triton.infer(model, triton.images(image)), expectation(client, model, image)
    assert result.outputs == list(expected)
    check(result, expected)


@pytest.mark.parametrize("model", EXPECTED)
def test_types_and_shapes_are_those_of_the_metadata(triton: Triton, model: str) -> None:
    outputs = triton.call_json("get_model_metadata", model)["outputs"]
    result = triton.infer(model, triton.images(sample(model)), [output["name"] for output in outputs])
    assert result.outputs == [output["name"] for output in outputs]
    for output in outputs:
        found, stated = result[output["name"]], [int(size) for size in output["shape"]]
        assert found.dtype == triton_to_np_dtype(output["datatype"])
        assert len(found.shape) == len(stated)
        assert all(size in (-1, own) for size, own in zip(stated, found.shape, strict=True)), output


def test_a_segmentation_has_agreement_and_probabilities_on_request(triton: Triton, client: httpx.Client) -> None:
    image = pictures.encoded(pictures.nuclei())
    payload = predict(client, "nuclei", image, include="agreement,probabilities")["prediction"]
    result = triton.infer("nuclei", triton.images(image), ["AGREEMENT", "PROBABILITIES"])
    assert result.outputs == ["AGREEMENT", "PROBABILITIES"]
    np.testing.assert_allclose(result["AGREEMENT"][0], picture_of(payload["agreement"]) / 255, atol=0.51 / 255)
    assert result["AGREEMENT"].mean() == pytest.approx(payload["mean_agreement"], abs=1e-5)
    drawn = [picture_of(picture) / 65_535 for picture in payload["probabilities"].values()]
    np.testing.assert_allclose(result["PROBABILITIES"][0], drawn, atol=1e-5)
    np.testing.assert_allclose(result["PROBABILITIES"].sum(axis=1), 1, atol=1e-5)


def test_a_receipt_comes_on_request(triton: Triton, client: httpx.Client) -> None:
    image = sample("clothing")
    (text,) = triton.infer("clothing", triton.images(image), ["RECEIPT"]).texts("RECEIPT")
    receipt, expected = json.loads(text), predict(client, "clothing", image)["receipt"]
    assert list(receipt) == list(expected)
    for key in ("views", "planned", "dropped", "merge", "stop", "stop_reason", "policy"):
        assert receipt[key] == expected[key]
    assert receipt["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)


def test_a_receipt_has_views_and_uncertainty_on_request(triton: Triton, client: httpx.Client) -> None:
    image, include = sample("clothing"), "views,uncertainty"
    tta = ALL_VIEWS | {"tta_include": include}
    result = triton.infer("clothing", triton.images(image), ["RECEIPT", "LABEL"], tta)
    receipt = json.loads(result.texts("RECEIPT")[0])
    payload = predict(client, "clothing", image, include=include)
    assert receipt["uncertainty"] == pytest.approx(payload["receipt"]["uncertainty"], abs=1e-4)
    assert [view["label"] for view in receipt["views"]] == [view["label"] for view in payload["receipt"]["views"]]
    assert result.texts("LABEL") == [payload["prediction"]["top"][0]["label"]]


def test_only_the_requested_outputs_come(triton: Triton) -> None:
    tensor = triton.images(sample("bloodcells"))
    assert triton.infer("bloodcells", tensor, ["SCORES", "COUNT"]).outputs == ["SCORES", "COUNT"]
    assert triton.infer("bloodcells", tensor, ["LABELS"]).outputs == ["LABELS"]


# ---- formats ----


def test_an_image_may_come_as_jpeg_png_or_pixels(triton: Triton, client: httpx.Client) -> None:
    array = pictures.pixels(90, 70, seed=4)
    for file in (pictures.encoded(array), pictures.encoded(array, "JPEG", quality=90)):
        check(triton.infer("clothing", triton.images(file)), expectation(client, "clothing", file))
    expected = expectation(client, "clothing", pictures.encoded(array))
    check(triton.infer("clothing", triton.pixels(array)), expected)
    check(triton.infer("clothing", triton.pixels(array[None])), expected)
    flat = triton.tensor("IMAGE", np.array([pictures.encoded(array)], np.object_), "BYTES")
    check(triton.infer("clothing", flat), expected)


@pytest.mark.parametrize("binary", [True, False], ids=["bytes out", "JSON out"])
def test_tensors_may_be_json(web: Triton, client: httpx.Client, binary: bool) -> None:
    array = pictures.pixels(24, 18, seed=5)
    file = pictures.encoded(array)
    texts = np.array([[base64.b64encode(file)]], np.object_)
    tensors = [
        web.tensor("IMAGE", texts, "BYTES", binary_data=False),
        web.tensor("PIXELS", array, "UINT8", binary_data=False),
        web.tensor("PIXELS", np.stack([array, array]), "UINT8", binary_data=False),
        web.images(file),
    ]
    outputs = [web.output(name, binary_data=binary) for name in ("LABEL", "PROBABILITIES", "INDEX")]
    for tensor in tensors:
        result = web.infer("clothing", tensor, outputs)
        assert ["data" in output for output in result.payload["outputs"]] == [not binary] * 3
        check(result, expectation(client, "clothing", file))


def test_an_output_may_be_json_beside_others_in_bytes(web: Triton, client: httpx.Client) -> None:
    file = sample("bloodcells")
    names = ("COUNT", "BOXES", "LABELS", "SCORES")
    outputs = [web.output(name, binary_data=name in ("BOXES", "LABELS")) for name in names]
    result, expected = (
        web.infer("bloodcells", web.images(file), outputs),
        expectation(client, "bloodcells", file),
    )
    assert ["data" in output for output in result.payload["outputs"]] == [True, False, False, True]
    check(result, {name: expected[name] for name in names})


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_http_bodies_may_be_compressed(web: Triton, client: httpx.Client, algorithm: str) -> None:
    file = pictures.encoded(pictures.nuclei())
    both = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    check(web.infer("nuclei", web.images(file), **both), expectation(client, "nuclei", file))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_http_answers_are_compressed_where_the_client_takes_that(client: httpx.Client, algorithm: str) -> None:
    triton = tritonclient.http
    tensor = triton.InferInput("PIXELS", [90, 80, 3], "UINT8").set_data_from_numpy(np.zeros((90, 80, 3), np.uint8))
    body, length = triton.InferenceServerClient.generate_request_body([tensor])
    headers = {"Inference-Header-Content-Length": str(length), "Accept-Encoding": algorithm}
    response = client.post("/v2/models/nuclei/infer", content=body, headers=headers)
    assert response.headers["content-encoding"] == algorithm
    length = int(response.headers["Inference-Header-Content-Length"])
    result = triton.InferenceServerClient.parse_response_body(response.content, header_length=length)
    assert result.as_numpy("MASK").shape == (1, 90, 80)


def test_the_query_of_a_raw_image_has_its_options(client: httpx.Client) -> None:
    headers = {"Inference-Header-Content-Length": "0", "Accept": "application/json"}

    def ask(query: str) -> dict[str, Any]:
        body = pictures.png()
        found: dict[str, Any] = client.post(f"/v2/models/clothing/infer?{query}", content=body, headers=headers).json()
        return found

    assert ask("max_views=1&budget_ms=9000")["parameters"]["tta_planned"] == 1
    assert ask("foo=1")["error"].startswith("unknown key 'foo'; known: budget_ms, ")
    assert ask("max_views=1&max_views=2")["error"] == "max_views is given more than once"
    assert ask("max_views=2&min_views=3")["error"].startswith("min_views is 3, but only 2 views are planned")


def test_a_query_is_refused_where_the_body_is_json(client: httpx.Client) -> None:
    response = client.post("/v2/models/clothing/infer?max_views=1", json={"inputs": []})
    assert response.status_code == 400
    assert "unknown key 'max_views' in the query" in response.json()["error"]


@pytest.mark.parametrize("kind", ["grpc", "grpc.aio"])
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_grpc_messages_may_be_compressed(server: Server, client: httpx.Client, kind: str, algorithm: str) -> None:
    triton, file = Triton(kind, server), pictures.encoded(pictures.nuclei())
    result = triton.infer("nuclei", triton.images(file), compression_algorithm=algorithm)
    check(result, expectation(client, "nuclei", file))


# ---- several images ----


def test_each_image_of_a_request_is_answered_as_if_alone(triton: Triton) -> None:
    files = [pictures.jpeg(60, 80, seed=1), pictures.png(130, 50, seed=2), sample("clothing")]
    together = triton.infer("clothing", triton.images(*files))
    alone = [triton.infer("clothing", triton.images(file)) for file in files]
    np.testing.assert_allclose(probabilities(together), np.concatenate([probabilities(r) for r in alone]), atol=1e-5)
    assert together.texts("LABEL") == [label for result in alone for label in result.texts("LABEL")]
    assert together["LABEL"].shape == together["INDEX"].shape == (3, 1)


def test_pixels_of_several_images_are_a_stack(triton: Triton) -> None:
    arrays = [pictures.pixels(60, 50, seed) for seed in range(3)]
    stacked = triton.infer("cifar10", triton.pixels(np.stack(arrays)))
    alone = [probabilities(triton.infer("cifar10", triton.pixels(array))) for array in arrays]
    np.testing.assert_allclose(probabilities(stacked), np.concatenate(alone), atol=1e-5)


def test_boxes_of_several_images_are_filled_up_and_counted(triton: Triton, client: httpx.Client) -> None:
    whole = sample("bloodcells")
    part = io.BytesIO()
    pictures.opened(whole).crop((0, 0, 200, 240)).save(part, "PNG")
    files = [part.getvalue(), whole, pictures.encoded(np.full((64, 64, 3), 255, np.uint8))]
    result = triton.infer("bloodcells", triton.images(*files))
    counts = result["COUNT"].ravel().tolist()
    assert counts[0] < counts[1] == max(counts)
    labels = np.array(result.texts("LABELS")).reshape(3, -1)
    for row, (count, file) in enumerate(zip(counts, files, strict=True)):
        expected = expectation(client, "bloodcells", file)
        assert count == expected["COUNT"][0]
        for name in ("BOXES", "SCORES", "INDICES", "VIEWS", "OF", "SPREAD"):
            value = np.array(expected[name]).reshape(count, *result[name].shape[2:])
            np.testing.assert_allclose(result[name][row, :count], value, atol=ROUNDED.get(name, 1e-5), err_msg=name)
            assert (result[name][row, count:] == (-1 if name == "INDICES" else 0)).all(), name
        assert labels[row].tolist() == expected["LABELS"] + [""] * (max(counts) - count)


def test_masks_of_images_of_one_size_are_a_stack(triton: Triton, client: httpx.Client) -> None:
    files = [pictures.encoded(pictures.nuclei(seed=seed)) for seed in range(2)]
    result = triton.infer("nuclei", triton.images(*files))
    for row, file in enumerate(files):
        check(result, expectation(client, "nuclei", file), row)


def test_masks_of_images_of_several_sizes_are_refused_and_their_areas_are_not(triton: Triton) -> None:
    tensor = triton.images(*(pictures.encoded(pictures.nuclei(width)) for width in (64, 80, 96)))
    sentence = triton.refusal("nuclei", tensor)
    assert "MASK has a value for every pixel" in sentence
    assert "the images of one request must have one size, but they are 64x80 and 80x80" in sentence
    areas = triton.infer("nuclei", tensor, ["AREA"])["AREA"]
    assert areas.sum(axis=1).tolist() == [64 * 80, 80 * 80, 96 * 80]
