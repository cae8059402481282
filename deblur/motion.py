"""Motion blur in a video, undone along the optical flow.

While the shutter is open everything in the picture moves along its own path. In a video the flow to the frames before
and after tells each pixel's path from frame to frame, and the share of that time for which the shutter was open is one
number for a whole scene: `MotionBlur.exposure` reads it off how edges are smeared in the direction of motion, and in
no other. Along the path of its pixel every motion blur is the same box, whatever its length and direction. So a tiny
network that sees the picture only at places given in path lengths (`MotionBlur.residual`) learns to undo them all, from
minutes of training on a CPU. It changes the luma alone, and only what moves.

The three ideas are our own; the physics is that of Nah et al., CVPR 2017, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur.gate import MOVED, VOTERS

__all__ = ["LUMA", "SMALLEST", "Motion", "MotionBlur", "MotionConfig", "Vote", "agreed", "flows_between", "motion_of"]

Image = NDArray[np.float32]
Grey = NDArray[np.uint8]

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
SMALLEST = 32  # px, a side of pictures whose flow can be found
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB

# The exposure, from pixels that move so fast, on so much contrast
LAGS = tuple(np.arange(0.1, 1.41, 0.1).astype(np.float32).tolist())  # in distances from frame to frame
SLOWEST, FASTEST, CONTRAST = 3.0, 60.0, 0.02  # px a frame, px a frame, of the derivatives
BORDER = 12  # px that are left out
FEWEST, MOST = 400, 40_000  # pixels


@dataclass(frozen=True)
class MotionConfig:
    """hidden: width of the residual's layers."""

    hidden: int = 64


class Motion(NamedTuple):
    """How a frame [H,W] moves: `velocity` [H,W,2], (x, y) in px from one frame to the next; the frames `before` and
    `after`, warped onto it, [H,W] 0..1; and by how much the flow there and back misses its start, `missed` [2,H,W]."""

    velocity: Image
    before: Image
    after: Image
    missed: Image


class Vote(NamedTuple):
    """What one frame says of the exposure: the share of the time between frames, and from how many pixels."""

    share: float
    pixels: int


def flows_between(grey0: Grey, grey1: Grey) -> tuple[Image, Image]:
    """Optical flow from frame0 to frame1 and back, each [ceil(H/2),ceil(W/2),2], (x, y) in px of the frame.

    Frames of uint8 [H,W], SMALLEST a side at least. Smoother than the interpolator's: blur wants regions, not edges.
    """
    size = (-(-grey0.shape[1] // 2), -(-grey0.shape[0] // 2))
    small0, small1 = (
        np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8) for grey in (grey0, grey1)
    )
    scale = np.array([grey0.shape[1] / size[0], grey0.shape[0] / size[1]], np.float32)

    nothing: Any = None  # OpenCV's stubs miss that it may be

    def flow(here: Grey, there: Grey) -> Image:
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        dis.setFinestScale(0)
        dis.setPatchSize(8)
        dis.setPatchStride(4)
        dis.setGradientDescentIterations(16)
        dis.setVariationalRefinementIterations(5)
        return np.asarray(dis.calc(here, there, nothing), np.float32) * scale

    return flow(small0, small1), flow(small1, small0)


def motion_of(
    before: Grey, here: Grey, after: Grey, flows_before: tuple[Image, Image], flows_after: tuple[Image, Image]
) -> Motion:
    """How the frame ``here`` moves; ``flows_before`` are those from the frame before to it and back, ``flows_after``
    those from it to the frame after and back."""
    height, width = here.shape
    from_before, to_before, to_after, from_after = (
        np.asarray(cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        for flow in (*flows_before, *flows_after)
    )
    warped, missed, trust = [], [], []
    for neighbour, away, back in ((before, to_before, from_before), (after, to_after, from_after)):
        x, y = _places(away)
        warped.append(_sampled(neighbour.astype(np.float32) / np.float32(255), x, y))
        miss = np.hypot(*(away[..., c] + _sampled(np.ascontiguousarray(back[..., c]), x, y) for c in (0, 1)))
        missed.append(miss)
        trust.append(1 / (1 + miss**2))
    # where both flows are confirmed their mean, else the one that is
    share0, share1 = (each / (trust[0] + trust[1]) for each in trust)
    velocity = to_after * share1[..., None] - to_before * share0[..., None]
    return Motion(velocity.astype(np.float32), warped[0], warped[1], np.stack(missed).astype(np.float32))


class MotionBlur(nn.Module):
    """The two networks: one that tells for how long the shutter was open, one that undoes what moved meanwhile."""

    def __init__(self, config: MotionConfig | None = None) -> None:
        super().__init__()
        self.config = config or MotionConfig()
        hidden = self.config.hidden
        self.first, self.last = nn.Linear(FEATURES + CONTEXT, hidden), nn.Linear(hidden, 1)
        self.middle = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        shaped = nn.Linear(24, FEATURES)
        self.filter = nn.Sequential(nn.Linear(CONTEXT, 24), nn.SiLU(), shaped)
        signs = 2 * len(LAGS) + 4
        self.share = nn.Sequential(
            nn.Linear(signs, 24), nn.SiLU(), nn.Dropout(0.1), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 1)
        )
        self.register_buffer("mean", torch.zeros(signs))
        self.register_buffer("deviation", torch.ones(signs))
        self.mean: Tensor
        self.deviation: Tensor
        for layer in (self.last, shaped):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, context: Tensor, contrast: Tensor) -> Tensor:
        """What to add to the luma of pixels: [N], from `path_features`; a filter that depends on the place, and what a
        filter cannot do."""
        hidden = F.silu(self.first(torch.cat((features, context), 1)))
        for layer in self.middle:
            hidden = hidden + F.silu(layer(hidden))
        made: Tensor = ((self.filter(context) * features).sum(1) + self.last(hidden)[:, 0]) * contrast
        return made

    @torch.inference_mode()
    def exposure(self, here: Grey, motion: Motion) -> Vote | None:
        """The share of the time between frames for which the shutter was open, 0 (sharp) to about 1; None where too
        little moves to tell."""
        found = exposure_signs(here, motion)
        if found is None:
            return None
        signs, pixels = found
        given = (torch.from_numpy(signs).to(self.mean.device) - self.mean) / self.deviation
        return Vote(float(self.share(given[None])), pixels)

    @torch.inference_mode()
    def residual(self, luma: Image, motion: Motion, share: float) -> Image:
        """What to add to a blurred luma [H,W], 0..1, at the exposure `share`; 0 where nothing moves."""
        path = np.float32(share) * motion.velocity
        shown = np.clip((np.hypot(path[..., 0], path[..., 1]) - MOVED[0]) / (MOVED[1] - MOVED[0]), 0, 1)
        rows, columns = np.nonzero(shown)
        found = np.zeros(luma.shape, np.float32)
        device = self.mean.device
        planes = torch.from_numpy(np.stack((luma, motion.before, motion.after))).to(device)
        paths = torch.from_numpy(np.ascontiguousarray(path.transpose(2, 0, 1))).to(device)
        missed = torch.from_numpy(motion.missed).to(device)
        for start in range(0, len(rows), AT_ONCE):
            some = np.s_[start : start + AT_ONCE]
            places = [torch.from_numpy(each[some]).to(device) for each in (rows, columns)]
            made = self(*path_features(planes, paths, missed, share, *places))
            found[rows[some], columns[some]] = made.cpu().numpy()
        return np.asarray(found * shown, np.float32)


def agreed(votes: Iterable[Vote | None]) -> float:
    """What several frames say of the exposure together; 0 where too little moves in them all."""
    given = [vote for vote in votes if vote is not None]
    weights = [min(vote.pixels, MOST // 2) for vote in given]
    if sum(weights) < VOTERS:
        return 0.0
    return min(sum(weight * vote.share for weight, vote in zip(weights, given, strict=True)) / sum(weights), 1.0)


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


def exposure_signs(here: Grey, motion: Motion) -> tuple[Image, int] | None:
    """By what the exposure is told, and from how many pixels: how alike the derivative along the motion is some way
    further along it, beside the same across it; None where too little moves.

    A box that is as long as the shutter was open makes the derivative along the motion negative to itself at that
    distance: the cepstral sign of motion blur, in units of each pixel's own motion.
    """
    luma = here.astype(np.float32) / np.float32(255)
    vx, vy = motion.velocity[..., 0], motion.velocity[..., 1]
    speed = np.hypot(vx, vy)
    usable = (speed > SLOWEST) & (speed < FASTEST) & (motion.missed.max(0) < 1 + 0.1 * speed)
    slopes = np.square(cv2.Sobel(luma, cv2.CV_32F, 1, 0)) + np.square(cv2.Sobel(luma, cv2.CV_32F, 0, 1))
    usable &= cv2.blur(slopes, (9, 9)) > CONTRAST**2
    inside = np.zeros_like(usable)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    rows, columns = np.nonzero(usable & inside)
    pixels = len(rows)
    if pixels < FEWEST:
        return None
    some = np.linspace(0, pixels - 1, min(pixels, MOST)).astype(np.int64)
    rows, columns = rows[some], columns[some]
    vx, vy, speed = (np.asarray(each[rows, columns], np.float32) for each in (vx, vy, speed))
    ux, uy = vx / speed, vy / speed
    evened = 1 / (np.sqrt(cv2.blur(slopes, (15, 15))[rows, columns]) / 4 + 0.01)

    def derivative(right: Image, down: Image, dx: Image, dy: Image) -> Image:
        ends = [_sampled(luma, columns + right + s * dx, rows + down + s * dy) for s in (0.6, -0.6)]
        return np.asarray((ends[0] - ends[1]) * evened, np.float32)

    still = np.zeros_like(vx)
    along, across = derivative(still, still, ux, uy), derivative(still, still, -uy, ux)
    energy = [float(np.mean(each**2)) + 1e-6 for each in (along, across)]
    alike: list[list[float]] = [[], []]
    for lag in LAGS:
        for k, (own, right, down, dx, dy) in enumerate(((along, vx, vy, ux, uy), (across, -vy, vx, -uy, ux))):
            other = [derivative(side * lag * right, side * lag * down, dx, dy) for side in (1, -1)]
            alike[k].append(float(np.mean(own * (other[0] + other[1]) / 2)) / energy[k])
    more = [np.log(energy[0] / energy[1]), np.log(speed).mean(), np.log(speed.std() + 1), np.log(pixels)]
    return np.array([*alike[0], *alike[1], *more], np.float32), pixels


def _places(flow: Image) -> tuple[Image, Image]:
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    return x, np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]


def _sampled(image: Image, x: Image, y: Image) -> Image:
    """An image at places [h,w] or [N], bilinearly."""
    shape = x.shape
    if x.ndim == 1:  # OpenCV takes no line that is longer than 32767
        rest = -len(x) % 256
        x, y = (np.pad(each, (0, rest)).reshape(-1, 256) for each in (x, y))
    found = cv2.remap(
        image, np.asarray(x, np.float32), np.asarray(y, np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(found.reshape(-1)[: int(np.prod(shape))].reshape(shape), np.float32)
