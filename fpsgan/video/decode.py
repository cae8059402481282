"""Streaming decode with PyAV: exact times, rotation applied, every problem reported with its time."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import chain, islice
from typing import Any

import av
import av.error
import av.logging
import numpy as np
from av.codec.hwaccel import HWAccel

from fpsgan.errors import InputError
from fpsgan.video.clock import Clock, Order
from fpsgan.video.container import open_container, video_decoder
from fpsgan.video.fields import treat
from fpsgan.video.frame import Frame, Orientation, PixelFormat
from fpsgan.video.hardware import decoding_devices
from fpsgan.video.photo import read_frame
from fpsgan.video.probe import VideoInfo, color_of

__all__ = ["Fitter", "Trouble", "check_damage", "decode", "frame_of", "hardware_for"]

Report = Callable[[str], None]

TRIED = 8  # frames that hardware has to decode exactly as software does
ALONE = 1  # thread for libswscale: with more, p010 is sometimes wrong where their slices meet (libav 62)
STRAY = 2  # frames by which a single time must be too high to be taken for an error


def decode(
    info: VideoInfo,
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
    conceal: bool = False,
    report: Report = print,
    hardware: HWAccel | None = None,
) -> Generator[Frame, None, None]:
    """Yield the frames of ``info`` in the order shown, pts strictly increasing, in seconds from ``info.origin``.

    ``start`` and ``end`` keep frames with start ≤ pts < end. Constant-rate files give exact multiples of 1/rate, even
    if the container rounds. Damage between ``start`` and ``end`` raises InputError with its time, before any frame if
    ``probe`` found it; with ``conceal`` it goes to ``report`` instead, and frames that cannot be decoded are left out
    (their time stays). ``report`` is also told of decoder warnings after which decoding went on.
    ``hardware``: the device that decodes (`hardware_for`); if it does not open, software does, where that is allowed.
    """
    trouble = check_damage(info, start, end, conceal=conceal, report=report)
    lead = Fraction(0) if info.treatment is None else info.treatment.lead
    pictures = _from(info, start if start is None else max(Fraction(0), start - lead), trouble, hardware)
    if info.treatment is not None:
        pictures = treat(info.treatment, pictures)
    frames = _timed(info, pictures, report)
    held: Frame | None = None  # a frame lasts until the next one, whatever its packet says, and not beyond the end
    for frame in frames:
        if held is not None:
            until = frame.pts if end is None else min(frame.pts, end)
            yield dataclasses.replace(held, duration=until - held.pts)
            held = None
        if end is not None and frame.pts >= end:
            frames.close()
            break
        if start is None or frame.pts >= start:
            held = frame
    if held is not None:
        until = held.pts + held.duration if end is None else min(held.pts + held.duration, end)
        yield dataclasses.replace(held, duration=until - held.pts)
    trouble.sum_up()


def hardware_for(info: VideoInfo, report: Report) -> str:
    """The kind of device to decode a file with, tried on its first frames: "" if none gives the same as software.

    ``report`` is told of one that opens but is not used. A damaged file is left to software, which reports what
    hardware conceals silently.
    """
    if info.images or info.damage:
        return ""
    for kind in (kind for kind, trouble in decoding_devices(info.codec).items() if not trouble):
        try:
            if _first(info, HWAccel(kind, allow_software_fallback=False)) == _first(info, None):
                return kind
            why = ""
        except (InputError, av.error.FFmpegError) as error:
            why = f" ({error})"
        report(f"{kind} does not decode this {info.codec} as software does{why}: decoded in software")
    return ""


def _first(info: VideoInfo, hardware: HWAccel | None) -> list[Any]:
    """The first frames, in comparable form."""
    with closing(decode(info, report=lambda _: None, hardware=hardware)) as frames:
        return [
            (frame.pts, frame.format, frame.color, *(plane.tobytes() for plane in frame.planes))
            for frame in islice(frames, TRIED)
        ]


def check_damage(
    info: VideoInfo, start: Fraction | None, end: Fraction | None, *, conceal: bool, report: Report
) -> Trouble:
    """Report, before any work, what `probe` found broken or missing between ``start`` and ``end``, as `decode` does."""
    trouble = Trouble(info, start, end, conceal, report)
    for damage in info.damage:
        trouble.found(damage.what, damage.when)
    return trouble


class Trouble:
    """Handles what is wrong with a file: raises an error, or reports it if it is to be concealed. Trouble outside the
    part that was asked for is ignored."""

    def __init__(
        self, info: VideoInfo, start: Fraction | None, end: Fraction | None, conceal: bool, report: Report
    ) -> None:
        self._path, self._conceal, self._report = info.path, conceal, report
        self._from, self._until = start, end
        self._complaints = 0
        self._last: Fraction | None = None

    def found(self, what: str, when: Fraction | None) -> None:
        """Something is damaged or missing."""
        if self._elsewhere(when):
            return
        if not self._conceal:
            raise InputError(f"{self._path}: {what}{_at(when)}; `--on-error conceal` bridges such places")
        self._report(f"{what}{_at(when)}: bridged")

    def heard(self, said: list[tuple[int, str, str]], when: Fraction | None) -> None:
        """A decoder warned, and went on: it may have made up a part of the picture."""
        if not said or self._elsewhere(when):
            return
        if not self._complaints:
            _, name, message = said[0]
            self._report(f"{name} complains{_at(when)}: {' '.join(message.split())}; look at the result there")
        self._complaints += len(said)
        self._last = when

    def tell(self, what: str, when: Fraction | None = None) -> None:
        """Something that loses nothing a player would show."""
        self._report(what + _at(when))

    def sum_up(self) -> None:
        if self._complaints > 1:
            self._report(f"{self._complaints} such complaints in all, the last{_at(self._last)}")

    def _elsewhere(self, when: Fraction | None) -> bool:
        before = self._from is not None and when is not None and when < self._from
        return before or (self._until is not None and when is not None and when >= self._until)


def _at(when: Fraction | None) -> str:
    return "" if when is None else f" at {float(when):.3f} s"


def _from(
    info: VideoInfo, start: Fraction | None, trouble: Trouble, hardware: HWAccel | None
) -> Iterator[tuple[Fraction | None, Any]]:
    """(time or None, PyAV picture), in display order, from a keyframe from which the picture at ``start`` is decodable.

    Not every keyframe will do, whatever the container says. So the first picture is compared with the expected one, and
    if it is another one decoding restarts at an earlier keyframe.
    """
    if info.images:
        yield from _images(info, trouble)
        return
    shown = info.presentation
    if start is not None and not shown.decode_times:
        # a tick early, since containers round; `decode` looks closer
        number = bisect_left(shown.times, (start + info.origin) // info.time_base - 1)
        before = bisect_right(shown.keys, shown.times[number]) if number < len(shown.times) else 0
        expected = shown.times[number] * info.time_base - info.origin if before else Fraction(0)
        for key, seek in ((before - 1, True), (before - 3, True), (before - 1, False), (before - 3, False)):
            if key < 0:
                continue
            pictures = _pictures(info, shown.keys[key], seek, trouble, hardware)
            for time, picture in pictures:
                if time == expected:
                    yield time, picture
                    yield from pictures
                    return
                if time is not None and time > expected:
                    break
            pictures.close()
    yield from _pictures(info, None, False, trouble, hardware)


def _images(info: VideoInfo, trouble: Trouble) -> Iterator[tuple[Fraction, Any]]:
    for number, path in enumerate(info.images):
        time = number / info.frame_rate
        try:
            yield time, read_frame(path)
        except InputError as error:
            trouble.found(str(error), time)


def _pictures(
    info: VideoInfo, key: int | None, seek: bool, trouble: Trouble, hardware: HWAccel | None
) -> Generator[tuple[Fraction | None, Any], None, None]:
    """Decode from the keyframe shown at ``key`` (in the file's timestamps; None: from the beginning) to the end."""
    # Held back until a picture follows: at the very beginning and end of a recording something is always broken.
    broken: tuple[str, Fraction | None] | None = None
    early: list[tuple[int, str, str]] = []  # warnings before the first picture
    shown = False
    when: Fraction | None = None
    latest = -info.origin

    with open_container(info.path) as container:
        video = container.streams[info.stream]
        decoder = _decoder(video, trouble, hardware)
        order = Order(decoder.reorder_depth) if info.presentation.decode_times else None
        waiting: dict[int, Fraction] = {}  # times of packets whose pictures are still to come
        for number, (packet, time) in enumerate(chain(_packets(info, container, key, seek), [(None, None)])):
            if packet is not None:
                if time is not None:
                    when, latest = time, max(latest, time)
                    if not packet.is_discard:
                        waiting[number] = time
                    if order is not None and not packet.is_discard:
                        order.feed(number, time)
                # the decoder passes its packet's timestamp on to the picture, which so identifies its packet
                packet.pts = packet.dts = number
            with av.logging.Capture() as said:
                try:
                    pictures = decoder.decode(packet)
                except av.error.EOFError:
                    pictures = []
                except av.error.FFmpegError as error:
                    pictures, broken = [], (f"damaged data ({error.strerror})", when)
            early += [] if shown else said
            if shown:
                trouble.heard(said, when)
            for picture in pictures:
                came = None if picture.pts is None else waiting.pop(picture.pts, None)
                if order is not None and came is not None:
                    came = order.time(picture.pts)
                if broken and shown:
                    trouble.found(*broken)
                elif broken:
                    trouble.tell(f"{broken[0]} before the first picture: left out")
                if not shown and early:
                    lost = sum(number < (picture.pts or 0) for number in waiting) if key is None else 0
                    if lost:  # for lack of a keyframe
                        trouble.tell(f"{lost} frames before the first that can be decoded: left out")
                    else:
                        trouble.heard(early, came)
                broken, shown = ("damaged picture", came) if picture.is_corrupt else None, True
                yield came, picture if hardware is None else _unpacked(picture, info.pixel_format)
        if broken:
            trouble.tell(f"{broken[0]} at the very end", broken[1])
        times = info.presentation.times
        if shown and times and latest < times[-1] * info.time_base - info.origin:
            trouble.found("the file has become shorter since it was looked at, and ends", latest)


def _decoder(video: Any, trouble: Trouble, hardware: HWAccel | None) -> Any:
    settings: Any = hardware  # PyAV's stubs leave its fields out
    try:
        return video_decoder(video, hardware)
    except av.error.FFmpegError as error:
        if hardware is None or not settings.allow_software_fallback:
            raise
        trouble.tell(f"the chip does not open any more ({error.strerror}): decoded in software")
        return video_decoder(video)


def _unpacked(picture: Any, pixel_format: str) -> Any:
    """A picture as software gives it: hardware interleaves the chroma planes, and puts 10 bits into the upper of 16."""
    interleaved = picture.format.name.startswith(("nv", "p0", "p2", "p4"))
    return picture.reformat(format=pixel_format, threads=ALONE) if interleaved else picture


def _packets(info: VideoInfo, container: Any, key: int | None, seek: bool) -> Iterator[tuple[Any, Fraction | None]]:
    """(packet that is not empty, when its picture is shown, or decoded, by the job's clock; None: unknown)."""
    video, shown = container.streams[info.stream], info.presentation
    clock = Clock(shown)
    if key is not None and seek:
        if len(shown.pieces) > 1:
            return  # a timestamp alone does not identify the piece
        container.seek(key, stream=video)
    packets = container.demux(video)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # `probe` came across it too, and said so
            return
        if packet is None:
            return
        if not packet.size:
            continue
        shift = clock.shift(packet, info.time_base)
        stamp = packet.pts if shown.dated else packet.dts
        time = None if stamp is None else stamp * info.time_base + shift
        if key is not None:
            if not packet.is_keyframe or time is None or time < key * info.time_base:
                continue
            if time > key * info.time_base:
                return  # already past it
            key = None
        yield packet, None if time is None else time - info.origin


def _timed(info: VideoInfo, pictures: Iterator[tuple[Fraction | None, Any]], report: Report) -> Any:
    """Frames with clean times: missing times filled in, repeated ones dropped, constant rates exact."""
    step = 1 / info.frame_rate
    first = info.start - info.origin
    fit = Fitter(info.coded, info.pixel_format, info.time_base, report)
    last: Fraction | None = None
    held: tuple[Fraction, Any] | None = None  # until the next one confirms its time
    left_out = 0

    def frame(pts: Fraction, picture: Any) -> Frame:
        duration = (picture.duration or 0) * info.time_base if info.vfr else step
        return frame_of(fit(picture, pts), info.siting, info.orientation, pts, duration or step)

    for time, picture in _begun(pictures, step, report) if info.presentation.times else pictures:
        pts = time if time is not None else first if held is None else held[0] + step
        if not info.vfr:
            pts = first + round((pts - first) * info.frame_rate) * step
        if held is None or pts > held[0]:
            if held is not None:
                last = held[0]
                yield frame(*held)
            held = pts, picture
            continue
        # either this one repeats or precedes, or the one before it has strayed ahead
        strayed = (last is None or pts > last) and held[0] - pts >= STRAY * step
        if not left_out:
            report(f"frame{_at(held[0] if strayed else pts)} repeats or precedes the time before it: left out")
        left_out += 1
        if strayed:
            held = pts, picture
    if held is not None:
        yield frame(*held)
    if left_out > 1:
        report(f"{left_out} such frames in all: left out")


def _begun(
    pictures: Iterator[tuple[Fraction | None, Any]], step: Fraction, report: Report
) -> Iterator[tuple[Fraction | None, Any]]:
    """Give initial pictures without a time the times before the first that has one; those before zero are dropped."""
    undated: list[Any] = []
    for time, picture in pictures:
        if time is None:
            undated.append(picture)
            continue
        before = [(time - k * step, early) for k, early in zip(range(len(undated), 0, -1), undated, strict=True)]
        yield from ((when, early) for when, early in before if when >= 0)
        if missed := sum(when < 0 for when, _ in before):
            report(f"{missed} frames before the time that the file begins at: left out")
        yield time, picture
        break
    yield from pictures


class Fitter:
    """Converts pictures to the size and pixel format of the first, where a file changes these midway."""

    def __init__(self, size: tuple[int, int], pixel_format: str, time_base: Fraction, report: Report) -> None:
        self._size, self._format, self._time_base, self._report = size, pixel_format, time_base, report
        self._graph: Any = None
        self._from: tuple[int, int, str] | None = None

    def __call__(self, picture: Any, pts: Fraction) -> Any:
        shape = (picture.width, picture.height, picture.format.name)
        if shape == (*self._size, self._format):
            return picture
        if shape != self._from:
            width, height = self._size
            if shape[:2] != self._size:
                self._report(
                    f"the picture changes size{_at(pts)}, from {width}×{height} to {shape[0]}×{shape[1]}: "
                    f"fitted into {width}×{height}"
                )
            self._from = shape
            self._graph = av.filter.Graph()
            # black bars keep the aspect ratio
            self._graph.link_nodes(
                self._graph.add_buffer(
                    width=shape[0], height=shape[1], format=picture.format, time_base=self._time_base
                ),
                self._graph.add("scale", f"{width}:{height}:force_original_aspect_ratio=decrease:flags=bicubic"),
                self._graph.add("pad", f"{width}:{height}:-1:-1"),
                self._graph.add("format", self._format),
                self._graph.add("buffersink"),
            ).configure()
        picture.time_base = self._time_base
        picture.pts = None
        self._graph.push(picture)
        return self._graph.pull()


def frame_of(picture: Any, siting: str, orientation: Orientation, pts: Fraction, duration: Fraction) -> Frame:
    """A decoded PyAV picture, whose chroma is at ``siting``, as displayed. ValueError: see PixelFormat.of."""
    format, color = PixelFormat.of(picture.format.name), color_of(picture, siting)
    if picture.format.name.replace("yuvj", "yuv") != format.name:
        picture = picture.reformat(format=format.name, threads=ALONE)  # unpacks without loss; see PixelFormat.of
    stored = tuple(_plane(picture, format, k) for k in range(format.planes))
    planes = orientation.planes(stored, format, color)
    return Frame(planes, *orientation.described(format, color), pts, duration)


def _plane(picture: Any, format: PixelFormat, k: int) -> Any:
    plane = picture.planes[k]
    rows, columns = format.plane_shape(k, picture.width, picture.height)
    size = np.dtype(format.dtype).itemsize
    lines = np.frombuffer(plane, np.uint8)[: rows * plane.line_size].reshape(rows, plane.line_size)
    return np.ascontiguousarray(lines[:, : columns * size]).view(format.dtype)
