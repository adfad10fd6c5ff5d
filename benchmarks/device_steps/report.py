"""What a step reports: lines of JSON on stdout, each naming the step, the card and the second; and checks."""

import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal

Target = tuple[Literal["<=", ">="], float] | None


class Report:
    """Writes each line at once, so that a step that is stopped loses none."""

    def __init__(self, step: str, card: str, held: bool) -> None:
        """`held`: whether missed targets of speed and memory count."""
        self.failed = False
        self._line = {"step": step, "card": card}
        self._held = held
        self._start = time.perf_counter()

    def say(self, **figures: Any) -> None:
        at = round(time.perf_counter() - self._start, 1)
        sys.stdout.write(json.dumps(self._line | {"at_s": at} | figures, default=str, allow_nan=False) + "\n")
        sys.stdout.flush()

    def check(
        self,
        number: int,
        figure: str,
        value: float,
        target: Target,
        always: bool = False,
    ) -> None:
        """A figure of a check of CHECKS and its target; None: recorded only. `always`: held on any machine."""
        met = target is None or (value <= target[1] if target[0] == "<=" else value >= target[1])
        wanted = None if target is None else f"{target[0]} {target[1]:g}"
        held = target is not None and (always or self._held)
        shown = float(f"{value:.6g}") if math.isfinite(value) else str(value)
        self.say(check=number, figure=figure, value=shown, target=wanted, met=met, held=held)

    def skip(self, what: str, reason: str) -> None:
        """Something that can't be measured here."""
        self.say(what=what, skipped=reason)

    def attempt(self, what: str, action: Callable[[], None]) -> None:
        """Run a part of a step; if it fails, report that and go on, and the step ends with 1."""
        try:
            action()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the parts after it are worth measuring
            self.failed = True
            traceback.print_exc()
            self.say(what=what, error=f"{type(error).__name__}: {error}"[:600])
