"""The Open Inference Protocol v2 without its wire: what requests and answers mean, the same over HTTP and gRPC."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tta_server.api.http.query import at_most
from tta_server.api.oip.metadata import find_model
from tta_server.api.oip.tensors import (
    RECEIPT_SPEC,
    InputTensor,
    OutputTensor,
    printable,
    read_images,
    specs_of,
    write_tensors,
)
from tta_server.application import Application
from tta_server.errors import InvalidInput, TooLarge, shown
from tta_server.repository.model import Model
from tta_server.scheduling.jobs import Priority
from tta_server.serving.answer import Answer
from tta_server.serving.image import Image
from tta_server.serving.options import PredictQuery, read_options
from tta_server.serving.plan import Options
from tta_server.tasks.base import TensorSpec

OURS = {f"tta_{key}": key for key in ("policy", "max_views", "min_views", "merge", "stop", "include")}
"""Parameters of a request that mean what the query of `/v1/models/{name}/predict` does."""

PARAMETER_NAMES = {key: name for name, key in OURS.items()} | {"budget_ms": "timeout", "priority": "priority"}
"""Option -> what a request's parameters call it."""

QUERY_NAMES = {key: key for key in PredictQuery.model_fields if key != "top_k"}
"""Option -> what the query of a raw request calls it: what `/v1/models/{name}/predict` does, without the number of
classes to list, since tensors hold all of them."""

TOLD = frozenset({"views", "uncertainty"})
"""What `tta_include` may name: the rest of what a prediction may include has outputs of its own."""

MENTION = re.compile(r"^\w+(?= )|(?<= )\w+(?==)")
"""Where the sentences of a plan may name an option."""

Parameters = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request, whichever way it came; `outputs` are names, none of them meaning the usual ones. `query` has the
    options of one that has no parameters."""

    model: str
    version: str
    inputs: Sequence[InputTensor]
    outputs: Sequence[str] = ()
    parameters: Parameters = field(default_factory=dict)
    id: str = ""
    query: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class PredictCommand:
    """A request understood: what to ask the predictor, and which tensors to make of its answers; `names` has what its
    client calls each option."""

    model: Model
    images: Sequence[Image]
    options: Options
    specs: Sequence[TensorSpec] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def in_its_names(self) -> Iterator[None]:
        """A sentence of InvalidInput or TooLarge that begins with an option, or advises `option=...`, calls it as the
        client does."""
        try:
            yield
        except (InvalidInput, TooLarge) as error:
            raise type(error)(MENTION.sub(lambda found: self.names.get(found[0], found[0]), str(error))) from error


# ---- requests ----


FOREIGN = ("shared_memory_region", "classification")
"""Parameters of a tensor that ask for what is not offered here."""


def refuse_foreign(parameters: Mapping[str, Any], name: str) -> None:
    """Of a tensor's parameters; raises InvalidInput."""
    for key in FOREIGN:
        if key in parameters:
            raise InvalidInput(
                f"{key}, which {printable(name)} asks for, is not offered here; send and take tensors whole"
            )
    refuse_options(parameters, f"with the tensor {printable(name)}")


def refuse_options(keys: Iterable[str], place: str) -> None:
    """Raises InvalidInput for an option that stands where none is read."""
    for key in keys:
        if key.startswith("tta_"):
            raise InvalidInput(f"{printable(key)} is given {place}; options go into the request's own parameters")


def parse_request(application: Application, request: InferRequest, timeout: float | None = None) -> PredictCommand:
    """`timeout` is what the wire itself allows, in seconds. Raises InvalidInput or UnknownModel."""
    model = find_model(application, request.model, request.version)
    specs = _wanted(model, request.outputs)
    names = frozenset(spec.name for spec in specs if spec is not RECEIPT_SPEC)
    if request.query is not None:
        called, options = QUERY_NAMES, _checked(read_options(request.query, QUERY_NAMES), QUERY_NAMES)
    else:
        called, options = PARAMETER_NAMES, read_parameters(request.parameters)
    if timeout is not None:
        options = at_most(options, timeout)
    options = replace(options, tensors=names or frozenset([model.task.tensor_specs[0].name]))
    return PredictCommand(model, read_images(request.inputs, application.settings.max_batch), options, specs, called)


def _wanted(model: Model, names: Sequence[str]) -> list[TensorSpec]:
    known = specs_of(model.task.tensor_specs)
    for name in names:
        if name not in known:
            raise InvalidInput(f"unknown output {name[:64]!r}; {model.name} has {', '.join(known)}")
    if len(set(names)) < len(names):
        raise InvalidInput("an output is asked for twice")
    return [known[name] for name in names] or [spec for spec in known.values() if spec.usual]


def read_parameters(parameters: Parameters) -> Options:
    """`timeout` (microseconds), `priority` (0 and 1 are interactive), and `OURS`; what other servers know beyond these
    is let pass. Raises InvalidInput."""
    for key in parameters:
        if key.startswith("tta_") and key not in OURS:
            raise InvalidInput(f"unknown parameter {key[:64]!r}; ours are {', '.join(OURS)}")
    values: dict[str, Any] = {OURS[key]: _text(value) for key, value in parameters.items() if key in OURS}
    timeout, priority = _whole(parameters, "timeout"), _whole(parameters, "priority")
    if timeout:
        values["budget_ms"] = timeout / 1e3
    if priority > 1:
        values["priority"] = Priority.BATCH
    return _checked(read_options(values, PARAMETER_NAMES), PARAMETER_NAMES)


def _checked(options: Options, names: Mapping[str, str]) -> Options:
    """Raises InvalidInput for an include that no tensor has a place for."""
    if foreign := sorted(options.include - TOLD):
        raise InvalidInput(
            f"{names['include']} takes {' and '.join(sorted(TOLD))}, which RECEIPT tells, not {foreign[0][:64]!r}"
        )
    return options


def _text(value: bool | int | float | str) -> str:
    """As a query has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _whole(parameters: Parameters, key: str) -> int:
    """0 where it is left out."""
    value = parameters.get(key, 0)
    if type(value) is not int or not 0 <= value < 2**64:
        raise InvalidInput(f"{key} is a whole number from 0 on, not {shown(value)}")
    return value


# ---- answers ----


def build_response(
    question: PredictCommand, answers: Sequence[Answer]
) -> tuple[list[OutputTensor], dict[str, bool | int | float | str]]:
    """The tensors, and the receipt as parameters: of the image with the fewest views, the longest time."""
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
    return write_tensors(question.specs, answers), parameters
