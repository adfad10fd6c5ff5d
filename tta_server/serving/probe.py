"""Asks models in the background: those that fail, until they answer; those whose cost is in doubt."""

import contextlib
import logging
import threading
from collections.abc import Callable

from tta_server.errors import NotReady, Overloaded, TTAError, UnknownModel
from tta_server.scheduling.costs import ENOUGH
from tta_server.serving.health import Health
from tta_server.serving.predictor import Predictor
from tta_server.serving.warmup import card_for

log = logging.getLogger(__name__)

SECONDS = 1.0
"""Between two rounds."""


class ModelProbe:
    """A thread that sends a suspect model the plain view of a test card: an answer clears it, a failure condemns."""

    def __init__(self, predictor: Predictor, health: Health) -> None:
        self._predictor = predictor
        self._health = health
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="canary", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._health.close()

    def _watch(self) -> None:
        while not self._closed.is_set():
            suspects, doubted = self._health.wait_for_work()
            for ask, names in ((self._try, suspects), (self._price, doubted)):
                for name in names:
                    self._survive(ask, name)
            self._closed.wait(SECONDS)

    @staticmethod
    def _survive(ask: Callable[[str], None], name: str) -> None:
        """Whatever one model raises, the others are still to be asked, and it again in the next round."""
        try:
            ask(name)
        except Exception:
            log.exception("%s could not be asked", name)

    def _try(self, name: str) -> None:
        try:
            self._predictor.probe(name, card_for(self._predictor.model(name)))
        except UnknownModel:
            self._health.worked(name)  # it was unloaded meanwhile: nobody is to be warned of it
        except (Overloaded, NotReady):
            pass  # it could not be asked
        except TTAError as error:
            log.warning("model %s is unhealthy, it fails on a test card too: %s", name, error)
            self._health.mark_unhealthy(name)
        else:
            log.warning("%s answers a test card: it is well", name)

    def _price(self, name: str) -> None:
        """Has an idle pool observe the model's cost anew: a warm-up on a busy machine may have found too much, and
        nobody would ever correct it if all budgets are refused for that."""
        with contextlib.suppress(TTAError):
            card = card_for(self._predictor.model(name))
            for _ in range(ENOUGH):
                self._predictor.probe(name, card)
