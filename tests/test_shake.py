"""The kernel of a camera shake, found in the picture itself, and the shake undone: true, still, or not at all."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from deblur.blur import convolve, defocus_kernel, path_kernel, sensor, shake_path
from deblur.gate import AGREES, DISAGREES, MOST, NOISY, KernelSigns, agreement, shown_share
from deblur.shake import (
    GAMMAS,
    SIDE,
    _Blur,
    _deconvolved,
    _Estimate,
    _find_kernels,
    _refined,
    deconvolve,
    find_kernel,
    gamma_costs,
    gamma_of,
    kernel_signs,
    undo_shake,
)
from fpsgan.demo import render_scene

Image = np.ndarray


@pytest.fixture(scope="module")
def scene() -> Image:
    return render_scene(0.2, 480, 360)


def psnr(a: Image, b: Image) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


def codes(picture: torch.Tensor) -> Image:
    """[H,W,3] of [3,H,W]."""
    return np.rint(picture.permute(1, 2, 0).numpy() * 255)


def tensor(picture: Image) -> torch.Tensor:
    """[3,H,W], 0..1."""
    whole = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
    return whole / 255 if picture.dtype == np.uint8 else whole


def likeness(found: Image, true: Image) -> float:
    """Largest normalised correlation over all shifts: 1 for the same shape."""
    size = found.shape[0] + true.shape[0]
    one, other = (np.fft.rfft2(kernel, (size, size)) for kernel in (found, true))
    return float(np.fft.irfft2(one * other.conj(), (size, size)).max() / np.sqrt((found**2).sum() * (true**2).sum()))


@pytest.mark.parametrize(
    ("extent", "wander", "noise", "shown"), [(7, 0.0, 0.0, 0.15), (11, 0.5, 0.0, 0.3), (9, 0.3, 0.008, 0.3)]
)
def test_a_shake_is_found_and_undone(scene: Image, extent: float, wander: float, noise: float, shown: float) -> None:
    rng = np.random.default_rng(4)
    true = path_kernel(shake_path(extent, rng, wander=wander))
    blurred = sensor(convolve(scene, true), rng, noise=noise)
    grey = cv2.cvtColor(blurred, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    found = find_kernel(torch.from_numpy(grey[:320, :320]))
    assert found is not None and found.shape == (SIDE, SIDE) and found.min() >= 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert likeness(found.numpy(), true) > 0.6
    undone = undo_shake(tensor(blurred))
    assert undone is not None and undone.share.shape == scene.shape[:2]
    assert undone.share.mean() > shown and undone.share.max() <= MOST
    assert undone.picture.dtype == torch.float32 and 0 <= undone.picture.min() <= undone.picture.max() <= 1
    assert psnr(codes(undone.picture), scene) > psnr(blurred, scene) + 1.0


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_in_whatever_gamma_it_was_blurred_the_shake_is_undone(scene: Image, gamma: float) -> None:
    """As a sensor adds up light, or as software mixes code values."""
    true = path_kernel(shake_path(13, np.random.default_rng(3), wander=0.4))
    blurred = sensor(convolve(scene, true, gamma), np.random.default_rng(0))
    undone = undo_shake(tensor(blurred))
    assert undone is not None
    gain = psnr(codes(undone.picture), scene) - psnr(blurred, scene)
    wrong = deconvolve(tensor(blurred), torch.from_numpy(true), 3.2 - gamma)
    assert gain > 1.0 and gain > psnr(codes(wrong), scene) - psnr(blurred, scene)


@pytest.mark.parametrize("size", [(16, 16), (20, 70), (40, 50), (90, 33)])
def test_a_picture_may_be_smaller_than_the_border_it_needs(scene: Image, size: tuple[int, int]) -> None:
    kernel = path_kernel(shake_path(9, np.random.default_rng(3)))
    blurred = convolve(scene, kernel)[: size[0], : size[1]]
    sharp = deconvolve(tensor(blurred), torch.from_numpy(kernel), 2.2)
    assert sharp.shape == (3, *size) and torch.isfinite(sharp).all()
    assert abs(float(sharp.mean()) - float(tensor(blurred).mean())) < 0.05


def test_what_is_not_shaken_is_left_alone(scene: Image) -> None:
    flat = np.full((200, 200, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    ramp = np.repeat(np.tile(np.linspace(0, 1, 300, dtype=np.float32), (200, 1))[..., None], 3, 2)
    for picture in (scene, flat, noise, ramp, scene[:50, :60]):
        assert undo_shake(tensor(picture)) is None


def test_the_less_a_kernel_looks_like_a_path_the_less_is_shown(scene: Image) -> None:
    rng = np.random.default_rng(4)
    blurred = sensor(convolve(scene, path_kernel(shake_path(9, rng, wander=0.3)), 1.0), rng, noise=0.008)
    grey = cv2.cvtColor(blurred, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    found = find_kernel(torch.from_numpy(grey))
    assert found is not None
    shares = []
    for specks in (0, 5, 300):
        kernel = found.clone()
        kernel.view(-1)[torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(0))[:specks]] += 0.002
        shares.append(shown_share(kernel_signs(torch.from_numpy(grey), kernel / kernel.sum(), 1.0)))
    assert MOST >= shares[0] > 0.45
    assert shares[0] > shares[1] > shares[2] == 0


@pytest.mark.parametrize(
    ("gamma", "shares", "shown"),
    [
        (None, [0.96], 0.96),  # sure: nothing else is looked for
        (None, [0.5, 0.7, None, 0.9], 0.9),  # doubtful: another region, the other gammas
        (None, [0.5, 0.55, 0.0, 0.4], 0.5),  # none of which is clearly better
        (1.5, [0.5, 0.8], 0.8),  # the gamma is known
        (1.5, [0.0, 0.0], None),  # nothing to be trusted
        (None, [0.5, None], None),  # not blurred there: not the camera
        (1.5, [None], None),  # not blurred
    ],
)
def test_a_doubtful_kernel_is_looked_for_elsewhere(
    scene: Image, monkeypatch: pytest.MonkeyPatch, gamma: float | None, shares: list[float | None], shown: float | None
) -> None:
    point = torch.zeros(3, 3)
    point[1, 1] = 1
    asked: list[tuple[float, torch.Tensor]] = []

    def found(region: torch.Tensor, gamma: float, coarse: torch.Tensor | None = None) -> _Estimate | None:
        asked.append((gamma, region))
        share = shares[len(asked) - 1]
        return None if share is None else _Estimate(share, 0.0, gamma, point, region)

    monkeypatch.setattr("deblur.shake._estimate", found)
    monkeypatch.setattr("deblur.shake.agreement", torch.ones_like)
    undone = undo_shake(tensor(scene), gamma)
    assert (undone and float(undone.share.max())) == (shown and pytest.approx(shown))
    assert len(asked) == len(shares)
    if len(asked) > 1:
        assert asked[0][0] == asked[1][0] and not torch.equal(asked[0][1], asked[1][1])
        assert len({gamma for gamma, _ in asked}) == (len(GAMMAS) if len(asked) > 2 else 1)


def test_nothing_moves(scene: Image) -> None:
    """The sharpened picture lies where the blurred one lies, also if the kernel's weight is not in its middle."""
    kernel = np.zeros((SIDE, SIDE), np.float32)
    kernel[10:13, 3:9] = 1 / 18
    for true in (kernel, np.asarray(defocus_kernel(2.5))):
        blurred = convolve(scene, true)
        sharp = deconvolve(tensor(blurred), torch.from_numpy(true)).permute(1, 2, 0).numpy()
        grey = [cv2.cvtColor(np.ascontiguousarray(p), cv2.COLOR_RGB2GRAY) for p in (blurred, sharp)]
        stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-6)
        _, place = cv2.findTransformECC(*grey, np.eye(2, 3, dtype=np.float32), cv2.MOTION_TRANSLATION, stop)
        assert np.abs(place[:, 2]).max() < 0.1  # of 9 px


def test_sparse_edges_leave_less_noise_than_smooth_ones(scene: Image) -> None:
    """At any weight of least squares."""
    rng = np.random.default_rng(2)
    kernel = path_kernel(shake_path(11, rng, wander=0.4))
    blurred = tensor(sensor(convolve(scene, kernel, 1.0), rng, noise=0.01))
    true = torch.from_numpy(kernel)
    blur = _Blur.of(true, *blurred.shape[1:])
    smooth = [psnr(codes(_deconvolved(blurred, blur, weight)), scene) for weight in (0.01, 0.03, 0.1, 0.3)]
    assert psnr(codes(deconvolve(blurred, true, 1.0)), scene) > max(smooth) + 0.5


def test_a_kernel_is_fitted_more_closely(scene: Image) -> None:
    true = path_kernel(shake_path(9, np.random.default_rng(9), wander=0.3))
    grey = tensor(np.asarray(sensor(convolve(scene, true), np.random.default_rng(0)))).pow(2.2).mean(0)
    found = find_kernel(grey)
    assert found is not None
    closer = _refined(grey, found)
    assert float(closer.sum()) == pytest.approx(1, abs=1e-5) and closer.min() >= 0
    assert likeness(closer.numpy(), true) > likeness(found.numpy(), true) + 0.01


def test_no_kernel_is_fitted_to_noise(scene: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    point = torch.zeros(3, 3)
    point[1, 1] = 1
    fitted: list[torch.Tensor] = []
    monkeypatch.setattr("deblur.shake._refined", lambda region, kernel: fitted.append(region) or kernel)
    for noise in (0.99 * NOISY, NOISY):
        one = _Estimate(1.0, noise, 2.2, point, torch.ones(128, 128))
        monkeypatch.setattr("deblur.shake._estimate", lambda *_, one=one: one)
        assert undo_shake(tensor(scene)) is not None
    assert len(fitted) == 1


def test_a_point_changes_little(scene: Image) -> None:
    kernel = torch.zeros(5, 5)
    kernel[2, 2] = 1
    assert psnr(codes(deconvolve(tensor(scene), kernel)), scene) > 30


GOOD = KernelSigns(
    length=3.0, pixels=25, squares=0.06, ringing=0.98, overshoot=0.2, noise=0.05, scattered=0.0, repetition=0.2
)


@pytest.mark.parametrize(
    "sign",
    [
        {"squares": 0.12}, {"ringing": 1.05}, {"overshoot": 0.5}, {"noise": 0.5}, {"scattered": 0.3}, {"length": 12.0},
        {"pixels": 60},
    ],
)  # fmt: skip
def test_every_sign_of_a_bad_kernel_takes_from_what_is_shown(sign: dict[str, float]) -> None:
    assert 0.9 < shown_share(GOOD) <= MOST
    assert shown_share(dataclasses.replace(GOOD, **sign)) < shown_share(GOOD) - 0.1  # type: ignore[arg-type]


def test_some_signs_refuse_a_kernel_outright() -> None:
    assert shown_share(dataclasses.replace(GOOD, ringing=1.11)) == 0
    assert shown_share(dataclasses.replace(GOOD, repetition=0.81)) == 0


def test_a_kernel_in_pieces_is_told_from_a_path(scene: Image) -> None:
    path = path_kernel(shake_path(7, np.random.default_rng(0)))
    pieces = np.zeros((SIDE, SIDE), np.float32)
    pieces[5:7, 5:7], pieces[20:22, 20:22] = 0.15, 0.1
    grey = cv2.cvtColor(convolve(scene, path), cv2.COLOR_RGB2GRAY)
    told = [kernel_signs(torch.from_numpy(grey), torch.from_numpy(each), 1.0).scattered for each in (path, pieces)]
    assert told == pytest.approx([0.0, 0.4], abs=1e-5)


def test_nothing_is_read_from_a_dark_picture(scene: Image) -> None:
    """Kernels found where noise and rounding weigh as much as edges did harm."""
    true = path_kernel(shake_path(9, np.random.default_rng(4), wander=0.3))
    for brightness, told in ((1.0, True), (0.1, False)):
        blurred = convolve(np.rint(scene * brightness).astype(np.uint8), true)
        picture = tensor(np.asarray(sensor(blurred, np.random.default_rng(0), noise=0.01)))
        assert (gamma_costs(picture) is not None) == (undo_shake(picture) is not None) == told


def test_other_gammas_do_not_stand_in_for_kernels_that_are_not_trusted(
    scene: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = torch.from_numpy(path_kernel(shake_path(9, np.random.default_rng(4), wander=0.3)))
    blurred = tensor(np.asarray(np.rint(255 * convolve(scene, true.numpy())), np.uint8))
    likely = gamma_of([costs]) if (costs := gamma_costs(blurred)) is not None else 0.0
    for share, found in ((0.0, False), (0.5, True)):
        monkeypatch.setattr(
            "deblur.shake._estimate",
            lambda region, gamma, coarse=None, share=share: _Estimate(
                share if gamma == likely else 1.0, 0.0, gamma, true, region
            ),
        )
        assert (undo_shake(blurred) is not None) == found


def test_where_edges_come_out_less_sparse_less_is_shown() -> None:
    ringing = torch.tensor([0.8, AGREES, (AGREES + DISAGREES) / 2, DISAGREES, 1.5])
    assert torch.allclose(agreement(ringing), torch.tensor([1, 1, 0.5, 0, 0]), atol=1e-5)


def test_tiles_are_told_from_a_scene(scene: Image) -> None:
    """What repeats itself is as well explained by many kernels, and sharpening by a wrong one costs up to 6 dB."""
    tiled = np.tile(scene[100:130, 200:233], (16, 15, 1))[:360, :480]
    kernel = torch.from_numpy(path_kernel(shake_path(7, np.random.default_rng(0))))
    for picture, least, most in ((tiled, 0.9, 1.01), (scene, 0.0, 0.6)):
        grey = cv2.cvtColor(convolve(picture, kernel.numpy()), cv2.COLOR_RGB2GRAY)
        assert least <= kernel_signs(torch.from_numpy(grey), kernel, 1.0).repetition <= most
    soft = cv2.GaussianBlur(tiled, (0, 0), 1.5)
    assert undo_shake(tensor(soft)) is None


def test_what_moves_by_itself_is_left_out(scene: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame is shaken; a thing in it moved with the camera, and is sharp. There hardly anything is changed."""
    true = path_kernel(shake_path(9, np.random.default_rng(4), wander=0.3))
    blurred = np.asarray(np.rint(255 * convolve(scene, true)), np.uint8)
    thing = np.s_[60:260, 200:400]
    blurred[thing] = scene[thing]
    monkeypatch.setattr(
        "deblur.shake._estimate",
        lambda region, gamma, coarse: _Estimate(1.0, 0.0, gamma, torch.from_numpy(true), region),
    )
    undone = undo_shake(tensor(blurred), 2.2)
    assert undone is not None
    outside = np.ones(scene.shape[:2], np.bool_)
    outside[20:300, 160:440] = False
    assert undone.share[110:210, 250:350].mean() < 0.5 < undone.share[outside].mean()


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no card here")
def test_a_card_finds_what_the_cpu_finds(scene: Image) -> None:
    true = path_kernel(shake_path(11, np.random.default_rng(4), wander=0.3))
    blurred = tensor(np.asarray(sensor(convolve(scene, true), np.random.default_rng(0))))
    here, there = undo_shake(blurred), undo_shake(blurred.to(torch.accelerator.current_accelerator()))
    assert here is not None and there is not None and there.picture.device != blurred.device
    shown = [codes(blurred + one.share.cpu() * (one.picture.cpu() - blurred)) for one in (here, there)]
    assert abs(psnr(shown[0], scene) - psnr(shown[1], scene)) < 0.01


def test_pictures_of_one_batch_do_not_touch_one_another(scene: Image) -> None:
    """The candidates for gamma are looked at together: each kernel is as when it is looked for alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several add up in another order, which the steps of the search make larger
    try:
        batch_and_single(scene)
    finally:
        torch.set_num_threads(threads)


def batch_and_single(scene: Image) -> None:
    rng = np.random.default_rng(4)
    grey = []
    for k, extent in enumerate((7, 11)):
        blurred = convolve(scene, path_kernel(shake_path(extent, rng)), 1.0 + k)
        grey.append(torch.from_numpy(cv2.cvtColor(blurred, cv2.COLOR_RGB2GRAY)[:240, :320].copy()))
    grey.append(torch.full_like(grey[0], 0.5))
    together = _find_kernels(torch.stack(grey), 15)
    for k in (0, 1):
        alone = find_kernel(grey[k], 15)
        assert alone is not None and torch.allclose(alone, together[k], atol=1e-4)
    assert find_kernel(grey[2], 15) is None and float(together[2].nan_to_num().sum()) == 0
