"""The deblurring stage: strength that follows the blur and not the noise, no flicker, no tint, no bad borders."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from deblur import BLURRED, Deblurrer, Settings, Sharpened, blur_score
from deblur.blur import convolve, path_kernel, sensor, shake_path
from deblur.gate import RAMP, blur_strength, steady_score
from fpsgan import weights
from fpsgan.demo import render_scene
from fpsgan.stages.deblurring import Counters, deblurred
from fpsgan.stages.scenes import stillness
from fpsgan.stages.timeline import Relation
from fpsgan.video.frame import Color, Frame, PixelFormat

CPU = torch.device("cpu")


class Sharper(nn.Module):
    """Stands for a network: an unsharp mask that also brightens and reddens the picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        soft = nn.functional.avg_pool2d(nn.functional.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1)
        return ((2 * x - soft) * torch.tensor([1.06, 1.02, 1.02]).view(1, 3, 1, 1)).clamp(0, 1)


def frame(image: np.ndarray, number: int = 0, depth: int = 8) -> Frame:
    """Of an integer picture [H,W,3] of that depth."""
    form = PixelFormat.of("gbrp" if depth == 8 else f"gbrp{depth}le")
    planes = tuple(np.ascontiguousarray(image[..., channel]) for channel in (1, 2, 0))
    return Frame(planes, form, Color(), Fraction(number, 30), Fraction(1, 30))


def sharpen(
    images: Iterable[np.ndarray], deblurrer: Deblurrer, cut: int = -1, mode: str = "auto"
) -> tuple[list[np.ndarray], Counters]:
    """uint8 pictures in and out, as one scene or with a cut before one of them."""
    counters = Counters()
    frames = [(frame(image, k), Relation.CUT if k == cut else Relation.MOTION) for k, image in enumerate(images)]
    found = [f.as_rgb() for f, _ in deblurred(frames, deblurrer, Settings(mode), counters)]
    return [np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8) for picture in found], counters


def shaken(scene: np.ndarray, extent: float, noise: float, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    kernels = [path_kernel(shake_path(extent, rng)) for _ in range(count)]
    return [sensor(convolve(scene, kernel), rng, noise=noise) for kernel in kernels]


def change(images: list[np.ndarray]) -> float:
    """Mean absolute change from picture to picture, in codes."""
    return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(images)]))


def test_a_scene_agrees_on_the_gamma_in_which_it_was_blurred() -> None:
    """The first three frames vote, together they decide, a cut begins anew; a plain frame has no vote."""

    class Voting:
        asked, told, undoes_shake, motion = 0, [], True, None

        def gamma_costs(self, picture: np.ndarray) -> np.ndarray | None:
            self.asked += 1
            answers = [None, (0.5, 0.4, 0.6), (0.5, 0.9, 0.1), (0.1, 0.3, 0.9), (0.9, 0.8, 0.1)]
            answer = answers[self.asked - 1]
            return None if answer is None else np.array(answer, np.float32)

        def sharpen(
            self, picture: np.ndarray, strength: float, *, cautious: bool, gamma: float | None, moving: None
        ) -> Sharpened:
            self.told.append(gamma)
            return Sharpened(picture.copy(), strength)

    voting = Voting()
    images = [np.full((32, 32, 3), k, np.uint8) for k in range(7)]
    sharpen(images, voting, cut=6, mode="on")
    assert voting.asked == 5 and voting.told == [None, 1.5, 2.2, 1.0, 1.0, 1.0, 2.2]


@pytest.mark.parametrize(
    ("shaken_ones", "kept"),
    [({3}, set()), ({3, 4}, {3, 4}), ({0}, {0}), ({7}, {7}), ({5}, {5}), ({1, 3}, set())],
    ids=["alone", "two", "first", "last", "behind a cut", "apart"],
)
def test_a_shake_that_one_frame_alone_shows_is_a_mistake(shaken_ones: set[int], kept: set[int]) -> None:
    """All frames are soft. With a cut before the sixth, that has no neighbour on the one side."""

    class Finding:
        undoes_shake, motion = True, None

        def gamma_costs(self, picture: np.ndarray) -> None:
            return None

        def sharpen(
            self, picture: np.ndarray, strength: float, *, cautious: bool, gamma: float | None, moving: None
        ) -> Sharpened:
            shaken = round(255 * float(picture[0, 0, 0])) in shaken_ones
            return Sharpened(picture.copy(), strength, shaken=True) if shaken else Sharpened(picture, 0.0)

    soft = cv2.GaussianBlur(render_scene(0.2, 320, 224), (0, 0), 4)
    images = [soft.copy() for _ in range(8)]
    for number, image in enumerate(images):
        image[0, 0] = number
    frames = [(frame(image, k), Relation.CUT if k == 5 else Relation.MOTION) for k, image in enumerate(images)]
    counters = Counters()
    found = [f.rgb is not None for f, _ in deblurred(frames, Finding(), Settings(), counters)]
    assert {k for k, sharpened in enumerate(found) if sharpened} == kept
    assert (counters.deblurred, counters.sharp_skipped) == (len(kept), 8 - len(kept))


def shipped() -> Deblurrer:
    return Deblurrer(weights.load("deblur-mobilenet"), CPU, torch.float32)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return render_scene(0.2, 320, 224)


@pytest.mark.parametrize(
    ("deblurrer", "extent"),
    [(shipped(), 5), (shipped(), 8), (Deblurrer(Sharper(), CPU, torch.float32), 4)],
    ids=["shipped", "shipped-long", "mask"],
)
def test_a_scene_that_stands_still_does_not_flicker(scene: np.ndarray, deblurrer: Deblurrer, extent: float) -> None:
    """Noise and another shake in every frame: the counters changes no more than the noise of the truth does."""
    rng = np.random.default_rng(1)
    truth = [sensor(scene / np.float32(255), rng, noise=0.01) for _ in range(8)]
    for mode in ("on", "auto"):
        found, counters = sharpen(shaken(scene, extent, 0.01, 8), deblurrer, mode=mode)
        assert counters.deblurred >= 6
        assert change(found) <= 1.1 * change(truth)


def test_auto_leaves_alone_what_is_soft_but_not_shaken(scene: np.ndarray) -> None:
    """Weights that undo the shake are of no use there; when told to, they sharpen it all the same."""
    soft = [cv2.GaussianBlur(scene, (0, 0), 1.0)] * 2
    found, counters = sharpen(soft, shipped(), mode="auto")
    assert (counters.deblurred, counters.sharp_skipped) == (0, 2)
    assert np.abs(found[0].astype(int) - soft[0]).max() <= 1  # as it came
    assert sharpen(soft, shipped(), mode="on")[1].deblurred == 2


def test_what_moves_is_not_smeared(scene: np.ndarray) -> None:
    """A pan by half a pixel a frame, and a small thing that moves over a scene that stands: each frame as by itself."""
    wide = cv2.resize(render_scene(0.2, 960, 640), (960, 640))
    moves = [np.array([[1, 0, -0.5 * k], [0, 1, 0]]) for k in range(6)]
    pan = [cv2.GaussianBlur(cv2.warpAffine(wide, move, (640, 448)), (0, 0), 2) for move in moves]
    thing = [cv2.GaussianBlur(scene, (0, 0), 2) for _ in range(6)]
    for k, image in enumerate(thing):
        image[80:112, 40 + 8 * k : 72 + 8 * k] = (200, 40, 40)
    deblurrer = Deblurrer(Sharper(), CPU, torch.float32)
    for images, where in ((pan, np.s_[:, :]), (thing, np.s_[64:128, 24:128])):
        together, _ = sharpen(images, deblurrer, mode="on")
        alone = [sharpen([image], deblurrer, mode="on")[0][0] for image in images]
        error = np.abs(together[-1].astype(int) - alone[-1])[where]
        assert error.mean() < 0.5, "of 255"


def test_stillness(scene: np.ndarray) -> None:
    grey = cv2.cvtColor(scene, cv2.COLOR_RGB2GRAY)
    assert stillness(grey, grey).min() == 1
    assert stillness(grey, np.roll(grey, 3, 1)).mean() < 0.05
    assert stillness(grey, cv2.add(grey, 8)).max() < 0.05
    assert stillness(grey[:17, :16], grey[:17, :16]).shape == (17, 16)


def test_a_cut_and_an_untouched_frame_forget_what_was_before(scene: np.ndarray) -> None:
    images = shaken(scene, 5, 0.01, 2)
    deblurrer = Deblurrer(Sharper(), CPU, torch.float32)
    alone = sharpen(images[1:], deblurrer, mode="on")[0][0]
    assert np.array_equal(sharpen(images, deblurrer, cut=1, mode="on")[0][1], alone)
    assert not np.array_equal(sharpen(images, deblurrer, mode="on")[0][1], alone)


@pytest.mark.parametrize("deblurrer", [shipped(), Deblurrer(Sharper(), CPU, torch.float32)], ids=["shipped", "mask"])
def test_colour_stays(scene: np.ndarray, deblurrer: Deblurrer) -> None:
    images = shaken(scene, 5, 0.005, 3)
    found, _ = sharpen(images, deblurrer, mode="on")
    for before, after in zip(images, found, strict=True):
        assert np.abs(after.astype(float) - before).mean() > 0.01
        assert np.abs((after.astype(float) - before).mean((0, 1))).max() < 0.3
    black = np.zeros_like(images[0])
    black[60:160] = images[0][60:160]  # bars above and below stay black
    assert sharpen([black], deblurrer, mode="on")[0][0][:50].max() == 0


def test_the_border_is_as_good_as_the_inside() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (352, 416, 3)).astype(np.float32)
    texture = np.clip(0.5 + 0.6 * cv2.GaussianBlur(noise, (0, 0), 2), 0, 1)
    seen = np.s_[64:-64, 64:-64]  # blurred by what lies outside, not by a mirror image
    truth = (255 * texture[seen]).round()
    blurred = sensor(convolve(texture, path_kernel(shake_path(6, rng))), rng)[seen]
    for deblurrer in (shipped(), Deblurrer(Sharper(), CPU, torch.float32)):
        error = np.abs(sharpen([np.ascontiguousarray(blurred)], deblurrer, mode="on")[0][0] - truth).mean(2)
        inner = error[12:-12, 12:-12].mean()
        border = (error.sum() - error[12:-12, 12:-12].sum()) / (error.size - error[12:-12, 12:-12].size)
        assert border <= 1.2 * inner


def test_sharp_pictures_come_back() -> None:
    scene = render_scene(0.2, 640, 384)
    (found,), counters = sharpen([scene], shipped())
    assert np.array_equal(found, scene) and (counters.deblurred, counters.sharp_skipped) == (0, 1)
    for extent in (1.5, 2.0):  # hardly blurred: about the threshold
        image = convolve(scene, path_kernel(shake_path(extent, np.random.default_rng(0))))
        before = sensor(image, np.random.default_rng(0))
        (after,), _ = sharpen([before], shipped())
        assert cv2.PSNR(after, before) >= 45


def test_strength_rises_smoothly_with_the_blur() -> None:
    assert blur_strength(BLURRED) == pytest.approx(0.5)
    assert blur_strength(BLURRED - RAMP) == blur_strength(0.0) == 0
    assert blur_strength(BLURRED + RAMP) == blur_strength(2.0) == 1
    steps = np.diff([blur_strength(score) for score in np.linspace(1, 2, 101)])
    assert steps.min() >= 0 and steps.max() < 0.1


def test_the_score_follows_blur_and_not_noise() -> None:
    rng, score, seen = np.random.default_rng(0), None, []
    for _ in range(100):
        score = steady_score(score, BLURRED + float(rng.normal(0, 0.02)))
        seen.append(blur_strength(score))
    assert np.abs(np.diff(seen)).max() < 0.05 and np.std(seen) < 0.06
    assert steady_score(1.0, 1.6) == pytest.approx(1.6) and steady_score(1.6, 1.0) == pytest.approx(1.0)
    assert steady_score(None, 1.3) == 1.3


def test_a_blurred_frame_among_sharp_ones_is_found_and_a_cut_starts_anew(scene: np.ndarray) -> None:
    blurred = shaken(scene, 9, 0.0, 1)[0]
    assert blur_score(blurred) > BLURRED + RAMP
    deblurrer = Deblurrer(Sharper(), CPU, torch.float32)
    _, counters = sharpen([scene, scene, blurred, scene, scene], deblurrer)
    assert (counters.deblurred, counters.sharp_skipped) == (1, 4)
    assert sharpen([scene, blurred], deblurrer, cut=1)[1].deblurred == 1


def test_ten_bits_stay_ten_bits(scene: np.ndarray) -> None:
    """A network in bf16, whose own numbers have 8 bits, leaves a ten-bit ramp smooth."""
    ramp = np.tile(np.arange(256, 768, dtype=np.uint16)[None, :, None], (64, 1, 3))
    deblurrer = Deblurrer(weights.load("deblur-mobilenet"), CPU, torch.bfloat16)
    deep = frame(ramp, depth=10)
    ((found, _),) = deblurred([(deep, Relation.MOTION)], deblurrer, Settings("on"), Counters())
    assert found.rgb is not None
    planes = found.as_planes(deep.format, deep.color)
    assert planes[0].dtype == np.uint16
    for plane in planes:
        assert np.abs(plane.astype(int) - ramp[..., 0])[:, 32:-32].max() <= 8
        assert len(np.unique(plane)) > 400


def test_tiles_leave_no_seam(scene: np.ndarray) -> None:
    image = (np.asarray(shaken(render_scene(0.2, 480, 320), 5, 0.0, 1)[0]) / 255).astype(np.float32)
    whole = shipped().sharpen(image).picture
    tiled = Deblurrer(weights.load("deblur-mobilenet"), CPU, torch.float32, tile=192).sharpen(image).picture
    steps = np.abs(np.diff(tiled - whole, axis=1)).mean(axis=(0, 2))
    assert np.abs(tiled - whole).mean() < 0.5 / 255 and steps.max() < 0.5 / 255


def test_frames_that_come_too_late_pass_as_they_are(scene: np.ndarray) -> None:
    frames = [(frame(image, k), Relation.MOTION) for k, image in enumerate(shaken(scene, 5, 0.0, 4))]
    deblurrer = Deblurrer(Sharper(), CPU, torch.float32)
    found = deblurred(frames, deblurrer, Settings("on"), Counters(), late=lambda f: f.pts * 30 in (1, 2))
    assert [f.rgb is None for f, _ in found] == [False, True, True, False]


def frames_of(images: Iterable[np.ndarray], cut: int) -> list[tuple[Frame, Relation]]:
    return [(frame(image, k), Relation.CUT if k == cut else Relation.MOTION) for k, image in enumerate(images)]


def as_bytes(frames: Iterable[tuple[Frame, Relation]], mode: str, workers: int = 1) -> list[bytes | None]:
    """What the stage makes of frames; None of those that it leaves alone."""
    done = deblurred(frames, shipped(), Settings(mode), Counters(), workers=workers)
    return [None if f.rgb is None else f.rgb.tobytes() for f, _ in done]


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_begun_anew_at_a_cut_it_gives_the_same_to_the_bit(scene: np.ndarray, mode: str) -> None:
    """Before the cut a scene that stands, after it one that moves: every kind of state is there."""
    rng = np.random.default_rng(3)
    wide = render_scene(0.2, 480, 224)
    kernels = [path_kernel(shake_path(6, rng)) for _ in range(4)]
    moving = [sensor(convolve(wide[:, 9 * k : 9 * k + 320], kernel), rng) for k, kernel in enumerate(kernels)]
    frames = frames_of([*shaken(scene, 5, 0.01, 4), *moving], cut=4)
    whole = as_bytes(frames, mode, workers=2)
    assert sum(picture is not None for picture in whole) >= 6
    assert as_bytes(frames[:4], mode) + as_bytes(frames[4:], mode) == whole
    first, *rest = frames[4:]
    assert as_bytes([(first[0], Relation.MOTION), *rest], mode) == whole[4:], "whoever begins there knows of no cut"


def test_begun_anew_within_a_shot_it_comes_close_after_a_run_up(scene: np.ndarray) -> None:
    """Not to the bit: the average of what stands still never quite forgets. Below a code in 256 after 20 frames."""
    deblurrer = Deblurrer(Sharper(), CPU, torch.float32)
    frames = frames_of(shaken(scene, 5, 0.01, 24), cut=-1)
    whole, late = (
        [f.as_rgb() for f, _ in deblurred(some, deblurrer, Settings("on"), Counters())] for some in (frames, frames[2:])
    )
    errors = [float(np.abs(one - other).max()) * 255 for one, other in zip(whole[2:], late, strict=True)]
    assert errors[0] > 1 and errors[20] < 1


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="mode"):
        Settings("always")
    with pytest.raises(ValueError, match="strength"):
        Settings("on", 1.5)
    assert Settings("off").strength_for(2.0) == 0 and Settings("on", 0.4).strength_for(0.0) == 0.4
    assert Settings("auto", 0.5).strength_for(2.0) == 0.5 and Settings("auto").strength_for(1.0) == 0
    assert Settings("on", 0.01).strength_for(2.0) == 0, "what nobody would see"
