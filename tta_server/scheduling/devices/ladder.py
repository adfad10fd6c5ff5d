"""The batch sizes of a device. Pure."""

from collections.abc import Mapping

from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.estimates import Estimates

LADDER = (1, 2, 4, 8, 16, 32, 64, 128)
"""Batches are padded to these sizes, for a device prepares each new size at a price."""


def on_ladder(medians: Mapping[int, float]) -> dict[int, float]:
    """Seconds by batch size, at the sizes of the ladder up to the largest measured one; linear between these."""
    return {rung: _seconds(medians, rung) for rung in LADDER if rung <= max(medians)}


def _seconds(medians: Mapping[int, float], n: int) -> float:
    if n in medians:
        return medians[n]
    below, above = max(k for k in medians if k < n), min(k for k in medians if k > n)
    return medians[below] + (medians[above] - medians[below]) * (n - below) / (above - below)


class DeviceEstimates(Estimates):
    """Prices of batches as a step function: a batch costs as much as the rung that it is padded to."""

    def batch(self, bucket: Bucket, n: int, now: float) -> float:
        costs = self.costs
        return costs.seconds(bucket, costs.rung(bucket, n), now)

    def full_batch(self, bucket: Bucket, now: float) -> float:
        """Seconds of a batch at the knee, the largest that runs."""
        return self.costs.seconds(bucket, self.costs.knee(bucket), now)

    def share(self, bucket: Bucket, now: float) -> float:
        """Seconds of one view in a full batch."""
        return self.full_batch(bucket, now) / self.costs.knee(bucket)

    def batches(self, bucket: Bucket, n: int, now: float) -> float:
        """Seconds of n views in full batches and a last one with the rest."""
        full, rest = divmod(n, self.costs.knee(bucket))
        return full * self.full_batch(bucket, now) + (self.batch(bucket, rest, now) if rest else 0.0)
