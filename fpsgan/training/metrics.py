"""Image metrics, as the literature of the field computes them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["psnr"]


def psnr(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels of two uint8 images of one shape.

    Plain RGB PSNR, peak 255, no border cut off; equal images give infinity.
    """
    if image.dtype != np.uint8 or truth.dtype != np.uint8 or image.shape != truth.shape:
        raise ValueError(
            f"psnr compares uint8 images of one shape, not {image.dtype} {image.shape} with {truth.dtype} {truth.shape}"
        )
    error = float(np.mean(np.square(image.astype(np.int32) - truth)))
    return 10.0 * math.log10(255.0**2 / error) if error else math.inf
