"""Bottom-up pathways of DeblurGAN-v2: each turns an image into five maps at 1/2, 1/4, 1/8, 1/16 and 1/32.

MobileNetV2: Sandler et al., CVPR 2018, table 2 (width 1). Inception-ResNet-v2: Szegedy et al., AAAI 2017, figures 3,
10–14 and 16. Only the part that DeblurGAN-v2 uses is built: the last stages of the classification networks never run
there. Module names follow the public PyTorch ports that the published DeblurGAN-v2 checkpoints were trained with.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOBILENET_CHANNELS = (16, 24, 32, 64, 160)  # of the maps at 1/2 … 1/32
INCEPTION_CHANNELS = (32, 64, 192, 1088, 2080)

Norm = type[nn.BatchNorm2d]


class InvertedResidual(nn.Module):
    """Expand 1×1 → depthwise 3×3 → project 1×1 (linear), added to the input where the shapes agree.

    Source: MobileNetV2, section 3.3.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int, norm: Norm) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), norm(hidden), nn.ReLU6(inplace=True)]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            norm(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            norm(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def mobilenet_v2(norm: Norm = nn.BatchNorm2d) -> list[nn.Module]:
    """The five encoder stages of MobileNetV2: [B,3,H,W] → 16 maps at 1/2, then 24, 32, 64 and 160 at 1/32.

    H and W are multiples of 32.
    """
    features: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), norm(32), nn.ReLU6(inplace=True))]
    channels = 32
    for expand, width, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 2, 2),  # the third block of this stage is features[16], which DeblurGAN-v2 leaves out
    ):
        for index in range(repeats):
            features.append(InvertedResidual(channels, width, stride if index == 0 else 1, expand, norm))
            channels = width
    bounds = (0, 2, 4, 7, 11, 16)
    return [nn.Sequential(*features[a:b]) for a, b in itertools.pairwise(bounds)]


class ConvNormRelu(nn.Module):
    """Convolution without bias, norm, ReLU. Without `padding` the border is lost, as the paper's "V" convolutions."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        norm: Norm,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = norm(outputs, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class Branches(nn.Module):
    """What several paths make of the same maps, one after the other: Inception's module. Paths are `branch0` …"""

    def __init__(self, *paths: nn.Module) -> None:
        super().__init__()
        for index, path in enumerate(paths):
            self.add_module(f"branch{index}", path)
        self.count = len(paths)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(f"branch{index}")(x) for index in range(self.count)], 1)


class ResidualBranches(Branches):
    """Branches, brought back to the input's width by a 1×1 convolution, scaled down and added; then ReLU."""

    def __init__(self, channels: int, joined: int, scale: float, *paths: nn.Module) -> None:
        super().__init__(*paths)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2d(super().forward(x)) * self.scale + x)


def inception_resnet_v2(norm: Norm = nn.BatchNorm2d) -> list[nn.Module]:
    """The five encoder stages of Inception-ResNet-v2: [B,3,H,W] → 32 maps at 1/2, then 64, 192, 1088, 2080 at 1/32.

    H and W are multiples of 32 from 128 up. Its convolutions lose the border, so the maps are 1, 2, 3, 2 and 2 px
    smaller a side than H/2 … H/32.
    """

    def conv(inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1) -> ConvNormRelu:
        return ConvNormRelu(inputs, outputs, kernel, norm, stride=stride)

    def same(inputs: int, outputs: int, kernel: int | tuple[int, int]) -> ConvNormRelu:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        return ConvNormRelu(inputs, outputs, kernel, norm, padding=(sides[0] // 2, sides[1] // 2))

    chain, pool = nn.Sequential, nn.MaxPool2d
    mixed_5b = Branches(
        conv(192, 96, 1),
        chain(conv(192, 48, 1), same(48, 64, 5)),
        chain(conv(192, 64, 1), same(64, 96, 3), same(96, 96, 3)),
        chain(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(192, 64, 1)),
    )
    block35 = [
        ResidualBranches(
            320, 128, 0.17,
            conv(320, 32, 1),
            chain(conv(320, 32, 1), same(32, 32, 3)),
            chain(conv(320, 32, 1), same(32, 48, 3), same(48, 64, 3)),
        )
        for _ in range(10)
    ]  # fmt: skip
    mixed_6a = Branches(
        conv(320, 384, 3, 2), chain(conv(320, 256, 1), same(256, 256, 3), conv(256, 384, 3, 2)), pool(3, 2)
    )
    block17 = [
        ResidualBranches(
            1088, 384, 0.1,
            conv(1088, 192, 1),
            chain(conv(1088, 128, 1), same(128, 160, (1, 7)), same(160, 192, (7, 1))),
        )
        for _ in range(20)
    ]  # fmt: skip
    mixed_7a = Branches(
        chain(conv(1088, 256, 1), conv(256, 384, 3, 2)),
        chain(conv(1088, 256, 1), conv(256, 288, 3, 2)),
        chain(conv(1088, 256, 1), same(256, 288, 3), conv(288, 320, 3, 2)),
        pool(3, 2),
    )
    return [
        conv(3, 32, 3, 2),
        chain(conv(32, 32, 3), same(32, 64, 3), pool(3, 2)),
        chain(conv(64, 80, 1), conv(80, 192, 3), pool(3, 2)),
        chain(mixed_5b, chain(*block35), mixed_6a),
        chain(chain(*block17), mixed_7a),
    ]
