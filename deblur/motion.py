"""Motion blur in a video, undone along the optical flow.

While the shutter is open everything in the picture moves along its own path. In a video the flow to the frames before
and after tells each pixel's path from frame to frame (deblur/paths.py), and for which share of that time the shutter
was open is one number for a whole scene (deblur/exposure.py). Along the path of its pixel every motion blur is the same
box, whatever its length and direction. So a tiny network that sees the picture only at places given in path lengths
learns to undo them all, from minutes of training on a CPU. It changes the luma alone, and only what moves.

The idea is our own; the physics is that of Nah et al., CVPR 2017, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deblur.exposure import Exposure, Pixelwise
from deblur.gate import MOVED
from deblur.paths import Image, Motion

__all__ = ["MotionBlur", "MotionConfig", "path_features"]

# Where the network looks. In path lengths along the path: the picture itself, its derivative along the path, that in
# two rows beside the path, and both neighbours, warped onto the frame. In pixels along and across it: the picture.
ALONG = (-2.0, -1.5, -1.25, -1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
SLOPES = (-2.5, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5)
SLOPES_BESIDE = (-0.5, 0.0, 0.5)
NEAR = (-3, -2, -1, 1, 2, 3)
ACROSS = (-2, -1, 1, 2)
NEIGHBOURS = (-0.5, 0.0, 0.5)
SLOPE = 0.75  # px to either side, over which a derivative is taken
FEATURES = len(ALONG) + len(SLOPES) + 2 * len(SLOPES_BESIDE) + len(NEAR) + len(ACROSS) + 2 * len(NEIGHBOURS)
CONTEXT = 8  # what is told of the place itself
AT_ONCE = 1 << 16  # pixels
EVENED = 0.5  # px, standard deviation: neighbours are told apart by noise too, and speckles would show


@dataclass(frozen=True)
class MotionConfig:
    """hidden: width of the residual's layers."""

    hidden: int = 64


class MotionBlur(nn.Module):
    """The networks: those that tell for how long the shutter was open, and those that undo what moved meanwhile."""

    def __init__(self, config: MotionConfig | None = None) -> None:
        super().__init__()
        self.config = config or MotionConfig()
        self.exposure = Exposure()
        self.added = Pixelwise(FEATURES + CONTEXT, self.config.hidden, 1)
        shaped = nn.Linear(24, FEATURES)
        self.filter = nn.Sequential(nn.Linear(CONTEXT, 24), nn.SiLU(), shaped)
        for layer in (self.added.last, shaped):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, context: Tensor, contrast: Tensor) -> Tensor:
        """What to add to the luma of pixels: [N], from `path_features`; a filter that depends on the place, and what a
        filter cannot do."""
        added = self.added(torch.cat((features, context), 1))[:, 0]
        made: Tensor = ((self.filter(context) * features).sum(1) + added) * contrast
        return made

    @torch.inference_mode()
    def residual(self, luma: Image, motion: Motion, share: float) -> Image:
        """What to add to a blurred luma [H,W], 0..1, at the exposure `share`; 0 where nothing moves."""
        path = np.float32(share) * motion.velocity
        shown = np.clip((np.hypot(path[..., 0], path[..., 1]) - MOVED[0]) / (MOVED[1] - MOVED[0]), 0, 1)
        rows, columns = np.nonzero(shown)
        found = np.zeros(luma.shape, np.float32)
        device = next(self.parameters()).device
        planes = torch.from_numpy(np.stack((luma, motion.before, motion.after))).to(device)
        paths = torch.from_numpy(np.ascontiguousarray(path.transpose(2, 0, 1))).to(device)
        missed = torch.from_numpy(motion.missed).to(device)
        for start in range(0, len(rows), AT_ONCE):
            some = np.s_[start : start + AT_ONCE]
            places = [torch.from_numpy(each[some]).to(device) for each in (rows, columns)]
            made = self(*path_features(planes, paths, missed, share, *places))
            found[rows[some], columns[some]] = made.cpu().numpy()
        return np.asarray(cv2.GaussianBlur(found, (0, 0), EVENED) * shown, np.float32)


def path_features(
    planes: Tensor, path: Tensor, missed: Tensor, share: float, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the network sees of N pixels: (features [N,FEATURES], context [N,CONTEXT], contrast [N]).

    planes: [3,H,W], the frame's luma and its neighbours', warped, 0..1; path: [2,H,W], (x, y) in px that are passed
    while the shutter is open; missed: as in `Motion`, [2,H,W]; rows, columns: [N]. The features are differences to the
    pixel itself over the local contrast: so light and dark, strong and weak edges are one case.
    """
    height, width = planes.shape[1:]
    here = planes[0, rows, columns]
    dx, dy = path[:, rows, columns]
    length = (dx * dx + dy * dy).sqrt() + 1e-4
    ux, uy = dx / length, dy / length

    def sampled(images: Tensor, steps: list[tuple[float, float, float]]) -> Tensor:
        """Images [C,H,W] at steps of so many path lengths, px along and px across: [C,steps,N]."""
        lengths, along, across = torch.tensor(steps, device=images.device, dtype=torch.float32).T[..., None]
        x = columns + lengths * dx + along * ux - across * uy
        y = rows + lengths * dy + along * uy + across * ux
        grid = torch.stack((x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1), -1)[None]
        return F.grid_sample(images[None], grid, padding_mode="border", align_corners=True)[0]

    slopes = [(t, 0.0) for t in SLOPES] + [(t, r) for t in SLOPES_BESIDE for r in (-1.0, 1.0)]
    steps = [(t, 0.0, 0.0) for t in ALONG]
    steps += [(t, side * SLOPE, r) for t, r in slopes for side in (1, -1)]
    steps += [(0.0, float(s), 0.0) for s in NEAR] + [(0.0, 0.0, float(s)) for s in ACROSS]
    seen = sampled(planes[:1], steps)[0]
    along, pairs, near = torch.split(seen, [len(ALONG), 2 * len(slopes), len(NEAR) + len(ACROSS)])
    slope = length.sqrt() * (pairs[0::2] - pairs[1::2])
    neighbours = sampled(planes[1:], [(t, 0.0, 0.0) for t in NEIGHBOURS]).transpose(0, 1).flatten(0, 1)
    features = torch.cat((along - here, slope, near - here, neighbours - here))
    contrast = (along - here).square().mean(0).sqrt() + 0.004
    ends = sampled(path, [(-0.5, 0.0, 0.0), (0.5, 0.0, 0.0)])
    turned = (((ends[0] - dx) ** 2 + (ends[1] - dy) ** 2).sqrt() / length).clamp(max=2)
    told = [
        length.log() - 1.5, torch.full_like(length, 2 * share - 1.2), *(0.3 + missed[:, rows, columns]).log(),
        *turned, contrast.log() + 3.5, 2 * here - 1,
    ]  # fmt: skip
    return (features / contrast).T, torch.stack(told, 1), contrast
