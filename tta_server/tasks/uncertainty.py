"""How the views of one image differ. Each view counts once, whatever its weight in the merge."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Doubles = NDArray[np.float64]
DECIMALS = 6


def entropy(p: Doubles) -> Doubles:
    """Shannon entropy in nats of distributions along the last axis; 0 log 0 is 0."""
    return np.asarray(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1))


def of_classes(views: ArrayLike) -> dict[str, float]:
    """Entropies of K views' probabilities (K, C), in nats.

    `entropy` is that of their mean, `mean_entropy` the mean of their own, and `mutual_information` the difference: the
    disagreement of the views (Houlsby et al. 2011; Gal 2016, 3.3.1).
    """
    return _information(np.asarray(views, np.float64))


def of_labels(views: ArrayLike) -> dict[str, float]:
    """As `of_classes`, for labels that may be present together: means over the labels of K views' (K, C)."""
    p = np.asarray(views, np.float64)
    return _information(np.stack([p, 1 - p], axis=-1))


def _information(p: Doubles) -> dict[str, float]:
    """Of distributions (K, ..., C); means over the axes between."""
    whole, own = float(entropy(p.mean(axis=0)).mean()), float(entropy(p).mean())
    found = {"entropy": whole, "mean_entropy": own, "mutual_information": max(0.0, whole - own)}
    return {name: rounded(value) for name, value in found.items()}


def deviation(values: Doubles) -> Doubles:
    """Sample standard deviation over K views (K, ...), 0 for one view."""
    return np.std(values, axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def rounded(value: float) -> float:
    return round(float(value), DECIMALS)
