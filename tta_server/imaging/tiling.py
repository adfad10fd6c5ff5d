"""How an image that is too large to be looked at whole is cut into tiles that overlap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from tta_server.views.geometry import Size

Span = tuple[int, int, int, int]
"""Along one side: from, to, overlap before, overlap after."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the plain view's frame, and by how many pixels it overlaps its neighbours: left, top, right, below."""

    left: int
    top: int
    size: Size
    overlaps: tuple[int, int, int, int] = (0, 0, 0, 0)

    def within(self, corner: tuple[int, int], window: Size, plain: Size) -> tuple[tuple[int, int], Size]:
        """The part of a view's window, at `corner` of its canvas, that corresponds to this one of the plain view's."""
        left, right = _enlarged(self.left, self.left + self.size.width, window.width / plain.width)
        top, below = _enlarged(self.top, self.top + self.size.height, window.height / plain.height)
        return (corner[0] + left, corner[1] + top), Size(right - left, below - top)


class Grid(Sequence[Tile]):
    """The tiles of a frame, row by row, each made when it is asked for: memory grows with rows and columns only."""

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
        """The size that `Tile.within` gives for each tile in a view's window."""
        x, y = window.width / self._frame.width, window.height / self._frame.height
        widths = [right - left for left, right in (_enlarged(span[0], span[1], x) for span in self._columns)]
        heights = [below - top for top, below in (_enlarged(span[0], span[1], y) for span in self._rows)]
        known = {(width, height): Size(width, height) for width in set(widths) for height in set(heights)}
        return [known[width, height] for height in heights for width in widths]


def _enlarged(start: int, end: int, factor: float) -> tuple[int, int]:
    return round(start * factor), round(end * factor)


def cut(frame: Size, side: int, overlap: int, multiple: int) -> Grid:
    """Tiles of at most `side` pixels, row by row, that begin at multiples and overlap by `overlap`, less what
    that takes away."""
    return Grid(frame, _spans(frame.width, side, overlap, multiple), _spans(frame.height, side, overlap, multiple))


def tile_count(frame: Size, side: int, overlap: int) -> int:
    """How many tiles `cut` makes."""
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
