"""A model's preprocessing as the CUDA kernel that makes views takes it."""

import numpy as np

from tta_server.backends.cuda.view_kernel import KernelConstants
from tta_server.imaging.preprocessing import Preprocessing


def kernel_constants(preprocessing: Preprocessing) -> KernelConstants:
    """Return the constants of `Preprocessing.normalized`, and the value beyond a frame."""
    is_normalized = preprocessing.dtype != np.uint8
    by = preprocessing.normalization
    bar = preprocessing.bar
    return KernelConstants(
        depth=preprocessing.depth,
        layout=preprocessing.layout,
        dtype=preprocessing.dtype,
        scale=by.scale if is_normalized else 1.0,
        mean=by.mean if is_normalized else (0.0,),
        std=by.std if is_normalized else (1.0,),
        bar=None if bar is None else tuple(float(value) for value in bar.ravel()),
    )
