"""Checks of score maps against the model's input."""

from collections.abc import Iterator, Sequence

from tta_server.tasks.checks import CardRun, Finding
from tta_server.views.geometry import Size

STRIDES = (1, 2, 4, 7, 8, 12, 14, 16, 28, 32, 64, 128)
"""Pixels a cell of networks that take sizes which these do not divide."""


def stride_findings(runs: Sequence[CardRun], output: str) -> Iterator[Finding]:
    """A finding if no stride explains a map's size: which pixels do its cells show?

    A convolution without padding gives a map of the input's middle, which would be stretched over the whole image. A
    map of one size for inputs of any size, or larger than the first, was resized inside the model from the whole.
    """
    usual, first = runs[0].tensor, _cells(runs[0], output)
    for run in runs:
        cells, odd = _cells(run, output), run.tensor != usual
        if (odd and cells == first) or all(_is_explained(p, c, odd) for p, c in zip(run.tensor, cells, strict=True)):
            continue
        found = f"the model gives {cells} scores for an input of {run.tensor}, which no whole stride explains"
        yield Finding("maps.stride", f"{found}: {_advice(run.tensor, cells, odd)}")
        return


def _cells(run: CardRun, output: str) -> Size:
    height, width = run.outputs[output].shape[-2:]
    return Size(width, height)


def _is_explained(pixels: int, cells: int, odd: bool) -> bool:
    """Whether cells of a whole number of pixels, the last rounded up or down, cover the input, or are more than it."""
    if cells > pixels:
        return not odd or cells % pixels == 0
    return pixels % cells == 0 or any(cells in (pixels // stride, -(-pixels // stride)) for stride in STRIDES)


def _advice(tensor: Size, cells: Size, odd: bool) -> str:
    if not odd:
        return (
            "if its convolutions are not padded, it shows only the input's middle; export it with padding, so that it "
            "scores the whole input"
        )
    for multiple in reversed(STRIDES[1:]):
        if all(_rounded(p, multiple, c) for p, c in zip(tensor, cells, strict=True)):
            return f"it rounds the size to a multiple of {multiple}; set input.multiple: {multiple}"
    return "set input.multiple to what the model's input is divided by, or a fixed input.size"


def _rounded(pixels: int, multiple: int, cells: int) -> bool:
    """Whether the number of cells is the number of pixels, rounded to a multiple."""
    return cells in (pixels // multiple * multiple, -(-pixels // multiple) * multiple)
