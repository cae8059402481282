"""The double-scale discriminator of DeblurGAN-v2: one judge for local texture, one for the whole picture.

Source: Kupyn et al., ICCV 2019, section 3.2.2; the judges are PatchGANs (Isola et al., "Image-to-Image Translation with
Conditional Adversarial Networks", CVPR 2017, appendix 6.1.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["DoubleScale", "DoubleScaleConfig", "PatchGan"]

PATCH = 70  # px, the side of what the local judge sees
MIN_SIDE = 32  # px; below, the global judge's strides leave nothing


class PatchGan(nn.Module):
    """`layers` strided 4×4 convolutions and two more: a map of verdicts, one for each patch, not squashed.

    layers=3 is the local judge (2.76 M parameters at 3 channels), layers=5 the global one (11.15 M). The widths are
    `width`, doubled with each layer up to 8 × `width`; all but the first and the last are normalised per picture.
    """

    def __init__(self, in_channels: int = 3, layers: int = 3, width: int = 64) -> None:
        super().__init__()
        widths = [width * min(2**k, 8) for k in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 2), nn.LeakyReLU(0.2, inplace=True)]
        for k in range(1, layers + 1):
            stride = 2 if k < layers else 1
            parts += [nn.Conv2d(widths[k - 1], widths[k], 4, stride, 2), nn.InstanceNorm2d(widths[k])]
            parts.append(nn.LeakyReLU(0.2, inplace=True))
        parts.append(nn.Conv2d(widths[-1], 1, 4, 1, 2))
        self.model = nn.Sequential(*parts)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B,in_channels,H,W] → [B,1,h,w]; sides of 32 px or more."""
        y: Tensor = self.model(x)
        return y


@dataclass(frozen=True)
class DoubleScaleConfig:
    """What a checkpoint needs to build a DoubleScale again: DoubleScale(**asdict(config)). JSON-able."""

    in_channels: int = 3  # of the picture and its condition together
    width: int = 64  # channels of both judges' first layer


class DoubleScale(nn.Module):
    """A local judge on one random crop of 70 px, a global one on the whole picture.

    `in_channels` counts the picture and its condition: 3 for a picture alone, 9 for a frame judged together with the
    two frames that it lies between. The crop's place comes from torch's random numbers, one place for the whole batch:
    pass real and fake in one batch, so that both are judged at the same place.
    """

    def __init__(self, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.config = DoubleScaleConfig(in_channels, width)
        self.patch = PatchGan(in_channels, 3, width)
        self.full = PatchGan(in_channels, 5, width)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """[B,3,H,W] 0..1 (and [B,C,H,W] 0..1) → the verdicts of both judges, [B,1,h,w] each.

        [0] is of the local judge, [1] of the global one. ValueError where the channels do not add up to `in_channels`,
        the sizes differ, or a side is below 32 px.
        """
        parts = [image] if condition is None else [image, condition]
        alike = len({(len(part), *part.shape[2:]) for part in parts}) == 1
        channels = sum(part.shape[1] for part in parts)
        if not alike or channels != self.config.in_channels or min(image.shape[2:]) < MIN_SIDE:
            raise ValueError(
                f"{self.config.in_channels} channels with the condition, one size, {MIN_SIDE} px or more are needed, "
                f"not {' and '.join(str(list(part.shape)) for part in parts)}"
            )
        x = torch.cat(parts, 1) * 2 - 1
        height, width = (min(side, PATCH) for side in x.shape[2:])
        top = int(torch.randint(x.shape[2] - height + 1, ()))
        left = int(torch.randint(x.shape[3] - width + 1, ()))
        return [self.patch(x[..., top : top + height, left : left + width]), self.full(x)]
