"""The bound of the API itself: requests are refused early while the event loop is too far behind to answer in time."""

import math
from collections.abc import Callable
from typing import NoReturn

from tta_server.api.loop_lag import LoopLag, WorkMeter
from tta_server.application import Application
from tta_server.errors import Overloaded
from tta_server.serving.deadline import MIN_LAG, largest_lag, largest_work
from tta_server.telemetry.observer import Refused, RequestFailed

REASON = "api"
STALL_SECONDS = 0.1
"""A smaller lag while hardly any request comes is a stall of the machine, which refusing would not help."""


def overloaded_loop(lag: float) -> Overloaded:
    """The error of a request that is refused for this lag."""
    sentence = f"the server is busy: its event loop is {math.ceil(lag * 1e3)} ms behind; retry later"
    return Overloaded(sentence, lag, REASON)


def is_full(lag: float, work: WorkMeter, budget: float) -> bool:
    """True if the loop is too far behind, or has accepted too much, for a request of that many seconds."""
    if lag < STALL_SECONDS and not work.is_known:
        return False
    return lag > largest_lag(budget) or work.ahead() > largest_work(budget)


class ApiBound:
    """Decides by the lag of the event loop, which is measured from `start` to `stop`."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._enabled = application.settings.api_bound
        self._lag = LoopLag()
        about = "Seconds by which the event loop of the API is behind"
        application.metrics.gauge("tta_event_loop_lag_seconds", about, self._lag.seconds)

    def start(self) -> None:
        """Measure the running loop."""
        self._lag.start()

    def stop(self) -> None:
        self._lag.stop()

    def accept(self, name: str, budget: Callable[[], float | None]) -> None:
        """Count a request whose head has been read; raises Overloaded if it is refused, as `check` does."""
        self.check(name, budget)
        self._lag.work.accepted()

    def check(self, name: str, budget: Callable[[], float | None]) -> None:
        """Raises Overloaded, and counts the refusal, if the loop is too far behind for a request of this budget.

        `budget` returns seconds, None for the model's own; without a loaded model the largest of all models counts.
        """
        lag, work = self._lag.seconds(), self._lag.work
        if not self._enabled or not is_full(lag, work, 0.0):
            return
        seconds = budget()
        if is_full(lag, work, self._budget(name) if seconds is None else seconds):
            self._refuse(name, max(lag, work.ahead()))

    def behind(self) -> float:
        """Seconds that a request which has just been read may have waited unseen, 0 where that is too short to count.

        They are taken off its budget.
        """
        lag = self._lag.seconds()
        return lag if self._enabled and lag > MIN_LAG else 0.0

    def _refuse(self, name: str, lag: float) -> NoReturn:
        """Raises Overloaded."""
        model = self._application.models.get(name)
        self._application.observer.notify(Refused(name if model else "", REASON))
        if model:
            self._application.observer.notify(RequestFailed(model.key, 0.0))
        raise overloaded_loop(lag)

    def _budget(self, name: str) -> float:
        models = self._application.models
        model = models.get(name)
        chosen = list(models.values()) if model is None else [model]
        return max((each.config.budget.default_ms for each in chosen), default=math.inf) / 1e3
