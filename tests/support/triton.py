"""tritonclient in its four forms, and what `/v1/models/{name}/predict` answers, for comparison."""

import asyncio
import base64
import functools
import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from tritonclient.utils import InferenceServerException

from tests.support import pictures
from tests.support.references import MODELS
from tests.support.serving import Server

MODULES: dict[str, ModuleType] = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}
CLIENTS = [pytest.param(kind, marks=pytest.mark.slow) if kind.endswith("aio") else kind for kind in MODULES]
"""For fixtures: those without asyncio, and those with it among the slow tests."""
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


def picture_of(text: str) -> Array:
    return np.asarray(pictures.opened(base64.b64decode(text)))


def _maps(payload: dict[str, Any]) -> dict[str, Any]:
    return {"MASK": picture_of(payload["mask"]), "AREA": list(payload["area"].values())}


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


def probabilities(result: Result) -> Array:
    return result["PROBABILITIES"]
