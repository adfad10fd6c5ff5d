"""COCO's run lengths decoded without our encoder: character by character, as their C code reads them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def run_lengths(text: str) -> list[int]:
    """The lengths of runs, of 0 first."""
    found, value, shift = list[int](), 0, 0
    for character in text:
        code = ord(character) - 48
        assert 0 <= code < 64, character
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # negative
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = shift = 0
    assert shift == 0, "the last number is cut short"
    return found


def decoded(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask (H, W)."""
    height, width = rle["size"]
    pixels, bit = list[bool](), False
    for length in run_lengths(rle["counts"]):
        pixels += [bit] * length
        bit = not bit
    assert len(pixels) == height * width
    return np.array(pixels).reshape(width, height).T
