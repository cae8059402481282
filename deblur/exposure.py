"""For which share of the time between two frames of a video the shutter was open, read off what moves.

While the shutter is open an edge is smeared along its motion, and in no other direction. Two readings of that, both
learned from footage whose exposure is known, look at different signs and go wrong in different pictures (soft grass
looks smeared to the second, tiles to the first). So the lower one counts: harm is worse than a gain that is missed.

- *Likeness*: a box as long as the shutter was open makes the derivative along the motion negative to itself at that
  distance, the cepstral sign of motion blur, in units of each place's own motion; a number from the mean over places.
- *Profiles*: a network sees the luma along and across the motion of one place, and tells which shares it speaks for;
  the log-likelihoods of all places are averaged.

Both are our own; the physics is that of Nah et al., CVPR 2017, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur.gate import DOUBT, SURENESS, UNDERREAD, VOTERS
from deblur.paths import Drift, Grey, Image, sampled

__all__ = ["Exposure", "Pixelwise", "Places", "Vote", "agreed", "likeness_signs", "places_of", "profile_signs"]

# It is read at places that move so fast, on so much contrast
SLOWEST, FASTEST, CONTRAST = 3.0, 60.0, 0.02  # px a frame, px a frame, of the derivatives
BORDER = 12  # px that are left out
FEWEST, MOST, PROFILES = 25, 8000, 2000  # places: needed; looked at; of those, for their profiles
# ... in distances from frame to frame
LAGS = tuple(np.arange(0.1, 1.41, 0.1).astype(np.float32).tolist())
ALONG = np.arange(-1.5, 1.51, 0.125).astype(np.float32)
ACROSS = np.arange(-1.0, 1.01, 0.25).astype(np.float32)
SHARES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # that profiles tell apart


class Places(NamedTuple):
    """N places of a frame that tell the exposure: where they are, x and y, and how they move, vx and vy [N], in px;
    by how much the flow there and back misses its start, `missed` [N]; and how many there are `in_all`."""

    x: Image
    y: Image
    vx: Image
    vy: Image
    missed: Image
    in_all: int


class Vote(NamedTuple):
    """What one frame says: the share by likeness, how likely each of SHARES is by profiles (mean log-likelihood of the
    places, up to a constant), and how many places there were."""

    share: float
    likely: NDArray[np.float64]
    places: int


class Pixelwise(nn.Module):
    """A network for single places: [N,inputs] → [N,outputs]."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        self.middle = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.first(x))
        for layer in self.middle:
            x = x + F.silu(layer(x))
        made: Tensor = self.last(x)
        return made


class Exposure(nn.Module):
    """The two readings."""

    def __init__(self) -> None:
        super().__init__()
        signs = 2 * len(LAGS) + 4
        self.likeness = nn.Sequential(
            nn.Linear(signs, 24), nn.SiLU(), nn.Dropout(0.1), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 1)
        )
        self.register_buffer("mean", torch.zeros(signs))
        self.register_buffer("deviation", torch.ones(signs))
        self.mean: Tensor
        self.deviation: Tensor
        self.profiles = Pixelwise(len(ALONG) + len(ACROSS) + 4, 48, len(SHARES))

    def forward(self, likeness: Tensor) -> Tensor:
        """Shares [N] by the `likeness_signs` [N,signs] of as many frames."""
        share: Tensor = self.likeness((likeness - self.mean) / self.deviation)[:, 0]
        return share

    @torch.inference_mode()
    def vote(self, here: Grey, drift: Drift) -> Vote | None:
        """What a frame says; None where too little moves to tell."""
        luma = here.astype(np.float32) / np.float32(255)
        places = places_of(luma, drift)
        if places is None:
            return None
        device = self.mean.device
        share = self(torch.from_numpy(likeness_signs(luma, places)).to(device)[None])
        likely = self.profiles(torch.from_numpy(profile_signs(luma, places)).to(device)).mean(0)
        return Vote(float(share), likely.double().cpu().numpy(), places.in_all)


def agreed(votes: Iterable[Vote | None]) -> float:
    """The exposure by several frames together, 0 (sharp, or too little moves in them all) to 1."""
    given = [vote for vote in votes if vote is not None]
    weights = np.array([min(vote.places, MOST) for vote in given])
    if weights.sum() < VOTERS:
        return 0.0
    weights = weights / weights.sum()
    by_likeness = weights @ [vote.share for vote in given]
    likely = SURENESS * (weights @ [vote.likely for vote in given] + DOUBT * (np.array(SHARES) == 0))
    chances = np.exp(likely - likely.max())
    by_profiles = chances @ SHARES / chances.sum()
    return float(np.clip(UNDERREAD * min(by_likeness, by_profiles), 0, 1))


def places_of(luma: Image, drift: Drift) -> Places | None:
    """Places of a frame [H,W], 0..1, that tell the exposure, MOST of them at most; None if there are too few."""
    height, width = drift.velocity.shape[:2]
    speed = np.hypot(drift.velocity[..., 0], drift.velocity[..., 1])
    usable = (speed > SLOWEST) & (speed < FASTEST) & (drift.missed.max(0) < 1 + 0.1 * speed)
    contrast = cv2.resize(cv2.blur(_slopes(luma), (9, 9)), (width, height), interpolation=cv2.INTER_AREA)
    scale = np.array([luma.shape[0] / height, luma.shape[1] / width])
    margin = np.ceil(BORDER / scale).astype(int)
    inside = np.zeros_like(usable)
    inside[margin[0] : -margin[0], margin[1] : -margin[1]] = True
    rows, columns = np.nonzero(usable & inside & (contrast > CONTRAST**2))
    in_all = len(rows)
    if in_all < FEWEST:
        return None
    some = np.linspace(0, in_all - 1, min(in_all, MOST)).astype(np.int64)
    rows, columns = rows[some], columns[some]
    y, x = (((each + 0.5) * by - 0.5).astype(np.float32) for each, by in zip((rows, columns), scale, strict=True))
    vx, vy = drift.velocity[rows, columns].T
    return Places(x, y, vx, vy, drift.missed.max(0)[rows, columns], in_all)


def likeness_signs(luma: Image, places: Places) -> Image:
    """How alike the derivative along the motion is some way further along it, beside the same across it, and some facts
    of the places: [2·LAGS+4]."""
    x, y, vx, vy = places[:4]
    speed = np.hypot(vx, vy)
    ux, uy = (np.asarray(each / speed, np.float32) for each in (vx, vy))
    busy = np.asarray(cv2.blur(_slopes(luma), (15, 15)), np.float32)
    evened = 1 / (np.sqrt(sampled(busy, x, y)) / 4 + np.float32(0.01))

    def derivative(right: Image, down: Image, dx: Image, dy: Image) -> Image:
        ends = [sampled(luma, x + right + s * dx, y + down + s * dy) for s in (0.6, -0.6)]
        return np.asarray((ends[0] - ends[1]) * evened, np.float32)

    still = np.zeros_like(vx)
    along, across = derivative(still, still, ux, uy), derivative(still, still, -uy, ux)
    energy = [float(np.mean(each**2)) + 1e-6 for each in (along, across)]
    alike: list[list[float]] = [[], []]
    for lag in LAGS:
        for k, (own, right, down, dx, dy) in enumerate(((along, vx, vy, ux, uy), (across, -vy, vx, -uy, ux))):
            other = [derivative(side * lag * right, side * lag * down, dx, dy) for side in (1, -1)]
            alike[k].append(float(np.mean(own * (other[0] + other[1]) / 2)) / energy[k])
    more = [np.log(energy[0] / energy[1]), np.log(speed).mean(), np.log(speed.std() + 1), np.log(places.in_all)]
    return np.array([*alike[0], *alike[1], *more], np.float32)


def profile_signs(luma: Image, places: Places) -> Image:
    """The luma along the motion of up to PROFILES places, and across it, over its contrast, and some facts of each:
    [N,ALONG+ACROSS+4]. Along it an edge is smeared as far as it moved while the shutter was open, across it as far as
    lens and compression did."""
    every = -(-len(places.x) // PROFILES)
    x, y, vx, vy, missed = (each[::every] for each in places[:5])
    along = np.stack([sampled(luma, x + t * vx, y + t * vy) for t in ALONG], 1)
    across = np.stack([sampled(luma, x - t * vy, y + t * vx) for t in ACROSS], 1)
    contrast = along.std(1, keepdims=True) + np.float32(0.004)
    mean = along.mean(1, keepdims=True)
    told = [
        np.log(np.hypot(vx, vy)) - 2.5, np.log(contrast[:, 0]) + 3,
        np.log(across.std(1) / contrast[:, 0] + 0.05), np.log(0.3 + missed),
    ]  # fmt: skip
    signs = np.concatenate(((along - mean) / contrast, (across - mean) / contrast, np.stack(told, 1)), 1)
    return np.asarray(signs, np.float32)


def _slopes(luma: Image) -> Image:
    """The squared gradient of every pixel."""
    dx, dy = (np.asarray(cv2.Sobel(luma, cv2.CV_32F, *order)) for order in ((1, 0), (0, 1)))
    return np.asarray(dx * dx + dy * dy, np.float32)
