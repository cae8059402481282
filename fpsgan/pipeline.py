"""enhance(): probe → decode → deblur → interpolate → encode.

Each stage is a generator that pulls from the one before it; ``prefetch`` runs a stage in a thread of its own behind a
short queue. So decoding, flow and colour conversion, the networks, and encoding overlap, memory does not depend on the
length of the video, and an error or Ctrl-C anywhere closes the whole chain. On a CPU the dear steps work on several
frames at once (``in_order``), one core each: much of what they do would leave the other cores idle.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deblur.blur import blur_score, blur_strength, steady_score
from deblur.shake import likeliest
from fpsgan import weights
from fpsgan.errors import InputError, OptionError, OutputError
from fpsgan.interpolator import InterpolatorRunner, with_acceleration
from fpsgan.runtime import DeblurRunner, at_once, pick_device, pick_dtype, sharing_cores
from fpsgan.scene import SCENE_THRESHOLD, Light, OverlayFinder, SceneDetector, light_change, stillness
from fpsgan.threads import in_order, prefetch
from fpsgan.timeline import Relation, Span, schedule, target_rate
from fpsgan.video.decode import check_damage, decode
from fpsgan.video.encode import CONTAINERS, EncodeOptions, Encoder, plan_output
from fpsgan.video.fields import MODES, treated
from fpsgan.video.files import check_target, claimed, publish
from fpsgan.video.frame import Frame, Picture
from fpsgan.video.probe import VideoInfo, probe

__all__ = ["Estimate", "Options", "Progress", "Result", "enhance", "estimate"]

Grey = NDArray[np.uint8]
SMALLEST_SIDE = 16
FAINTEST = 0.02  # a strength below changes strong edges by a code or less: the frame is left untouched
STEADINESS = 0.75  # share of the last sharpened frame in the next, where both stand still
HEARD = 3  # frames of a scene that are asked in which light they were blurred
PREVIEW = 8  # source frames that estimate() really processes, and two more for each core
FREEZE = 4  # a step of this many usual frame intervals, and over a quarter second, is a gap: nothing moves across it


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user may ask. Rates and times are exact Fractions, times in seconds.

    ``interpolate``/``deblur`` switch the stages (deblur: "auto" touches blurred frames only, each by
    as much as it is blurred, "on" all, "off" none).
    With none of ``fps``, ``multi`` and ``slowmo``, sources up to 30 fps are doubled and faster ones keep their rate.
    ``deinterlace``: "film" (pulldown undone), "fields" (each a moment of its own), "frames" (progressive, as many),
    "off", or "auto" by what is found: film, and else fields where it interpolates, frames where it does not.
    ``confidence_map``: a folder that receives a grey PNG for every generated frame, named by its number in the output:
    white where it can be believed, black where it is a guess (see fpsgan.interpolator.synthesis.confidence).
    """

    interpolate: bool = True
    deblur: str = "auto"
    deblur_strength: float = 1.0
    fps: Fraction | None = None
    multi: Fraction | None = None
    slowmo: Fraction | None = None
    start: Fraction | None = None
    end: Fraction | None = None
    scene_threshold: float = SCENE_THRESHOLD
    dedup: str = "auto"
    weights: str | Path = "interpolator-base"
    deblur_weights: str | Path = "deblur-mobilenet"
    device: str = "auto"
    half: bool | None = None
    tile: int = 0
    encode: EncodeOptions = dataclasses.field(default_factory=EncodeOptions)
    stream: int | None = None
    image_rate: Fraction = Fraction(24)
    conceal: bool = False
    deinterlace: str = "auto"
    overwrite: bool = False
    confidence_map: Path | None = None

    def check(self) -> None:
        """Raise OptionError for values, or combinations, that make no sense."""
        if self.deblur not in ("auto", "on", "off"):
            raise OptionError(f"--deblur {self.deblur}: must be auto, on or off")
        if self.deinterlace not in MODES:
            raise OptionError(f"--deinterlace {self.deinterlace}: must be {', '.join(MODES[:-1])} or {MODES[-1]}")
        if not 0 <= self.deblur_strength <= 1:
            raise OptionError(f"--deblur-strength {self.deblur_strength}: must lie between 0 and 1")
        if self.start is not None and self.start < 0:
            raise OptionError(f"--start {float(self.start):g}: must not be negative")
        if self.end is not None and self.end <= (self.start or 0):
            raise OptionError(f"--end {float(self.end):g}: must come after --start {float(self.start or 0):g}")
        if self.image_rate <= 0:
            raise OptionError(f"--image-rate {self.image_rate}: must be above 0")


class Progress(NamedTuple):
    """Where a running job stands: output frames done and expected, output frames per second, seconds left."""

    done: int
    total: int
    rate: float
    eta: float


@dataclasses.dataclass
class Result:
    """What was done: the proof. Times in seconds of the source (cuts) or as named; ``network_seconds`` is the time
    spent inside the networks, flow prior excluded, over the number of frames worked on at once; ``sharp_skipped``
    counts the frames that the deblurring left alone, as sharp or because `auto` found no shake in them."""

    source: str
    target: str
    frames_in: int = 0
    frames_out: int = 0
    generated: int = 0
    untouched: int = 0
    fps_in: str = ""
    fps_out: str = ""
    duration_in: float = 0.0
    duration_out: float = 0.0
    streams: list[str] = dataclasses.field(default_factory=list)
    cuts: list[float] = dataclasses.field(default_factory=list)
    held: int = 0
    deblurred: int = 0
    sharp_skipped: int = 0
    av_offset_in: float | None = None
    av_offset_out: float | None = None
    size: int = 0
    seconds: float = 0.0
    network_seconds: float = 0.0
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


class Job(NamedTuple):
    """A Span with what the network needs for it."""

    span: Span
    picture0: Picture | None
    picture1: Picture | None
    prior: tuple[Picture, ...] | None
    light: Light | None = None
    overlay: NDArray[np.uint8] | None = None
    lumas: tuple[Grey, Grey] | None = None  # that the prior is yet to be found on


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
    does the same.
    """
    options = options or Options()
    options.check()
    source, target = Path(source), Path(target)
    target = check_target(source, target, overwrite=options.overwrite, suffixes=tuple(CONTAINERS))
    info = _probe(source, options)
    if min(info.width, info.height) < SMALLEST_SIDE:
        raise InputError(f"{source}: {info.width}×{info.height} is too small, {SMALLEST_SIDE} px a side is the least")
    with claimed(target) as place:
        return _enhance(info, target, place, options, on_progress or (lambda _: None), on_note or (lambda _: None))


def _enhance(
    info: VideoInfo,
    target: Path,
    place: Path,
    options: Options,
    on_progress: Callable[[Progress], None],
    on_note: Callable[[str], None],
) -> Result:
    result = Result(str(info.path), str(target), fps_in=_rate_text(info.frame_rate, info.vfr))

    def note(text: str) -> None:
        result.notes.append(text)
        on_note(text)

    rate, step = _output_rate(info, options)
    slowmo = options.slowmo or Fraction(1)
    start = options.start or Fraction(0)
    frames = decode(info, start=options.start, end=options.end, conceal=options.conceal, report=note)
    plan = plan_output(info, target, options.encode, place, rate=rate, slowmo=slowmo, start=start, end=options.end)
    for text in (*info.notes, *plan.notes):
        note(text)
    if info.treatment is not None:
        note(info.treatment.words)
    device = pick_device(options.device)
    dtype = pick_dtype(device, options.half)
    workers = at_once(device, info.width * info.height)
    sharpener = interpolator = None
    if options.deblur != "off":
        network = weights.load(options.deblur_weights, expect="deblur")
        sharpener = DeblurRunner(network, device, dtype, options.tile)
    if rate is not None:
        network = weights.load(options.weights, expect="interpolator")
        interpolator = InterpolatorRunner(network, device, dtype, options.tile, workers)  # type: ignore[arg-type]
    if options.confidence_map is not None:
        try:
            options.confidence_map.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{options.confidence_map}: cannot make this folder ({error.strerror})") from error
    total = _expected_frames(info, options, step)

    began = time.perf_counter()
    related = _relate(_counted(frames, result), SceneDetector(options.scene_threshold, options.dedup), result)
    sharpened = _sharpen(prefetch(related, 4), sharpener, options, result, workers=workers)
    if rate is None:
        outputs = _unscheduled(sharpened, start, result)
    else:
        gap = max(Fraction(1, 4), FREEZE / info.frame_rate)
        spans = schedule(sharpened, step, longest_gap=gap)
        jobs = prefetch(_prepare(spans, interpolator, workers=workers), 1)
        outputs = _interpolate(jobs, interpolator, rate, slowmo, start, result, options.confidence_map, workers)
    limit = options.end - start if options.end is not None else None
    stage = prefetch(outputs, 1)  # float pictures are large: one ahead keeps everybody busy
    try:
        with sharing_cores(workers), Encoder(plan, info, place, limit=limit) as encoder:
            for frame in stage:
                encoder.write(frame)
                result.frames_out = encoder.frames
                speed = encoder.frames / (time.perf_counter() - began)
                ahead = max(total - encoder.frames, 0)
                on_progress(Progress(encoder.frames, encoder.frames + ahead, speed, ahead / speed))
                last = frame
    finally:
        stage.close()
    try:
        offsets = encoder.sound_offsets()
    except InputError as error:  # the source is gone meanwhile: no reason to throw the result away
        offsets = None
        note(f"the sound could not be compared with the source's ({error})")
    result.size = publish(encoder.part, target)
    result.seconds = time.perf_counter() - began
    result.fps_out = _rate_text(rate or info.frame_rate, rate is None and info.vfr)
    result.duration_out = float(encoder.frames / rate) if rate else float(last.pts + last.duration)
    result.streams = [f"video {plan.codec} {plan.format.name}"]
    result.streams += [f"{stream.kind} {stream.index}: {action}" for stream, action in plan.streams]
    if offsets is not None:
        result.av_offset_in, result.av_offset_out = (float(offset) for offset in offsets)
        off = offsets[1] - offsets[0]
        if abs(off) > Fraction(2, 1000):
            note(
                f"the sound lies {1000 * float(off):+.1f} ms against the source: {plan.muxer} as this ffmpeg writes it"
            )
    return result


def estimate(source: str | Path, target: str | Path, *, options: Options | None = None) -> Estimate:
    """Predict time, memory and size of ``enhance`` by doing it to the first few frames, into a throw-away file."""
    options = options or Options()
    options.check()
    source, target = Path(source), Path(target)
    check_target(source, target, overwrite=options.overwrite, suffixes=tuple(CONTAINERS))
    info = _probe(source, options)
    whole: list[str] = []
    check_damage(info, options.start, options.end, conceal=options.conceal, report=whole.append)
    rate, step = _output_rate(info, options)
    total = _expected_frames(info, options, step)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / f"trial{target.suffix}"
        ticks: list[float] = []
        first = max(options.start or Fraction(0), info.start - info.origin)
        workers = at_once(pick_device(options.device), info.width * info.height)
        preview = first + (PREVIEW + 2 * workers) / info.frame_rate  # what is worked on at once comes at once
        some = dataclasses.replace(options, end=min(preview, options.end or preview), confidence_map=None)
        result = enhance(source, trial, options=some, on_progress=lambda _: ticks.append(time.perf_counter()))
    # the first output pays for warming up
    steady = (ticks[-1] - ticks[0]) / (len(ticks) - 1) if len(ticks) > 1 else result.seconds
    return Estimate(
        frames_in=max(1, round(total * step * info.frame_rate)),
        frames_out=total,
        fps_out=_rate_text(rate or info.frame_rate, rate is None and info.vfr),
        seconds=steady * total,
        peak_rss=peak_rss(),
        size=round(result.size / result.frames_out * total),
        notes=list(dict.fromkeys([*whole, *result.notes])),
    )


def _counted(frames: Iterator[Frame], result: Result) -> Iterator[Frame]:
    first: Frame | None = None
    for frame in frames:
        first = first or frame
        result.frames_in += 1
        result.duration_in = float(frame.pts + frame.duration - first.pts)
        yield frame
    if first is None:
        raise InputError(f"{result.source}: no frame between --start and --end")


def _relate(frames: Iterable[Frame], detector: SceneDetector, result: Result) -> Iterator[tuple[Frame, Relation]]:
    for frame in frames:
        relation = detector.relate(frame.luma)
        if relation is Relation.CUT:
            result.cuts.append(round(float(frame.pts), 6))
        result.held += relation is Relation.HELD
        yield frame, relation


class _Asked(NamedTuple):
    """A frame and how strongly it is to be sharpened (0: not at all), in which light, if that is known."""

    frame: Frame
    relation: Relation
    strength: float
    gamma: float | None


def _asked(
    frames: Iterable[tuple[Frame, Relation]],
    runner: DeblurRunner,
    options: Options,
    result: Result,
    late: Callable[[Frame], bool],
) -> Iterator[_Asked]:
    score: float | None = None
    heard: list[NDArray[np.float32]] = []  # what frames of this scene say of the light that was blurred
    for frame, relation in frames:
        strength, gamma = 0.0, None
        if relation is Relation.CUT:
            heard = []
        if not late(frame):
            strength = options.deblur_strength
            if options.deblur == "auto":
                # one scene has one look: its score is steadied, and begins anew with the next
                score = steady_score(None if relation is Relation.CUT else score, blur_score(_grey(frame)))
                strength *= blur_strength(score)
            if strength < FAINTEST:
                result.sharp_skipped += 1
                strength = 0.0
        if strength and len(heard) < HEARD:
            doubt = runner.doubts(frame.as_rgb())
            heard += [] if doubt is None else [doubt]
        if strength and heard:
            gamma = likeliest(heard)
        yield _Asked(frame, relation, strength, gamma)


class _Sharpened(NamedTuple):
    """What became of it: the sharper picture, None where the frame stays as it is; and the seconds that took."""

    asked: _Asked
    picture: Picture | None
    seconds: float

    @property
    def refused(self) -> bool:
        """As soft as to be sharpened, and no shake in it."""
        return self.asked.strength > 0 and self.picture is None


def _agreed(found: Iterable[_Sharpened]) -> Iterator[_Sharpened]:
    """A frame that alone shows a shake, between two as soft that show none, is a mistake: it stays as it came."""
    before: _Sharpened | None = None
    here: _Sharpened | None = None
    for after in chain(found, (None,)):
        if here is not None:
            alone = before is not None and before.refused and here.asked.relation is not Relation.CUT
            alone = alone and after is not None and after.refused and after.asked.relation is not Relation.CUT
            yield here._replace(picture=None) if alone else here
        before, here = here, after


def _sharpen(
    frames: Iterable[tuple[Frame, Relation]],
    runner: DeblurRunner | None,
    options: Options,
    result: Result,
    late: Callable[[Frame], bool] = lambda _: False,
    workers: int = 1,
) -> Iterator[tuple[Frame, Relation]]:
    """Each frame as sharp as its blur asks for; where ``late`` says so of a frame, as it is."""
    if runner is None:
        yield from frames
        return

    def sharper(asked: _Asked) -> _Sharpened:
        if not asked.strength:
            return _Sharpened(asked, None, 0.0)
        began = time.perf_counter()
        blurred = asked.frame.as_rgb()
        picture = runner.sharpen(blurred, asked.strength, cautious=options.deblur == "auto", gamma=asked.gamma)
        return _Sharpened(asked, None if picture is blurred else picture, time.perf_counter() - began)

    # of the last frame, if it was sharpened: as shown, and in grey before and after sharpening
    before: tuple[Picture, Grey, Grey] | None = None
    sharpened = in_order(_asked(frames, runner, options, result, late), sharper, workers)
    if runner.undoes_shake:
        sharpened = _agreed(sharpened)
    for (frame, relation, strength, _), picture, seconds in sharpened:
        result.network_seconds += seconds / workers
        if picture is None:
            result.sharp_skipped += strength > 0
            before = None
            yield frame, relation
            continue
        result.deblurred += 1
        grey = np.clip(np.rint(255 * cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)), 0, 255).astype(np.uint8)
        if before is not None and relation is not Relation.CUT:
            # Each frame is deblurred by itself. Where nothing moves, what differs is error, and is averaged away. Two
            # looks, since a scene that stands seems to move where another shake has blurred it, or was undone badly.
            still = np.maximum(stillness(before[1], frame.luma), stillness(before[2], grey))[..., None]
            picture += STEADINESS * strength * still * (before[0] - picture)
        before = picture, frame.luma, grey
        yield dataclasses.replace(frame, rgb=picture), relation


def _grey(frame: Frame) -> NDArray[np.uint8]:
    return np.broadcast_to(frame.luma[..., None], (frame.height, frame.width, 3))


def _prepare(
    spans: Iterable[Span], runner: InterpolatorRunner | None, *, ahead: bool = True, workers: int = 1
) -> Iterator[Job]:
    """Colour conversion and flow, in a thread of their own: OpenCV works there while the network works elsewhere.

    ``ahead``: the flow of the pair that follows is waited for, which tells how motion goes on.
    """
    before: Job | None = None
    waiting: Job | None = None

    def with_prior(job: Job) -> Job:
        if job.lumas is None:
            return job
        assert runner is not None
        return job._replace(prior=runner.prior(*job.lumas), lumas=None)

    for latest in in_order(_jobs(spans), with_prior, workers):
        job, waiting = (waiting, latest) if ahead else (latest, None)
        if job is not None:
            yield _with_neighbours(before, job, waiting, runner)
            before = job._replace(picture0=None, picture1=None)  # they are large
    if waiting is not None:
        yield _with_neighbours(before, waiting, None, runner)


def _jobs(spans: Iterable[Span]) -> Iterator[Job]:
    """Jobs that have no priors yet."""
    kept: tuple[Frame, Picture] | None = None
    overlays = OverlayFinder()
    for span in spans:
        frame0, frame1 = span.frame0, span.frame1
        if frame1 is None:
            overlays.forget()
            yield Job(span, None, None, None)
            continue
        assert isinstance(frame0, Frame) and isinstance(frame1, Frame)
        picture0 = kept[1] if kept is not None and kept[0] is frame0 else frame0.as_rgb()
        kept = (frame1, frame1.as_rgb())
        luma0, luma1 = frame0.luma, frame1.luma
        overlay = overlays.find(luma0, luma1)
        light = light_change(luma0, luma1)
        if light is not None:
            luma0, luma1 = (_relit(luma, light, t) for luma, t in ((luma0, 0.0), (luma1, 1.0)))
        yield Job(span, picture0, kept[1], None, light, overlay, (luma0, luma1))


def _with_neighbours(before: Job | None, job: Job, after: Job | None, runner: InterpolatorRunner | None) -> Job:
    """The job with a prior that knows how motion was in the pair before and is in the one behind, if they adjoin."""
    frame0, frame1, _ = job.span
    if runner is None or job.prior is None:
        return job
    if before is None or before.span.frame1 is not frame0:
        before = None
    if after is None or after.span.frame0 is not frame1 or after.prior is None:
        after = None
    flows = [None if other is None else other.prior for other in (before, after)]
    own = _seconds(job.span)
    lengths = [1.0 if other is None else _seconds(other.span) / own for other in (before, after)]
    stride = runner.interpolator.config.stride
    known = with_acceleration(job.prior, flows[0], flows[1], (lengths[0], lengths[1]), stride=stride)
    return job._replace(prior=known)


def _seconds(span: Span) -> float:
    assert span.frame1 is not None
    return float(span.frame1.pts - span.frame0.pts)


def _relit(luma: NDArray[np.uint8], light: Light, t: float) -> NDArray[np.uint8]:
    """A grey picture of time t in the light that motion is sought in."""
    picture = light.move(luma.astype(np.float32) / np.float32(255), t, light.best)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)


def _keep_still(
    picture: Picture, picture0: Picture, picture1: Picture, t: float, overlay: NDArray[np.uint8]
) -> Picture:
    """The picture with the overlay, which does not move, as both frames have it."""
    rows, columns = np.nonzero(overlay)
    opacity = overlay[rows, columns, None] * np.float32(1 / 255)
    still = picture0[rows, columns] * np.float32(1 - t) + picture1[rows, columns] * np.float32(t)
    picture = picture.copy()
    picture[rows, columns] += opacity * (still - picture[rows, columns])
    return picture


class _Made(NamedTuple):
    """What lies between the frames of a job."""

    job: Job
    pictures: list[Picture]
    alphas: list[NDArray[np.generic]]
    sure: list[Picture]  # how far each picture is to be believed, if it was asked for
    seconds: float


def _make(job: Job, runner: InterpolatorRunner | None, maps: bool) -> _Made:
    """The pictures of a job at all its times but 0."""
    (frame0, frame1, times), picture0, picture1, prior, light, overlay, _ = job
    moving = [float(t) for t in times if t]
    if not moving:
        return _Made(job, [], [], [], 0.0)
    assert runner is not None and isinstance(frame0, Frame) and isinstance(frame1, Frame)
    assert picture0 is not None and picture1 is not None and prior is not None
    sure: list[Picture] = []
    alphas: list[NDArray[np.generic]] = []
    began = time.perf_counter()
    lit0, lit1 = picture0, picture1
    if light is not None:
        lit0, lit1 = light.move(picture0, 0.0, light.best), light.move(picture1, 1.0, light.best)
    made = runner.between(lit0, lit1, moving, prior, sure if maps else None)
    if light is not None:
        made = [light.move(picture, light.best, t) for picture, t in zip(made, moving, strict=True)]
    if overlay is not None:
        made = [_keep_still(p, picture0, picture1, t, overlay) for p, t in zip(made, moving, strict=True)]
    if frame0.format.alpha:
        alphas = _alpha_between(frame0, frame1, moving, prior, runner)
    return _Made(job, made, alphas, sure, time.perf_counter() - began)


def _interpolate(
    jobs: Iterable[Job],
    runner: InterpolatorRunner | None,
    rate: Fraction,
    slowmo: Fraction,
    start: Fraction,
    result: Result,
    maps: Path | None = None,
    workers: int = 1,
) -> Iterator[Frame]:
    """Output frames with their output times: source frames themselves where t = 0, the network's elsewhere."""
    first: Fraction | None = None
    number = 0
    for made in in_order(jobs, lambda job: _make(job, runner, maps is not None), workers):
        result.network_seconds += made.seconds / workers
        job, pictures, alphas, sure = made.job, iter(made.pictures), iter(made.alphas), iter(made.sure)
        frame0 = job.span.frame0
        assert isinstance(frame0, Frame)
        first = (frame0.pts - start) * slowmo if first is None else first
        for t in job.span.times:
            frame = frame0
            if t:
                alpha = next(alphas, None)
                planes = frame0.planes if alpha is None else (*frame0.planes[:-1], alpha)
                frame = dataclasses.replace(frame0, planes=planes, rgb=next(pictures))
                if maps is not None:
                    _write_map(maps / f"{number:06}.png", next(sure))
                result.generated += 1
            elif frame0.rgb is None:
                result.untouched += 1
            yield dataclasses.replace(frame, pts=first + number / rate, duration=1 / rate)
            number += 1


def _write_map(path: Path, sure: Picture) -> None:
    if not cv2.imwrite(str(path), np.rint(255 * sure).astype(np.uint8)):
        raise OutputError(f"{path}: cannot be written")


def _alpha_between(
    frame0: Frame, frame1: Frame, times: list[float], prior: tuple[Picture, ...], runner: InterpolatorRunner
) -> list[NDArray[np.generic]]:
    """The alpha planes at ``times``: the network moves them as it moves a grey picture."""
    if np.array_equal(frame0.planes[-1], frame1.planes[-1]):
        return [frame0.planes[-1]] * len(times)
    top = (1 << frame0.format.depth) - 1
    grey0, grey1 = (cv2.merge([frame.planes[-1].astype(np.float32) / top] * 3) for frame in (frame0, frame1))
    moved = runner.between(grey0, grey1, times, prior)  # type: ignore[arg-type]
    return [np.rint(np.clip(alpha.mean(2), 0, 1) * top).astype(frame0.format.dtype) for alpha in moved]


def _unscheduled(frames: Iterable[tuple[Frame, Relation]], start: Fraction, result: Result) -> Iterator[Frame]:
    """No interpolation: every frame at its own time."""
    for frame, _ in frames:
        result.untouched += frame.rgb is None
        yield dataclasses.replace(frame, pts=frame.pts - start)


def _probe(source: Path, options: Options) -> VideoInfo:
    """The source as it is after its film and fields are undone."""
    info = probe(source, stream=options.stream, image_rate=options.image_rate)
    return treated(info, options.deinterlace, interpolate=options.interpolate)


def _output_rate(info: VideoInfo, options: Options) -> tuple[Fraction | None, Fraction]:
    """(output rate, or None to keep every frame's own time; source seconds per output frame)."""
    asked = any(value is not None for value in (options.fps, options.multi, options.slowmo))
    if not options.interpolate:
        if asked:
            raise OptionError("--fps, --multi and --slowmo need the interpolation stage")
        return None, 1 / info.frame_rate
    multi = options.multi
    if not asked:
        multi = Fraction(2) if info.frame_rate <= Fraction(301, 10) else Fraction(1)
    return target_rate(info.frame_rate, fps=options.fps, multi=multi, slowmo=options.slowmo)


def _expected_frames(info: VideoInfo, options: Options, step: Fraction) -> int:
    begin = options.start or Fraction(0)
    end = info.start - info.origin + info.duration
    length = min(end, options.end or end) - max(begin, info.start - info.origin)
    return max(1, round(length / step))


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
