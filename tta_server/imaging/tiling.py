"""Overlapping tiles of an image that is too large for one model input. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from tta_server.views.geometry import Size

Span = tuple[int, int, int, int]
"""A tile along one axis, in pixels: start, end, overlap before, overlap after."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the plain view's frame; `overlaps` are the pixels shared with neighbours: left, top, right, bottom."""

    left: int
    top: int
    size: Size
    overlaps: tuple[int, int, int, int] = (0, 0, 0, 0)

    def within(self, corner: tuple[int, int], window: Size, plain: Size) -> tuple[tuple[int, int], Size]:
        """Return corner and size of the corresponding part of a view's window.

        `corner` and `window` are the view's window on its canvas; `plain` is the size of the plain view's frame.
        """
        left, right = _scale_span(self.left, self.left + self.size.width, window.width / plain.width)
        top, below = _scale_span(self.top, self.top + self.size.height, window.height / plain.height)
        return (corner[0] + left, corner[1] + top), Size(right - left, below - top)


class Grid(Sequence[Tile]):
    """The tiles of a frame, row by row. Tiles are made on access, so memory grows with rows plus columns."""

    def __init__(self, frame: Size, columns: Sequence[Span], rows: Sequence[Span]) -> None:
        self._frame = frame
        self._columns = columns
        self._rows = rows

    def __len__(self) -> int:
        return len(self._columns) * len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tile]: ...
    def __getitem__(self, index: int | slice) -> Tile | Sequence[Tile]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row, column = divmod(range(len(self))[index], len(self._columns))
        left, right, before_x, after_x = self._columns[column]
        top, below, before_y, after_y = self._rows[row]
        return Tile(left, top, Size(right - left, below - top), (before_x, before_y, after_x, after_y))

    def sizes_within(self, window: Size) -> list[Size]:
        """Return the size that `Tile.within` returns for each tile, for a view's window of that size."""
        x, y = window.width / self._frame.width, window.height / self._frame.height
        widths = [right - left for left, right in (_scale_span(span[0], span[1], x) for span in self._columns)]
        heights = [below - top for top, below in (_scale_span(span[0], span[1], y) for span in self._rows)]
        known = {(width, height): Size(width, height) for width in set(widths) for height in set(heights)}
        return [known[width, height] for height in heights for width in widths]


def _scale_span(start: int, end: int, factor: float) -> tuple[int, int]:
    return round(start * factor), round(end * factor)


def make_grid(frame: Size, side: int, overlap: int, multiple: int) -> Grid:
    """Return tiles of at most `side` pixels a side that overlap by `overlap`.

    Tiles start at multiples of `multiple`; rounding to these may reduce an overlap.
    """
    return Grid(frame, _spans(frame.width, side, overlap, multiple), _spans(frame.height, side, overlap, multiple))


def tile_count(frame: Size, side: int, overlap: int) -> int:
    """Return the number of tiles of `make_grid`."""
    return _count(frame.width, side, overlap) * _count(frame.height, side, overlap)


def _count(length: int, side: int, overlap: int) -> int:
    return 1 if length <= side else -(-(length - overlap) // (side - overlap))


def _spans(length: int, side: int, overlap: int, multiple: int) -> list[Span]:
    count = _count(length, side, overlap)
    if count == 1:
        return [(0, length, 0, 0)]
    last = -(-(length - side) // multiple) * multiple
    starts = [last * i // (count - 1) // multiple * multiple for i in range(count)]
    ends = [min(start + side, length) for start in starts]
    before = [0, *(end - start for end, start in zip(ends, starts[1:], strict=False))]
    return list(zip(starts, ends, before, [*before[1:], 0], strict=True))
