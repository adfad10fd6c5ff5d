"""The keys of a machine in a scenario: what holds up the work of all its threads."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from tta_server.errors.validation import StrictModel
from tta_server.simulation.machine import Machine, SlowSpell, Stalls

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class StallScenario(StrictModel):
    """Pauses of the whole machine: `per_s` a second on average, of a random length from `from_ms` to `to_ms`."""

    per_s: Positive
    from_ms: Positive = 50.0
    to_ms: Positive = 200.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.from_ms > self.to_ms:
            raise ValueError(f"from_ms {self.from_ms:g} is over to_ms {self.to_ms:g}")
        return self

    @property
    def stalls(self) -> Stalls:
        return Stalls(self.per_s, self.from_ms / 1e3, self.to_ms / 1e3)


class SlowScenario(StrictModel):
    """From `from_s` on, for `for_s` seconds, all work takes `factor` times as long."""

    from_s: NotNegative
    for_s: Positive
    factor: Positive


class MachineScenario(StrictModel):
    """A machine that stalls, and on which all work is slower for a while."""

    stalls: StallScenario | None = None
    slow: tuple[SlowScenario, ...] = ()

    def machine(self, seed: int) -> Machine:
        spells = tuple(SlowSpell(spell.from_s, spell.for_s, spell.factor) for spell in self.slow)
        return Machine(self.stalls.stalls if self.stalls else Stalls(), spells, seed)
