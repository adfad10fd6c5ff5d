"""What a step is run with: the device, the sizes that follow from it, and where the steps keep their files."""

import os
from dataclasses import dataclass
from pathlib import Path

CLIENT_CORES = 2
"""The last cores of the machine, which clients have to themselves where there are at least four."""
VIEWS = 8
"""K: the views of a request."""


@dataclass(frozen=True)
class Setting:
    """`device` is "cpu" or "cuda"; `tiny`: small nets and short runs, which rehearse all steps and measure nothing.

    `scratch` is the folder that the steps of one run share.
    """

    device: str
    tiny: bool
    scratch: Path

    @property
    def is_cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def is_held(self) -> bool:
        """Whether targets of speed and memory are held, not only stated."""
        return self.is_cuda and not self.tiny

    @property
    def nets(self) -> tuple[str, str]:
        """The names of the large and of the small net."""
        return ("tiny-large", "tiny-small") if self.tiny else ("resnet50", "mobilenetv3_small_050")

    @property
    def rungs(self) -> tuple[int, ...]:
        """Batch sizes, ascending."""
        return (1, 2, 8) if self.tiny else (1, 2, 4, 8, 16, 32, 64)

    @property
    def precision(self) -> str:
        """The fastest that the device has."""
        return "fp16" if self.is_cuda else "exact"

    @property
    def file_precision(self) -> str:
        """Of the bare model file that is as fast."""
        return "fp16" if self.is_cuda else "fp32"

    def seconds(self, whole: float) -> float:
        """How long to measure: `whole`, or a fraction of it in a tiny run."""
        return max(0.5, whole / 8) if self.tiny else whole

    def done(self, step: str) -> Path:
        """A file that is there once a step has written all its files."""
        return self.scratch / f"{step}-{self.device}{'-tiny' if self.tiny else ''}.done"

    def folder(self, backend: str, net: str) -> Path:
        """A net's model folder, which the step `nets` writes."""
        return self.scratch / "models" / backend / net

    def bare_file(self, net: str, precision: str) -> Path:
        """A net's ONNX file for sessions without the server; `precision` is fp32 or fp16."""
        return self.scratch / "bare" / f"{net}_{precision}.onnx"

    def backend(self, name: str = "onnxruntime", precision: str | None = None) -> dict[str, str | int]:
        """The key `backend` of a tta.yaml for this device; the CPU has no precision."""
        if not self.is_cuda:
            return {"name": name, "device": "cpu"}
        return {"name": name, "device": "cuda", "precision": precision or self.precision, "max_batch": self.rungs[-1]}


def server_cores() -> set[int]:
    """All cores but those of clients; all of them where there are fewer than four."""
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[:-CLIENT_CORES] if len(cores) >= 2 * CLIENT_CORES else cores)


def client_cores() -> list[int]:
    """The cores that are not the server's; empty where clients share them."""
    return sorted(os.sched_getaffinity(0) - server_cores())
