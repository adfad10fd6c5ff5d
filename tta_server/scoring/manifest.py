"""What a run's results depend on: a run is resumed only where all of it is as before."""

import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import model_digest
from tta_server.serving.plan import Plan

LIBRARIES = (
    "tta-server",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
    "pyarrow",
)
"""Versions that may change a value."""


def fingerprint(plan: Plan, folder: Path, batch: int, format_name: str, limits: Limits) -> Mapping[str, Any]:
    """Of everything but the images. `folder` is the model's."""
    model, wanted = plan.model, plan.wanted
    return {
        "model": {"name": model.name, "version": model.version, "digest": model_digest(folder, model)},
        "tta.yaml": _digest(model.config.model_dump_json(warnings=False)),
        "calibration": _digest(model.calibration.model_dump_json()) if model.calibration else None,
        "policy": plan.policy.digest,
        "views": [view.name for view in plan.views],
        "min_views": plan.mandatory,
        "merge": plan.merge,
        "stop": plan.stop.to_json(),
        "include": sorted(wanted.include),
        "top_k": wanted.top_k,
        "masks": wanted.masks,
        "limits": {"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels},
        "batch": batch,
        "device": model.backend.device,
        "format": format_name,
        "versions": versions(LIBRARIES),
    }


def digest_inputs(marks: Iterable[str]) -> Mapping[str, Any]:
    """The number of images, and a digest of what is known of each before it is read, such as its name and length."""
    digest, count = hashlib.sha256(), 0
    for mark in marks:
        digest.update(mark.encode() + b"\n")
        count += 1
    return {"images": count, "sha256": digest.hexdigest()}


def versions(names: Iterable[str]) -> Mapping[str, str | None]:
    """Of installed distributions; None for those that are not."""
    return {name: _version(name) for name in names}


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None
