"""enhance(): plan → stages → verify → rename.

The stages (fpsgan.stages) are generators, each of which pulls from the one before; ``prefetch`` runs one in a thread of
its own behind a short queue. So decoding, flow and colour conversion, the networks, and encoding overlap, memory does
not depend on the length of the video, and an error or Ctrl-C anywhere closes the whole chain. On a CPU the costly steps
work on several frames at once (``in_order``), one core each: much of what they do would leave the other cores idle.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from deblur import Deblurrer
from fpsgan import weights
from fpsgan.device.engine import DeviceInterpolator
from fpsgan.errors import InputError, OutputError
from fpsgan.interpolator import InterpolatorRunner
from fpsgan.options import Options
from fpsgan.runtime import at_once, library_errors, pick_device, pick_dtype, sharing_cores
from fpsgan.segments import Segment, Store, Timing, finished, identity, plan_segments
from fpsgan.stages import deblurring
from fpsgan.stages.interpolation import InterpolationSettings, Output, Spent, interpolated
from fpsgan.stages.interpolation_on_device import interpolated_on_device
from fpsgan.stages.scenes import related
from fpsgan.stages.timeline import Relation, longest_gap, schedule, target_rate
from fpsgan.threads import prefetch
from fpsgan.video.codecs import CONTAINERS
from fpsgan.video.decode import check_damage, decode
from fpsgan.video.encode import Encoder
from fpsgan.video.encode import Plan as OutputPlan
from fpsgan.video.fields import treated
from fpsgan.video.files import check_target, claimed, discard, publish
from fpsgan.video.frame import Frame, Picture, check_size
from fpsgan.video.mux import Muxed, mux
from fpsgan.video.plan import plan_output
from fpsgan.video.probe import VideoInfo, probe

__all__ = ["Engines", "Estimate", "Progress", "Result", "enhance", "estimate", "peak_rss"]

PREVIEW = 8  # source frames that estimate() really processes, and two more for each core


class Progress(NamedTuple):
    """Where a running job stands: output frames done and expected, output frames per second, seconds left."""

    done: int
    total: int
    rate: float
    eta: float


@dataclasses.dataclass
class Counts:
    """What a job, or a part of it, did. ``cuts`` in seconds of the source; ``network_seconds`` is the time spent inside
    the networks, flow excluded, over the number of frames worked on at once; ``sharp_skipped`` counts the frames that
    the deblurring left alone, as sharp or because `auto` found no shake in them."""

    frames_in: int = 0
    generated: int = 0
    untouched: int = 0
    cuts: list[float] = dataclasses.field(default_factory=list)
    held: int = 0
    deblurred: int = 0
    sharp_skipped: int = 0
    duration_in: float = 0.0
    network_seconds: float = 0.0

    def add(self, part: Mapping[str, Any]) -> None:
        """Count what a later part did as well; ``duration_in`` reaches to the end of its last frame."""
        for field in dataclasses.fields(Counts):
            value = getattr(self, field.name)
            longer = field.name == "duration_in"
            setattr(self, field.name, max(value, part[field.name]) if longer else value + part[field.name])


@dataclasses.dataclass
class Result(Counts):
    """What was done: the proof. Rates in frames per second, durations in seconds, ``size`` in bytes; ``av_offset_in``
    and ``av_offset_out``: seconds by which the first sound comes after the first picture, in the source and now."""

    source: str = ""
    target: str = ""
    frames_out: int = 0
    fps_in: str = ""
    fps_out: str = ""
    duration_out: float = 0.0
    streams: list[str] = dataclasses.field(default_factory=list)
    av_offset_in: float | None = None
    av_offset_out: float | None = None
    size: int = 0
    seconds: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a job will come to, judged from its first frames: work in ``seconds``, memory and file in bytes."""

    frames_in: int
    frames_out: int
    fps_out: str
    seconds: float
    peak_rss: int
    size: int
    notes: list[str]


class Engines:
    """The networks that a job needs, on their device, and how many frames to work on at once.

    Raises WeightsError, and SetupError for a device that is not there.
    """

    def __init__(self, options: Options, pixels: int) -> None:
        self.device = pick_device(options.device)
        dtype = pick_dtype(self.device, options.half)
        self.workers = at_once(self.device, pixels)
        self.deblurrer: Deblurrer | None = None
        self.interpolator: InterpolatorRunner | DeviceInterpolator | None = None
        if options.deblur != "off":
            deblur = weights.load(options.deblur_weights, expect="deblur")
            self.deblurrer = Deblurrer(deblur, self.device, dtype, options.tile)
        if options.interpolate:
            network = weights.load(options.weights, expect="interpolator")
            if options.engine == "torch" or (
                options.engine == "auto" and self.device.type != "cpu" and not options.tile
            ):
                self.interpolator = DeviceInterpolator(network, self.device, dtype)
            else:
                self.interpolator = InterpolatorRunner(network, self.device, dtype, options.tile, self.workers)


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that is settled: all that is needed to make any of its segments, anywhere."""

    info: VideoInfo
    options: Options
    timing: Timing
    output: OutputPlan
    segments: tuple[Segment, ...]


@library_errors()
def enhance(
    source: str | Path,
    target: str | Path,
    *,
    options: Options | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Result:
    """Make a sharper, smoother video of ``source`` and put it, whole and verified, at ``target``.

    ``on_progress`` is called for every output frame, ``on_note`` for everything the user should know as it happens.
    Raises a FpsganError (see errors.py) and leaves no file under the target's name in that case; a KeyboardInterrupt
    does the same. What was finished by then is kept beside the target (`fpsgan.segments`), and the same call goes on
    from there, unless ``options.resume`` is False.
    """
    options = options or Options()
    options.check()
    source, target = Path(source), Path(target)
    target = check_target(source, target, overwrite=options.overwrite, suffixes=tuple(CONTAINERS))
    info = _probe(source, options)
    check_size(info.width, info.height, source)
    done = False
    with claimed(target) as place:
        try:
            result = _enhance(info, target, place, options, on_progress or _ignore, on_note or _ignore)
            done = True
        finally:
            if done or not options.resume or not finished(place):
                discard(place)
    return result


def _enhance(
    info: VideoInfo,
    target: Path,
    place: Path,
    options: Options,
    on_progress: Callable[[Progress], None],
    on_note: Callable[[str], None],
) -> Result:
    began = time.perf_counter()
    result = Result(source=str(info.path), target=str(target), fps_in=_rate_text(info.frame_rate, info.vfr))

    def note(text: str) -> None:
        result.notes.append(text)
        on_note(text)

    check_damage(info, options.start, options.end, conceal=options.conceal, report=note)
    timing = _timing(info, options)
    output = plan_output(
        info, target, options.encode, place,
        rate=timing.rate, slowmo=timing.slowmo, start=timing.start, end=options.end,
    )  # fmt: skip
    for text in (*info.notes, *output.notes):
        note(text)
    if info.treatment is not None:
        note(info.treatment.words)
    if options.confidence_map is not None:
        try:
            options.confidence_map.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{options.confidence_map}: cannot make this folder ({error.strerror})") from error
    job = Job(info, options, timing, output, tuple(plan_segments(info, timing)))
    store = Store(place, identity(info, _settings(options)), target, note)
    records = {segment: record for segment in job.segments if (record := store.record(segment)) is not None}
    if records:
        note(f"resuming: {len(records)} of {len(job.segments)} segments are there")
    for record in list(records.values()):
        for text in record["notes"]:
            note(text)
    pace = _Pace(timing.total, sum(record["frames"] for record in records.values()), on_progress)
    missing = [segment for segment in job.segments if segment not in records]
    for segment, record in make_segments(job, missing, store, pace, note):
        records[segment] = record
    ordered = [records[segment] for segment in job.segments]
    for record in ordered:
        result.add(record)
    paths = [store.path(record["pictures"]) for record in ordered if record["frames"]]
    if not paths:
        raise OutputError(f"{target}: nothing to write, the source gave no frame")
    limit = options.end - timing.start if options.end is not None else None
    muxed = mux(output, paths, place, limit=limit)
    result.frames_out = muxed.frames
    _check_sound(muxed, result, note)
    result.size = publish(muxed.part, target)
    result.seconds = time.perf_counter() - began
    result.fps_out = _rate_text(timing.rate or info.frame_rate, timing.rate is None and info.vfr)
    result.duration_out = float(muxed.frames / timing.rate) if timing.rate else max(record["end"] for record in ordered)
    result.streams = [f"video {output.codec} {output.format.name}"]
    result.streams += [f"{stream.kind} {stream.index}: {action}" for stream, action in output.streams]
    return result


def _ignore(_: object) -> None:
    pass


def _settings(options: Options) -> dict[str, Any]:
    """What of the options the frames depend on, and the weights themselves."""
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    for name in ("overwrite", "resume"):
        del given[name]
    if options.interpolate:
        given["weights"] = weights.digest(options.weights)
    if options.deblur != "off":
        given["deblur_weights"] = weights.digest(options.deblur_weights)
    return given


class _Pace:
    """Counts outputs and tells how fast they come."""

    def __init__(self, total: int, done: int, on_progress: Callable[[Progress], None]) -> None:
        self.total, self.before, self.done, self.on_progress = total, done, done, on_progress
        self.began = time.perf_counter()

    def __call__(self) -> None:
        self.done += 1
        speed = (self.done - self.before) / (time.perf_counter() - self.began)
        ahead = max(self.total - self.done, 0)
        self.on_progress(Progress(self.done, self.done + ahead, speed, ahead / speed))


def make_segments(
    job: Job, segments: Sequence[Segment], store: Store, on_frame: Callable[[], None], note: Callable[[str], None]
) -> Iterator[tuple[Segment, dict[str, Any]]]:
    """Make the segments one after the other in this process, and yield each with its record once it is in ``store``."""
    if not segments:
        return
    engines = Engines(job.options, job.info.width * job.info.height)
    reader = Reader(job)
    with sharing_cores(engines.workers), ThreadPoolExecutor(1) as finisher:
        finishing: Future[tuple[Segment, dict[str, Any]]] | None = None
        for segment in segments:
            encoded = _encode(job, segment, engines, reader, store, on_frame, note)
            if finishing is not None:
                yield finishing.result()
            finishing = finisher.submit(_finish, segment, *encoded, store)  # the encoder's last frames take a while
        assert finishing is not None
        yield finishing.result()


def _encode(
    job: Job,
    segment: Segment,
    engines: Engines,
    reader: Reader,
    store: Store,
    on_frame: Callable[[], None],
    note: Callable[[str], None],
) -> tuple[Encoder | None, dict[str, Any]]:
    """Run the stages for one segment, into an encoder that has yet to be finished (None: there is no frame in it)."""
    counts, notes, end = Counts(), list[str](), Fraction(0)

    def noted(text: str) -> None:
        notes.append(text)
        note(text)

    encoder: Encoder | None = None
    stage = prefetch(_outputs(job, segment, engines, reader.frames(segment, noted), counts), 1)  # pictures are large
    try:
        for output in stage:
            if encoder is None:
                encoder = Encoder(job.output, store.path(job.output.segment_name(segment.name)), output.number)
                encoder.open()
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
    frames = encoder.frames if encoder is not None else 0
    return encoder, {**dataclasses.asdict(counts), "frames": frames, "end": float(end), "notes": notes}


def _finish(
    segment: Segment, encoder: Encoder | None, record: dict[str, Any], store: Store
) -> tuple[Segment, dict[str, Any]]:
    if encoder is not None:
        encoder.close()
    store.finish(segment, encoder.path.name if encoder is not None else "", record)
    return segment, {"pictures": encoder.path.name if encoder is not None else "", **record}


class Reader:
    """The source's frames for one segment after another: decoding goes on where it is, if it can."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._lock = threading.Lock()
        self._frames: Iterator[Frame] | None = None
        self._kept: deque[Frame] = deque()  # read already, and wanted by a segment that follows
        self._report: Callable[[str], None] = _ignore

    def frames(self, segment: Segment, report: Callable[[str], None]) -> Iterator[Frame]:
        """Every frame from ``segment.decode`` on. Whoever asks ends what the one before was given."""
        options, start = self.job.options, segment.decode if segment.decode is not None else self.job.options.start
        following = next((s.decode for s in self.job.segments if s.number == segment.number + 1), None)
        with self._lock:
            self._report = report
            if self._frames is None or start is None or not self._kept or self._kept[0].pts > start:
                self._kept.clear()
                self._frames = decode(
                    self.job.info, start=start, end=options.end, conceal=options.conceal,
                    report=lambda text: self._report(text),
                )  # fmt: skip
            current = self._frames
            waiting = [frame for frame in self._kept if start is None or frame.pts >= start]
            self._kept = deque(frame for frame in waiting if following is not None and frame.pts >= following)
        yield from waiting
        while True:
            with self._lock:
                frame = next(current, None) if current is self._frames and report is self._report else None
                if frame is None:
                    return
                if following is not None and frame.pts >= following:
                    self._kept.append(frame)
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
        assert engines.interpolator is not None
        spans = schedule(scenes, timing.step, longest_gap=longest_gap(job.info.frame_rate), start=timing.first)
        settings = InterpolationSettings(
            timing.rate, timing.begin, segment.first, segment.until,
            confidence=options.confidence_map is not None, workers=engines.workers,
            target=(job.output.format, job.output.color),
        )  # fmt: skip
        if isinstance(engines.interpolator, DeviceInterpolator):
            outputs = interpolated_on_device(spans, engines.interpolator, settings, spent)
        else:
            outputs = interpolated(spans, engines.interpolator, settings, spent)
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
    """No interpolation: every frame at its own time."""
    for frame, _ in scenes:
        if segment.end is not None and frame.pts >= segment.end:
            return
        if segment.holds(frame.pts):
            yield Output(dataclasses.replace(frame, pts=frame.pts - timing.start), 0, generated=False)


def _check_sound(muxed: Muxed, result: Result, note: Callable[[str], None]) -> None:
    """Measure how the sound lies to the picture, before and now."""
    try:
        offsets = muxed.sound_offsets()
    except InputError as error:  # the source is gone meanwhile: no reason to throw the result away
        note(f"the sound could not be compared with the source's ({error})")
        return
    if offsets is not None:
        result.av_offset_in, result.av_offset_out = (float(offset) for offset in offsets)
        off = 1000 * float(offsets[1] - offsets[0])
        if abs(off) > 2:
            note(f"the sound lies {off:+.1f} ms against the source: {muxed.plan.muxer} as this ffmpeg writes it")


def _write_map(path: Path, confidence: Picture) -> None:
    if not cv2.imwrite(str(path), np.rint(255 * confidence).astype(np.uint8)):
        raise OutputError(f"{path}: cannot be written")


def estimate(source: str | Path, target: str | Path, *, options: Options | None = None) -> Estimate:
    """Predict time, memory and size of ``enhance`` by doing it to the first few frames, into a throw-away file."""
    options = options or Options()
    options.check()
    source, target = Path(source), Path(target)
    check_target(source, target, overwrite=options.overwrite, suffixes=tuple(CONTAINERS))
    info = _probe(source, options)
    whole: list[str] = []
    check_damage(info, options.start, options.end, conceal=options.conceal, report=whole.append)
    timing = _timing(info, options)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / f"trial{target.suffix}"
        ticks: list[float] = []
        workers = at_once(pick_device(options.device), info.width * info.height)
        preview = timing.first + (PREVIEW + 2 * workers) / info.frame_rate  # what is worked on at once comes at once
        some = dataclasses.replace(options, end=min(preview, options.end or preview), confidence_map=None)
        result = enhance(source, trial, options=some, on_progress=lambda _: ticks.append(time.perf_counter()))
    # the first output pays for warming up
    steady = (ticks[-1] - ticks[0]) / (len(ticks) - 1) if len(ticks) > 1 else result.seconds
    return Estimate(
        frames_in=max(1, round(timing.total * timing.step * info.frame_rate)),
        frames_out=timing.total,
        fps_out=_rate_text(timing.rate or info.frame_rate, timing.rate is None and info.vfr),
        seconds=steady * timing.total,
        peak_rss=peak_rss(),
        size=round(result.size / result.frames_out * timing.total),
        notes=list(dict.fromkeys([*whole, *result.notes])),
    )


def _probe(source: Path, options: Options) -> VideoInfo:
    """The source as it is after its film and fields are undone."""
    info = probe(source, stream=options.stream, image_rate=options.image_rate)
    return treated(info, options.deinterlace, interpolate=options.interpolate)


def _timing(info: VideoInfo, options: Options) -> Timing:
    rate: Fraction | None = None
    step = 1 / info.frame_rate
    if options.interpolate:
        multi = options.multi
        if not options.retimed:
            multi = Fraction(2) if info.frame_rate <= Fraction(301, 10) else Fraction(1)
        rate, step = target_rate(info.frame_rate, fps=options.fps, multi=multi, slowmo=options.slowmo)
    start = options.start or Fraction(0)
    with closing(decode(info, start=options.start, end=options.end, conceal=True, report=lambda _: None)) as frames:
        frame = next(frames, None)
    if frame is None:
        raise InputError(f"{info.path}: no frame between --start and --end")
    end = info.start - info.origin + info.duration
    length = min(end, options.end or end) - max(start, info.start - info.origin)
    return Timing(rate, step, options.slowmo or Fraction(1), start, frame.pts, max(1, round(length / step)))


def _rate_text(rate: Fraction, vfr: bool) -> str:
    return f"{float(rate):.6g}{' (variable)' if vfr else ''}"


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes; 0 where the system does not tell (Windows)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: its ru_maxrss would carry over the peak of whatever started us
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes
