"""Bottom-up pathways of DeblurGAN-v2: each turns an image into five maps at 1/2, 1/4, 1/8, 1/16 and 1/32.

MobileNetV2: Sandler et al., CVPR 2018, table 2 (width 1). Only the part that DeblurGAN-v2 uses is built:
`features[0:16]` of the classification network; its last three stages never run there.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn

MOBILENET_CHANNELS = (16, 24, 32, 64, 160)  # of the maps at 1/2 … 1/32


class InvertedResidual(nn.Module):
    """Expand 1×1 → depthwise 3×3 → project 1×1 (linear), added to the input where the shapes agree.

    Source: MobileNetV2, section 3.3. Module names (`conv.0` …) follow the first public PyTorch port, which is the
    one that the published DeblurGAN-v2 checkpoints were trained with.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def mobilenet_v2() -> list[nn.Sequential]:
    """The five encoder stages of MobileNetV2: [B,3,H,W] → 16 maps at 1/2, then 24, 32, 64 and 160 at 1/32."""
    features: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True))
    ]
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
            features.append(InvertedResidual(channels, width, stride if index == 0 else 1, expand))
            channels = width
    bounds = (0, 2, 4, 7, 11, 16)
    return [nn.Sequential(*features[a:b]) for a, b in itertools.pairwise(bounds)]
