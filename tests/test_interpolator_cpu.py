"""The interpolator on a CPU, compiled, against its definition in torch: as a whole and function by function."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fpsgan.demo import render_scene
from fpsgan.interpolator import (
    STRIDE,
    Interpolator,
    InterpolatorConfig,
    cpu,
    flow_prior,
    kernels,
    synthesis,
    with_acceleration,
)
from fpsgan.interpolator.cpu import CpuInterpolator
from fpsgan.interpolator.network import space_to_depth

TWO = InterpolatorConfig(encoder=(32,), decoder=(16, 24), blocks=(2, 2))
FOUR = InterpolatorConfig(encoder=(32, 48, 64), decoder=(24, 32, 48, 64), blocks=(3, 3, 3, 2))
FINER = replace(TWO, prior="best")
SIZES = [(64, 96), (75, 117), (16, 16)]


def network(config: InterpolatorConfig, dtype: torch.dtype = torch.float32) -> Interpolator:
    """With heads that change flows by a few pixels, the mask and the picture."""
    torch.manual_seed(0)
    made = Interpolator(config)
    for name, parameter in made.named_parameters():
        if "decide" in name:
            nn.init.normal_(parameter, std=0.02 if "weight" in name else 0.05)
    return made.to(dtype=dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def scene(height: int, width: int, effort: str = "base") -> tuple[list[Tensor], list[Tensor]]:
    """Two frames [1,3,H,W] of a scene, and the prior with accelerations."""
    frames = [render_scene(t, width, height) for t in (0.2, 0.3, 0.4, 0.5)]
    flows = [flow_prior(a, b, effort=effort) for a, b in itertools.pairwise(frames)]
    prior = with_acceleration(flows[1], flows[0], flows[2], stride=STRIDE[effort])
    pair = [torch.from_numpy(frame / np.float32(255)).permute(2, 0, 1)[None] for frame in frames[1:3]]
    return pair, [torch.from_numpy(flow)[None] for flow in prior]


@pytest.mark.parametrize("size", [(64, 96), (75, 117), (150, 94), (16, 16)])
@pytest.mark.parametrize(
    "config", [InterpolatorConfig(), FOUR, FINER], ids=["as shipped", "four levels", "a finer flow"]
)
@pytest.mark.parametrize("accelerated", [True, False])
def test_it_is_the_same_function(size: tuple[int, int], config: InterpolatorConfig, accelerated: bool) -> None:
    pair, prior = scene(*size, config.prior)
    prior = prior if accelerated else prior[:2]
    defined = network(config)
    compiled = CpuInterpolator(defined)
    for t in (0.25, 0.6):
        time = torch.tensor([t])
        with torch.inference_mode():
            moved = defined(*pair, time, prior)
            expected, believed = defined.generate(*pair, defined.prepare(*pair, prior), time)
            frame, sure = compiled.generate(*pair, compiled.prepare(*pair, prior), time)
        assert frame.shape == expected.shape and sure.shape == believed.shape
        # the order of additions differs, and where motion varies it may decide otherwise in single cells
        assert float((frame - expected).abs().mean()) < 0.02 / 255
        assert float(((frame - expected).abs() > 1 / 255).float().mean()) < 1e-3
        assert float((sure - believed).abs().max()) < 1e-3
        assert float((moved - pair[0]).abs().mean()) > 1 / 255  # there was something to get wrong


def test_it_is_the_same_function_in_bf16() -> None:
    pair, prior = scene(75, 117)
    exact, coarse = network(TWO), network(TWO, torch.bfloat16)
    time = torch.tensor([0.4])
    with torch.inference_mode():
        expected = exact.generate(*pair, exact.prepare(*pair, prior), time)[0]
        defined = coarse.generate(*pair, coarse.prepare(*pair, prior), time)[0]
        compiled = CpuInterpolator(coarse)
        frame = compiled.generate(*pair, compiled.prepare(*pair, prior), time)[0]
    assert float((frame - expected).abs().mean()) < 1.3 * float((defined - expected).abs().mean()) + 0.01 / 255


@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_make_the_same_picture(threads: int) -> None:
    pair, prior = scene(150, 94)
    compiled = CpuInterpolator(network(TWO))
    before = cv2.getNumThreads()

    def made() -> Tensor:
        return compiled.generate(*pair, compiled.prepare(*pair, prior), torch.tensor([0.5]))[0]

    try:
        cv2.setNumThreads(1)
        alone = made()
        cv2.setNumThreads(threads)
        assert torch.equal(made(), alone)
    finally:
        cv2.setNumThreads(before)


def test_it_takes_over_a_changed_config_and_refuses_what_the_definition_refuses() -> None:
    pair, prior = scene(64, 96)
    compiled = CpuInterpolator(network(replace(TWO, prior="quick")))
    assert compiled.config.prior == "quick"
    with pytest.raises(ValueError, match="two frames of one size"):
        compiled.prepare(pair[0], pair[1][..., :80], prior)
    with pytest.raises(ValueError, match="flows of"):
        compiled.prepare(*pair, [flow[..., :-1] for flow in prior])


def image(x: Tensor) -> np.ndarray:
    """[1,C,h,w] as the compiled functions have pictures, [h,w,C]."""
    return np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())


def noise(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Somewhat smooth, around 0."""
    rough = scale * torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    return synthesis.box_filter(rough, 3)


def close(one: np.ndarray, other: Tensor | np.ndarray, tolerance: float = 1e-4) -> bool:
    other = np.asarray(other)
    return one.shape == other.shape and float(np.abs(one - other).max()) < tolerance


@pytest.mark.parametrize("size", SIZES)
def test_encode(size: tuple[int, int]) -> None:
    (frame, _), _ = scene(*size)
    defined = network(TWO)
    expected, found = defined.encode(frame), CpuInterpolator(defined).encode(frame)
    assert close(found.half, image(expected.half)) and close(found.quarter, image(expected.quarter))
    for one, other in zip(found.features, expected.features, strict=True):
        height, width = other.shape[-2:]
        assert close(np.ascontiguousarray(one[:height, :width]), image(other), 1e-3)


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("stride", [4, 2])
def test_check_consistency_and_splat(stride: int, accelerated: bool) -> None:
    pair, flows = scene(96, 128, "base" if stride == 4 else "best")
    flows = flows if accelerated else flows[:2]
    smalls = [nn.functional.avg_pool2d(frame, stride) for frame in pair]
    motion = synthesis.check_consistency(flows, *smalls, stride, (96, 128))
    found, trust = cpu.check_consistency([flow[0].numpy() for flow in flows], *map(image, smalls), stride, (96, 128))
    for expected, one, sure in zip(motion, found, trust, strict=True):
        assert close(one, torch.cat((expected[0, :2], expected[0, 3:]))) and close(sure, expected[0, 2])
    assert 0 < float((motion[0][:, 2] > 0.5).float().mean()) < 1
    velocity, trust0, trust1, *curve = synthesis.splat(*motion, torch.full((1, 1, 1, 1), 0.3), stride)
    way, landed = cpu.splat(found, trust, np.float32(0.3), stride)
    assert close(way, torch.cat((velocity, *curve), 1)[0], 1e-3)
    assert close(landed, torch.cat((trust0, trust1), 1)[0])


@pytest.mark.parametrize("size", [(7, 9), (16, 12), (5, 2)])
def test_fill_holes(size: tuple[int, int]) -> None:
    sums = noise(5, *size).abs()
    sums[:, :, 1:4, 1:] = 0
    coarse = noise(4, *(-(-side // 2) for side in size), seed=1)
    assert close(kernels.fill_holes(image(sums), coarse[0].numpy()), synthesis.fill_holes(sums, coarse)[0])
    pooled = nn.functional.avg_pool2d(sums, 2, ceil_mode=True)
    assert close(kernels.halve_sums(image(sums)), image(pooled))


@pytest.mark.parametrize("channels", [2, 4])
def test_intermediate_flows(channels: int) -> None:
    motion, decided, t = (
        noise(channels, 12, 20, scale=9),
        noise(6, 6, 10, scale=2, seed=1),
        torch.full((1, 1, 1, 1), 0.3),
    )
    joined = torch.cat((motion[:, :2], torch.zeros(1, 2, 12, 20), motion[:, 2:]), 1)
    flows = torch.cat(synthesis.intermediate_flows(joined, t), 1)
    assert close(cpu.intermediate_flows(motion[0].numpy(), np.float32(0.3)), flows[0])
    coarse = synthesis.upsample(decided)
    gates, coarse = coarse[:, [2, 2, 5, 5]], coarse[:, [0, 1, 3, 4]]
    expected = coarse + (1 + gates) * (flows - coarse)
    assert close(cpu.intermediate_flows(motion[0].numpy(), np.float32(0.3), decided[0].numpy()), expected[0])


def test_warps() -> None:
    features, flow = noise(16, 13, 20), noise(2, 13, 20, scale=12, seed=1)
    out = np.empty((13, 20, 16), np.float32)
    kernels.warp_features(image(features), flow[0].numpy(), np.float32(0.25), out, (0, 13))
    assert close(out, image(synthesis.warp(features, flow / 4)))
    half = noise(3, 26, 40, seed=2)
    out = np.empty((13, 20, 12), np.float32)
    kernels.warp_half(image(half), flow[0].numpy(), out, (0, 13))
    assert close(out, image(space_to_depth(synthesis.warp(half, synthesis.upsample(flow / 2)))))
    grey = np.empty((13, 20), np.float32)
    kernels.warp_grey(features[0, 0].numpy(), image(flow), np.float32(1), np.float32(-2), grey)
    shift = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
    assert close(grey, synthesis.warp(features[:, :1], flow + shift)[0, 0])


@pytest.mark.parametrize("size", [(12, 20), (2, 2)])
def test_cost_volume(size: tuple[int, int]) -> None:
    one, other = noise(10, *size), noise(10, *size, seed=1)
    there, back = synthesis.cost_volume(one[:, :8], other[:, :8])
    own0, own1 = (np.dstack((image(x), np.zeros((*size, 8), np.float32))) for x in (one, other))
    kernels.cost_volume(own0, own1, 8, 10)
    kernels.cost_volume(own1, own0, 8, 10)
    assert close(own0[..., 10:], image(there), 1e-3) and close(own1[..., 10:], image(back), 1e-3)


@pytest.mark.parametrize("config", [TWO, FOUR, FINER], ids=["two levels", "four levels", "a finer flow"])
def test_decide(config: InterpolatorConfig) -> None:
    pair, flows = scene(75, 117, config.prior)
    defined = network(config)
    compiled = CpuInterpolator(defined)
    expected, _ = defined.decide(defined.prepare(*pair, flows), torch.tensor([0.4]))
    found = compiled._decide(compiled.prepare(*pair, flows), np.float32(0.4))
    for one, other, unit in zip(found, expected, (10, 10, 1, 1), strict=True):
        assert close(one, other[0], 1e-3 * unit)
    assert float((expected.mask - 0.6).abs().max()) > 0.01


def random_decision(height: int, width: int) -> synthesis.Intermediate:
    flows = (noise(2, height, width, scale=40, seed=seed) for seed in (3, 4))
    mask = noise(1, height, width, scale=3, seed=5).sigmoid()
    return synthesis.Intermediate(*flows, mask, noise(3, height, width, scale=0.1, seed=6))


def test_overlapped() -> None:
    half0, half1, decided = noise(3, 48, 64), noise(3, 48, 64, seed=1), random_decision(48, 64)
    expected = synthesis.overlapped(half0, half1, decided)
    found = cpu.Intermediate(*(part[0].numpy().copy() for part in decided))
    cpu.overlap(image(half0), image(half1), found)
    assert float((expected.residual - decided.residual).abs().max()) > 0.05
    assert close(found.residual, expected.residual[0])


@pytest.mark.parametrize("size", [(48, 64), (45, 61)])
def test_compose_and_confidence(size: tuple[int, int]) -> None:
    frame0, frame1, decided = noise(3, *size), noise(3, *size, seed=1), random_decision(32, 32)
    out = np.empty((*size, 3), np.float32)
    kernels.compose(image(frame0), image(frame1), *(part[0].numpy() for part in decided), out, (0, size[0]))
    assert close(out, image(synthesis.compose(frame0, frame1, decided)))
    quarter0, quarter1 = noise(3, 16, 16, scale=0.4), noise(3, 16, 16, scale=0.4, seed=1)
    mixed = np.empty((16, 16), np.float32)
    parts = [part[0].numpy() for part in decided[:3]]
    kernels.disagreement(image(quarter0), image(quarter1), *parts, mixed, (0, 16))
    found = synthesis.believe(torch.from_numpy(cpu.box_filter(mixed, synthesis.BELIEVED_OVER)))
    expected = synthesis.confidence(quarter0, quarter1, *map(synthesis.downsample, decided[:3]))
    assert 0.1 < float(expected.mean()) < 0.9 and close(found.numpy(), expected[0, 0], 1e-3)


def test_fall_back() -> None:
    frame0, frame1, frame = (noise(3, 37, 50, seed=seed) for seed in range(3))
    sure = torch.ones(1, 1, 10, 13)
    sure[..., 2:7, 3:6] = noise(1, 5, 3, scale=9).sigmoid()
    t = torch.tensor([0.3])
    expected = synthesis.fall_back(frame, frame0, frame1, t, sure)
    assert float((expected - frame).abs().max()) > 0.1
    assert close(cpu.fall_back(frame.clone(), frame0, frame1, t, sure).numpy(), expected)


@pytest.mark.parametrize("side", [7, 9, 15])
def test_box_filter(side: int) -> None:
    plane = noise(1, 21, 30)
    assert close(cpu.box_filter(plane[0, 0].numpy(), side), synthesis.box_filter(plane, side)[0, 0])


def test_flows_that_are_no_numbers_or_huge_break_nothing() -> None:
    pair, prior = scene(64, 96)
    compiled = CpuInterpolator(network(TWO))
    for wrong in (float("nan"), float("inf"), -1e30, 3e9):
        flows = [flow.clone() for flow in prior]
        flows[0][..., 3:9, 4:20] = wrong
        frame, _ = compiled.generate(*pair, compiled.prepare(*pair, flows), torch.tensor([0.5]))
        assert frame.shape == pair[0].shape


def test_where_nothing_can_be_kept_it_compiles_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernels.njit

    def without_a_folder(**options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(kernels, "njit", without_a_folder)

    def double(x: int) -> int:
        return 2 * x

    assert kernels.compiled(double)(21) == 42
