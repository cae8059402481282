"""The interpolator: a feature pyramid that starts at a flow prior and refines it, from coarse to fine.

Two frames and a time t in, the frame at time t out. A bottom-up encoder, shared by both frames and run once per
frame, gives features at 1/8 … 1/32. The top-down half refines the two intermediate flows, with the features warped by
the flow so far, and ends at 1/4, on the warped frames themselves, in a flow, a blend mask and a residual for half
resolution; two full-resolution warps make the frame. Of a prior that is finer than that, what is finer stays as it is.
With all its heads at zero, as they are initialised, the network returns the flow prior's result (fpsgan.prior):
training starts there, not from noise.

The pyramid follows DeblurGAN-v2 (Kupyn et al. 2019) and FPN (Lin et al. 2017), the warped laterals PWC-Net (Sun et
al. 2018) and IFRNet (Kong et al. 2022), the forward splatting of flow Softmax Splatting (Niklaus and Liu 2020). Where
the prior knows how motion speeds up or turns, from the frames around the two, the way that it takes is curved.

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

from fpsgan.confidence import confidence, fall_back
from fpsgan.overlap import overlapped
from fpsgan.prior import EFFORTS, STRIDE
from fpsgan.warp import Fine, around, compose, halve, pad, twice, warp

__all__ = ["Interpolator", "InterpolatorConfig", "Synthesis"]

FINEST = 4  # px of the frame per pixel of the finest level; each coarser one has twice as many
MIN_SIDE = 16
MATCHED = 8  # channels of the features that are compared between the frames
LEAK = 0.1
PER_PIXEL = 0.05 / 255.0  # of brightness that a pixel of motion has to explain
OVER = 28  # px of the frame, over which that is averaged


@dataclass(frozen=True)
class InterpolatorConfig:
    """Widths of the network, finer levels first; multiples of 16 suit CPU kernels. JSON-able by asdict."""

    encoder: tuple[int, ...] = (32, 48, 64)  # channels per frame at 1/8, 1/16, 1/32
    decoder: tuple[int, ...] = (24, 32, 48, 64)  # channels per half at 1/4, 1/8, 1/16, 1/32
    blocks: tuple[int, ...] = (3, 3, 3, 2)  # residual blocks per level of the decoder
    handed_down: int = 16  # channels per half that a level gives to the next finer one
    prior: str = "base"  # the effort of the flow prior that these weights go with, see fpsgan.prior.flow_prior

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
        """Pixels of the frame per pixel of the prior: 4, as the finest level has, or 2."""
        return STRIDE[self.prior]


class Synthesis(NamedTuple):
    """What Interpolator.synthesize returns; all of it in fp32 but frame, which has the dtype of the input."""

    frame: Tensor  # [B,3,H,W] the frame at time t
    flow_t0: Tensor  # [B,2,H,W] from the frame at t to frame0, in pixels
    flow_t1: Tensor  # [B,2,H,W] from the frame at t to frame1
    mask: Tensor  # [B,1,H,W] 0..1, weight of the warped frame0
    levels: list[tuple[Tensor, Tensor]]  # (flow_t0, flow_t1) at 1/32, 1/16, 1/8, 1/4, padded, full-size pixels


class Pair(NamedTuple):
    """What Interpolator.decide needs of two frames, whatever t."""

    features0: list[Tensor]  # Interpolator.encode of either
    features1: list[Tensor]
    quarter0: Tensor  # [B,3,h,w] either at 1/4, padded as the features are
    quarter1: Tensor
    motion: (
        tuple[Tensor, Tensor] | None
    )  # of either frame, as `weighed` returns it, at the size of the prior; None without


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
        """Weight and bias of the one convolution."""
        weight, bias = self.shared.weight, self.shared.bias
        assert bias is not None
        return torch.cat((weight, weight.roll(self.inputs, dims=1))), torch.cat((bias, bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2·inputs, h, w] to [B, 2·outputs, h, w]."""
        return F.conv2d(x, *self.both(), padding=self.shared.padding)

    def rectified(self, x: Tensor) -> Tensor:
        """forward and a leaky rectifier."""
        return F.leaky_relu_(self(x), LEAK)


class FineDecision(MirrorConv):
    """For each of 2×2 pixels: change of flow_t0, of flow_t1, of the mask, and a residual.

    Both halves have a say in the mask, with opposite signs, and in the residual: [B, 2·inputs, h, w] to
    [B, 4·(2 + 2 + 1 + 3), h, w], each of the four ordered (row, column, what).
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
        # the finest level has nobody to hand anything to; the others change (flow, gate)
        self.decide = MirrorConv(width, 3) if handed_down else FineDecision(width)
        self.hand_down = MirrorConv(width, handed_down, kernel=1) if handed_down else None
        # zero: an untrained network changes nothing of what the prior says
        nn.init.zeros_(self.decide.shared.weight)
        assert self.decide.shared.bias is not None
        nn.init.zeros_(self.decide.shared.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(decisions in fp32, features for the next level)."""
        x = self.enter.rectified(x)
        for block in self.blocks:
            x = x + block.rectified(x)  # type: ignore[operator]
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
            inputs = 4  # flow, trust in the prior, t
            inputs += 12 if i == 0 else config.encoder[i - 1] + 8  # the warped frame; features and matching costs
            inputs += 0 if i == last else config.handed_down
            self.levels.append(Level(inputs, width, blocks, config.handed_down if i else 0))
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=LEAK)

    def encode(self, frame: Tensor) -> list[Tensor]:
        """What the network needs of one frame, whatever its partner and t: [B,3,H,W] to a list of tensors.

        The frame at 1/2 in fp32, then features at 1/8, 1/16 …, all padded to whole pixels of the coarsest level.
        """
        half = pad(halve(frame), FINEST * 2 ** len(self.encoder) // 2)
        x = unshuffle(half.to(self.dtype))
        features = [half]
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        return features

    @property
    def dtype(self) -> torch.dtype:
        return self.levels[0].enter.shared.weight.dtype  # type: ignore[union-attr, return-value]

    def forward(
        self,
        frame0: Tensor,
        frame1: Tensor,
        t: Tensor,
        prior: Sequence[Tensor] | None = None,
        features0: list[Tensor] | None = None,
        features1: list[Tensor] | None = None,
    ) -> Tensor:
        """The frame at time t between frame0 (t = 0) and frame1 (t = 1).

        Args:
            frame0, frame1: [B,3,H,W] RGB, 0..1 and a little beyond; any floating dtype, H and W at least 16.
            t: [B], each in (0, 1).
            prior: (flow01, flow10) of fpsgan.prior.flow_prior, with the config's effort, or these and the two
                accelerations of fpsgan.prior.with_acceleration, each [B, 2, ceil(H/stride), ceil(W/stride)] in pixels.
                None: the network finds the motion by itself, less well.
            features0, features1: encode(frame0), encode(frame1), where they are there already.

        Returns:
            [B,3,H,W] in frame0's dtype, not clamped.

        Raises:
            ValueError: frames of different or too small sizes, or a prior of another size.
        """
        pair = self.prepare(frame0, frame1, prior, features0, features1)
        return compose(frame0, frame1, self.finish(pair, self.decide(pair, t)[0]))

    def synthesize(
        self,
        frame0: Tensor,
        frame1: Tensor,
        t: Tensor,
        prior: Sequence[Tensor] | None = None,
        features0: list[Tensor] | None = None,
        features1: list[Tensor] | None = None,
    ) -> Synthesis:
        """forward with the flows and the mask, for training and inspection."""
        fine, levels = self.decide(self.prepare(frame0, frame1, prior, features0, features1), t)
        height, width = frame0.shape[-2:]
        flow0, flow1, mask = (twice(part)[..., :height, :width] for part in fine[:3])
        return Synthesis(compose(frame0, frame1, fine), flow0, flow1, mask, levels)

    def prepare(
        self,
        frame0: Tensor,
        frame1: Tensor,
        prior: Sequence[Tensor] | None = None,
        features0: list[Tensor] | None = None,
        features1: list[Tensor] | None = None,
    ) -> Pair:
        """What all moments of a pair have in common; arguments as for forward."""
        stride = self.config.stride
        checked(frame0, frame1, prior or (), stride)
        features0 = self.encode(frame0) if features0 is None else features0
        features1 = self.encode(frame1) if features1 is None else features1
        quarter0, quarter1 = halve(features0[0]), halve(features1[0])
        motion = None
        if prior is not None:
            seen = (quarter0, quarter1) if stride == FINEST else (features0[0], features1[0])
            fitted = [_fit_prior(flow, seen[0].shape[-2:]) for flow in prior]
            motion = weighed(fitted, *seen, stride)
        return Pair(features0, features1, quarter0, quarter1, motion)

    def finish(self, pair: Pair, fine: Fine) -> Fine:
        """What `decide` says, made better without learning; training leaves it out. `fpsgan.warp.compose` follows."""
        half0, half1 = (features[0].expand(len(fine.mask), -1, -1, -1) for features in pair[:2])
        return overlapped(half0, half1, fine)

    def generate(self, frame0: Tensor, frame1: Tensor, pair: Pair, t: Tensor) -> tuple[Tensor, Tensor]:
        """The frames at each t of a pair of B = 1, what is a guess in them replaced, and how far to believe them.

        pair: what `prepare` made of frame0 and frame1. Returns [B,3,H,W] and, as `fpsgan.confidence.confidence`,
        [B,1,⌈H/4⌉,⌈W/4⌉].
        """
        fine = self.finish(pair, self.decide(pair, t)[0])
        frame0, frame1, *quarters = (
            each.expand(len(t), -1, -1, -1) for each in (frame0, frame1, pair.quarter0, pair.quarter1)
        )
        height, width = (-(-side // FINEST) for side in frame0.shape[-2:])
        believed = confidence(*(x[..., :height, :width] for x in (*quarters, *map(halve, fine[:3]))))
        return fall_back(compose(frame0, frame1, fine), frame0, frame1, t, believed), believed

    def decide(self, pair: Pair, t: Tensor) -> tuple[Fine, list[tuple[Tensor, Tensor]]]:
        """All of forward up to `finish`; and the flows of every level, coarsest first.

        t: [B], or any number of moments for a pair of B = 1.
        """
        features0, features1 = ([x.expand(len(t), -1, -1, -1) for x in each] for each in pair[:2])
        t = t.float().view(-1, 1, 1, 1)
        dtype = self.dtype
        half0, half1 = features0[0], features1[0]
        if pair.motion is None:
            prior = half0.new_zeros(len(t), 4, *pair.quarter0.shape[-2:])
        else:
            prior = torch.cat(splat(*pair.motion, t, self.config.stride), dim=1)
        finer = prior.shape[-1] > pair.quarter0.shape[-1]
        prior_pyramid = [F.avg_pool2d(prior, 2) if finer else prior]
        while len(prior_pyramid) < len(self.levels):
            prior_pyramid.append(F.avg_pool2d(prior_pyramid[-1], 2))
        flows: list[tuple[Tensor, Tensor]] = []
        hidden: Tensor | None = None
        decided: Tensor | None = None
        for i in reversed(range(len(self.levels))):
            stride = FINEST * 2**i
            flow0, flow1 = ways(prior_pyramid[i], t)
            trust0, trust1 = prior_pyramid[i][:, 2:3], prior_pyramid[i][:, 3:4]
            if decided is not None:
                # The gate lets a coarse level overrule the prior here: −1 drops it for the flow found so far.
                found0, gate0, found1, gate1 = torch.split(twice(decided), [2, 1, 2, 1], dim=1)
                if pair.motion is None:
                    flow0, flow1 = found0, found1
                else:
                    flow0 = found0 + (1.0 + gate0) * (flow0 - found0)
                    flow1 = found1 + (1.0 + gate1) * (flow1 - found1)
            time = t.expand(-1, 1, *flow0.shape[-2:])
            own0 = [torch.cat((flow0 / 16.0, trust0, time), dim=1)]
            own1 = [torch.cat((flow1 / 16.0, trust1, 1.0 - time), dim=1)]
            if i == 0:
                # the fine level sees the frames themselves, at 1/2
                own0.append(unshuffle(warp(half0, twice(flow0 / 2.0)).to(dtype)))
                own1.append(unshuffle(warp(half1, twice(flow1 / 2.0)).to(dtype)))
            else:
                warped0 = warp(features0[i], flow0 / stride)
                warped1 = warp(features1[i], flow1 / stride)
                costs0, costs1 = costs(warped0[:, :MATCHED], warped1[:, :MATCHED])
                own0 += [warped0, costs0]
                own1 += [warped1, costs1]
            if hidden is not None:
                hidden0, hidden1 = twice(hidden).chunk(2, dim=1)
                own0.append(hidden0)
                own1.append(hidden1)
            decided, hidden = self.levels[i](together(own0 + own1, dtype))
            if i:
                change0, gate0, change1, gate1 = torch.split(decided, [2, 1, 2, 1], dim=1)
                flow0, flow1 = flow0 + change0 * stride, flow1 + change1 * stride
                decided = torch.cat((flow0, gate0, flow1, gate1), dim=1)
            flows.append((flow0, flow1))

        assert decided is not None
        change0, change1, mask, residual = (shuffle(part) for part in torch.split(decided, [8, 8, 4, 12], dim=1))
        flow0, flow1 = torch.add(twice(flow0), change0, alpha=8.0), torch.add(twice(flow1), change1, alpha=8.0)
        if finer:
            whole, coarse = ways(prior, t), ways(prior_pyramid[0], t)
            flow0, flow1 = flow0 + whole[0] - twice(coarse[0]), flow1 + whole[1] - twice(coarse[1])
        mask = torch.sigmoid(mask + torch.log((1.0 - t) / t))  # with nothing decided, the mask is 1 − t
        return Fine(flow0, flow1, mask, residual), flows


def together(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The channels of all parts, laid out as the convolutions want them; joining is faster where all lie alike."""
    return torch.cat([part.to(dtype).contiguous(memory_format=torch.channels_last) for part in parts], dim=1)


def unshuffle(x: Tensor) -> Tensor:
    """2×2 pixels to one with four times the channels: [B,C,2h,2w] → [B,4C,h,w], ordered (row, column, channel)."""
    return torch.cat([x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)], dim=1)


def shuffle(x: Tensor) -> Tensor:
    """What `unshuffle` did, undone: [B,4C,h,w] to [B,C,2h,2w]."""
    return rearrange(x, "b (y x c) h w -> b (h y) (w x) c", y=2, x=2).permute(0, 3, 1, 2)


def costs(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """How much worse or better than on average the neighbours of a pixel match: which way the flow is wrong.

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


def _relative(found: Tensor) -> Tensor:
    every = around(found, 3)
    relative = every / (every.mean(1, keepdim=True) + 0.01) - 1.0
    return torch.cat((relative[:, :4], relative[:, 5:]), dim=1)


def weighed(prior: Sequence[Tensor], small0: Tensor, small1: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Both flows, with a third channel: how far to believe them. Accelerations follow as two more.

    That is how well the two flows agree, relative to their length, and the two frames match there. A flow that explains
    the frames no better than standing still, by PER_PIXEL of its length, becomes zero: where brightness changes
    without motion, as in animated gradients and fades, DIS finds motion all the same.

    Args:
        prior: flow01, flow10 and, where known, both accelerations, [B,2,h,w] in full-size pixels.
        small0, small1: [B,3,h,w], the frames at that size, RGB 0..1.
        stride: pixels of the frames per pixel of these.

    Returns:
        Motion of frame0, of frame1, [B,3,h,w] or [B,5,h,w] each.
    """
    resting = _unlike(small0, small1)
    flows, curves, unlike = [], [], []
    for (flow, *curve), here, there in ((prior[::2], small0, small1), (prior[1::2], small1, small0)):
        moving = _unlike(here, warp(there, flow / stride))
        better = around(resting - moving, window(stride)) > PER_PIXEL * _length(flow)
        flows.append(flow * better)
        curves.append([acceleration * better for acceleration in curve])
        unlike.append(torch.where(better, moving, resting))
    motion = []
    for (flow, back), left, curve in zip((flows, flows[::-1]), unlike, curves, strict=True):
        returned = warp(back, flow / stride)
        miss = _length(flow + returned) / (1.0 + 0.1 * (_length(flow) + _length(returned)))
        motion.append(torch.cat((flow, torch.exp(-miss - 25.0 * left), *curve), dim=1))
    return motion[0], motion[1]


def window(stride: int) -> int:
    """OVER in pixels of that stride, made odd."""
    return OVER // stride | 1


def _unlike(one: Tensor, other: Tensor) -> Tensor:
    """Mean absolute difference over three channels: [B,1,h,w]."""
    red, green, blue = (one - other).abs_().unbind(1)
    return ((red + green + blue) / 3.0).unsqueeze(1)


def _length(flow: Tensor) -> Tensor:
    return torch.hypot(flow[:, :1], flow[:, 1:])


def ways(motion: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The flows to frame0 and to frame1 from what `splat` returns, joined: [B,2,h,w] twice."""
    flow0, flow1 = -t * motion[:, :2], (1.0 - t) * motion[:, :2]
    if motion.shape[1] > 4:
        curve = 0.5 * t * (1.0 - t) * motion[:, 4:]
        flow0, flow1 = flow0 + curve, flow1 + curve
    return flow0, flow1


def splat(motion01: Tensor, motion10: Tensor, t: Tensor, stride: int) -> list[Tensor]:
    """Carries both flows forward to time t: the motion of whatever is at each place at that time.

    Every vector lands, bilinearly, where its motion takes its pixel by time t; holes are filled from coarser sums.

    Args:
        motion01, motion10: as `weighed` returns them, [B,C,h,w] or [1,C,h,w].
        t: [B,1,1,1].
        stride: pixels of the frame per pixel of the motion.

    Returns:
        [velocity [B,2,h,w], the motion from frame0 to frame1 seen at time t; trust0, trust1 [B,1,h,w], 0..1:
        how much reliable motion of frame0 and of frame1 landed there], and the acceleration [B,2,h,w] if there is one.
    """
    batch, (channels, height, width) = len(t), motion01.shape[-3:]
    # A margin of one pixel before and two behind: what lands outside of the picture is lost there.
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
        x = (column + ahead[0] / stride).clamp(-1.0, width) + 1.0
        y = (row + ahead[1] / stride).clamp(-1.0, height) + 1.0
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
        size = level.shape[-2:]
        coarse = F.interpolate(found, scale_factor=2.0, mode="bilinear")[..., : size[0], : size[1]]
        found = (level[:, 1:] + 0.01 * coarse) / (level[:, :1] + 0.01)
    trust0, trust1 = (each[:, :1].clamp(max=1.0) for each in landed)
    return [found[:, :2], trust0, trust1, *([found[:, 2:]] if channels > 3 else [])]


def checked(frame0: Tensor, frame1: Tensor, prior: Sequence[Tensor], stride: int) -> None:
    """ValueError if they cannot be interpolated between."""
    height, width = frame0.shape[-2:]
    if frame0.shape != frame1.shape or min(height, width) < MIN_SIDE:
        raise ValueError(
            f"two frames of one size, at least {MIN_SIDE}×{MIN_SIDE} px, are needed, "
            f"not {tuple(frame0.shape)} and {tuple(frame1.shape)}"
        )
    expected = (-(-height // stride), -(-width // stride))
    for flow in prior:
        if tuple(flow.shape[-2:]) != expected:
            raise ValueError(f"a prior of {expected} belongs to a frame of {(height, width)}, not {tuple(flow.shape)}")


def _fit_prior(flow: Tensor, size: torch.Size) -> Tensor:
    bottom, right = (padded - side for padded, side in zip(size, flow.shape[-2:], strict=True))
    return F.pad(flow.float(), (0, right, 0, bottom), mode="replicate")
