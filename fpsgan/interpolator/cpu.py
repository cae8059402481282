"""The interpolator on a CPU: the compiled twin of `fpsgan.interpolator.network` and `synthesis`.

In eager torch, one operation and one intermediate picture at a time, everything around the convolutions takes several
times as long as they do. Here the convolutions stay torch's, and all else is `fpsgan.interpolator.kernels`, one pair at
a time and without gradients. Functions have the names of their twins. On a GPU, and for training, the definition itself
is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, TypeGuard

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur.folded import onednn_rectifies
from fpsgan.interpolator import kernels, synthesis
from fpsgan.interpolator.network import LEAK, MATCHED, Interpolator, Level, MirrorConv, check_sizes
from fpsgan.interpolator.synthesis import FINEST, believe, distrust_leaving, enlarge, explained_over
from fpsgan.threads import in_threads

__all__ = ["CpuInterpolator"]

Array = NDArray[np.float32]
EMPTY = np.empty((0, 0, 0), np.float32)


class Encoded(NamedTuple):
    """As `fpsgan.interpolator.network.Encoded`."""

    half: Array  # [h,w,3], the frame at 1/2
    quarter: Array  # at 1/4
    features: list[Array]  # [h,w,C] at 1/8, 1/16 …


class Pair(NamedTuple):
    """As `fpsgan.interpolator.network.Pair`."""

    frame0: Encoded
    frame1: Encoded
    motion: tuple[Array, Array]  # of either frame, [2 or 4,h,w] at the size of the flow, with or without acceleration
    trust: tuple[Array, Array]  # [h,w], how far to believe it


class Intermediate(NamedTuple):
    """As `fpsgan.interpolator.synthesis.Intermediate`."""

    flow_t0: Array  # [2,h,w]
    flow_t1: Array
    mask: Array  # [1,h,w]
    residual: Array  # [3,h,w]


class Conv(NamedTuple):
    """A convolution, with its weight in channels-last layout."""

    weight: Tensor
    bias: Tensor
    stride: int = 1

    def __call__(self, x: Tensor, *, rectified: bool = False) -> Tensor:
        padding, stride = [self.weight.shape[2] // 2] * 2, [self.stride] * 2
        if rectified and onednn_rectifies():
            y: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, padding, stride, [1, 1], 1, "leaky_relu", [LEAK], ""
            )
            return y
        y = F.conv2d(x, self.weight, self.bias, self.stride, padding)
        return F.leaky_relu_(y, LEAK) if rectified else y


class CpuInterpolator:
    """`Interpolator` for inference on a CPU: the same `encode`, `prepare` and `generate`, for a batch of one.

    It has the weights and dtype that the network has when this is made.
    """

    def __init__(self, network: Interpolator) -> None:
        self.config = network.config
        self.dtype = network.dtype
        with torch.no_grad():
            self.encoder = [
                [_conv(layer.weight, layer.bias, layer.stride[0]) for layer in stage.modules() if _is_conv(layer)]
                for stage in network.encoder
            ]
            self.levels = [_level(level) for level in network.levels if isinstance(level, Level)]

    @torch.inference_mode()
    def encode(self, frame: Tensor) -> Encoded:
        """[1,3,H,W], fp32, 0..1 and a little beyond."""
        picture = _image(frame)
        multiple = FINEST * 2 ** len(self.encoder)
        height, width = (-(-side // multiple) * multiple // FINEST for side in picture.shape[:2])
        half, quarter = _empty(2 * height, 2 * width, 3), _empty(height, width, 3)
        x, whole, bits = _target(height, width, 12, self.dtype)
        _by_rows(height, kernels.downsample, picture, half, quarter, whole, bits)
        features = []
        for stage in self.encoder:
            for convolution in stage:
                x = convolution(x, rectified=True)
            feature = _image(x)
            missing = [(0, max(0, 2 - side)) for side in feature.shape[:2]]  # kernels need two pixels each way
            features.append(np.pad(feature, (*missing, (0, 0)), mode="edge") if max(missing)[1] else feature)
        return Encoded(half, quarter, features)

    @torch.inference_mode()
    def prepare(
        self,
        frame0: Tensor,
        frame1: Tensor,
        flows: Sequence[Tensor],
        encoded0: Encoded | None = None,
        encoded1: Encoded | None = None,
    ) -> Pair:
        """As `Interpolator.prepare`, but the flows must be given."""
        stride = self.config.stride
        check_sizes(frame0, frame1, flows, stride)
        encoded0, encoded1 = encoded0 or self.encode(frame0), encoded1 or self.encode(frame1)
        small0, small1 = (each.quarter if stride == FINEST else each.half for each in (encoded0, encoded1))
        padded = [_pad(flow[0].float().numpy(), *small0.shape[:2]) for flow in flows]
        size = frame0.shape[-2], frame0.shape[-1]
        return Pair(encoded0, encoded1, *check_consistency(padded, small0, small1, stride, size))

    @torch.inference_mode()
    def generate(self, frame0: Tensor, frame1: Tensor, pair: Pair, t: Tensor) -> tuple[Tensor, Tensor]:
        """As `Interpolator.generate`, t: [1]."""
        found = self._decide(pair, np.float32(t.item()))
        overlap(pair.frame0.half, pair.frame1.half, found)
        height, width = frame0.shape[-2:]
        out = _empty(height, width, 3)
        _by_rows(height, kernels.compose, _image(frame0), _image(frame1), *found, out)
        high, wide = -(-height // FINEST), -(-width // FINEST)
        mixed = _empty(high, wide)
        quarters = [np.ascontiguousarray(each.quarter[:high, :wide]) for each in pair[:2]]
        _by_rows(high, kernels.disagreement, *quarters, *found[:3], mixed)
        believed = believe(torch.from_numpy(box_filter(mixed, synthesis.BELIEVED_OVER))[None, None])
        frame = torch.from_numpy(out).permute(2, 0, 1)[None]
        return fall_back(frame, frame0, frame1, t, believed), believed

    def _decide(self, pair: Pair, time: np.float32) -> Intermediate:
        motion, trust = splat(pair.motion, pair.trust, time, self.config.stride)
        pyramid = [torch.from_numpy(np.concatenate((motion, trust)))[None]]
        detailed, coarse = np.empty((4, 0, 0), np.float32), np.zeros((4, 1, 1), np.float32)
        if self.config.stride < FINEST:
            pyramid[0] = F.avg_pool2d(pyramid[0], 2)
            detailed = intermediate_flows(motion, time)
            coarse = intermediate_flows(pyramid[0][0, :-2].numpy(), time)
        while len(pyramid) < len(self.levels):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        decided: Array = EMPTY
        hidden = np.empty((1, 1, 0), np.float32)
        for i in reversed(range(len(self.levels))):
            level = self.levels[i]
            here = pyramid[i][0].numpy()
            motion, trust = here[:-2], here[-2:]
            height, width = motion.shape[1:]
            flow = intermediate_flows(motion, time, decided)
            sides = ((flow[:2], pair.frame0), (flow[2:], pair.frame1))
            if i == 0:
                own0, own1 = (_empty(height, width, 12) for _ in range(2))
                for out, (way, frame) in zip((own0, own1), sides, strict=True):
                    _by_rows(height, kernels.warp_half, frame.half, way, out)
            else:
                channels = pair.frame0.features[i - 1].shape[2]
                own0, own1 = (_empty(height, width, channels + 8) for _ in range(2))
                scale = np.float32(1 / (FINEST * 2**i))
                for out, (way, frame) in zip((own0, own1), sides, strict=True):
                    _by_rows(height, kernels.warp_features, frame.features[i - 1], way, scale, out)
                both = ((own0, own1), (own1, own0))
                in_threads([partial(kernels.cost_volume, *each, MATCHED, channels) for each in both])
            x, whole, bits = _target(height, width, 2 * (4 + own0.shape[2]) + hidden.shape[2], self.dtype)
            _by_rows(height, kernels.level_input, flow, trust, time, own0, own1, hidden, whole, bits)
            found, handed = level(x)
            if handed is not None:
                hidden = _image(handed)
                changes = found.float().contiguous()[0].numpy()
                stride = np.float32(FINEST * 2**i)
                for side in (0, 1):
                    changes[3 * side : 3 * side + 2] *= stride
                    changes[3 * side : 3 * side + 2] += flow[2 * side : 2 * side + 2]
                decided = changes
        fine = Intermediate(*(_empty(c, 2 * height, 2 * width) for c in (2, 2, 1, 3)))
        odds = np.float32(np.log((1 - time) / time))
        _by_rows(height, kernels.finest_decision, flow - coarse, detailed, *_memory(found), odds, *fine)
        return fine


class _Level(NamedTuple):
    enter: Conv
    blocks: list[Conv]
    decision: Conv
    hand_down: Conv | None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.enter(x, rectified=True)
        for block in self.blocks:
            x = block(x, rectified=True).add_(x)
        return self.decision(x), self.hand_down(x) if self.hand_down is not None else None


def _level(level: Level) -> _Level:
    return _Level(
        _conv(*level.enter.both()),
        [_conv(*block.both()) for block in level.blocks if isinstance(block, MirrorConv)],
        _conv(*level.decide.both()),
        _conv(*level.hand_down.both()) if level.hand_down is not None else None,
    )


def _is_conv(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(layer, nn.Conv2d)


def _conv(weight: Tensor, bias: Tensor | None, stride: int = 1) -> Conv:
    assert bias is not None
    return Conv(weight.detach().contiguous(memory_format=torch.channels_last), bias.detach(), stride)


def check_consistency(
    flows: Sequence[Array], small0: Array, small1: Array, stride: int, size: tuple[int, int]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(motion [2 or 4,h,w] of either frame, trust [h,w] of either); pictures [h,w,3], flows [2,h,w]."""
    height, width = small0.shape[:2]
    scale, gain = np.float32(1 / stride), np.float32(synthesis.PER_PIXEL)
    motions = np.concatenate(flows[::2]), np.concatenate(flows[1::2])

    def explained(motion: Array, here: Array, there: Array) -> Array:
        moving, resting = _empty(height, width), _empty(height, width)
        kernels.differences(here, there, motion, scale, moving, resting, (0, height))
        noise = np.minimum(resting, np.float32(synthesis.NOISE[stride]))
        doubted = np.float32(synthesis.EXPLAINED) * box_filter(noise, synthesis.NOISE_OVER)
        gained = box_filter(resting - moving, explained_over(stride)) - doubted
        kernels.drop_unexplained(motion, gained, gain, moving, resting)
        return moving

    def trusted(flow: Array, back: Array, left: Array) -> Array:
        out = _empty(height, width)
        kernels.consistency(flow, back, left, np.float32(1), scale, out, (0, height))
        seen = distrust_leaving(torch.from_numpy(flow[None, :2]), torch.from_numpy(out)[None, None], stride, size)
        return np.asarray(seen[0, 0].numpy())

    left = in_threads([partial(explained, motions[0], small0, small1), partial(explained, motions[1], small1, small0)])
    trust = in_threads([partial(trusted, *motions, left[0]), partial(trusted, *motions[::-1], left[1])])
    return motions, (trust[0], trust[1])


def intermediate_flows(motion: Array, time: np.float32, decided: Array = EMPTY) -> Array:
    """[4,h,w], to frame0 and to frame1, of a motion [2 or 4,h,w] and what the coarser level decided, [6,h/2,w/2]."""
    flow = _empty(4, *motion.shape[1:])
    kernels.intermediate_flows(motion, time, decided, flow)
    return flow


def splat(
    motions: tuple[Array, Array], trust: tuple[Array, Array], time: np.float32, stride: int
) -> tuple[Array, Array]:
    """(velocity and maybe acceleration [2 or 4,h,w], trust in what came from either frame [2,h,w])."""
    channels, height, width = motions[0].shape
    scale = np.float32(1 / stride)

    def landed(motion: Array, trust: Array, sign: float, by: np.float32) -> Array:
        total = np.zeros((height + 3, width + 3, 1 + channels), np.float32)
        kernels.splat(motion, trust, np.float32(sign), by, scale, total)
        return total

    both = in_threads(
        [
            partial(landed, motions[0], trust[0], 1.0, time),
            partial(landed, motions[1], trust[1], -1.0, np.float32(1) - time),
        ]
    )
    landed_trust = _empty(2, height, width)
    sums = [_empty(height, width, 1 + channels)]
    kernels.merge_splats(*both, time, sums[0], landed_trust)
    while min(sums[-1].shape[:2]) > 2:
        sums.append(kernels.halve_sums(sums[-1]))
    last = sums[-1]
    found = np.ascontiguousarray((last[..., 1:] / (last[..., :1] + np.float32(1e-6))).transpose(2, 0, 1))
    for each in reversed(sums[:-1]):
        found = kernels.fill_holes(each, found)
    return found, landed_trust


def overlap(half0: Array, half1: Array, found: Intermediate) -> None:
    """`synthesis.overlapped`, in place: changes the residual."""
    flow0, flow1, mask, residual = found
    cell, motions = synthesis.CELL, np.array(synthesis.MOTIONS)
    cells = np.dstack((*flow0[:, ::cell, ::cell], *flow1[:, ::cell, ::cell]))
    square = np.ones((2 * synthesis.AWAY + 1,) * 2, np.uint8)
    spread = np.asarray(cv2.morphologyEx(cells, cv2.MORPH_GRADIENT, square, borderType=cv2.BORDER_REPLICATE))
    rows, columns = _varied(torch.from_numpy(spread.sum(2)))
    if not len(rows):
        return
    height, width = cells.shape[:2]
    errors = np.zeros((height, width, len(motions)), np.float32)
    made = np.empty((len(rows), len(motions), cell**2, 3), np.float32)
    places = rows.numpy(), columns.numpy()
    kernels.try_motions(half0, half1, flow0, flow1, mask, *places, synthesis.AWAY * motions, errors, made)
    looked = np.zeros((height, width), np.float32)
    looked[places] = 1
    side = (synthesis.COMPARED_OVER, synthesis.COMPARED_OVER)
    share = np.maximum(cv2.blur(looked, side, borderType=cv2.BORDER_CONSTANT), np.float32(1e-6))
    # OpenCV's means are of up to four channels
    for k in range(len(motions)):
        plane = np.ascontiguousarray(errors[..., k])
        errors[..., k] = cv2.blur(plane, side, borderType=cv2.BORDER_CONSTANT) / share
    tried = np.float32(synthesis.TRIED / (1 - synthesis.TRIED) / (len(motions) - 1))
    kernels.average_motions(errors, made, *places, np.float32(synthesis.UNLIKELY), tried, residual)


def _varied(spread: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the cells, of all [h,w], around which motion varies enough."""
    chosen = spread > synthesis.VARIED
    most = int(synthesis.MOST * chosen.numel())
    if int(chosen.sum()) > most:
        chosen.zero_().view(-1)[spread.flatten().topk(most).indices] = True
    rows, columns = chosen.nonzero(as_tuple=True)
    return rows, columns


def fall_back(frame: Tensor, frame0: Tensor, frame1: Tensor, t: Tensor, confidence: Tensor) -> Tensor:
    """`synthesis.fall_back`, in place and only in the rectangle around low confidence: in most frames there is none."""
    doubted = (confidence < 1).nonzero()
    if not len(doubted):
        return frame
    # with a margin of one cell, into which upsampling spreads the confidence
    top, left = (doubted[:, 2:].amin(0) - 1).clamp(min=0).tolist()
    bottom, right = (doubted[:, 2:].amax(0) + 2).tolist()
    here = (..., slice(FINEST * top, FINEST * bottom), slice(FINEST * left, FINEST * right))
    sure = enlarge(confidence[..., top:bottom, left:right], frame[here])[:, 0]
    t = t.to(frame.dtype).view(-1, 1, 1)
    for made, before, after in zip(*(x[here].unbind(1) for x in (frame, frame0, frame1)), strict=True):
        resting = before + t * (after - before)
        made.copy_(resting + sure * (made - resting))
    return frame


def _by_rows(height: int, kernel: Callable[..., Any], *arguments: Any) -> None:
    """Run a kernel over so many rows, in strips if there are several threads."""
    count = max(1, min(cv2.getNumThreads(), height // 16))
    ends = [height * k // count for k in range(count + 1)]
    in_threads([partial(kernel, *arguments, (ends[k], ends[k + 1])) for k in range(count)])


def box_filter(plane: Array, side: int) -> Array:
    """The mean over side × side pixels, counting only those inside the picture."""
    mean = cv2.blur(plane, (side, side), borderType=cv2.BORDER_CONSTANT)
    return np.asarray(mean / _inside(*plane.shape, side), np.float32)


@cache
def _inside(height: int, width: int, side: int) -> Array:
    return np.asarray(cv2.blur(np.ones((height, width), np.float32), (side, side), borderType=cv2.BORDER_CONSTANT))


def _pad(flow: Array, height: int, width: int) -> Array:
    missing = (height - flow.shape[1], width - flow.shape[2])
    return np.pad(flow, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge")


def _image(x: Tensor) -> Array:
    """[1,C,H,W] as float32 [H,W,C]; no copy if the memory is laid out so already."""
    return np.asarray(x[0].permute(1, 2, 0).float().contiguous().numpy())


def _empty(*shape: int) -> Array:
    return np.empty(shape, np.float32)


def _target(height: int, width: int, channels: int, dtype: torch.dtype) -> tuple[Tensor, Array, NDArray[np.uint16]]:
    """An input for a convolution, [1,C,h,w], and its memory for kernels to fill."""
    x = torch.empty(1, channels, height, width, dtype=dtype, memory_format=torch.channels_last)
    return x, *_memory(x)


def _memory(x: Tensor) -> tuple[Array, NDArray[np.uint16]]:
    """The memory of [1,C,h,w], [h,w·C], as floats and as the bits of bf16: one of the two is empty, [h,0]."""
    rows = x[0].permute(1, 2, 0).contiguous().flatten(1)
    if x.dtype == torch.bfloat16:
        return np.empty((len(rows), 0), np.float32), rows.view(torch.uint16).numpy()
    return rows.float().numpy(), np.empty((len(rows), 0), np.uint16)
