"""The interpolator's contracts: starts at the prior, mirrors, takes any size, time and dtype, and can learn."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from fpsgan import weights
from fpsgan.interpolator import Interpolator, InterpolatorConfig, flow_prior
from fpsgan.interpolator.synthesis import cost_volume

SMALL = InterpolatorConfig(encoder=(8, 8, 8), decoder=(8, 8, 8, 8), blocks=(1, 1, 1, 1), handed_down=8)
Prior = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def moved(height: int, width: int, shift: float, seed: int = 0) -> np.ndarray:
    """A smooth texture moved right by shift pixels; moved(…, 0) and moved(…, 8) are a pair."""
    noise = np.random.default_rng(seed).integers(0, 256, (height + 40, width + 40, 3), np.uint8)
    picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    place = np.float32([[1, 0, shift - 20], [0, 1, -20]])
    return cv2.warpAffine(picture, place, (width, height), flags=cv2.INTER_CUBIC)


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0


def pair(height: int, width: int, shift: float = 8.0) -> tuple[Tensor, Tensor, Prior]:
    image0, image1 = moved(height, width, 0), moved(height, width, shift)
    flow01, flow10 = flow_prior(image0, image1)
    return tensor(image0), tensor(image1), (torch.from_numpy(flow01)[None], torch.from_numpy(flow10)[None])


def stirred(config: InterpolatorConfig = SMALL) -> Interpolator:
    """An untrained network whose heads say something, as those of a trained one do."""
    network = Interpolator(config).eval()
    for name, parameter in network.named_parameters():
        if "decide" in name:
            torch.nn.init.normal_(parameter, std=0.03)
    return network.requires_grad_(False)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_untrained_it_moves_things_where_the_prior_says(t: float) -> None:
    frame0, frame1, prior = pair(96, 128)
    with torch.no_grad():
        found = Interpolator(SMALL)(frame0, frame1, torch.tensor([t]), prior)
    truth = tensor(moved(96, 128, 8.0 * t))
    inside = np.s_[..., 16:-16, 16:-16]
    assert (found - truth)[inside].abs().mean() < 0.01
    assert ((frame0 + frame1) / 2 - truth)[inside].abs().mean() > 0.03


@pytest.mark.parametrize("t", [0.25, 0.5, 0.8])
def test_motion_that_speeds_up_takes_a_curved_way(t: float) -> None:
    """A texture at 4 s + 4 s² px at time s of the pair: the acceleration is 8 px."""
    frame0, frame1, prior = pair(96, 128)
    network = Interpolator(SMALL).eval()
    acceleration = torch.zeros_like(prior[0])
    acceleration[:, 0] = 8.0
    curved = (*prior, acceleration, acceleration)
    with torch.no_grad():
        found = network.synthesize(frame0, frame1, torch.tensor([t]), curved)
        swapped = network(frame1, frame0, torch.tensor([1 - t]), (prior[1], prior[0], acceleration, acceleration))
    place = 4 * t + 4 * t**2
    inside = np.s_[..., 16:-16, 16:-16]
    assert (found.frame - tensor(moved(96, 128, place)))[inside].abs().mean() < 0.01
    assert found.flow_t0[0, 0][inside].median() == pytest.approx(-place, abs=0.3)
    assert found.flow_t1[0, 0][inside].median() == pytest.approx(8 - place, abs=0.3)
    assert (found.frame - swapped).abs().mean() < 1e-4


def test_mirrored_input_gives_the_same_frame() -> None:
    frame0, frame1, (flow01, flow10) = pair(50, 70)
    network = stirred()
    there = network(frame0, frame1, torch.tensor([0.3]), (flow01, flow10))
    back = network(frame1, frame0, torch.tensor([0.7]), (flow10, flow01))
    untouched = Interpolator(SMALL)(frame0, frame1, torch.tensor([0.3]), (flow01, flow10))
    assert (there - untouched).abs().mean() > 0.01  # the heads do say something
    assert (there - back).abs().mean() < 1e-4
    alone = network(frame0, frame1, torch.tensor([0.3]))
    assert (alone - network(frame1, frame0, torch.tensor([0.7]))).abs().mean() < 1e-4


@pytest.mark.parametrize("size", [(16, 16), (17, 95), (64, 33)])
@pytest.mark.parametrize("with_prior", [True, False])
def test_any_size(size: tuple[int, int], with_prior: bool) -> None:
    frame0, frame1, prior = pair(*size)
    found = stirred()(frame0, frame1, torch.tensor([0.4]), prior if with_prior else None)
    assert found.shape == frame0.shape
    assert torch.isfinite(found).all()


def test_encodings_are_reusable_and_batches_are_independent() -> None:
    frame0, frame1, prior = pair(48, 64)
    network = stirred()
    times = torch.tensor([0.25, 0.75])
    single = [network(frame0, frame1, t[None], prior) for t in times.unbind()]
    both = network(
        frame0.expand(2, -1, -1, -1),
        frame1.expand(2, -1, -1, -1),
        times,
        (prior[0].expand(2, -1, -1, -1), prior[1].expand(2, -1, -1, -1)),
    )
    assert (torch.cat(single) - both).abs().max() < 1e-4
    encoded = network.encode(frame0), network.encode(frame1)
    pairs = network.prepare(frame0, frame1, prior), network.prepare(frame0, frame1, prior, *encoded)
    assert torch.equal(*(network.generate(frame0, frame1, pair, times)[0] for pair in pairs))
    assert (single[0] - single[1]).abs().mean() > 0.01


def test_a_prior_that_explains_less_than_standing_still_is_not_followed() -> None:
    """A still picture that brightens: DIS finds motion in such gradients, and following it tears them apart."""
    frame0 = tensor(moved(96, 128, 0))
    frame1 = frame0 + 0.04
    wrong = torch.full((1, 2, 24, 32), 12.0)
    found = Interpolator(SMALL).requires_grad_(False)(frame0, frame1, torch.tensor([0.5]), (wrong, -wrong))
    assert (found - (frame0 + frame1) / 2).abs().max() < 0.01


def test_values_outside_0_to_1_pass_through() -> None:
    frame = torch.full((1, 3, 32, 32), 1.2)
    found = Interpolator(SMALL).requires_grad_(False)(frame, frame, torch.tensor([0.5]))
    assert found.max().item() == pytest.approx(1.2)


def test_bf16_agrees_with_fp32() -> None:
    frame0, frame1, prior = pair(64, 64)
    network = stirred()
    full = network(frame0, frame1, torch.tensor([0.5]), prior)
    network = network.bfloat16()
    mixed = network(frame0, frame1, torch.tensor([0.5]), prior)
    assert mixed.dtype == torch.float32
    assert (full - mixed).abs().mean() < 1.0 / 255.0
    half = network(frame0.bfloat16(), frame1.bfloat16(), torch.tensor([0.5]), prior)
    assert half.dtype == torch.bfloat16


def test_every_weight_learns() -> None:
    frame0, frame1, prior = pair(64, 64)
    network = stirred().requires_grad_()
    result = network.synthesize(frame0, frame1, torch.tensor([0.5]), prior)
    (result.frame - tensor(moved(64, 64, 5.0))).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    assert [tuple(flow.shape[-2:]) for flow, _ in result.levels] == [(2, 2), (4, 4), (8, 8), (16, 16)]
    assert result.mask.min() >= 0 and result.mask.max() <= 1


def test_wrong_input_is_refused() -> None:
    frame, t, network = torch.zeros(1, 3, 32, 32), torch.tensor([0.5]), Interpolator(SMALL)
    with pytest.raises(ValueError, match="two frames of one size"):
        network(frame, torch.zeros(1, 3, 32, 48), t)
    with pytest.raises(ValueError, match="two frames of one size"):
        network(frame[..., :15], frame[..., :15], t)
    with pytest.raises(ValueError, match="flows of"):
        network(frame, frame, t, (torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 32, 32)))


def test_the_config_survives_json() -> None:
    assert InterpolatorConfig(**json.loads(json.dumps(dataclasses.asdict(SMALL)))) == SMALL


def test_the_default_is_what_ships() -> None:
    assert weights.load("interpolator-base").config == InterpolatorConfig()


def test_costs_of_both_sides_are_each_other_swapped() -> None:
    one, other = torch.rand(1, 8, 6, 9), torch.rand(1, 8, 6, 9)
    there, back = cost_volume(one, other)
    assert torch.allclose(back, cost_volume(other, one)[0], atol=1e-5)
    padded = torch.nn.functional.pad(one, (1, 1, 1, 1), mode="replicate")
    found = torch.stack([(padded[..., y : y + 6, x : x + 9] - other).abs().mean(1) for y in range(3) for x in range(3)])
    mean = found[:, 0, 1:4, 2:5].mean((1, 2))  # around (2, 3)
    assert torch.allclose(there[0, :, 2, 3], torch.cat((mean[:4], mean[5:])) / (mean.mean() + 0.01) - 1, atol=1e-5)


def test_several_moments_at_once_are_those_one_by_one() -> None:
    network = stirred()
    frame0, frame1, prior = pair(75, 117)
    with torch.no_grad():
        shared = network.prepare(frame0, frame1, prior)
        together, sure = network.generate(frame0, frame1, shared, torch.tensor([0.25, 0.6]))
        for k, t in enumerate((0.25, 0.6)):
            alone, confident = network.generate(frame0, frame1, shared, torch.tensor([t]))
            assert (together[k] - alone[0]).abs().max() < 1e-4
            assert (sure[k] - confident[0]).abs().max() < 1e-4
