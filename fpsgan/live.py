"""Near live: frames from a camera, a pipe or the network, sharper and smoother, out again after a bounded delay.

The stages run in threads of their own, as in a job. What they cannot do in time is left out, the costliest first: a
frame that is late is not deblurred, one that is later is shown again instead of an interpolated one, and only what is
later than the bound is dropped. Time itself never is: every output frame has its moment, at a constant rate, and
where that is up with nothing ready, the last picture is shown again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from fractions import Fraction
from typing import IO, Any

import av
import av.error
import numpy as np
import torch

from deblur import Deblurrer
from fpsgan import weights
from fpsgan.errors import InputError, OptionError, OutputError
from fpsgan.interpolator import InterpolatorRunner, with_acceleration
from fpsgan.options import Options
from fpsgan.runtime import library_errors, pick_device, pick_dtype, sharing_cores
from fpsgan.stages.deblurring import Counters, deblurred
from fpsgan.stages.interpolation import InterpolationSettings, Output, Spent, interpolated
from fpsgan.stages.scenes import related
from fpsgan.stages.timeline import Span, longest_gap, schedule, target_rate
from fpsgan.threads import prefetch
from fpsgan.video.ffmpeg import ffmpeg_path
from fpsgan.video.frame import SMALLEST_SIDE, Frame, PixelFormat, check_size
from fpsgan.video.probe import color_of

__all__ = ["StreamReport", "stream"]

WAITING = 2  # seconds of frames that may lie between the reader and the first stage: it must not block a camera
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 64.0  # seconds that a stage rests after it was too slow; doubled each time
TICK = 0.01  # seconds after which the writer looks whether a moment's time is up
KEPT = 20_000  # latencies, for the percentile
# The options that mean something here
HEEDED = {"deblur", "deblur_strength", "fps", "multi", "scene_threshold", "dedup", "weights", "deblur_weights",
          "device", "half", "tile"}  # fmt: skip
# How a target that is no file is spoken to, by its scheme.
MUXERS = {"udp": "mpegts", "tcp": "mpegts", "srt": "mpegts", "rtsp": "rtsp", "rtmp": "flv"}


@dataclasses.dataclass
class StreamReport:
    """How it went. Latency in seconds, from the arrival of a moment to the writing of the frame that shows it; ``rate``
    is in output frames per second of wall time, ``fps`` the one asked for. ``not_deblurred`` and ``held`` count frames
    and outputs for which there was no time, ``dropped`` source frames; of the ``generated``, some came too late.
    ``damaged`` counts packets of the source that could not be decoded."""

    width: int = 0
    height: int = 0
    fps: float = 0.0
    frames_in: int = 0
    frames_out: int = 0
    generated: int = 0
    deblurred: int = 0
    not_deblurred: int = 0
    held: int = 0
    dropped: int = 0
    damaged: int = 0
    latency: float = 0.0
    latency_p95: float = 0.0
    latency_max: float = 0.0
    rate: float = 0.0
    seconds: float = 0.0
    ended: str = ""


class _Rest:
    """Lets a stage that was too slow rest for a while: going on and off with every frame would flicker."""

    def __init__(self) -> None:
        self.pause, self.until = FIRST_PAUSE, 0.0

    def needed(self, late: bool) -> bool:
        now = time.monotonic()
        if late and now >= self.until:
            self.until = now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
        return now < self.until


class _Clock:
    """When each source frame arrived, and what that says about being late."""

    def __init__(self, max_delay: float, report: StreamReport) -> None:
        self.max_delay, self.report = max_delay, report
        self.arrivals: deque[tuple[Fraction, float]] = deque()
        self.lock = threading.Lock()
        self.deblurring, self.generating = _Rest(), _Rest()

    def arrived(self, pts: Fraction) -> None:
        with self.lock:
            self.arrivals.append((pts, time.monotonic()))

    def lag(self, pts: Fraction) -> float:
        """Seconds since the moment ``pts`` of the source arrived."""
        with self.lock:
            before = [(at, when) for at, when in self.arrivals if at <= pts]
            at, when = before[-1] if before else self.arrivals[0]
        return time.monotonic() - when - float(pts - at)

    def forget(self, pts: Fraction) -> None:
        """Nothing before ``pts`` will be asked for again."""
        with self.lock:
            while len(self.arrivals) > 1 and self.arrivals[1][0] <= pts:
                self.arrivals.popleft()

    def in_time(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self.report.frames_in += 1
            if self.lag(frame.pts) > self.max_delay:
                self.report.dropped += 1
            else:
                yield frame

    def too_late_to_deblur(self, frame: Frame) -> bool:
        """From a quarter of the delay on, and then for a while."""
        resting = self.deblurring.needed(self.lag(frame.pts) > self.max_delay / 4)
        self.report.not_deblurred += resting
        return resting

    def hold_late(self, spans: Iterable[Span[Frame]]) -> Iterator[Span[Frame]]:
        """From half of the delay on, nothing is generated; from all of it on (one pair is too slow), for a while."""
        for span in spans:
            if span.frame1 is not None:
                lag = self.lag(span.frame1.pts)
                if self.generating.needed(lag > self.max_delay) or lag > self.max_delay / 2:
                    self.report.held += sum(bool(t) for t in span.times)
                    span = span._replace(frame1=None, times=(Fraction(0),) * len(span.times))
            yield span


@library_errors()
def stream(
    source: str,
    target: str,
    *,
    options: Options | None = None,
    max_delay: float = 0.5,
    on_report: Callable[[StreamReport], None] | None = None,
) -> StreamReport:
    """Enhance ``source`` while it comes in, and write it to ``target`` as it gets ready.

    ``source``: "-" (standard input), a device (/dev/video0), an address (rtsp://…) or a file, which is played at its
    own speed. ``target``: "-" (standard output, as YUV4MPEG, which players and ffmpeg read) or an address or file, as
    H.264 for low delay. Pictures are 8-bit 4:2:0; there is no sound. Of ``options``, those about the two stages and
    the machine may be set; without a rate, it is doubled. ``max_delay`` in seconds, see the module. ``on_report`` is
    called about once a second, and at the end, with the figures so far, the same object that is returned.

    Ends with the source, with Ctrl-C, or when whoever reads the target goes away. Raises InputError or OutputError
    where one cannot be opened, OptionError for values that make no sense.
    """
    options = options or Options()
    for field in dataclasses.fields(Options):
        if field.name not in HEEDED and getattr(options, field.name) != getattr(Options(), field.name):
            raise OptionError(f"{field.name}: a live stream knows nothing of it; leave it out")
    if max_delay < 0.1:
        raise OptionError(
            f"--max-delay {max_delay}: at least 0.1 s; interpolation itself has to wait for the next frame"
        )
    report = StreamReport()
    clock = _Clock(max_delay, report)
    device = pick_device(options.device)
    dtype = pick_dtype(device, options.half)
    if device.type == "cpu" and options.deblur != "off":
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the two stages share the cores
    deblurrer = None
    if options.deblur != "off":
        generator = weights.load(options.deblur_weights, expect="deblur")
        deblurrer = Deblurrer(generator, device, dtype, options.tile, quick=True)
    network = weights.load(options.weights, expect="interpolator")
    interpolator = InterpolatorRunner(network, device, dtype, options.tile)
    container = _opened(source)
    video = container.streams.video[0]
    video.codec_context.thread_type = "SLICE"  # threads by frame would each hold one back
    incoming = Fraction(video.average_rate or video.guessed_rate or 30).limit_denominator(1001)
    asked = options.fps is not None or options.multi is not None
    rate, step = target_rate(incoming, fps=options.fps, multi=options.multi if asked else Fraction(2))
    report.fps = float(rate)
    sar = Fraction(video.sample_aspect_ratio or 1)
    _warm_up(deblurrer, interpolator, video.height, video.width)
    frames = _frames(source, container, clock)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{source}: holds no picture")
    report.width, report.height = first.width, first.height

    counters = Counters()
    read = prefetch(_all(first, frames), round(WAITING * incoming))
    scenes = related(clock.in_time(read), options.scenes)
    if deblurrer is not None:
        late = clock.too_late_to_deblur
        scenes = prefetch(deblurred(scenes, deblurrer, options.deblurring, counters, late=late), 1)
    spans = clock.hold_late(schedule(scenes, step, longest_gap=longest_gap(incoming)))
    settings = InterpolationSettings(rate, first.pts, look_ahead=False)
    stage: Generator[Output | None, None, None] = prefetch(
        interpolated(spans, interpolator, settings, Spent()), 1, TICK
    )
    try:
        # flow in one thread, the network in another: either gets half of the cores
        with sharing_cores(2), _Writer(target, first, rate, sar) as writer:
            _write(stage, writer, clock, rate, counters, on_report)
        report.ended = "the source ended"
    except BrokenPipeError:
        report.ended = "the reader of the output went away"
    except KeyboardInterrupt:
        report.ended = "stopped"
    finally:
        stage.close()
    return report


def _warm_up(deblurrer: Deblurrer | None, interpolator: InterpolatorRunner, height: int, width: int) -> None:
    """The first pictures take seconds: before the stream begins. Noise, so that every step has something to do."""
    if min(height, width) < SMALLEST_SIDE:
        return  # not known yet, or an error to come
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    picture0, picture1 = (np.divide(frame, 255, dtype=np.float32) for frame in noise)
    if deblurrer is not None:
        deblurrer.sharpen(picture0)
    prior = interpolator.prior(noise[0], noise[1])
    interpolator.between(
        picture0,
        picture1,
        [0.5],
        with_acceleration(prior, prior, prior, stride=interpolator.interpolator.config.stride),
    )


def _write(
    stage: Iterable[Output | None],
    writer: _Writer,
    clock: _Clock,
    rate: Fraction,
    counters: Counters,
    on_report: Callable[[StreamReport], None] | None,
) -> None:
    """Every output at its moment's turn; where a moment's time is up and its frame is not here, the last one again."""
    report = clock.report
    latencies: deque[float] = deque(maxlen=KEPT)
    began = told = time.monotonic()
    first: Fraction | None = None
    shown: Frame | None = None  # at the moment before
    came: Frame | None = None  # of the stage, last
    for output in stage:
        new = output is not None
        if output is not None:
            frame = output.frame
            report.generated += output.generated
            first = frame.pts if first is None else first
            again = came is not None and frame.planes is came.planes and frame.rgb is came.rgb
            came = frame
            if output.number < report.frames_out:  # its moment is over, and was counted as held
                report.held -= again
                continue
            shown = frame
        if shown is None or first is None:
            continue
        while new or clock.lag(first + report.frames_out / rate) > clock.max_delay:
            writer.write(shown)
            latencies.append(clock.lag(first + report.frames_out / rate))
            clock.forget(first + report.frames_out / rate - 1)
            report.held += not new
            report.frames_out += 1
            report.latency_max = max(report.latency_max, latencies[-1])
            new = False
        report.deblurred = counters.deblurred
        now = time.monotonic()
        report.seconds = now - began
        if now - told >= 1:
            told = now
            _sum_up(report, latencies)
            if on_report is not None:
                on_report(report)
    if latencies:
        _sum_up(report, latencies)
        if on_report is not None:
            on_report(report)


def _sum_up(report: StreamReport, latencies: deque[float]) -> None:
    report.rate = report.frames_out / max(report.seconds, 1e-9)
    report.latency = statistics.fmean(latencies)
    report.latency_p95 = float(np.percentile(latencies, 95))


def _opened(source: str) -> Any:
    device = source.startswith("/dev/video")
    try:
        container = av.open(
            "pipe:0" if source == "-" else source,
            format="v4l2" if device else None,
            options={"probesize": "500000", "analyzeduration": "500000"},
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{source}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{source}: holds no video stream")
    return container


def _frames(source: str, container: Any, clock: _Clock) -> Iterator[Frame]:
    """Frames as they arrive; from a file at its own speed. Those out of order, or damaged, are passed over.

    Closes the container, in whatever thread it runs: to do so while another one reads from it would crash.
    """
    video = container.streams.video[0]
    interval = 1 / Fraction(video.average_rate or video.guessed_rate or 30)
    form, size = PixelFormat.of("yuv420p"), None
    last: Fraction | None = None
    began, start = 0.0, Fraction(0)
    with container:
        for picture in _pictures(container, video, clock.report):
            stamp = None if picture.pts is None else picture.pts * Fraction(picture.time_base)
            pts = stamp if stamp is not None else (last + interval if last is not None else Fraction(0))
            if last is not None and pts <= last:
                continue
            size = size or (picture.width, picture.height)
            if (picture.width, picture.height) != size:
                raise InputError(f"{source}: the picture changes size to {picture.width}×{picture.height}")
            check_size(*size, source)
            early = began + float(pts - start) - time.monotonic()
            if last is None or early > WAITING:  # the first one, or the source's clock has jumped
                began, start = time.monotonic(), pts
            elif early > 0:
                time.sleep(early)
            last = pts
            clock.arrived(pts)
            color = color_of(picture, "left")
            planar = picture if picture.format.name in ("yuv420p", "yuvj420p") else picture.reformat(format=form.name)
            yield Frame(tuple(plane.copy() for plane in _planes(planar, form)), form, color, pts, interval)


def _pictures(container: Any, video: Any, report: StreamReport) -> Iterator[Any]:
    try:
        for packet in container.demux(video):
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                report.damaged += 1
    except (av.error.FFmpegError, OSError):  # the camera was unplugged, the connection is gone: that is its end
        return


def _planes(picture: Any, form: PixelFormat) -> Iterator[Any]:
    for index, plane in enumerate(picture.planes):
        rows, columns = form.plane_shape(index, picture.width, picture.height)
        yield np.frombuffer(plane, np.uint8)[: rows * plane.line_size].reshape(rows, plane.line_size)[:, :columns]


def _all(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


class _Writer:
    """YUV4MPEG to standard output, or to an ffmpeg that sends it on."""

    def __init__(self, target: str, like: Frame, rate: Fraction, sar: Fraction) -> None:
        self.target, self.format, self.color = target, like.format, like.color
        self.process: subprocess.Popen[bytes] | None = None
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the writer)
        self.out: IO[bytes]
        if target == "-":
            self.out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        else:
            muxer = MUXERS.get(target.split("://")[0]) if "://" in target else None
            self.process = subprocess.Popen(
                [ffmpeg_path(), "-v", "error", "-nostdin", "-y", "-f", "yuv4mpegpipe", "-i", "pipe:0",
                 "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-crf", "20", "-pix_fmt", "yuv420p",
                 *(["-f", muxer] if muxer else []), target],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.said,
            )  # fmt: skip
            assert self.process.stdin is not None
            self.out = self.process.stdin
        full = "FULL" if like.color.full_range else "LIMITED"
        self.header = (
            f"YUV4MPEG2 W{like.width} H{like.height} F{rate.numerator}:{rate.denominator} Ip "
            f"A{sar.numerator}:{sar.denominator} C420mpeg2 XCOLORRANGE={full}\n"
        ).encode()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.out.close()
        said = ""
        if self.process is not None:
            self.process.wait()
            self.said.seek(0)
            said = " ".join(self.said.read().decode(errors="replace").split())[-300:]
        self.said.close()
        if self.process is not None and self.process.returncode and kind in (None, BrokenPipeError):
            raise OutputError(f"{self.target}: cannot be written to ({said or 'ffmpeg gave no reason'})")

    def write(self, frame: Frame) -> None:
        self.out.write(self.header + b"FRAME\n")
        self.header = b""
        for plane in frame.as_planes(self.format, self.color):
            self.out.write(np.ascontiguousarray(plane).data)
        self.out.flush()
