"""Synthetic images for tests that follow pixels."""

import numpy as np

from tta_server.views.geometry import Size


def noise(size, channels=3, seed=0):
    """Return noise, (H, W, channels) uint8."""
    shape = (size[1], size[0], channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(size, channels=3):
    """Return slow waves, (H, W, channels) uint8, which interpolation changes little."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    waves = [128 + 60 * np.sin(x / (17 + c) + c) + 50 * np.cos(y / (13 + 2 * c) - x / 41) for c in range(channels)]
    return np.rint(np.stack(waves, axis=2)).astype(np.uint8)


def blob(size, point, sigma=2.0):
    """Return a Gaussian blob on black, (H, W) uint8, around a point in continuous pixels."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    values = 250 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * sigma**2))
    return np.rint(values).astype(np.uint8)


def centroid(plane):
    """Return the centre of gravity (1, 2) of a plane (H, W), x and y in continuous pixels."""
    values = np.asarray(plane, np.float64)
    y, x = np.mgrid[0 : plane.shape[0], 0 : plane.shape[1]] + 0.5
    return np.array([[(values * x).sum(), (values * y).sum()]]) / values.sum()


def size_of(pixels):
    return Size(pixels.shape[1], pixels.shape[0])
