"""The interpolator on a CPU, compiled, against its definition in torch."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from fpsgan import kernels
from fpsgan.demo import render_scene
from fpsgan.fast import FastInterpolator, _splat
from fpsgan.interpolator import Interpolator, InterpolatorConfig, splat, weighed
from fpsgan.prior import STRIDE, flow_prior, with_acceleration

TWO = InterpolatorConfig(encoder=(32,), decoder=(16, 24), blocks=(2, 2))
FINER = dataclasses.replace(TWO, prior="best")


def network(config: InterpolatorConfig, dtype: torch.dtype = torch.float32) -> Interpolator:
    """With heads that change flows by a few pixels, the mask and the picture."""
    torch.manual_seed(0)
    made = Interpolator(config)
    for level in made.levels:
        torch.nn.init.normal_(level.decide.shared.weight, std=0.02)  # type: ignore[union-attr, arg-type]
        torch.nn.init.normal_(level.decide.shared.bias, std=0.05)  # type: ignore[union-attr, arg-type]
    return made.to(dtype=dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def scene(height: int, width: int, effort: str = "base") -> tuple[list[Tensor], list[Tensor]]:
    """Two frames [1,3,H,W] of a scene, and the prior with accelerations."""
    frames = [render_scene(t, width, height) for t in (0.2, 0.3, 0.4, 0.5)]
    flows = [flow_prior(a, b, effort=effort) for a, b in itertools.pairwise(frames)]
    prior = with_acceleration(flows[1], flows[0], flows[2], stride=STRIDE[effort])
    pair = [torch.from_numpy(frame / np.float32(255)).permute(2, 0, 1)[None] for frame in frames[1:3]]
    return pair, [torch.from_numpy(flow)[None] for flow in prior]


@pytest.mark.parametrize("size", [(64, 96), (75, 117), (150, 94), (16, 16)])
@pytest.mark.parametrize(
    "config", [TWO, InterpolatorConfig(), FINER], ids=["two levels", "four levels", "a finer prior"]
)
@pytest.mark.parametrize("accelerated", [True, False])
def test_it_is_the_same_function(size: tuple[int, int], config: InterpolatorConfig, accelerated: bool) -> None:
    pair, prior = scene(*size, config.prior)
    prior = prior if accelerated else prior[:2]
    defined = network(config)
    fast = FastInterpolator(defined)
    for t in (0.25, 0.6):
        time = torch.tensor([t])
        with torch.inference_mode():
            moved = defined(*pair, time, prior)
            expected, believed = defined.generate(*pair, defined.prepare(*pair, prior), time)
            frame, sure = fast.generate(*pair, fast.prepare(*pair, prior), time)
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
        fast = FastInterpolator(coarse)
        frame = fast.generate(*pair, fast.prepare(*pair, prior), time)[0]
    assert float((frame - expected).abs().mean()) < 1.3 * float((defined - expected).abs().mean()) + 0.01 / 255


@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_make_the_same_picture(threads: int) -> None:
    pair, prior = scene(150, 94)
    fast = FastInterpolator(network(TWO))
    before = cv2.getNumThreads()

    def made() -> Tensor:
        return fast.generate(*pair, fast.prepare(*pair, prior), torch.tensor([0.5]))[0]

    try:
        cv2.setNumThreads(1)
        alone = made()
        cv2.setNumThreads(threads)
        assert torch.equal(made(), alone)
    finally:
        cv2.setNumThreads(before)


def test_it_takes_over_a_changed_config_and_refuses_what_the_definition_refuses() -> None:
    pair, prior = scene(64, 96)
    fast = FastInterpolator(network(dataclasses.replace(TWO, prior="quick")))
    assert fast.config.prior == "quick"
    with pytest.raises(ValueError, match="two frames of one size"):
        fast.prepare(pair[0], pair[1][..., :80], prior)
    with pytest.raises(ValueError, match="a prior of"):
        fast.prepare(*pair, [flow[..., :-1] for flow in prior])


def test_motion_is_weighed_and_splatted_alike() -> None:
    pair, prior = scene(96, 128)
    quarters = [torch.nn.functional.avg_pool2d(frame, 4) for frame in pair]
    motion = weighed(prior, *quarters, 4)
    fast = FastInterpolator(network(TWO)).prepare(*pair, prior)
    for expected, found, trust in zip(motion, fast.motion, fast.trust, strict=True):
        assert np.abs(expected[0, :2].numpy() - found[:2]).max() < 1e-4
        assert np.abs(expected[0, 3:].numpy() - found[2:]).max() < 1e-4
        assert np.abs(expected[0, 2].numpy() - trust).max() < 1e-4
    velocity, trust0, trust1, curve = splat(*motion, torch.full((1, 1, 1, 1), 0.3), 4)
    found, landed = _splat(fast, np.float32(0.3), 4)
    assert np.abs(torch.cat((velocity, curve), 1)[0].numpy() - found).max() < 1e-3
    assert np.abs(torch.cat((trust0, trust1), 1)[0].numpy() - landed).max() < 1e-4


def test_flows_that_are_no_numbers_or_huge_break_nothing() -> None:
    pair, prior = scene(64, 96)
    fast = FastInterpolator(network(TWO))
    for wrong in (float("nan"), float("inf"), -1e30, 3e9):
        flows = [flow.clone() for flow in prior]
        flows[0][..., 3:9, 4:20] = wrong
        frame, _ = fast.generate(*pair, fast.prepare(*pair, flows), torch.tensor([0.5]))
        assert frame.shape == pair[0].shape


def test_matches_are_those_of_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    here = rng.integers(0, 255, (9, 12), np.uint8)
    there = np.roll(here, (1, -2), (0, 1))
    least = [np.empty(here.shape, np.uint32) for _ in range(2)]
    kernels.matches(here, there, 3, np.float32(1.35), *least)
    high, wide = (np.pad(x.astype(int), m, mode="edge") for x, m in ((here, 1), (there, 4)))
    best: dict[tuple[int, int, int], int] = {}
    for y, x in np.ndindex(here.shape):
        for down, right in np.ndindex(7, 7):
            ty, tx = y + down - 3, x + right - 3
            if not (0 <= ty < 9 and 0 <= tx < 12):
                continue
            difference = np.abs(high[y : y + 3, x : x + 3] - wide[y + down : y + down + 3, x + right : x + right + 3])
            cost = int(difference.sum()) + int(np.rint(np.float32(1.35) * np.float32(np.hypot(down - 3, right - 3))))
            code = cost * 65536 + down * 7 + right
            for key in ((0, y, x), (1, ty, tx)):
                best[key] = min(best.get(key, 2**32), code)
    for side in (0, 1):
        assert all(least[side][y, x] == best[side, y, x] for y, x in np.ndindex(here.shape))


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
