"""One call from a picture to a sharper one: tiles, memory, strength, and what it says was done."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from deblur import Deblur, DeblurConfig, Deblurrer, OutOfMemory, TileError
from deblur.shake import Undone
from deblur.tiles import OVERLAP, STEP, tile_spans
from fpsgan import weights
from fpsgan.demo import render_scene

CPU = torch.device("cpu")


def picture(time: float, width: int = 320, height: int = 200) -> np.ndarray:
    return (render_scene(time, width, height) / 255.0).astype(np.float32)


def shipped(**arguments: object) -> Deblurrer:
    return Deblurrer(weights.load("deblur-mobilenet"), CPU, torch.float32, **arguments)


@pytest.mark.parametrize(("size", "tile"), [(1000, 256), (193, 192), (1080, 512), (700, 0), (192, 192)])
def test_tiles_cover_and_overlap(size: int, tile: int) -> None:
    spans = tile_spans(size, tile)
    assert spans[0][0] == 0 and spans[-1][1] == size
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end - begin >= OVERLAP - STEP and begin % STEP == 0


def test_tiling_weights_add_up_to_one() -> None:
    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    frame = picture(0.3, 401, 299)
    assert np.abs(Deblurrer(Same(), CPU, torch.float32, tile=192).sharpen(frame).picture - frame).max() < 1e-5


def test_where_no_shake_is_found_the_picture_itself_comes_back() -> None:
    run = shipped()
    for frame in (picture(0.3), np.zeros((100, 100, 3), np.float32)):
        done = run.sharpen(frame, cautious=True)
        assert done.picture is frame and not done.touched


def test_torch_with_several_threads_makes_the_same_picture() -> None:
    """Tests run with one thread of torch's; users do not."""
    run, frame, before = shipped(quick=True), picture(0.3), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run.sharpen(frame).picture
        torch.set_num_threads(2)
        assert torch.get_num_threads() == 2
        assert np.abs(run.sharpen(frame).picture - alone).max() < 1e-5
    finally:
        torch.set_num_threads(before)
    assert np.abs(alone - frame).max() > 0.01


def test_memory_running_out_means_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    run = shipped()
    frame = picture(0.3, 400, 300)
    expected = run.sharpen(frame).picture
    forward = run.network.forward

    def limited(x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] * x.shape[-2] > 64_000:
            raise torch.OutOfMemoryError("out of memory")
        return forward(x)

    monkeypatch.setattr(run.network, "forward", limited)
    assert np.abs(run.sharpen(frame).picture - expected).mean() < 2 / 255 and run.tile == 224

    def never(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(run.network, "forward", never)
    with pytest.raises(OutOfMemory, match="do not fit in the memory"):
        run.sharpen(frame)


def test_a_real_error_is_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    run = shipped()

    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(run.network, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run.sharpen(picture(0.3))


def test_strength_mixes() -> None:
    run, frame = shipped(), picture(0.3)
    full, half = (run.sharpen(frame, strength).picture for strength in (1.0, 0.5))
    assert run.sharpen(frame, 0.0).picture is frame
    assert np.abs(half - (frame + full) / 2).max() < 1e-5


def test_shake_is_undone_for_weights_that_want_it_unless_time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = picture(0.3)
    asked: list[tuple[int, ...]] = []
    whole = torch.ones(frame.shape[:2])
    monkeypatch.setattr(
        "deblur.deblurrer.undo_shake", lambda p, gamma: asked.append(tuple(p.shape)) or Undone(p.flip(1), whole)
    )
    turned = shipped().sharpen(frame).picture
    assert asked == [(3, *frame.shape[:2])]
    quick = shipped(quick=True).sharpen(frame).picture
    assert len(asked) == 1 and np.abs(turned - quick).mean() > 0.01
    plain = Deblur(DeblurConfig(num_filters=8, undo_shake=False)).eval()
    Deblurrer(plain, CPU, torch.float32).sharpen(frame)
    assert len(asked) == 1


def test_a_tile_that_is_too_small_is_refused() -> None:
    with pytest.raises(TileError, match="tile 100: must be 0"):
        shipped(tile=100)


def test_a_share_of_a_place_is_that_of_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The left half is shown, the right half is as it came; each channel keeps its mean."""
    frame = picture(0.3)
    share = torch.zeros(frame.shape[:2])
    share[:, :160] = 1
    monkeypatch.setattr("deblur.deblurrer.undo_shake", lambda p, gamma: Undone(p.flip(1), share))
    done = shipped().sharpen(frame)
    change = np.abs(done.picture - frame)
    assert done.share == pytest.approx(0.5) and change[:, 160:].max() < 1e-6 < 0.01 < change[:, :160].mean()
    assert np.abs(done.picture.mean((0, 1)) - frame.mean((0, 1))).max() < 1e-4
