from __future__ import annotations

import cv2
import numpy as np
import pytest

from fpsgan.demo import render_scene
from fpsgan.errors import OptionError
from fpsgan.scene import SceneDetector
from fpsgan.timeline import Relation


def texture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (240, 640)).astype(np.float32)
    wide = cv2.GaussianBlur(noise, (0, 0), 9)
    return np.clip(128 + wide / wide.std() * 45, 0, 255).astype(np.uint8)


def relations(frames: list[np.ndarray], **options: object) -> list[Relation]:
    detector = SceneDetector(**options)
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
        SceneDetector(**options)
