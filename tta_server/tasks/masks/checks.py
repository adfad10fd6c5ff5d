"""Checks of score maps against the model's input."""

from collections.abc import Iterator, Sequence

from tta_server.tasks.checks import CardRun, Finding
from tta_server.views.geometry import Size


def stride_findings(runs: Sequence[CardRun], output: str) -> Iterator[Finding]:
    """A finding if a map's size is no whole number of pixels a cell, or cells a pixel: which pixels do its cells show?

    A convolution without padding gives a map of the input's middle, which would be stretched over the whole image.
    """
    for run in runs:
        height, width = run.outputs[output].shape[-2:]
        cells = Size(width, height)
        if not all(map(_is_explained, run.tensor, cells)):
            yield Finding(
                "maps.stride",
                f"the model gives {cells} scores for an input of {run.tensor}, which no whole stride explains: if its "
                "convolutions are not padded, it shows only the input's middle; export it with padding, so that it "
                "scores the whole input, or set input.multiple or input.size to what it divides",
            )
            return


def _is_explained(pixels: int, cells: int) -> bool:
    """Whether a whole number of pixels a cell, rounded up or down at the end, or of cells a pixel, gives these."""
    stride = max(1, round(pixels / cells))
    return cells in (pixels // stride, -(-pixels // stride)) or cells % pixels == 0
