"""The frames between: exposure and overlays are separated, motion estimated, the network run, and all recombined."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpsgan.interpolator import InterpolatorRunner, with_acceleration
from fpsgan.stages.exposure import Exposure, exposure_change
from fpsgan.stages.overlays import STILL_FOR, OverlayFinder
from fpsgan.stages.timeline import Span
from fpsgan.threads import in_order, prefetch
from fpsgan.video.frame import Color, Frame, Picture, PixelFormat

__all__ = ["RUN_UP", "InterpolationSettings", "Output", "asked", "interpolated"]

Grey = NDArray[np.uint8]

RUN_UP = STILL_FOR + 1  # spans: so long it takes to recognise an overlay, and acceleration needs the pair before


@dataclasses.dataclass(frozen=True)
class InterpolationSettings:
    """``rate``: output frames per second; ``begin``: the time of output 0, in seconds. Only the outputs ``first`` ≤
    number < ``until`` are made (None: to the end); spans before them are the run-up. ``look_ahead``: wait for the next
    pair, from which acceleration is estimated. ``confidence``: return that of each picture. ``workers``: pairs in
    parallel. ``target``: the format and colour of generated frames on a device; None: those of the source."""

    rate: Fraction
    begin: Fraction = Fraction(0)
    first: int = 0
    until: int | None = None
    look_ahead: bool = True
    confidence: bool = False
    workers: int = 1
    target: tuple[PixelFormat, Color] | None = None

    def placed(self, frame: Frame, number: int) -> Frame:
        """The frame with the time and duration of an output."""
        return dataclasses.replace(frame, pts=self.begin + number / self.rate, duration=1 / self.rate)


class Output(NamedTuple):
    """An output frame, its number from the start of the job, whether the network generated it, and if so, and if asked
    for, the confidence, [H, W, 1] float32, 0 (a guess) to 1."""

    frame: Frame
    number: int
    generated: bool
    confidence: Picture | None = None


class _Pair(NamedTuple):
    """A span with what the network needs for it. ``flow`` is found on ``lumas``."""

    span: Span[Frame]
    picture0: Picture | None = None
    picture1: Picture | None = None
    exposure: Exposure | None = None
    overlay: Grey | None = None
    lumas: tuple[Grey, Grey] | None = None
    flow: tuple[Picture, ...] | None = None


class _Made(NamedTuple):
    """The pictures of a pair at all its times except 0, with their alpha planes and confidence, if any."""

    pair: _Pair
    pictures: list[Picture]
    alphas: list[NDArray[np.generic]]
    confidence: list[Picture]
    seconds: float


@dataclasses.dataclass
class Spent:
    """Seconds that the network took, divided by the number of pairs in parallel."""

    seconds: float = 0.0


def interpolated(
    spans: Iterable[Span[Frame]],
    runner: InterpolatorRunner,
    settings: InterpolationSettings,
    spent: Spent,
    late: Callable[[Span[Frame]], bool] = lambda _: False,
) -> Iterator[Output]:
    """The stage: every output of the spans, the source frame itself where t = 0, the network's elsewhere.

    It can begin at any span: RUN_UP of them before output ``settings.first`` rebuild its state. Looks one span ahead.
    Colour conversion and flow run in a thread of their own while the network runs here. A span for which `late` is true
    when its turn comes shows its first frame throughout, to save time.
    """
    pairs = prefetch(_with_motion(_pairs(asked(spans, settings)), runner, settings), 1)
    for made in in_order(pairs, lambda pair: _make(pair, runner, settings, late), settings.workers):
        spent.seconds += made.seconds / settings.workers
        yield from _outputs(made, settings)


def asked(spans: Iterable[Span[Frame]], settings: InterpolationSettings) -> Iterator[tuple[Span[Frame], bool]]:
    """The spans up to the one after the last that is asked for, each with only the outputs that are, and whether its
    motion is needed: in the run-up only that of the last span is."""
    run_up: Span[Frame] | None = None
    for span in spans:
        begin, end = span.number, span.number + len(span.times)
        first = min(max(begin, settings.first), end)
        until = end if settings.until is None else min(max(first, settings.until), end)
        asked = span._replace(times=span.times[first - begin : until - begin], number=first)
        if run_up is not None:
            yield run_up, end > settings.first
            run_up = None
        if end <= settings.first:
            run_up = asked
            continue
        yield asked, True
        if settings.until is not None and begin >= settings.until:
            return


def _pairs(spans: Iterable[tuple[Span[Frame], bool]]) -> Iterator[_Pair]:
    """Pairs that have no flow yet."""
    kept: tuple[Frame, Picture] | None = None
    overlays = OverlayFinder()
    for span, moving in spans:
        frame0, frame1 = span.frame0, span.frame1
        if frame1 is None:
            overlays.forget()
            yield _Pair(span)
            continue
        luma0, luma1 = frame0.luma, frame1.luma
        overlay = overlays.find(luma0, luma1)
        if not moving:
            yield _Pair(span)
            continue
        picture0 = kept[1] if kept is not None and kept[0] is frame0 else frame0.as_rgb()
        kept = (frame1, frame1.as_rgb())
        exposure = exposure_change(luma0, luma1)
        if exposure is not None:
            luma0, luma1 = (_exposed(luma, exposure, t) for luma, t in ((luma0, 0.0), (luma1, 1.0)))
        yield _Pair(span, picture0, kept[1], exposure, overlay, (luma0, luma1))


def _with_motion(
    pairs: Iterable[_Pair], runner: InterpolatorRunner, settings: InterpolationSettings
) -> Iterator[_Pair]:
    """Pairs with their flow, and the acceleration where the pairs before and after adjoin."""

    def with_flow(pair: _Pair) -> _Pair:
        return pair if pair.lumas is None else pair._replace(flow=runner.prior(*pair.lumas), lumas=None)

    before: _Pair | None = None
    waiting: _Pair | None = None
    for latest in in_order(pairs, with_flow, settings.workers):
        pair, waiting = (waiting, latest) if settings.look_ahead else (latest, None)
        if pair is not None:
            yield _accelerated(before, pair, waiting, runner)
            before = pair._replace(picture0=None, picture1=None)  # they are large
    if waiting is not None:
        yield _accelerated(before, waiting, None, runner)


def _accelerated(before: _Pair | None, pair: _Pair, after: _Pair | None, runner: InterpolatorRunner) -> _Pair:
    if pair.flow is None:
        return pair
    if before is not None and before.span.frame1 is not pair.span.frame0:
        before = None
    if after is not None and after.span.frame0 is not pair.span.frame1:
        after = None
    (flow0, length0), (flow1, length1) = (
        (None, 1.0) if other is None or other.flow is None else (other.flow, other.span.seconds / pair.span.seconds)
        for other in (before, after)
    )
    stride = runner.interpolator.config.stride
    return pair._replace(flow=with_acceleration(pair.flow, flow0, flow1, (length0, length1), stride=stride))


def _exposed(luma: Grey, exposure: Exposure, t: float) -> Grey:
    """A grey picture of time t in the exposure in which motion is estimated."""
    picture = exposure.move(luma.astype(np.float32) / np.float32(255), t, exposure.best)
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)


def _make(
    pair: _Pair, runner: InterpolatorRunner, settings: InterpolationSettings, late: Callable[[Span[Frame]], bool]
) -> _Made:
    if pair.flow is not None and late(pair.span):
        pair = pair._replace(span=pair.span._replace(times=(Fraction(0),) * len(pair.span.times)))
    (frame0, frame1, span_times, _), picture0, picture1, exposure, overlay, _, flow = pair
    times = [float(t) for t in span_times if t]
    if not times:
        return _Made(pair, [], [], [], 0.0)
    assert frame1 is not None and picture0 is not None and picture1 is not None and flow is not None
    confidence: list[Picture] = []
    began = time.perf_counter()
    shown0, shown1 = picture0, picture1
    if exposure is not None:
        shown0, shown1 = exposure.move(picture0, 0.0, exposure.best), exposure.move(picture1, 1.0, exposure.best)
    made = runner.between(shown0, shown1, times, flow, confidence if settings.confidence else None)
    if exposure is not None:
        made = [exposure.move(picture, exposure.best, t) for picture, t in zip(made, times, strict=True)]
    if overlay is not None:
        made = [_overlaid(picture, picture0, picture1, t, overlay) for picture, t in zip(made, times, strict=True)]
    alphas = _alpha_between(frame0, frame1, times, flow, runner) if frame0.format.alpha else []
    return _Made(pair, made, alphas, confidence, time.perf_counter() - began)


def _overlaid(picture: Picture, picture0: Picture, picture1: Picture, t: float, overlay: Grey) -> Picture:
    """The picture with the overlay, which does not move, blended from both frames in place."""
    rows, columns = np.nonzero(overlay)
    opacity = overlay[rows, columns, None] * np.float32(1 / 255)
    still = picture0[rows, columns] * np.float32(1 - t) + picture1[rows, columns] * np.float32(t)
    picture = picture.copy()
    picture[rows, columns] += opacity * (still - picture[rows, columns])
    return picture


def _alpha_between(
    frame0: Frame, frame1: Frame, times: list[float], flow: tuple[Picture, ...], runner: InterpolatorRunner
) -> list[NDArray[np.generic]]:
    """The alpha planes at ``times``: the network moves them as it moves a grey picture."""
    if np.array_equal(frame0.planes[-1], frame1.planes[-1]):
        return [frame0.planes[-1]] * len(times)
    top = (1 << frame0.format.depth) - 1
    alpha0, alpha1 = (
        np.repeat(frame.planes[-1].astype(np.float32)[..., None] / np.float32(top), 3, 2) for frame in (frame0, frame1)
    )
    moved = runner.between(alpha0, alpha1, times, flow)
    return [np.rint(np.clip(alpha.mean(2), 0, 1) * top).astype(frame0.format.dtype) for alpha in moved]


def _outputs(made: _Made, settings: InterpolationSettings) -> Iterator[Output]:
    pictures, alphas, confidence = iter(made.pictures), iter(made.alphas), iter(made.confidence)
    span = made.pair.span
    for number, t in enumerate(span.times, span.number):
        frame, believed = span.frame0, None
        if t:
            alpha = next(alphas, None)
            planes = frame.planes if alpha is None else (*frame.planes[:-1], alpha)
            frame = dataclasses.replace(frame, planes=planes, rgb=next(pictures))
            believed = next(confidence, None)
        yield Output(settings.placed(frame, number), number, bool(t), believed)
