"""A demonstration without downloads: a short rendered clip, choppy and blurred, with sound, enhanced."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import ffmpeg
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import OutputError
from fpsgan.job import Progress, Result, enhance
from fpsgan.options import Options
from fpsgan.video.decode import decode
from fpsgan.video.ffmpeg import ffmpeg_path
from fpsgan.video.files import make_folder
from fpsgan.video.probe import probe

__all__ = ["make_demo", "render_scene", "write_clip"]

Image = NDArray[np.uint8]

WIDTH, HEIGHT = 640, 360
SOURCE_RATE, TARGET_RATE = 15, 60
SECONDS = 2
EXPOSURE = Fraction(1, 25)  # seconds that the shutter is open for blurred frames


def make_demo(
    folder: Path, *, on_progress: Callable[[Progress], None] = lambda _: None
) -> tuple[Result, dict[str, Path]]:
    """Render, enhance, and draw a comparison. Returns the result and the files made: "source", "result", "picture".

    Raises OutputError if ``folder`` cannot be made, and whatever ``enhance`` raises.
    """
    make_folder(folder)
    files = {name: folder / file for name, file in
             (("source", "choppy.mp4"), ("result", "smooth.mp4"), ("picture", "before-after.png"))}  # fmt: skip
    # every other frame is shaken, as by hand
    blurred = [_exposed(Fraction(k, SOURCE_RATE), samples=9 if k % 2 else 1) for k in range(SECONDS * SOURCE_RATE)]
    write_clip(files["source"], blurred, SOURCE_RATE)
    options = Options(fps=Fraction(TARGET_RATE), overwrite=True)
    result = enhance(files["source"], files["result"], options=options, on_progress=on_progress)
    before, after = ([frame.as_rgb() for frame in decode(probe(files[name]))] for name in ("source", "result"))
    ratio = TARGET_RATE // SOURCE_RATE
    rows = []
    for title, frames in (
        ("15 fps source", [before[k // ratio] for k in range(40, 45)]),
        ("60 fps result", after[40:45]),
    ):
        strip = np.hstack([frame[90:270, 160:480] for frame in frames])
        picture = np.clip(np.rint(strip * 255), 0, 255).astype(np.uint8)
        rows.append(
            cv2.putText(np.ascontiguousarray(picture), title, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 0), 2)
        )
    cv2.imwrite(str(files["picture"]), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    return result, files


def render_scene(time: float, width: int = WIDTH, height: int = HEIGHT) -> Image:
    """The scene at a time in seconds, [height, width, 3] uint8 RGB: a panning wall, a wheel, a swinging card."""
    wall = _wall()
    angle = 1.5 * np.sin(2.1 * time)
    matrix = cv2.getRotationMatrix2D((wall.shape[1] / 2, wall.shape[0] / 2), angle, 1.0)
    matrix[:, 2] -= np.array([120 + 140 * time, 90 + 12 * np.sin(5 * time)])
    picture = cv2.warpAffine(wall, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    fine = 4  # fractional bits of drawing positions
    centre = np.array([width * (0.15 + 0.3 * time), height * (0.68 - 0.18 * abs(np.sin(3 * time)))])
    scaled = tuple(int(v) for v in np.rint(centre * (1 << fine)))
    cv2.circle(picture, scaled, round(0.16 * height * (1 << fine)), (235, 225, 200), -1, cv2.LINE_AA, fine)
    for k in range(8):
        turn = 2 * time + k * np.pi / 4
        points = centre + 0.16 * height * np.array(
            [[0, 0], [np.cos(turn), np.sin(turn)], [np.cos(turn + 0.4), np.sin(turn + 0.4)]]
        )
        color = ((230, 60, 40), (250, 200, 60))[k % 2]
        cv2.fillPoly(picture, [np.rint(points * (1 << fine)).astype(np.int32)], color, cv2.LINE_AA, fine)
    cv2.circle(picture, scaled, round(0.16 * height * (1 << fine)), (40, 40, 60), 3, cv2.LINE_AA, fine)
    swing = 0.5 * np.sin(4 * time)
    card = np.array([[-70, 0], [70, 0], [70, 90], [-70, 90]]) @ np.array(
        [[np.cos(swing), np.sin(swing)], [-np.sin(swing), np.cos(swing)]]
    )
    card = (card + np.array([0.75 * width, 0.15 * height])) * (1 << fine)
    cv2.fillPoly(picture, [np.rint(card).astype(np.int32)], (60, 130, 220), cv2.LINE_AA, fine)
    return np.asarray(picture, np.uint8)


def write_clip(path: Path, frames: list[Image], rate: int) -> None:
    """Write frames [H, W, 3] uint8 RGB as H.264, with a rising tone of the same length. Raises OutputError."""
    height, width = frames[0].shape[:2]
    seconds = len(frames) / rate
    video = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=rate)
    sound = ffmpeg.input(f"aevalsrc='0.2*sin(2*PI*(330+110*t)*t)':s=48000:d={seconds}", format="lavfi")
    video = video.filter("scale", out_color_matrix="bt709", out_range="tv")
    job = ffmpeg.output(
        video, sound, str(path), vcodec="libx264", crf=16, pix_fmt="yuv420p", acodec="aac",
        colorspace="bt709", color_primaries="bt709", color_trc="bt709", color_range="tv",
    ).global_args("-loglevel", "error")  # fmt: skip
    try:
        job.run(
            cmd=ffmpeg_path(), input=b"".join(frame.tobytes() for frame in frames), quiet=True, overwrite_output=True
        )
    except ffmpeg.Error as error:
        raise OutputError(f"{path}: {error.stderr.decode(errors='replace').strip()[-300:]}") from error


def _exposed(time: Fraction, samples: int) -> Image:
    """A frame exposed around ``time``: the mean, in linear light, of several moments."""
    moments = [float(time + EXPOSURE * Fraction(2 * k + 1 - samples, 2 * samples)) for k in range(samples)]
    light = np.mean([(render_scene(max(0.0, moment)) / 255.0) ** 2.2 for moment in moments], axis=0)
    codes: Image = np.rint(255 * light ** (1 / 2.2)).astype(np.uint8)
    return codes


@lru_cache
def _wall() -> Image:
    generator = np.random.default_rng(7)
    noise = generator.normal(0, 1, (540, 1100, 3)).astype(np.float32)
    rough = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma * 9 for sigma in (1.2, 4, 16))
    wall = np.clip(np.array([150, 140, 125], np.float32) + rough, 0, 255).astype(np.uint8)
    for y in range(0, 540, 45):
        cv2.line(wall, (0, y), (1100, y), (70, 60, 55), 2)
        for x in range((y // 45 % 2) * 60, 1100, 120):
            cv2.line(wall, (x, y), (x, y + 45), (70, 60, 55), 2)
    for k, word in enumerate(("fpsGAN", "sharp", "smooth", "in time")):
        place = (150 + 230 * k, 250 + 40 * (k % 2))
        cv2.putText(wall, word, place, cv2.FONT_HERSHEY_DUPLEX, 1.6, (235, 235, 230), 3, cv2.LINE_AA)
    return wall
