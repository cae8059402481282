"""The interpolator: a feature pyramid that starts from optical flow and refines it, from coarse to fine.

Two frames and a time t in, the frame at time t out. A bottom-up encoder, shared by both frames and run once per
frame, gives features at 1/8 and coarser. The top-down half refines the two intermediate flows, with the features warped
by the flow so far, and ends at 1/4, on the warped frames themselves, in a flow, a blend mask and a residual for half
resolution; two full-resolution warps make the frame. The detail of a flow that is given at 1/2 is added unchanged.
With all its heads at zero, as they are initialised, the network returns what the given flow alone makes of the frames
(fpsgan.interpolator.flow): training starts there, not from noise.

The pyramid follows DeblurGAN-v2 (Kupyn et al. 2019) and FPN (Lin et al. 2017), the warped laterals PWC-Net (Sun et
al. 2018) and IFRNet (Kong et al. 2022), the forward splatting of flow Softmax Splatting (Niklaus and Liu 2020). Where
acceleration is known, from the frames before and after the two, trajectories are curved.

Mirror symmetry is built in: every tensor of the top-down half holds two halves of channels, one per frame, and
every convolution there treats both alike (MirrorConv). Swapping the frames and t with 1 − t swaps the halves and
nothing else, so the result is the same up to rounding. It also halves the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fpsgan.interpolator.flow import EFFORTS, STRIDE
from fpsgan.interpolator.synthesis import (
    FINEST,
    Intermediate,
    check_consistency,
    compose,
    confidence,
    cost_volume,
    downsample,
    fall_back,
    intermediate_flows,
    overlapped,
    pad,
    splat,
    upsample,
    warp,
)

__all__ = ["Interpolator", "InterpolatorConfig", "Synthesis"]

MIN_SIDE = 16
MATCHED = 8  # channels of the features that are compared between the frames
LEAK = 0.1


@dataclass(frozen=True)
class InterpolatorConfig:
    """Widths of the network, finer levels first, as shipped; multiples of 16 suit CPU kernels. JSON-able by asdict."""

    encoder: tuple[int, ...] = (16,)  # channels per frame at 1/8, 1/16 …
    decoder: tuple[int, ...] = (16, 16)  # channels per half at 1/4, 1/8, 1/16 …
    blocks: tuple[int, ...] = (1, 1)  # residual blocks per level of the decoder
    handed_down: int = 16  # channels per half that a level gives to the next finer one
    prior: str = "base"  # effort of the flow that these weights go with, see fpsgan.interpolator.flow.flow_prior

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder", "blocks"):  # JSON has lists where this has tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.encoder) + 1 == len(self.decoder) == len(self.blocks) >= 2:
            raise ValueError(
                f"encoder {self.encoder}, decoder {self.decoder}, blocks {self.blocks}: decoder and blocks have one "
                "level each more than encoder, two at least"
            )
        if min(self.encoder) < MATCHED or min(self.decoder + self.blocks) < 1 or self.handed_down < 1:
            raise ValueError(f"encoder widths are at least {MATCHED}, all others at least 1")
        if self.prior not in EFFORTS:
            raise ValueError(f"prior {self.prior!r}: allowed are {', '.join(EFFORTS)}")

    @property
    def stride(self) -> int:
        """Pixels of the frame per pixel of the flow: 4, as the finest level has, or 2."""
        return STRIDE[self.prior]


class Synthesis(NamedTuple):
    """What Interpolator.synthesize returns; fp32, except `frame`, which has the dtype of the input."""

    frame: Tensor  # [B,3,H,W] the frame at time t
    flow_t0: Tensor  # [B,2,H,W] from the frame at t to frame0, in pixels
    flow_t1: Tensor  # [B,2,H,W] from the frame at t to frame1
    mask: Tensor  # [B,1,H,W] 0..1, weight of the warped frame0
    levels: list[tuple[Tensor, Tensor]]  # (flow_t0, flow_t1), coarsest first, 1/4 last; padded, full-size pixels


class Encoded(NamedTuple):
    """What is computed from one frame, whatever its partner and t; padded to whole pixels of the coarsest level."""

    half: Tensor  # [B,3,h,w] fp32, the frame at 1/2
    quarter: Tensor  # at 1/4
    features: list[Tensor]  # [B,C,h,w] at 1/8, 1/16 …

    def expand(self, batch: int) -> Encoded:
        """One frame for several moments."""
        half, quarter, *features = (x.expand(batch, -1, -1, -1) for x in (*self[:2], *self.features))
        return Encoded(half, quarter, features)

    def select(self, index: Tensor) -> Encoded:
        """The frames at these indices of the batch, [N] int64."""
        half, quarter, *features = (x.index_select(0, index) for x in (*self[:2], *self.features))
        return Encoded(half, quarter, features)


class Pair(NamedTuple):
    """What all moments of two frames have in common."""

    frame0: Encoded
    frame1: Encoded
    motion: tuple[Tensor, Tensor] | None  # as `check_consistency` returns it; None: no flow was given

    def select(self, index: Tensor) -> Pair:
        """The pairs at these indices of the batch, [N] int64: one per moment."""
        motion = self.motion and (self.motion[0].index_select(0, index), self.motion[1].index_select(0, index))
        return Pair(self.frame0.select(index), self.frame1.select(index), motion)


class MirrorConv(nn.Module):
    """Convolution over two halves of channels that treats both alike: swapped halves in, swapped halves out.

    Half 0 of the output is conv(cat(half 0, half 1)), half 1 is the same conv(cat(half 1, half 0)): a group
    convolution (Cohen and Welling 2016) over the group of two elements, run as one ordinary convolution.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.shared = nn.Conv2d(2 * inputs, outputs, kernel, padding=kernel // 2)
        self.inputs = inputs

    def both(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the ordinary convolution."""
        weight, bias = self.shared.weight, self.shared.bias
        assert bias is not None
        return torch.cat((weight, weight.roll(self.inputs, dims=1))), torch.cat((bias, bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2·inputs, h, w] to [B, 2·outputs, h, w]."""
        return F.conv2d(x, *self.both(), padding=self.shared.padding)


class FineDecision(MirrorConv):
    """For each of 2×2 pixels: change of flow_t0, of flow_t1, of the mask, and a residual.

    Both halves contribute to the mask, with opposite signs, and to the residual: [B, 2·inputs, h, w] to
    [B, 4·(2 + 2 + 1 + 3), h, w], each of the four ordered (row, column, channel).
    """

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 4 * 6)

    def both(self) -> tuple[Tensor, Tensor]:
        def joined(halves: Tensor) -> Tensor:
            own, other = halves.reshape(2, 4, 6, *halves.shape[1:])
            parts = (own[:, :2], other[:, :2], own[:, 2:3] - other[:, 2:3], own[:, 3:] + other[:, 3:])
            return torch.cat([part.flatten(0, 1) for part in parts])

        weight, bias = super().both()
        return joined(weight), joined(bias)


class Level(nn.Module):
    """One level of the top-down half: enter, residual blocks, and two heads."""

    def __init__(self, inputs: int, width: int, blocks: int, handed_down: int) -> None:
        super().__init__()
        self.enter = MirrorConv(inputs, width)
        nn.init.kaiming_normal_(self.enter.shared.weight, a=LEAK)
        self.blocks = nn.ModuleList(MirrorConv(width, width) for _ in range(blocks))
        # the finest level hands nothing down; the others decide (flow, gate)
        self.decide = MirrorConv(width, 3) if handed_down else FineDecision(width)
        self.hand_down = MirrorConv(width, handed_down, kernel=1) if handed_down else None
        # zero: an untrained network leaves the given flow as it is
        nn.init.zeros_(self.decide.shared.weight)
        assert self.decide.shared.bias is not None
        nn.init.zeros_(self.decide.shared.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(decisions in fp32, features for the next level)."""
        x = F.leaky_relu_(self.enter(x), LEAK)
        for block in self.blocks:
            x = x + F.leaky_relu_(block(x), LEAK)
        return self.decide(x).float(), self.hand_down(x) if self.hand_down is not None else None


class Interpolator(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: InterpolatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or InterpolatorConfig()
        channels = (12, *config.encoder)  # the frame at 1/2, 2×2 pixels to one
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1),
                nn.LeakyReLU(LEAK, inplace=True),
                nn.Conv2d(channels[i + 1], channels[i + 1], 3, padding=1),
                nn.LeakyReLU(LEAK, inplace=True),
            )
            for i in range(len(config.encoder))
        )
        self.levels = nn.ModuleList()
        last = len(config.decoder) - 1
        for i, (width, blocks) in enumerate(zip(config.decoder, config.blocks, strict=True)):
            inputs = 4  # flow, trust in the given flow, t
            inputs += 12 if i == 0 else config.encoder[i - 1] + 8  # the warped frame; features and cost volume
            inputs += 0 if i == last else config.handed_down
            self.levels.append(Level(inputs, width, blocks, config.handed_down if i else 0))
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=LEAK)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def encode(self, frame: Tensor) -> Encoded:
        """[B,3,H,W], 0..1 and a little beyond."""
        half = pad(downsample(frame), FINEST * 2 ** len(self.encoder) // 2)
        x = space_to_depth(half.to(self.dtype))
        features = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        return Encoded(half, downsample(half), features)

    def forward(self, frame0: Tensor, frame1: Tensor, t: Tensor, flows: Sequence[Tensor] | None = None) -> Tensor:
        """The frame at time t between frame0 (t = 0) and frame1 (t = 1).

        Args:
            frame0, frame1: [B,3,H,W] RGB, 0..1 and a little beyond; any floating dtype, H and W at least 16.
            t: [B], each in (0, 1).
            flows: (flow01, flow10) of `flow_prior`, with the config's effort, or these and the two accelerations of
                `with_acceleration`, each [B, 2, ceil(H/stride), ceil(W/stride)] in pixels. None: the network estimates
                the motion by itself, less well.

        Returns:
            [B,3,H,W] in frame0's dtype, not clamped.

        Raises:
            ValueError: frames of different sizes or too small, or flows of another size.
        """
        pair = self.prepare(frame0, frame1, flows)
        return compose(frame0, frame1, self.compensate(pair, self.decide(pair, t)[0]))

    def synthesize(self, frame0: Tensor, frame1: Tensor, t: Tensor, flows: Sequence[Tensor] | None = None) -> Synthesis:
        """forward with the flows and the mask, for training and inspection; without the compensation."""
        found, levels = self.decide(self.prepare(frame0, frame1, flows), t)
        height, width = frame0.shape[-2:]
        flow0, flow1, mask = (upsample(part)[..., :height, :width] for part in found[:3])
        return Synthesis(compose(frame0, frame1, found), flow0, flow1, mask, levels)

    def prepare(
        self,
        frame0: Tensor,
        frame1: Tensor,
        flows: Sequence[Tensor] | None = None,
        encoded0: Encoded | None = None,
        encoded1: Encoded | None = None,
    ) -> Pair:
        """What all moments of a pair have in common; arguments as for forward, encoded0 and 1 as far as known."""
        check_sizes(frame0, frame1, flows or (), self.config.stride)
        encoded0, encoded1 = encoded0 or self.encode(frame0), encoded1 or self.encode(frame1)
        if flows is None:
            return Pair(encoded0, encoded1, None)
        small0, small1 = (each.quarter if self.config.stride == FINEST else each.half for each in (encoded0, encoded1))
        height, width = small0.shape[-2:]
        padded = [
            F.pad(flow.float(), (0, width - flow.shape[-1], 0, height - flow.shape[-2]), mode="replicate")
            for flow in flows
        ]
        size = frame0.shape[-2], frame0.shape[-1]
        return Pair(encoded0, encoded1, check_consistency(padded, small0, small1, self.config.stride, size))

    def compensate(self, pair: Pair, found: Intermediate) -> Intermediate:
        """`overlapped` for every moment of a pair; training leaves it out."""
        half0, half1 = (frame.half.expand(len(found.mask), -1, -1, -1) for frame in pair[:2])
        return overlapped(half0, half1, found)

    def generate(self, frame0: Tensor, frame1: Tensor, pair: Pair, t: Tensor) -> tuple[Tensor, Tensor]:
        """The frames at each t, with guesses replaced by a blend, and their confidence.

        t: [B], or any number of moments for a pair of B = 1. pair: what `prepare` made of frame0 and frame1. Returns
        [B,3,H,W] and, as `confidence` does, [B,1,⌈H/4⌉,⌈W/4⌉].
        """
        found = self.compensate(pair, self.decide(pair, t)[0])
        frame0, frame1, *quarters = (
            each.expand(len(t), -1, -1, -1) for each in (frame0, frame1, pair.frame0.quarter, pair.frame1.quarter)
        )
        height, width = (-(-side // FINEST) for side in frame0.shape[-2:])
        believed = confidence(*(x[..., :height, :width] for x in (*quarters, *map(downsample, found[:3]))))
        return fall_back(compose(frame0, frame1, found), frame0, frame1, t, believed), believed

    def decide(self, pair: Pair, t: Tensor) -> tuple[Intermediate, list[tuple[Tensor, Tensor]]]:
        """All of forward up to `compensate`; and the flows of every level, coarsest first.

        t: [B], or any number of moments for a pair of B = 1.
        """
        frame0, frame1 = pair.frame0.expand(len(t)), pair.frame1.expand(len(t))
        t = t.float().view(-1, 1, 1, 1)
        dtype = self.dtype
        if pair.motion is None:
            motion = frame0.quarter.new_zeros(len(t), 4, *frame0.quarter.shape[-2:])
        else:
            motion = torch.cat(splat(*pair.motion, t, self.config.stride), dim=1)
        finer = motion.shape[-1] > frame0.quarter.shape[-1]
        pyramid = [F.avg_pool2d(motion, 2) if finer else motion]
        while len(pyramid) < len(self.levels):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        flows: list[tuple[Tensor, Tensor]] = []
        hidden: Tensor | None = None
        decided: Tensor | None = None
        for i in reversed(range(len(self.levels))):
            stride = FINEST * 2**i
            flow0, flow1 = intermediate_flows(pyramid[i], t)
            trust0, trust1 = pyramid[i][:, 2:3], pyramid[i][:, 3:4]
            if decided is not None:
                # The gate lets a coarse level overrule the given flow: −1 drops it for the flow found so far.
                found0, gate0, found1, gate1 = torch.split(upsample(decided), [2, 1, 2, 1], dim=1)
                if pair.motion is None:
                    flow0, flow1 = found0, found1
                else:
                    flow0 = found0 + (1.0 + gate0) * (flow0 - found0)
                    flow1 = found1 + (1.0 + gate1) * (flow1 - found1)
            time = t.expand(-1, 1, *flow0.shape[-2:])
            own0 = [torch.cat((flow0 / 16.0, trust0, time), dim=1)]
            own1 = [torch.cat((flow1 / 16.0, trust1, 1.0 - time), dim=1)]
            if i == 0:
                # the finest level sees the frames themselves, at 1/2
                own0.append(space_to_depth(warp(frame0.half, upsample(flow0 / 2.0)).to(dtype)))
                own1.append(space_to_depth(warp(frame1.half, upsample(flow1 / 2.0)).to(dtype)))
            else:
                warped0 = warp(frame0.features[i - 1], flow0 / stride)
                warped1 = warp(frame1.features[i - 1], flow1 / stride)
                costs0, costs1 = cost_volume(warped0[:, :MATCHED], warped1[:, :MATCHED])
                own0 += [warped0, costs0]
                own1 += [warped1, costs1]
            if hidden is not None:
                hidden0, hidden1 = upsample(hidden).chunk(2, dim=1)
                own0.append(hidden0)
                own1.append(hidden1)
            decided, hidden = self.levels[i](concatenate(own0 + own1, dtype))
            if i:
                change0, gate0, change1, gate1 = torch.split(decided, [2, 1, 2, 1], dim=1)
                flow0, flow1 = flow0 + change0 * stride, flow1 + change1 * stride
                decided = torch.cat((flow0, gate0, flow1, gate1), dim=1)
            flows.append((flow0, flow1))

        assert decided is not None
        change0, change1, mask, residual = (depth_to_space(part) for part in torch.split(decided, [8, 8, 4, 12], dim=1))
        flow0, flow1 = torch.add(upsample(flow0), change0, alpha=8.0), torch.add(upsample(flow1), change1, alpha=8.0)
        if finer:
            whole, coarse = intermediate_flows(motion, t), intermediate_flows(pyramid[0], t)
            flow0, flow1 = flow0 + whole[0] - upsample(coarse[0]), flow1 + whole[1] - upsample(coarse[1])
        mask = torch.sigmoid(mask + torch.log((1.0 - t) / t))  # with nothing decided, the mask is 1 − t
        return Intermediate(flow0, flow1, mask, residual), flows


def concatenate(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The channels of all parts, in channels-last layout for the convolutions; `cat` is faster with one layout."""
    return torch.cat([part.to(dtype).contiguous(memory_format=torch.channels_last) for part in parts], dim=1)


def space_to_depth(x: Tensor) -> Tensor:
    """2×2 pixels to one with four times the channels: [B,C,2h,2w] → [B,4C,h,w], ordered (row, column, channel)."""
    return torch.cat([x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)], dim=1)


def depth_to_space(x: Tensor) -> Tensor:
    """What `space_to_depth` did, undone: [B,4C,h,w] to [B,C,2h,2w]."""
    return rearrange(x, "b (y x c) h w -> b (h y) (w x) c", y=2, x=2).permute(0, 3, 1, 2)


def check_sizes(frame0: Tensor, frame1: Tensor, flows: Sequence[Tensor], stride: int) -> None:
    """Raise ValueError unless sizes match and suffice."""
    height, width = frame0.shape[-2:]
    if frame0.shape != frame1.shape or min(height, width) < MIN_SIDE:
        raise ValueError(
            f"two frames of one size, at least {MIN_SIDE}×{MIN_SIDE} px, are needed, "
            f"not {tuple(frame0.shape)} and {tuple(frame1.shape)}"
        )
    expected = (-(-height // stride), -(-width // stride))
    for flow in flows:
        if tuple(flow.shape[-2:]) != expected:
            raise ValueError(f"flows of {expected} belong to frames of {(height, width)}, not {tuple(flow.shape)}")
