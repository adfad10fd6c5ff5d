"""tritonclient in its four forms: each gets what `/v1/models/{name}/predict` answers."""

import asyncio
import base64
import functools
import gc
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.conftest import MAX_BYTES
from tests.support import pictures
from tests.support.onnx_models import write_model
from tests.support.references import MODELS
from tests.support.serving import Server
from tests.tasks.test_every_task import TINY
from tta_server.api.oip.grpc_server import MESSAGE_OVERHEAD

MODULES: dict[str, ModuleType] = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}
ALL_VIEWS = {"tta_stop": "all", "tta_min_views": "all"}
BUDGET_SECONDS = 10
"""A budget that a busy machine can keep."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Triton:
    """One of the four clients; each call has a connection of its own."""

    kind: str
    server: Server

    @property
    def is_http(self) -> bool:
        return self.kind.startswith("http")

    @property
    def address(self) -> str:
        return self.server.url.removeprefix("http://") if self.is_http else self.server.grpc

    @property
    def _tensors(self) -> ModuleType:
        return tritonclient.http if self.is_http else tritonclient.grpc

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        make = MODULES[self.kind].InferenceServerClient
        if not self.kind.endswith("aio"):
            with make(self.address) as client:
                return getattr(client, method)(*args, **options)

        async def run() -> Any:
            try:
                async with make(self.address) as client:
                    return await getattr(client, method)(*args, **options)
            finally:
                await asyncio.sleep(0)  # aiohttp's connections close at the loop's next turn

        if not method.startswith("is_"):
            return asyncio.run(run())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the client leaves these answers unread
            answer = asyncio.run(run())
            gc.collect()
        return answer

    def call_json(self, method: str, *args: Any, **options: Any) -> Any:
        """The response as JSON; over gRPC 64-bit numbers are strings."""
        answer = self.call(method, *args, **options)
        return answer if self.is_http else MessageToDict(answer, preserving_proto_field_name=True)

    def tensor(self, name: str, array: Array, datatype: str, **options: Any) -> Any:
        return self._tensors.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, **options)

    def images(self, *files: bytes) -> Any:
        return self.tensor("IMAGE", np.array(files, np.object_)[:, None], "BYTES")

    def pixels(self, array: Array) -> Any:
        return self.tensor("PIXELS", array, "UINT8")

    def shared(self) -> Any:
        tensor = self._tensors.InferInput("IMAGE", [1, 1], "BYTES")
        tensor.set_shared_memory("region", 100)
        return tensor

    def output(self, name: str, **options: Any) -> Any:
        return self._tensors.InferRequestedOutput(name, **options)

    def infer(
        self,
        model: str,
        tensor: Any,
        outputs: Sequence[Any] = (),
        tta: dict[str, Any] | None = None,
        **options: Any,
    ) -> "Result":
        """Predict with all views and a long budget, unless `tta` or `options` say otherwise."""
        options = {"timeout": BUDGET_SECONDS * 1_000_000, **options}
        outputs = [self.output(output) if isinstance(output, str) else output for output in outputs]
        parameters = ALL_VIEWS if tta is None else tta
        return Result(
            self.call("infer", model, [tensor], outputs=outputs or None, parameters=parameters or None, **options)
        )

    def refusal(self, model: str, tensor: Any, *args: Any, **options: Any) -> str:
        """The sentence of a refusal, which contains no traceback."""
        with pytest.raises(InferenceServerException) as caught:
            self.infer(model, tensor, *args, **options)
        sentence = caught.value.message()
        assert sentence
        assert "Traceback" not in sentence
        assert "tta_server" not in sentence
        return str(sentence)


class Result:
    """The response of an infer call, the same over both protocols."""

    def __init__(self, result: Any) -> None:
        self.result = result
        response = result.get_response()
        self.payload = response if isinstance(response, dict) else _as_dict(response)

    def __getitem__(self, name: str) -> Array:
        found: Array | None = self.result.as_numpy(name)
        assert found is not None, name
        return found

    def texts(self, name: str) -> list[str]:
        return [text if isinstance(text, str) else text.decode() for text in self[name].ravel()]

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.payload["parameters"])

    @property
    def views(self) -> int:
        return int(self.parameters["tta_views"])

    @property
    def outputs(self) -> list[str]:
        return [output["name"] for output in self.payload["outputs"]]


def _as_dict(response: Any) -> dict[str, Any]:
    payload: dict[str, Any] = MessageToDict(response, preserving_proto_field_name=True)
    parameters = {key: getattr(v, v.WhichOneof("parameter_choice")) for key, v in response.parameters.items()}
    return {**payload, "parameters": parameters}


@functools.cache
def predict(client: httpx.Client, model: str, image: bytes, **query: str) -> dict[str, Any]:
    """The answer of `/v1/models/{name}/predict` with all views."""
    query = {"budget_ms": str(BUDGET_SECONDS * 1000), "stop": "all", "min_views": "all", **query}
    response = client.post(f"/v1/models/{model}/predict", content=image, params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def sample(model: str) -> bytes:
    (path,) = (MODELS / model).glob("sample.*")
    return path.read_bytes()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


@pytest.fixture(params=MODULES)
def triton(request: pytest.FixtureRequest, server: Server) -> Triton:
    return Triton(request.param, server)


@pytest.fixture(params=["http", "http.aio"])
def web(request: pytest.FixtureRequest, server: Server) -> Triton:
    return Triton(request.param, server)


# ---- every task ----


def _classes(payload: dict[str, Any]) -> dict[str, Any]:
    top = payload["top"][0]
    return {"PROBABILITIES": payload["probabilities"], "LABEL": [top["label"]], "INDEX": [top["index"]]}


def _boxes(payload: dict[str, Any]) -> dict[str, Any]:
    names = {
        "BOXES": "box",
        "SCORES": "score",
        "LABELS": "label",
        "INDICES": "index",
        "VIEWS": "views",
        "OF": "of",
        "SPREAD": "spread",
    }
    columns = {name: [box[key] for box in payload["boxes"]] for name, key in names.items()}
    return {"COUNT": [len(payload["boxes"])], **columns}


def _points(payload: dict[str, Any]) -> dict[str, Any]:
    names = {"CONFIDENCE": "confidence", "VISIBLE": "visible", "SPREAD": "spread", "VIEWS": "views"}
    columns = {name: [point[key] for point in payload["keypoints"]] for name, key in names.items()}
    return {"KEYPOINTS": [[point["x"], point["y"]] for point in payload["keypoints"]], **columns}


def _picture(text: str) -> Array:
    return np.asarray(pictures.opened(base64.b64decode(text)))


def _maps(payload: dict[str, Any]) -> dict[str, Any]:
    return {"MASK": _picture(payload["mask"]), "AREA": list(payload["area"].values())}


EXPECTED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bloodcells": _boxes,
    "cifar10": _classes,
    "clothing": _classes,
    "mouse": _points,
    "nuclei": _maps,
    "nuclei-count": lambda payload: {"VALUES": list(payload["values"].values())},
}
ROUNDED = {"BOXES": 5.1e-4, "KEYPOINTS": 5.1e-4, "SPREAD": 5.1e-4}
"""JSON has these with 3 decimals."""


def check(result: Result, expected: dict[str, Any], row: int = 0) -> None:
    for name, value in expected.items():
        found = result[name][row]
        assert found.shape == np.shape(value), name
        if found.dtype == np.object_:
            assert result.texts(name)[row * len(value) :][: len(value)] == value
        else:
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=ROUNDED.get(name, 1e-5), err_msg=name)


def expectation(client: httpx.Client, model: str, image: bytes) -> dict[str, Any]:
    include = "probabilities" if EXPECTED[model] is _classes else ""
    return EXPECTED[model](predict(client, model, image, include=include)["prediction"])


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
    np.testing.assert_allclose(result["AGREEMENT"][0], _picture(payload["agreement"]) / 255, atol=0.51 / 255)
    assert result["AGREEMENT"].mean() == pytest.approx(payload["mean_agreement"], abs=1e-5)
    drawn = [_picture(picture) / 65_535 for picture in payload["probabilities"].values()]
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


def probabilities(result: Result) -> Array:
    return result["PROBABILITIES"]


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
    "no image": (lambda t: t.images(b"hello"), {}, "not an image"),
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
    """gRPC refuses it itself."""
    sentence = triton.refusal("clothing", triton.images(b"\xff\xd8" + bytes(5_000_000)))
    limit = MAX_BYTES if triton.is_http else MAX_BYTES + MESSAGE_OVERHEAD
    assert str(limit) in sentence, sentence


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


@pytest.fixture(params=MODULES)
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
