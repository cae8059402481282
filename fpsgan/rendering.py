"""Makes segments of a job: the chain of stages, from the source's frames to encoded pictures.

The stages (fpsgan.stages) are generators, each pulling from the one before; ``prefetch`` runs one in its own thread
behind a short queue. So decoding, flow and colour conversion, the networks, and encoding overlap, memory does not
depend on the length of the video, and an error or Ctrl-C anywhere closes the whole chain. On a CPU the costly steps
work on several frames at once (``in_order``), one core each, since many of their parts use a single core.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from av.codec.hwaccel import HWAccel

from deblur import Deblurrer
from fpsgan import weights
from fpsgan.device.engine import DeviceInterpolator
from fpsgan.errors import FpsganError, OutputError
from fpsgan.interpolator import InterpolatorRunner
from fpsgan.options import Options
from fpsgan.runtime import at_once, pick_device, pick_dtype, sharing_cores
from fpsgan.segments import Record, Segment, Store, Timing
from fpsgan.stages import deblurring
from fpsgan.stages.interpolation import InterpolationSettings, Output, Spent, interpolated
from fpsgan.stages.interpolation_on_device import interpolated_on_device
from fpsgan.stages.scenes import related
from fpsgan.stages.timeline import Relation, Span, longest_gap, schedule
from fpsgan.threads import prefetch
from fpsgan.video.decode import decode
from fpsgan.video.encode import Encoder
from fpsgan.video.encode import Plan as OutputPlan
from fpsgan.video.frame import Frame, Picture
from fpsgan.video.probe import VideoInfo

__all__ = ["MOTION", "Counts", "Engines", "Job", "Reader", "make_segments"]

MOTION = "deblur-motion"  # the weights that undo the blur of moving objects
JUMP = Fraction(5)  # seconds of the source to decode in vain, at most, where seeking is possible


@dataclasses.dataclass(frozen=True)
class Job:
    """A planned job: all that is needed to make any of its segments, anywhere. ``decoder``: the kind of device that
    decodes its source, "" for software."""

    info: VideoInfo
    options: Options
    timing: Timing
    output: OutputPlan
    segments: tuple[Segment, ...]
    decoder: str = ""


@dataclasses.dataclass
class Counts:
    """What a job, or a part of it, did. ``cuts`` in seconds of the source; ``network_seconds`` is the time spent inside
    the networks, without flow, divided by the number of frames in parallel; ``sharp_skipped`` counts the frames that
    deblurring left alone, because they are sharp or `auto` found no shake in them."""

    frames_in: int = 0
    generated: int = 0
    untouched: int = 0
    cuts: list[float] = dataclasses.field(default_factory=list)
    held: int = 0
    deblurred: int = 0
    sharp_skipped: int = 0
    duration_in: float = 0.0
    network_seconds: float = 0.0

    def add(self, part: Record) -> None:
        """Add what a later part did; ``duration_in`` reaches to the end of its last frame."""
        for field in dataclasses.fields(Counts):
            value = getattr(self, field.name)
            longer = field.name == "duration_in"
            setattr(self, field.name, max(value, part[field.name]) if longer else value + part[field.name])


class Engines:
    """The networks that a job needs, on their device, and how many frames to process in parallel; ``quick``: see
    Deblurrer. Raises WeightsError, and SetupError for a device that is missing."""

    def __init__(self, options: Options, pixels: int, *, quick: bool = False) -> None:
        self.device = pick_device(options.device)
        dtype = pick_dtype(self.device, options.half)
        self.workers = at_once(self.device, pixels)
        self.deblurrer: Deblurrer | None = None
        self.interpolator: InterpolatorRunner | DeviceInterpolator | None = None
        if options.deblur != "off":
            deblur = weights.load(options.deblur_weights, expect="deblur")
            motion = None if quick else weights.load(MOTION, expect="motion")
            self.deblurrer = Deblurrer(deblur, self.device, dtype, options.tile, quick=quick, motion=motion)
        if options.interpolate:
            network = weights.load(options.weights, expect="interpolator")
            on_device = self.device.type != "cpu" and not options.tile
            if options.engine == "torch" or (options.engine == "auto" and on_device):
                self.interpolator = DeviceInterpolator(network, self.device, dtype)
            else:
                self.interpolator = InterpolatorRunner(network, self.device, dtype, options.tile, self.workers)

    def between(
        self,
        spans: Iterable[Span[Frame]],
        settings: InterpolationSettings,
        spent: Spent,
        late: Callable[[Span[Frame]], bool] = lambda _: False,
    ) -> Iterator[Output]:
        """The interpolation stage. On a device no more than a batch is ever queued, so `late` is not asked there."""
        if isinstance(self.interpolator, DeviceInterpolator):
            return interpolated_on_device(spans, self.interpolator, settings, spent)
        assert self.interpolator is not None
        return interpolated(spans, self.interpolator, settings, spent, late)


def make_segments(
    job: Job, segments: Iterable[Segment], store: Store, on_frame: Callable[[], None], note: Callable[[str], None]
) -> Iterator[tuple[Segment, Record]]:
    """Make segments one after another in this process; yield each with its record once it is in ``store``."""
    engines = Engines(job.options, job.info.width * job.info.height)
    reader = Reader(job)
    with sharing_cores(engines.workers), ThreadPoolExecutor(1) as finisher:
        finishing: Future[tuple[Segment, Record]] | None = None
        for segment in segments:
            try:
                encoded = _encode(job, segment, engines, reader, store, on_frame, note)
            except FpsganError as error:
                if len(job.segments) == 1:
                    raise
                raise type(error)(f"{error} ({segment.words})") from error
            before, finishing = finishing, finisher.submit(_finish, segment, *encoded, store)  # takes a while
            if before is not None:
                yield before.result()
        if finishing is not None:
            yield finishing.result()


def _encode(
    job: Job,
    segment: Segment,
    engines: Engines,
    reader: Reader,
    store: Store,
    on_frame: Callable[[], None],
    note: Callable[[str], None],
) -> tuple[Encoder | None, Record]:
    """Run the stages for one segment, into an encoder that is still to be closed (None: it has no frames)."""
    counts, notes, end = Counts(), list[str](), Fraction(0)

    def noted(text: str) -> None:
        notes.append(text)
        note(text)

    encoder: Encoder | None = None
    stage = prefetch(_outputs(job, segment, engines, reader.frames(segment, noted), counts), 1)  # pictures are large
    try:
        for output in stage:
            if encoder is None:
                encoder = Encoder(job.output, store.folder / job.output.segment_name(segment.name), output.number)
            encoder.write(output.frame)
            if output.confidence is not None and job.options.confidence_map is not None:
                _write_map(job.options.confidence_map / f"{output.number:06}.png", output.confidence)
            end = output.frame.pts + output.frame.duration
            on_frame()
    except BaseException:
        if encoder is not None:
            encoder.abort()
        raise
    finally:
        stage.close()
    pictures, frames = (encoder.path.name, encoder.frames) if encoder is not None else ("", 0)
    done = {"pictures": pictures, "frames": frames, "end": float(end), "notes": notes}
    return encoder, done | dataclasses.asdict(counts)


def _finish(segment: Segment, encoder: Encoder | None, record: Record, store: Store) -> tuple[Segment, Record]:
    if encoder is not None:
        encoder.close()
    store.finish(segment, record)
    return segment, record


class Reader:
    """The source's frames for one segment after another; decoding continues where it is if the next begins nearby."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._hardware = HWAccel(job.decoder, allow_software_fallback=True) if job.decoder else None
        self._lock = threading.Lock()
        self._frames: Iterator[Frame] | None = None
        self._kept: deque[Frame] = deque()  # already read, and needed by the next segment
        self._read = Fraction(-1)  # the time of the last one
        self._report: Callable[[str], None] = lambda text: None

    def _goes_on(self, segment: Segment) -> bool:
        """Whether every frame that the segment needs has been kept, or comes up soon."""
        if self._frames is None or segment.decode is None:
            return False
        if self._kept:
            return self._kept[0].pts <= segment.decode
        return self._read < segment.decode and (not segment.seek or segment.decode < self._read + JUMP)

    def frames(self, segment: Segment, report: Callable[[str], None]) -> Iterator[Frame]:
        """Every frame from ``segment.decode`` on. A call ends the iterator that the call before returned."""
        options, start = self.job.options, segment.decode
        following = next((s.decode for s in self.job.segments if s.number == segment.number + 1), None)
        with self._lock:
            self._report = report
            if not self._goes_on(segment):
                self._kept.clear()
                self._frames = decode(
                    self.job.info, start=options.start if start is None or not segment.seek else start, end=options.end,
                    conceal=options.conceal, report=lambda text: self._report(text), hardware=self._hardware,
                )  # fmt: skip
            assert self._frames is not None
            current = self._frames
            waiting = [frame for frame in self._kept if start is None or frame.pts >= start]
            self._kept = deque(frame for frame in waiting if following is not None and frame.pts >= following)
        yield from waiting
        while True:
            with self._lock:
                frame = next(current, None) if current is self._frames and report is self._report else None
                if frame is None:
                    return
                self._read = frame.pts
                if following is not None and frame.pts >= following:
                    self._kept.append(frame)
            if start is None or frame.pts >= start:
                yield frame


def _outputs(job: Job, segment: Segment, engines: Engines, frames: Iterator[Frame], counts: Counts) -> Iterator[Output]:
    """The chain of stages, from the source's frames to the outputs of a segment."""
    options, timing = job.options, job.timing
    sharpening, spent = deblurring.Counters(), Spent()
    scenes: Iterator[tuple[Frame, Relation]] = prefetch(
        _scenes(related(frames, options.scenes), segment, timing, counts), 4
    )
    if engines.deblurrer is not None:
        scenes = deblurring.deblurred(
            scenes, engines.deblurrer, options.deblurring, sharpening,
            late=lambda frame: segment.sharpen is not None and frame.pts < segment.sharpen, workers=engines.workers,
        )  # fmt: skip
        scenes = _sharpened(scenes, segment, counts)
    if timing.rate is None:
        outputs = _at_own_times(scenes, segment, timing)
    else:
        spans = schedule(scenes, timing.step, longest_gap=longest_gap(job.info.frame_rate), start=timing.first)
        settings = InterpolationSettings(
            timing.rate, timing.begin, segment.first, segment.until,
            confidence=options.confidence_map is not None, workers=engines.workers,
            target=(job.output.format, job.output.color),
        )  # fmt: skip
        outputs = engines.between(spans, settings, spent)
    for output in outputs:
        counts.generated += output.generated
        counts.untouched += output.frame.rgb is None and not output.generated
        yield output
    counts.network_seconds = sharpening.seconds + spent.seconds


def _scenes(
    scenes: Iterable[tuple[Frame, Relation]], segment: Segment, timing: Timing, counts: Counts
) -> Iterator[tuple[Frame, Relation]]:
    """Count the frames that belong to the segment."""
    for frame, relation in scenes:
        if segment.holds(frame.pts):
            counts.frames_in += 1
            counts.duration_in = float(frame.pts + frame.duration - timing.first)
            counts.held += relation is Relation.HELD
            if relation is Relation.CUT:
                counts.cuts.append(round(float(frame.pts), 6))
        yield frame, relation


def _sharpened(
    scenes: Iterable[tuple[Frame, Relation]], segment: Segment, counts: Counts
) -> Iterator[tuple[Frame, Relation]]:
    for frame, relation in scenes:
        if segment.holds(frame.pts):
            counts.deblurred += frame.rgb is not None
            counts.sharp_skipped += frame.rgb is None
        yield frame, relation


def _at_own_times(scenes: Iterable[tuple[Frame, Relation]], segment: Segment, timing: Timing) -> Iterator[Output]:
    """Without interpolation: every frame at its own time."""
    for frame, _ in scenes:
        if segment.end is not None and frame.pts >= segment.end:
            return
        if segment.holds(frame.pts):
            yield Output(dataclasses.replace(frame, pts=frame.pts - timing.start), 0, generated=False)


def _write_map(path: Path, confidence: Picture) -> None:
    if not cv2.imwrite(str(path), np.rint(255 * confidence).astype(np.uint8)):
        raise OutputError(f"{path}: cannot be written")
