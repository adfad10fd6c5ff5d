"""A server's JSON as the answer that a local run has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer, PolicyKey, Receipt
from tta_server.tasks.render.png import from_base64
from tta_server.tasks.render.rendering import Rendered
from tta_server.tasks.render.rle import encode_classes, encode_mask

WITH_PROBABILITIES = ("classification", "multilabel")
"""Tasks whose rows have all probabilities, which a server sends where they are included."""
PROBABILITIES = "probabilities"
CUT = (StopReason.DEADLINE, StopReason.CAPACITY, StopReason.BACKEND_FAILED)
"""Reasons for which an answer has fewer views than it would have without a deadline."""
RECEIPT = frozenset(field.name for field in fields(Receipt))


@dataclass(frozen=True, slots=True)
class ServedScores:
    """What rows need of scores: the top class, where there is one, and `probabilities` (C,) float32 of all."""

    label: str
    index: int
    probabilities: NDArray[np.float32]


def read_answer(found: Mapping[str, Any], includes_probabilities: bool, rle_of: Sequence[str] = ()) -> Answer:
    """An answer of `POST /v1/models/{name}/predict`; its masks are as RLE where `rle_of` has their labels.

    Raises KeyError, TypeError or ValueError for other JSON.
    """
    receipt = {key: value for key, value in found["receipt"].items() if key in RECEIPT}
    policy = PolicyKey(**{key: receipt["policy"][key] for key in ("name", "version", "digest")})
    prediction, result = dict(found["prediction"]), None
    if found["task"] in WITH_PROBABILITIES:
        top = prediction["top"][0]
        result = ServedScores(top["label"], top["index"], np.array(prediction[PROBABILITIES], np.float32))
        if not includes_probabilities:
            del prediction[PROBABILITIES]
    rendering = Rendered(with_rle(prediction, rle_of) if rle_of else prediction, result=result)
    return Answer(found["model"], found["version"], found["task"], Receipt(**receipt | {"policy": policy}), rendering)


def with_rle(prediction: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A prediction with its PNG masks as COCO's RLE; of one mask, which has a pixel's class, one for each label."""
    found: dict[str, Any] = {}
    for key, value in prediction.items():
        if key == "mask":
            encoded = encode_classes(np.asarray(from_base64(value)), range(len(labels)))
            found["masks"] = dict(zip(labels, encoded, strict=True))
        elif key == "masks":
            found["masks"] = {label: encode_mask(np.asarray(from_base64(png)) > 0) for label, png in value.items()}
        else:
            found[key] = value
    return found


def is_cut(answer: Answer) -> bool:
    return answer.receipt.stop_reason in CUT


def views_done(answer: Answer) -> int:
    """The number of views that were merged or had no usable output."""
    views: Sequence[Any] = answer.receipt.views
    return len(views) + answer.receipt.dropped
