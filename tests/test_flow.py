"""The flow prior: right size, right sign, right unit, at any frame size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from fpsgan.errors import InputError
from fpsgan.interpolator import (
    EFFORTS,
    STRIDE,
    Interpolator,
    InterpolatorConfig,
    InterpolatorRunner,
    cpu_flow,
    flow_prior,
    kernels,
    with_acceleration,
)
from fpsgan.interpolator.flow import (
    NEARER,
    accelerations,
    best_neighbour,
    block_match,
    find_flow,
    lucas_kanade,
    matching_error,
)


def texture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("size", [(16, 16), (17, 70), (63, 127), (130, 131), (16, 300)])
def test_a_known_shift_comes_back_in_pixels_of_the_full_frame(size: tuple[int, int], effort: str) -> None:
    height, width = size
    whole = texture(height + 8, width + 8)
    frame0, frame1 = whole[4:-4, 4:-4], whole[2:-6, 1:-7]  # frame1(x + (3, 2)) = frame0(x)
    flow01, flow10 = flow_prior(frame0, frame1, effort=effort)
    stride = STRIDE[effort]
    assert flow01.shape == flow10.shape == (2, -(-height // stride), -(-width // stride))
    assert flow01.dtype == np.float32
    assert np.median(flow01[0]) == pytest.approx(3.0, abs=0.5)
    assert np.median(flow01[1]) == pytest.approx(2.0, abs=0.5)
    assert np.median(flow10[0]) == pytest.approx(-3.0, abs=0.5)


def grey(image: np.ndarray) -> torch.Tensor:
    """[1,1,H,W] as `find_flow` takes it."""
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image)[None, None]


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("size", [(16, 16), (17, 70), (63, 127), (130, 131), (16, 300)])
def test_in_torch_too(size: tuple[int, int], effort: str) -> None:
    height, width = size
    whole = texture(height + 8, width + 8)
    frames = [grey(x) for x in (whole[4:-4, 4:-4], whole[2:-6, 1:-7])]
    (flow01,), (flow10,) = find_flow(*frames, effort)
    stride = STRIDE[effort]
    assert flow01.shape == (2, -(-height // stride), -(-width // stride)) and flow01.dtype == torch.float32
    assert float(flow01[0].median()) == pytest.approx(3.0, abs=0.5)
    assert float(flow01[1].median()) == pytest.approx(2.0, abs=0.5)
    assert float(flow10[0].median()) == pytest.approx(-3.0, abs=0.5)


def test_grey_frames_give_the_flow_of_their_colour_copies() -> None:
    whole = cv2.cvtColor(texture(80, 88), cv2.COLOR_RGB2GRAY)
    grey = flow_prior(whole[:64, :80], whole[2:66, 3:83])
    colour = flow_prior(*(cv2.cvtColor(g, cv2.COLOR_GRAY2RGB) for g in (whole[:64, :80], whole[2:66, 3:83])))
    assert np.abs(grey[0] - colour[0]).max() < 0.05


@pytest.mark.parametrize(
    ("shape0", "shape1", "dtype"),
    [((15, 40, 3), (15, 40, 3), np.uint8), ((32, 32, 3), (32, 40, 3), np.uint8), ((32, 32), (32, 32), np.float32)],
)
def test_frames_it_cannot_take_are_refused(shape0: tuple, shape1: tuple, dtype: type) -> None:
    with pytest.raises(InputError):
        flow_prior(np.zeros(shape0, dtype), np.zeros(shape1, dtype))


def test_the_quick_prior_is_coarser_and_weights_ask_for_it() -> None:
    whole = np.asarray(cv2.GaussianBlur(np.random.default_rng(5).integers(0, 255, (160, 200), np.uint8), (0, 0), 3))
    whole = cv2.normalize(whole, None, 0, 255, cv2.NORM_MINMAX)
    frame0, frame1 = np.ascontiguousarray(whole[8:136, 8:184]), np.ascontiguousarray(whole[6:134, 4:180])
    full, quick = flow_prior(frame0, frame1)[0], flow_prior(frame0, frame1, effort="quick")[0]
    assert full.shape == quick.shape and not np.array_equal(full, quick)
    assert np.abs(quick[:, 4:-4, 4:-4] - np.array([4.0, 2.0])[:, None, None]).mean() < 0.3
    network = Interpolator(InterpolatorConfig(prior="quick"))
    runner = InterpolatorRunner(network, torch.device("cpu"), torch.float32)
    assert np.array_equal(runner.prior(frame0, frame1)[0], quick)


@pytest.mark.parametrize("effort", ["base", "best"])
def test_what_is_small_and_fast_is_found_by_block_matching(effort: str) -> None:
    """A ball of 32 px that moves by 72 px over a still texture: more than DIS follows."""
    frame0 = texture(256, 384) // 2
    frame1 = frame0.copy()
    ball = np.random.default_rng(7).integers(128, 256, (8, 8, 3), np.uint8)
    ball = np.asarray(cv2.resize(ball, (32, 32), interpolation=cv2.INTER_CUBIC), np.uint8)
    frame0[112:144, 96:128] = frame1[112:144, 168:200] = ball
    flow01, flow10 = flow_prior(frame0, frame1, effort=effort)
    k = 4 // STRIDE[effort]
    assert np.median(flow01[0, 29 * k : 35 * k, 25 * k : 31 * k]) == pytest.approx(72, abs=2)
    assert np.median(flow10[0, 29 * k : 35 * k, 43 * k : 49 * k]) == pytest.approx(-72, abs=2)
    assert np.abs(flow01[:, : 20 * k]).max() < 2  # what is far away stays as it was


def test_pairs_of_a_batch_are_searched_apart() -> None:
    """And what is small and fast is found in torch as with OpenCV."""
    still = texture(256, 384) // 2
    frame0, frame1 = still.copy(), still.copy()
    ball = np.random.default_rng(7).integers(128, 256, (8, 8, 3), np.uint8)
    ball = np.asarray(cv2.resize(ball, (32, 32), interpolation=cv2.INTER_CUBIC), np.uint8)
    frame0[112:144, 96:128] = frame1[112:144, 168:200] = ball
    firsts, seconds = (torch.cat([grey(x) for x in frames]) for frames in ((frame0, still), (frame1, still)))
    both, back = find_flow(firsts, seconds)
    assert float(back[0, 0, 29:35, 43:49].median()) == pytest.approx(-72, abs=2)
    assert float(both[0, 0, 29:35, 25:31].median()) == pytest.approx(72, abs=2)
    assert float(both[0, :, :20].abs().max()) < 2
    assert float((find_flow(firsts[:1], seconds[:1])[0] - both[:1]).abs().max()) < 1e-3
    assert float(both[1].abs().max()) < 0.1


@pytest.mark.parametrize("size", [(9, 12), (24, 20)])
def test_block_match_is_that_of_the_compiled_kernel_and_of_a_plain_search(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    here = rng.integers(0, 40, size, np.uint8)  # few codes: there are ties
    there = np.roll(here, (1, -2), (0, 1))
    reach, (height, width) = 3, size
    least = [np.empty(size, np.uint32) for _ in range(2)]
    kernels.block_match(here, there, reach, np.float32(9 * NEARER), *least)
    high, wide = (np.pad(x.astype(int), m, mode="edge") for x, m in ((here, 1), (there, 4)))
    best: dict[tuple[int, int, int], int] = {}
    for y, x in np.ndindex(size):
        for down, right in np.ndindex(7, 7):
            ty, tx = y + down - reach, x + right - reach
            if not (0 <= ty < height and 0 <= tx < width):
                continue
            difference = np.abs(high[y : y + 3, x : x + 3] - wide[y + down : y + down + 3, x + right : x + right + 3])
            distance = np.float32(np.hypot(down - reach, right - reach))
            code = (int(difference.sum()) + int(np.rint(np.float32(9 * NEARER) * distance))) * 65536 + down * 7 + right
            for key in ((0, y, x), (1, ty, tx)):
                best[key] = min(best.get(key, 2**32), code)
    for side in (0, 1):
        assert all(least[side][y, x] == best[side, y, x] for y, x in np.ndindex(size))
    offset = block_match(*(torch.from_numpy(x)[None, None].float() for x in (here, there)), reach)[0].numpy()
    number = (offset[1] + reach) * (2 * reach + 1) + offset[0] + reach
    assert np.array_equal(number, least[0] % 65536)


def test_steps_that_make_a_match_finer_are_those_of_the_compiled_kernels() -> None:
    whole = texture(72, 88)[..., 0].astype(np.float32)
    here, there = np.ascontiguousarray(whole[4:68, 4:84]), np.ascontiguousarray(whole[3:67, 2:82])
    offset = np.random.default_rng(1).integers(-2, 3, (64, 80, 2)).astype(np.float32)
    pictures = [torch.from_numpy(x)[None, None] for x in (here, there)]
    planes = torch.from_numpy(offset).permute(2, 0, 1)[None]

    def close(one: np.ndarray, other: torch.Tensor) -> bool:
        """But for a place where two candidates are as good."""
        return float((np.abs(one - other[0].permute(1, 2, 0).numpy()) < 1e-2).mean()) > 0.998

    error = cpu_flow._error(here, cpu_flow._warped(there, offset), 7)
    assert close(error[..., None], matching_error(*pictures, planes, 7))
    better = cpu_flow._best_neighbour(here, there, offset)
    assert not np.array_equal(better, offset) and close(better, best_neighbour(*pictures, planes))
    refined = cpu_flow._refined(here, there, offset)
    assert not np.array_equal(refined, offset) and close(refined, lucas_kanade(*pictures, planes))


def test_acceleration_in_torch_is_that_of_the_compiled_kernels() -> None:
    """Of three pairs in one batch: with both neighbours, with one, with none that is of use."""
    noise = np.random.default_rng(0).normal(0, 30, (40, 60, 2)).astype(np.float32)
    flow = np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 4).transpose(2, 0, 1))
    flows, before, after = ([k * flow, -k * flow] for k in np.float32((1.0, 0.8, 1.3)))
    cases = [((before, after), (1.0, 1.5)), ((None, after), (1.0, 1.0)), ((before, after), (3.0, 0.4))]
    expected = [with_acceleration(flows, *sides, lengths)[2:] for sides, lengths in cases]
    lengths = torch.tensor([[1.0, 1.5], [0.0, 1.0], [3.0, 0.4]])
    batch = [tuple(torch.from_numpy(x).expand(3, -1, -1, -1) for x in each) for each in (flows, before, after)]
    found = accelerations(*batch, lengths, 4)
    for here in (0, 1):
        for k in (0, 1):
            assert np.abs(found[here][k].numpy() - expected[k][here]).max() < 1e-3
        assert not found[here][2].any() and not expected[2]
    assert float(found[0][0].abs().max()) > 0.5


@pytest.mark.parametrize("early", [1.0, 0.5])
@pytest.mark.parametrize("known", ["both", "before", "after"])
def test_how_motion_speeds_up_is_known_from_the_pairs_around(early: float, known: str) -> None:
    """A texture at 4 t + 4 t² px, seen at t = −`early`, 0, 1 and 2: its acceleration is 8 px, in either frame."""
    whole = texture(160, 288)
    places = [4 * early**2 - 4 * early, 0, 8, 24]
    frames = [np.ascontiguousarray(whole[:, 64 - round(x) : 224 - round(x)]) for x in places]
    before, prior, after = (flow_prior(*frames[k : k + 2]) for k in range(3))
    given = (before if known != "after" else None, after if known != "before" else None)
    flow01, _, *accelerations = with_acceleration(prior, *given, (early, 1.0))
    assert np.array_equal(flow01, prior[0])
    for acceleration in accelerations:
        inside = acceleration[:, 4:-4, 12:-12]
        assert np.median(inside[0]) == pytest.approx(8, abs=1)
        assert np.median(inside[1]) == pytest.approx(0, abs=0.2)


def test_where_the_flows_contradict_one_another_nothing_is_said_about_acceleration() -> None:
    rng = np.random.default_rng(0)
    flows = [rng.uniform(-40, 40, (2, 40, 60)).astype(np.float32) for _ in range(6)]
    *_, acceleration0, acceleration1 = with_acceleration(flows[:2], flows[2:4], flows[4:])
    raw = np.abs(flows[0] + flows[3]).mean()
    assert max(np.abs(acceleration0).mean(), np.abs(acceleration1).mean()) < 0.15 * raw


@pytest.mark.parametrize("lengths", [(3.0, 0.4), (0.3, 2.1)])
def test_pairs_of_quite_another_length_are_passed_over(lengths: tuple[float, float]) -> None:
    flows = [np.ones((2, 8, 8), np.float32) * k for k in range(6)]
    assert len(with_acceleration(flows[:2], flows[2:4], flows[4:], lengths)) == 2
    assert len(with_acceleration(flows[:2], None, None)) == 2
