"""The keys of `backend:` in `tta.yaml` for a model that this process runs."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tta_server.backends import RunOptions
from tta_server.errors import shown
from tta_server.errors.validation import StrictModel


def _read_device(found: str) -> str:
    if not re.fullmatch(r"cpu|auto|cuda(:[0-9]{1,2})?", found):
        raise ValueError(f"{shown(found)} is no device; allowed: cpu, cuda, cuda:N for one of several, auto")
    return "cuda:0" if found == "cuda" else found


class BackendConfig(StrictModel):
    """What runs the model, and where; see `RunOptions`.

    `views` says where views are made: here, one by one, or by graphs around the model; None is the device's choice.
    """

    name: Literal["onnxruntime", "torch", "triton"] = "onnxruntime"
    device: Annotated[str, AfterValidator(_read_device)] = "cpu"
    threads: int = Field(1, ge=1, le=64)
    precision: Literal["exact", "tf32", "fp16"] = "exact"
    max_batch: int = Field(64, ge=1, le=1024)
    memory_mb: int | None = Field(None, ge=64)
    views: Literal["local", "graph"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "BackendConfig":
        for key in sorted({"precision", "max_batch", "memory_mb"} & self.model_fields_set):
            if self.device == "cpu":
                raise ValueError(f"{key} is for a device; set device: cuda or auto, or remove it")
        return self

    @property
    def options(self) -> RunOptions:
        """How the backend runs the file."""
        return RunOptions(self.device, self.threads, self.precision, self.max_batch, self.memory_mb)
