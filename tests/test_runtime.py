from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch

from deblur import OutOfMemory
from deblur.tiles import SMALLEST_TILE, STEP
from fpsgan import weights
from fpsgan.demo import render_scene
from fpsgan.errors import OptionError, SetupError
from fpsgan.interpolator import InterpolatorRunner, flow_prior
from fpsgan.interpolator.synthesis import CELL
from fpsgan.runtime import at_once, library_errors, pick_device, pick_dtype, sharing_cores
from fpsgan.threads import in_order

CPU = torch.device("cpu")


def picture(time: float, width: int = 320, height: int = 200) -> np.ndarray:
    return (render_scene(time, width, height) / 255.0).astype(np.float32)


def runner(tile: int = 0, dtype: torch.dtype = torch.float32) -> InterpolatorRunner:
    return InterpolatorRunner(weights.load("interpolator-base"), CPU, dtype, tile)


def between(run: InterpolatorRunner, times: list[float], width: int = 320, height: int = 200) -> list[np.ndarray]:
    frame0, frame1 = picture(0.2, width, height), picture(0.24, width, height)
    prior = flow_prior(*(np.rint(frame * 255).astype(np.uint8) for frame in (frame0, frame1)))
    return run.between(frame0, frame1, times, prior)


def test_tiles_leave_no_seam() -> None:
    (whole,), (tiled,) = between(runner(), [0.5], 400, 300), between(runner(tile=192), [0.5], 400, 300)
    difference = np.abs(whole - tiled)
    assert difference.mean() < 0.5 / 255
    steps = np.abs(np.diff(tiled - whole, axis=1)).mean(axis=(0, 2))
    assert steps.max() < 1 / 255, "a seam would show as a step along one column"


def test_frames_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run, encoded = runner(), []
    encode = run.model.encode
    monkeypatch.setattr(run.model, "encode", lambda frame: encoded.append(1) or encode(frame))
    frames = [picture(0.1 * k) for k in range(4)]
    prior = flow_prior(*(np.rint(frame * 255).astype(np.uint8) for frame in frames[:2]))
    for frame0, frame1 in itertools.pairwise(frames):
        assert len(run.between(frame0, frame1, [0.25, 0.5, 0.75], prior)) == 3
    assert len(encoded) == 4


@pytest.mark.parametrize("tile", [0, 192])
def test_what_a_gpu_would_run_makes_the_same_pictures(tile: int) -> None:
    frames = [picture(0.1), picture(0.2)]
    prior = flow_prior(*(np.rint(frame * 255).astype(np.uint8) for frame in frames))
    run = InterpolatorRunner(weights.load("interpolator-base"), CPU, torch.float32, tile)
    times, made = [0.2, 0.4, 0.5, 0.7, 0.9], []
    for model in (run.model, run.interpolator):  # compiled, one moment at a time; torch, several at once
        run.model, run._kept = model, []
        sure: list[np.ndarray] = []
        made.append([*run.between(*frames, times, prior, sure), *sure])
    assert len(made[0]) == len(made[1]) == 10
    for one, other in zip(*made, strict=True):
        assert one.shape == other.shape and np.abs(one - other).mean() < 0.02 / 255


def test_threads_share_what_is_encoded_and_make_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [picture(0.1 * k) for k in range(7)]
    prior = flow_prior(*(np.rint(frame * 255).astype(np.uint8) for frame in frames[:2]))
    alone = runner()
    wanted = [alone.between(*pair, [0.5], prior)[0] for pair in itertools.pairwise(frames)]
    run = InterpolatorRunner(weights.load("interpolator-base"), CPU, torch.float32, workers=3)
    encode, encoded = run.model.encode, []
    monkeypatch.setattr(run.model, "encode", lambda frame: encoded.append(1) or encode(frame))
    made = list(in_order(itertools.pairwise(frames), lambda pair: run.between(*pair, [0.5], prior)[0], 3))
    assert len(encoded) <= 8, "seven frames, and now and then one again"
    assert all(np.abs(one - other).max() < 1e-4 for one, other in zip(made, wanted, strict=True))


def test_an_encoding_that_fails_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    run, frames = runner(), [picture(0.1), picture(0.2)]
    prior = flow_prior(*(np.rint(frame * 255).astype(np.uint8) for frame in frames))
    with monkeypatch.context() as patched:
        patched.setattr(run.model, "encode", lambda frame: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.between(*frames, [0.5], prior)
    assert len(run.between(*frames, [0.5], prior)) == 1


def test_a_cpu_works_on_as_many_frames_as_it_has_cores_but_not_on_many_large_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    with sharing_cores(max(before)):
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)
    assert [at_once(CPU, size) for size in (640 * 360, 1280 * 720, 1920 * 1080, 2**24)] == [12, 9, 4, 1]
    assert at_once(torch.device("cuda"), 1280 * 720) == 1


def test_kept_features_change_nothing() -> None:
    frames = [picture(0.1 * k) for k in range(3)]
    prior = flow_prior(*(np.rint(frame * 255).astype(np.uint8) for frame in frames[1:]))
    run = runner()
    run.between(frames[0], frames[1], [0.5], prior)
    (warm,), (cold,) = (
        run.between(frames[1], frames[2], [0.5], prior),
        runner().between(frames[1], frames[2], [0.5], prior),
    )
    assert np.array_equal(warm, cold)


def test_half_precision_is_close() -> None:
    (full,), (half,) = between(runner(), [0.5]), between(runner(dtype=torch.bfloat16), [0.5])
    assert full.dtype == half.dtype == np.float32
    assert np.abs(full - half).mean() < 0.5 / 255


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (97, 40)])
def test_any_size(size: tuple[int, int]) -> None:
    assert between(runner(), [0.3], *size)[0].shape == (size[1], size[0], 3)


def test_devices_that_are_not_there() -> None:
    with pytest.raises(OptionError, match="unknown"):
        pick_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(SetupError, match="not there; this machine"):
            pick_device("cuda")
    assert pick_dtype(CPU, False) is torch.float32 and pick_dtype(CPU, True) is torch.bfloat16
    assert pick_dtype(torch.device("cuda"), None) is torch.float16


def test_what_libraries_raise_becomes_an_error_for_people() -> None:
    with (
        pytest.raises(OptionError, match=rf"--tile 100: must be 0 \(whole frames\) or at least {SMALLEST_TILE}"),
        library_errors(),
    ):
        runner(tile=100)
    for error, message in (
        (OutOfMemory("too large"), "too large; close other programs"),
        (MemoryError(), "out of memory; close other programs"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory; close"),
    ):
        with pytest.raises(SetupError, match=message), library_errors():
            raise error
    with pytest.raises(RuntimeError, match="shapes"), library_errors():
        raise RuntimeError("shapes do not match")


def test_tiles_begin_where_the_confidence_has_a_cell() -> None:
    assert STEP % CELL == 0
