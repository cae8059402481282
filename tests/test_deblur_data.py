"""Samples for the deblurring network: light adds up as it does in a camera, and sharp stays sharp."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from fpsgan.errors import InputError
from fpsgan.training import deblur_data
from fpsgan.training.data import Mixture
from fpsgan.training.deblur_data import BlurredClips, PairedFrames, ShakenPhotos, degrade, expose, take_crop
from fpsgan.training.manifest import Clip

Image = NDArray[np.uint8]


def drawing(height: int = 240, width: int = 280, seed: int = 3) -> Image:
    """Squares of 9 px: edges in both directions."""
    cells = np.random.default_rng(seed).integers(0, 256, (-(-height // 9), -(-width // 9), 3))
    return np.kron(cells, np.ones((9, 9, 1))).astype(np.uint8)[:height, :width]


def written(folder: Path, frames: list[Image], blurred: list[Image] | None = None, name: str = "clip") -> Clip:
    def save(kind: str, pictures: list[Image]) -> tuple[str, ...]:
        names = tuple(f"{name}-{kind}{n}.png" for n in range(len(pictures)))
        for file, picture in zip(names, pictures, strict=True):
            cv2.imwrite(str(folder / file), picture[..., ::-1])
        return names

    height, width = frames[0].shape[:2]
    paths = {"frames": save("sharp", frames), "blurred": save("blurred", blurred or [])}
    return Clip(name, name, "train", len(frames), width, height, rate=Fraction(240), root=folder, **paths)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    cv2.imwrite(str(folder / "large.png"), drawing())
    cv2.imwrite(str(folder / "small.png"), drawing(81, 81))  # smaller than a crop with its margin
    return folder


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A drawing that moves 1 px a frame to the right."""
    big = cv2.GaussianBlur(drawing(160, 220), (0, 0), 1)
    return written(tmp_path_factory.mktemp("moving"), [big[:, 40 - n : 168 - n] for n in range(13)])


# --- light ---------------------------------------------------------------------------------------------------


def test_frames_add_up_in_linear_light() -> None:
    """By hand: 50, 100 and 200 of 255 are 0.02776, 0.12753 and 0.58597 of the light; their mean is 0.24709."""
    frames = [np.full((64, 64, 3), value, np.uint8) for value in (50, 100, 200)]
    assert expose(frames)[5, 7].tolist() == pytest.approx([0.52969] * 3, abs=1e-4)  # 135.1; of code values it is 116.7
    assert expose(frames, gamma=1.0)[0, 0, 0] * 255 == pytest.approx(350 / 3, abs=1e-2)
    assert np.abs(expose(frames[:1]) * 255 - 50).max() < 1e-3


@pytest.mark.parametrize("speed", [3, 6])
def test_fast_motion_smears_instead_of_showing_the_frames_apart(speed: int) -> None:
    big = cv2.GaussianBlur(drawing(128, 300), (0, 0), 1)
    at = [np.ascontiguousarray(big[:, 100 - n : 228 - n]) for n in range(4 * speed + 1)]
    few = at[::speed]  # five frames
    truth = np.mean([(frame / 255) ** 2.2 for frame in at], 0) ** (1 / 2.2) * 255
    apart = np.mean([(frame / 255) ** 2.2 for frame in few], 0) ** (1 / 2.2) * 255
    inner = np.s_[16:-16, 32:-32]
    error, plain = (np.abs(picture - truth)[inner].mean() for picture in (expose(few) * 255, apart))
    assert error < 0.15 * plain


def test_slow_motion_is_the_plain_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    big = cv2.GaussianBlur(drawing(96, 160), (0, 0), 1)
    frames = [np.ascontiguousarray(big[:, 40 - n : 136 - n]) for n in range(3)]
    monkeypatch.setattr(deblur_data, "_moved", lambda *_: pytest.fail("nothing to render between these"))
    assert np.allclose(expose(frames), np.mean([(f / 255) ** 2.2 for f in frames], 0) ** (1 / 2.2), atol=1e-4)


# --- clips ---------------------------------------------------------------------------------------------------


def test_the_centre_frame_is_the_answer(tmp_path: Path) -> None:
    """Frame n is uniformly 30 + 15·n, so that a sample tells which frames it is made of."""
    values = [30 + 15 * n for n in range(13)]
    source = BlurredClips([written(tmp_path, [np.full((64, 64, 3), v, np.uint8) for v in values])], 64)
    counts = []
    for seed in range(60):
        sample = source.sample(np.random.default_rng(seed))
        centre = values.index(round(float(np.median(sample["sharp"])) / 15) * 15)
        found = float(sample["blurred"].mean())
        halves = range(0, min(centre, 12 - centre) + 1)
        windows = {2 * h + 1: values[centre - h : centre + h + 1] for h in halves}
        means = {n: (np.mean([(v / 255) ** 2.2 for v in w]) ** (1 / 2.2)) * 255 for n, w in windows.items()}
        best = min(means, key=lambda n: abs(means[n] - found))
        assert abs(means[best] - found) < 1.0
        counts.append(best)
    assert set(counts) >= {1, 3, 5, 7} and 0.04 < np.mean(np.array(counts) == 1) < 0.35


def test_crops_of_moving_clips(moving: Clip) -> None:
    source = BlurredClips([moving], 64)
    pairs = [source.sample(np.random.default_rng(seed)) for seed in range(30)]
    changed = [np.abs(p["blurred"].astype(int) - p["sharp"]).mean() for p in pairs]
    assert sum(c < 1e-9 for c in changed) in range(1, 12)  # those that were to be left alone
    assert np.median(changed) > 3
    # no more frames than give the longest smear: two px are three frames, in a clip that moves by one
    reads: list[int] = []
    short = BlurredClips([moving], 64, longest=2.0)
    short.clips = [type("Counted", (), {"count": 13, "read": lambda _, n: reads.append(n) or moving.read(n)})()]
    for seed in range(20):
        short.sample(np.random.default_rng(seed))
    assert len(reads) <= 3 * 20


def test_pairs_stay_pairs(tmp_path: Path) -> None:
    """The blurred picture is the negative of the sharp one: a crop, turned and recoloured, has to be so too."""
    sharp = [[drawing(80, 96, seed=10 * k + n) for n in range(k + 1)] for k in range(3)]
    clips = [written(tmp_path, s, [255 - f for f in s], f"clip{k}") for k, s in enumerate(sharp)]
    source = PairedFrames(clips, 64)
    seen = set()
    for seed in range(60):
        sample = source.sample(np.random.default_rng(seed))
        assert np.array_equal(sample["blurred"], 255 - sample["sharp"])
        colours = frozenset(np.unique(sample["sharp"]).tolist())
        seen.add(max(
            ((k, n) for k in range(3) for n in range(k + 1)),
            key=lambda at: len(colours & set(np.unique(sharp[at[0]][at[1]]).tolist())) / len(colours),
        ))  # fmt: skip
    assert seen == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}


# --- photos --------------------------------------------------------------------------------------------------


def test_one_sample_in_twenty_stays_as_it_is_and_the_rest_is_blurred() -> None:
    rng, crop = np.random.default_rng(0), drawing()[:96, :96]
    pairs = [degrade(crop, rng) for _ in range(300)]
    untouched = [np.array_equal(blurred, target) for blurred, target in pairs]
    assert 0.02 < np.mean(untouched) < 0.09
    for (blurred, target), same in zip(pairs, untouched, strict=True):
        assert blurred.shape == target.shape == (96, 96, 3) and blurred.dtype == np.uint8
        assert same or np.array_equal(target, crop)
    # longer paths, more blur
    errors = [
        np.mean([np.abs(b.astype(int) - s).mean() for b, s in (degrade(crop, rng, longest) for _ in range(80))])
        for longest in (3, 31)
    ]
    assert errors[1] > 1.3 * errors[0]


def test_crops_come_from_the_photo(photos: Path) -> None:
    photo, rng = drawing(), np.random.default_rng(1)
    crops = [take_crop(photo, 64, rng) for _ in range(50)]
    assert all(crop.shape == (64, 64, 3) and crop.flags.c_contiguous for crop in crops)
    assert len({crop.tobytes() for crop in crops}) == 50
    assert take_crop(drawing(20, 30), 64, rng).shape == (64, 64, 3)


def test_paths_grow_over_the_ramp(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    real = degrade
    monkeypatch.setattr(
        deblur_data, "degrade", lambda crop, rng, longest, **_: asked.append(longest) or real(crop, rng, longest)
    )
    for index in (0, 500, 1000, 5000):
        ShakenPhotos([photos], 64, 23.0, ramp=1000).sample(np.random.default_rng(index), index)
    ShakenPhotos([photos], 64, 23.0).sample(np.random.default_rng(0), 0)
    assert asked == [3.0, 13.0, 23.0, 23.0, 23.0]


def test_samples_are_pure_and_collate(photos: Path, moving: Clip, tmp_path: Path) -> None:
    paired = written(tmp_path, [drawing(80, 96)], [255 - drawing(80, 96)])
    sources = [ShakenPhotos([photos], 64), BlurredClips([moving], 64), PairedFrames([paired], 64)]
    mixture, again = (Mixture(sources, [1, 1, 1], seed=seed) for seed in (2, 2))
    first = [mixture[n] for n in range(12)]
    for n in (11, 3, 0, 7):
        assert all(np.array_equal(first[n][key], again[n][key]) for key in ("blurred", "sharp"))
    assert len({sample["blurred"].tobytes() for sample in first}) == 12
    (batch,) = DataLoader(mixture, batch_sampler=[list(range(12))])
    assert batch.keys() == {"blurred", "sharp"}
    assert all(v.shape == (12, 3, 64, 64) and v.dtype == torch.uint8 for v in batch.values())


def test_errors_are_one_line_that_helps(photos: Path, moving: Clip, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 1 clips have no blurred pictures \(the first: clip\)"):
        PairedFrames([moving], 64)
    with pytest.raises(InputError, match="smaller than the crop of 192 px"):
        BlurredClips([moving], 192)
    with pytest.raises(InputError, match="too short"):
        BlurredClips([written(tmp_path, [drawing(64, 64)] * 2)], 64)
    with pytest.raises(ValueError, match="longest 2"):
        ShakenPhotos([photos], 64, 2.0)
    with pytest.raises(ValueError, match="multiple of 8"):
        ShakenPhotos([photos], 50)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png: not a readable picture"):
        ShakenPhotos([tmp_path / "broken.png"], 64).sample(np.random.default_rng(0))
