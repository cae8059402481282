"""Losses of the interpolator: each a function that gives one value per sample, [B]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.interpolator import Synthesis
from fpsgan.interpolator.synthesis import warp

__all__ = ["census", "charbonnier", "flow_loss", "laplacian", "multilevel", "squared"]


def charbonnier(image: Tensor, truth: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(x² + ε²): an L1 that is smooth at zero (Charbonnier et al., ICIP 1994).

    [B,C,H,W] 0..1, twice → [B]. ValueError for different shapes.
    """
    _same_shape(image, truth)
    return ((image - truth).square() + epsilon * epsilon).sqrt().flatten(1).mean(dim=1)


def squared(image: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error, which PSNR is the logarithm of. [B,C,H,W] twice → [B]. ValueError for different shapes."""
    _same_shape(image, truth)
    return (image - truth).square().flatten(1).mean(dim=1)


def laplacian(image: Tensor, truth: Tensor, levels: int = 5) -> Tensor:
    """L1 distance of two Laplacian pyramids (Bojanowski et al. 2018), coarse bands heavier: [B], one per sample.

    [B,3,H,W] 0..1 both; the pyramid of the difference is the difference of the pyramids. A band has a quarter of
    the pixels of the one before it and stands for four times as many: hence the weight 2 per level on the mean.
    ValueError for different shapes or sides that cannot be halved levels − 1 times.
    """
    _same_shape(image, truth)
    if any(side % 2 ** (levels - 1) for side in image.shape[2:]):
        raise ValueError(
            f"{levels} levels need sides that are multiples of {2 ** (levels - 1)}, not {list(image.shape)}"
        )
    rest = image - truth
    total = rest.new_zeros(rest.shape[0])
    for level in range(levels - 1):
        coarse = F.avg_pool2d(rest, 2)
        band = rest - F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        total = total + 2.0**level * charbonnier(band, torch.zeros_like(band))
        rest = coarse
    return total + 2.0 ** (levels - 1) * charbonnier(rest, torch.zeros_like(rest))


def census(image: Tensor, truth: Tensor, window: int = 7) -> Tensor:
    """Distance of soft census transforms: of structure, whatever the brightness (Meister et al., AAAI 2018).

    Every pixel's neighbours in the window are compared with it in grey (BT.601), the difference d (of 255) squashed to
    d/√(0.81 + d²); two transforms differ by the mean of δ²/(0.1 + δ²). The border that lacks neighbours does not count.
    [B,3,H,W] 0..1, twice → [B], 0..1. ValueError for different shapes, other channels or sides below the window.
    """
    _same_shape(image, truth)
    if image.shape[1] != 3 or min(image.shape[2:]) < window:
        raise ValueError(f"the census needs RGB with sides of {window} px or more, not {list(image.shape)}")
    apart = (_census(image, window) - _census(truth, window)).square()
    return (apart / (0.1 + apart)).flatten(1).mean(dim=1)


def _census(image: Tensor, window: int) -> Tensor:
    grey = 255 * (0.299 * image[:, 0] + 0.587 * image[:, 1] + 0.114 * image[:, 2])
    rows, columns = (side - window + 1 for side in grey.shape[1:])
    middle = grey[:, window // 2 : window // 2 + rows, window // 2 : window // 2 + columns]
    places = [(y, x) for y in range(window) for x in range(window) if (y, x) != (window // 2, window // 2)]
    d = torch.stack([grey[:, y : y + rows, x : x + columns] - middle for y, x in places], dim=1)
    return d / (0.81 + d.square()).sqrt()


def flow_loss(result: Synthesis, exact_t0: Tensor, exact_t1: Tensor, visible: Tensor | None = None) -> Tensor:
    """Robust end-point error of the flows of every level and of the result, where the truth is known: [B].

    The mean of sqrt(distance + 0.01 px) − 0.1: steep near zero, so that a tenth of a pixel still matters, and
    lenient to what is far off (Sun et al., "PWC-Net", CVPR 2018, equation 4, with a Euclidean distance and q = 1/2).

    exact_t0, exact_t1: [B,2,H/4,W/4] in pixels, NaN where unknown. visible: [B,2,H/4,W/4], 0..1, how much of each
    place is seen in frame0 and in frame1: where it is hidden, no picture can tell the flow, and it weighs a tenth. A
    sample of which nothing is known gives 0. ValueError for other shapes, or sides that are not multiples of 32.
    """
    fine = (F.avg_pool2d(result.flow_t0, 4), F.avg_pool2d(result.flow_t1, 4))
    for name, given in (("exact_t0", exact_t0), ("exact_t1", exact_t1), ("visible", visible)):
        if given is not None and given.shape != fine[0].shape:
            raise ValueError(f"{name} must be {list(fine[0].shape)}, as the flows at 1/4, not {list(given.shape)}")
    weights = torch.ones_like(exact_t0) if visible is None else 0.1 + 0.9 * visible
    total = exact_t0.new_zeros(exact_t0.shape[0])
    for found_t0, found_t1 in [*result.levels, fine]:
        pool = _factor(exact_t0, found_t0)
        for found, exact, weight in ((found_t0, exact_t0, weights[:, 0]), (found_t1, exact_t1, weights[:, 1])):
            truth = F.avg_pool2d(exact, pool)
            counted = F.avg_pool2d(weight, pool) * ~truth.isnan().any(dim=1)
            apart = (found - truth.nan_to_num()).square().sum(dim=1)
            distance = torch.sqrt(torch.sqrt(apart + 1e-8) + 0.01) - 0.1
            total = total + (distance * counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1e-6)
    return total / (2 * (len(result.levels) + 1))


def multilevel(result: Synthesis, frame0: Tensor, frame1: Tensor, truth: Tensor) -> Tensor:
    """Charbonnier error of the frames as every level's flows warp them, at that level's size: [B].

    Each level is held to the truth by itself, which keeps the coarse ones from leaving all to the fine (issue 293 of
    hzwer/ECCV2022-RIFE). The better of both warped frames counts at each pixel: what is hidden in one is seen in the
    other.

    frame0, frame1, truth: [B,3,H,W] 0..1. ValueError for different shapes, or sides that are not multiples of 32.
    """
    _same_shape(frame0, truth)
    _same_shape(frame1, truth)
    total = truth.new_zeros(truth.shape[0])
    for flow_t0, flow_t1 in result.levels:
        factor = _factor(truth, flow_t0)
        small0, small1, small = (F.avg_pool2d(image, factor) for image in (frame0, frame1, truth))
        errors = [
            ((warp(image, flow / factor) - small).square() + 1e-6).sqrt().mean(1)
            for image, flow in ((small0, flow_t0), (small1, flow_t1))
        ]
        total = total + torch.minimum(*errors).flatten(1).mean(1)
    return total / len(result.levels)


def _factor(fine: Tensor, coarse: Tensor) -> int:
    """How many times the sides of a level go into those of [B,·,h,w], exactly."""
    factor = fine.shape[-1] // coarse.shape[-1]
    if [side * factor for side in coarse.shape[-2:]] != list(fine.shape[-2:]):
        raise ValueError(
            "the losses of every level need pictures whose sides are multiples of 32 px: a level of "
            f"{list(coarse.shape[-2:])} cells does not divide {list(fine.shape[-2:])}"
        )
    return factor


def _same_shape(image: Tensor, truth: Tensor) -> None:
    if image.shape != truth.shape or image.ndim != 4:
        raise ValueError(
            f"two images [B,C,H,W] of one shape are needed, not {list(image.shape)} and {list(truth.shape)}"
        )
