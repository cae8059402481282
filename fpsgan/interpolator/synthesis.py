"""From two frames and their optical flow to the frame at time t: everything that is not learned.

The torch definition, on any device and with gradients. `fpsgan.interpolator.cpu` does the same on a CPU, several times
faster, and is tested against this function by function.

In order: the flows are checked against each other and against the frames (`check_consistency`), carried to time t
(`splat`, forward splatting as in Niklaus and Liu 2020), turned into intermediate flows (`intermediate_flows`), given
to the network together with what they warp (`warp`, `cost_volume`), compensated with overlap where motion varies
(`overlapped`, Orchard and Sullivan 1994), composed (`compose`), and replaced by a plain blend where both frames
disagree (`confidence`, `fall_back`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Intermediate", "check_consistency", "compose", "confidence", "fall_back", "overlapped", "splat", "warp"]

FINEST = 4  # px of the frame per pixel of the finest level of the network, and of the confidence

# Consistency check
PER_PIXEL = 0.05 / 255.0  # of full brightness, that each pixel of motion has to explain
EXPLAINED_OVER = 28  # px of the frame, over which that is averaged
# And which share of what no motion leaves, over so many pixels of the flow, where that is no more than noise and
# compression make: by the flow's stride, since a finer flow explains finer texture
EXPLAINED, NOISE, NOISE_OVER = 0.3, {4: 6 / 255.0, 2: 20 / 255.0}, 3
AROUND = 8  # side, in pixels of the flow, of the blocks whose mean motion tells what leaves the frame
SURE = 0.9  # trust from which a vector is believed even there
FALSE = 0.01  # factor on the trust of matches that must be false

# Overlapped compensation
CELL = 2  # px of half size a side: places are chosen, and motions compared, by cells of 4×4 px of the frame
AWAY = 3  # cells to the neighbours whose motion is tried
VARIED = 16.0  # px of the frame, spread of the four components of motion between neighbours, from which they are tried
TRIED = 0.9  # share of the neighbours in the mean, if all explain the frames as well as a place's own motion
UNLIKELY = 0.05  # of full brightness: error by which a motion's weight drops by a factor of e
COMPARED_OVER = 7  # cells, over which that is averaged
MOST = 0.25  # of a frame at most, where motion varies most
MOTIONS = ((0, 0), *((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x))  # a place's own, its neighbours'

# Confidence: mean difference of the two warped frames over 36×36 px, times how evenly they are mixed, as a share of
# full brightness. On real clips and animations falling back changes the mean PSNR by less than 0.01 dB; from 20 to 40
# codes it lost 0.04 dB.
BELIEVED = 30 / 255  # up to here the generated frame is kept
GUESSED = 60 / 255  # from here on it is replaced altogether
BELIEVED_OVER = 9  # pixels at 1/4, over which that is averaged


class Intermediate(NamedTuple):
    """What `compose` makes a frame of, fp32 at half its size, or padded to more."""

    flow_t0: Tensor  # [B,2,h,w] from the frame at t to frame0, in pixels of the frames
    flow_t1: Tensor  # [B,2,h,w] from the frame at t to frame1
    mask: Tensor  # [B,1,h,w] the weight of the warped frame0, 0..1
    residual: Tensor  # [B,3,h,w]


def warp(frame: Tensor, flow: Tensor) -> Tensor:
    """Backward warping: samples frame at x + flow(x), bilinearly; outside the frame its border pixels are repeated.

    Args:
        frame: [B,C,H,W], any floating dtype and range.
        flow: [B,2,H,W], (x, y) in pixels of this frame.

    Returns:
        [B,C,H,W] in frame's dtype. The arithmetic is fp32 whatever the dtypes: bf16 has 8 bits, too few for a
        coordinate on a 720p frame.
    """
    height, width = frame.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=torch.float32)
    y = torch.arange(height, device=flow.device, dtype=torch.float32)
    # grid_sample with align_corners=False puts pixel i's centre at (2i + 1) / size - 1
    grid_x = (2.0 * (x + flow[:, 0].float()) + 1.0) / width - 1.0
    grid_y = (2.0 * (y[:, None] + flow[:, 1].float()) + 1.0) / height - 1.0
    grid = torch.stack((grid_x, grid_y), dim=-1)
    warped = F.grid_sample(frame.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.to(frame.dtype)


def pad(x: Tensor, multiple: int) -> Tensor:
    """Padded below and to the right, by repeating the border, to multiples of `multiple`."""
    bottom, right = (-size % multiple for size in x.shape[-2:])
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def downsample(x: Tensor) -> Tensor:
    """The mean of 2×2 pixels, in fp32: [B,C,H,W] to [B,C,⌈H/2⌉,⌈W/2⌉]; an odd last row or column counts twice."""
    return F.avg_pool2d(pad(x.float(), 2), 2)


def upsample(x: Tensor) -> Tensor:
    """Bilinearly to double the size: [B,C,h,w] to [B,C,2h,2w], in x's dtype."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def box_filter(x: Tensor, side: int) -> Tensor:
    """The mean over side × side pixels (odd), counting only those inside the picture: [B,C,H,W]."""
    return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)


def check_consistency(
    flows: Sequence[Tensor], small0: Tensor, small1: Tensor, stride: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Forward-backward and photometric consistency: both flows with a third channel, how far to trust them.

    Trust is high where the two flows agree, relative to their length, and the two frames match there. A flow that
    does not explain the frames better than no motion, by PER_PIXEL of its length and EXPLAINED of what may be noise,
    becomes zero: where brightness changes without motion, as in animated gradients and fades, or by compression,
    optical flow finds motion all the same. Matches of content that leaves the frame are hardly trusted.

    Args:
        flows: flow01, flow10 and, where known, both accelerations, [B,2,h,w] in full-size pixels.
        small0, small1: [B,3,h,w], the frames at that size, RGB 0..1.
        stride: pixels of the frames per pixel of these.
        size: height and width of the frames, without the padding that all this may have.

    Returns:
        Motion of frame0, of frame1, [B,3,h,w] or with acceleration [B,5,h,w] each: flow, trust 0..1, acceleration.
    """
    resting = _difference(small0, small1)
    doubted = EXPLAINED * box_filter(resting.clamp(max=NOISE[stride]), NOISE_OVER)
    checked, curves, unexplained = [], [], []
    for (flow, *curve), here, there in ((flows[::2], small0, small1), (flows[1::2], small1, small0)):
        moving = _difference(here, warp(there, flow / stride))
        gained = box_filter(resting - moving, explained_over(stride)) - doubted
        better = gained > PER_PIXEL * _length(flow)
        checked.append(flow * better)
        curves.append([acceleration * better for acceleration in curve])
        unexplained.append(torch.where(better, moving, resting))
    motion = []
    for (flow, back), left, curve in zip((checked, checked[::-1]), unexplained, curves, strict=True):
        returned = warp(back, flow / stride)
        miss = _length(flow + returned) / (1.0 + 0.1 * (_length(flow) + _length(returned)))
        trust = distrust_leaving(flow, torch.exp(-miss - 25.0 * left), stride, size)
        motion.append(torch.cat((flow, trust, *curve), dim=1))
    return motion[0], motion[1]


def distrust_leaving(flow: Tensor, trust: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Trust, reduced for false matches at the border: content that leaves the frame has no match in the other one.

    Where a pixel goes is taken from the trusted motion around it, from which `splat` then fills the hole.

    Args:
        flow: [B,2,h,w], in pixels of the frame.
        trust: [B,1,h,w].
        stride, size: as for `check_consistency`.
    """
    height, width = trust.shape[-2:]
    weight = trust**4  # of what is sure, little else
    sums = F.avg_pool2d(torch.cat((weight, weight * flow), dim=1), AROUND, ceil_mode=True)
    sums = F.avg_pool2d(sums, 3, 1, 1)
    mean = sums[:, 1:] / (sums[:, :1] + 1e-4)
    ahead = F.interpolate(mean, scale_factor=float(AROUND), mode="bilinear")[..., :height, :width]
    column, row = (torch.arange(side, device=flow.device, dtype=torch.float32) for side in (width, height))
    x = ahead[:, :1] + stride * (column + 0.5) - 0.5
    y = ahead[:, 1:] + stride * (row[:, None] + 0.5) - 0.5
    outside = (-x).clamp(min=0) + (x - size[1] + 1).clamp(min=0) + (-y).clamp(min=0) + (y - size[0] + 1).clamp(min=0)
    # gradual, so that a rounding error decides nothing
    false = outside.clamp(max=1) * ((1 - trust) / (1 - SURE)).clamp(max=1)
    return trust * (1 - (1 - FALSE) * false)


def explained_over(stride: int) -> int:
    """EXPLAINED_OVER in pixels of that stride, rounded to odd."""
    return EXPLAINED_OVER // stride | 1


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """Mean absolute difference over three channels: [B,1,h,w]."""
    red, green, blue = (one - other).abs_().unbind(1)
    return ((red + green + blue) / 3.0).unsqueeze(1)


def _length(flow: Tensor) -> Tensor:
    return (flow[:, :1].square() + flow[:, 1:].square()).sqrt()


def splat(motion01: Tensor, motion10: Tensor, t: Tensor, stride: int) -> list[Tensor]:
    """Forward splatting of both flows to time t: the motion of whatever is at each place at that time.

    Every vector lands, bilinearly and weighted by its trust, where its motion takes its pixel by time t; holes are
    filled from coarser sums.

    Args:
        motion01, motion10: as `check_consistency` returns them, [B,C,h,w] or [1,C,h,w].
        t: [B,1,1,1].
        stride: pixels of the frame per pixel of the motion.

    Returns:
        [velocity [B,2,h,w], the motion from frame0 to frame1 seen at time t; trust0, trust1 [B,1,h,w], 0..1:
        how much reliable motion of frame0 and of frame1 landed there], and the acceleration [B,2,h,w] if there is one.
    """
    batch, (channels, height, width) = len(t), motion01.shape[-3:]
    # A margin of one pixel before and two after, for what lands outside the picture, to be discarded.
    wide, high = width + 3, height + 3
    column = torch.arange(width, device=t.device, dtype=torch.float32)
    row = torch.arange(height, device=t.device, dtype=torch.float32)[:, None]
    origin = torch.arange(batch, device=t.device).view(-1, 1, 1) * (high * wide)
    landed = []
    for motion, sign, time in ((motion01, 1.0, t[:, 0]), (motion10, -1.0, 1.0 - t[:, 0])):
        across, along, weight, *curve = motion.unbind(1)
        values = [sign * across, sign * along, *curve]  # an acceleration is the same backwards
        bend = 0.5 * time * (1.0 - time)
        ahead = [across * time, along * time]
        if curve:
            ahead = [way - bend * acceleration for way, acceleration in zip(ahead, curve, strict=True)]
        x = (column + ahead[0] / stride).clamp(-1.0, float(width)) + 1.0
        y = (row + ahead[1] / stride).clamp(-1.0, float(height)) + 1.0
        left, top = x.floor(), y.floor()
        right, below = x - left, y - top
        index = ((top * wide + left).long() + origin).flatten()
        total = x.new_zeros(channels, batch * high * wide)
        upper, lower = weight * (1.0 - below), weight * below
        corners = (
            (0, upper * (1.0 - right)),
            (1, upper * right),
            (wide, lower * (1.0 - right)),
            (wide + 1, lower * right),
        )
        for offset, share in corners:
            total[0, offset:].index_add_(0, index, share.flatten())
            for target, value in zip(total[1:], values, strict=True):
                target[offset:].index_add_(0, index, (share * value).flatten())
        landed.append(total.view(channels, batch, high, wide)[..., 1:-2, 1:-2].transpose(0, 1))
    both = (1.0 - t) * landed[0] + t * landed[1]
    sums = [both]
    while min(sums[-1].shape[-2:]) > 2:
        sums.append(F.avg_pool2d(sums[-1], 2, ceil_mode=True))
    found = sums[-1][:, 1:] / (sums[-1][:, :1] + 1e-6)
    for level in reversed(sums[:-1]):
        found = fill_holes(level, found)
    trust0, trust1 = (each[:, :1].clamp(max=1.0) for each in landed)
    return [found[:, :2], trust0, trust1, *([found[:, 2:]] if channels > 3 else [])]


def fill_holes(sums: Tensor, coarse: Tensor) -> Tensor:
    """Weighted sums [B,1+C,h,w] over their weights, and `coarse` [B,C,⌈h/2⌉,⌈w/2⌉] where hardly anything landed."""
    height, width = sums.shape[-2:]
    guess = F.interpolate(coarse, scale_factor=2.0, mode="bilinear")[..., :height, :width]
    return (sums[:, 1:] + 0.01 * guess) / (sums[:, :1] + 0.01)


def intermediate_flows(motion: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The flows from time t to frame0 and to frame1, [B,2,h,w] twice, from what `splat` returns, joined."""
    flow0, flow1 = -t * motion[:, :2], (1.0 - t) * motion[:, :2]
    if motion.shape[1] > 4:
        curve = 0.5 * t * (1.0 - t) * motion[:, 4:]
        flow0, flow1 = flow0 + curve, flow1 + curve
    return flow0, flow1


def cost_volume(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """How much better or worse than average the neighbours of a pixel match: in which direction the flow is wrong.

    [B,C,h,w] twice to [B,8,h,w] fp32 twice. The first: for each of the 8 neighbours, the mean of
    |one(x + d) − other(x)| over channels and 3×3 pixels, divided by the mean over all 9 shifts, minus 1. (The ninth
    follows from the eight.) The second is the same with one and other swapped: |other(x + d) − one(x)|, which is the
    first at x + d, of −d.
    """
    height, width = one.shape[-2:]
    outer = F.pad(one.float(), (2, 2, 2, 2), mode="replicate").contiguous()
    inner = F.pad(other.float(), (1, 1, 1, 1), mode="replicate").contiguous()
    rows, columns = inner.shape[-2:]
    shifts = [(y, x) for y in range(3) for x in range(3)]
    found = [(outer[..., y : y + rows, x : x + columns] - inner).abs_().mean(1) for y, x in shifts]
    there = torch.stack([each[:, 1:-1, 1:-1] for each in found], dim=1)
    back = torch.stack([found[8 - k][:, y : y + height, x : x + width] for k, (y, x) in enumerate(shifts)], dim=1)
    return _relative(there), _relative(back)


def _relative(costs: Tensor) -> Tensor:
    every = box_filter(costs, 3)
    relative = every / (every.mean(1, keepdim=True) + 0.01) - 1.0
    return torch.cat((relative[:, :4], relative[:, 5:]), dim=1)


def overlapped(half0: Tensor, half1: Tensor, found: Intermediate) -> Intermediate:
    """Overlapped block motion compensation (Orchard and Sullivan 1994) where motion varies, as a part of the residual.

    At motion boundaries flow is a guess: it bleeds out beside a limb, and tears where a ball passes. There each cell is
    also compensated with the motion of its eight neighbours, and the mean of all, weighted by how well the two frames
    agree along each, is nearer to the truth than any of them. Elsewhere, in most of a frame, all would be alike. The
    number of cells is fixed, which avoids a synchronisation with the device; surplus ones are masked out.

    Args:
        half0, half1: [B,3,h,w] fp32, the frames at half size, padded as `found` is.
        found: what the network has decided.

    Returns:
        The same with another residual.
    """
    height, width = found.mask.shape[-2:]
    flows = torch.cat((found.flow_t0, found.flow_t1), 1)
    spread = motion_spread(flows[..., ::CELL, ::CELL])
    high, wide = spread.shape[-2:]
    values, cells = spread.flatten(1).topk(int(MOST * high * wide), sorted=False)  # [B,M]
    chosen = (values > VARIED).float()
    inner = torch.arange(CELL, device=flows.device)
    y = (CELL * (cells // wide)[..., None] + inner.repeat_interleave(CELL)).flatten(1)  # [B,4·M]
    x = (CELL * (cells % wide)[..., None] + inner.repeat(CELL)).flatten(1)

    def picked(planes: Tensor, down: int = 0, right: int = 0) -> Tensor:
        """[B,C,h,w] at all places moved by so many pixels: [B,C,4·M]."""
        index = (y + down).clamp(0, height - 1) * width + (x + right).clamp(0, width - 1)
        return planes.flatten(2).gather(2, index[:, None].expand(-1, planes.shape[1], -1))

    motions = torch.stack([picked(flows, CELL * AWAY * down, CELL * AWAY * right) for down, right in MOTIONS], 2)
    there0, there1 = _sampled(half0, motions[:, :2], y, x), _sampled(half1, motions[:, 2:], y, x)  # [B,3,K,4·M]
    errors = F.avg_pool1d((there0 - there1).abs().mean(1), CELL * CELL)  # [B,K,M]
    # means over the cells that were tried
    everywhere = cells[:, None].expand(-1, len(MOTIONS) + 1, -1)
    scattered = flows.new_zeros(*everywhere.shape[:2], high * wide)
    scattered.scatter_(2, everywhere, torch.cat((errors * chosen[:, None], chosen[:, None]), 1))
    means = (
        box_filter(scattered.view(*everywhere.shape[:2], high, wide), COMPARED_OVER).flatten(2).gather(2, everywhere)
    )
    errors = means[:, :-1] / means[:, -1:].clamp(min=1e-6)
    likely = torch.exp((errors[:, :1] - errors) / UNLIKELY) * (TRIED / (1 - TRIED) / (len(MOTIONS) - 1))
    likely = torch.cat((torch.ones_like(likely[:, :1]), likely[:, 1:]), 1)
    shares = (likely / likely.sum(1, keepdim=True)).repeat_interleave(CELL * CELL, 2)
    made = torch.lerp(there1, there0, picked(found.mask)[:, :, None])
    change = ((shares[:, None] * made).sum(2) - made[:, :, 0]) * chosen.repeat_interleave(CELL * CELL, 1)[:, None]
    residual = found.residual.flatten(2).scatter_add(2, (y * width + x)[:, None].expand(-1, 3, -1), change)
    return found._replace(residual=residual.view_as(found.residual))


def motion_spread(flows: Tensor) -> Tensor:
    """[B,C,h,w]: largest minus smallest over a place and all within AWAY of it, summed over C: [B,h,w]."""
    return F.max_pool2d(torch.cat((flows, -flows), 1), 2 * AWAY + 1, 1, AWAY).sum(1)


def _sampled(frame: Tensor, motion: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """frame [B,3,h,w] at (x, y) [B,M] and the motions [B,2,K,M] from there, in px of twice its size: [B,3,K,M]."""
    height, width = frame.shape[-2:]
    grid_x, grid_y = (2 * x + 1)[:, None] + motion[:, 0], (2 * y + 1)[:, None] + motion[:, 1]
    grid = torch.stack((grid_x / width - 1, grid_y / height - 1), -1)
    return F.grid_sample(frame, grid, padding_mode="border", align_corners=False)


def compose(frame0: Tensor, frame1: Tensor, found: Intermediate) -> Tensor:
    """Two warps at full size, blended, and a residual: of two [B,3,H,W] one, in frame0's dtype, not clamped."""
    height, width = frame0.shape[-2:]
    flow0, flow1, mask, residual = (upsample(x)[..., :height, :width] for x in found)
    frame = torch.lerp(warp(frame1.float(), flow1), warp(frame0.float(), flow0), mask) + residual
    return frame.to(frame0.dtype)


def confidence(quarter0: Tensor, quarter1: Tensor, flow_t0: Tensor, flow_t1: Tensor, mask: Tensor) -> Tensor:
    """1 where a generated frame can be believed, 0 where it is a guess: [B,1,h,w] fp32, all at 1/4.

    Where the frames are blended, both should show the same thing. Where they do not, because something is too fast, too
    thin or too regular to be tracked, unrelated places are blended.

    Args:
        quarter0, quarter1: [B,3,h,w], the frames, RGB 0..1.
        flow_t0, flow_t1: [B,2,h,w], from the generated frame to either, in pixels of the full size.
        mask: [B,1,h,w], 0..1, weight of the warped frame0.
    """
    warped0, warped1 = warp(quarter0, flow_t0 / FINEST), warp(quarter1, flow_t1 / FINEST)
    unlike = torch.stack((warped0 - warped1).abs_().unbind(1)).mean(0).unsqueeze(1)
    mixed = unlike * 4 * mask * (1 - mask)  # what comes from one frame alone cannot disagree
    return believe(box_filter(mixed, BELIEVED_OVER))


def believe(unlike: Tensor) -> Tensor:
    """Confidence from a mean difference, times how evenly it is mixed."""
    return ((GUESSED - unlike) / (GUESSED - BELIEVED)).clamp(0, 1)


def fall_back(frame: Tensor, frame0: Tensor, frame1: Tensor, t: Tensor, confidence: Tensor) -> Tensor:
    """The generated frame where it is believed, both frames blended by time where not, with a gradual transition.

    The blend looks like motion blur, where the generated frame would show torn shapes.

    Args:
        frame: [B,3,H,W], generated between frame0 and frame1 of the same shape.
        t: [B], 0..1.
        confidence: as ``confidence`` returns it.
    """
    resting = torch.lerp(frame0, frame1, t.to(frame.dtype).view(-1, 1, 1, 1))
    return torch.lerp(resting, frame, enlarge(confidence, frame))


def enlarge(confidence: Tensor, frame: Tensor) -> Tensor:
    """A confidence at the size of its frame: [B,1,H,W] in frame's dtype."""
    height, width = frame.shape[-2:]
    return F.interpolate(confidence, scale_factor=FINEST, mode="bilinear")[..., :height, :width].to(frame.dtype)
