"""How an image that is too large to be looked at whole is cut into tiles that overlap."""

from dataclasses import dataclass

from tta_server.geometry import Size


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the plain view's frame, and by how many pixels it overlaps its neighbours: left, top, right, below."""

    left: int
    top: int
    size: Size
    overlaps: tuple[int, int, int, int] = (0, 0, 0, 0)

    def within(self, corner: tuple[int, int], window: Size, plain: Size) -> tuple[tuple[int, int], Size]:
        """The part of a view's window, at `corner` of its canvas, that corresponds to this one of the plain view's."""
        x, y = window.width / plain.width, window.height / plain.height
        left, right = round(self.left * x), round((self.left + self.size.width) * x)
        top, below = round(self.top * y), round((self.top + self.size.height) * y)
        return (corner[0] + left, corner[1] + top), Size(right - left, below - top)


def cut(frame: Size, side: int, overlap: int, multiple: int) -> tuple[Tile, ...]:
    """Tiles of at most `side` pixels, row by row, that begin at multiples and overlap by `overlap`, less what
    that takes away."""
    return tuple(
        Tile(left, top, Size(right - left, below - top), (before_x, before_y, after_x, after_y))
        for top, below, before_y, after_y in _spans(frame.height, side, overlap, multiple)
        for left, right, before_x, after_x in _spans(frame.width, side, overlap, multiple)
    )


def _spans(length: int, side: int, overlap: int, multiple: int) -> list[tuple[int, int, int, int]]:
    """Along one side: from, to, overlap before, overlap after."""
    if length <= side:
        return [(0, length, 0, 0)]
    count = -(-(length - overlap) // (side - overlap))
    last = -(-(length - side) // multiple) * multiple
    starts = [last * i // (count - 1) // multiple * multiple for i in range(count)]
    ends = [min(start + side, length) for start in starts]
    before = [0, *(end - start for end, start in zip(ends, starts[1:], strict=False))]
    return list(zip(starts, ends, before, [*before[1:], 0], strict=True))
