"""What only shows while serving: a prediction that tta.yaml can't mean fails, a doubtful one has a warning."""

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support import pictures
from tests.support.onnx_models import graph, write_model
from tests.support.toys import metric, serving
from tta_server.repository.loader import load_model

CONFIG = """\
task: classification
labels: [a, b]
input: {size: [8, 8]}
output: {kind: probabilities}
policy: [identity, {brightness: 3}]
budget: {default_ms: 20000, max_ms: 20000}
"""
RIGHT, DOUBTFUL, WRONG, WRONG_IF_BRIGHT = (60, 60, 60), (60, 90, 60), (255, 0, 60), (40, 100, 40)
"""Mean colours, whose probabilities of b are 0.7 and, more, 0.82, -0.3 and 0.94 (1.23 in the second view)."""


def model() -> onnx.ModelProto:
    """Probabilities: 0.3 for a; for b 0.7, and as much more as the image is greener than red. Test images are grey."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["greener"]),
        helper.make_node("Add", ["greener", "usual"], ["scores"]),
    ]
    made = graph(
        nodes, ("n", 3, 8, 8), "float32", [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])]
    )
    for name, values in {"weights": [[0, -1], [0, 1], [0, 0]], "usual": [0.3, 0.7]}.items():
        made.graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), name))
    return made


@pytest.fixture(params=[CONFIG])
def client(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with serving(load_model(write_model(tmp_path / "greens", model(), request.param))) as http:
        yield http


def predicted(client: httpx.Client, color: tuple[int, int, int]) -> httpx.Response:
    image = pictures.encoded(np.full((8, 8, 3), color, np.uint8))
    return client.post("/v1/models/greens/predict", content=image, params={"stop": "all"})


def doubts(client: httpx.Client, check: str) -> float:
    return metric(client, f'tta_declaration_doubts_total{{check="{check}",model="greens"}}')


def test_a_right_answer_has_no_warnings(client: httpx.Client) -> None:
    assert "warnings" not in predicted(client, RIGHT).json()["receipt"]


def test_a_doubtful_answer_has_a_warning_and_is_counted(client: httpx.Client) -> None:
    receipt = predicted(client, DOUBTFUL).json()["receipt"]
    (warning,) = receipt["warnings"]
    assert "sum to 1.12" in warning or "sum to 1.29" in warning
    assert len(receipt["views"]) == 2
    assert doubts(client, "scores.sum") == 2


def test_an_answer_that_can_not_be_meant_fails_and_says_why(client: httpx.Client) -> None:
    reply = predicted(client, WRONG)
    assert reply.status_code == 502
    assert reply.json()["code"] == "backend_failed"
    assert "output.kind is probabilities, but the model gives -0.3 to 0.3" in reply.json()["error"]
    assert doubts(client, "scores.probabilities") >= 1


def test_an_optional_view_that_can_not_be_meant_is_left_out(client: httpx.Client) -> None:
    receipt = predicted(client, WRONG_IF_BRIGHT).json()["receipt"]
    assert [view["name"] for view in receipt["views"]] == ["plain"]
    assert receipt["dropped"] == 1
    assert any("0.3 to 1.2" in warning for warning in receipt["warnings"])


@pytest.mark.parametrize("client", [f"{CONFIG}checks: {{scores.probabilities: off, scores.sum: off}}\n"], indirect=True)
def test_a_check_that_is_off_lets_it_through(client: httpx.Client) -> None:
    reply = predicted(client, WRONG)
    assert reply.status_code == 200
    assert "warnings" not in reply.json()["receipt"]
    about = client.get("/v1/models/greens").json()
    assert about["checks_off"] == ["scores.probabilities", "scores.sum"]


def test_one_line_is_logged_for_many_doubts(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tta_server.telemetry.logs"):
        for _ in range(5):
            assert predicted(client, WRONG).status_code == 502
    lines = [record.getMessage() for record in caplog.records if record.name == "tta_server.telemetry.logs"]
    assert len(lines) == 1
    assert lines[0].startswith("model greens: output.kind is probabilities")
    assert "(check scores.probabilities)" in lines[0]
    assert not any(record.exc_info for record in caplog.records)
