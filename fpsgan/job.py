"""enhance(): plan → segments → join → verify → rename. How a segment is made is in fpsgan.rendering."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from fpsgan import weights
from fpsgan.errors import InputError, OutputError
from fpsgan.options import Options
from fpsgan.rendering import MOTION, Counts, Job, make_segments
from fpsgan.runtime import at_once, library_errors, pick_device
from fpsgan.segments import Record, Segment, Store, Timing, finished, identity, plan_segments
from fpsgan.spread import in_processes, on_cluster
from fpsgan.stages.timeline import target_rate
from fpsgan.video.codecs import CONTAINERS
from fpsgan.video.decode import check_damage, decode, hardware_for
from fpsgan.video.fields import treated
from fpsgan.video.files import check_target, claimed, discard, make_folder, publish
from fpsgan.video.frame import check_size
from fpsgan.video.mux import Muxed, mux
from fpsgan.video.plan import plan_output
from fpsgan.video.probe import VideoInfo, probe

__all__ = ["Estimate", "Progress", "Result", "enhance", "estimate", "peak_rss"]

PREVIEW = 8  # source frames that estimate() processes, plus two for each frame in parallel


class Progress(NamedTuple):
    """How far a job is: output frames done and expected, output frames per second, seconds left; and the stage:
    "frames" are being made, or "joining" (segments and sound are being muxed into the file, and that is verified)."""

    done: int
    total: int
    rate: float
    eta: float
    stage: str = "frames"


@dataclasses.dataclass
class Result(Counts):
    """What was done. Rates in frames per second, durations in seconds, ``size`` in bytes; ``av_offset_in`` and
    ``av_offset_out``: seconds from the first picture to the first sound, in the source and in the output."""

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
    """What a job will take, extrapolated from its first frames: time in ``seconds``, memory and file in bytes."""

    frames_in: int
    frames_out: int
    fps_out: str
    seconds: float
    peak_rss: int
    size: int
    notes: list[str]


@library_errors()
def enhance(
    source: str | Path,
    target: str | Path,
    *,
    options: Options | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Result:
    """Make a sharper, smoother video of ``source`` and put it, whole and verified, at ``target``.

    ``on_progress`` is called for every output frame and before joining, ``on_note`` for whatever the user should know,
    as it happens. On a FpsganError (see errors.py) or KeyboardInterrupt there is no file under the target's name.
    Segments finished by then are kept beside it (`fpsgan.segments`), and the same call continues from there, unless
    ``options.resume`` is False.
    """
    options = options or Options()
    source, target = Path(source), Path(target)
    target = check_target(source, target, overwrite=options.overwrite, suffixes=tuple(CONTAINERS))
    info = _probe(source, options)
    check_size(info.width, info.height, source)
    done = False
    with claimed(target) as place:
        try:
            result = _enhance(info, target, place, options, on_progress, on_note)
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
        make_folder(options.confidence_map)
    decoder = hardware_for(info, note) if options.hwaccel == "auto" else ""
    job = Job(info, options, timing, output, tuple(plan_segments(info, timing)), decoder)
    store = Store.of_job(place, identity(info, _settings(options)), target, note)
    records = {segment: record for segment in job.segments if (record := store.record(segment)) is not None}
    if records:
        note(f"resuming: {len(records)} of {len(job.segments)} segments are there")
    for record in records.values():
        for text in record["notes"]:
            note(text)
    pace = _Pace(timing.total, sum(record["frames"] for record in records.values()), on_progress)
    missing = [segment for segment in job.segments if segment not in records]
    records.update(_made(job, missing, store, pace, note))
    ordered = [records[segment] for segment in job.segments]
    for record in ordered:
        result.add(record)
    paths = [store.folder / record["pictures"] for record in ordered if record["frames"]]
    if not paths:
        raise OutputError(f"{target}: nothing to write, the source gave no frame")
    limit = options.end - timing.start if options.end is not None else None
    pace.joining()
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


def _made(
    job: Job, missing: Sequence[Segment], store: Store, pace: _Pace, note: Callable[[str], None]
) -> Iterator[tuple[Segment, Record]]:
    """Make the missing segments: here, in several processes, or on a cluster."""
    options = job.options
    devices = (options.devices or (options.device,)) * options.workers
    if not missing:
        return iter(())
    if options.cluster is not None:
        return on_cluster(job, missing, store, pace, note, options.cluster)
    if len(devices) > 1 and len(missing) > 1:
        return in_processes(job, missing, store, pace, note, devices)
    job = dataclasses.replace(job, options=dataclasses.replace(options, device=devices[0]))
    return make_segments(job, missing, store, pace, note)


def _settings(options: Options) -> dict[str, Any]:
    """The options that the frames depend on, and digests of the weights."""
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    for name in ("overwrite", "resume", "workers", "devices", "cluster", "hwaccel"):  # who does the work
        del given[name]
    given["device"] = sorted({pick_device(name).type for name in options.devices or (options.device,)})
    if options.interpolate:
        given["weights"] = weights.digest(options.weights)
    if options.deblur != "off":
        given["deblur_weights"] = weights.digest(options.deblur_weights)
        given["motion_weights"] = weights.digest(MOTION)
    return given


class _Pace:
    """Counts outputs and reports their rate."""

    def __init__(self, total: int, done: int, on_progress: Callable[[Progress], None]) -> None:
        self.total, self.before, self.done, self.on_progress = total, done, done, on_progress
        self.began = time.perf_counter()

    def __call__(self) -> None:
        self.done += 1
        speed = (self.done - self.before) / (time.perf_counter() - self.began)
        ahead = max(self.total - self.done, 0)
        self.on_progress(Progress(self.done, self.done + ahead, speed, ahead / speed))

    def joining(self) -> None:
        speed = (self.done - self.before) / (time.perf_counter() - self.began)
        self.on_progress(Progress(self.done, self.done, speed, 0.0, "joining"))


def _check_sound(muxed: Muxed, result: Result, note: Callable[[str], None]) -> None:
    """Measure the offset of sound to picture, in the source and in the output."""
    try:
        offsets = muxed.sound_offsets()
    except InputError as error:  # the source is gone by now: no reason to throw the result away
        note(f"the sound could not be compared with the source's ({error})")
        return
    if offsets is not None:
        result.av_offset_in, result.av_offset_out = (float(offset) for offset in offsets)
        off = 1000 * float(offsets[1] - offsets[0])
        if abs(off) > 2:
            note(f"the sound lies {off:+.1f} ms against the source: {muxed.plan.muxer} as this ffmpeg writes it")


def estimate(source: str | Path, target: str | Path, *, options: Options | None = None) -> Estimate:
    """Predict time, memory and size of ``enhance`` by running it on the first few frames, into a temporary file."""
    options = options or Options()
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
        preview = timing.first + (PREVIEW + 2 * workers) / info.frame_rate  # frames in parallel arrive in bursts
        some = dataclasses.replace(options, end=min(preview, options.end or preview), confidence_map=None)

        def tick(now: Progress) -> None:
            if now.stage == "frames":
                ticks.append(time.perf_counter())

        result = enhance(source, trial, options=some, on_progress=tick)
    # the first output includes the warm-up
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
    """The source as it will be once pulldown is undone and fields are deinterlaced."""
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
    """Peak resident memory of this process so far, in bytes; 0 where the system does not say (Windows)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ru_maxrss would include the peak of the process that started this one
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes
