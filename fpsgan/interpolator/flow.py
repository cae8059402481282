"""Optical flow in plain torch, on any device: dense inverse search, block matching, acceleration. All of it batched.

Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search" (DIS): patches on a grid descend by Gauss–Newton
steps from coarse to fine, and a variational refinement (Brox et al. 2004) smooths what they find. Propagation from
patch to patch, sequential in the paper, tries four neighbours in parallel, and successive over-relaxation is
red-black. Objects that move by more than their own size are found by block matching.

`fpsgan.interpolator.cpu_flow` finds the flow on a CPU, with OpenCV's DIS and compiled kernels, an order of magnitude
faster there; what follows DIS is the same function by function. Nothing here synchronises with the device.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.interpolator.synthesis import downsample, pad, upsample, warp

__all__ = ["EFFORTS", "STRIDE", "accelerations", "find_flow"]

STRIDE = {"quick": 4, "base": 4, "best": 2}  # pixels of the frame per pixel of the flow
EFFORTS = tuple(STRIDE)
MIN_SIDE = 16  # DIS compares patches of 8×8 over a pyramid: smaller images give it nothing to work on


class Stage(NamedTuple):
    """Settings of one run of DIS."""

    patch: int  # px a side
    stride: int  # px between patches
    descents: int  # steps of gradient descent
    refinements: int  # of variational refinement, which smooths across edges: bad for drawings
    afresh: bool = True  # from the coarsest scale; otherwise from the flow so far, at its own scale alone


# Each place gets the flow of the stage that explains it best.
STAGES = {
    "quick": (Stage(8, 4, 16, 0),),
    "base": (Stage(8, 4, 16, 0), Stage(4, 2, 8, 1, afresh=False)),
    "best": (Stage(8, 3, 16, 0), Stage(4, 2, 8, 0)),
}
COMPARED_OVER = 7  # px of the flow over which two flows are compared
SURER = 0.6  # codes by which the later one has to be better
# Block matching: at 1/16 up to 8 cells (128 px) away, at 1/8, where thinner objects still show, up to 6 (48 px)
REACH = {16: 8, 8: 6}
MUCH_BETTER = (0.75, 2.0)  # a match replaces the flow if its error is below this share of the flow's, less these codes
MATCHED_OVER = 28  # px of the frame over which these errors are averaged
CONFIRMED = 2.0  # px of the flow by which the way back from a match may miss its start
NEARER = 0.15  # codes, for each of 3×3 pixels, that a match has to be better per cell of distance
MARGIN = 2  # cells around the rectangle in which matches are refined
UNEVEN = 2.0  # largest ratio of the durations of neighbouring pairs from which acceleration is estimated
DOUBT = 0.3  # loss of confidence per pixel by which a flow and the one back disagree

# Variational refinement, as OpenCV's: weights of smoothness, of brightness and of gradient constancy; relaxation
SMOOTHNESS, BRIGHTNESS, GRADIENT, OMEGA, SWEEPS = 20.0, 5.0, 10.0, 1.6, 5
ROUNDS = 2  # of propagation, among which the descents are divided
JUMPS = (2, 1)  # distances, in patches, of the four neighbours that each patch tries in turn


def find_flow(grey0: Tensor, grey1: Tensor, effort: str = "base") -> tuple[Tensor, Tensor]:
    """Optical flow from grey0 to grey1 and back.

    Args:
        grey0, grey1: [B,1,H,W], 0..255 of any dtype, H and W at least 16.
        effort: one of EFFORTS, as for `fpsgan.interpolator.cpu_flow.flow_prior`.

    Returns:
        (flow01, flow10), float32 [B, 2, ceil(H/n), ceil(W/n)], n = STRIDE[effort]: (x, y) in pixels of the full frame.
        Pixel (i, j) of a flow stands for the n×n block of the frame that starts at (n·i, n·j).
    """
    stride = factor = STRIDE[effort]
    while factor > 1 and min(grey0.shape[-2:]) < MIN_SIDE * factor:
        factor //= 2
    smalls = [F.avg_pool2d(pad(grey.float(), stride), factor) for grey in (grey0, grey1)]
    small0, small1 = torch.cat(smalls), torch.cat(smalls[::-1])
    if factor < stride:
        flow = F.avg_pool2d(_searched(small0, small1, effort), stride // factor) / (stride // factor)
    else:
        flow = _searched(small0, small1, effort)
        if effort != "quick" and min(grey0.shape[-2:]) >= 8 * MIN_SIDE:
            corrected = _matched(flow, small0, small1, stride)
            miss = (corrected + warp(corrected.roll(len(grey0), 0), corrected)).norm(dim=1, keepdim=True)
            flow = torch.where(miss < CONFIRMED, corrected, flow)
    flow01, flow10 = (flow * stride).chunk(2)
    return flow01, flow10


def _searched(small0: Tensor, small1: Tensor, effort: str) -> Tensor:
    first, *later = STAGES[effort]
    flow = dense_inverse_search(small0, small1, first)
    for stage in later:
        start = None if stage.afresh else flow
        flow = better(small0, small1, flow, dense_inverse_search(small0, small1, stage, start))
    return flow


def better(small0: Tensor, small1: Tensor, flow: Tensor, other: Tensor) -> Tensor:
    """Of two flows [B,2,h,w], the first unless the frames [B,1,h,w] differ less along the other, place by place.

    Patches of 4 px fail on flat drawings, those of 8 on small objects: neither is right everywhere.
    """
    error, other_error = (matching_error(small0, small1, each, COMPARED_OVER) for each in (flow, other))
    return torch.where(binary_median(other_error + SURER < error, 5), other, flow)


def dense_inverse_search(grey0: Tensor, grey1: Tensor, stage: Stage, start: Tensor | None = None) -> Tensor:
    """The flow [B,2,h,w] of [B,1,h,w] 0..255, from coarse to fine, or from a start [B,2,h,w] at this scale alone."""
    if start is not None:
        return _one_scale(grey0, grey1, start, stage)
    height, width = grey0.shape[-2:]
    coarsest = min(
        int(math.log2(max(height, width) / (4 * stage.patch)) + 0.5), int(math.log2(min(height, width) / stage.patch))
    )
    pyramid = [(grey0, grey1)]
    for _ in range(coarsest):
        pyramid.append((downsample(pyramid[-1][0]), downsample(pyramid[-1][1])))
    flow = grey0.new_zeros(len(grey0), 2, *pyramid[-1][0].shape[-2:])
    for here, there in reversed(pyramid):
        rows, columns = here.shape[-2:]
        if flow.shape[-2:] != here.shape[-2:]:
            flow = 2 * upsample(flow)[..., :rows, :columns]
        flow = _one_scale(here, there, flow, stage)
    return flow


def _one_scale(here: Tensor, there: Tensor, flow: Tensor, stage: Stage) -> Tensor:
    flow = _patch_search(here, there, flow, stage)
    return refine_variationally(here, there, flow, stage.refinements) if stage.refinements else flow


def _patch_search(here: Tensor, there: Tensor, flow: Tensor, stage: Stage) -> Tensor:
    """Inverse search with normalised patches (section 2.1 of the paper), and densification (2.2)."""
    height, width = here.shape[-2:]
    size, step = stage.patch, stage.stride
    bottom, right = (-max(side - size, 0) % step + max(size - side, 0) for side in (height, width))
    here, there, flow = (F.pad(x, (0, right, 0, bottom), mode="replicate") for x in (here, there, flow))
    high, wide = here.shape[-2:]
    rows, columns = (high - size) // step + 1, (wide - size) // step + 1
    across, down = (F.unfold(each, size, stride=step) for each in _gradients(here))
    patch = F.unfold(here, size, stride=step)  # [B,P·P,N]
    template = patch - patch.mean(1, keepdim=True)
    across, down = across - across.mean(1, keepdim=True), down - down.mean(1, keepdim=True)
    xx, yy, xy = (across * across).sum(1), (down * down).sum(1), (across * down).sum(1)
    determinant = xx * yy - xy * xy
    inverse = torch.where(determinant > 1e-2, 1 / determinant.clamp(min=1e-2), 0.0)
    device = here.device
    inner = torch.arange(size, device=device)
    y = (torch.arange(rows, device=device) * step)[:, None] + inner.repeat_interleave(size)[:, None, None]
    x = (torch.arange(columns, device=device) * step) + inner.repeat(size)[:, None, None]
    x, y = (each.expand(-1, rows, columns).reshape(1, size * size, -1).float() for each in (x, y))
    # as grid_sample counts, from −1 to 1
    places = torch.stack(((2 * x + 1) / wide - 1, (2 * y + 1) / high - 1), -1)
    scale = torch.stack([x.new_full((), 2 / side) for side in (wide, high)])

    def moved(vector: Tensor) -> Tensor:
        """The other picture under every patch, [B,P·P,N], moved by [B,2,N]."""
        grid = torch.addcmul(places, vector.transpose(1, 2)[:, None], scale)
        return F.grid_sample(there, grid, padding_mode="border", align_corners=False)[:, 0]

    def compared(vector: Tensor) -> tuple[Tensor, Tensor]:
        """Difference of the patches less its mean, and the sum of its squares."""
        difference = moved(vector)
        difference = difference - difference.mean(1, keepdim=True) - template
        return difference, difference.square().sum(1)

    def descended(start: Tensor, steps: int) -> Tensor:
        """The best place on the path, even if it leads over worse ones: that is how a growing line is tracked."""
        vector = best = start
        difference, least = compared(start)
        for _ in range(steps):
            by_x, by_y = (across * difference).sum(1), (down * difference).sum(1)
            change = torch.stack((yy * by_x - xy * by_y, xx * by_y - xy * by_x), 1) * inverse[:, None]
            vector = vector - change
            difference, cost = compared(vector)
            nearer = cost < least
            best, least = torch.where(nearer[:, None], vector, best), torch.where(nearer, cost, least)
        far = (best - start).square().sum(1, keepdim=True) > size * size
        return torch.where(far, start, best)

    start = size // 2  # the flow at the middle of each patch, [B,2,N]
    vectors = flow[..., start::step, start::step][..., :rows, :columns].flatten(2)
    steps = max(1, stage.descents // (2 * (ROUNDS + 1)))  # full Gauss–Newton steps: OpenCV's are an eighth as long
    vectors = descended(vectors, steps)
    for _ in range(ROUNDS):
        least = compared(vectors)[1]
        for far in JUMPS:
            around = F.pad(vectors.view(-1, 2, rows, columns), (far, far, far, far), mode="replicate")
            for top, left in ((0, far), (far, 0), (far, 2 * far), (2 * far, far)):
                candidate = around[..., top : top + rows, left : left + columns].flatten(2)
                cost = compared(candidate)[1]
                nearer = cost < least
                vectors, least = torch.where(nearer[:, None], candidate, vectors), torch.where(nearer, cost, least)
        vectors = descended(vectors, steps)
    weights = 1 / (moved(vectors) - patch).abs().clamp(min=1)
    votes = torch.cat((weights * vectors[:, :1], weights * vectors[:, 1:], weights), 1)
    total = F.fold(votes, (high, wide), size, stride=step)
    return (total[:, :2] / total[:, 2:].clamp(min=1e-6))[..., :height, :width]


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences over five pixels, across and down: [B,1,h,w] twice."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    columns = [padded[..., 2:-2, k : k + width] for k in range(5)]
    rows = [padded[..., k : k + height, 2:-2] for k in range(5)]
    across, down = ((8 * (each[3] - each[1]) - (each[4] - each[0])) / 12 for each in (columns, rows))
    return across, down


def refine_variationally(here: Tensor, there: Tensor, flow: Tensor, iterations: int) -> Tensor:
    """Variational refinement (Brox et al. 2004) of a flow [B,2,h,w] between [B,1,h,w] 0..255, robust in all terms."""
    height, width = here.shape[-2:]
    warped = warp(there, flow)
    ix, iy = _gradients(0.5 * (here + warped))
    iz = warped - here
    (ixx, ixy), (_, iyy), (ixz, iyz) = _gradients(ix), _gradients(iy), _gradients(iz)
    row, column = torch.arange(height, device=here.device)[:, None], torch.arange(width, device=here.device)
    red = (row + column) % 2 == 0
    change = torch.zeros_like(flow)
    zeta, epsilon = 0.1**2, 1e-3**2
    for _ in range(iterations):
        u = flow + change
        across, down = F.pad(u.diff(dim=3), (0, 1)), F.pad(u.diff(dim=2), (0, 0, 0, 1))
        slope = across.square().sum(1, keepdim=True) + down.square().sum(1, keepdim=True)
        smooth = SMOOTHNESS / 2 * torch.rsqrt(slope + epsilon)
        right = F.pad(0.5 * (smooth[..., 1:] + smooth[..., :-1]), (0, 1))
        below = F.pad(0.5 * (smooth[..., 1:, :] + smooth[..., :-1, :]), (0, 0, 0, 1))
        left, above = F.pad(right[..., :-1], (1, 0)), F.pad(below[..., :-1, :], (0, 0, 1, 0))
        du, dv = change[:, :1], change[:, 1:]
        norm = ix * ix + iy * iy + zeta
        weight = BRIGHTNESS / 2 * torch.rsqrt((iz + ix * du + iy * dv).square() / norm + epsilon) / norm
        a11, a12, a22 = weight * ix * ix, weight * ix * iy, weight * iy * iy
        b1, b2 = -weight * ix * iz, -weight * iy * iz
        norm_x, norm_y = ixx * ixx + ixy * ixy + zeta, iyy * iyy + ixy * ixy + zeta
        change_x, change_y = ixz + ixx * du + ixy * dv, iyz + ixy * du + iyy * dv
        weight = GRADIENT / 2 * torch.rsqrt(change_x.square() / norm_x + change_y.square() / norm_y + epsilon)
        by_x, by_y = weight / norm_x, weight / norm_y
        a11 = a11 + by_x * ixx * ixx + by_y * ixy * ixy
        a12 = a12 + by_x * ixx * ixy + by_y * ixy * iyy
        a22 = a22 + by_x * ixy * ixy + by_y * iyy * iyy
        b1 = b1 - by_x * ixx * ixz - by_y * ixy * iyz
        b2 = b2 - by_x * ixy * ixz - by_y * iyy * iyz
        weights = (right, left, below, above)
        own = right + left + below + above
        fixed = torch.cat((b1, b2), 1) + _from_neighbours(flow, weights) - own * flow
        d11, d22 = a11 + own, a22 + own
        determinant = (d11 * d22 - a12 * a12).clamp(min=1e-9)
        for _ in range(SWEEPS):
            for colour in (red, ~red):
                r1, r2 = (fixed + _from_neighbours(change, weights)).chunk(2, 1)
                solved = torch.cat((d22 * r1 - a12 * r2, d11 * r2 - a12 * r1), 1) / determinant
                change = torch.where(colour, torch.lerp(change, solved, OMEGA), change)
    return flow + change


def _from_neighbours(x: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """The weighted sum of the neighbours to the right, to the left, below and above; 0 outside."""
    right, left, below, above = weights
    padded = F.pad(x, (1, 1, 1, 1))
    beside = right * padded[..., 1:-1, 2:] + left * padded[..., 1:-1, :-2]
    return beside + below * padded[..., 2:, 1:-1] + above * padded[..., :-2, 1:-1]


def matching_error(here: Tensor, there: Tensor, flow: Tensor, window: int) -> Tensor:
    """Mean absolute difference along a flow over window × window pixels: [B,1,h,w]."""
    return _blur((here - warp(there, flow)).abs(), window)


def _blur(x: Tensor, side: int) -> Tensor:
    """The mean over side × side pixels (odd), mirrored at the border."""
    half = side // 2
    mode = "reflect" if min(x.shape[-2:]) > half else "replicate"
    return F.avg_pool2d(F.pad(x, (half, half, half, half), mode=mode), side, 1)


def binary_median(x: Tensor, side: int) -> Tensor:
    """The median over side × side pixels of a binary picture, its border repeated: [B,1,h,w]."""
    half = side // 2
    return F.avg_pool2d(F.pad(x.float(), (half, half, half, half), mode="replicate"), side, 1) > 0.5


def _median3(x: Tensor) -> Tensor:
    """The median over 3×3 pixels: [B,C,h,w]."""
    around = F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3)
    nine = around.view(*x.shape[:2], 9, -1)
    return nine.topk(5, 2).values[:, :, 4].view(x.shape)  # ONNX knows no median


def _matched(flow: Tensor, small0: Tensor, small1: Tensor, stride: int) -> Tensor:
    """The flow [B,2,h,w], replaced where a block match, refined step by step, is much better."""
    coarsest = max(REACH) // stride
    height, width = (side // coarsest * coarsest for side in flow.shape[-2:])
    here, there = ([small[..., :height, :width]] for small in (small0, small1))
    for pyramid in (here, there):
        for _ in range(coarsest.bit_length() - 1):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    found = flow[..., :height, :width]
    for cell, reach in REACH.items():
        start = (cell // stride).bit_length() - 1
        match = _median3(block_match(here[start], there[start], reach))
        found = _corrected(found, match, start, here, there, MATCHED_OVER // stride | 1)
    below, right = flow.shape[-2] - height, flow.shape[-1] - width
    if below or right:
        found = torch.cat((torch.cat((found, flow[..., :height, width:]), 3), flow[..., height:, :]), 2)
    return found


def block_match(grey0: Tensor, grey1: Tensor, reach: int) -> Tensor:
    """For every pixel of grey0 [B,1,h,w], 0..255, the offset [B,2,h,w] to the best match of its 3×3 pixels in grey1.

    Up to `reach` pixels away and inside the picture, with a slight preference for near ones; ties go to the first, row
    by row.
    """
    height, width = grey0.shape[-2:]
    here = F.pad(grey0, (1, 1, 1, 1), mode="replicate").round()
    there = F.pad(grey1, (reach + 1,) * 4, mode="replicate").round()
    side = 2 * reach + 1
    right = torch.arange(side, device=grey0.device) - reach
    row, column = torch.arange(height, device=grey0.device)[:, None], torch.arange(width, device=grey0.device)
    outside = (column + right[:, None] < 0) | (column + right[:, None] >= width)  # [side,w]
    best = torch.full((len(grey0), height, width), 2**31 - 1, dtype=torch.int32, device=grey0.device)
    for k in range(side):
        down = k - reach
        strip = there[..., k : k + height + 2, :].unfold(3, width + 2, 1)[:, 0].transpose(1, 2)  # [B,side,h+2,w+2]
        difference = (strip - here).abs()
        difference = difference[..., :-2] + difference[..., 1:-1] + difference[..., 2:]
        total = difference[..., :-2, :] + difference[..., 1:-1, :] + difference[..., 2:, :]
        farther = (9 * NEARER * torch.sqrt((down * down + right * right).float())).round()
        number = (k * side + right + reach).to(torch.int32)
        code = (total + farther[:, None, None]).to(torch.int32) * 65536 + number[:, None, None]
        missing = outside[:, None] | (row + down < 0) | (row + down >= height)
        best = torch.minimum(best, code.masked_fill(missing, 2**31 - 1).amin(1))
    number = best % 65536
    return torch.stack((number % side - reach, number // side - reach), 1).float()


def _corrected(flow: Tensor, match: Tensor, start: int, here: list[Tensor], there: list[Tensor], window: int) -> Tensor:
    """Only in the bounding box of the places where the match is much better before it is refined."""
    share, less = MUCH_BETTER
    coarse = F.avg_pool2d(flow, 2**start) / 2**start
    ours, flows = (matching_error(here[start], there[start], each, 3) for each in (match, coarse))
    hopeful = binary_median(ours < share * flows - less, 3)  # a lone pixel would not survive the last median
    inside = _spanned(hopeful.any(3, keepdim=True), 2) & _spanned(hopeful.any(2, keepdim=True), 3)
    for level in range(start - 1, -1, -1):
        match = best_neighbour(here[level], there[level], 2 * F.interpolate(match, scale_factor=2.0))
    for _ in range(2):
        match = lucas_kanade(here[0], there[0], match)
    ours, flows = (matching_error(here[0], there[0], each, window) for each in (match, flow))
    better = binary_median(ours < share * flows - less, 5) & (
        F.interpolate(inside.float(), scale_factor=2.0**start) > 0
    )
    return torch.where(better, match, flow)


def _spanned(any_: Tensor, dim: int) -> Tensor:
    """True from the first to the last true along a dimension of [B,1,…], and MARGIN more."""
    x = any_.float()
    between = (x.cumsum(dim) * x.flip(dim).cumsum(dim).flip(dim)).clamp(max=1)  # ONNX knows no cummax
    margin = [0, 0]
    margin[dim - 2] = MARGIN
    return F.max_pool2d(between, [2 * each + 1 for each in margin], 1, margin) > 0


def best_neighbour(here: Tensor, there: Tensor, offset: Tensor) -> Tensor:
    """The best of each offset [B,2,h,w] and its eight neighbours; the offset itself wins ties."""
    steps = _neighbours(offset.device)
    batch, _, height, width = offset.shape
    tried = (offset[:, None] + steps.view(1, 9, 2, 1, 1)).flatten(0, 1)
    here, there = (each.repeat_interleave(9, 0) for each in (here, there))
    errors = matching_error(here, there, tried, 5).view(batch, 9, height, width)
    return offset + steps[errors.argmin(1)].permute(0, 3, 1, 2)


@cache
def _neighbours(device: torch.device) -> Tensor:
    """[9,2]: (x, y) of a place and of its neighbours, near ones first. Cached, to be uploaded only once."""
    steps = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return torch.tensor(sorted(steps, key=lambda step: abs(step[0]) + abs(step[1])), dtype=torch.float32, device=device)


def lucas_kanade(here: Tensor, there: Tensor, offset: Tensor) -> Tensor:
    """One step of Lucas and Kanade (1981) over 7×7 pixels, a pixel at most; the 20 damps it in flat places."""
    seen = warp(there, offset)
    mean, change = 0.5 * (here + seen), seen - here
    padded = F.pad(mean, (1, 1, 1, 1), mode="reflect")
    columns, rows = padded[..., 2:] - padded[..., :-2], padded[..., 2:, :] - padded[..., :-2, :]
    across = (columns[..., :-2, :] + 2 * columns[..., 1:-1, :] + columns[..., 2:, :]) / 8
    down = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 8
    products = torch.cat((across * across, across * down, down * down, across * change, down * change), 1)
    xx, xy, yy, xd, yd = _blur(products, 7).chunk(5, 1)
    xx, yy = xx + 20, yy + 20
    determinant = xx * yy - xy * xy
    step = torch.cat((xy * yd - yy * xd, xy * xd - xx * yd), 1) / determinant
    return offset + step.clamp(-1.0, 1.0)


def accelerations(
    flows: tuple[Tensor, Tensor],
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    lengths: Tensor,
    stride: int,
) -> tuple[Tensor, Tensor]:
    """The acceleration of what is seen in frame0 and in frame1, from the pairs before and after.

    "Quadratic Video Interpolation", Xu et al. 2019, section 3.1; see `fpsgan.interpolator.cpu_flow.with_acceleration`.

    Args:
        flows: (flow01, flow10), [B,2,h,w] in pixels of the frame.
        before: (flow from the frame before frame0 to it, and back); anything finite where there is none.
        after: likewise of frame1 and the frame after it.
        lengths: [B,2], durations of those pairs, in durations of this one; 0 where there is none. A pair that lasts
            more than twice or less than half as long is ignored.
        stride: pixels of the frame per pixel of the flows.

    Returns:
        [B,2,h,w] twice, in pixels per squared duration of the pair; 0 where nothing is known.
    """
    found = []
    for here, (away, returning) in ((0, before[::-1]), (1, after)):
        length = lengths[:, here].view(-1, 1, 1, 1)
        known = (length >= 1 / UNEVEN) & (length <= UNEVEN)
        length = torch.where(known, length, 1.0)
        acceleration = (flows[here] + away / length) * (2 / (1 + length))
        sure = agreement(flows[here], flows[1 - here], stride) * agreement(away, returning, stride) * known
        found.append(torch.cat((acceleration * sure, sure), 1))
    merged = []
    for here in (0, 1):
        own, other = found[here], warp(found[1 - here], flows[here] / stride)
        share = torch.maximum(own[:, 2:], other[:, 2:]) / (own[:, 2:] + other[:, 2:] + 1e-3)
        merged.append((own[:, :2] + other[:, :2]) * share)
    return merged[0], merged[1]


def agreement(flow: Tensor, back: Tensor, stride: int) -> Tensor:
    """How well a flow and the one back agree: [B,1,h,w], 0 to 1. Both [B,2,h,w] in pixels of the frame.

    The measure of `check_consistency`, less strict, since accelerated motion agrees less well.
    """
    returned = warp(back, flow / stride)
    lengths = flow.norm(dim=1, keepdim=True) + returned.norm(dim=1, keepdim=True)
    return torch.exp(-DOUBT * (flow + returned).norm(dim=1, keepdim=True) / (1 + 0.1 * lengths))
