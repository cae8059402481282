"""Training samples: pure functions of their number, and frames, time and flows belong together."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from fpsgan.errors import InputError
from fpsgan.interpolator.flow import EFFORTS
from fpsgan.interpolator.synthesis import warp
from fpsgan.training import data
from fpsgan.training.data import (
    BLOCK,
    SHELF,
    ClipTriplets,
    Mixture,
    Photos,
    Recent,
    files_below,
    finish,
    in_frame,
    privileged_flow,
    triplet,
)
from fpsgan.training.lottie import Animations
from fpsgan.training.manifest import Clip
from fpsgan.training.scenes import Scenes

Image = NDArray[np.uint8]
KEYS = {
    "frame0",
    "truth",
    "frame1",
    "t",
    "flow01",
    "flow10",
    "acceleration0",
    "acceleration1",
    "flow_t0",
    "flow_t1",
    "visible",
}
VELOCITY = (3.0, -1.5)  # px per frame, of `pan`


def texture(side: int, seed: int = 0) -> Image:
    """Structure of every size, for the flow to hold on to."""
    rng, total = np.random.default_rng(seed), np.zeros((side, side, 3), np.float32)
    for sigma in (2, 6, 18):
        noise = cv2.GaussianBlur(rng.normal(0, 1, total.shape).astype(np.float32), (0, 0), sigma)
        total += noise / noise.std()
    return cv2.normalize(total, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def pan(count: int, height: int = 160, width: int = 176, velocity: tuple[float, float] = VELOCITY) -> list[Image]:
    """Frames of a texture that moves by `velocity` (x, y) px a frame."""
    big, start = texture(320), 80
    matrices = [np.float32([[1, 0, velocity[0] * n - start], [0, 1, velocity[1] * n - start]]) for n in range(count)]
    return [cv2.warpAffine(big, m, (width, height), flags=cv2.INTER_CUBIC) for m in matrices]


def packed(folder: Path, frames: list[Image], name: str = "pan") -> Clip:
    """A clip of these frames in a lossless pack."""
    codes = [cv2.imencode(".png", frame[..., ::-1])[1].tobytes() for frame in frames]
    (folder / f"{name}.bin").write_bytes(b"".join(codes))
    offsets = tuple(int(n) for n in np.cumsum([0, *map(len, codes)]))
    height, width = frames[0].shape[:2]
    place = {"pack": f"{name}.bin", "offsets": offsets, "root": folder}
    return Clip(name, name, "train", len(frames), width, height, rate=Fraction(60), **place)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return packed(tmp_path_factory.mktemp("clips"), pan(10))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.png"), texture(200, seed))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def animation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A turning square: the smallest thing that rlottie moves."""
    turn = {"a": 1, "k": [{"t": 0, "s": [0], "e": [180]}, {"t": 30, "s": [180]}]}
    place = {"p": {"k": [50, 50]}, "a": {"k": [0, 0]}, "s": {"k": [100, 100]}, "o": {"k": 100}}
    shape = [
        {"ty": "rc", "p": {"k": [0, 0]}, "s": {"k": [60, 30]}, "r": {"k": 0}},
        {"ty": "fl", "c": {"k": [1, 0, 0, 1]}},
    ]
    group = [{"ty": "gr", "it": [*shape, {"ty": "tr", **place, "p": {"k": [0, 0]}, "r": {"k": 0}}]}]
    layer = {"ty": 4, "ip": 0, "op": 30, "st": 0, "ks": {**place, "r": turn}, "shapes": group}
    path = tmp_path_factory.mktemp("lottie") / "turn.json"
    path.write_text(json.dumps({"v": "5.5", "fr": 30, "ip": 0, "op": 30, "w": 100, "h": 100, "layers": [layer]}))
    return path


@pytest.fixture(scope="module")
def mixture(clip: Clip, photos: list[Path], animation: Path) -> Mixture:
    return Mixture([ClipTriplets([clip], 96), Scenes(photos, 96), Animations([animation], 96)], [2, 1, 1], seed=5)


def equal(one: data.Sample, other: data.Sample) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k], equal_nan=k != "frame0") for k in one)


# --- numbers and batches -------------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_and_number_only(mixture: Mixture) -> None:
    numbers = [0, 1, 2, 9, BLOCK - 1, BLOCK, 10**12]
    first = {n: mixture[n] for n in numbers}
    copy = pickle.loads(pickle.dumps(mixture))  # as a worker process gets it
    assert all(not source.photos._read.kept for source in copy.sources if isinstance(source, Scenes))
    for n in reversed(numbers):
        assert equal(copy[n], first[n])
    assert not any(equal(first[a], first[b]) for a in numbers for b in numbers if a < b)
    assert not equal(Mixture(mixture.sources, [2, 1, 1], seed=6)[0], first[0])


def test_samples_of_all_sources_collate(mixture: Mixture) -> None:
    loader = DataLoader(mixture, batch_sampler=[list(range(12))])
    (batch,) = loader
    assert batch.keys() == KEYS
    for key in ("frame0", "truth", "frame1"):
        assert batch[key].shape == (12, 3, 96, 96) and batch[key].dtype == torch.uint8
    for key in ("flow01", "flow10", "flow_t0", "flow_t1", "visible"):
        assert batch[key].shape == (12, 2, 24, 24) and batch[key].dtype == torch.float32
    assert batch["t"].shape == (12,) and batch["t"].dtype == torch.float32
    assert ((batch["t"] > 0) & (batch["t"] < 1)).all()
    assert batch["flow01"].isfinite().all() and batch["flow10"].isfinite().all()


def test_shares_are_kept() -> None:
    class Constant:
        def __init__(self, value: int) -> None:
            self.value = value

        def sample(self, rng: np.random.Generator, index: int = 0) -> data.Sample:
            return {"value": np.array(self.value), "index": np.array(index)}

    mixture = Mixture([Constant(0), Constant(1), Constant(2)], [6, 3, 0], length=2000)
    counts = np.bincount([int(mixture[n]["value"]) for n in range(2000)], minlength=3)
    assert counts[2] == 0 and abs(counts[0] - 1333) < 80
    assert mixture[7]["index"] == 7 and len(mixture) == 2000
    with pytest.raises(IndexError):
        mixture[2000]
    for shares in ([1, 1], [1, -1, 1], [0, 0, 0], [1, float("nan"), 1]):
        with pytest.raises(ValueError, match="for 3 sources"):
            Mixture(mixture.sources, shares)


# --- real clips ----------------------------------------------------------------------------------------------


def typical(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """The flow (x, y) that most of a crop has."""
    return np.nanmedian(flow.reshape(2, -1), axis=1)


def rebuilt(sample: data.Sample, end: str, flow: str, target: str = "truth") -> float:
    """How far, of 255, frame `end` moved by its typical flow is from `target`: the median of what both show."""
    x, y = (float(v) for v in typical(sample[flow]))
    side = sample[end].shape[-1]
    field = torch.tensor([x, y])[None, :, None, None].expand(1, 2, side, side)
    moved = warp(torch.from_numpy(sample[end]).float()[None], field)[0].numpy()
    rows, columns = (slice(max(0, int(-v) + 1), side - max(0, int(v) + 1)) for v in (y, x))
    return float(np.median(np.abs(moved - sample[target])[:, rows, columns], axis=(1, 2)).max())


def test_every_augmentation_keeps_frames_time_and_flows_together(clip: Clip) -> None:
    """A pan is known everywhere: flow01 = V, flow_t0 = −t·V and flow_t1 = (1 − t)·V, whatever was done to it."""
    source = ClipTriplets([clip], 128)
    times, speeds, found = set(), set(), 0
    for seed in range(80):
        sample = source.sample(np.random.default_rng(seed))
        t, motion = float(sample["t"]), typical(sample["flow01"])
        tolerance = 0.4 + 0.04 * np.hypot(*motion)
        assert (sample["visible"] == 1).all()
        if np.abs(typical(sample["flow10"]) + motion).max() > tolerance:
            continue  # too fast for DIS, in so small a picture
        if rebuilt(sample, "frame1", "flow01", "frame0") >= 9:
            continue  # likewise, and wrong both ways alike
        found += 1
        for end, flow, expected in (("frame0", "flow_t0", -t), ("frame1", "flow_t1", 1 - t)):
            if np.isfinite(sample[flow]).mean() > 0.3:  # too fast for the search with the truth
                assert np.abs(typical(sample[flow]) - expected * motion).max() < tolerance
                assert rebuilt(sample, end, flow) < 9
                times.add(round(t, 4))
                speeds.add(round(float(np.hypot(*motion))))
    assert found >= 64 and len(times) >= 8 and len(speeds) >= 10
    allowed = {Fraction(part, gap) for gap in range(2, 9) for part in range(1, gap)}
    assert all(any(abs(t - fraction) < 1e-4 for fraction in allowed) for t in times)


@pytest.mark.parametrize("when", [(1, 2), (1, 4), (3, 4), (2, 4)])
def test_motion_without_zoom_is_that_of_the_clip_and_of_shifts(when: tuple[int, int]) -> None:
    part, gap = when
    frames = pan(gap + 1)
    motions, times = [], set()
    for seed in range(24):
        rng = np.random.default_rng(seed)
        sample = triplet([frames[0], frames[part], frames[gap]], when, 96, rng, zoom=False, privileged=True)
        motion, t = typical(sample["flow_t1"]) - typical(sample["flow_t0"]), float(sample["t"])
        motions.append(sorted(np.abs(motion)))
        times.add(t)
    expected = sorted(abs(v) * gap for v in VELOCITY)
    natural = [np.allclose(motion, expected, atol=0.6) for motion in motions]
    # at any other time than ½ opposite shifts would not be one straight motion
    assert all(natural) if 2 * part != gap else 0.5 < np.mean(natural) < 1
    assert times == {part / gap, 1 - part / gap}


def test_time_is_exact_to_the_last_bit(tmp_path: Path) -> None:
    """Frame n is uniformly 20 + 10·n: from the three values follows t."""
    source = ClipTriplets([packed(tmp_path, [np.full((96, 96, 3), 20 + 10 * n, np.uint8) for n in range(9)])], 96)
    seen = set()
    for seed in range(80):
        sample = source.sample(np.random.default_rng(seed))
        first, truth, last = (float(np.median(sample[key])) for key in ("frame0", "truth", "frame1"))
        t = float(sample["t"])
        assert (truth - first) / (last - first) == pytest.approx(t, abs=0.13)
        seen.add(t)
    assert (
        seen <= {float(np.float32(part / gap)) for gap in (2, 3, 4, 6, 8) for part in range(1, gap)} and len(seen) > 8
    )


def test_gaps_stay_within_the_limit_and_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = packed(tmp_path, pan(6, 96, 96))
    reads: list[int] = []
    real = Clip.read

    def read(self: Clip, index: int) -> Image:
        reads.append(index)
        return real(self, index)

    monkeypatch.setattr(Clip, "read", read)
    for limit, most in ((2, 2), (4, 4), (8, 4)):  # six frames: at most five apart, of GAPS that is four
        source, spans = ClipTriplets([clip], 96, max_gap=limit, privileged=False), []
        for seed in range(40):
            reads.clear()
            source.sample(np.random.default_rng(seed))
            first, middle, last = reads
            assert 0 <= first < middle < last < 6
            spans.append(last - first)
        assert max(spans) == most
    with pytest.raises(ValueError, match="max_gap 1"):
        ClipTriplets([clip], 96, max_gap=1)


def test_zoom_is_an_enlarged_crop() -> None:
    picture = texture(64)
    whole = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_CUBIC)
    part = data._window(picture, 2.0, 24, 40, 48, 56)
    assert np.abs(part.astype(int) - whole[24:72, 40:96]).max() <= 3  # OpenCV's two ways round differently
    assert np.array_equal(data._window(picture, 1.0, 8, 4, 48, 52), picture[8:56, 4:56])


def test_flow_is_unknown_without_the_privileged_search(clip: Clip) -> None:
    sample = ClipTriplets([clip], 96, privileged=False).sample(np.random.default_rng(0))
    assert np.isnan(sample["flow_t0"]).all() and np.isnan(sample["flow_t1"]).all()
    assert (sample["visible"] == 1).all() and np.isfinite(sample["flow01"]).all()


def test_how_motion_speeds_up_comes_with_the_clip_whatever_is_done_to_it(tmp_path: Path) -> None:
    """A pan that gets faster by (1, −0.5) px a frame: over a pair of `gap` frames by gap² as much, either way in time,
    turned and enlarged as the motion is; none where frames before or behind are missing."""
    big = texture(512)
    places = [(0.5 * k * k - 200, -0.25 * k * k - 150) for k in range(7)]
    frames = [
        cv2.warpAffine(big, np.float32([[1, 0, x], [0, 1, y]]), (160, 160), flags=cv2.INTER_CUBIC) for x, y in places
    ]
    found = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sample = triplet([frames[k] for k in (0, 2, 3, 4, 6)], (1, 2), 96, rng, zoom=True, privileged=False)
        acceleration = typical(sample["acceleration0"])
        assert np.abs(acceleration - typical(sample["acceleration1"])).max() < 0.4
        if acceleration.any():
            length = float(np.hypot(*acceleration))
            assert 0.8 * np.hypot(4, 2) < length < 2.3 * np.hypot(4, 2)
            assert 1.6 < np.abs(acceleration).max() / np.abs(acceleration).min() < 2.5
            found.add(tuple(np.sign(acceleration)))
    assert len(found) >= 4
    alone = triplet(frames[2:5], (1, 2), 96, np.random.default_rng(0), zoom=True, privileged=False)
    assert not alone["acceleration0"].any() and not alone["acceleration1"].any()
    source = ClipTriplets([packed(tmp_path, frames)], 96, max_gap=2, privileged=False)
    assert {bool(source.sample(np.random.default_rng(seed))["acceleration0"].any()) for seed in range(20)} == {
        False,
        True,
    }


def test_without_augmentation_nothing_changes_but_left_and_right_and_time(tmp_path: Path) -> None:
    frames = pan(3, 96, 96)
    source = ClipTriplets([packed(tmp_path, frames)], 96, max_gap=2, privileged=False, augment=False)
    ways = {
        (mirrored, backwards): [frame[:, ::-1] if mirrored else frame for frame in frames[:: -1 if backwards else 1]]
        for mirrored in (False, True)
        for backwards in (False, True)
    }
    seen = set()
    for seed in range(40):
        sample = source.sample(np.random.default_rng(seed))
        made = [sample[name].transpose(1, 2, 0) for name in ("frame0", "truth", "frame1")]
        same = [way for way, given in ways.items() if all(map(np.array_equal, made, given))]
        assert len(same) == 1
        seen.update(same)
    assert len(seen) == 4


def test_privileged_flow_knows_where_it_is_wrong() -> None:
    frames = pan(3, 128, 128)
    frames[2] = frames[2].copy()
    frames[2][32:96, 32:96] = 255 - texture(64, 9)  # something new, in frame1 only
    flows = privileged_flow(frames)
    assert flows.shape == (2, 2, 32, 32) and flows.dtype == np.float32
    inner = np.s_[:, 4:-4, 4:-4]
    assert np.abs(flows[0][inner] - np.array((-3.0, 1.5))[:, None, None]).max() < 0.5
    assert np.isnan(flows[1, :, 12:20, 12:20]).mean() > 0.8
    assert np.array_equal(np.isnan(flows[1, 0]), np.isnan(flows[1, 1]))


def test_the_prior_sees_more_than_the_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    real = data.flow_prior
    monkeypatch.setattr(data, "flow_prior", lambda a, b, effort: shapes.append(a.shape[:2]) or real(a, b))
    for seed in range(12):
        rng = np.random.default_rng(seed)
        triplet(pan(3, 224, 224, (0.5, 0)), (1, 3), 96, rng, zoom=False, privileged=False)
        # 32 px on each side, less where the picture ends, rounded to whole pixels of the flow
        assert all(96 + 32 <= side <= 160 and side % 4 == 0 for side in shapes[-1])
        triplet(pan(3, 96, 96), (1, 3), 96, rng, zoom=False, privileged=False)
        assert shapes[-1] == (96, 96)
    assert (160, 160) in shapes


def test_samples_have_the_prior_that_the_network_goes_with(monkeypatch: pytest.MonkeyPatch, clip: Clip) -> None:
    asked = []
    real = data.flow_prior
    monkeypatch.setattr(data, "flow_prior", lambda a, b, effort: asked.append(effort) or real(a, b, effort=effort))
    for effort in EFFORTS:
        asked.clear()
        ClipTriplets([clip], 96, privileged=False, effort=effort).sample(np.random.default_rng(0))
        assert asked and set(asked) == {effort}


# --- the last steps ------------------------------------------------------------------------------------------


def test_the_truth_is_never_degraded() -> None:
    still = texture(96)
    same, touched = 0, 0
    for seed in range(120):
        sample = finish([still] * 3, 0.25, (16, 16), 64, np.random.default_rng(seed))
        crop = still[16:80, 16:80].transpose(2, 0, 1)
        ratio = np.median(np.sort(sample["truth"].reshape(3, -1).mean(1)) / np.sort(crop.reshape(3, -1).mean(1)))
        exact = sorted(plane.tobytes() for plane in sample["truth"]) == sorted(plane.tobytes() for plane in crop)
        assert exact or 0.55 < ratio < 1.35
        if exact:  # no exposure drawn: then it is the crop itself, with its channels in some order
            same += 1
            touched += not np.array_equal(sample["frame0"], sample["truth"])
        else:  # exposed: every value of the crop is still mapped to one value
            for plane in sample["truth"]:
                assert (
                    min(len({(a, b) for a, b in zip(c.flat, plane.flat, strict=True)}) - len(set(c.flat)) for c in crop)
                    == 0
                )
    assert 60 < same < 110 and 0.15 * same < touched < 0.6 * same


def test_flow_ends_in_the_frame_or_not() -> None:
    flow = np.zeros((2, 4, 4), np.float32)  # of a crop of 16 px; the middles lie at 1.5, 5.5, 9.5, 13.5
    assert in_frame(flow, 16).all()
    flow[0] = 2.0
    assert in_frame(flow, 16).tolist() == [[True, True, True, False]] * 4
    flow[0], flow[1] = 0.0, -2.0
    assert in_frame(np.stack((flow, flow)), 16)[1].tolist() == [[False] * 4, *[[True] * 4] * 3]


# --- files ---------------------------------------------------------------------------------------------------


def test_photos_are_decoded_once_and_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(SHELF + 12):
        cv2.imwrite(str(tmp_path / f"{n:03}.png"), np.full((8, 8, 3), n, np.uint8))
    decoded: list[Path] = []
    real = data.read_photo
    monkeypatch.setattr(data, "read_photo", lambda path: decoded.append(path) or real(path))
    photos, rng = Photos([tmp_path]), np.random.default_rng(0)
    first = {int(photos.pick(rng, index)[0, 0, 0]) for index in range(600)}
    assert len(decoded) == len(set(decoded)) == len(first) <= SHELF
    second = {int(photos.pick(rng, BLOCK + index)[0, 0, 0]) for index in range(600)}
    assert first != second and len(photos._read.kept) == SHELF
    assert {int(photos.pick(rng, index)[0, 0, 0]) for index in range(600)} == first  # whatever came between


def test_photos_are_upright_rgb_of_bounded_size(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((10, 20, 3), (1, 2, 3), np.uint8))
    assert Photos([tmp_path / "a.png"]).pick(np.random.default_rng(0))[0, 0].tolist() == [3, 2, 1]
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((1500, 3000, 3), np.uint8))
    height, width = data.read_photo(tmp_path / "b.png").shape[:2]
    assert height * width <= 2.01 * 2**20 and width / height == pytest.approx(2, abs=0.01)


def test_recent_forgets_what_was_not_used_longest() -> None:
    made: list[int] = []
    recent = Recent(lambda key: made.append(key) or -key, 2)
    assert [recent(key) for key in (1, 2, 1, 3, 1, 2)] == [-1, -2, -1, -3, -1, -2]
    assert made == [1, 2, 3, 2]


def test_errors_are_one_line_that_helps(tmp_path: Path, clip: Clip) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "nothing.jpg").write_bytes(b"")
    short = packed(tmp_path, pan(2, 96, 96), "short")
    cases = [
        (lambda: ClipTriplets([clip], 256), r"1 of 1 clips are smaller than the crop of 256 px \(pan: 176×160\)"),
        (lambda: ClipTriplets([clip, short], 96), r"1 of 2 clips are too short \(short: 2 frames, 3 are needed\)"),
        (lambda: ClipTriplets([], 96), "no clips"),
        (lambda: Photos([tmp_path / "empty"]), r"empty: no pictures in this folder"),
        (lambda: Photos([tmp_path / "missing"]), r"missing: no such file or folder"),
        (lambda: files_below([], (".png",), "pictures"), "no pictures given"),
        (
            lambda: Photos([tmp_path / "broken.jpg"]).pick(np.random.default_rng(0)),
            r"broken\.jpg: not a readable picture",
        ),
        (lambda: Photos([tmp_path / "nothing.jpg"]).pick(np.random.default_rng(0)), r"nothing\.jpg: not a readable"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="crop 100: a multiple of 8"):
        ClipTriplets([clip], 100)
