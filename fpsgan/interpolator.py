"""The interpolator: a feature pyramid that starts at a flow prior and refines it, from coarse to fine.

Two frames and a time t in, the frame at time t out. A bottom-up encoder, shared by both frames and run once per
frame, gives features at 1/4 … 1/32. The top-down half refines the two intermediate flows, with the features
warped by the flow so far, and ends in a blend mask and a residual at half resolution; two full-resolution warps
make the frame. With all its heads at zero, as they are initialised, the network returns the flow prior's result
(fpsgan.prior): training starts there, not from noise.

The pyramid follows DeblurGAN-v2 (Kupyn et al. 2019) and FPN (Lin et al. 2017), the warped laterals PWC-Net (Sun et
al. 2018) and IFRNet (Kong et al. 2022), the forward splatting of flow Softmax Splatting (Niklaus and Liu 2020).

Mirror symmetry is built in: every tensor of the top-down half holds two halves of channels, one per frame, and
every convolution there treats both alike (MirrorConv). Swapping the frames and t with 1 − t swaps the halves and
nothing else, so the result is the same up to rounding. It also halves the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpsgan.warp import warp

__all__ = ["Interpolator", "InterpolatorConfig", "Synthesis"]

STRIDES = (4, 8, 16, 32)
PAD_TO = 32
MIN_SIDE = 16
PER_PIXEL = 0.05 / 255.0  # of brightness that a pixel of motion has to explain


@dataclass(frozen=True)
class InterpolatorConfig:
    """Widths of the network, finest level (1/4) first; multiples of 8 suit CPU kernels. JSON-able by asdict."""

    stem: int = 16  # channels of the encoder at 1/2
    encoder: tuple[int, ...] = (16, 32, 48, 64)  # channels per frame at 1/4, 1/8, 1/16, 1/32
    decoder: tuple[int, ...] = (24, 40, 56, 64)  # channels per half at the same levels
    blocks: tuple[int, ...] = (3, 3, 3, 2)  # residual blocks per level
    handed_down: int = 16  # channels per half that a level gives to the next finer one

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder", "blocks"):  # JSON has lists where this has tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))


class Synthesis(NamedTuple):
    """What Interpolator.synthesize returns; all of it in fp32 but frame, which has the dtype of the input."""

    frame: Tensor  # [B,3,H,W] the frame at time t
    flow_t0: Tensor  # [B,2,H,W] from the frame at t to frame0, in pixels
    flow_t1: Tensor  # [B,2,H,W] from the frame at t to frame1
    mask: Tensor  # [B,1,H,W] 0..1, weight of the warped frame0
    levels: list[tuple[Tensor, Tensor]]  # (flow_t0, flow_t1) at 1/32, 1/16, 1/8, 1/4, padded, full-size pixels


class MirrorConv(nn.Module):
    """Convolution over two halves of channels that treats both alike: swapped halves in, swapped halves out.

    Half 0 of the output is conv(cat(half 0, half 1)), half 1 is the same conv(cat(half 1, half 0)): a group
    convolution (Cohen and Welling 2016) over the group of two elements, run as one ordinary convolution.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.shared = nn.Conv2d(2 * inputs, outputs, kernel, padding=kernel // 2)
        self.inputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2·inputs, h, w] to [B, 2·outputs, h, w]."""
        weight, bias = self.shared.weight, self.shared.bias
        assert bias is not None
        weight = torch.cat((weight, weight.roll(self.inputs, dims=1)))
        return F.conv2d(x, weight, torch.cat((bias, bias)), padding=self.shared.padding)


class Level(nn.Module):
    """One level of the top-down half: enter, residual blocks, and two heads."""

    def __init__(self, inputs: int, width: int, blocks: int, decided: int, handed_down: int) -> None:
        super().__init__()
        self.enter = MirrorConv(inputs, width)
        nn.init.kaiming_normal_(self.enter.shared.weight, a=0.1)
        self.blocks = nn.ModuleList(MirrorConv(width, width) for _ in range(blocks))
        self.decide = MirrorConv(width, decided)
        self.hand_down = MirrorConv(width, handed_down, kernel=1) if handed_down else None
        # zero: an untrained network changes nothing of what the prior says
        nn.init.zeros_(self.decide.shared.weight)
        assert self.decide.shared.bias is not None
        nn.init.zeros_(self.decide.shared.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(decisions in fp32, features for the next level)."""
        x = F.leaky_relu_(self.enter(x), 0.1)
        for block in self.blocks:
            x = x + F.leaky_relu_(block(x), 0.1)
        return self.decide(x).float(), self.hand_down(x) if self.hand_down is not None else None


class Interpolator(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: InterpolatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or InterpolatorConfig()
        channels = (config.stem, *config.encoder)
        self.stem = nn.Conv2d(3, config.stem, 3, stride=2, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1),
                nn.LeakyReLU(0.1, inplace=True),
                nn.Conv2d(channels[i + 1], channels[i + 1], 3, padding=1),
                nn.LeakyReLU(0.1, inplace=True),
            )
            for i in range(len(STRIDES))
        )
        self.levels = nn.ModuleList()
        for i, stride in enumerate(STRIDES):
            finest, coarsest = stride == STRIDES[0], stride == STRIDES[-1]
            inputs = config.encoder[i] + 4 + 8  # flow, trust in the prior, t, matching costs
            inputs += 0 if coarsest else config.handed_down
            inputs += 12 if finest else 0  # the warped frame at 1/2, unshuffled to 1/4
            decided = 6 * 4 if finest else 3  # (flow, mask, residual) for 2×2 pixels; or (flow, gate)
            self.levels.append(
                Level(inputs, config.decoder[i], config.blocks[i], decided, 0 if finest else config.handed_down)
            )

        for module in (self.stem, *self.encoder.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)

    def encode(self, frame: Tensor) -> list[Tensor]:
        """What the network needs of one frame, whatever its partner and t: [B,3,H,W] to five tensors.

        The frame at 1/2, then features at 1/4, 1/8, 1/16 and 1/32, all padded to a multiple of 32 px.
        """
        half = F.avg_pool2d(_pad(frame.float(), PAD_TO), 2)
        x = F.leaky_relu_(self.stem(_pad(frame, PAD_TO).to(self.stem.weight.dtype)), 0.1)
        features = [half]
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        return features

    def forward(
        self,
        frame0: Tensor,
        frame1: Tensor,
        t: Tensor,
        prior: tuple[Tensor, Tensor] | None = None,
        features0: list[Tensor] | None = None,
        features1: list[Tensor] | None = None,
    ) -> Tensor:
        """The frame at time t between frame0 (t = 0) and frame1 (t = 1).

        Args:
            frame0, frame1: [B,3,H,W] RGB, 0..1 and a little beyond; any floating dtype, H and W at least 16.
            t: [B], each in (0, 1).
            prior: (flow01, flow10) of fpsgan.prior.flow_prior, each [B, 2, ceil(H/4), ceil(W/4)] in pixels.
                None: the network finds the motion by itself, less well.
            features0, features1: encode(frame0), encode(frame1), where they are there already.

        Returns:
            [B,3,H,W] in frame0's dtype, not clamped.

        Raises:
            ValueError: frames of different or too small sizes, or a prior of another size.
        """
        return self.synthesize(frame0, frame1, t, prior, features0, features1).frame

    def synthesize(
        self,
        frame0: Tensor,
        frame1: Tensor,
        t: Tensor,
        prior: tuple[Tensor, Tensor] | None = None,
        features0: list[Tensor] | None = None,
        features1: list[Tensor] | None = None,
    ) -> Synthesis:
        """forward with the flows and the mask, for training and inspection."""
        height, width = frame0.shape[-2:]
        if frame0.shape != frame1.shape or min(height, width) < MIN_SIDE:
            raise ValueError(
                f"two frames of one size, at least {MIN_SIDE}×{MIN_SIDE} px, are needed, "
                f"not {tuple(frame0.shape)} and {tuple(frame1.shape)}"
            )
        features0 = self.encode(frame0) if features0 is None else features0
        features1 = self.encode(frame1) if features1 is None else features1
        t = t.float().view(-1, 1, 1, 1)
        batch, device = frame0.shape[0], frame0.device
        quarter = features0[1].shape[-2:]

        if prior is None:
            velocity = torch.zeros(batch, 2, *quarter, device=device)
            trust0 = trust1 = torch.zeros(batch, 1, *quarter, device=device)
        else:
            small0, small1 = F.avg_pool2d(features0[0], 2), F.avg_pool2d(features1[0], 2)
            flow01, flow10 = (_fit_prior(flow, height, width, quarter) for flow in prior)
            velocity, trust0, trust1 = splat(flow01, flow10, small0, small1, t)

        prior_pyramid = [torch.cat((velocity, trust0, trust1), dim=1)]
        while len(prior_pyramid) < len(STRIDES):
            prior_pyramid.append(F.avg_pool2d(prior_pyramid[-1], 2))
        flows: list[tuple[Tensor, Tensor]] = []
        hidden: Tensor | None = None
        decided: Tensor | None = None
        for i in reversed(range(len(STRIDES))):
            velocity, trust0, trust1 = torch.split(prior_pyramid[i], [2, 1, 1], dim=1)
            flow0, flow1 = -t * velocity, (1.0 - t) * velocity
            if decided is not None:
                assert hidden is not None
                # The gate lets a coarse level overrule the prior here: −1 drops it for the flow found so far.
                found0, gate0, found1, gate1 = torch.split(_twice(decided), [2, 1, 2, 1], dim=1)
                hidden = _twice(hidden)
                if prior is None:
                    flow0, flow1 = found0, found1
                else:
                    flow0 = found0 + (1.0 + gate0) * (flow0 - found0)
                    flow1 = found1 + (1.0 + gate1) * (flow1 - found1)
            warped0 = warp(features0[i + 1], flow0 / STRIDES[i])
            warped1 = warp(features1[i + 1], flow1 / STRIDES[i])
            time = t.expand(batch, 1, *flow0.shape[-2:])
            own0 = [warped0, flow0 / 16.0, trust0, time]
            own1 = [warped1, flow1 / 16.0, trust1, 1.0 - time]
            if STRIDES[i] == STRIDES[0]:
                # the fine level matches the frames themselves, at 1/2
                half0 = warp(features0[0], _twice(flow0) / 2.0)
                half1 = warp(features1[0], _twice(flow1) / 2.0)
                grey0, grey1 = half0.mean(1, keepdim=True), half1.mean(1, keepdim=True)
                own0 += [F.pixel_unshuffle(half0, 2), costs(grey0, grey1, 2)]
                own1 += [F.pixel_unshuffle(half1, 2), costs(grey1, grey0, 2)]
            else:
                own0.append(costs(warped0, warped1))
                own1.append(costs(warped1, warped0))
            if hidden is not None:
                hidden0, hidden1 = hidden.chunk(2, dim=1)
                own0.append(hidden0)
                own1.append(hidden1)
            dtype = self.stem.weight.dtype
            decided, hidden = self.levels[i](torch.cat([part.to(dtype) for part in own0 + own1], dim=1))
            if STRIDES[i] != STRIDES[0]:
                change0, gate0, change1, gate1 = torch.split(decided, [2, 1, 2, 1], dim=1)
                flow0, flow1 = flow0 + change0 * STRIDES[i], flow1 + change1 * STRIDES[i]
                decided = torch.cat((flow0, gate0, flow1, gate1), dim=1)
            flows.append((flow0, flow1))

        assert decided is not None
        side0, side1 = (F.pixel_shuffle(side, 2) for side in decided.chunk(2, dim=1))
        change0, mask0, residual0 = torch.split(side0, [2, 1, 3], dim=1)
        change1, mask1, residual1 = torch.split(side1, [2, 1, 3], dim=1)
        found = _twice(torch.cat((flow0, flow1), dim=1)) + 8.0 * torch.cat((change0, change1), dim=1)
        nearer = torch.log((1.0 - t) / t)  # with nothing decided, the mask is 1 − t
        mask = torch.sigmoid(mask0 - mask1 + nearer)
        fine = _twice(torch.cat((found, mask, residual0 + residual1), dim=1))[..., :height, :width]
        flow0, flow1, mask, residual = torch.split(fine, [2, 2, 1, 3], dim=1)
        warped0, warped1 = warp(frame0.float(), flow0), warp(frame1.float(), flow1)
        frame = torch.lerp(warped1, warped0, mask) + residual
        return Synthesis(frame.to(frame0.dtype), flow0, flow1, mask, flows)


def costs(one: Tensor, other: Tensor, pool: int = 1) -> Tensor:
    """How much worse or better than on average the neighbours of a pixel match: which way the flow is wrong.

    [B,C,h,w] twice to [B,8,h/pool,w/pool] fp32: for each of the 8 neighbours, the mean of |one(x + d) − other(x)|
    over channels and a small window, divided by the mean over all 9 shifts, minus 1. (The ninth follows from the
    eight.)
    """
    height, width = one.shape[-2:]
    padded = F.pad(one.float(), (1, 1, 1, 1), mode="replicate")
    shifts = [(y, x) for y in range(3) for x in range(3)]
    found = [(padded[..., y : y + height, x : x + width] - other).abs().mean(1) for y, x in shifts]
    every = F.avg_pool2d(torch.stack(found, dim=1), pool + 2, pool, padding=1, count_include_pad=False)
    relative = every / (every.mean(1, keepdim=True) + 0.01) - 1.0
    return torch.cat((relative[:, :4], relative[:, 5:]), dim=1)


def splat(flow01: Tensor, flow10: Tensor, small0: Tensor, small1: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Carries both flows forward to time t: the motion of whatever is at each place at that time.

    Every vector lands, bilinearly, where linear motion takes its pixel at time t, weighted by how well the two
    flows agree (relative to their length) and the two frames match there; holes are filled from coarser sums.

    Args:
        flow01, flow10: [B,2,h,w] in full-size pixels, at 1/4.
        small0, small1: [B,3,h,w], the frames at 1/4, RGB 0..1.
        t: [B,1,1,1].

    Returns:
        (velocity [B,2,h,w], the motion from frame0 to frame1 seen at time t; trust0, trust1 [B,1,h,w], 0..1:
        how much reliable motion of frame0 and of frame1 landed there).
    """
    batch, _, height, width = flow01.shape
    stride = float(STRIDES[0])
    column = torch.arange(width, device=flow01.device, dtype=torch.float32).expand(height, width)
    row = torch.arange(height, device=flow01.device, dtype=torch.float32)[:, None].expand(height, width)
    origin = torch.arange(batch, device=flow01.device).view(-1, 1, 1) * (height * width)
    flow01 = _only_if_better(flow01, small0, small1)
    flow10 = _only_if_better(flow10, small1, small0)
    landed = []
    for flow, back, here, there, sign, time in (
        (flow01, flow10, small0, small1, 1.0, t),
        (flow10, flow01, small1, small0, -1.0, 1.0 - t),
    ):
        lookup = warp(torch.cat((back, there), dim=1), flow / stride)
        returned, seen = lookup[:, :2], lookup[:, 2:]
        miss = _length(flow + returned) / (1.0 + 0.1 * (_length(flow) + _length(returned)))
        weight = torch.exp(-miss - 25.0 * (here - seen).abs().mean(dim=1))
        x = column + flow[:, 0] * time[:, 0] / stride
        y = row + flow[:, 1] * time[:, 0] / stride
        left, top = x.floor(), y.floor()
        values = torch.stack((sign * flow[:, 0], sign * flow[:, 1], torch.ones_like(x)), dim=-1)
        total = torch.zeros(batch * height * width, 3, device=flow.device)
        for to_right in (0.0, 1.0):
            for down in (0.0, 1.0):
                xi, yi = left + to_right, top + down
                share = (1.0 - (x - xi).abs()) * (1.0 - (y - yi).abs()) * weight
                share = share * ((xi >= 0) & (xi < width) & (yi >= 0) & (yi < height))
                index = origin + yi.clamp(0, height - 1).long() * width + xi.clamp(0, width - 1).long()
                total.index_add_(0, index.flatten(), (values * share.unsqueeze(-1)).view(-1, 3))
        landed.append(total.view(batch, height, width, 3).permute(0, 3, 1, 2))
    both = (1.0 - t) * landed[0] + t * landed[1]
    sums = [both]
    while min(sums[-1].shape[-2:]) > 2:
        sums.append(F.avg_pool2d(sums[-1], 2, ceil_mode=True))
    velocity = sums[-1][:, :2] / (sums[-1][:, 2:] + 1e-6)
    for level in reversed(sums[:-1]):
        size = level.shape[-2:]
        coarse = F.interpolate(velocity, scale_factor=2.0, mode="bilinear")[..., : size[0], : size[1]]
        velocity = (level[:, :2] + 0.01 * coarse) / (level[:, 2:] + 0.01)
    return velocity, landed[0][:, 2:].clamp(max=1.0), landed[1][:, 2:].clamp(max=1.0)


def _only_if_better(flow: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Zero where the flow explains the frames no better than standing still, by PER_PIXEL of its length.

    Where brightness changes without motion, as in animated gradients and fades, DIS finds motion all the same.
    """
    still = (here - there).abs().mean(dim=1, keepdim=True)
    moved = (here - warp(there, flow / STRIDES[0])).abs().mean(dim=1, keepdim=True)
    gain = F.avg_pool2d(still - moved, 7, 1, 3, count_include_pad=False)
    return flow * (gain > PER_PIXEL * _length(flow).unsqueeze(1))


def _length(flow: Tensor) -> Tensor:
    return torch.hypot(flow[:, 0], flow[:, 1])


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _pad(x: Tensor, multiple: int) -> Tensor:
    bottom, right = (-size % multiple for size in x.shape[-2:])
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def _fit_prior(flow: Tensor, height: int, width: int, quarter: torch.Size) -> Tensor:
    expected = (-(-height // STRIDES[0]), -(-width // STRIDES[0]))
    if tuple(flow.shape[-2:]) != expected:
        raise ValueError(f"a prior of {expected} belongs to a frame of {(height, width)}, not {tuple(flow.shape)}")
    bottom, right = quarter[0] - expected[0], quarter[1] - expected[1]
    return F.pad(flow.float(), (0, right, 0, bottom), mode="replicate")
