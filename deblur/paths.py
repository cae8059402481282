"""How each pixel of a video frame moves: what motion blur is read from and undone along."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LUMA",
    "QUICK",
    "SMALLEST",
    "Drift",
    "Grey",
    "Image",
    "Motion",
    "drift_of",
    "flows_between",
    "motion_of",
    "sampled",
]

Image = NDArray[np.float32]
Grey = NDArray[np.uint8]

QUICK = 4  # px a side of the frame for one of a quick flow
SMALLEST = 64  # px, a side of pictures whose flow can be found
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB


class Drift(NamedTuple):
    """How a frame moves, at the size [h,w] of its flows: `velocity` [h,w,2], (x, y) in px of the frame from one frame
    to the next, and by how many px the flow there and back misses its start, `missed` [2,h,w]."""

    velocity: Image
    missed: Image


class Motion(NamedTuple):
    """How a frame [H,W] moves: `velocity` and `missed` as of a `Drift`, a place for each pixel; and the frames `before`
    and `after`, warped onto it, [H,W] 0..1."""

    velocity: Image
    before: Image
    after: Image
    missed: Image


def flows_between(grey0: Grey, grey1: Grey, reduced: int = 2) -> tuple[Image, Image]:
    """Optical flow from frame0 to frame1 and back, each [ceil(H/n),ceil(W/n),2], n = `reduced`, (x, y) in px of the
    frame.

    Frames of uint8 [H,W], SMALLEST a side at least. Smoother than the interpolator's: blur wants regions, not edges.
    """
    size = (-(-grey0.shape[1] // reduced), -(-grey0.shape[0] // reduced))
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


def drift_of(flows_before: tuple[Image, Image], flows_after: tuple[Image, Image], reduced: int) -> Drift:
    """How a frame moves; ``flows_before`` are those from the frame before to it and back, ``flows_after`` those from it
    to the frame after and back, in px of the frame, of which each pixel of theirs takes the place of ``reduced``."""
    (from_before, to_before), (to_after, from_after) = flows_before, flows_after
    missed, trust = [], []
    for away, back in ((to_before, from_before), (to_after, from_after)):
        x, y = _places(away / np.float32(reduced))
        miss = np.hypot(*(away[..., c] + sampled(np.ascontiguousarray(back[..., c]), x, y) for c in (0, 1)))
        missed.append(miss)
        trust.append(1 / (1 + miss**2))
    # where both flows are confirmed their mean, else the one that is
    share0, share1 = (each / (trust[0] + trust[1]) for each in trust)
    velocity = to_after * share1[..., None] - to_before * share0[..., None]
    return Drift(velocity.astype(np.float32), np.stack(missed).astype(np.float32))


def motion_of(
    before: Grey, here: Grey, after: Grey, flows_before: tuple[Image, Image], flows_after: tuple[Image, Image]
) -> Motion:
    """How the frame ``here`` moves, pixel by pixel; the flows are those of `drift_of`, of any size."""
    height, width = here.shape
    from_before, to_before, to_after, from_after = (
        np.asarray(cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        for flow in (*flows_before, *flows_after)
    )
    warped = [
        sampled(neighbour.astype(np.float32) / np.float32(255), *_places(away))
        for neighbour, away in ((before, to_before), (after, to_after))
    ]
    velocity, missed = drift_of((from_before, to_before), (to_after, from_after), 1)
    return Motion(velocity, warped[0], warped[1], missed)


def sampled(image: Image, x: Image, y: Image) -> Image:
    """An image at places [h,w] or [N], bilinearly; outside, as at its border."""
    shape = x.shape
    if x.ndim == 1:  # OpenCV takes no line that is longer than 32767
        rest = -len(x) % 256
        x, y = (np.pad(each, (0, rest)).reshape(-1, 256) for each in (x, y))
    found = cv2.remap(
        image, np.asarray(x, np.float32), np.asarray(y, np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(found.reshape(-1)[: int(np.prod(shape))].reshape(shape), np.float32)


def _places(flow: Image) -> tuple[Image, Image]:
    """Where a flow leads: x and y, [h,w], in its own pixels."""
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    return x, np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
