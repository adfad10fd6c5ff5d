"""Probes models in the background: suspect ones until they work, and those whose costs may be outdated."""

import contextlib
import logging
import threading
from collections.abc import Callable

from tta_server.errors import BackendUnavailable, NotReady, Overloaded, TTAError, UnknownModel
from tta_server.scheduling.costs import MIN_OBSERVATIONS
from tta_server.serving.cards import make_test_card
from tta_server.serving.health import Health
from tta_server.serving.predictor import Predictor

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
"""The pause between two rounds of probes: how soon a repaired model is found healthy."""


class ModelProbe:
    """A thread that runs the plain view of a test card on suspect models; a failure makes the model unhealthy."""

    def __init__(self, predictor: Predictor, health: Health) -> None:
        self._predictor = predictor
        self._health = health
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after the running probe, without waiting for it."""
        self._closed.set()
        self._health.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            suspects, outdated = self._health.wait_for_work()
            for action, names in ((self._probe, suspects), (self._reprice, outdated)):
                for name in names:
                    self._call_logged(action, name)
            self._closed.wait(INTERVAL_SECONDS)

    @staticmethod
    def _call_logged(action: Callable[[str], None], name: str) -> None:
        """Logs what a model raises, so that the other models are probed too, and this one in the next round."""
        try:
            action(name)
        except Exception:
            log.exception("model %s could not be probed", name)

    def _probe(self, name: str) -> None:
        try:
            self._predictor.probe(name, make_test_card(self._predictor.model(name)))
        except UnknownModel:
            self._health.worked(name)  # it was unloaded since, so it is not unhealthy
        except BackendUnavailable as error:
            self._fail(name, error)
        except (Overloaded, NotReady):
            pass  # no probe ran, so nothing is known
        except TTAError as error:
            self._fail(name, error)
        else:
            log.warning("model %s is healthy: a probe succeeded", name)

    def _fail(self, name: str, error: TTAError) -> None:
        log.warning("model %s is unhealthy: a probe failed: %s", name, error)
        self._health.mark_unhealthy(name)

    def _reprice(self, name: str) -> None:
        """Observes a model's cost again.

        Warm-up on a busy machine may have overestimated it, and if all budgets are refused for that, no request
        corrects it.
        """
        with contextlib.suppress(TTAError):
            card = make_test_card(self._predictor.model(name))
            for _ in range(MIN_OBSERVATIONS):
                self._predictor.probe(name, card)
