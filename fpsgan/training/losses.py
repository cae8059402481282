"""Losses of the interpolator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.interpolator import Synthesis

__all__ = ["flow_loss", "laplacian"]


def laplacian(image: Tensor, truth: Tensor, levels: int = 5) -> Tensor:
    """L1 distance of two Laplacian pyramids (Bojanowski et al. 2018), coarse bands heavier: [B], one per sample.

    [B,3,H,W] 0..1 both; the pyramid of the difference is the difference of the pyramids. A band has a quarter of
    the pixels of the one before it and stands for four times as many: hence the weight 2 per level on the mean.
    """
    rest = image - truth
    total = rest.new_zeros(rest.shape[0])
    for level in range(levels - 1):
        coarse = F.avg_pool2d(rest, 2)
        band = rest - F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        total = total + 2.0**level * _charbonnier(band)
        rest = coarse
    return total + 2.0 ** (levels - 1) * _charbonnier(rest)


def _charbonnier(difference: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean over each sample of sqrt(x² + ε²): an L1 that is smooth at zero (Charbonnier et al. 1994)."""
    return torch.sqrt(difference * difference + epsilon * epsilon).flatten(1).mean(dim=1)


def flow_loss(result: Synthesis, exact_t0: Tensor, exact_t1: Tensor) -> Tensor:
    """Robust end-point error of the flows of every level and of the result, where the truth is known.

    The mean of sqrt(distance + 0.01 px) − 0.1: steep near zero, so that a tenth of a pixel still matters, and
    lenient to what is far off (Sun et al. 2018, the robust loss of PWC-Net).
    exact_t0, exact_t1: [B,2,H/4,W/4] in pixels, NaN where unknown. Zero if nothing is known.
    """
    total = result.frame.new_zeros((), dtype=torch.float32)
    height = exact_t0.shape[-2]
    fine = (F.avg_pool2d(result.flow_t0, 4), F.avg_pool2d(result.flow_t1, 4))
    for found_t0, found_t1 in [*result.levels, fine]:
        pool = max(1, height // found_t0.shape[-2])
        for found, exact in ((found_t0, exact_t0), (found_t1, exact_t1)):
            truth = F.avg_pool2d(exact, pool)
            known = ~truth.isnan().any(dim=1)
            apart = (found - truth.nan_to_num()).square().sum(dim=1)
            distance = torch.sqrt(torch.sqrt(apart + 1e-8) + 0.01) - 0.1
            total = total + (distance * known).sum() / known.sum().clamp(min=1)
    return total / (2 * (len(result.levels) + 1))
