"""A model's preprocessing as the CUDA kernel that makes views takes it."""

import numpy as np

from tta_server.backends.cuda.view_kernel import KernelConstants
from tta_server.imaging.preprocessing import Preprocessing, Resize


def kernel_constants(preprocessing: Preprocessing) -> KernelConstants:
    """Return the constants of `Preprocessing.normalized`, and the value of letterbox bars."""
    is_normalized = preprocessing.dtype != np.uint8
    by = preprocessing.normalization
    bar = None
    if preprocessing.resize is Resize.LETTERBOX:
        filled = np.full((preprocessing.depth, 1, 1), preprocessing.letterbox_fill, np.float32)
        bar = tuple(float(value) for value in preprocessing.normalized(filled).ravel())
    return KernelConstants(
        depth=preprocessing.depth,
        layout=preprocessing.layout,
        dtype=preprocessing.dtype,
        scale=by.scale if is_normalized else 1.0,
        mean=by.mean if is_normalized else (0.0,),
        std=by.std if is_normalized else (1.0,),
        bar=bar,
    )
