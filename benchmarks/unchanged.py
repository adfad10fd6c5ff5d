"""Whether this checkout answers as another commit does: predictions, receipts, tensors, errors, OpenAPI, metric names.

Both serve their own code and models on two ports of this machine and get the same requests, one at a time, with a
budget that is never reached. Compared is every value of every answer but times and request ids; of errors the status
and the code; of OpenAPI everything but titles, summaries and descriptions. Sentences may differ. A stop rule is asked
after each batch, and each server measures at its start how large batches should be: where two answers that stopped
early are of different numbers of views, they are not compared. Needs git, and an environment that fits both commits.
"""

import argparse
import base64
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks.against import checkout
from benchmarks.server import MODELS, served

VOLATILE = {"elapsed_ms", "stages_ms", "request_id", "tta_elapsed_ms", "tta_request_id", "id", "error", "note"}
"""Keys of what differs from run to run, and of sentences."""
WORDS = {"title", "summary", "description"}
BUDGET = {"budget_ms": "60000", "min_views": "all", "stop": "all"}


@dataclass(frozen=True)
class Request:
    """A body makes it a POST."""

    path: str
    query: Mapping[str, str]
    body: bytes | None = None
    headers: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return f"{'GET' if self.body is None else 'POST'} {self.path}?{urllib.parse.urlencode(self.query)}"


def send(base: str, request: Request) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    url = f"{base}{request.path}?{urllib.parse.urlencode(request.query)}"
    message = urllib.request.Request(url, request.body, dict(request.headers or {}))
    try:
        with urllib.request.urlopen(message, timeout=120) as response:
            return response.status, response.headers.get_content_type(), response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get_content_type(), error.read()


def comparable(found: tuple[int, str, bytes]) -> Any:
    """An answer without what differs from run to run; pictures and other bytes as they are."""
    status, kind, body = found
    return status, kind, _stripped(json.loads(body), VOLATILE) if kind == "application/json" else body


def _stripped(value: Any, keys: set[str]) -> Any:
    """Without these keys, at any depth; receipts that are JSON in a string are read."""
    if isinstance(value, dict):
        return {key: _stripped(entry, keys) for key, entry in value.items() if key not in keys}
    if isinstance(value, list):
        return [_stripped(entry, keys) for entry in value]
    if isinstance(value, str) and value.startswith('{"views":'):
        return _stripped(json.loads(value), keys)
    return value


def requests(base: str) -> Iterator[Request]:
    """What `GET /v1/models` says can be asked, on each model's sample; then mistakes."""
    for listed in json.loads(send(base, Request("/v1/models", {}))[2])["models"]:
        name = listed["name"]
        about = json.loads(send(base, Request(f"/v1/models/{name}", {}))[2])
        image = next((MODELS / name).glob("sample.*")).read_bytes()
        yield from predictions(about, f"/v1/models/{name}/predict", image)
        yield from tensors(f"/v2/models/{name}/infer", image)
        yield Request(f"/v1/models/{name}", {})
        yield Request(f"/v2/models/{name}", {})
        yield Request(f"/v2/models/{name}/config", {})
        yield from mistakes(f"/v1/models/{name}/predict", image)
    for path in ("/v1/policies", "/v2", "/v1/models", "/v1/models/none", "/v2/models/none/infer", "/none"):
        yield Request(path, {})


def predictions(about: Mapping[str, Any], path: str, image: bytes) -> Iterator[Request]:
    yield Request(path, BUDGET, image)
    yield Request(path, BUDGET | {"max_views": "1"}, image)
    yield Request(path, BUDGET, image, {"Accept": "image/png"})
    for include in (*([each] for each in about["include"]), about["include"]):
        yield Request(path, BUDGET | {"include": ",".join(include)}, image)
    for merge in about["merges"]:
        yield Request(path, BUDGET | {"merge": merge, "include": ",".join(about["include"])}, image)
    for policy in (
        "plain",
        "hflip",
        "d4",
        "flips",
        "five_crop",
        "scales",
        '["identity",{"rotate":5},{"brightness":1.1}]',
    ):
        yield Request(path, BUDGET | {"policy": policy}, image)
    for stop in ("certain", '{"open":0.05}', '{"epsilon":0.02}', '{"tolerance":2}'):
        yield Request(path, {"budget_ms": "60000", "stop": stop}, image)


def tensors(path: str, image: bytes) -> Iterator[Request]:
    """All usual outputs, then the receipt beside them."""
    inputs = [{"name": "IMAGE", "datatype": "BYTES", "shape": [2], "data": [base64.b64encode(image).decode()] * 2}]
    asked = {"timeout": 60_000_000, "tta_min_views": "all", "tta_stop": "all"}
    for outputs in (None, [{"name": "RECEIPT"}], [{"name": "PROBABILITIES"}], [{"name": "AGREEMENT"}]):
        body = {"inputs": inputs, "parameters": asked} | ({} if outputs is None else {"outputs": outputs})
        yield Request(path, {}, json.dumps(body).encode())
    yield Request(path, BUDGET, image, {"Inference-Header-Content-Length": "0", "Accept": "application/json"})


def mistakes(path: str, image: bytes) -> Iterator[Request]:
    for query in (
        {"budget_ms": "-1"},
        {"budget_ms": "0.001"},
        {"policy": "none"},
        {"policy": '["hflip"]'},
        {"merge": "none"},
        {"stop": "never"},
        {"include": "none"},
        {"max_views": "0"},
        {"min_views": "99"},
        {"color": "red"},
    ):
        yield Request(path, query, image)
    for body in (b"", b"text", image[: len(image) // 2], b"GIF89a", b"\x89PNG\r\n\x1a\n"):
        yield Request(path, {}, body)


def stopped_apart(request: Request, old: Any, new: Any) -> bool:
    """True for answers that stopped after different numbers of views."""
    if request.query.get("stop", "all") == "all" or not old[0] == new[0] == 200:
        return False
    return len(old[2]["receipt"]["views"]) != len(new[2]["receipt"]["views"])


def schema(base: str) -> Any:
    return _stripped(json.loads(send(base, Request("/openapi.json", {}))[2]), WORDS)


def metric_names(base: str) -> set[str]:
    """With their labels' names."""
    text = send(base, Request("/metrics", {}))[2].decode()
    return {re.sub(r'="[^"]*"', "", line.rpartition(" ")[0]) for line in text.splitlines() if line.startswith("tta_")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the other commit")
    args = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    with (
        checkout(args.commit) as tree,
        served("--models", str(tree / "models"), "--slots", "1", tree=tree) as before,
        served("--slots", "1") as here,
    ):
        asked = list(requests(before.url))
        pairs = [(each, comparable(send(before.url, each)), comparable(send(here.url, each))) for each in asked]
        apart = [pair for pair in pairs if stopped_apart(*pair)]
        compared = [pair for pair in pairs if pair not in apart]
        differ = [f"{each}: {old[:2]} against {new[:2]}" for each, old, new in compared if old != new]
        differ += ["OpenAPI"] * (schema(before.url) != schema(here.url))
        differ += ["metric names"] * (metric_names(before.url) != metric_names(here.url))
    for line in differ:
        console.print(f"differs: {line}")
    statuses = sorted({old[0] for _, old, _ in pairs})
    console.print(
        f"{len(compared)} answers (statuses {statuses}), OpenAPI, metric names: {len(differ)} differ; target 0; "
        f"{len(apart)} stopped after different numbers of views"
    )
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
