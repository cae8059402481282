"""Near real time: a camera, a pipe, the network or a film, sharper and smoother, with a bounded delay.

The stages are those of a job, in threads of their own, with several frames in parallel. If they cannot keep up, quality
drops in steps (fpsgan.live.effort): no deblurring, then smaller networks, then a new picture for every second output
only, then the source's own frames alone. The output rate never drops: every output is due at its time, and if nothing
is ready by then, the last picture is repeated. Sound and subtitles go along with the pictures.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from deblur import Deblurrer
from fpsgan.device.engine import DeviceInterpolator
from fpsgan.errors import InputError, OptionError
from fpsgan.live.effort import Clock, Effort, Level, Planned
from fpsgan.live.sink import Sink
from fpsgan.live.source import Source
from fpsgan.options import Options
from fpsgan.rendering import Engines
from fpsgan.runtime import library_errors, sharing_cores
from fpsgan.stages.deblurring import Counters, deblurred
from fpsgan.stages.interpolation import InterpolationSettings, Output, Spent
from fpsgan.stages.scenes import related
from fpsgan.stages.timeline import Span, longest_gap, schedule, target_rate
from fpsgan.threads import prefetch
from fpsgan.video.frame import Frame

__all__ = ["StreamReport", "stream"]

AHEAD = 1.0  # seconds of output that are computed ahead if the source can wait, and sent ahead to a player
WAITING = 2.0  # seconds of frames that may queue between the reader and the first stage, so that a camera never blocks
ROOM = 2**28  # bytes, for the frames in either of these queues
TICK = 0.01  # seconds after which the writer checks whether an output is overdue
PAUSED = 0.1  # seconds: if it takes longer to write a picture, the reader of the output has paused
KEPT = 20_000  # latencies, for the percentile
SMALLER = ("interpolator-best", "interpolator-base", "interpolator-fast")
TOO_SLOW = 4  # a network that takes more than so many times the duration of a pair is not used
# The options that apply here
HEEDED = {"deblur", "deblur_strength", "fps", "multi", "scene_threshold", "dedup", "weights", "deblur_weights",
          "device", "half", "engine", "tile"}  # fmt: skip


@dataclasses.dataclass
class StreamReport:
    """How it went. Latency in seconds, from when a moment of the source arrived, or was due, until the picture that
    shows it was written; ``rate`` is in output frames per second of wall time, ``fps`` the one asked for.

    ``levels``: the number of outputs at each level of effort, best first; ``level``: the current one. For lack of time:
    ``not_deblurred`` and ``dropped`` source frames, ``held`` outputs that repeat the picture before, ``skipped``
    outputs that the reader did not take. ``waited``: outputs that repeat the picture before because the source had sent
    nothing. ``damaged``: packets that could not be decoded; ``left_out``: packets of sound and subtitles that belong to
    no picture, or came too late.
    """

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
    skipped: int = 0
    waited: int = 0
    damaged: int = 0
    left_out: int = 0
    level: str = ""
    levels: dict[str, int] = dataclasses.field(default_factory=dict)
    latency: float = 0.0
    latency_p95: float = 0.0
    latency_max: float = 0.0
    rate: float = 0.0
    seconds: float = 0.0
    ended: str = ""


@library_errors()
def stream(
    source: str,
    target: str,
    *,
    options: Options | None = None,
    max_delay: float = 0.5,
    format: str = "matroska",
    on_report: Callable[[StreamReport], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> StreamReport:
    """Enhance ``source`` while it comes in, and write it to ``target`` as it gets ready.

    ``source``: a device (/dev/video0) or an address (rtsp://…, udp://…), which do not wait; or "-" (standard input), a
    file or an http address, which do, and are played at their own speed. ``target``: "-" (standard output, in the
    container ``format``: "matroska", "nut", or "yuv4mpegpipe", which has no sound), or an address or file, as H.264 for
    low delay. Pixel format and colour stay the source's if the target takes them. Sound and subtitles are copied if it
    takes them, else re-encoded (sound) or left out, which is passed to ``on_note``. Of ``options``, those about the two
    stages and the machine may be set; without a rate, it is doubled. ``max_delay`` in seconds: what would take longer
    is left out. ``on_report`` is called about once a second, and at the end, with the figures so far.

    Ends with the source, with Ctrl-C, or when the reader of the target goes away. Raises InputError or OutputError if
    one cannot be opened, OptionError for values that make no sense.
    """
    options = options or Options()
    for field in dataclasses.fields(Options):
        if field.name not in HEEDED and getattr(options, field.name) != getattr(Options(), field.name):
            raise OptionError(f"{field.name}: a live stream knows nothing of it; leave it out")
    if max_delay < 0.1:
        raise OptionError(
            f"--max-delay {max_delay}: at least 0.1 s; interpolation itself has to wait for the next frame"
        )
    try:
        read = Source(source, on_note)
    except KeyboardInterrupt:
        return StreamReport(ended="stopped")
    asked = options.fps is not None or options.multi is not None
    rate, step = target_rate(read.rate, fps=options.fps, multi=options.multi if asked else Fraction(2))
    clock = Clock(live=read.live, file=read.file)
    frames = prefetch(read.frames(clock), _room(WAITING, read.rate, 3 * read.video.width * read.video.height))
    outputs: Generator[Output | None, None, None] | None = None
    sink: Sink | None = None
    report = StreamReport(fps=float(rate))
    try:
        first, deblurrer, levels = _ready(read, frames, options, rate, clock, max_delay, on_note)
        report.width, report.height = first.width, first.height
        effort, sharpening, engines = Effort(levels, clock, max_delay), Counters(), levels[0].engines
        sink = Sink(target, format, first, rate, read, on_note)
        scenes = related(effort.in_time(chain([first], frames)), options.scenes)
        if deblurrer is not None:
            scenes = prefetch(
                deblurred(scenes, deblurrer, options.deblurring, sharpening, late=effort.too_late_to_deblur,
                          workers=engines.workers), 1,
            )  # fmt: skip
        spans = schedule(scenes, step, longest_gap=longest_gap(read.rate), exact_end=not read.live)
        settings = InterpolationSettings(
            rate, first.pts, look_ahead=not read.live, workers=engines.workers, target=(sink.format, sink.color)
        )
        size = sum(plane.nbytes for plane in first.planes)
        outputs = prefetch(
            _planar(effort.interpolated(spans, settings), sink), 1 if read.live else _room(AHEAD, rate, size), TICK
        )
        showing = _Showing(read, sink, effort, sharpening, report, first.pts, rate, on_report)
        try:
            with sharing_cores(engines.workers):
                showing.run(outputs)
            report.ended = read.ended
        except KeyboardInterrupt:
            report.ended = "stopped"
        sink.finish()
    except BrokenPipeError:
        report.ended = "the reader of the output went away"
    except KeyboardInterrupt:
        report.ended = "stopped"
    except BaseException:
        if sink is not None:
            sink.abort()
        raise
    finally:
        (outputs or frames).close()
        read.close()
    return report


def _room(seconds: float, rate: Fraction, size: int) -> int:
    """How many frames of ``size`` bytes make so many seconds, within ROOM."""
    return max(1, min(round(seconds * rate), ROOM // max(size, 1)))


def _ready(
    read: Source,
    frames: Iterator[Frame],
    options: Options,
    rate: Fraction,
    clock: Clock,
    max_delay: float,
    note: Callable[[str], None],
) -> tuple[Frame, Deblurrer | None, list[Level]]:
    """The first frame to process, and everything that processes it, warmed up. What a live source sends meanwhile is
    dropped."""
    first = next(frames, None)
    if first is None:
        raise InputError(f"{read.name}: holds no picture")
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        warming = pool.submit(_levels, options, first, read, rate, max_delay, note)
        while read.live and not warming.done() and (later := next(frames, None)) is not None:
            first = later
        deblurrer, levels = warming.result()
    if not read.live:
        clock.put_off(time.monotonic() - began)
    clock.forget(first.pts)
    return first, deblurrer, levels


def _levels(
    options: Options, like: Frame, read: Source, rate: Fraction, max_delay: float, note: Callable[[str], None]
) -> tuple[Deblurrer | None, list[Level]]:
    """The deblurrer, and the levels of effort, costliest first: as asked; without deblurring, which takes most time;
    with smaller networks; for every second output, if that is still more than the source has; and without a network.

    Each network is timed on noise, which also warms it up: the first pictures take seconds.
    """
    asked = str(options.weights)
    names = [asked, *(SMALLER[SMALLER.index(asked) + 1 :] if asked in SMALLER else SMALLER[-1:])]
    if rate == read.rate:
        names = names[:1]  # nothing to interpolate
    deblurrer: Deblurrer | None = None
    levels: list[Level] = []
    for name in names:
        only = options if name == asked else dataclasses.replace(options, weights=name, deblur="off")
        engines, level = Engines(only, like.width * like.height, quick=True), Path(name).stem
        if read.live and isinstance(engines.interpolator, DeviceInterpolator):
            engines.interpolator.batch = max(1, int(max_delay / 4 * read.rate))
        deblurrer = deblurrer or engines.deblurrer
        with sharing_cores(engines.workers):
            taken = _seconds_for_a_pair(engines, like, read.rate)
        fits = taken * read.rate <= 1
        if not fits:
            note(f"{level} takes {taken:.2f} s here for a pair of frames, which lasts {float(1 / read.rate):.2f} s")
        if taken * read.rate <= TOO_SLOW or name == names[-1]:
            levels.append(Level(level, engines, fits=fits))
    if deblurrer is not None:
        deblurrer.sharpen(_noise(like, 1, read.rate)[0].as_rgb())
        levels.insert(0, levels[0]._replace(name=f"deblurring, {levels[0].name}", deblurring=True))
    last = levels[-1]
    if rate > 2 * read.rate:
        levels.append(last._replace(name=f"{last.name} for {float(rate / 2):.4g} frames/s", halved=True))
    if rate != read.rate:
        levels.append(last._replace(name="source frames", generating=False, fits=True))
    return deblurrer, levels


def _seconds_for_a_pair(engines: Engines, like: Frame, rate: Fraction) -> float:
    """Of wall time, on the second run, with all workers busy."""
    frames = _noise(like, engines.workers + 2, rate)
    spans = [Span(*pair, (Fraction(0), Fraction(1, 2)), 2 * k) for k, pair in enumerate(pairwise(frames))]
    settings = InterpolationSettings(2 * rate, look_ahead=False, workers=engines.workers)
    began = 0.0
    for _ in range(2):
        began = time.monotonic()
        deque(engines.between(spans, settings, Spent()), maxlen=0)
    return (time.monotonic() - began) / len(spans)


def _noise(like: Frame, count: int, rate: Fraction) -> list[Frame]:
    random = np.random.default_rng(0)
    top = 1 << like.format.depth
    return [
        dataclasses.replace(
            like,
            planes=tuple(random.integers(0, top, plane.shape, like.format.dtype) for plane in like.planes),
            pts=k / rate,
        )
        for k in range(count)
    ]


def _planar(outputs: Iterable[Output], sink: Sink) -> Iterator[Output]:
    """The outputs in the format in which they are written."""
    before: Frame | None = None
    planes: tuple[Any, ...] = ()
    for output in outputs:
        frame = output.frame
        if before is None or frame.planes is not before.planes or frame.rgb is not before.rgb:
            planes = frame.as_planes(sink.format, sink.color)
        before = frame
        yield output._replace(
            frame=dataclasses.replace(frame, planes=planes, format=sink.format, color=sink.color, rgb=None)
        )


@dataclasses.dataclass
class _Showing:
    """Writes every output when it is due, with the sound that has come up to then. If an output is overdue, repeats the
    picture before it."""

    read: Source
    sink: Sink
    effort: Effort
    sharpening: Counters
    report: StreamReport
    begin: Fraction
    rate: Fraction
    on_report: Callable[[StreamReport], None]

    def __post_init__(self) -> None:
        self.clock = self.effort.clock
        self.lead = AHEAD if self.sink.target == "-" and not self.read.live else 0.0
        self.number = 0  # of the next output
        self.began = self.told = time.monotonic()
        self.latencies: deque[float] = deque(maxlen=KEPT)
        self.levels: Counter[str] = Counter()

    def run(self, outputs: Iterable[Output | None]) -> None:
        shown: Output | None = None
        for output in outputs:
            if output is not None and output.number < self.number:  # too late
                self.effort.planned.pop(output.number, None)
            elif output is not None:
                while shown is not None and self.number < output.number:
                    self._show(shown, again=True)
                while (early := -self.lead - self._lag()) > 0:
                    time.sleep(min(early, 0.1))
                self._show(output)
                shown = output
            while shown is not None and self._lag() > self.effort.max_delay:
                self._show(shown, again=True)
            if self.latencies and time.monotonic() - self.told >= 1:
                self._tell()
        while shown is not None and self.number in self.effort.planned:  # the last, at a halved level
            self._show(shown, again=True)
        for aside in self.read.aside_until(None):
            self.sink.write_aside(aside)
        if self.latencies:
            self._tell()

    def _moment(self) -> Fraction:
        return self.begin + self.number / self.rate

    def _lag(self) -> float:
        return self.clock.lag(self._moment())

    def _show(self, output: Output, *, again: bool = False) -> None:
        report, moment, before = self.report, self._moment(), time.monotonic()
        for aside in self.read.aside_until(moment):
            self.sink.write_aside(aside)
        self.sink.write(output.frame.planes, moment)
        planned = self.effort.planned.pop(self.number, None) or Planned(self.effort.level.name, spared=again)
        self.levels[planned.level] += 1
        report.generated += output.generated and not again
        taken, late = time.monotonic() - before, self._lag()
        if self.clock.come(moment - 1 / self.read.rate):
            report.held += again or planned.spared
            self.latencies.append(late)
            report.latency_max = max(report.latency_max, late)
        else:
            report.waited += again
        self.number += 1
        report.frames_out += 1
        self.clock.forget(moment - 1)
        if self.sink.target == "-" and taken > PAUSED:  # the player takes no more for now
            if not self.read.live:
                self.clock.put_off(taken)
            elif taken > self.effort.max_delay:
                missed = max(0, int(self._lag() * self.rate))
                self.number += missed
                report.skipped += missed

    def _tell(self) -> None:
        report, effort = self.report, self.effort
        self.told = time.monotonic()
        report.seconds = self.told - self.began
        report.rate = report.frames_out / max(report.seconds, 1e-9)
        report.latency = statistics.fmean(self.latencies)
        report.latency_p95 = float(np.percentile(self.latencies, 95))
        report.frames_in, report.dropped, report.not_deblurred = effort.frames_in, effort.dropped, effort.not_deblurred
        report.deblurred = self.sharpening.deblurred
        report.damaged = self.read.damaged + self.sink.damaged
        report.left_out = self.read.left_out + self.sink.left_out
        report.level = effort.level.name
        report.levels = {level.name: self.levels[level.name] for level in effort.levels if self.levels[level.name]}
        for number in [number for number in list(effort.planned) if number < self.number]:
            del effort.planned[number]
        self.on_report(report)
