"""Rendered scenes: their flow is exact, and what they call visible is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.interpolator.synthesis import warp
from fpsgan.training.data import Photos
from fpsgan.training.scenes import Scene, Scenes, draw_scene, render, stack

SIZE = 96
SIDE = 240  # texels: 2 · 1.25 · SIZE


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(3)]
    for path in paths:
        cv2.imwrite(str(path), np.asarray(rng.integers(0, 256, (200, 240, 3)), np.uint8))
    return paths


def smooth(rng: np.random.Generator, side: int = SIDE) -> Tensor:
    """Band-limited colours [3,side,side] uint8: what bilinear look-up does to them is far below a grey level."""
    noise = rng.normal(0, 1, (side, side, 3)).astype(np.float32)
    picture = cv2.GaussianBlur(noise, (0, 0), 12, borderType=cv2.BORDER_REFLECT)
    picture = cv2.normalize(picture, None, 20, 235, cv2.NORM_MINMAX)
    return torch.from_numpy(np.rint(picture).astype(np.uint8)).permute(2, 0, 1)


def flat_scene(*covers: np.ndarray, seed: int = 0) -> Scene:
    """A background and one layer for each cover [SIDE,SIDE], all still, under constant light."""
    layers = 1 + len(covers)
    rng = np.random.default_rng(seed)
    texture = torch.full((1, layers, 4, SIDE, SIDE), 255, dtype=torch.uint8)
    for layer in range(layers):
        texture[0, layer, :3] = smooth(rng)
    for layer, cover in enumerate(covers, 1):
        texture[0, layer, 3] = torch.from_numpy(cover)
    box = torch.tensor([-1.0, -1.0, 1.0, 1.0]).expand(1, layers, 4)
    zeros = torch.zeros
    return Scene(
        texture, zeros(1, layers, 2, 2), zeros(1, layers, 2), zeros(1, layers, 2, 5), box, zeros(1, 2, 3), zeros(1, 7)
    )


def drawn(photos: list[Path], seed: int, size: int = SIZE, plain: bool = False) -> Scene:
    """A scene as training draws it; plain: in smooth colours and constant light."""
    rng = np.random.default_rng(seed)
    scene = draw_scene(Photos(photos), size, rng)
    if plain:
        texture = scene.texture.clone()
        for layer in texture[0]:
            layer[:3] = smooth(rng, texture.shape[-1])
        none = torch.zeros
        scene = dataclasses.replace(scene, texture=texture, light=none(1, 2, 3), shadow=none(1, 7))
    return scene


def eroded(mask: Tensor, by: int = 2) -> Tensor:
    return F.max_pool2d((~mask).float()[None], 2 * by + 1, 1, by)[0] == 0


def test_warping_by_the_flow_reproduces_the_frame_outside_occlusions(photos: list[Path]) -> None:
    """The requirement: within 0.5 of 255 on average, from either side, at any time."""
    times = torch.tensor([[0.1, 0.3, 0.5, 0.7, 0.9]])
    errors, unmoved, share, bent = [], [], [], 0
    for seed in range(10):
        scene = drawn(photos, seed, plain=True)
        bent += int((scene.wave != 0).any())
        result = render(scene, times, stride=1)
        for k in range(5):
            for end, (frame, flows) in enumerate(((result.frame0, result.flow_t0), (result.frame1, result.flow_t1))):
                seen = eroded(result.visible[0, k, end] > 0.99)
                truth = result.frames[:, k]
                errors.append((warp(frame, flows[:, k]) - truth).abs()[0, :, seen] * 255)
                unmoved.append((frame - truth).abs()[0, :, seen] * 255)
                share.append(seen.float().mean())
    assert torch.cat(errors, 1).mean() < 0.25 and max(e.mean() for e in errors if e.numel()) < 0.5
    assert torch.cat(unmoved, 1).mean() > 5  # there was something to reproduce
    assert torch.stack(share).mean() > 0.4 and bent >= 5


def test_flow_of_an_affine_motion_is_the_analytic_one() -> None:
    gradient, shift = np.array([[0.1, -0.2], [0.15, -0.05]]), np.array([7.0, -4.5])
    scene = flat_scene()
    scene.affine[0, 0], scene.shift[0, 0] = torch.from_numpy(gradient), torch.from_numpy(shift)
    t = 0.3
    result = render(scene, torch.tensor([[t]]), stride=1)
    centre = (SIZE - 1) / 2

    def place(s: float) -> np.ndarray:
        """3×3 matrix from material to picture at moment s."""
        matrix = np.eye(3)
        matrix[:2, :2] += (s - 0.5) * gradient
        matrix[:2, 2] = centre - matrix[:2, :2] @ (centre, centre) + (s - 0.5) * shift
        return matrix

    grid = np.stack((*np.meshgrid(np.arange(SIZE), np.arange(SIZE)), np.ones((SIZE, SIZE)))).reshape(3, -1)
    for end, flow in ((0.0, result.flow_t0), (1.0, result.flow_t1)):
        there = place(end) @ np.linalg.inv(place(t)) @ grid
        assert np.allclose(flow[0, 0].reshape(2, -1).numpy(), (there - grid)[:2], atol=1e-3)
    # and the pictures follow the same matrices, as OpenCV sees them
    first = np.ascontiguousarray(result.frame0[0].permute(1, 2, 0).numpy())
    last = cv2.warpAffine(first, (place(1) @ np.linalg.inv(place(0)))[:2], (SIZE, SIZE), flags=cv2.INTER_LINEAR)
    inner = np.s_[24:-24, 24:-24]
    assert np.abs(last - result.frame1[0].permute(1, 2, 0).numpy())[inner].mean() * 255 < 0.5


def test_bending_is_inverted_to_a_hundredth_of_a_pixel(photos: list[Path]) -> None:
    """m = x − (t − ½)·v has to be the point whose motion v is, by the formula in numpy."""
    steep = flat_scene()  # as steep as they are drawn, and along its wave, where it is hardest
    steep.wave[0, 0] = torch.tensor([[0.03, 0.0, 0.4, 5.0, 0.0], [0.0, 0.03, 1.0, 0.0, 5.0]])
    steep.shift[0, 0] = torch.tensor([12.0, -3.0])
    cases = [steep]
    for seed in range(12):
        scene = drawn(photos, seed)
        if (scene.wave[0, 0] != 0).any():  # its background alone
            whole = ("light", "shadow")
            parts = {f.name: getattr(scene, f.name) for f in dataclasses.fields(scene)}
            cases.append(Scene(**{name: v if name in whole else v[:, :1].clone() for name, v in parts.items()}))
    assert len(cases) > 4
    for scene in cases:
        for stride, offset in ((1, 0.0), (4, 1.5)):
            result = render(scene, torch.tensor([[0.05]]), stride=stride)
            v = (result.flow_t1 - result.flow_t0)[0, 0].double().numpy()
            x = np.stack(np.meshgrid(*2 * (np.arange(SIZE // stride) * stride + offset,)))
            m = x - (0.05 - 0.5) * v
            affine, shift = scene.affine[0, 0].numpy(), scene.shift[0, 0].numpy()
            expected = np.einsum("ij,jhw->ihw", affine, m - (SIZE - 1) / 2) + shift[:, None, None]
            for kx, ky, phase, ax, ay in scene.wave[0, 0].numpy():
                expected += np.array((ax, ay))[:, None, None] * np.sin(kx * m[0] + ky * m[1] + phase)
            assert np.abs(v - expected).max() < 0.002
        # the pictures find their points coarse to fine: painted with the texel's number, they tell which they found
        ramp = torch.arange(SIDE, dtype=torch.uint8)
        scene.texture[0, 0, 0], scene.texture[0, 0, 1] = ramp, ramp[:, None]
        none = torch.zeros
        result = render(
            dataclasses.replace(scene, light=none(1, 2, 3), shadow=none(1, 7)), torch.tensor([[0.05]]), stride=1
        )
        v = (result.flow_t1 - result.flow_t0)[0, 0]
        x = torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="xy"))
        texel = 2 * (x + 0.45 * v + SIZE / 8 + 0.5) - 0.5
        known = ((texel > 1) & (texel < SIDE - 2)).all(0)  # outside of it the texture is mirrored
        assert known.float().mean() > 0.3
        assert (result.frames[0, 0, :2] * 255 - texel).abs()[:, known].max() < 0.02


def square(left: int, right: int) -> np.ndarray:
    """A cover from x = left to right − 1 px, over the whole height."""
    cover = np.zeros((SIDE, SIDE), np.uint8)
    margin = SIZE // 8
    cover[:, 2 * (left + margin) : 2 * (right + margin)] = 255
    return cover


def test_visibility_behind_a_moving_bar() -> None:
    """A bar of 20 px moves 20 px to the right over a still background; at t = ½ it is at 40 … 59."""
    scene = flat_scene(square(40, 60))
    scene.shift[0, 1, 0] = 20.0
    seen = render(scene, torch.tensor([[0.5]]), stride=1).visible[0, 0, :, SIZE // 2]
    for x, in0, in1 in ((10, 1, 1), (35, 0, 1), (50, 1, 1), (65, 1, 0), (90, 1, 1)):
        assert seen[:, x].tolist() == pytest.approx([in0, in1], abs=1e-4), x
    coarse = render(scene, torch.tensor([[0.5]]), stride=4)
    assert coarse.visible[0, 0, :, 12, [2, 8, 12, 16, 22]].T.tolist() == [[1, 1], [0, 1], [1, 1], [1, 0], [1, 1]]
    assert coarse.flow_t0[0, 0, 0, 12, [2, 12]].tolist() == [0, -10]
    assert coarse.flow_t1[0, 0, 0, 12, [2, 12]].tolist() == [0, 10]


def test_what_leaves_the_picture_is_not_visible() -> None:
    scene = flat_scene()
    scene.shift[0, 0, 0] = 40.0
    seen = render(scene, torch.tensor([[0.25]]), stride=1).visible[0, 0, :, SIZE // 2]
    # at a quarter of the way, 10 px have come in on the left, 30 px are about to go on the right
    assert seen[0, :9].max() == 0 and seen[0, 10:].min() == 1
    assert seen[1, -29:].max() == 0 and seen[1, : SIZE - 31].min() == 1


def test_a_still_layer_in_front_stays_whatever_moves_behind() -> None:
    scene = flat_scene(square(40, 60))
    scene.shift[0, 0] = torch.tensor([9.0, 5.0])
    result = render(scene, torch.tensor([[0.2, 0.6]]), stride=1)
    pictures = torch.cat((result.frame0[:, None], result.frame1[:, None], result.frames), 1)[0, ..., 41:59]
    assert (pictures - pictures[:1]).abs().max() < 1e-6
    assert (result.flow_t0[0, ..., 41:59] == 0).all() and (result.flow_t0[0, ..., :38] != 0).all()


def test_a_batch_renders_as_its_scenes_one_by_one(photos: list[Path]) -> None:
    scenes = [drawn(photos, seed) for seed in range(4)]
    assert len({scene.texture.shape[1] for scene in scenes}) > 1
    times = torch.tensor([[0.2, 0.5], [0.4, 0.9], [0.5, 0.6], [0.1, 0.3]])
    together = render(stack(scenes), times)
    for number, scene in enumerate(scenes):
        alone = render(scene, times[number : number + 1])
        for field, whole, part in zip(alone._fields, together, alone, strict=True):
            assert torch.allclose(whole[number], part[0], atol=2e-3), field
    with pytest.raises(ValueError, match="one size"):
        stack([scenes[0], drawn(photos, 0, 64)])


def test_what_is_left_out_would_not_have_shown(photos: list[Path]) -> None:
    """Layers are looked up only where their box may be: with boxes as large as the texture nothing changes."""
    for seed in range(6):
        scene = drawn(photos, seed)
        box = torch.tensor([-1.0, -1.0, 1.0, 1.0]).expand_as(scene.box)
        partly = render(scene, torch.tensor([[0.3]]))
        wholly = render(dataclasses.replace(scene, box=box), torch.tensor([[0.3]]))
        for one, other in zip(partly, wholly, strict=True):
            assert torch.allclose(one, other, atol=2e-3)


def test_light_changes_pictures_and_not_flow() -> None:
    scene = flat_scene()
    dark = dataclasses.replace(scene, light=torch.tensor([[[-0.1, 0.0, 0.0], [0.0, 0.0, 0.0]]]))
    plain, lit = (render(s, torch.tensor([[0.5, 0.75]])) for s in (scene, dark))
    assert torch.equal(plain.flow_t0, lit.flow_t0) and torch.equal(plain.visible, lit.visible)
    assert torch.allclose(lit.frame0, plain.frame0 * 1.05, atol=1e-5)
    assert torch.allclose(lit.frames[:, 0], plain.frames[:, 0], atol=1e-6)
    assert torch.allclose(lit.frames[:, 1], plain.frames[:, 1] * 0.975, atol=1e-5)
    shade = torch.tensor([[0.5, 47.5, 47.5, 40.0, 0.0, 10.0, 1.0]])
    shaded = render(dataclasses.replace(scene, shadow=shade), torch.tensor([[0.5]]))
    # half as bright under the shadow, whose centre goes from x = 27.5 to 67.5
    for picture, before, x in ((shaded.frame0, plain.frame0, 28), (shaded.frame1, plain.frame1, 68)):
        assert torch.allclose(picture[..., 48, x] / before[..., 48, x], torch.tensor(0.5), atol=1e-3)
        assert torch.allclose(picture[..., 48, 94], before[..., 48, 94], atol=1e-3)


def test_motion_blur_smears_along_the_motion_and_leaves_what_is_still() -> None:
    scene = flat_scene(square(40, 60))
    still, still_blurred = (render(scene, torch.tensor([[0.5]]), shutter=s) for s in (0.0, 0.5))
    assert torch.allclose(still.frames, still_blurred.frames, atol=1e-4)
    scene.shift[0, 1, 0] = 20.0
    scene.texture[0, 0, :3], scene.texture[0, 1, :3] = 0, 255
    sharp, blurred = (render(scene, torch.tensor([[0.5]]), shutter=s) for s in (0.0, 0.5))
    assert torch.equal(sharp.flow_t0, blurred.flow_t0)
    # the edge at x = 40 passes 10 px while the shutter is open: light rises linearly from 35 to 45
    light = blurred.frames[0, 0, 0, 48, 34:46] ** 2.2
    assert torch.allclose(light, ((torch.arange(34, 46) + 0.5 - 35) / 10).clamp(0, 1), atol=0.08)
    assert ((sharp.frames[0, 0, 0, 48, 34:46] - (torch.arange(34, 46) >= 40).float()).abs() < 0.3).all()


def test_samples_are_what_they_say(photos: list[Path]) -> None:
    source = Scenes([photos[0].parent], 64)
    known = []
    for seed in range(8):
        sample = source.sample(np.random.default_rng(seed))
        again = Scenes(photos, 64).sample(np.random.default_rng(seed))
        assert all(np.array_equal(sample[key], again[key]) for key in sample)
        assert sample["flow_t0"].shape == sample["flow01"].shape == sample["visible"].shape == (2, 16, 16)
        assert np.isfinite(sample["flow_t0"]).all() and 0 < sample["t"] < 1
        t, seen = float(sample["t"]), sample["visible"].min(0) > 0.95
        assert np.allclose((1 - t) * sample["flow_t0"], -t * sample["flow_t1"], atol=1e-3)
        assert sample["visible"].min() >= 0 and sample["visible"].max() <= 1
        if seen.any():
            centre = np.arange(16) * 4 + 1.5
            for end in ("flow_t0", "flow_t1"):  # what leaves the crop is not seen
                x, y = sample[end][0] + centre, sample[end][1] + centre[:, None]
                assert x[seen].min() >= 0 and x[seen].max() <= 63 and y[seen].min() >= 0 and y[seen].max() <= 63
            known.append(seen.mean())
    assert len(known) >= 6


def test_motion_blurred_samples_on_request(photos: list[Path]) -> None:
    rngs = [np.random.default_rng(seed) for seed in range(4)]
    samples = [Scenes(photos, 64, shutter=1.0).sample(rng) for rng in rngs]
    assert all(sample["truth"].shape == (3, 64, 64) for sample in samples)
    with pytest.raises(ValueError, match="shutter 2"):
        Scenes(photos, 64, shutter=2)


def test_errors_name_the_value(photos: list[Path]) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        Scenes(photos, 60)
    with pytest.raises(ValueError, match="multiple of 8"):
        draw_scene(Photos(photos), 60, np.random.default_rng(0))
    with pytest.raises(ValueError, match="stride 2"):
        render(flat_scene(), torch.tensor([[0.5]]), stride=2)
