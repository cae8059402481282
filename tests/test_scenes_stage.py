from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from fpsgan.demo import render_scene
from fpsgan.errors import OptionError
from fpsgan.stages.exposure import Exposure, exposure_change
from fpsgan.stages.overlays import OverlayFinder
from fpsgan.stages.scenes import SceneDetector, SceneSettings
from fpsgan.stages.timeline import Relation


def texture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (240, 640)).astype(np.float32)
    wide = cv2.GaussianBlur(noise, (0, 0), 9)
    return np.clip(128 + wide / wide.std() * 45, 0, 255).astype(np.uint8)


def relations(frames: list[np.ndarray], **options: object) -> list[Relation]:
    detector = SceneDetector(SceneSettings(**options))
    return [detector.relate(frame) for frame in frames]


def test_a_cut_is_found_and_a_fast_pan_is_none() -> None:
    first, second = texture(1), texture(2)
    pan = [first[:, 30 * k : 30 * k + 320].copy() for k in range(6)]
    other = [second[:, 30 * k : 30 * k + 320].copy() for k in range(3)]
    assert relations(pan + other) == [Relation.MOTION] * 6 + [Relation.CUT] + [Relation.MOTION] * 2


def test_brightness_may_drift_within_a_shot() -> None:
    fade = [np.clip(texture(1)[:, :320] * (1 - 0.04 * k), 0, 255).astype(np.uint8) for k in range(8)]
    assert Relation.CUT not in relations(fade)


@pytest.mark.parametrize("shots", [(1, 2), (3, 4), (5, 6)])
def test_our_own_scene_against_unrelated_ones(shots: tuple[int, int]) -> None:
    moving = [cv2.cvtColor(render_scene(k / 15, 320, 180), cv2.COLOR_RGB2GRAY) for k in range(6)]
    other = texture(shots[0])[:180, :320]
    assert relations([*moving, other, *moving]).count(Relation.CUT) == 2


def shot(seed: int, frames: int = 4, step: int = 2) -> list[np.ndarray]:
    """Fields of light and dark with shapes in front, that move by `step` px a frame."""
    rng = np.random.default_rng(seed)
    wide = texture(seed)
    for _ in range(25):
        place, radius = rng.integers((0, 0), (640, 240)), int(rng.integers(8, 40))
        cv2.circle(wide, place.tolist(), radius, int(rng.integers(0, 256)), -1, cv2.LINE_AA)
    return [wide[30:210, step * k : step * k + 320].copy() for k in range(frames)]


def lit(frames: list[np.ndarray], gain: float, offset: float = 0.0) -> list[np.ndarray]:
    return [np.clip(frame * gain + offset, 0, 255).astype(np.uint8) for frame in frames]


def animation(seed: int, ground: int) -> list[np.ndarray]:
    """A few flat shapes on a flat ground."""
    rng = np.random.default_rng(seed)
    places, steps = rng.integers(40, 140, (4, 2)), rng.integers(-3, 4, (4, 2))
    frames = [np.full((180, 320), ground, np.uint8) for _ in range(4)]
    for k, frame in enumerate(frames):
        for place, step in zip(places, steps, strict=True):
            cv2.rectangle(frame, (place + k * step).tolist(), (place + k * step + 50).tolist(), 255 - ground, -1)
    return frames


def noisy(frames: list[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(9)
    return [np.clip(np.rint(f + rng.normal(0, 1, f.shape)), 0, 255).astype(np.uint8) for f in frames]


@pytest.mark.parametrize("seed", range(10, 16))
def test_cuts_are_found(seed: int) -> None:
    here, there = shot(seed), shot(seed + 100)
    fast = [shot(seed, 4, 40), shot(seed + 100, 4, 40)]
    pairs = {
        "plain": (here, there),
        "within fast action": tuple(fast),
        "from the other side": (here, [frame[::-1, ::-1].copy() for frame in here]),
        "dark": (noisy(lit(here, 0.15)), noisy(lit(there, 0.15))),
        "animation": (animation(seed, 30), animation(seed + 100, 220)),
        "to black": (here, [np.zeros_like(here[0])] * 2),
    }
    for kind, (before, after) in pairs.items():
        found = relations(before + after)
        assert [k for k, relation in enumerate(found) if relation is Relation.CUT] == [len(before)], kind


def test_no_cut_is_found_at_threshold_0() -> None:
    frames = [*shot(1), *shot(2), *lit(shot(1), -1.0, 255), np.zeros_like(shot(1)[0]), *animation(3, 220)]
    assert relations(frames).count(Relation.CUT) >= 3
    assert Relation.CUT not in relations(frames, threshold=0)


def whip_pan(seed: int) -> list[np.ndarray]:
    wide = np.hstack([shot(seed + k, 1)[0] for k in range(0, 500, 100)])
    places = np.cumsum([2, 30, 60, 90, 120, 90, 60, 30, 2])
    blurred = cv2.blur(wide, (31, 1))
    return [blurred[:, x : x + 320].copy() for x in places]


def crossed(seed: int) -> list[np.ndarray]:
    """A disc nearly as high as the picture flies through."""
    frames = shot(seed, 9)
    for k, frame in enumerate(frames):
        cv2.circle(frame, (-100 + 65 * k, 90), 75, 60, -1, cv2.LINE_AA)
    return frames


def confetti(seed: int) -> list[np.ndarray]:
    """Storms up after four quiet frames: each flake on its own way."""
    rng = np.random.default_rng(seed)
    places, steps = rng.uniform(0, 1, (250, 2)) * (320, 180), rng.normal(0, 9, (250, 2))
    greys = rng.integers(0, 256, 250).tolist()
    frames = shot(seed, 10)
    for k, frame in enumerate(frames):
        for (x, y), grey in zip((places + k * steps) % (320, 180), greys, strict=True):
            cv2.circle(frame, (int(x), int(y)), 5, grey, -1, cv2.LINE_AA)
    return frames


def exploded(seed: int) -> list[np.ndarray]:
    frames = shot(seed, 9)
    for k, frame in enumerate(frames[3:]):
        fire = cv2.circle(frame.copy(), (200, 80), 30 + 15 * k, 250, -1, cv2.LINE_AA)
        frame[:] = cv2.addWeighted(frame, 0.3, fire, 0.7, 0)
    return frames


@pytest.mark.parametrize("seed", range(20, 26))
def test_what_happens_within_a_shot_is_no_cut(seed: int) -> None:
    still, other = shot(seed, 8), shot(seed + 100, 8)
    black = np.zeros_like(still[0])
    shake = np.random.default_rng(seed).integers(0, 25, 8)
    kinds = {
        "strobe": [frame for k, f in enumerate(still) for frame in lit([f], 0.2 if k % 2 else 1.1)],
        "flash": still[:3] + lit(still[3:5], 0.2, 200) + still[5:],
        "dissolve": [
            cv2.addWeighted(a, 1 - k / 7, b, k / 7, 0) for k, (a, b) in enumerate(zip(still, other, strict=True))
        ],
        "fade": [cv2.addWeighted(f, 1 - k / 7, black, k / 7, 0) for k, f in enumerate(still)],
        "fade in": [cv2.addWeighted(f, k / 7, black, 1 - k / 7, 0) for k, f in enumerate(still)],
        "shaken": [shot(seed, 1, 0)[0][x : x + 120, 2 * x : 2 * x + 200] for x in shake],
        "fast": shot(seed, 8, 40),
        "whip pan": whip_pan(seed),
        "crossed": crossed(seed),
        "confetti": confetti(seed),
        "explosion": exploded(seed),
        "held": [frame for k in range(0, 8, 3) for frame in noisy([still[k]] * 3)],
    }
    for kind, frames in kinds.items():
        assert Relation.CUT not in relations(frames), kind


def test_repeats_are_held_and_small_motion_is_not() -> None:
    wall = texture(1)[:, :320]
    dot = [cv2.circle(wall.copy(), (40 + 3 * k, 60), 5, 255, -1) for k in range(4)]
    noisy = [
        np.clip(f + np.random.default_rng(k).normal(0, 1, f.shape), 0, 255).astype(np.uint8) for k, f in enumerate(dot)
    ]
    twos = [noisy[0], noisy[0], noisy[1], noisy[1], noisy[2], noisy[2], noisy[3]]
    held, motion = Relation.HELD, Relation.MOTION
    assert relations(twos) == [motion, held, motion, held, motion, held, motion]
    assert relations(twos, dedup="off") == [motion] * 7


def test_repeats_are_seen_through_compression() -> None:
    drawings = [cv2.circle(texture(1)[:, :320].copy(), (40 + 12 * k, 90), 30, 255, -1) for k in range(6)]

    def compressed(frame: np.ndarray, quality: int) -> np.ndarray:
        return cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)

    twos = [compressed(drawing, quality) for drawing in drawings for quality in (88, 84)]
    assert relations(twos)[3::2] == [Relation.HELD] * 5  # the first repeat has no motion to be measured against


@pytest.mark.parametrize("options", [{"threshold": -0.1}, {"threshold": 1.5}, {"dedup": "sometimes"}])
def test_senseless_settings_are_refused(options: dict) -> None:
    with pytest.raises(OptionError):
        SceneDetector(SceneSettings(**options))


def labelled(frame: np.ndarray, opacity: float = 1.0) -> np.ndarray:
    label = frame.copy()
    cv2.rectangle(label, (20, 20), (120, 50), 20, -1)
    cv2.putText(label, "LIVE 12", (24, 44), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 240, 2, cv2.LINE_AA)
    return cv2.addWeighted(label, opacity, frame, 1 - opacity, 0)


def found(frames: list[np.ndarray]) -> np.ndarray | None:
    finder = OverlayFinder()
    return [finder.find(*pair) for pair in pairwise(frames)][-1]


def fine(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (240, 640)).astype(np.float32)
    return np.clip(128 + cv2.GaussianBlur(noise, (0, 0), 2) * 400, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("step", [3, 8, 20])
def test_an_overlay_on_a_moving_picture_is_found_where_it_is(step: int) -> None:
    mask = found([labelled(fine(1)[:, step * k : step * k + 320]) for k in range(6)])
    assert mask is not None
    inside = np.zeros(mask.shape, bool)
    inside[20:51, 20:121] = True
    assert (mask[24:46, 26:114] > 0).mean() > 0.9
    assert (mask[~cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))).astype(bool)] > 0).mean() < 0.01


def test_what_moves_or_rests_with_its_surroundings_is_no_overlay() -> None:
    scene = labelled(fine(1))
    pan = [scene[:, 4 * k : 4 * k + 320] for k in range(6)]
    resting = [cv2.circle(scene[:, :320].copy(), (40 + 30 * k, 120), 12, 255, -1) for k in range(6)]
    carried = found(pan)
    assert carried is None or (carried[20:51, :100] > 0).mean() < 0.02
    assert found(resting) is None


def test_an_overlay_is_not_carried_into_another_scene() -> None:
    finder = OverlayFinder()
    frames = [labelled(fine(1)[:, 5 * k : 5 * k + 320]) for k in range(6)]
    masks = [finder.find(*pair) for pair in pairwise(frames)]
    assert masks[1] is None and masks[2] is not None  # it has to last
    finder.forget()
    assert finder.find(*frames[-2:]) is None


@pytest.mark.parametrize(("gain", "offset"), [(0.8, 0.0), (1.25, 0.0), (0.5, 127.5)])
def test_a_fade_is_told_from_motion(gain: float, offset: float) -> None:
    frame0, moved = (np.clip(texture(1)[:, x : x + 320] * 0.7, 0, 255).astype(np.uint8) for x in (0, 6))
    exposure = exposure_change(frame0, np.rint(moved * gain + offset).astype(np.uint8))
    assert exposure is not None
    assert exposure == pytest.approx((gain, offset / 255), abs=0.05)
    assert exposure_change(frame0, moved) is None
    assert exposure_change(frame0, texture(2)[:, :320]) is None
    assert exposure_change(frame0, np.zeros_like(frame0)) is None


def test_light_moves_linearly_with_time() -> None:
    exposure = Exposure(0.5, 0.25)
    picture = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    assert exposure.best == 0
    assert np.allclose(exposure.move(picture, 0, 1), 0.5 * picture + 0.25)
    assert np.allclose(exposure.move(picture, 0, 0.5), 0.75 * picture + 0.125)
    assert np.allclose(exposure.move(exposure.move(picture, 0, 1), 1, 0.5), 0.75 * picture + 0.125, atol=1e-6)
