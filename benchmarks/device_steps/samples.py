"""The bundled models on the device against the CPU, on their samples and, where they are there, the labelled images."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.device_steps.answers import check_exact, check_half, compare, results
from benchmarks.device_steps.front_and_tail import exact
from benchmarks.device_steps.product import with_backend
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import Setting
from benchmarks.server import DATA, MODELS

PATTERNS = {
    "cifar10": "cifar10/*/*.jpg",
    "clothing": "clothing/test/*/*.jpg",
    "nuclei": "nuclei/images/*.png",
    "bloodcells": "bloodcells/images/*.jpg",
    "mouse": "mouse/images/*.png",
    "nuclei-count": "nuclei/images/*.png",
}
"""Labelled images by model, in the folder of the data."""
TINY = ("cifar10", "clothing", "nuclei")
IMAGES = {"cifar10": 1000, "clothing": 200}
"""How many are taken, FEW of the others."""
FEW = 12


def run(setting: Setting, report: Report) -> None:
    for name in TINY if setting.tiny else PATTERNS:
        report.attempt(name, partial(_model, setting, report, name))


def images(setting: Setting, name: str) -> Sequence[Path]:
    """The sample; but for a tiny run also labelled images, spread evenly over all."""
    samples = sorted((MODELS / name).glob("sample.*"))
    count = IMAGES.get(name, FEW)
    found = [] if setting.tiny else sorted(DATA.glob(PATTERNS[name]))
    return samples + found[:: max(1, len(found) // count)][:count]


def _model(setting: Setting, report: Report, name: str) -> None:
    """In each precision; the CPU's answers are made once."""
    paths = images(setting, name)
    with TemporaryDirectory() as made:
        here = results(MODELS / name, paths)
        for precision, check in _precisions(setting).items():
            backend = setting.backend(precision=precision) if setting.is_cuda else exact(setting)
            folder = with_backend(MODELS / name, Path(made) / precision / name, backend)
            for policy, there in results(folder, paths).items():
                found = compare(there, here[policy])
                report.say(model=name, policy=policy, precision=precision, **found)
                check(report, f"{name}, {policy} policy", found)


def _precisions(setting: Setting) -> dict[str, Callable[..., None]]:
    return {"exact": check_exact, "fp16": check_half} if setting.is_cuda else {"exact": check_exact}
