"""The keys of a pool in a scenario."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tta_server.errors.validation import StrictModel
from tta_server.simulation.pool import PoolSize

MOST_SLOTS = 1024
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class PoolScenario(StrictModel):
    """With `workers`, the slots are a device's: they run batches only, and the workers decode and make answers.

    `device: true` leaves the number of workers to the cores of this machine. Each batch of a device needs `prepare_ms`
    of host work; with two batches `in_flight`, that of the next one is done while one runs.
    """

    slots: Annotated[int, Field(ge=1, le=MOST_SLOTS)] | None = None
    workers: Annotated[int, Field(ge=0, le=MOST_SLOTS)] | None = None
    device: bool = False
    prepare_ms: NotNegative = 0.0
    in_flight: Literal[1, 2] = 2

    @model_validator(mode="after")
    def _has_workers(self) -> Self:
        if self.device and self.workers == 0:
            raise ValueError("device: true needs workers, and workers is 0; give at least 1, or none for cores - 2")
        if self.prepare_ms and not self.is_device:
            raise ValueError(
                "prepare_ms is host work of a device's batches, which needs workers; without, add it to view_ms"
            )
        return self

    @property
    def is_device(self) -> bool:
        return self.device or bool(self.workers)

    def size(self, cores: int, beside_device: bool = False) -> PoolSize:
        """Where it states none: cores - 2 workers of a device; one slot of or beside a device, else one a core."""
        workers = self.workers if self.workers is not None else max(1, cores - 2) if self.device else 0
        slots = self.slots or (1 if workers or beside_device else cores)
        return PoolSize(slots, workers, self.prepare_ms / 1e3 if workers else 0.0, self.in_flight)
