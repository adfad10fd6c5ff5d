"""What infer requests and responses mean, the same over HTTP and gRPC."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.onnx_models import segmenter, write_model
from tests.support.patterns import noise
from tests.support.pictures import encoded
from tests.tasks.test_every_task import config
from tta_server.api.oip.http_codec import read_raw
from tta_server.api.oip.metadata import find_model
from tta_server.api.oip.semantics import InferCommand, InferRequest, build_response, parse_request, read_parameters
from tta_server.api.oip.tensors import InputTensor
from tta_server.application import Application
from tta_server.errors import InvalidInput, TooLarge, TTAError, UnknownModel
from tta_server.repository.loader import load_model
from tta_server.scheduling.jobs import Priority
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller
from tta_server.serving.plan import Options
from tta_server.settings import Settings
from tta_server.views.geometry import Size

MAX_IMAGES = 4
PIXELS = InputTensor("PIXELS", "UINT8", (1, 1, 3), b"\x01\x02\x03")


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """A ready application with a segmentation model and one slot."""
    settings = config("segmentation", {"size": "free"}, {"kind": "probabilities"})
    folder = write_model(tmp_path_factory.mktemp("models") / "toy", segmenter(), settings)
    ready = Application(
        Settings(models=folder.parent, slots=1, max_images_per_request=MAX_IMAGES), [load_model(folder)]
    )
    ready.warm()
    yield ready
    ready.close()


def infer_request(*outputs: str, model: str = "toy", version: str = "", **parameters: Any) -> InferRequest:
    return InferRequest(model, version, [PIXELS], outputs, parameters)


# ---- models and outputs ----


@pytest.mark.parametrize("version", ["", "1"])
def test_a_version_may_be_left_out(application: Application, version: str) -> None:
    assert parse_request(application, infer_request(version=version)).model.name == "toy"


@pytest.mark.parametrize("version", ["2", "01", "1 ", "x" * 1000])
def test_another_version_is_unknown(application: Application, version: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        parse_request(application, infer_request(version=version))
    assert str(caught.value) == f"toy has only version 1, not {version[:64]!r}"


def test_an_unknown_model_names_the_known_ones(application: Application) -> None:
    with pytest.raises(UnknownModel, match=r"^unknown model 'other'; known: toy$"):
        find_model(application, "other")


def test_without_requested_outputs_the_default_ones_come(application: Application) -> None:
    command = parse_request(application, infer_request())
    assert [spec.name for spec in command.specs] == ["MASK", "AREA"]
    assert command.options.tensors == {"MASK", "AREA"}


@given(names=st.permutations(["MASK", "AREA", "AGREEMENT", "PROBABILITIES", "RECEIPT"]), number=st.integers(1, 5))
def test_requested_outputs_keep_their_order(application: Application, names: list[str], number: int) -> None:
    command = parse_request(application, infer_request(*names[:number]))
    assert [spec.name for spec in command.specs] == names[:number]
    assert command.options.tensors >= set(names[:number]) - {"RECEIPT"}
    assert "RECEIPT" not in command.options.tensors


def test_a_receipt_alone_computes_one_tensor(application: Application) -> None:
    """Otherwise an unused prediction would be computed."""
    assert parse_request(application, infer_request("RECEIPT")).options.tensors == {"MASK"}


def test_invalid_outputs_are_refused(application: Application) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_request(application, infer_request("mask"))
    assert str(caught.value) == "unknown output 'mask'; toy has MASK, AREA, AGREEMENT, PROBABILITIES, RECEIPT"
    with pytest.raises(InvalidInput, match=r"^an output is requested twice$"):
        parse_request(application, infer_request("MASK", "AREA", "MASK"))


def test_images_up_to_the_limit_are_accepted(application: Application) -> None:
    for number in (1, MAX_IMAGES):
        tensor = InputTensor("PIXELS", "UINT8", (number, 1, 1, 3), bytes(3 * number))
        assert len(parse_request(application, InferRequest("toy", "", [tensor])).images) == number
    tensor = InputTensor("PIXELS", "UINT8", (MAX_IMAGES + 1, 1, 1, 3), bytes(3 * MAX_IMAGES + 3))
    with pytest.raises(InvalidInput, match=r"^a request takes 1 to 4 images \(--max-batch\), not 5$"):
        parse_request(application, InferRequest("toy", "", [tensor]))


# ---- parameters ----


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({}, Options()),
        ({"timeout": 0}, Options()),
        ({"timeout": 2500}, Options(budget_ms=2.5)),
        ({"priority": 0}, Options()),
        ({"priority": 1}, Options()),
        ({"priority": 2}, Options(priority=Priority.BATCH)),
        ({"priority": 2**64 - 1}, Options(priority=Priority.BATCH)),
        ({"tta_policy": "hflip"}, Options(policy="hflip")),
        ({"tta_max_views": 2}, Options(max_views=2)),
        ({"tta_max_views": "2"}, Options(max_views=2)),
        ({"tta_min_views": "all"}, Options(min_views="all")),
        ({"tta_min_views": 2}, Options(min_views=2)),
        ({"tta_merge": "vote"}, Options(merge="vote")),
        ({"tta_stop": '{"epsilon": 0.01}'}, Options(stop='{"epsilon": 0.01}')),
        ({"sequence_id": 4, "headers": "x", "binary_data_output": True}, Options()),
    ],
    ids=str,
)
def test_parameters_by_hand(parameters: dict[str, Any], options: Options) -> None:
    assert read_parameters(parameters) == options


QUERIES: list[tuple[dict[str, str], str]] = [
    ({"foo": "1"}, "unknown key 'foo'; known: budget_ms, priority, policy, max_views, min_views, merge, stop, include"),
    ({"top_k": "1"}, "unknown key 'top_k'; known: budget_ms, "),
    ({"tta_max_views": "1"}, "unknown key 'tta_max_views'; known: "),
    ({"max_views": "0"}, "max_views takes a whole number of at least 1, not '0'"),
    ({"include": "drawing"}, "include takes uncertainty and views, which RECEIPT contains, not 'drawing'"),
]


@pytest.mark.parametrize(("query", "reason"), QUERIES, ids=[str(query) for query, _ in QUERIES])
def test_the_query_of_a_raw_request_is_read_as_predicts_is(
    application: Application, query: dict[str, str], reason: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_request(application, read_raw(b"", "toy", "", "", query).request)
    assert str(caught.value).startswith(reason)


def test_the_query_of_a_raw_request_holds_its_options(application: Application) -> None:
    query = {"max_views": "1", "budget_ms": "50", "priority": "batch", "include": "views"}
    options = parse_request(application, read_raw(b"", "toy", "", "", query).request, 0.02).options
    assert (options.max_views, options.budget_ms, options.priority) == (1, 20, Priority.BATCH)
    assert options.include == {"views"}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InvalidInput("min_views is 3, but 2 are planned"), "tta_min_views is 3, but 2 are planned"),
        (TooLarge("too many tiles: ask for max_views=2 or less"), "too many tiles: ask for tta_max_views=2 or less"),
        (InvalidInput("no such stop; ask for another, stop=all"), "no such stop; ask for another, tta_stop=all"),
        (InvalidInput("unknown merge 'stop'"), "unknown merge 'stop'"),
    ],
    ids=str,
)
def test_an_error_of_the_plan_names_options_as_parameters(
    application: Application, error: TTAError, sentence: str
) -> None:
    with pytest.raises(type(error)) as caught, parse_request(application, infer_request()).client_option_names():
        raise error
    assert str(caught.value) == sentence
    raw = parse_request(application, read_raw(encoded(noise(Size(4, 4))), "toy", "", "").request)
    with pytest.raises(type(error)) as caught, raw.client_option_names():
        raise error
    assert str(caught.value) == str(error)


@pytest.mark.parametrize(
    "parameters",
    [
        {"tta_budget_ms": 5},
        {"tta_max_views": 0},
        {"tta_max_views": "many"},
        {"tta_max_views": True},
        {"tta_max_views": 1.5},
        {"tta_min_views": -1},
        {"tta_min_views": "some"},
        {"timeout": 2.0},
        {"timeout": "2"},
        {"timeout": True},
        {"timeout": -1},
        {"priority": -1},
        {"priority": 1.0},
    ],
    ids=str,
)
def test_an_invalid_parameter_is_refused(parameters: dict[str, Any]) -> None:
    (key,) = parameters
    with pytest.raises(InvalidInput) as caught:
        read_parameters(parameters)
    assert key in str(caught.value)
    assert " not " in str(caught.value) or "unknown" in str(caught.value)


@pytest.mark.parametrize(
    ("parameter", "wire", "budget"),
    [(0, None, None), (0, 2.0, 2000), (1_000_000, 2.0, 1000), (3_000_000, 2.0, 2000), (1_000_000, None, 1000)],
)
def test_the_smaller_of_two_budgets_counts(
    application: Application, parameter: int, wire: float | None, budget: float | None
) -> None:
    assert parse_request(application, infer_request(timeout=parameter), wire).options.budget_ms == budget


# ---- responses ----


def answered(application: Application, command: InferCommand) -> list[Answer]:
    tickets = application.predictor.submit_all(command.model, command.images, command.options, Caller("me"))
    return [ticket.future.result() for ticket in tickets]


def test_the_answers_parameters_are_the_weakest_receipts(application: Application) -> None:
    request = infer_request("MASK", "RECEIPT", tta_policy="d4", tta_min_views="all", timeout=10_000_000)
    tensor = InputTensor("IMAGE", "BYTES", (2,), [encoded(noise(Size(9, 7), seed=seed)) for seed in range(2)])
    command = parse_request(application, InferRequest("toy", "", [tensor], request.outputs, request.parameters))
    answers = answered(application, command)
    (mask, receipt), parameters = build_response(command, answers)
    assert mask.shape == (2, 7, 9)
    assert [json.loads(text) for text in receipt.listed()] == [answer.receipt.to_dict() for answer in answers]
    assert set(parameters) == {
        f"tta_{key}" for key in ("views", "planned", "stop", "merge", "policy", "budget_ms", "elapsed_ms", "request_id")
    }
    assert (parameters["tta_views"], parameters["tta_planned"], parameters["tta_stop"]) == (8, 8, "all_views")
    assert parameters["tta_policy"] == "d4"
    assert parameters["tta_request_id"] == "me"
    assert parameters["tta_elapsed_ms"] == max(answer.receipt.elapsed_ms for answer in answers)
