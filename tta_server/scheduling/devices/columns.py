"""Figures of the queued jobs, one column each, in the queue's order. Pure."""

from array import array
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.scheduling.jobs import Job, Phase

W = TypeVar("W")
Vector = NDArray[np.float64]


class Row(NamedTuple):
    """One queued job; seconds, or times.

    `share` is the price of its undispatched mandatory views in full batches, `decode` that of decoding until it begins,
    `ready_at` the end of decoding while it runs (else minus infinity), `undecoded` 1 until the image is decoded,
    `chore` the price of decoding until it ends (then -1), `ahead` the number of undispatched mandatory views once
    decoding has begun, `bucket` the number of the next view's.
    """

    deadline: float
    share: float
    decode: float
    answer: float
    ready_at: float
    undecoded: float
    chore: float
    ahead: float
    bucket: float


def row_of(job: Job[W], bucket: int) -> Row:
    """The row of a job whose prices are known."""
    waiting, decoded = job.phase is Phase.WAITING, job.phase is Phase.READY
    return Row(
        job.deadline,
        job.load,
        job.decode_seconds if waiting else 0.0,
        job.answer_seconds,
        job.ready_at if job.phase is Phase.DECODING else float("-inf"),
        float(not decoded),
        -1.0 if decoded else job.decode_seconds,
        0.0 if waiting else float(job.mandatory - job.dispatched),
        float(bucket),
    )


class Columns:
    """Rows in order, as columns, with the total of each column that is added up."""

    def __init__(self) -> None:
        self._columns = [array("d") for _ in Row._fields]
        self.share = self.decode = self.answer = self.undecoded = self.ahead = 0.0
        """The totals."""

    def __len__(self) -> int:
        return len(self._columns[0])

    def insert(self, index: int, row: Row) -> None:
        for column, value in zip(self._columns, row, strict=True):
            column.insert(index, value)
        self._add(row, 1.0)

    def delete(self, index: int) -> None:
        row = self.row(index)
        for column in self._columns:
            del column[index]
        self._add(row, -1.0)

    def replace(self, index: int, row: Row) -> None:
        self._add(self.row(index), -1.0)
        for column, value in zip(self._columns, row, strict=True):
            column[index] = value
        self._add(row, 1.0)

    def delete_first(self, number: int) -> None:
        """Deletes that many rows at the front."""
        for name, column in zip(Row._fields, self._columns, strict=True):
            if hasattr(self, name):
                setattr(self, name, getattr(self, name) - sum(column[:number]))
            del column[:number]
        self._settle()

    def row(self, index: int) -> Row:
        return Row(*(column[index] for column in self._columns))

    def ahead_of(self, index: int, bucket: int) -> float:
        """The undispatched mandatory views of this bucket's jobs before this one whose decoding has begun."""
        ahead, buckets = (np.array(column[:index]) for column in self._columns[-2:])
        return float(ahead[buckets == bucket].sum())

    def vectors(self) -> Iterator[Vector]:
        """The columns in the order of Row's fields."""
        return (np.array(column) for column in self._columns)

    def _add(self, row: Row, sign: float) -> None:
        self.share += sign * row.share
        self.decode += sign * row.decode
        self.answer += sign * row.answer
        self.undecoded += sign * row.undecoded
        self.ahead += sign * row.ahead
        self._settle()

    def _settle(self) -> None:
        """Without rows the totals are 0: rounding errors do not add up."""
        if not self._columns[0]:
            self.share = self.decode = self.answer = self.undecoded = self.ahead = 0.0
