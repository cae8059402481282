"""Encode a segment of the output's pictures with ffmpeg: complete under its name, or absent."""

from __future__ import annotations

import dataclasses
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from fpsgan.errors import FpsganError, OutputError, SetupError
from fpsgan.video.codecs import CODECS, HARDWARE, UPLOADED, UPLOADING
from fpsgan.video.container import NUT_TICK, open_container
from fpsgan.video.ffmpeg import FfmpegPipe, command_of
from fpsgan.video.files import PART, make_folder, sync
from fpsgan.video.frame import MATRICES, PRIMARIES, TRANSFERS, Array, Color, Frame, PixelFormat, code_point
from fpsgan.video.probe import Stream, VideoInfo
from fpsgan.video.streams import Carrier

__all__ = ["Encoder", "Plan", "count_pictures"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the output of ``info`` will be written (`plan_output`).

    ``streams`` pairs other streams of the source with "copy" or the codec they are encoded with, in the order of the
    output; ``notes`` tell the user what will differ from the source.
    """

    info: VideoInfo
    target: Path
    muxer: str
    codec: str
    format: PixelFormat
    color: Color
    width: int
    height: int
    rate: Fraction | None  # None: the frames' own times
    slowmo: Fraction
    quality: int | None
    streams: tuple[tuple[Stream, str], ...]
    carrier: Carrier
    notes: tuple[str, ...]

    @property
    def time_base(self) -> Fraction:
        """Of the encoded pictures, in seconds."""
        rate = self.rate or self.info.frame_rate
        if self.muxer == "avi":  # has no timestamps, only a rate, for which it takes the time base
            return 1 / rate
        fineness = max(1, -(-90000 // rate.numerator))
        base = Fraction(1, rate.numerator * fineness) if self.rate else self.info.time_base / self.slowmo
        return base / max(1, -(-base // NUT_TICK))

    @property
    def late(self) -> bool:
        """Whether segments are lossless and encoded only when joined, since ffmpeg cannot join them by copying."""
        return self.codec in ("gif", "webp", "prores")

    def segment_name(self, stem: str) -> str:
        """The name of the file, or the folder of images, of a segment."""
        return stem if self.muxer == "image2" else f"{stem}.nut"

    @property
    def color_tags(self) -> dict[str, Any]:
        """The colour tags for ffmpeg's setparams, as numbers, since some names differ from encoder to encoder."""
        color = self.color
        return {
            "range": "pc" if color.full_range else "tv",
            "color_primaries": code_point(PRIMARIES, color.primaries),
            "color_trc": code_point(TRANSFERS, color.transfer),
            "colorspace": code_point(MATRICES, color.matrix),
        }


class Encoder:
    """A running ffmpeg that encodes pictures to ``path``; a context manager that closes or aborts it.

    ``path``: see `Plan.segment_name`. Pictures have their times in the whole output; ``number``: that of the first, for
    the names of images.
    """

    def __init__(self, plan: Plan, path: Path, number: int = 0) -> None:
        self.plan, self.path = plan, path
        self.frames = 0
        self._part = path.with_name(f"{PART}-{os.getpid()}-{path.name}")  # a killed job's ffmpeg may go on for a moment
        if plan.muxer == "image2":
            make_folder(self._part)
        self._pipe = FfmpegPipe(_command(plan, self._part, number), lambda said: failure(plan, said))
        self._stream = self._pipe.add_pictures(plan.width, plan.height, plan.format.name, plan.time_base)

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, frame: Frame) -> None:
        """Send one frame, at ``frame.pts`` seconds of the output. Raises OutputError if ffmpeg has failed."""
        planes = [self._padded(plane, k) for k, plane in enumerate(frame.as_planes(self.plan.format, self.plan.color))]
        self._pipe.write_picture(self._stream, planes, round(frame.pts / self.plan.time_base))
        self.frames += 1

    def abort(self) -> None:
        """Kill ffmpeg; nothing appears under the name."""
        self._pipe.abort()

    def close(self) -> None:
        """Finish the segment. Raises OutputError if ffmpeg failed, or pictures are missing from what it wrote."""
        if not self.frames:
            self._pipe.abort()
            raise OutputError(f"{self.plan.target}: nothing to write, the source gave no frame")
        self._pipe.finish()
        found = count_pictures(self._part)
        if found != self.frames:
            target = self.plan.target
            raise OutputError(f"{target}: {self.frames} frames were sent to ffmpeg but {found} are in its file")
        sync(self._part)
        self._part.replace(self.path)

    def _padded(self, plane: Array, k: int) -> Array:
        rows, columns = self.plan.format.plane_shape(k, self.plan.width, self.plan.height)
        missing = (rows - plane.shape[0], columns - plane.shape[1])
        return np.pad(plane, ((0, missing[0]), (0, missing[1])), "edge") if any(missing) else plane


def _command(plan: Plan, part: Path, number: int) -> list[str]:
    info, tags, tick = plan.info, plan.color_tags, plan.time_base
    encoder, quality_flags, _, extra = CODECS["ffv1" if plan.late else plan.codec]
    settings: dict[str, Any] = {"c:v": encoder, **extra, "fps_mode": "passthrough"}
    if plan.codec.split("_")[0] in ("h264", "hevc") and (tags["colorspace"] > 14 or tags["color_primaries"] > 12):
        # newer than the encoders: x264 drops them, x265 refuses them; so a bitstream filter adds them
        names = ("colour_primaries", "transfer_characteristics", "matrix_coefficients")
        points = zip(names, list(tags.values())[1:], strict=True)
        settings["bsf:v"] = f"{plan.codec.split('_')[0]}_metadata={':'.join(f'{k}={v}' for k, v in points)}"
        tags |= {"colorspace": 2, "color_primaries": 2}
    video = ffmpeg.input("pipe:0", format="nut").filter("setparams", **tags)
    video = video.filter("setsar", f"{info.sar.numerator}/{info.sar.denominator}")
    chip = encoder.split("_")[-1]
    if chip in UPLOADED:
        video = video.filter("format", UPLOADED[chip][plan.format.depth > 8]).filter("hwupload")
    settings["enc_time_base"] = f"{tick.numerator}:{tick.denominator}"
    if plan.quality is not None:
        settings |= dict.fromkeys(quality_flags.split(), plan.quality)
    if encoder == "libx265" and info.mastering:
        settings["x265-params"] += f":hdr10=1:repeat-headers=1:{info.mastering}"
    if plan.format.family == "yuv" and plan.format.log2_w == 1:
        settings["chroma_sample_location"] = plan.color.chroma_location
    if plan.muxer == "image2":
        settings["start_number"] = number + 1
    # no shift to make decode times positive: the times are absolute
    settings["avoid_negative_ts"] = "disabled"
    graph = ffmpeg.output(video, PART, format="image2" if plan.muxer == "image2" else "nut", **settings)
    images = f"{str(part).replace('%', '%%')}/%06d.{plan.codec}"  # a "%" in a folder's name would be a pattern
    return command_of(graph, {PART: images if plan.muxer == "image2" else str(part)}, *UPLOADING.get(chip, ()))


def failure(plan: Plan, said: str) -> FpsganError:
    """The error for users when ffmpeg has failed."""
    if "No space left" in said:
        return OutputError(f"{plan.target}: the disk is full; free some space and run again")
    family, _, chip = plan.codec.partition("_")
    if chip in HARDWARE:
        deeper = ", or --pix-fmt yuv420p" if plan.format.depth > 8 else ""  # which fewer chips take
        return SetupError(
            f"--codec {plan.codec}: does not work here with {plan.width}×{plan.height} {plan.format.name} "
            f"({said.split('; ')[0][-200:]}); use --codec {family}{deeper}; `fpsgan doctor` tells what works"
        )
    return OutputError(f"{plan.target}: ffmpeg could not write it as {plan.codec}: {said[-500:]}")


def count_pictures(segment: Path) -> int:
    """How many pictures a segment holds."""
    if segment.is_dir():
        return len(list(segment.iterdir()))
    with open_container(segment) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))
