"""How far a generated frame can be believed, and what to show where it cannot.

Where the frames are mixed, both should show the same thing. Where they do not, because something is too fast, too thin
or too regular to be followed, the mixture is of two unrelated places; there the plain mixture of both frames at rest
replaces it, which looks like motion blur rather than like torn shapes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.warp import around, warp

__all__ = ["BELIEVED", "GUESSED", "confidence", "enlarged", "fall_back"]

# Mean difference of the two warped frames over 36×36 px, times how evenly they are mixed, as a share of full
# brightness. On real clips and animations falling back changes the mean PSNR by less than 0.01 dB; from 20 to 40 codes
# it lost 0.04 dB.
BELIEVED = 30 / 255  # up to here the generated frame stays as it is
GUESSED = 60 / 255  # from here on nothing of it stays

CELL = 4  # px a side: the comparison is made on pictures a quarter the size
WINDOW = 9  # cells a side


def confidence(quarter0: Tensor, quarter1: Tensor, flow_t0: Tensor, flow_t1: Tensor, mask: Tensor) -> Tensor:
    """1 where a generated frame can be believed, 0 where it is a guess: [B,1,h,w] fp32, all at 1/4.

    Args:
        quarter0, quarter1: [B,3,h,w], the frames, RGB 0..1.
        flow_t0, flow_t1: [B,2,h,w], from the generated frame to either, in pixels of the full size.
        mask: [B,1,h,w], 0..1, weight of the warped frame0.
    """
    warped0, warped1 = warp(quarter0, flow_t0 / CELL), warp(quarter1, flow_t1 / CELL)
    unlike = torch.stack((warped0 - warped1).abs_().unbind(1)).mean(0).unsqueeze(1)
    mixed = unlike * 4 * mask * (1 - mask)  # what comes from one frame alone needs no other to agree
    return believe(around(mixed, WINDOW))


def believe(unlike: Tensor) -> Tensor:
    """Confidence from a mean difference, times how evenly it is mixed."""
    return ((GUESSED - unlike) / (GUESSED - BELIEVED)).clamp(0, 1)


def fall_back(frame: Tensor, frame0: Tensor, frame1: Tensor, t: Tensor, confidence: Tensor) -> Tensor:
    """The generated frame where it is believed, the frames mixed by time where not, and between the two the mixture.

    Args:
        frame: [B,3,H,W], generated between frame0 and frame1 of the same shape; what is replaced is replaced in it.
        t: [B], 0..1.
        confidence: as ``confidence`` returns it.
    """
    doubted = (confidence < 1).nonzero()
    if not len(doubted):
        return frame  # most frames
    # with a cell more on every side, which the enlarged confidence reaches into
    top, left = (doubted[:, 2:].amin(0) - 1).clamp(min=0).tolist()
    bottom, right = (doubted[:, 2:].amax(0) + 2).tolist()
    here = (..., slice(CELL * top, CELL * bottom), slice(CELL * left, CELL * right))
    sure = enlarged(confidence[..., top:bottom, left:right], frame[here])[:, 0]
    t = t.to(frame.dtype).view(-1, 1, 1)
    for made, before, after in zip(*(x[here].unbind(1) for x in (frame, frame0, frame1)), strict=True):
        resting = before + t * (after - before)
        made.copy_(resting + sure * (made - resting))
    return frame


def enlarged(confidence: Tensor, frame: Tensor) -> Tensor:
    """A confidence at the size of its frame: [B,1,H,W] in frame's dtype."""
    height, width = frame.shape[-2:]
    return F.interpolate(confidence, scale_factor=CELL, mode="bilinear")[..., :height, :width].to(frame.dtype)
