"""Measures on images without labels what nothing states of a model."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from tta_server.backends import RunOptions
from tta_server.backends.onnxruntime import OnnxRuntimeBackend
from tta_server.errors import BackendFailed, BackendUnavailable, ConfigError
from tta_server.imaging.formats.header import Raster
from tta_server.onboarding.choices import Values
from tta_server.onboarding.conclusions import Conclusion
from tta_server.onboarding.draft import draft
from tta_server.onboarding.evidence import Fact, Finding, Note
from tta_server.onboarding.folder import write_folder
from tta_server.onboarding.measured.boxes import BoxMeasurement
from tta_server.onboarding.measured.candidates import find_candidates
from tta_server.onboarding.measured.classes import ClassMeasurement
from tta_server.onboarding.measured.images import Track, read_images
from tta_server.onboarding.model_file import ModelFile
from tta_server.repository.loader import load_uncalibrated

FEWEST = 8
"""Images that anything is concluded from."""
COLOR = "input.color"
SEED = 0


class Measurement(Protocol):
    """What is measured of a task."""

    def add(self, raster: Raster) -> None:
        """Run one image."""

    def findings(self) -> Iterator[Finding]:
        """What all images show."""


@dataclass(frozen=True, slots=True)
class Images:
    """Files of images, what shows how far the work on them is, and the threads of one run."""

    paths: Sequence[Path]
    track: Track[Path]
    threads: int


def measure_images(file: ModelFile, found: Conclusion, images: Images) -> Iterator[Finding]:
    """What the images show of keys that are open: facts, and notes about what they can't tell."""
    try:
        measurement = _measurement(file, found, images.threads)
        count = _run(measurement, images)
    except (ConfigError, BackendUnavailable) as reason:
        yield Note(f"--images: nothing is measured: {reason}")
        return
    except BackendFailed as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        yield Note(f"--images: nothing is measured: the model fails on an image: {cause[:200]}")
        return
    if count < FEWEST:
        yield Note(
            f"--images: cannot tell anything by {count} images that could be read, of {len(images.paths)}; give at "
            f"least {FEWEST}, better 300"
        )
        return
    yield from measurement.findings()


def _run(measurement: Measurement, images: Images) -> int:
    """The number of images that were run; in any order, since the first ones decide which candidates go on."""
    count, paths = 0, random.Random(SEED).sample(images.paths, len(images.paths))
    for raster in read_images(paths, images.track):
        measurement.add(raster)
        count += 1
    return count


def _measurement(file: ModelFile, found: Conclusion, threads: int) -> Measurement:
    """What can be measured of this model. Raises ConfigError with the reason if nothing can."""
    values = found.values
    task = values.get("task")
    if len(file.inputs) > 1:
        raise ConfigError("the file has several inputs")
    if task == "classification":
        return _classes(file, values, threads)
    if task == "detection" and COLOR not in values:
        return _boxes(file, found)
    if task == "detection":
        raise ConfigError("of a detector only input.color can be measured, which is stated")
    raise ConfigError(
        f"the task is {task}; colours, resize and normalisation of a classification are measured, and colours of a "
        "detection"
        if task
        else "the task is not known; state it with --set task=..."
    )


def _classes(file: ModelFile, values: Values, threads: int) -> Measurement:
    missing = [key for key in ("input.size", "input.layout", "output.kind") if key not in values]
    if len(file.tensors) > 1 and "output.name" not in values:
        missing.append("output.name")
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be stated first")
    candidates = find_candidates(values, file)
    if len(candidates) < 2:
        raise ConfigError("input.color, resize, scale, mean and std are stated, or no usual value agrees with them")
    options = RunOptions(threads=threads, inputs=file.input_names)
    return ClassMeasurement(OnnxRuntimeBackend(file.path, options), values, candidates)


def _boxes(file: ModelFile, found: Conclusion) -> Measurement:
    """A detector with all else stated, which is loaded with either order."""
    others = [choice.key for choice in found.choices if choice.key != COLOR]
    if others:
        raise ConfigError(f"of a detector only {COLOR} can be measured, once {', '.join(others)} are stated")
    stated = Conclusion({**found.facts, COLOR: Fact(COLOR, "RGB", "to measure")})
    with TemporaryDirectory(prefix="tta-server-", ignore_cleanup_errors=True) as folder:
        write_folder(Path(folder), file.path, file.path.read_bytes(), draft(stated))
        return BoxMeasurement(load_uncalibrated(Path(folder)))
