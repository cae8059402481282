"""What a CPU does between the convolutions of the interpolator, compiled by Numba: each in one pass over memory.

The loops behind `fpsgan.interpolator.cpu`, for one picture; `fpsgan.interpolator.synthesis` is the definition. In eager
torch most of a frame's time goes into intermediate pictures that are written, read once and thrown away. The kernels of
optical flow come last.

Pictures are float32 [h,w,3], flows and masks float32 planes [C,h,w], features [h,w,C] as channels-last convolutions
have them, in bf16 as their bits in uint16. `rows` is the (first, end) of the rows to write: several threads can make
parts of a picture, since Numba releases the GIL.

Indices computed here are unsigned: for signed ones Numba also handles negative indices, which prevents vectorisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

f4, u4, index = np.float32, np.uint32, np.uintp


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled at the first call, and cached on disk if possible."""
    options: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # there is no writable folder
        return njit(**options)(function)


def kept() -> str:
    """The folder of the on-disk cache; "" if there is none."""
    return str(compose.stats.cache_path or "")


@compiled
def _upsampled_row(plane, y, out):
    """Row y of a plane [h,w] bilinearly upsampled to [2h,2w], into out [2w]."""
    height, width = plane.shape
    near = y // 2
    far = min(max(near + (1 if y % 2 else -1), 0), height - 1)
    one, other = plane[near], plane[far]
    out[0] = f4(0.75) * one[0] + f4(0.25) * other[0]
    for x in range(1, width):
        left = f4(0.75) * one[x - 1] + f4(0.25) * other[x - 1]
        right = f4(0.75) * one[x] + f4(0.25) * other[x]
        out[2 * x - 1] = f4(0.75) * left + f4(0.25) * right
        out[2 * x] = f4(0.25) * left + f4(0.75) * right
    out[2 * width - 1] = f4(0.75) * one[width - 1] + f4(0.25) * other[width - 1]


@compiled
def _floor_within(place, last):
    """A coordinate rounded down and clamped to 0..last."""
    whole = np.int32(np.floor(place))
    whole = np.int32(0) if whole < np.int32(0) else whole
    return np.int32(last) if whole > np.int32(last) else whole


@compiled
def _sampling(across, along, scale, y, height, width, share, corner, weights):
    """Bilinear sampling positions for row y of a picture [height,width], both 2 at least, displaced by a row of a flow
    times scale, with the border repeated.

    corner [W]: the index of the pixel above and to the left; weights [4,W] of that one, of those to its right, below
    it and diagonally, which sum to share [W].
    """
    most_x, most_y, row = f4(width - 1), f4(height - 1), f4(y)
    for x in range(corner.shape[0]):
        at_x, at_y = f4(x) + scale * across[x], row + scale * along[x]
        at_x = f4(0) if at_x < f4(0) else at_x
        at_x = most_x if at_x > most_x else at_x
        at_y = f4(0) if at_y < f4(0) else at_y
        at_y = most_y if at_y > most_y else at_y
        # within the picture even where the flow is NaN
        left, top = _floor_within(at_x, width - 2), _floor_within(at_y, height - 2)
        right, below = at_x - f4(left), at_y - f4(top)
        whole = share[x]
        weights[3, x] = right * below * whole
        weights[2, x] = below * whole - weights[3, x]
        weights[1, x] = right * whole - weights[3, x]
        weights[0, x] = whole - right * whole - weights[2, x]
        corner[x] = u4(top * width + left)


@compiled
def _sample_row(flat, corner, weights, x, channel, channels, stride):
    """One channel of a picture, flattened, at what `_sampling` found for x."""
    at = index(corner[x]) * channels + channel
    below = at + stride
    return (
        weights[0, x] * flat[at]
        + weights[1, x] * flat[at + channels]
        + weights[2, x] * flat[below]
        + weights[3, x] * flat[below + channels]
    )


@compiled
def _store(values, out, out16):
    """A row of float32 into out, or as bf16 into out16: whichever is not empty."""
    if out.size:
        out[:] = values
    else:
        bits = values.view(np.uint32)
        for i in range(bits.shape[0]):
            out16[i] = np.uint16((bits[i] + u4(0x7FFF) + ((bits[i] >> u4(16)) & u4(1))) >> u4(16))


@compiled
def _load(values, bits, out):
    """The inverse of `_store`: a row of float32 from either, whichever is not empty."""
    if values.size:
        out[:] = values
    else:
        wider = out.view(np.uint32)
        for i in range(bits.shape[0]):
            wider[i] = u4(bits[i]) << u4(16)


@compiled
def compose(picture0, picture1, flow0, flow1, mask, residual, out, rows):
    """`synthesis.compose`: [H,W,3] twice; flows [2,h,w], mask [1,h,w], residual [3,h,w] at half size or more."""
    height, width = out.shape[:2]
    lines = np.empty((9, 2 * mask.shape[2]), np.float32)
    corner0, corner1 = np.empty(width, np.uint32), np.empty(width, np.uint32)
    weights0, weights1 = np.empty((4, width), np.float32), np.empty((4, width), np.float32)
    flat0, flat1 = picture0.reshape(-1), picture1.reshape(-1)
    three, stride = index(3), index(3 * width)
    for y in range(rows[0], rows[1]):
        for c in range(2):
            _upsampled_row(flow0[c], y, lines[c])
            _upsampled_row(flow1[c], y, lines[2 + c])
        for c in range(3):
            _upsampled_row(residual[c], y, lines[4 + c])
        _upsampled_row(mask[0], y, lines[7])
        for x in range(width):
            lines[8, x] = f4(1) - lines[7, x]
        _sampling(lines[0], lines[1], f4(1), y, height, width, lines[7], corner0, weights0)
        _sampling(lines[2], lines[3], f4(1), y, height, width, lines[8], corner1, weights1)
        line = out[y].reshape(-1)
        for x in range(width):
            to = index(x) * three
            for c in range(3):
                channel = index(c)
                line[to + channel] = (
                    _sample_row(flat0, corner0, weights0, x, channel, three, stride)
                    + _sample_row(flat1, corner1, weights1, x, channel, three, stride)
                    + lines[4 + c, x]
                )


@compiled
def downsample(picture, half, quarter, cells, cells16, rows):
    """A picture [H,W,3] at 1/2 and 1/4, padded by repeating the border, and the half as cells: 2×2 pixels, 12 channels.

    rows: of the quarter. An odd last row or column counts twice.
    """
    height, width = picture.shape[:2]
    tall, wide = -(-height // 2), -(-width // 2)
    flat_cells = np.empty(12 * quarter.shape[1], np.float32)
    three, six = index(3), index(6)
    for row in range(rows[0], rows[1]):
        for r in range(2):
            y = min(2 * row + r, tall - 1)
            above, below = picture[2 * y].reshape(-1), picture[min(2 * y + 1, height - 1)].reshape(-1)
            line = half[2 * row + r].reshape(-1)
            for x in range(width // 2):
                at, to = index(x) * six, index(x) * three
                for c in range(3):
                    a = at + index(c)
                    line[to + index(c)] = f4(0.25) * ((above[a] + above[a + three]) + (below[a] + below[a + three]))
            if width % 2:
                for c in range(3):
                    line[3 * (wide - 1) + c] = f4(0.5) * (above[3 * (width - 1) + c] + below[3 * (width - 1) + c])
            for x in range(wide, half.shape[1]):
                for c in range(3):
                    line[3 * x + c] = line[3 * (wide - 1) + c]
        upper, lower = half[2 * row].reshape(-1), half[2 * row + 1].reshape(-1)
        small = quarter[row].reshape(-1)
        for x in range(quarter.shape[1]):
            at, to = index(x) * six, index(x) * three
            for c in range(3):
                a = at + index(c)
                small[to + index(c)] = f4(0.25) * ((upper[a] + upper[a + three]) + (lower[a] + lower[a + three]))
            for c in range(6):
                flat_cells[index(x) * index(12) + index(c)] = upper[at + index(c)]
                flat_cells[index(x) * index(12) + index(c + 6)] = lower[at + index(c)]
        _store(flat_cells, cells[row], cells16[row])


@compiled
def differences(here, there, flow, scale, moving, resting, rows):
    """Mean absolute difference of two pictures [h,w,3], over channels, along a flow [2,h,w] times scale and at rest."""
    height, width = moving.shape
    corner, weights = np.empty(width, np.uint32), np.empty((4, width), np.float32)
    ones = np.ones(width, np.float32)
    flat = there.reshape(-1)
    three, stride = index(3), index(3 * width)
    for y in range(rows[0], rows[1]):
        _sampling(flow[0, y], flow[1, y], scale, y, height, width, ones, corner, weights)
        own, other = here[y].reshape(-1), there[y].reshape(-1)
        for x in range(width):
            along, still = f4(0), f4(0)
            at = index(x) * three
            for c in range(3):
                channel = index(c)
                value = own[at + channel]
                along += abs(value - _sample_row(flat, corner, weights, x, channel, three, stride))
                still += abs(value - other[at + channel])
            moving[y, x] = along / f4(3)
            resting[y, x] = still / f4(3)


@compiled
def drop_unexplained(motion, gained, per_pixel, moving, resting):
    """Motion [C,h,w] becomes 0 where it gains too little for its length; moving becomes what is left unexplained."""
    channels, height, width = motion.shape
    for y in range(height):
        for x in range(width):
            length = np.sqrt(motion[0, y, x] ** 2 + motion[1, y, x] ** 2)
            if gained[y, x] <= per_pixel * length:
                moving[y, x] = resting[y, x]
                for c in range(channels):
                    motion[c, y, x] = f4(0)


@compiled
def consistency(flow, back, left, doubt, scale, out, rows):
    """Trust in a flow [2,h,w], 0 to 1: reduced by `doubt` per pixel by which the flow back misses the start, relative
    to their length, and by what is left unexplained, [h,w]."""
    height, width = out.shape
    corner, weights = np.empty(width, np.uint32), np.empty((4, width), np.float32)
    ones = np.ones(width, np.float32)
    flat_x, flat_y = back[0].reshape(-1), back[1].reshape(-1)
    one, stride, zero = index(1), index(width), index(0)
    for y in range(rows[0], rows[1]):
        _sampling(flow[0, y], flow[1, y], scale, y, height, width, ones, corner, weights)
        for x in range(width):
            across, along = flow[0, y, x], flow[1, y, x]
            back_x = _sample_row(flat_x, corner, weights, x, zero, one, stride)
            back_y = _sample_row(flat_y, corner, weights, x, zero, one, stride)
            miss = np.sqrt((across + back_x) ** 2 + (along + back_y) ** 2)
            length = np.sqrt(across * across + along * along) + np.sqrt(back_x * back_x + back_y * back_y)
            out[y, x] = np.exp(-doubt * miss / (f4(1) + f4(0.1) * length) - f4(25) * left[y, x])


@compiled
def splat(motion, confidence, sign, time, scale, total):
    """One half of `synthesis.splat`: motion [C,h,w] of one frame, weighted by confidence, to where its pixels are at
    `time`, as a share of the pair; summed into total [h+3,w+3,1+C], with a margin of one before and two after."""
    channels, height, width = motion.shape
    bend = f4(0.5) * time * (f4(1) - time)
    count = index(total.shape[2])
    flat = total.reshape(-1)
    stride = index(total.shape[1]) * count
    for y in range(height):
        for x in range(width):
            way_x, way_y = motion[0, y, x] * time, motion[1, y, x] * time
            if channels > 2:
                way_x -= bend * motion[2, y, x]
                way_y -= bend * motion[3, y, x]
            at_x = min(max(f4(x) + way_x * scale, f4(-1)), f4(width)) + f4(1)
            at_y = min(max(f4(y) + way_y * scale, f4(-1)), f4(height)) + f4(1)
            left, top = _floor_within(at_x, width + 1), _floor_within(at_y, height + 1)
            right, below = at_x - f4(left), at_y - f4(top)
            weight = confidence[y, x]
            at = index(top) * stride + index(left) * count
            for corner in range(4):
                share = weight
                share *= right if corner % 2 else f4(1) - right
                share *= below if corner // 2 else f4(1) - below
                to = at + (count if corner % 2 else index(0)) + (stride if corner // 2 else index(0))
                flat[to] += share
                for c in range(channels):
                    flat[to + index(c + 1)] += share * (motion[c, y, x] * sign if c < 2 else motion[c, y, x])


@compiled
def merge_splats(total0, total1, time, sums, trust):
    """What landed from both frames, [h+3,w+3,1+C] twice, weighted by nearness: sums [h,w,1+C], trust [2,h,w]."""
    height, width, count = sums.shape
    for y in range(height):
        for x in range(width):
            for c in range(count):
                sums[y, x, c] = (f4(1) - time) * total0[y + 1, x + 1, c] + time * total1[y + 1, x + 1, c]
            trust[0, y, x] = min(total0[y + 1, x + 1, 0], f4(1))
            trust[1, y, x] = min(total1[y + 1, x + 1, 0], f4(1))


@compiled
def halve_sums(sums):
    """[h,w,C] at half the size, rounded up: the mean of each 2×2, as far as inside."""
    height, width, count = sums.shape
    out = np.empty((-(-height // 2), -(-width // 2), count), np.float32)
    for y in range(out.shape[0]):
        above, below = sums[2 * y].reshape(-1), sums[min(2 * y + 1, height - 1)].reshape(-1)
        line = out[y].reshape(-1)
        for x in range(width // 2):
            for c in range(count):
                a = index(2 * count) * index(x) + index(c)
                b = a + index(count)
                line[count * x + c] = f4(0.25) * ((above[a] + above[b]) + (below[a] + below[b]))
        if width % 2:
            for c in range(count):
                a = count * (width - 1) + c
                out[y, width // 2, c] = f4(0.5) * (above[a] + below[a])
    return out


@compiled
def fill_holes(sums, coarse):
    """Sums [h,w,1+C] over their weights, and `coarse` [C,⌈h/2⌉,⌈w/2⌉] where hardly anything landed: [C,h,w]."""
    height, width, count = sums.shape
    out = np.empty((count - 1, height, width), np.float32)
    guess = np.empty((count - 1, 2 * coarse.shape[2]), np.float32)
    for y in range(height):
        for c in range(count - 1):
            _upsampled_row(coarse[c], y, guess[c])
        for x in range(width):
            share = f4(1) / (sums[y, x, 0] + f4(0.01))
            for c in range(count - 1):
                out[c, y, x] = (sums[y, x, c + 1] + f4(0.01) * guess[c, x]) * share
    return out


@compiled
def intermediate_flows(motion, time, decided, flow):
    """The flows at a level, [4,h,w], to frame0 and to frame1: from the motion [2 or 4,h,w], velocity and optionally
    acceleration, and from what the coarser level decided, [6,h/2,w/2] (flow_t0, gate, flow_t1, gate), if any."""
    channels, height, width = motion.shape
    bend = f4(0.5) * time * (f4(1) - time)
    found = np.zeros((6, width), np.float32)
    for y in range(height):
        if decided.size:
            for c in range(6):
                _upsampled_row(decided[c], y, found[c])
        for c in range(4):
            side = c // 2
            part = f4(1) - time if side else -time
            for x in range(width):
                way = part * motion[c % 2, y, x]
                if channels > 2:
                    way += bend * motion[2 + c % 2, y, x]
                coarse = found[c + side, x]
                flow[c, y, x] = coarse + (f4(1) + found[2 + 3 * side, x]) * (way - coarse)


@compiled
def warp_features(features, flow, scale, out, rows):
    """Features [h,w,C] along a flow [2,h,w] times scale, into out [h,w,C or more]."""
    height, width, channels = features.shape
    wide = out.shape[1]
    corner, weights = np.empty(wide, np.uint32), np.empty((4, wide), np.float32)
    ones = np.ones(wide, np.float32)
    flat = features.reshape(-1)
    count, stride = index(channels), index(channels * width)
    for y in range(rows[0], rows[1]):
        _sampling(flow[0, y], flow[1, y], scale, y, height, width, ones, corner, weights)
        for x in range(wide):
            for c in range(channels):
                out[y, x, c] = _sample_row(flat, corner, weights, x, index(c), count, stride)


@compiled
def warp_half(half, flow, out, rows):
    """The picture [2h,2w,3] along a flow [2,h,w], upsampled, in pixels of twice that picture: cells of 2×2 pixels, 12
    channels, into out [h,w,12]."""
    height, width = half.shape[:2]
    corner, weights = np.empty(width, np.uint32), np.empty((4, width), np.float32)
    ones = np.ones(width, np.float32)
    lines = np.empty((2, width), np.float32)
    flat = half.reshape(-1)
    three, stride = index(3), index(3 * width)
    for y in range(2 * rows[0], 2 * rows[1]):
        for c in range(2):
            _upsampled_row(flow[c], y, lines[c])
        _sampling(lines[0], lines[1], f4(0.5), y, height, width, ones, corner, weights)
        line = out[y // 2].reshape(-1)
        start = index(6 * (y % 2))
        for x in range(width):
            to = index(12) * index(x // 2) + start + three * index(x % 2)
            for c in range(3):
                line[to + index(c)] = _sample_row(flat, corner, weights, x, index(c), three, stride)


@compiled
def _box3(plane, out):
    """The mean over 3×3, counting only those inside the picture."""
    height, width = plane.shape
    line = np.empty(width, np.float32)
    for y in range(height):
        above, below = max(y - 1, 0), min(y + 1, height - 1)
        count = f4(1 + (above < y) + (below > y))
        for x in range(width):
            line[x] = plane[y, x]
        if above < y:
            for x in range(width):
                line[x] += plane[above, x]
        if below > y:
            for x in range(width):
                line[x] += plane[below, x]
        inner = f4(1) / (f4(3) * count)
        for x in range(1, width - 1):
            out[y, x] = (line[x - 1] + line[x] + line[x + 1]) * inner
        outer = f4(1) / (f4(2) * count)
        out[y, 0] = (line[0] + line[1]) * outer
        out[y, width - 1] = (line[width - 2] + line[width - 1]) * outer


@compiled
def cost_volume(one, other, count, at):
    """The first result of `synthesis.cost_volume` of the first `count` channels of two [h,w,C], into the eight channels
    of `one` from `at` on."""
    height, width = one.shape[:2]
    wide, own = np.empty((count, height, width + 2), np.float32), np.empty((count, height, width), np.float32)
    for y in range(height):
        for x in range(width):
            for c in range(count):
                wide[c, y, x + 1], own[c, y, x] = one[y, x, c], other[y, x, c]
        for c in range(count):
            wide[c, y, 0], wide[c, y, width + 1] = wide[c, y, 1], wide[c, y, width]
    found, every = np.empty((height, width), np.float32), np.empty((9, height, width), np.float32)
    share = f4(1) / f4(count)
    for k in range(9):
        for y in range(height):
            beside = min(max(y + k // 3 - 1, 0), height - 1)
            line = found[y]
            line[:] = f4(0)
            for c in range(count):
                there, here = wide[c, beside, k % 3 :], own[c, y]
                for x in range(width):
                    line[x] += share * abs(there[x] - here[x])
        _box3(found, every[k])
    for y in range(height):
        for x in range(width):
            mean = f4(0)
            for k in range(9):
                mean += every[k, y, x]
            mean = f4(1) / (mean / f4(9) + f4(0.01))
            for k in range(8):
                one[y, x, at + k] = every[k + k // 4, y, x] * mean - f4(1)


@compiled
def level_input(flow, trusted, time, own0, own1, hidden, out, out16, rows):
    """The input of a level, [h,w,2·(4 + K + C)], each half for one frame: flow [2,h,w], trust [h,w], time, its own
    [h,w,K], and half of what the coarser level hands down, hidden [h/2,w/2,2·C], upsampled; C may be 0."""
    width, size = own0.shape[1:]
    more = hidden.shape[2] // 2
    half = 4 + size + more
    buffer = np.empty(2 * half * width, np.float32)
    for y in range(rows[0], rows[1]):
        near_y = y // 2
        far_y = min(max(near_y + (1 if y % 2 else -1), 0), hidden.shape[0] - 1)
        for x in range(width):
            near_x = x // 2
            far_x = min(max(near_x + (1 if x % 2 else -1), 0), hidden.shape[1] - 1)
            for side in range(2):
                to = index(2 * x + side) * index(half)
                buffer[to] = flow[2 * side, y, x] / f4(16)
                buffer[to + index(1)] = flow[2 * side + 1, y, x] / f4(16)
                buffer[to + index(2)] = trusted[side, y, x]
                buffer[to + index(3)] = f4(1) - time if side else time
                own = own1[y, x] if side else own0[y, x]
                for c in range(size):
                    buffer[to + index(4 + c)] = own[c]
                for c in range(more):
                    of = c + side * more
                    near = f4(0.75) * hidden[near_y, near_x, of] + f4(0.25) * hidden[near_y, far_x, of]
                    far = f4(0.75) * hidden[far_y, near_x, of] + f4(0.25) * hidden[far_y, far_x, of]
                    buffer[to + index(4 + size + c)] = f4(0.75) * near + f4(0.25) * far
        _store(buffer, out[y], out16[y])


@compiled
def finest_decision(flow, whole, decided, decided16, odds, flow0, flow1, mask, residual, rows):
    """The last step of `Interpolator.decide`: flow [4,h,w], upsampled, added to the finer flow [4,2h,2w], if any, and
    what the finest level decided, [h,w·32] or its bits in bf16, into the parts of an `Intermediate`, [C,2h,2w]."""
    width = mask.shape[2]
    lines = np.empty((4, width), np.float32)
    flat = np.empty(16 * width, np.float32)
    for y in range(2 * rows[0], 2 * rows[1]):
        for c in range(4):
            _upsampled_row(flow[c], y, lines[c])
            for x in range(whole.shape[2]):
                lines[c, x] += whole[c, y, x]
        _load(decided[y // 2], decided16[y // 2], flat)
        for x in range(width):
            at = index(x // 2) * index(32)
            place = index(2 * (y % 2) + x % 2)
            for c in range(2):
                change = at + index(2) * place + index(c)
                flow0[c, y, x] = lines[c, x] + f4(8) * flat[change]
                flow1[c, y, x] = lines[2 + c, x] + f4(8) * flat[change + index(8)]
            mask[0, y, x] = f4(1) / (f4(1) + np.exp(-odds - flat[at + index(16) + place]))
            for c in range(3):
                residual[c, y, x] = flat[at + index(20) + index(3) * place + index(c)]


@compiled
def disagreement(quarter0, quarter1, flow0, flow1, mask, out, rows):
    """How unlike two pictures [h,w,3] are where they are blended, into [h,w], by the flows and the mask of an
    `Intermediate` of twice their size: what `synthesis.confidence` takes the mean of."""
    height, width = quarter0.shape[:2]
    lines = np.empty((4, width), np.float32)
    ones = np.ones(width, np.float32)
    corner0, corner1 = np.empty(width, np.uint32), np.empty(width, np.uint32)
    weights0, weights1 = np.empty((4, width), np.float32), np.empty((4, width), np.float32)
    flat0, flat1 = quarter0.reshape(-1), quarter1.reshape(-1)
    three, stride = index(3), index(3 * width)
    for y in range(rows[0], rows[1]):
        for c in range(4):
            flow = flow1[c - 2] if c > 1 else flow0[c]
            upper, lower = flow[2 * y], flow[2 * y + 1]
            for x in range(width):
                lines[c, x] = f4(1 / 16) * (upper[2 * x] + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1])
        _sampling(lines[0], lines[1], f4(1), y, height, width, ones, corner0, weights0)
        _sampling(lines[2], lines[3], f4(1), y, height, width, ones, corner1, weights1)
        upper, lower = mask[0, 2 * y], mask[0, 2 * y + 1]
        for x in range(width):
            share = f4(0.25) * (upper[2 * x] + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1])
            difference = f4(0)
            for c in range(3):
                one = _sample_row(flat0, corner0, weights0, x, index(c), three, stride)
                difference += abs(one - _sample_row(flat1, corner1, weights1, x, index(c), three, stride))
            out[y, x] = difference / f4(3) * f4(4) * share * (f4(1) - share)


@compiled
def _sample(picture, x, y, out):
    """A picture [h,w,3] at one place, its border repeated, into out [3]."""
    height, width = picture.shape[:2]
    x, y = min(max(x, f4(0)), f4(width - 1)), min(max(y, f4(0)), f4(height - 1))
    left, top = _floor_within(x, width - 2), _floor_within(y, height - 2)
    right, below = x - f4(left), y - f4(top)
    column, row = index(left), index(top)
    beside, under = column + index(1), row + index(1)
    for c in range(3):
        upper = (f4(1) - right) * picture[row, column, c] + right * picture[row, beside, c]
        lower = (f4(1) - right) * picture[under, column, c] + right * picture[row + index(1), column + index(1), c]
        out[c] = (f4(1) - below) * upper + below * lower


@compiled
def try_motions(half0, half1, flow0, flow1, mask, rows, columns, away, errors, made):
    """The cells of 2×2 px at rows, columns [M] of `synthesis.overlapped`, with the motions of the cells at offsets away
    [K,2]: the results, made [M,K,4,3], and how unlike the frames are along each, into errors [h/2,w/2,K]."""
    height, width = mask.shape[1:]
    one, other = np.empty(3, np.float32), np.empty(3, np.float32)
    for m in range(rows.shape[0]):
        for k in range(away.shape[0]):
            unlike = f4(0)
            for p in range(4):
                y, x = 2 * rows[m] + p // 2, 2 * columns[m] + p % 2
                from_y = min(max(y + 2 * away[k, 0], 0), height - 1)
                from_x = min(max(x + 2 * away[k, 1], 0), width - 1)
                half = f4(0.5)
                _sample(half0, f4(x) + half * flow0[0, from_y, from_x], f4(y) + half * flow0[1, from_y, from_x], one)
                _sample(half1, f4(x) + half * flow1[0, from_y, from_x], f4(y) + half * flow1[1, from_y, from_x], other)
                share = mask[0, y, x]
                for c in range(3):
                    unlike += abs(one[c] - other[c])
                    made[m, k, p, c] = other[c] + share * (one[c] - other[c])
            errors[rows[m], columns[m], k] = unlike / f4(12)


@compiled
def average_motions(errors, made, rows, columns, unlikely, tried, residual):
    """The mean of what `try_motions` made, weighted by mean errors [h/2,w/2,K], into the residual [3,h,w]."""
    count = errors.shape[2]
    shares = np.empty(count, np.float32)
    for m in range(rows.shape[0]):
        error = errors[rows[m], columns[m]]
        total = f4(0)
        for k in range(count):
            shares[k] = f4(1) if k == 0 else np.exp((error[0] - error[k]) / unlikely) * tried
            total += shares[k]
        for p in range(4):
            y, x = 2 * rows[m] + p // 2, 2 * columns[m] + p % 2
            for c in range(3):
                mean = f4(0)
                for k in range(count):
                    mean += shares[k] * made[m, k, p, c]
                residual[c, y, x] += mean / total - made[m, 0, p, c]


@compiled
def merge_accelerations(own, other, flow, scale, out):
    """Accelerations of two frames, each [3,h,w] with its certainty last, the other's warped along the flow [2,h,w]:
    their mean, weighted by certainty, into out [2,h,w]."""
    height, width = own.shape[1:]
    corner, weights = np.empty(width, np.uint32), np.empty((4, width), np.float32)
    ones = np.ones(width, np.float32)
    there = np.empty((3, width), np.float32)
    one, stride, zero = index(1), index(width), index(0)
    for y in range(height):
        _sampling(flow[0, y], flow[1, y], scale, y, height, width, ones, corner, weights)
        for c in range(3):
            flat = other[c].reshape(-1)
            for x in range(width):
                there[c, x] = _sample_row(flat, corner, weights, x, zero, one, stride)
        for x in range(width):
            here_sure, there_sure = own[2, y, x], there[2, x]
            share = max(here_sure, there_sure) / (here_sure + there_sure + f4(1e-3))
            out[0, y, x] = (own[0, y, x] + there[0, x]) * share
            out[1, y, x] = (own[1, y, x] + there[1, x]) * share


@compiled
def block_match(grey0, grey1, reach, nearer, least0, least1):
    """For every pixel of either picture, [h,w] uint8, the best match of its 3×3 pixels in the other, within `reach`.

    least0, least1: [h,w] uint32, 65536 times (the sum of the differences and `nearer` per pixel of distance), plus the
    number of the offset, (y + reach)·(2·reach + 1) + x + reach, as seen from the first picture.
    """
    height, width = grey0.shape
    least0[:], least1[:] = u4(0xFFFFFFFF), u4(0xFFFFFFFF)
    high = np.empty((height + 2, width + 2), np.int16)
    wide = np.empty((height + 2 * reach + 2, width + 2 * reach + 2), np.int16)
    for picture, padded, margin in ((grey0, high, 1), (grey1, wide, reach + 1)):
        for y in range(padded.shape[0]):
            for x in range(padded.shape[1]):
                padded[y, x] = picture[min(max(y - margin, 0), height - 1), min(max(x - margin, 0), width - 1)]
    differences = np.empty((height + 2, width + 2), np.uint16)
    column, code = np.empty(width + 2, np.uint16), np.empty(width, np.uint32)
    for down in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        for right in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            number = u4((down + reach) * (2 * reach + 1) + right + reach)
            farther = u4(np.rint(nearer * np.sqrt(f4(down * down + right * right))))
            top, bottom = max(0, -down), height - max(0, down)
            for y in range(top, bottom + 2):
                own, other = high[y], wide[y + down + reach, right + reach :]
                for x in range(width + 2):
                    differences[y, x] = abs(own[x] - other[x])
            count = width - abs(right)
            for y in range(top, bottom):
                one, two, three = differences[y], differences[y + 1], differences[y + 2]
                for x in range(width + 2):
                    column[x] = one[x] + two[x] + three[x]
                start = max(0, -right)
                for x in range(count):
                    total = u4(column[start + x]) + u4(column[start + x + 1]) + u4(column[start + x + 2])
                    code[x] = ((total + farther) << u4(16)) | number
                best0, best1 = least0[y, start:], least1[y + down, max(0, right) :]
                for x in range(count):
                    best0[x] = min(best0[x], code[x])
                for x in range(count):
                    best1[x] = min(best1[x], code[x])


@compiled
def warp_grey(picture, offset, right, down, out):
    """A picture [H,W] at each place of a rectangle [h,w] displaced by its offset [h,w,2] plus (right, down), its border
    repeated, into out [h,w]."""
    height, width = out.shape
    corner, weights = np.empty(width, np.uint32), np.empty((4, width), np.float32)
    ones = np.ones(width, np.float32)
    lines = np.empty((2, width), np.float32)
    flat = picture.reshape(-1)
    one, stride, zero = index(1), index(picture.shape[1]), index(0)
    for y in range(height):
        for x in range(width):
            lines[0, x] = offset[y, x, 0] + right
            lines[1, x] = offset[y, x, 1] + down
        _sampling(lines[0], lines[1], f4(1), y, picture.shape[0], picture.shape[1], ones, corner, weights)
        for x in range(width):
            out[y, x] = _sample_row(flat, corner, weights, x, zero, one, stride)


@compiled
def lucas_kanade_products(here, seen, out):
    """The products that a step of Lucas and Kanade averages, from two pictures [h,w]: of the gradients of their mean
    (Sobel's, 1/8) and of their difference, xx, xy, yy, xd, yd, into out [5,h,w]."""
    height, width = here.shape
    mean = np.empty((3, width + 2), np.float32)
    for y in range(height):
        for k in range(3):
            row = abs(y + k - 1)  # mirrored at the border without repeating it
            row = row if row < height else 2 * (height - 1) - row
            for x in range(width):
                mean[k, x + 1] = f4(0.5) * (here[row, x] + seen[row, x])
            mean[k, 0], mean[k, width + 1] = mean[k, 2], mean[k, width - 1]
        for x in range(width):
            left = mean[0, x] + f4(2) * mean[1, x] + mean[2, x]
            right = mean[0, x + 2] + f4(2) * mean[1, x + 2] + mean[2, x + 2]
            above = mean[0, x] + f4(2) * mean[0, x + 1] + mean[0, x + 2]
            below = mean[2, x] + f4(2) * mean[2, x + 1] + mean[2, x + 2]
            across, down = (right - left) / f4(8), (below - above) / f4(8)
            change = seen[y, x] - here[y, x]
            out[0, y, x], out[1, y, x], out[2, y, x] = across * across, across * down, down * down
            out[3, y, x], out[4, y, x] = across * change, down * change


@compiled
def lucas_kanade_step(offset, means, flat):
    """Add the step that follows from the means of `lucas_kanade_products`, a pixel at most, to an offset [h,w,2];
    `flat` damps it where there is no structure."""
    for y in range(offset.shape[0]):
        for x in range(offset.shape[1]):
            xx, xy, yy = means[0, y, x] + flat, means[1, y, x], means[2, y, x] + flat
            xd, yd = means[3, y, x], means[4, y, x]
            share = f4(1) / (xx * yy - xy * xy)
            offset[y, x, 0] += min(max((xy * yd - yy * xd) * share, f4(-1)), f4(1))
            offset[y, x, 1] += min(max((xy * xd - xx * yd) * share, f4(-1)), f4(1))
