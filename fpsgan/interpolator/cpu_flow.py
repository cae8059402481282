"""Optical flow on a CPU: OpenCV's dense inverse search, and compiled kernels for all that follows it.

`fpsgan.interpolator.flow` is the definition, and has the settings. OpenCV releases the GIL, so a job computes the flow
of the next pair in a thread while the network works on this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import InputError
from fpsgan.interpolator import kernels
from fpsgan.interpolator.flow import (
    COMPARED_OVER,
    CONFIRMED,
    DOUBT,
    EFFORTS,
    MARGIN,
    MATCHED_OVER,
    MIN_SIDE,
    MUCH_BETTER,
    NEARER,
    REACH,
    STAGES,
    STRIDE,
    SURER,
    UNEVEN,
    Stage,
)
from fpsgan.threads import in_threads

__all__ = ["flow_prior", "with_acceleration"]

Array = NDArray[np.float32]

# OpenCV's DIS gains by refining the first flow: 0.3 dB on animations with "base"; the one in torch loses 0.5 by it
OPENCV_STAGES = STAGES | {
    "quick": (Stage(8, 4, 16, 3),),
    "base": (Stage(8, 4, 16, 1), Stage(4, 2, 4, 1, afresh=False)),
}


def flow_prior(
    frame0: NDArray[np.uint8], frame1: NDArray[np.uint8], *, effort: str = "base"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Optical flow from frame0 to frame1 and back.

    Args:
        frame0, frame1: uint8 [H,W,3] (RGB) or [H,W] (grey) of one size, H and W at least 16.
        effort: one of EFFORTS. "quick": coarser patches and no block matching, half the time, 0.3 dB less on real
            clips. "best": twice as fine, several times the time.

    Returns:
        (flow01, flow10), each float32 [2, ceil(H/n), ceil(W/n)], n = STRIDE[effort]: (x, y) in pixels of the full
        frame. Pixel (i, j) of a flow stands for the n×n block of the frame that starts at (n·i, n·j).

    Raises:
        InputError: another dtype, different sizes or a side below 16 px.
        ValueError: another effort.
    """
    if frame0.dtype != np.uint8 or frame1.dtype != np.uint8:
        raise InputError(f"optical flow takes uint8 frames, not {frame0.dtype} and {frame1.dtype}")
    if frame0.shape != frame1.shape or min(frame0.shape[:2]) < MIN_SIDE:
        raise InputError(
            f"optical flow takes two frames of one size, at least {MIN_SIDE}×{MIN_SIDE} px, "
            f"not {frame0.shape} and {frame1.shape}"
        )
    if effort not in EFFORTS:
        raise ValueError(f"effort {effort!r}: allowed are {', '.join(EFFORTS)}")
    stride = factor = STRIDE[effort]
    while factor > 1 and min(frame0.shape[:2]) < MIN_SIDE * factor:
        factor //= 2
    smalls = in_threads([partial(_small_grey, frame, stride, factor) for frame in (frame0, frame1)])
    if factor < stride:
        flows = [_reduced(flow, stride // factor) for flow in _both_ways(smalls, effort, matched=False)]
    else:
        flows = _both_ways(smalls, effort, matched=effort != "quick" and min(frame0.shape[:2]) >= 8 * MIN_SIDE)
    planes01, planes10 = (np.ascontiguousarray(flow.transpose(2, 0, 1) * stride) for flow in flows)
    return planes01, planes10


def with_acceleration(
    flows: Sequence[Array],
    before: Sequence[Array] | None,
    after: Sequence[Array] | None,
    lengths: tuple[float, float] = (1.0, 1.0),
    *,
    stride: int = 4,
) -> tuple[Array, ...]:
    """The flows of a pair, and the acceleration of what is seen in either frame, from the pairs before and after.

    What moves by d01 from frame0 to frame1 and by d0b from frame0 back to the frame before has, at even intervals, the
    acceleration d01 + d0b ("Quadratic Video Interpolation", Xu et al. 2019, section 3.1). Here that of frame0 and that
    of frame1, followed along the flow, are averaged, weighted by the forward-backward consistency of the flows that
    they come from: in the middle that is the cubic through all four positions.

    Args:
        flows: (flow01, flow10) of the pair, as `flow_prior` returns them.
        before: `flow_prior` of the frame before frame0 and frame0; None if there is none in the same scene.
        after: likewise of frame1 and the frame after it.
        lengths: durations of those pairs, in durations of this one; a pair that lasts more than twice or less than half
            as long is ignored.
        stride: pixels of the frame per pixel of the flows, as of their effort.

    Returns:
        (flow01, flow10, acceleration0, acceleration1), the last two like the flows, in pixels per squared duration of
        the pair; the flows alone if no neighbour is usable.
    """
    scale = np.float32(1 / stride)
    usable = [1 / UNEVEN <= length <= UNEVEN for length in lengths]
    # of each frame the flow to the frame on its far side, and the one that leads back
    sides = [
        (before[1], before[0]) if before and usable[0] else None,
        (after[0], after[1]) if after and usable[1] else None,
    ]
    if sides == [None, None]:
        return tuple(flows)
    found = []
    for here, side, length in zip((0, 1), sides, lengths, strict=True):
        flow, back = flows[here], flows[1 - here]
        if side is None:
            found.append(np.zeros((3, *flow.shape[1:]), np.float32))
            continue
        away, returning = side
        acceleration = (flow + away / np.float32(length)) * np.float32(2 / (1 + length))
        sure = _agreement(flow, back, scale) * _agreement(away, returning, scale)
        found.append(np.concatenate((acceleration * sure, sure[None])))
    accelerations = [np.empty_like(flow) for flow in flows]
    for here in (0, 1):
        kernels.merge_accelerations(found[here], found[1 - here], flows[here], scale, accelerations[here])
    return *flows, *accelerations


def _agreement(flow: Array, back: Array, scale: np.float32) -> Array:
    """How well a flow and the one back agree: [h,w], 0 to 1. Both [2,h,w] in pixels of the full frame.

    The measure of `check_consistency`, less strict, since accelerated motion agrees less well.
    """
    nothing, agreement = np.zeros(flow.shape[1:], np.float32), np.empty(flow.shape[1:], np.float32)
    kernels.consistency(flow, back, nothing, np.float32(DOUBT), scale, agreement, (0, len(nothing)))
    return agreement


def _small_grey(frame: NDArray[np.uint8], stride: int, factor: int) -> NDArray[np.uint8]:
    bottom, right = (-size % stride for size in frame.shape[:2])
    if bottom or right:
        padding = ((0, bottom), (0, right), (0, 0))[: frame.ndim]
        frame = np.pad(frame, padding, mode="edge")
    size = (frame.shape[1] // factor, frame.shape[0] // factor)
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY) if small.ndim == 3 else small, np.uint8)


def _flow(small0: NDArray[np.uint8], small1: NDArray[np.uint8], effort: str) -> Array:
    """[h,w,2] in pixels of these pictures."""
    first, *later = OPENCV_STAGES[effort]
    flow = _dis(small0, small1, first)
    for stage in later:
        flow = _better(small0, small1, flow, _dis(small0, small1, stage, None if stage.afresh else flow))
    return flow


def _dis(small0: NDArray[np.uint8], small1: NDArray[np.uint8], stage: Stage, start: Array | None = None) -> Array:
    """From coarse to fine, or from a start of this size at this scale alone."""
    # One object per call: DIS keeps buffers between calls, which threads must not share.
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    dis.setFinestScale(0)  # the image is small already
    dis.setPatchSize(stage.patch)
    dis.setPatchStride(stage.stride)
    dis.setGradientDescentIterations(stage.descents)
    dis.setVariationalRefinementIterations(stage.refinements)
    if start is None:
        nothing: Any = None  # allowed, though not in OpenCV's stubs
        return np.asarray(dis.calc(small0, small1, nothing), np.float32)
    dis.setCoarsestScale(0)
    return np.asarray(dis.calc(small0, small1, start.copy()), np.float32)


def _better(small0: NDArray[np.uint8], small1: NDArray[np.uint8], flow: Array, other: Array) -> Array:
    here, there = small0.astype(np.float32), small1.astype(np.float32)
    errors = [_error(here, _warped(there, each), COMPARED_OVER) for each in (flow, other)]
    better = cv2.medianBlur((errors[1] + SURER < errors[0]).astype(np.uint8), 5) > 0
    return np.where(better[..., None], other, flow)


def _reduced(flow: Array, factor: int) -> Array:
    """A flow at a size `factor` times smaller, in pixels of that size."""
    size = (flow.shape[1] // factor, flow.shape[0] // factor)
    return np.asarray(cv2.resize(flow, size, interpolation=cv2.INTER_AREA), np.float32) / np.float32(factor)


def _both_ways(smalls: Sequence[NDArray[np.uint8]], effort: str, *, matched: bool) -> list[Array]:
    """The flows there and back, replaced where block matching explains the frames much better."""
    small0, small1 = smalls
    finding: list[Callable[[], Any]] = [
        partial(_flow, small0, small1, effort),
        partial(_flow, small1, small0, effort),
    ]
    if not matched:
        return in_threads(finding)
    levels = {(cell // STRIDE[effort]).bit_length() - 1: reach for cell, reach in REACH.items()}
    pyramid0, pyramid1 = _pyramid(small0, max(levels)), _pyramid(small1, max(levels))
    matching: list[Callable[[], Any]] = [
        partial(_block_match, pyramid0[level], pyramid1[level], reach) for level, reach in levels.items()
    ]
    flow01, flow10, *matches = in_threads([*finding, *matching])
    matches01, matches10 = (dict(zip(levels, each, strict=True)) for each in zip(*matches, strict=True))
    window = MATCHED_OVER // STRIDE[effort] | 1
    corrected01, corrected10 = in_threads(
        [
            partial(_corrected, flow01, matches01, pyramid0, pyramid1, window),
            partial(_corrected, flow10, matches10, pyramid1, pyramid0, window),
        ]
    )
    return [_confirmed(flow01, corrected01, corrected10), _confirmed(flow10, corrected10, corrected01)]


def _confirmed(flow: Array, corrected: Array, back: Array) -> Array:
    """The flow [h,w,2], corrected where the corrected flow back returns to the start."""
    returned = [_warped(np.ascontiguousarray(back[..., c]), corrected) for c in (0, 1)]
    miss = np.hypot(*(corrected[..., c] + returned[c] for c in (0, 1)))
    return np.where((miss < CONFIRMED)[..., None], corrected, flow)


def _pyramid(small: NDArray[np.uint8], levels: int) -> list[Array]:
    """Grey at this size, cropped to whole pixels of the coarsest level, and halved `levels` times."""
    height, width = (side >> levels << levels for side in small.shape)
    pyramid = [small[:height, :width].astype(np.float32)]
    for level in range(1, levels + 1):
        size = (width >> level, height >> level)
        pyramid.append(np.asarray(cv2.resize(pyramid[-1], size, interpolation=cv2.INTER_AREA), np.float32))
    return pyramid


def _block_match(grey0: Array, grey1: Array, reach: int) -> tuple[Array, Array]:
    """For every pixel of one picture the offset [h,w,2] to the best match of its 3×3 pixels in the other; both ways.

    Up to `reach` (at most 13) pixels away, with a slight preference for near ones; single outliers are removed.
    """
    least = [np.empty(grey0.shape, np.uint32) for _ in range(2)]
    codes = [np.rint(grey).astype(np.uint8) for grey in (grey0, grey1)]
    kernels.block_match(*codes, reach, np.float32(9 * NEARER), *least)
    offsets = []
    for best, sign in zip(least, (1, -1), strict=True):
        y, x = (sign * (number.astype(np.float32) - reach) for number in np.divmod(best % 2**16, 2 * reach + 1))
        offsets.append(np.asarray(cv2.merge([cv2.medianBlur(x, 3), cv2.medianBlur(y, 3)]), np.float32))
    return offsets[0], offsets[1]


def _corrected(flow: Array, matches: dict[int, Array], here: list[Array], there: list[Array], window: int) -> Array:
    """The flow [h,w,2], replaced where a match, refined step by step, is much better over window × window pixels.

    Works in the bounding box of the places where it is better before it is refined.
    """
    share, less = MUCH_BETTER
    flow = flow.copy()
    for start, match in matches.items():
        rows, columns = match.shape[:2]
        coarse = flow[: rows << start, : columns << start] / 2**start
        coarse = np.asarray(cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)
        ours, flows = (_error(here[start], _warped(there[start], offset), 3) for offset in (match, coarse))
        # a lone pixel would not survive the last median
        hopeful = cv2.medianBlur((ours < share * flows - less).astype(np.uint8), 3)
        left, top, width, height = cv2.boundingRect(hopeful)
        if not width:
            continue
        right, bottom = min(left + width + MARGIN, columns), min(top + height + MARGIN, rows)
        left, top = max(0, left - MARGIN), max(0, top - MARGIN)
        match = match[top:bottom, left:right] + np.array((left, top), np.float32)  # counted from the rectangle's corner
        for level in range(start - 1, -1, -1):
            match = np.asarray(cv2.resize(match, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), np.float32) * 2
            scale = start - level
            box = np.s_[top << scale : bottom << scale, left << scale : right << scale]
            match = _best_neighbour(here[level][box], there[level], match)
        for _ in range(2):
            match = _refined(here[0][box], there[0], match)
        corner = np.array((left << start, top << start), np.float32)
        limit = share * _error(here[0][box], _warped(there[0], flow[box] + corner), window) - less
        ours = _error(here[0][box], _warped(there[0], match), window)
        better = cv2.medianBlur((ours < limit).astype(np.uint8), 5) > 0
        flow[box][better] = match[better] - corner
    return flow


def _warped(there: Array, offset: Array, right: float = 0.0, down: float = 0.0) -> Array:
    """A picture at each place of a rectangle [h,w] moved by its offset [h,w,2] and (right, down) more."""
    warped = np.empty(offset.shape[:2], np.float32)
    kernels.warp_grey(there, offset, np.float32(right), np.float32(down), warped)
    return warped


def _error(here: Array, warped: Array, window: int) -> Array:
    """Mean absolute difference over a window: [h,w]."""
    return np.asarray(cv2.blur(cv2.absdiff(here, warped), (window, window)), np.float32)


def _best_neighbour(here: Array, there: Array, offset: Array) -> Array:
    """The best of each offset and its eight neighbours."""
    steps = np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)], np.float32)
    steps = steps[np.abs(steps).sum(1).argsort(kind="stable")]  # the offset itself wins ties
    errors = np.stack([_error(here, _warped(there, offset, *step), 5) for step in steps])
    return np.asarray(offset + steps[errors.argmin(0)], np.float32)


def _refined(here: Array, there: Array, offset: Array) -> Array:
    """One step of Lucas and Kanade (1981) over 7×7 pixels, a pixel at most; the 20 damps it in flat places."""
    products = np.empty((5, *here.shape), np.float32)
    kernels.lucas_kanade_products(np.ascontiguousarray(here), _warped(there, offset), products)
    means = np.stack([cv2.blur(product, (7, 7)) for product in products])
    finer = offset.copy()
    kernels.lucas_kanade_step(finer, means, np.float32(20))
    return finer
