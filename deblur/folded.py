"""The generator folded for inference: the same function as `deblur.fpn.Deblur`, which is the definition, with less
arithmetic and far less memory traffic. It runs on any device; one fusion is for CPUs alone. Tests hold the two equal.

- A norm with fixed statistics is affine: it disappears into the convolution before it. So does the rectifier after it,
  where oneDNN can do that.
- A 3×3 convolution of a map enlarged ×2 by repetition meets each value several times. 2×2 kernels at the small size,
  one for each place in a repeated block, give the same, and the enlarged map is never made.
- A convolution is linear: the parts of a sum or of a concatenation are convolved apart, each at its own size, and then
  added. A 1×1 lateral disappears into the convolution after it.
"""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from deblur.fpn import Deblur, mirrored

__all__ = ["FoldedDeblur"]


class FoldedDeblur(nn.Module):
    """`Deblur` for inference. It computes in its own dtype (`.to`), but adds what it finds to the image in the image's.

    The network it is made from is left as it is. ValueError for one with instance statistics: those cannot be folded.
    """

    def __init__(self, network: Deblur) -> None:
        super().__init__()
        if network.config.norm != "running":
            raise ValueError(f"norm {network.config.norm!r} depends on the picture: it cannot be folded")
        self.config = network.config
        network = copy.deepcopy(network).eval().requires_grad_(False)
        _fold(network)
        fpn = network.fpn
        self.td1 = _Join(fpn.td1, fpn.lateral3)
        self.td2 = _Join(fpn.td2, fpn.lateral2)
        self.td3 = _Join(fpn.td3, fpn.lateral1)
        self.smooth2 = _Join(network.smooth2, fpn.lateral0)
        weight, bias = _dense(network.smooth[0])
        split = 3 * self.config.num_filters  # before it the heads of 1/32, 1/16 and 1/8, after it that of 1/4
        self.smooth_small = _UpConv(weight[:, :split], None)
        self.smooth = _conv(weight[:, split:], bias)
        self.final = _UpConv(*_dense(network.final))
        self.head1, self.head2, self.head3, self.head4 = (
            nn.Sequential(_rectified(head.block0), _rectified(head.block1))
            for head in (network.head1, network.head2, network.head3, network.head4)
        )
        del fpn.td1, fpn.td2, fpn.td3, fpn.lateral0, fpn.lateral1, fpn.lateral2, fpn.lateral3
        self.fpn = fpn

    def forward(self, x: Tensor) -> Tensor:
        """As `Deblur.forward`: RGB [B,3,H,W] → RGB [B,3,H,W], both 0..1, in the dtype of the input."""
        outer, top, left = mirrored(x, self.config)
        height, width = x.shape[2:]
        change = self.residual((outer * 2 - 1).to(self.smooth.weight.dtype))
        change = change[..., top : top + height, left : left + width].to(x.dtype)
        return (x + change / 2).clamp(0, 1)

    def residual(self, x: Tensor) -> Tensor:
        """As `Deblur.residual`."""
        enc0, enc1, enc2, enc3, enc4 = self.fpn.encode(x)
        map4 = self.fpn.lateral4(enc4)
        map3 = self.td1(map4, enc3)
        map2 = self.td2(map3, enc2)
        map1 = self.td3(map2, enc1)
        small = torch.cat(
            (
                F.interpolate(self.head4(map4), scale_factor=4.0, mode="nearest"),
                F.interpolate(self.head3(map3), scale_factor=2.0, mode="nearest"),
                self.head2(map2),
            ),
            1,
        )
        y = self.smooth(self.head1(map1)).add_(self.smooth_small(small)).relu_()
        y = self.smooth2(y, enc0)
        change: Tensor = self.final(y).tanh_()
        return change


class _UpConv(nn.Module):
    """Enlarges ×2 by repetition, then convolves with the given 3×3 kernels [out,in,3,3] (zeros around), in one.

    Cell i − 1 and cell i of the small map decide the large one's rows 2i − 1 and 2i: each has a 2×2 kernel of its own,
    so the result is the shuffled output of one convolution, without its outermost rows and columns.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # which of the three taps fall on the first and on the second cell, for the row before and the row after
        shares = weight.new_tensor([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]])
        small = torch.einsum("oiyx,ary,bsx->oabirs", weight, shares, shares).flatten(0, 2)
        self.conv = _conv(small, None if bias is None else bias.repeat_interleave(4), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)[..., 1:-1, 1:-1]


class _Join(nn.Module):
    """ReLU of the convolution of an enlarged map plus a backbone's map through its lateral."""

    def __init__(self, block: nn.Sequential, lateral: nn.Conv2d) -> None:
        super().__init__()
        weight, bias = _dense(block[0])
        self.above = _UpConv(weight, bias)
        self.beside: nn.Module
        if lateral.in_channels < lateral.out_channels:
            self.beside = _conv(torch.einsum("omyx,mi->oiyx", weight, lateral.weight[:, :, 0, 0]), None)
        else:
            self.beside = nn.Sequential(lateral, _conv(weight, None))

    def forward(self, above: Tensor, beside: Tensor) -> Tensor:
        y: Tensor = self.beside(beside)
        return y.add_(self.above(above)).relu_()


class _ConvRelu(nn.Module):
    """A convolution and its rectifier (up to `top`, if given) in one pass over memory where that can be had."""

    def __init__(self, convolution: nn.Conv2d, top: float | None) -> None:
        super().__init__()
        self.convolution, self.top = convolution, top

    def forward(self, x: Tensor) -> Tensor:
        c = self.convolution
        if x.device.type == "cpu" and onednn_rectifies():
            kind, bounds = ("relu", []) if self.top is None else ("hardtanh", [0.0, self.top])
            y: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups, kind, bounds, ""
            )
            return y
        y = c(x)
        return y.relu_() if self.top is None else y.clamp_(0, self.top)


@cache
def onednn_rectifies() -> bool:
    """Whether this build of torch has the operation that its own compiler uses for it, and it does what it should."""
    x, weight = torch.ones(1, 1, 2, 2), torch.full((1, 1, 1, 1), -3.0)
    ones, zeros = (1, 1), (0, 0)
    try:
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, None, zeros, ones, ones, 1, "hardtanh", [-2.0, 6.0], "")
    except (AttributeError, RuntimeError, TypeError):  # none, or of another form
        return False
    return bool((y == -2).all())


def _fold(module: nn.Module) -> None:
    """Put norms, and then rectifiers, that follow a convolution into it, here and below."""
    place = ""
    for name, child in list(module.named_children()):
        _fold(child)
        before = getattr(module, place) if place else None
        if isinstance(child, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            setattr(module, place, fuse_conv_bn_eval(before, child))
        elif isinstance(child, nn.BatchNorm2d) and isinstance(before, nn.Sequential):  # depthwise and 1×1
            pointwise = before[-1]
            assert isinstance(pointwise, nn.Conv2d)
            before[-1] = fuse_conv_bn_eval(pointwise, child)
        elif isinstance(child, nn.ReLU | nn.ReLU6) and isinstance(before, nn.Conv2d):
            setattr(module, place, _ConvRelu(before, 6.0 if isinstance(child, nn.ReLU6) else None))
        else:
            place = name
            continue
        setattr(module, name, nn.Identity())


def _rectified(convolution: nn.Module) -> nn.Module:
    """A 3×3 convolution, or a depthwise one and a 1×1, and ReLU after it."""
    if isinstance(convolution, nn.Conv2d):
        return _ConvRelu(convolution, None)
    *first, last = convolution.children()
    assert isinstance(last, nn.Conv2d)
    return nn.Sequential(*first, _ConvRelu(last, None))


def _dense(convolution: nn.Module) -> tuple[Tensor, Tensor | None]:
    """3×3 kernels [out,in,3,3] and bias, also of a depthwise one followed by a 1×1: more sums, but one pass."""
    if isinstance(convolution, _ConvRelu):
        convolution = convolution.convolution
    if isinstance(convolution, nn.Conv2d):
        return convolution.weight, convolution.bias
    depthwise, pointwise = convolution.children()
    assert isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
    return pointwise.weight * depthwise.weight[:, 0], pointwise.bias


def _conv(weight: Tensor, bias: Tensor | None, padding: int = 1) -> nn.Conv2d:
    outputs, inputs, height, width = weight.shape
    convolution = nn.Conv2d(inputs, outputs, (height, width), padding=padding, bias=bias is not None)
    convolution.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        convolution.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return convolution
