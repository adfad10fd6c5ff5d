"""Segments with a class and a mask each, as MaskFormer and its successors give them, as one map for each class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats
from tta_server.tasks.scores.kinds import softmax, unit_sum


def query_maps(scores: NDArray[Any], masks: NDArray[Any]) -> Floats:
    """Probabilities (C, h, w) of class logits (Q, C + 1), the last of no object, and mask logits (Q, h, w).

    Each class has the sum over the segments of its probability times the mask's sigmoid (Cheng et al. 2021, "Per-pixel
    classification is not all you need", 3.4; `post_process_semantic_segmentation` of transformers). These are made to
    sum to 1 in each cell.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of infinite logits: what they give is held to be unsound
        classes = softmax(scores.T.astype(np.float32))[:-1]
        inside = np.exp(-masks.astype(np.float32))
        inside += 1
        np.reciprocal(inside, out=inside)  # a sigmoid that is precise also for masks far below 0
        maps: Floats = classes @ inside.reshape(len(masks), -1)
        return unit_sum(maps).reshape(-1, *masks.shape[1:])
