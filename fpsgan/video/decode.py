"""Streaming decode with PyAV: true timestamps, rotation baked in, every trouble reported with its time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np

from fpsgan.errors import InputError
from fpsgan.video.fields import treat
from fpsgan.video.frame import Frame, PixelFormat, rotate, rotated
from fpsgan.video.probe import VideoInfo, color_of, open_container, video_decoder

__all__ = ["decode"]

# A step back in time of more than this is a new piece of a joined recording, a smaller one a repeated timestamp.
REBASE = Fraction(1)


def decode(
    info: VideoInfo,
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
    conceal: bool = False,
    report: Callable[[str], None] = print,
) -> Iterator[Frame]:
    """Yield the frames of ``info`` in the order shown, pts strictly increasing, in seconds from ``info.origin``.

    ``start`` and ``end`` keep frames with start ≤ pts < end. Constant-rate files give exact multiples of 1/rate, also
    where the container rounds. Damage in the file raises InputError with its time; with ``conceal`` it goes to
    ``report`` instead, and the frames that cannot be decoded are left out (their time stays).
    """
    early = start if start is None or info.treatment is None else max(Fraction(0), start - info.treatment.lead)
    pictures = _pictures(info, early, conceal, report)
    if info.treatment is not None:
        pictures = treat(info.treatment, pictures)
    frames = _timed(info, pictures, report)
    held: Frame | None = None  # a frame is shown until the next one, whatever its packet says, and not beyond the end
    for frame in frames:
        if held is not None:
            until = frame.pts if end is None else min(frame.pts, end)
            yield dataclasses.replace(held, duration=until - held.pts)
            held = None
        if end is not None and frame.pts >= end:
            frames.close()
            return
        if start is None or frame.pts >= start:
            held = frame
    if held is not None:
        until = held.pts + held.duration if end is None else min(held.pts + held.duration, end)
        yield dataclasses.replace(held, duration=until - held.pts)


def _pictures(
    info: VideoInfo, start: Fraction | None, conceal: bool, report: Callable[[str], None]
) -> Iterator[tuple[Fraction | None, Any]]:
    """(time from ``info.origin`` or None, PyAV frame) as they come out of the decoder."""
    if info.images:
        for number, path in enumerate(info.images):
            with open_container(path) as container:
                for picture in container.decode(video=0):
                    yield number / info.frame_rate, picture
                    break
        return

    def trouble(what: str, when: Fraction | None) -> None:
        at = f" at {float(when - info.origin):.3f} s" if when is not None else ""
        if not conceal:
            raise InputError(f"{info.path}: {what}{at}; `--on-error conceal` bridges such places")
        report(f"{what}{at}: bridged")

    with open_container(info.path) as container:
        video = container.streams[info.stream]
        time_base = Fraction(video.time_base)
        decoder = video_decoder(video)
        if start is not None and start > 0:
            container.seek(int((start + info.origin) / time_base), stream=video)
        when: Fraction | None = None
        packets = container.demux(video)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                trouble(f"cannot be read further ({error.strerror})", when)
                packet = None
            if packet is None:
                break
            if packet.pts is not None:
                when = packet.pts * time_base
            try:
                if packet.is_corrupt:
                    trouble("damaged data", when)
                pictures = decoder.decode(packet if packet.size else None)
            except av.error.EOFError:
                continue
            except av.error.FFmpegError as error:
                trouble(f"damaged data ({error.strerror})", when)
                continue
            for picture in pictures:
                stamp = None if picture.pts is None else picture.pts * time_base - info.origin
                if picture.is_corrupt:
                    trouble("damaged picture", when)
                yield stamp, picture
    if info.header_frames > info.frame_count + 2 and info.frame_count < 0.98 * info.header_frames:
        trouble(f"the file is cut short: {info.frame_count} of {info.header_frames} frames are there", when)


def _timed(info: VideoInfo, pictures: Iterator[tuple[Fraction | None, Any]], report: Callable[[str], None]) -> Any:
    """Frames with clean times: missing ones filled in, repeated ones dropped, joined recordings put end to end."""
    step = 1 / info.frame_rate
    last: Fraction | None = None
    shift = Fraction(0)
    for stamp, picture in pictures:
        pts = (last + step if last is not None else info.start - info.origin) if stamp is None else stamp + shift
        if not info.vfr:
            first = info.start - info.origin
            pts = first + round((pts - first) * info.frame_rate) * step
        if last is not None and pts <= last:
            if last - pts < REBASE:
                report(f"frame at {float(pts):.3f} s repeats or precedes the time before it: left out")
                continue
            report(f"time jumps back by {float(last - pts):.3f} s after {float(last):.3f} s: continued from there")
            shift += last + step - pts
            pts = last + step
        duration = (picture.duration or 0) * info.time_base if info.vfr else step
        last = pts
        yield _frame(info, picture, pts, duration or step)


def _frame(info: VideoInfo, picture: Any, pts: Fraction, duration: Fraction) -> Frame:
    format, color = PixelFormat.of(picture.format.name), color_of(picture, info.siting)
    if picture.format.name.replace("yuvj", "yuv") != format.name:
        picture = picture.reformat(format=format.name)  # unpacks without loss; see PixelFormat.of
    planes = rotate(tuple(_plane(picture, format, k) for k in range(format.planes)), format, color, info.rotation)
    format, color = rotated(format, color, info.rotation)
    frame = Frame(planes, format, color, pts, duration)
    if (frame.width, frame.height) != (info.width, info.height):
        raise InputError(
            f"{info.path}: the picture changes size at {float(pts):.3f} s, from {info.width}×{info.height} to "
            f"{frame.width}×{frame.height}; use --end, or cut the file there"
        )
    return frame


def _plane(picture: Any, format: PixelFormat, k: int) -> Any:
    plane = picture.planes[k]
    rows, columns = format.plane_shape(k, picture.width, picture.height)
    size = np.dtype(format.dtype).itemsize
    lines = np.frombuffer(plane, np.uint8)[: rows * plane.line_size].reshape(rows, plane.line_size)
    return np.ascontiguousarray(lines[:, : columns * size]).view(format.dtype)
