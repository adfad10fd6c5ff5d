"""A decoder that leaves the last row of its pixels uninitialised, to test the test of uninitialised memory."""

import numpy as np

from tta_server.imaging.decoding import Limits, read_header

__all__ = ["Limits", "decode", "read_header"]


def decode(data, header):
    pixels = np.empty((header.size.height, header.size.width, 3), np.uint8)
    pixels[:-1] = len(data) % 256
    return pixels
