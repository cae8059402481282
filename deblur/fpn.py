"""The DeblurGAN-v2 generator: a feature pyramid over a light backbone that predicts what to add to a blurred image.

Source: Kupyn, Martyniuk, Wu, Wang, "DeblurGAN-v2: Deblurring (Orders-of-Magnitude) Faster and Better", ICCV 2019,
section 3.1 and figure 2. Module names follow the authors' published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deblur.backbones import MOBILENET_CHANNELS, mobilenet_v2

MULTIPLE = 32  # the deepest map is at 1/32: sides are padded to this
MINIMUM = 16  # px; below it reflection has too little to mirror


@dataclass(frozen=True)
class DeblurConfig:
    """Everything needed to rebuild a `Deblur`; JSON-able with `dataclasses.asdict`.

    `num_filters` is the width of the four heads at 1/4; the pyramid is twice as wide. The published MobileNet model
    has 64. ValueError for a backbone that is not built, or a width that is odd or below 2.
    """

    backbone: str = "mobilenet"
    num_filters: int = 64

    def __post_init__(self) -> None:
        if self.backbone != "mobilenet":
            raise ValueError(f"backbone {self.backbone!r} is not known; allowed: 'mobilenet'")
        if self.num_filters < 2 or self.num_filters % 2:
            raise ValueError(f"num_filters must be even and at least 2, not {self.num_filters}")


def _conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    # The published InstanceNorm2d(affine=False, track_running_stats=True) has the same two buffers and, in eval mode,
    # is the same function. Batch statistics in training come closer to what eval mode does: see docs/deblur.md.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs, affine=False),
        nn.ReLU(inplace=True),
    )


def _up(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="nearest")


class _Pyramid(nn.Module):
    """Image [B,3,H,W] → (map0 at 1/2, num_filters wide; map1 … map4 at 1/4 … 1/32, twice as wide)."""

    def __init__(self, config: DeblurConfig) -> None:
        super().__init__()
        width = 2 * config.num_filters
        self.enc0, self.enc1, self.enc2, self.enc3, self.enc4 = mobilenet_v2()
        c0, c1, c2, c3, c4 = MOBILENET_CHANNELS
        self.lateral4 = nn.Conv2d(c4, width, 1, bias=False)
        self.lateral3 = nn.Conv2d(c3, width, 1, bias=False)
        self.lateral2 = nn.Conv2d(c2, width, 1, bias=False)
        self.lateral1 = nn.Conv2d(c1, width, 1, bias=False)
        self.lateral0 = nn.Conv2d(c0, width // 2, 1, bias=False)
        self.td1 = _conv_norm_relu(width, width)
        self.td2 = _conv_norm_relu(width, width)
        self.td3 = _conv_norm_relu(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        enc0 = self.enc0(x)
        enc1 = self.enc1(enc0)
        enc2 = self.enc2(enc1)
        enc3 = self.enc3(enc2)
        map4 = self.lateral4(self.enc4(enc3))
        map3 = self.td1(self.lateral3(enc3) + _up(map4, 2))
        map2 = self.td2(self.lateral2(enc2) + _up(map3, 2))
        map1 = self.td3(self.lateral1(enc1) + _up(map2, 2))
        return self.lateral0(enc0), map1, map2, map3, map4


class _Head(nn.Module):
    """Two bias-free 3×3 convolutions, each with ReLU: 2·num_filters → num_filters."""

    def __init__(self, config: DeblurConfig) -> None:
        super().__init__()
        self.block0 = nn.Conv2d(2 * config.num_filters, config.num_filters, 3, padding=1, bias=False)
        self.block1 = nn.Conv2d(config.num_filters, config.num_filters, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.block1(F.relu(self.block0(x))))


class Deblur(nn.Module):
    """The DeblurGAN-v2 generator. `Deblur()(x)` is `x` until trained: the last convolution starts at zero."""

    def __init__(self, config: DeblurConfig | None = None) -> None:
        super().__init__()
        self.config = config or DeblurConfig()
        filters = self.config.num_filters
        self.fpn = _Pyramid(self.config)
        self.head1, self.head2, self.head3, self.head4 = (_Head(self.config) for _ in range(4))
        self.smooth = _conv_norm_relu(4 * filters, filters)
        self.smooth2 = _conv_norm_relu(filters, filters // 2)
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
            detail = self.fpn.get_parameter("enc0.0.0.weight")[8:]
            detail -= detail.mean((2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Blurred RGB [B,3,H,W] → sharp RGB [B,3,H,W], both 0..1 (input slightly outside is legal, output never).

        H and W are any from 16 up: the image is mirrored outwards to a multiple of 32 and cropped afterwards.
        ValueError for another shape or an integer type.
        """
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < MINIMUM:
            raise ValueError(f"need an image [B,3,H,W] with H, W ≥ {MINIMUM}, not {list(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"need floating-point values 0..1, not {x.dtype}")
        height, width = x.shape[2:]
        # Half on each side: reflection needs less than the side itself, and a side of 16 has to grow by 16.
        rows, columns = -height % MULTIPLE, -width % MULTIPLE
        top, left = rows // 2, columns // 2
        if rows or columns:
            x = F.pad(x, (left, columns - left, top, rows - top), mode="reflect")
        x = x * 2 - 1
        map0, map1, map2, map3, map4 = self.fpn(x)
        maps = (_up(self.head4(map4), 8), _up(self.head3(map3), 4), _up(self.head2(map2), 2), self.head1(map1))
        y = self.smooth(torch.cat(maps, 1))
        y = self.smooth2(_up(y, 2) + map0)
        y = (torch.tanh(self.final(_up(y, 2))) + x).clamp(-1, 1)
        return (y[..., top : top + height, left : left + width] + 1) / 2
