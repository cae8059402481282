"""The double-scale discriminator: its published size, what it looks at, and training against it."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deblur.discriminator import DoubleScale, PatchGan
from deblur.losses import gan_losses, gradient_penalty


@pytest.mark.parametrize(("layers", "parameters"), [(3, 2_764_737), (5, 11_154_369)])
def test_judges_have_the_published_layout(layers: int, parameters: int) -> None:
    judge = PatchGan(3, layers)
    assert sum(p.numel() for p in judge.parameters()) == parameters
    convolutions = [module for module in judge.modules() if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [*[64, 128, 256, 512, 512, 512][: layers + 1], 1]
    assert [c.stride[0] for c in convolutions] == [2] * layers + [1, 1]
    assert all(c.kernel_size == (4, 4) and c.padding == (2, 2) for c in convolutions)
    assert sum(isinstance(module, nn.InstanceNorm2d) for module in judge.modules()) == layers
    assert {m.negative_slope for m in judge.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
    weights = convolutions[1].weight.detach()
    assert float(weights.std()) == pytest.approx(0.02, rel=0.05)


def test_a_local_verdict_is_on_70_px() -> None:
    torch.manual_seed(0)
    judge = PatchGan(1, 3, width=4)
    for i, module in enumerate(judge.model):  # whose means would tie every pixel to every other
        if isinstance(module, nn.InstanceNorm2d):
            judge.model[i] = nn.Identity()
    image = torch.rand(1, 1, 160, 160, requires_grad=True)
    verdict = judge(image)
    verdict[0, 0, verdict.shape[2] // 2, verdict.shape[3] // 2].backward()
    assert image.grad is not None
    touched = image.grad[0, 0] != 0
    assert (int(touched.any(0).sum()), int(touched.any(1).sum())) == (70, 70)


def seen_by(judge: nn.Module) -> list[Tensor]:
    """What `judge` is given, call by call."""
    seen: list[Tensor] = []
    judge.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_crops_are_of_one_place_for_real_and_fake_and_all_over_the_picture() -> None:
    torch.manual_seed(0)
    judge = DoubleScale(width=2)
    local, whole = seen_by(judge.patch), seen_by(judge.full)
    row, column = torch.meshgrid(torch.arange(96) / 128, torch.arange(80) / 128, indexing="ij")
    places = torch.stack((row, column, torch.zeros_like(row)))
    for _ in range(150):
        judge(torch.stack((places, places)))
    corners = set()
    for crop in local:
        assert crop.shape == (2, 3, 70, 70)
        assert torch.equal(crop[0], crop[1])
        corners.add(tuple(round(float(crop[0, i, 0, 0] + 1) * 64) for i in (0, 1)))
    tops, lefts = ({corner[i] for corner in corners} for i in (0, 1))
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 26, 0, 10)
    assert torch.equal(whole[0][0], places * 2 - 1)

    torch.manual_seed(1)
    first = [judge(places[None])[0] for _ in range(3)]
    torch.manual_seed(1)
    assert all(torch.equal(judge(places[None])[0], again) for again in first)


def test_pictures_smaller_than_a_patch_are_judged_whole() -> None:
    judge = DoubleScale(width=2)
    local = seen_by(judge.patch)
    verdicts = judge(torch.rand(1, 3, 32, 90))
    assert local[0].shape == (1, 3, 32, 70)
    assert all(verdict.isfinite().all() for verdict in verdicts)


def test_the_condition_counts() -> None:
    torch.manual_seed(0)
    judge = DoubleScale(9, width=4)
    image, condition = torch.rand(2, 3, 70, 70), torch.rand(2, 6, 70, 70)  # 70 px: the crop has one place only
    maps = judge(image, condition)
    assert [verdict.shape[:2] for verdict in maps] == [(2, 1), (2, 1)]
    other = judge(image, condition.flip(1))
    assert not any(torch.allclose(a, b) for a, b in zip(maps, other, strict=True))


@pytest.mark.parametrize(
    ("image", "condition"),
    [
        ((2, 3, 64, 64), None),
        ((2, 3, 64, 64), (2, 3, 64, 64)),
        ((2, 3, 64, 64), (2, 6, 64, 32)),
        ((2, 3, 64, 64), (1, 6, 64, 64)),
        ((2, 3, 31, 64), (2, 6, 31, 64)),
    ],
)
def test_wrong_shapes(image: tuple[int, ...], condition: tuple[int, ...] | None) -> None:
    with pytest.raises(ValueError, match="9 channels"):
        DoubleScale(9, width=2)(torch.rand(image), None if condition is None else torch.rand(condition))


def test_a_checkpoint_can_build_it_again() -> None:
    judge = DoubleScale(9, width=4)
    again = DoubleScale(**json.loads(json.dumps(asdict(judge.config))))
    again.load_state_dict(judge.state_dict())
    image, condition = torch.rand(1, 3, 64, 64), torch.rand(1, 6, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(judge(image, condition), again(image, condition), strict=True))


@pytest.mark.parametrize("kind", ["ragan-ls", "lsgan", "wgan-gp"])
def test_200_adversarial_steps_stay_finite(kind: str) -> None:
    """A 3×3 generator undoes a blur, judged together with the blurred picture as its condition."""
    torch.manual_seed(0)
    generator, judge = nn.Conv2d(3, 3, 3, padding=1), DoubleScale(6, width=4)
    steps = [torch.optim.Adam(part.parameters(), lr=1e-3, betas=(0.5, 0.999)) for part in (generator, judge)]
    of_judge, of_generator = gan_losses(kind)
    start = generator.weight.detach().clone()
    smallest, errors = float("inf"), []
    for _ in range(200):
        real = torch.rand(2, 3, 32, 32)
        blurred = F.avg_pool2d(real, 3, 1, 1)
        fake = generator(blurred)

        verdicts = judge(torch.cat((real, fake.detach())), blurred.repeat(2, 1, 1, 1))
        loss = of_judge([v[:2] for v in verdicts], [v[2:] for v in verdicts])
        if kind == "wgan-gp":
            loss = loss + gradient_penalty(judge, real, fake, blurred)
        steps[1].zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in judge.parameters())
        steps[1].step()

        judge.requires_grad_(False)
        verdicts = judge(torch.cat((real, fake)), blurred.repeat(2, 1, 1, 1))
        error = (fake - real).square().mean()
        adversarial = of_generator([v[:2] for v in verdicts], [v[2:] for v in verdicts])
        (gradient,) = torch.autograd.grad(adversarial, generator.weight, retain_graph=True)
        steps[0].zero_grad()
        (error + 0.01 * adversarial).backward()
        judge.requires_grad_(True)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
        steps[0].step()
        smallest = min(smallest, float(gradient.abs().max()))
        errors.append(float(error.detach()))
    assert smallest > 0  # the judge had something to say at every step
    assert sum(errors[-20:]) < 0.7 * sum(errors[:20])
    assert not torch.equal(start, generator.weight)
