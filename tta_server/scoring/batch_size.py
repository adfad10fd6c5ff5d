"""The batch size up to which more rows make an image cheaper."""

import time
from functools import partial

from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import BatchScorer, InputImage
from tta_server.serving.cards import make_test_card
from tta_server.serving.plan import Plan

SIZES = (1, 2, 4, 8, 16, 32)
LEAST_GAIN = 0.03
ROUNDS = 3
ENOUGH_SECONDS = 2.0
"""A size whose run takes this long is the last that is measured."""


def measure_batch(plan: Plan) -> int:
    """The smallest size that is within LEAST_GAIN of the best, by runs of a test card on this thread."""
    if not plan.model.can_batch:
        return 1
    image = InputImage("card", partial(_card, make_test_card(plan.model)))
    best: dict[int, float] = {}
    for size in SIZES:
        seconds = [_seconds(BatchScorer(plan, size, Limits()), image, size) for _ in range(ROUNDS)]
        best[size] = min(seconds) / size
        if min(seconds) > ENOUGH_SECONDS:
            break
    limit = min(best.values()) * (1 + LEAST_GAIN)
    return next(size for size, each in best.items() if each <= limit)


def _card(card: bytes) -> bytes:
    return card


def _seconds(scorer: BatchScorer, image: InputImage, count: int) -> float:
    start = time.perf_counter()
    for _ in scorer.score([image] * count):
        pass
    return time.perf_counter() - start
