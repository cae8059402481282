"""Metrics of pictures and of sequences, as the literature of the field computes them."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import cv2
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import SetupError
from fpsgan.video.ffmpeg import ffmpeg_path

__all__ = ["Vmaf", "flicker", "psnr", "ssim", "vmaf_ffmpeg"]

WINDOW = 11  # px, of the SSIM


def psnr(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels of two uint8 images of one shape.

    Plain RGB PSNR, peak 255, no border cut off; equal images give infinity.
    """
    if image.dtype != np.uint8 or truth.dtype != np.uint8 or image.shape != truth.shape:
        raise ValueError(
            f"psnr compares uint8 images of one shape, not {image.dtype} {image.shape} with {truth.dtype} {truth.shape}"
        )
    error = float(np.mean(np.square(image.astype(np.int32) - truth)))
    return 10.0 * math.log10(255.0**2 / error) if error else math.inf


def ssim(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Structural similarity of two uint8 RGB images [H,W,3] of one shape, −1..1, on their luma (BT.601).

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004: Gaussian
    window of 11 px with σ = 1.5, K1 = 0.01, K2 = 0.03, mean over the places where the window fits. ValueError for other
    types, different shapes or a side below 11 px.
    """
    if image.dtype != np.uint8 or image.shape != truth.shape or min(image.shape[:2]) < WINDOW:
        raise ValueError(f"ssim compares uint8 images of one shape, 11 px a side or more, not {image.shape}")
    x, y = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) for picture in (image, truth))

    def mean(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        inner = WINDOW // 2
        return np.asarray(cv2.GaussianBlur(plane, (WINDOW, WINDOW), 1.5)[inner:-inner, inner:-inner], np.float32)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean())


def flicker(images: Sequence[NDArray[np.uint8]], truth: Sequence[NDArray[np.uint8]]) -> float:
    """How wrongly a sequence changes over time, in code values of 255: 0 where it moves exactly as the truth does.

    The mean, over pixels, channels and the steps from each image to the next, of |change of the images − change of the
    truth|. An error that stays the same from image to image does not count, one that comes and goes does. Where every
    other image is the truth itself, this is the mean absolute error of the others. `images` and `truth`: two or more
    consecutive uint8 images each, of one shape; ValueError for anything else.
    """
    if len(images) != len(truth) or len(images) < 2 or {i.shape for i in (*images, *truth)} != {truth[0].shape}:
        raise ValueError(f"flicker compares two sequences of two or more images, not {len(images)} with {len(truth)}")
    errors = [image.astype(np.int16) - true for image, true in zip(images, truth, strict=True)]
    return float(np.mean([np.abs(after - before).mean() for before, after in pairwise(errors)]))


@lru_cache
def vmaf_ffmpeg() -> str | None:
    """The ffmpeg here that has the libvmaf filter: the one in use, else that of imageio-ffmpeg, else None."""
    for find in (ffmpeg_path, imageio_ffmpeg.get_ffmpeg_exe):
        try:
            program = find()
            said = subprocess.run([program, "-hide_banner", "-filters"], capture_output=True, text=True, timeout=20)
        except (SetupError, RuntimeError, OSError, subprocess.TimeoutExpired):
            continue  # there is none of that kind, or it does not start
        if " libvmaf " in said.stdout:
            return str(program)
    return None


class Vmaf:
    """VMAF of a sequence against its truth, by ffmpeg's libvmaf filter with its default model: about 0 to 100.

    Li et al., "Toward a practical perceptual video quality metric", 2016. Streams: give the images one by one, in
    order, then ask for the scores. SetupError where no ffmpeg has the filter, or it fails.
    """

    def __init__(self, height: int, width: int) -> None:
        program = vmaf_ffmpeg()
        if program is None:
            raise SetupError("VMAF: no ffmpeg here has the libvmaf filter; put one that has on PATH")
        # truth and image go through one pipe, one above the other
        graph = (
            f"[0]split[a][b];[a]crop={width}:{height}:0:0,format=yuv420p[truth];"
            f"[b]crop={width}:{height}:0:{height},format=yuv420p[image];[image][truth]libvmaf=log_fmt=json:log_path=log"
        )
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{2 * height}", "-r", "25", "-i", "-"]
        self._folder = tempfile.TemporaryDirectory()  # also the working folder: a path in a filter needs escaping
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._program = program
        self._process = subprocess.Popen(
            [program, "-v", "error", *raw, "-filter_complex", graph, "-f", "null", "-"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._said, cwd=self._folder.name,
        )  # fmt: skip

    def __enter__(self) -> Vmaf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()
        self._folder.cleanup()

    def add(self, image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """The next image [H,W,3] RGB and its truth."""
        assert self._process.stdin is not None
        try:
            for picture in (truth, image):
                self._process.stdin.write(np.ascontiguousarray(picture).data)
        except BrokenPipeError as error:
            raise self._failed() from error

    def scores(self) -> list[float]:
        """Of every image given. Nothing can be added afterwards."""
        self._process.communicate()
        if self._process.returncode:
            raise self._failed()
        log = json.loads((Path(self._folder.name) / "log").read_text(encoding="utf-8"))
        return [float(frame["metrics"]["vmaf"]) for frame in log["frames"]]

    def _failed(self) -> SetupError:
        self._said.seek(0)
        reason = " ".join(self._said.read().decode(errors="replace").split())[-300:]
        return SetupError(f"VMAF: {self._program} failed: {reason or 'it gave no reason'}")
