"""Vector animation between its frames, and samples of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpsgan.errors import InputError, SetupError
from fpsgan.training import lottie
from fpsgan.training.lottie import FINER, Animation, Animations, read_lottie, stretched

SIDE = 120  # px, of the drawing
LAST = 30  # its last frame, at 30 a second: it lasts a second
SPEED = 60.0  # px a second, of the square


def fixed(value: Any) -> dict[str, Any]:
    return {"a": 0, "k": value}


def document(moving: bool = True, out: int = LAST + 1) -> dict[str, Any]:
    """A red square of 20 px whose middle goes evenly from (30, 60) to (90, 60)."""
    ease = {"i": {"x": [0.833], "y": [0.833]}, "o": {"x": [0.167], "y": [0.167]}}
    keys = [{"t": 0, "s": [30, 60, 0], "e": [90, 60, 0], **ease}, {"t": LAST, "s": [90, 60, 0]}]
    still = {"a": fixed([0, 0]), "s": fixed([100, 100]), "r": fixed(0), "o": fixed(100)}
    square = {"ty": "rc", "p": fixed([0, 0]), "s": fixed([20, 20]), "r": fixed(0), "d": 1}
    fill = {"ty": "fl", "c": fixed([1, 0, 0, 1]), "o": fixed(100), "r": 1}
    group = {"ty": "gr", "it": [square, fill, {"ty": "tr", "p": fixed([0, 0]), **still}]}
    place = {"a": 1, "k": keys} if moving else fixed([60, 60, 0])
    layer = {"ty": 4, "ind": 1, "ip": 0, "op": out, "st": 0, "sr": 1, "ks": {"p": place, **still}, "shapes": [group]}
    return {"v": "5.5.2", "fr": 30, "ip": 0, "op": out, "w": SIDE, "h": SIDE, "layers": [layer], "assets": []}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def middle(bgra: np.ndarray) -> tuple[float, float]:
    """(x, y) of the middle of what is drawn, px."""
    weight = bgra[..., 3].astype(np.float64)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return float((weight * x).sum() / weight.sum() + 0.5), float((weight * y).sum() / weight.sum() + 0.5)


def test_times_are_stretched_and_nothing_else() -> None:
    ease = {"i": {"x": 0.8, "y": 0.8}, "o": {"x": 0.2, "y": 0.2}}
    layer = {"ip": 2, "op": 9.5, "st": -1, "sr": 2, "tm": {"a": 1, "k": [{"t": 3, "s": [0.5], **ease}]}, "t": {"k": []}}
    text = {"t": {"d": {"k": [{"t": 4, "s": {"t": "words", "s": 12}}]}}, "p": {"a": 0, "k": [7, 8]}}
    result = stretched({"fr": 25, "w": 10, "layers": [layer, text]}, 4)
    assert result["fr"] == 100 and result["w"] == 10
    assert result["layers"][0] == {
        **{"ip": 8, "op": 38, "st": -4, "sr": 2, "t": {"k": []}},
        "tm": {"a": 1, "k": [{"t": 12, "s": [0.5], **ease}]},
    }
    assert result["layers"][1]["t"]["d"]["k"] == [{"t": 16, "s": {"t": "words", "s": 12}}]
    assert result["layers"][1]["p"] == {"a": 0, "k": [7, 8]}


def test_whole_frames_stay_and_the_ones_between_lie_between(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", document())
    plain, fine = Animation(path), Animation(path, FINER)
    assert (plain.rate, fine.rate) == (30, 30 * FINER) and fine.last >= LAST * FINER
    for frame in (0, 7, 29):
        one, other = plain.render(frame, SIDE, SIDE), fine.render(frame * FINER, SIDE, SIDE)
        assert np.array_equal(one, other) and one[..., 3].any()
    for position in (11, 100, 237):
        x, y = middle(fine.render(position, 4 * SIDE, 4 * SIDE))
        assert x / 4 == pytest.approx(30 + 60 * position / (LAST * FINER), abs=0.02) and y / 4 == pytest.approx(
            60, abs=0.1
        )


def test_two_animations_are_not_mixed_up(tmp_path: Path) -> None:
    """The binding hands rlottie the same key for each text."""
    one = Animation(write(tmp_path / "a.json", document()))
    other = Animation(write(tmp_path / "b.json", document(moving=False)))
    assert middle(one.render(0, SIDE, SIDE))[0] == pytest.approx(30, abs=0.1)
    assert middle(other.render(0, SIDE, SIDE))[0] == pytest.approx(60, abs=0.1)


def test_read_lottie_gives_every_frame_on_white(tmp_path: Path) -> None:
    frames = list(read_lottie(write(tmp_path / "a.json", document()), 60))
    assert len(frames) == Animation(tmp_path / "a.json").last + 1 >= LAST
    assert all(frame.shape == (60, 60, 3) and frame.dtype == np.uint8 for frame in frames)
    assert frames[0][0, 0].tolist() == [255, 255, 255] and frames[0][30, 15].tolist() == [255, 0, 0]


def test_the_truth_is_where_t_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The square moves evenly: its middle in the truth is (1 − t)·frame0 + t·frame1, after every augmentation."""
    monkeypatch.setattr(lottie, "_background", lambda *_: np.full((1, 1, 3), 255, np.float32))
    source = Animations([write(tmp_path / "a.json", document())], 96, holds=True)
    checked, times = 0, set()
    for seed in range(40):
        sample = source.sample(np.random.default_rng(seed))
        places = []
        for key in ("frame0", "truth", "frame1"):
            image = sample[key].astype(np.float32)
            # white has all channels, red one of them: the square is where the others are missing
            square = np.clip(1 - image.min(0) / np.median(image.min(0)), 0, 1)
            square[square < 0.1] = 0  # noise
            if square.any() and not any(edge.any() for edge in (square[0], square[-1], square[:, 0], square[:, -1])):
                y, x = np.mgrid[: square.shape[0], : square.shape[1]]
                places.append(np.array(((x * square).sum(), (y * square).sum())) / square.sum())
        if len(places) == 3:
            t = float(sample["t"])
            assert np.abs((1 - t) * places[0] + t * places[2] - places[1]).max() < 0.25
            assert np.abs(places[2] - places[0]).max() > 0.3
            checked += 1
            times.add(t)
    assert checked >= 20 and len(times) >= 5


def test_holds_bring_the_intervals_of_held_drawings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.json", document())
    positions: list[int] = []
    real = Animation.render

    def render(self: Animation, position: int, width: int, height: int) -> np.ndarray:
        positions.append(position)
        return real(self, position, width, height)

    monkeypatch.setattr(Animation, "render", render)

    def intervals(holds: bool) -> list[float]:
        source = Animations([path], 64, holds=holds, privileged=False)
        positions.clear()
        for seed in range(40):
            source.sample(np.random.default_rng(seed))
        return [
            round((last - first) / (30 * FINER), 4) for first, last in zip(positions[::3], positions[2::3], strict=True)
        ]

    without, with_ = intervals(False), intervals(True)
    assert min(without) >= 1 / 70 and max(without) <= 0.11
    twos, threes = (sum(abs(v - n / 24) < 1e-3 for v in with_) for n in (2, 3))
    assert twos >= 5 and threes >= 5 and twos + threes < 32


def test_samples_are_reproducible_whatever_came_before(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.json", document(out=LAST + 1 - n)) for n in range(3)]
    source, other = Animations([tmp_path], 64), Animations(paths, 64)
    samples = [source.sample(np.random.default_rng(seed)) for seed in range(5)]
    for seed in (3, 0, 4):
        again = other.sample(np.random.default_rng(seed))
        assert all(np.array_equal(samples[seed][key], again[key], equal_nan=True) for key in again)


def test_errors_say_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "text.json").write_text("no JSON")
    with pytest.raises(InputError, match=r"text\.json: not a Lottie animation \(no JSON\)"):
        Animations([tmp_path / "text.json"], 64).sample(rng)
    with pytest.raises(InputError, match=r"other\.json: not a Lottie animation"):
        Animations([write(tmp_path / "other.json", {"name": "a package"})], 64).sample(rng)
    with pytest.raises(InputError, match=r"one\.json: this animation, .* single frame"):
        Animations([write(tmp_path / "one.json", document(moving=False, out=0))], 64).sample(rng)
    with pytest.raises(InputError, match=r"empty: no Lottie animations"):
        (tmp_path / "empty").mkdir()
        Animations([tmp_path / "empty"], 64)
    with pytest.raises(ValueError, match="multiple of 8"):
        Animations([tmp_path / "other.json"], 60)
    monkeypatch.setitem(sys.modules, "rlottie_python", None)
    with pytest.raises(SetupError, match=r"pip install 'fpsgan\[train\]'"):
        Animation(write(tmp_path / "a.json", document()))
