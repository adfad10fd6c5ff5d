"""Asks a server for one inference over HTTP and one over gRPC, with an image made here, and checks the answers.

Exits with 0, or with 1 and a sentence.
"""

import argparse
import io
import json
import ssl
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException


class Wrong(Exception):
    """What is wrong with the server, as a sentence."""


def check(is_right: bool, sentence: str) -> None:
    if not is_right:
        raise Wrong(sentence)


def picture() -> bytes:
    """A PNG of 256x192 pixels: two gradients and a disc."""
    y, x = np.mgrid[:192, :256]
    disc = np.hypot(x - 128, y - 96) < 60
    pixels = np.stack([x, y, np.where(disc, 255, 40)], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Http:
    """The JSON API at `url`; `authority` is a PEM file that signs its certificate."""

    def __init__(self, url: str, key: str | None, authority: Path | None) -> None:
        self._url, self._headers = url, {"Authorization": f"Bearer {key}"} if key else {}
        self._tls = None
        if authority:
            self._tls = ssl.create_default_context(cafile=str(authority))
            self._tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a server's own certificate may be all there is

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> dict[str, Any]:
        """The JSON of an answer with status 200. Raises Wrong."""
        request = urllib.request.Request(self._url + path, body, self._headers | headers)
        try:
            with urllib.request.urlopen(request, timeout=60, context=self._tls) as response:
                found: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise Wrong(f"{path} has status {error.code}: {error.read().decode(errors='replace')}") from error
        except OSError as error:
            raise Wrong(f"{self._url} can't be reached: {error}") from error
        return found


def choose(http: Http, wanted: str | None) -> tuple[str, str]:
    """Name and task of a model that is ready."""
    models = http.ask("/v1/models")["models"]
    states = {model["name"]: (model["state"], model["task"]) for model in models}
    listed = ", ".join(f"{name} ({state})" for name, (state, _) in states.items()) or "none"
    ready = [name for name, (state, _) in states.items() if state == "ready" and wanted in (None, name)]
    check(bool(ready), f"no model {wanted or ''} is ready; models: {listed}".replace("  ", " "))
    return ready[0], states[ready[0]][1]


def infer_http(http: Http, model: str, task: str, budget_ms: int) -> str:
    request_id = uuid.uuid4().hex
    path = f"/v1/models/{model}/predict?budget_ms={budget_ms}"
    answer = http.ask(path, picture(), **{"X-Request-Id": request_id, "Content-Type": "image/png"})
    receipt = answer["receipt"]
    found = answer["model"], answer["task"], receipt["request_id"]
    check(found == (model, task, request_id), f"HTTP answers {found}, not {(model, task, request_id)}")
    check(bool(answer["prediction"]), "HTTP: the prediction is empty")
    check(0 < len(receipt["views"]) <= receipt["planned"], f"HTTP: the receipt is wrong: {receipt}")
    return f"{len(receipt['views'])} of {receipt['planned']} views, {receipt['stop_reason']}"


def infer_grpc(address: str, model: str, budget_ms: int, key: str | None, authority: Path | None) -> str:
    image = triton.InferInput("IMAGE", [1], "BYTES")
    image.set_data_from_numpy(np.array([picture()], object))
    headers = {"authorization": f"Bearer {key}"} if key else None
    tls = {"ssl": True, "root_certificates": str(authority)} if authority else {}
    client = triton.InferenceServerClient(address, **tls)
    try:
        result = client.infer(model, [image], headers=headers, client_timeout=budget_ms / 1e3 + 5)
    except InferenceServerException as error:
        raise Wrong(f"gRPC at {address} fails: {error}") from error
    finally:
        client.close()
    answer = result.get_response()
    check(answer.model_name == model, f"gRPC answers for {answer.model_name}, not {model}")
    check(len(answer.outputs) > 0, "gRPC: no output")
    views = answer.parameters["tta_views"].int64_param
    check(0 < views <= answer.parameters["tta_planned"].int64_param, f"gRPC: {views} views")
    return f"{views} views, {len(answer.outputs)} outputs"


def authority_in(folder: Path) -> Path:
    """The authority of a TLS Secret, or its certificate if it has none. Raises Wrong."""
    for name in ("ca.crt", "tls.crt"):
        if (folder / name).is_file():
            return folder / name
    raise Wrong(f"{folder} has neither ca.crt nor tls.crt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="as http://NAME.NAMESPACE.svc:8000")
    parser.add_argument("grpc", help="as NAME.NAMESPACE.svc:8001")
    parser.add_argument("--model", help="default: the first that is ready")
    parser.add_argument("--budget-ms", type=int, default=10_000)
    parser.add_argument("--tls-folder", type=Path, help="with ca.crt or tls.crt")
    parser.add_argument("--key-file", type=Path, help="with the bearer key, if requests need one")
    options = parser.parse_args()
    key = options.key_file.read_text().strip() if options.key_file else None
    try:
        authority = authority_in(options.tls_folder) if options.tls_folder else None
        http = Http(options.url, key, authority)
        model, task = choose(http, options.model)
        sys.stdout.write(f"HTTP: {model} ({task}): {infer_http(http, model, task, options.budget_ms)}\n")
        found = infer_grpc(options.grpc, model, options.budget_ms, key, authority)
        sys.stdout.write(f"gRPC: {model}: {found}\n")
    except Wrong as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
