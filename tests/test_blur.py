"""Blur synthesis and the blur score."""

import time

import cv2
import numpy as np
import pytest

from deblur.blur import (
    blur_score,
    convolve,
    defocus_kernel,
    path_kernel,
    sensor,
    shake,
    shake_path,
    to_code,
    to_linear,
)
from deblur.gate import BLURRED


@pytest.fixture(scope="module")
def picture():
    """A sharp drawing, uint8 [360,480,3]: edges in every direction, flat and shaded areas."""
    rng = np.random.default_rng(1)
    image = np.full((360, 480, 3), 90, np.uint8)
    for _ in range(400):
        points = rng.integers(0, (480, 360), (3, 2)).astype(np.int32)
        points = points[:1] + (points - points[:1]) // 4
        cv2.fillPoly(image, [points], rng.integers(0, 256, 3).tolist(), cv2.LINE_AA)
    return image


def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("wander", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("extent", [3, 12.5, 31])
def test_a_path_is_as_long_as_asked_and_centred(extent, wander):
    path = shake_path(extent, rng(), wander=wander)
    assert np.abs(path.mean(0)).max() < 1e-3
    turns = np.linspace(0, np.pi, 180)
    widths = np.ptp(path @ np.stack([np.cos(turns), np.sin(turns)]), axis=0)
    assert extent - 1e-3 <= widths.max() <= 1.2 * extent
    if wander == 0:
        assert widths.min() < 0.02 * extent + 1e-3  # a straight line


def test_kernels_keep_the_light_and_the_place():
    for kernel in (path_kernel(shake_path(15, rng())), defocus_kernel(2.5), defocus_kernel(0.3)):
        side = kernel.shape[0]
        assert kernel.shape == (side, side) and side % 2 == 1 and kernel.dtype == np.float32
        assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1, abs=1e-5)
        offsets = np.arange(side) - side // 2
        assert abs(kernel.sum(0) @ offsets) < 0.01 and abs(kernel.sum(1) @ offsets) < 0.01


def test_a_path_smears_along_itself():
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 1
    path = np.array([[0, 0], [10, 5]], np.float32)  # x 10 to the right, y 5 down
    blurred = convolve(point, path_kernel(path), gamma=1.0)
    assert blurred[20, 20, 0] == pytest.approx(0.5) and blurred[25, 30, 0] == pytest.approx(0.5)
    assert np.allclose(blurred, shake(point, path, np.zeros(2, np.float32), gamma=1.0), atol=1e-6)


def test_light_is_averaged_in_linear_light_and_clipped_first():
    image = np.zeros((32, 32, 3), np.float32)
    image[:, 16:] = 2.0  # a lamp, brighter than the sensor takes
    blurred = convolve(image, np.full((1, 2), 0.5, np.float32), gamma=2.2)
    values = np.unique(blurred.round(4))
    assert values.tolist() == pytest.approx([0, 0.5 ** (1 / 2.2), 1], abs=1e-3)


def test_linear_and_back():
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert np.array_equal(np.rint(to_code(to_linear(codes)) * 255), codes)
    assert np.allclose(to_linear(codes), to_linear(codes / np.float32(255)), atol=1e-6)


def test_a_turn_leaves_the_centre_and_moves_the_corner(picture):
    turns = np.linspace(-0.03, 0.03, 31).astype(np.float32)
    blurred = shake(picture, np.zeros((31, 2), np.float32), turns)
    error = np.abs(blurred * 255 - picture).mean(2)
    assert error[170:190, 230:250].mean() < 0.3 * error[:60, :60].mean()


def test_the_sensor_adds_the_noise_asked_for_and_rounds():
    grey = np.full((128, 128, 3), 0.5, np.float32)
    assert np.unique(sensor(grey, rng())).tolist() == [128]
    assert sensor(grey, rng(), noise=0.01).std() == pytest.approx(2.55, rel=0.1)
    colour = np.broadcast_to(np.float32([0.8, 0.4, 0.1]), (32, 32, 3))
    assert np.abs(sensor(colour, rng(), jpeg=90).mean((0, 1)) - [204, 102, 25.5]).max() < 3  # channels in place


def test_the_score_grows_with_blur_and_the_threshold_lies_between(picture):
    scores = [blur_score(picture)]
    for extent in (3, 6, 12):
        scores.append(blur_score(sensor(convolve(picture, path_kernel(shake_path(extent, rng(), wander=0))), rng())))
    assert scores[0] < BLURRED < scores[1]
    assert min(scores[1:]) > scores[0] + 0.2


def test_the_score_withstands_noise_and_does_not_depend_on_contrast(picture):
    blurred = convolve(picture, path_kernel(shake_path(9, rng(), wander=0.3)))
    assert (
        blur_score(sensor(blurred, rng(), noise=0.015))
        > BLURRED
        > blur_score(sensor(picture / np.float32(255), rng(), noise=0.015))
    )
    assert blur_score(picture / np.float32(255)) == pytest.approx(blur_score(picture), abs=0.01)
    assert blur_score(picture // 2) == pytest.approx(blur_score(picture), abs=0.05)


def test_frames_without_content_count_as_sharp():
    flat = np.full((200, 300, 3), 77, np.uint8)
    assert blur_score(flat) == 0
    assert blur_score(sensor(flat / np.float32(255), rng(), noise=0.02)) < BLURRED
    assert blur_score(np.zeros((16, 16, 3), np.uint8)) == 0


def test_the_score_takes_the_same_time_for_any_size():
    small, large = (np.zeros((h, w, 3), np.uint8) for h, w in ((720, 1280), (2160, 3840)))
    times = []
    for frame in (small, large):
        best = 1.0
        for _ in range(5):
            start = time.perf_counter()
            blur_score(frame)
            best = min(best, time.perf_counter() - start)
        times.append(best)
    assert times[1] < 3 * times[0]


def test_bad_arguments_are_refused():
    for frame in (np.zeros((20, 20), np.uint8), np.zeros((8, 20, 3), np.uint8), np.zeros((20, 20, 3), np.int32)):
        with pytest.raises(ValueError, match="need"):
            blur_score(frame)
    with pytest.raises(ValueError, match="extent"):
        shake_path(-1, rng())
    with pytest.raises(ValueError, match="radius"):
        defocus_kernel(0)
