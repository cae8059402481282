"""The DeblurGAN-v2 generator: a feature pyramid over a light backbone that predicts what to add to a blurred image.

Source: Kupyn, Martyniuk, Wu, Wang, "DeblurGAN-v2: Deblurring (Orders-of-Magnitude) Faster and Better", ICCV 2019,
section 3.1 and figure 2. Module names follow the authors' published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur.backbones import INCEPTION_CHANNELS, MOBILENET_CHANNELS, inception_resnet_v2, mobilenet_v2

MULTIPLE = 32  # the deepest map is at 1/32: sides are padded to this
MINIMUM = 16  # px; below it reflection has too little to mirror


@dataclass(frozen=True)
class DeblurConfig:
    """Everything needed to rebuild a `Deblur`; JSON-able with `dataclasses.asdict`.

    `backbone` is "mobilenet" (MobileNetV2) or "inception" (Inception-ResNet-v2). `num_filters` is the width of the
    four heads at 1/4; the pyramid is twice as wide. `separable` makes every 3×3 convolution above the backbone, but for
    the last one, a depthwise one and a 1×1: MobileNet-DSC. `norm` says which statistics the norms use: "running", those
    seen in training, the same for every picture; "instance", each picture's own, which is how the published
    checkpoints run (docs/deblur.md). Both have the same state dict. `undo_shake` changes nothing in the network: its
    weights were trained on, and want, pictures from which `deblur.shake.undo_shake` has taken the shake that it finds.

    ValueError for anything else, or a width that is odd or below 2.
    """

    backbone: str = "mobilenet"
    num_filters: int = 64
    separable: bool = False
    norm: str = "running"
    undo_shake: bool = True

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("backbone", self.backbone, ("mobilenet", "inception")),
            ("norm", self.norm, ("running", "instance")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} {value!r} is not known; allowed: {', '.join(map(repr, allowed))}")
        if self.num_filters < 2 or self.num_filters % 2:
            raise ValueError(f"num_filters must be even and at least 2, not {self.num_filters}")


# The three generators of the paper's table 1, which get the picture as it is.
PUBLISHED = {
    "inception": DeblurConfig("inception", 128, undo_shake=False),
    "mobilenet": DeblurConfig("mobilenet", 64, undo_shake=False),
    "mobilenet-dsc": DeblurConfig("mobilenet", 64, separable=True, undo_shake=False),
}


class InstanceStatistics(nn.BatchNorm2d):
    """A norm with the buffers of a batch norm that normalises by each picture's own statistics, also in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


def _norm(config: DeblurConfig) -> type[nn.BatchNorm2d]:
    # The published InstanceNorm2d(affine=False, track_running_stats=True) has the same buffers as a batch norm and, in
    # eval mode, is the same function. Batch statistics in training come closer to what eval mode does: docs/deblur.md.
    return InstanceStatistics if config.norm == "instance" else nn.BatchNorm2d


def _conv3(inputs: int, outputs: int, config: DeblurConfig, *, bias: bool = True) -> nn.Module:
    if config.separable:
        return nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False), nn.Conv2d(inputs, outputs, 1, bias=bias)
        )
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _conv_norm_relu(inputs: int, outputs: int, config: DeblurConfig) -> nn.Sequential:
    return nn.Sequential(_conv3(inputs, outputs, config), _norm(config)(outputs, affine=False), nn.ReLU(inplace=True))


def _up(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="nearest")


class Pyramid(nn.Module):
    """Image [B,3,H,W] → (map0 at 1/2, num_filters wide; map1 … map4 at 1/4 … 1/32, twice as wide)."""

    def __init__(self, config: DeblurConfig) -> None:
        super().__init__()
        width = 2 * config.num_filters
        build, channels = mobilenet_v2, MOBILENET_CHANNELS
        if config.backbone == "inception":
            build, channels = inception_resnet_v2, INCEPTION_CHANNELS
        self.enc0, self.enc1, self.enc2, self.enc3, self.enc4 = build(_norm(config))
        c0, c1, c2, c3, c4 = channels
        self.lateral4 = nn.Conv2d(c4, width, 1, bias=False)
        self.lateral3 = nn.Conv2d(c3, width, 1, bias=False)
        self.lateral2 = nn.Conv2d(c2, width, 1, bias=False)
        self.lateral1 = nn.Conv2d(c1, width, 1, bias=False)
        self.lateral0 = nn.Conv2d(c0, width // 2, 1, bias=False)
        self.td1 = _conv_norm_relu(width, width, config)
        self.td2 = _conv_norm_relu(width, width, config)
        self.td3 = _conv_norm_relu(width, width, config)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The backbone's five maps, at exactly 1/2 … 1/32 of the image."""
        sides, maps = x.shape[2:], []
        for level, stage in enumerate((self.enc0, self.enc1, self.enc2, self.enc3, self.enc4), 1):
            x = stage(x)
            rows, columns = ((side >> level) - kept for side, kept in zip(sides, x.shape[2:], strict=True))
            # Inception's loses its border; mirroring restores it, more of it below and right. The authors mirror what
            # the laterals make of the maps, which is the same: they are 1×1 and without bias.
            aligned = x
            if rows or columns:
                aligned = F.pad(x, (columns // 2, -(-columns // 2), rows // 2, -(-rows // 2)), mode="reflect")
            maps.append(aligned)
        return maps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        enc0, enc1, enc2, enc3, enc4 = self.encode(x)
        map4 = self.lateral4(enc4)
        map3 = self.td1(self.lateral3(enc3) + _up(map4, 2))
        map2 = self.td2(self.lateral2(enc2) + _up(map3, 2))
        map1 = self.td3(self.lateral1(enc1) + _up(map2, 2))
        return self.lateral0(enc0), map1, map2, map3, map4


class Head(nn.Module):
    """Two bias-free 3×3 convolutions, each with ReLU: 2·num_filters → num_filters."""

    def __init__(self, config: DeblurConfig) -> None:
        super().__init__()
        self.block0 = _conv3(2 * config.num_filters, config.num_filters, config, bias=False)
        self.block1 = _conv3(config.num_filters, config.num_filters, config, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.block1(F.relu(self.block0(x))))


class Deblur(nn.Module):
    """The DeblurGAN-v2 generator. `Deblur()(x)` is `x` until trained: the last convolution starts at zero."""

    def __init__(self, config: DeblurConfig | None = None) -> None:
        super().__init__()
        self.config = config or DeblurConfig()
        filters = self.config.num_filters
        self.fpn = Pyramid(self.config)
        self.head1, self.head2, self.head3, self.head4 = (Head(self.config) for _ in range(4))
        self.smooth = _conv_norm_relu(4 * filters, filters, self.config)
        self.smooth2 = _conv_norm_relu(filters, filters // 2, self.config)
        self.final = nn.Conv2d(filters // 2, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.final.weight)
        # Blur shows in the energy of fine detail. A random filter answers to brightness a hundred times more, and the
        # rectifier after it then sees nothing else: let most of the first filters start blind to brightness.
        with torch.no_grad():
            first = next(module for module in self.fpn.enc0.modules() if isinstance(module, nn.Conv2d))
            detail = first.weight[8:]
            detail -= detail.mean((2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Blurred RGB [B,3,H,W] → sharp RGB [B,3,H,W], both 0..1 (input slightly outside is legal, output never).

        H and W are any from 16 up: the image is mirrored outwards to a multiple of 32 and cropped afterwards.
        ValueError for another shape or an integer type.
        """
        outer, top, left = mirrored(x, self.config)
        height, width = x.shape[2:]
        x = outer * 2 - 1
        y = (self.residual(x) + x).clamp(-1, 1)
        return (y[..., top : top + height, left : left + width] + 1) / 2

    def residual(self, x: Tensor) -> Tensor:
        """What to add to an image [B,3,H,W] of −1..1 whose sides are as `mirrored` makes them: [B,3,H,W], −1..1."""
        map0, map1, map2, map3, map4 = self.fpn(x)
        maps = (_up(self.head4(map4), 8), _up(self.head3(map3), 4), _up(self.head2(map2), 2), self.head1(map1))
        y = self.smooth(torch.cat(maps, 1))
        y = self.smooth2(_up(y, 2) + map0)
        return torch.tanh(self.final(_up(y, 2)))


def mirrored(x: Tensor, config: DeblurConfig) -> tuple[Tensor, int, int]:
    """(the image mirrored outwards to sides that the network takes, rows added above, columns added on the left).

    Half is added on each side: a reflection must be shorter than the side itself, so small images take several.
    ValueError for another shape, a side below 16 px or an integer type.
    """
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < MINIMUM:
        raise ValueError(f"need an image [B,3,H,W] with H, W ≥ {MINIMUM}, not {list(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"need floating-point values 0..1, not {x.dtype}")
    # the deepest map needs two rows to be mirrored (Inception), or more than one value to have statistics
    least = 128 if config.backbone == "inception" else 64 if config.norm == "instance" else MULTIPLE
    height, width = x.shape[2:]
    rows, columns = (max(-(-side // MULTIPLE) * MULTIPLE, least) - side for side in (height, width))
    top, left = rows // 2, columns // 2
    wanted = [left, columns - left, top, rows - top]
    while any(wanted):
        now = [min(part, x.shape[3 - k // 2] - 1) for k, part in enumerate(wanted)]
        x = F.pad(x, now, mode="reflect")
        wanted = [part - done for part, done in zip(wanted, now, strict=True)]
    return x, top, left
