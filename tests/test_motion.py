"""Motion blur in a video: told, undone along the flow, and left alone where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import cv2
import numpy as np
import pytest
import torch

from deblur import Deblurrer, MotionBlur, Moving, Settings, blur_score
from deblur.blur import to_code, to_linear
from deblur.exposure import SHARES, Vote, agreed
from deblur.gate import DOUBT, EXPOSED, EXPOSURE_VOTES, UNDERREAD, VOTERS, VOTING, blur_strength, exposed
from deblur.paths import QUICK, Drift, Motion, drift_of, flows_between, motion_of
from fpsgan import weights
from fpsgan.demo import render_scene
from fpsgan.stages.deblurring import Counters, deblurred
from fpsgan.stages.timeline import Relation
from fpsgan.training.metrics import flicker, psnr
from fpsgan.video.frame import Color, Frame, PixelFormat

WIDTH, HEIGHT, COUNT = 288, 208, 7
FORMAT, STEP = PixelFormat.of("gbrp"), Fraction(1, 25)


@cache
def shipped() -> MotionBlur:
    return weights.load("deblur-motion", expect="motion")


@cache
def clip(share: float, pan: tuple[float, float] = (9.0, -4.0), number: int = 1) -> tuple[np.ndarray, ...]:
    """Frames of a scene that a camera pans over, its shutter open for a share of the time; a disc flies before it."""
    back = to_linear(render_scene(0.13 * number, WIDTH + 160, HEIGHT + 160).astype(np.float32) / 255)
    disc = to_linear(render_scene(0.13 * number + 5, 100, 100).astype(np.float32) / 255)
    mask = np.zeros((100, 100), np.float32)
    cv2.circle(mask, (50, 50), 45, 1, -1, cv2.LINE_AA)

    def at(t: float) -> np.ndarray:
        def moved(image: np.ndarray, x: float, y: float) -> np.ndarray:
            return cv2.warpAffine(image, np.float64([[1, 0, x], [0, 1, y]]), (WIDTH, HEIGHT))

        made = moved(back, pan[0] * (t - COUNT / 2) - 80, pan[1] * (t - COUNT / 2) - 80)
        place = WIDTH / 2 - 50 - 7 * (t - COUNT / 2), HEIGHT / 2 - 50 + 8 * (t - COUNT / 2)
        return made + moved(mask, *place)[..., None] * (moved(disc, *place) - made)

    moments = np.linspace(-0.5, 0.5, 25) * share if share else [0.0]
    means = [np.mean([at(k + float(m)) for m in moments], axis=0, dtype=np.float32) for k in range(COUNT)]
    return tuple(np.rint(255 * to_code(mean)).astype(np.uint8) for mean in means)


def motion_in(pictures: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, Motion]:
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures[k - 1 : k + 2]]
    return greys[1], motion_of(*greys, flows_between(*greys[:2]), flows_between(*greys[1:]))


def drift_in(pictures: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, Drift]:
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures[k - 1 : k + 2]]
    return greys[1], drift_of(flows_between(*greys[:2], QUICK), flows_between(*greys[1:], QUICK), QUICK)


def exposure_of(pictures: Sequence[np.ndarray], k: int) -> float:
    return agreed([shipped().exposure.vote(*drift_in(pictures, k))])


def shot(pictures: Sequence[np.ndarray], cuts: tuple[int, ...] = (0,)) -> list[tuple[Frame, Relation]]:
    frames = []
    for k, picture in enumerate(pictures):
        planes = tuple(np.ascontiguousarray(picture[..., c]) for c in (1, 2, 0))
        frame = Frame(planes, FORMAT, Color("rgb", full_range=True), k * STEP, STEP)
        frames.append((frame, Relation.CUT if k in cuts else Relation.MOTION))
    return frames


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Deblurrer:
    """A deblurrer in whose pictures no shake is ever found."""
    monkeypatch.setattr("deblur.deblurrer.undo_shake", lambda picture, gamma: None)
    monkeypatch.setattr("deblur.deblurrer.gamma_costs", lambda picture: None)
    network = weights.load("deblur-mobilenet", expect="deblur")
    return Deblurrer(network, torch.device("cpu"), torch.float32, motion=shipped())


def through(stage: Deblurrer, frames: list[tuple[Frame, Relation]], workers: int = 1) -> list[np.ndarray | None]:
    done = deblurred(frames, stage, Settings("on"), Counters(), workers=workers)
    return [frame.rgb for frame, _ in done]


def codes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)


def test_flow_tells_how_each_frame_moves() -> None:
    _, motion = motion_in(clip(0.0), 3)
    background = motion.velocity[20:60, 20:60].reshape(-1, 2)
    assert np.abs(np.median(background, axis=0) - (9, -4)).max() < 0.5
    assert motion.missed.shape == (2, HEIGHT, WIDTH) and np.median(motion.missed) < 0.3


def test_a_quick_flow_tells_the_same_a_quarter_as_large() -> None:
    _, drift = drift_in(clip(0.0), 3)
    assert drift.velocity.shape == (HEIGHT // QUICK, WIDTH // QUICK, 2)
    assert np.abs(np.median(drift.velocity[5:15, 5:15].reshape(-1, 2), axis=0) - (9, -4)).max() < 0.7
    assert np.median(drift.missed) < 0.5


@pytest.mark.parametrize("number", [1, 3, 4])
def test_the_exposure_is_told(number: int) -> None:
    told = [exposure_of(clip(share, number=number), 3) for share in (0.0, 0.5, 0.9)]
    assert told[0] < EXPOSED[0] < told[1] < told[2]
    assert abs(told[1] - 0.5) < 0.2 and abs(told[2] - 0.9) < 0.3


def test_too_little_motion_tells_nothing() -> None:
    still = (clip(0.0)[0],) * 3
    assert shipped().exposure.vote(*drift_in(still, 1)) is None
    assert exposed(0.0, 1.0) == 0 and exposed(EXPOSED[1], 1.0) == 1


def test_more_is_asked_of_frames_that_are_sharp_as_a_whole() -> None:
    """Films are shot with a shutter that is open for half of the time, and are meant to look so."""
    assert exposed(0.45, 0.0) == 0 < exposed(0.45, 0.5) < 1 == exposed(0.45, 1.0) == exposed(0.7, 0.0)


def vote(share: float, places: int = VOTERS, sharp: float = -9.0, likeness: float = 1.0) -> Vote:
    """By profiles, and surely, this share."""
    likely = np.where(np.isclose(SHARES, share), 0.0, -9.0)
    likely[0] = sharp
    return Vote(likeness, likely, places)


def test_votes_count_by_their_places() -> None:
    told = agreed([vote(0.7), None, vote(0.4)])
    assert told == agreed([vote(0.4), vote(0.7)]) and UNDERREAD * 0.4 < told < UNDERREAD * 0.7
    assert agreed([vote(0.7, 3 * VOTERS), vote(0.4)]) == pytest.approx(UNDERREAD * 0.7)
    assert agreed([None, vote(0.8, VOTERS - 1)]) == 0


def test_the_lower_reading_counts_and_a_near_tie_is_sharp() -> None:
    assert agreed([vote(0.6, likeness=0.1)]) == pytest.approx(UNDERREAD * 0.1)
    assert agreed([vote(0.6, likeness=-0.1)]) == 0
    assert agreed([vote(0.6)]) == pytest.approx(UNDERREAD * 0.6)
    assert agreed([vote(0.6, sharp=0.0)]) < EXPOSED[0]
    assert agreed([vote(0.6, sharp=-2 * DOUBT)]) > EXPOSED[1]


@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_what_moves_gets_sharper_and_flickers_no_more(stage: Deblurrer, share: float) -> None:
    blurred, sharp = clip(share), clip(0.0)
    made = through(stage, shot(blurred))
    inner = range(1, COUNT - 1)
    assert all(made[k] is not None for k in inner)
    gains = [psnr(codes(made[k]), sharp[k]) - psnr(blurred[k], sharp[k]) for k in inner]
    assert np.mean(gains) > 1 and min(gains) > 0.5
    done = [codes(made[k]) for k in inner]
    assert flicker(done, sharp[1:-1]) < flicker(list(blurred[1:-1]), sharp[1:-1])


def test_a_sharp_clip_stays_bit_for_bit(stage: Deblurrer) -> None:
    done = deblurred(shot(clip(0.0)), stage, Settings("auto"), Counters())
    assert all(frame.rgb is None for frame, _ in done)


@pytest.mark.parametrize("share", [0.4, 0.75])
def test_long_exposures_are_undone_in_frames_that_are_sharp_as_a_whole(stage: Deblurrer, share: float) -> None:
    """Most of the picture stands still and is sharp: the blur score has nothing to say."""
    still = clip(0.0, number=4)[0]
    pictures = [np.vstack((np.hstack((picture, still)), np.hstack((still, still)))) for picture in clip(share)]
    assert all(blur_strength(blur_score(np.float32(picture / 255))) == 0 for picture in pictures)
    made = [frame.rgb for frame, _ in deblurred(shot(pictures), stage, Settings("auto"), Counters())]
    if share < 0.5:
        assert all(picture is None for picture in made)
        return
    for k, sharp in enumerate(clip(0.0)[1:-1], 1):
        here = np.s_[:HEIGHT, :WIDTH]
        assert made[k] is not None
        assert psnr(codes(made[k][here]), sharp) > psnr(pictures[k][here], sharp) + 0.5
        assert np.array_equal(codes(made[k][HEIGHT + 40 :]), pictures[k][HEIGHT + 40 :])


def test_colour_differences_and_what_stands_still_stay(stage: Deblurrer) -> None:
    still = clip(0.0)[0]
    pictures = [np.hstack((picture, still)) for picture in clip(0.75)]
    _, motion = motion_in(pictures, 3)
    picture = np.float32(pictures[3] / 255)
    done = stage.unblurred(picture, Moving(motion, 0.75))
    assert done.touched and not done.shaken and 0.2 < done.share < 0.7
    assert np.array_equal(done.picture[:, WIDTH + 60 :], picture[:, WIDTH + 60 :])
    change = done.picture - picture
    assert np.abs(change[..., 0] - change[..., 2]).max() < 1e-6 and np.abs(change).max() > 0.02


def test_nothing_is_taken_across_a_cut_and_workers_do_not_matter(stage: Deblurrer) -> None:
    first, second = clip(0.75), clip(0.75, pan=(-8.0, 6.0), number=3)
    whole = through(stage, shot([*first, *second], cuts=(0, COUNT)), workers=2)
    apart = [*through(stage, shot(first)), *through(stage, shot(second))]
    for here, there in zip(whole, apart, strict=True):
        assert (here is None) == (there is None) and (here is None or np.array_equal(here, there))


def test_votes_of_a_shot_reach_so_far_back(stage: Deblurrer) -> None:
    """So what lies further back does not matter: a shot of blurred frames that go on after other ones."""
    pictures = [*clip(0.9)[:VOTING], *clip(0.75, number=4), *clip(0.75), *clip(0.75, number=3)]
    late, whole = (through(stage, shot(pictures[first:], cuts=())) for first in (VOTING, 0))
    settled = EXPOSURE_VOTES * VOTING + 1
    assert all(picture is not None for picture in late[settled:-1])
    for here, there in zip(late[settled:], whole[VOTING + settled :], strict=True):
        assert (here is None) == (there is None) and (here is None or np.array_equal(here, there))


@pytest.mark.parametrize("side", [16, 63, 64, 65])
def test_the_smallest_frames_pass(stage: Deblurrer, side: int) -> None:
    made = through(stage, shot([picture[:side, : side + 3] for picture in clip(0.75)]))
    assert len(made) == COUNT and all(picture is None or np.isfinite(picture).all() for picture in made)


def test_weights_that_have_learned_nothing_change_nothing() -> None:
    grey, motion = motion_in(clip(0.75), 3)
    assert not MotionBlur().eval().residual(grey.astype(np.float32) / 255, motion, 0.75).any()
