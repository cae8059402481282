"""Vector animation (Lottie) as training samples and as footage: flat colours, thin lines, no texture to hold on to.

rlottie renders whole frame numbers only. To see an animation between its frames, all its times are multiplied before
it is loaded (`stretched`); frame n then is frame n·16 of the stretched one, to the pixel.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import InputError, SetupError
from fpsgan.training.data import Image, Recent, Rng, Sample, files_below, triplet

__all__ = ["Animation", "Animations", "read_lottie", "stretched"]

FINER = 16  # positions per frame of the animation
TIMES = ("ip", "op", "st", "fr")  # in and out point, start time of layers; rate of the whole
DRAWINGS = 24  # a second: what "on twos" and "on threes" count in


class Animation:
    """A Lottie file, opened. InputError if it cannot be read, SetupError without rlottie-python.

    There are `finer` positions to each frame of the file.
    """

    width: int  # px, as drawn
    height: int
    last: int  # number of the last position
    rate: float  # positions a second

    def __init__(self, path: Path, finer: int = 1) -> None:
        try:
            rlottie: Any = importlib.import_module("rlottie_python")  # its package does not name its types
        except ImportError as error:
            raise SetupError("animations need rlottie-python: pip install 'fpsgan[train]'") from error
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except ValueError as error:
            raise InputError(f"{path}: not a Lottie animation (no JSON)") from error
        if not isinstance(content, dict) or not {"layers", "w", "h", "fr", "ip", "op"} <= content.keys():
            raise InputError(f"{path}: not a Lottie animation")
        text = json.dumps(stretched(content, finer) if finer > 1 else content)
        self._animation: Any = rlottie.LottieAnimation.from_data(text, resource_path=str(path.parent))
        if not self._animation.animation_p:
            raise InputError(f"{path}: rlottie cannot read this animation")
        # The binding gives every text the same empty key, under which rlottie may find the one before
        self._animation.lottie_configure_model_cache_size(0)
        self.width, self.height = self._animation.lottie_animation_get_size()
        self.last = int(self._animation.lottie_animation_get_totalframe()) - 1
        self.rate = float(self._animation.lottie_animation_get_framerate())
        if self.last < 0 or self.rate <= 0 or not self.width or not self.height:
            raise InputError(f"{path}: the animation has no frames or no size")

    def render(self, position: int, width: int, height: int) -> NDArray[np.uint8]:
        """BGRA uint8 [height,width,4], alpha premultiplied; the animation fills the picture without being distorted."""
        buffer = self._animation.lottie_animation_render(frame_num=position, width=width, height=height)
        return np.frombuffer(buffer, np.uint8).reshape(height, width, 4)


def stretched(node: Any, factor: int) -> Any:
    """A Lottie document, or a part of one, with every time multiplied by `factor`, the frame rate too.

    Times are the in and out points and start times of layers and the `t` of keyframes; what is counted in seconds
    (time remapping) or relative to a keyframe (easing) stays.
    """
    if isinstance(node, list):
        return [stretched(part, factor) for part in node]
    if not isinstance(node, dict):
        return node
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key in TIMES and isinstance(value, int | float):
            result[key] = value * factor
        elif key == "k" and isinstance(value, list) and all(isinstance(part, dict) for part in value):
            moments = [{"t": part["t"] * factor} if isinstance(part.get("t"), int | float) else {} for part in value]
            result[key] = [{**stretched(part, factor), **m} for part, m in zip(value, moments, strict=True)]
        else:
            result[key] = stretched(value, factor)
    return result


def read_lottie(path: Path, side: int) -> Iterator[Image]:
    """Every frame of a vector animation at its own rate, on white, RGB uint8; `side` is the shorter side in px."""
    animation = Animation(path)
    width, height = _canvas(animation, side)
    white = np.full((1, 1, 3), 255, np.float32)
    for position in range(animation.last + 1):
        yield _over(animation.render(position, width, height), white)


class Animations:
    """Vector animations at random sizes, rates and moments, on random backgrounds, as interpolation samples.

    `places` are Lottie files and folders of them. The interval between frame0 and frame1 is 1/60 to 1/10 s. With
    `holds`, half of the samples have that of a drawing held for two or three frames at 24 a second, as hand-drawn
    animation does it: then frame0 and frame1 are neighbouring drawings, and the truth is what would lie between.
    InputError for an empty folder, or when it comes to a file that is no animation.
    """

    def __init__(
        self,
        places: Sequence[str | Path],
        size: int,
        *,
        holds: bool = False,
        privileged: bool = True,
        effort: str = "base",
    ) -> None:
        if size < 32 or size % 8:
            raise ValueError(f"crop {size}: a multiple of 8 from 32 up is needed")
        self.files = files_below(places, (".json",), "Lottie animations")
        self.size, self.holds, self.privileged, self.effort = size, holds, privileged, effort
        self._open = Recent(_open_fine, 64)

    def sample(self, rng: Rng, index: int = 0) -> Sample:
        found: tuple[list[Image], int, int] | None = None
        for _ in range(6):  # where nothing happens there is little to learn; not to be sought for ever
            path = self.files[int(rng.integers(len(self.files)))]
            animation = self._open(path)
            seconds = float(np.exp(rng.uniform(np.log(1 / 60), np.log(1 / 10))))
            if self.holds and rng.random() < 0.5:
                seconds = int(rng.integers(2, 4)) / DRAWINGS
            gap = min(max(2, 2 * round(seconds * animation.rate / 2)), animation.last // 2 * 2)  # even: t may be ½
            if gap < 2:
                continue
            first = int(rng.integers(animation.last - gap + 1))
            part = gap // 2 if rng.random() < 0.5 else int(rng.integers(1, gap))
            canvas = _canvas(animation, self.size * float(rng.uniform(1.0, 2.0)), 2.5 * self.size)
            width, height = (max(side, self.size) for side in canvas)
            background = _background(width, height, rng)
            found = [_over(animation.render(first + p, width, height), background) for p in (0, part, gap)], part, gap
            if cv2.norm(found[0][0], found[0][2], cv2.NORM_L1) > 0.3 * found[0][0].size:
                break
        if found is None:
            raise InputError(f"{path}: this animation, like others drawn with it, has a single frame")
        pictures, part, gap = found
        return triplet(
            pictures, (part, gap), self.size, rng, zoom=False, privileged=self.privileged, effort=self.effort
        )


def _open_fine(path: Path) -> Animation:
    return Animation(path, FINER)


def _canvas(animation: Animation, side: float, most: float = np.inf) -> tuple[int, int]:
    """Width and height with the shorter side `side` px, or the longer one `most`."""
    scale = min(side / min(animation.width, animation.height), most / max(animation.width, animation.height))
    return max(1, round(animation.width * scale)), max(1, round(animation.height * scale))


def _background(width: int, height: int, rng: Rng) -> NDArray[np.float32]:
    """White, black, any colour, or a slope between two: [1 or height, 1 or width, 3]."""
    kind = rng.random()
    if kind < 0.4:
        return np.full((1, 1, 3), 255.0 if kind < 0.25 else 0.0, np.float32)
    ends = rng.integers(0, 256, (2, 3)).astype(np.float32)
    if kind < 0.75:
        return ends[:1, None]
    across = np.linspace(0, 1, width if kind < 0.875 else height, dtype=np.float32)
    slope = ends[0] + across[:, None] * (ends[1] - ends[0])
    return np.asarray(slope[None] if kind < 0.875 else slope[:, None], np.float32)


def _over(bgra: NDArray[np.uint8], background: NDArray[np.float32]) -> Image:
    image = bgra[..., 2::-1] + (np.float32(1) - bgra[..., 3:] * np.float32(1 / 255)) * background
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
