"""What infer requests and responses mean, the same over HTTP and gRPC."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tta_server.api.oip.metadata import find_model
from tta_server.api.oip.tensors import (
    RECEIPT_SPEC,
    InputTensor,
    OutputTensor,
    read_images,
    specs_of,
    write_tensors,
)
from tta_server.api.requests import PredictCommand
from tta_server.application import Application
from tta_server.errors import InvalidInput, TooLarge, printable, shown
from tta_server.repository.model import Model
from tta_server.scheduling.jobs import Priority
from tta_server.serving.answer import Answer
from tta_server.serving.options import PredictQuery, limit_budget, read_options
from tta_server.serving.plan import Options
from tta_server.tasks.base import TensorSpec

TTA_PARAMETERS = {f"tta_{key}": key for key in ("policy", "max_views", "min_views", "merge", "stop", "include")}
"""Parameters of a request -> options of `/v1/models/{name}/predict`."""

PARAMETER_NAMES = {key: name for name, key in TTA_PARAMETERS.items()} | {"budget_ms": "timeout", "priority": "priority"}
"""Option -> its name in a request's parameters."""

QUERY_NAMES = {key: key for key in PredictQuery.model_fields if key != "top_k"}
"""Option -> its name in the query of a raw request: as in `/v1/models/{name}/predict`, without the number of classes to
list, since tensors hold all of them."""

RECEIPT_INCLUDES = frozenset({"views", "uncertainty"})
"""What `tta_include` takes: the other things that a prediction can include are outputs of their own."""

OPTION_NAME = re.compile(r"^\w+(?= )|(?<= )\w+(?==)")
"""Where an error sentence may name an option: at its start, or as `option=...`."""

Parameters = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request, over HTTP or gRPC.

    `outputs` are names, empty for the default ones; `query` has the options of a request without parameters.
    """

    model: str
    version: str
    inputs: Sequence[InputTensor]
    outputs: Sequence[str] = ()
    parameters: Parameters = field(default_factory=dict)
    id: str = ""
    query: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class InferCommand(PredictCommand):
    """A parsed request, with the tensors to make of the answers; `names` maps an option to the client's name for it."""

    specs: Sequence[TensorSpec] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def client_option_names(self) -> Iterator[None]:
        """Replace options in sentences of InvalidInput and TooLarge by the client's names for them."""
        try:
            yield
        except (InvalidInput, TooLarge) as error:
            raise type(error)(OPTION_NAME.sub(lambda found: self.names.get(found[0], found[0]), str(error))) from error


# ---- requests ----


UNSUPPORTED = ("shared_memory_region", "classification")
"""Parameters of a tensor for extensions that this server does not have."""


def reject_unsupported(parameters: Mapping[str, Any], name: str) -> None:
    """Raises InvalidInput for the parameters of a tensor."""
    for key in UNSUPPORTED:
        if key in parameters:
            raise InvalidInput(
                f"{key}, a parameter of {printable(name)}, is not supported; send and receive whole tensors without it"
            )
    reject_misplaced_options(parameters, f"with the tensor {printable(name)}")


def reject_misplaced_options(keys: Iterable[str], place: str) -> None:
    """Raises InvalidInput for an option outside the request's parameters."""
    for key in keys:
        if key.startswith("tta_"):
            raise InvalidInput(f"{printable(key)} is given {place}; put options into the parameters of the request")


def parse_request(application: Application, request: InferRequest, timeout: float | None = None) -> InferCommand:
    """`timeout` is that of the transport, in seconds. Raises InvalidInput or UnknownModel."""
    model = find_model(application, request.model, request.version)
    specs = _requested_specs(model, request.outputs)
    tensors = frozenset(spec.name for spec in specs if spec is not RECEIPT_SPEC)
    if request.query is not None:
        names, options = QUERY_NAMES, _check_include(read_options(request.query, QUERY_NAMES), QUERY_NAMES)
    else:
        names, options = PARAMETER_NAMES, read_parameters(request.parameters)
    if timeout is not None:
        options = limit_budget(options, timeout)
    options = replace(options, tensors=tensors or frozenset([model.task.tensor_specs[0].name]))
    max_images_per_request = application.settings.max_images_per_request
    return InferCommand(model, read_images(request.inputs, max_images_per_request), options, specs, names)


def _requested_specs(model: Model, names: Sequence[str]) -> list[TensorSpec]:
    known = specs_of(model.task.tensor_specs)
    for name in names:
        if name not in known:
            raise InvalidInput(f"unknown output {name[:64]!r}; {model.name} has {', '.join(known)}")
    if len(set(names)) < len(names):
        raise InvalidInput("an output is requested twice")
    return [known[name] for name in names] or [spec for spec in known.values() if spec.usual]


def read_parameters(parameters: Parameters) -> Options:
    """The options from `timeout` (microseconds), `priority` (0 and 1 are interactive) and TTA_PARAMETERS.

    Parameters of other servers are ignored. Raises InvalidInput.
    """
    for key in parameters:
        if key.startswith("tta_") and key not in TTA_PARAMETERS:
            raise InvalidInput(f"unknown parameter {key[:64]!r}; known: {', '.join(TTA_PARAMETERS)}")
    values: dict[str, Any] = {
        TTA_PARAMETERS[key]: _query_text(value) for key, value in parameters.items() if key in TTA_PARAMETERS
    }
    timeout, priority = _whole_number(parameters, "timeout"), _whole_number(parameters, "priority")
    if timeout:
        values["budget_ms"] = timeout / 1e3
    if priority > 1:
        values["priority"] = Priority.BATCH
    return _check_include(read_options(values, PARAMETER_NAMES), PARAMETER_NAMES)


def _check_include(options: Options, names: Mapping[str, str]) -> Options:
    """Raises InvalidInput for an include that no tensor contains."""
    if unknown := sorted(options.include - RECEIPT_INCLUDES):
        takes = " and ".join(sorted(RECEIPT_INCLUDES))
        raise InvalidInput(f"{names['include']} takes {takes}, which RECEIPT contains, not {unknown[0][:64]!r}")
    return options


def _query_text(value: bool | int | float | str) -> str:
    """The value as a query spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _whole_number(parameters: Parameters, key: str) -> int:
    """0 if it is left out."""
    value = parameters.get(key, 0)
    if type(value) is not int or not 0 <= value < 2**64:
        raise InvalidInput(f"{key} takes a whole number of at least 0, not {shown(value)}")
    return value


# ---- responses ----


def build_response(
    command: InferCommand, answers: Sequence[Answer]
) -> tuple[list[OutputTensor], dict[str, bool | int | float | str]]:
    """The tensors, and as parameters the receipt of the image with the fewest views, with the longest time.

    `tta_cached` where other requests' runs made all answers.
    """
    receipts = [answer.receipt for answer in answers]
    least = min(receipts, key=lambda receipt: len(receipt.views))
    parameters: dict[str, bool | int | float | str] = {
        "tta_views": len(least.views),
        "tta_planned": least.planned,
        "tta_stop": str(least.stop_reason or ""),
        "tta_merge": least.merge,
        "tta_policy": least.policy.name,
        "tta_budget_ms": least.budget_ms,
        "tta_elapsed_ms": max(receipt.elapsed_ms for receipt in receipts),
        "tta_request_id": least.request_id,
    }
    if all(receipt.cached for receipt in receipts):
        parameters["tta_cached"] = True
    return write_tensors(command.specs, answers), parameters
