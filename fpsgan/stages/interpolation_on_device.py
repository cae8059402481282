"""The stage of `fpsgan.stages.interpolation` with everything on the device, for many pairs at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpsgan.device.engine import DeviceInterpolator, Made, Prepared, Uploaded, Wanted
from fpsgan.stages.interpolation import InterpolationSettings, Output, Spent, asked
from fpsgan.stages.timeline import Span
from fpsgan.video.frame import Color, Frame, Picture, PixelFormat

__all__ = ["interpolated_on_device"]


class _Pair(NamedTuple):
    """A span, and if it has two frames what is prepared of them."""

    span: Span[Frame]
    prepared: Prepared | None


class _Launched(NamedTuple):
    """Spans in order, whose generated frames are being downloaded."""

    spans: list[Span[Frame]]
    made: list[Made]
    form: PixelFormat
    color: Color


def interpolated_on_device(
    spans: Iterable[Span[Frame]], engine: DeviceInterpolator, settings: InterpolationSettings, spent: Spent
) -> Iterator[Output]:
    """As `fpsgan.stages.interpolation.interpolated`.

    While a batch is computed, the one before it is downloaded and the source's next frames are decoded. Looks one span
    ahead of the batch. Generated frames are in ``settings.target``'s format, or in that of the source.
    """
    launched: _Launched | None = None
    previous: _Pair | None = None
    waiting: list[_Pair] = []  # whose next pair is not known yet
    latest: tuple[Frame, Uploaded] | None = None
    continued: Frame | None = None
    for group in _groups((span for span, _ in asked(spans, settings)), engine):
        began = time.perf_counter()
        frames = list({id(f): f for span in group if span.frame1 for f in (span.frame0, span.frame1)}.values())
        known = {} if latest is None else {id(latest[0]): latest[1]}
        fresh = [frame for frame in frames if id(frame) not in known]
        known |= {id(frame): up for frame, up in zip(fresh, engine.upload(fresh), strict=True)}
        begins, two = [], []
        for span in group:
            if span.frame1 is not None:
                begins.append(continued is not span.frame0)
                two.append((known[id(span.frame0)], known[id(span.frame1)]))
            continued = span.frame1
        if frames:
            latest = frames[-1], known[id(frames[-1])]
        prepared = iter(engine.prepare(two, begins) if two else [])
        pairs = [_Pair(span, next(prepared) if span.frame1 is not None else None) for span in group]
        ready = [*waiting, *pairs]
        waiting = [ready.pop()] if settings.look_ahead else []
        now = _launch(previous, ready, waiting, engine, settings)
        previous = ready[-1] if ready else previous
        spent.seconds += time.perf_counter() - began
        if launched is not None:
            yield from _outputs(launched, settings, spent)
        launched = now
    for last in (launched, _launch(previous, waiting, [], engine, settings)):
        if last is not None:
            yield from _outputs(last, settings, spent)


def _groups(spans: Iterable[Span[Frame]], engine: DeviceInterpolator) -> Iterator[list[Span[Frame]]]:
    """Spans in order, with as many pairs of frames in a group as a batch has."""
    group: list[Span[Frame]] = []
    pairs = 0
    for span in spans:
        group.append(span)
        pairs += span.frame1 is not None
        if pairs >= engine.batch_for(span.frame0.width * span.frame0.height) or len(group) >= 64:
            yield group
            group, pairs = [], 0
    if group:
        yield group


def _launch(
    before: _Pair | None,
    pairs: Sequence[_Pair],
    after: Sequence[_Pair],
    engine: DeviceInterpolator,
    settings: InterpolationSettings,
) -> _Launched | None:
    """Start to generate the moments of the pairs; before and after: their neighbours, as far as known."""
    if not pairs:
        return None
    row = [before, *pairs, after[0] if after else None]
    wanted: list[Wanted] = []
    for left, (span, prepared), right in zip(row, pairs, row[2:], strict=False):
        if prepared is None or not any(span.times):
            continue
        first = second = prepared, 0.0
        if left is not None and left.prepared is not None and left.span.frame1 is span.frame0:
            first = left.prepared, left.span.seconds / span.seconds
        if right is not None and right.prepared is not None and right.span.frame0 is span.frame1:
            second = right.prepared, right.span.seconds / span.seconds
        wanted.append(Wanted(prepared, first, second, [float(t) for t in span.times if t]))
    frame = pairs[0].span.frame0
    form, color = settings.target or (frame.format, frame.color)
    made = engine.generate(wanted, form, color, confidence=settings.confidence)
    return _Launched([pair.span for pair in pairs], made, form, color)


def _outputs(launched: _Launched, settings: InterpolationSettings, spent: Spent) -> Iterator[Output]:
    began = time.perf_counter()
    moments = _moments(launched)
    for span in launched.spans:
        for number, t in enumerate(span.times, span.number):
            frame, believed = span.frame0, None
            if t:
                planes, believed = next(moments)
                frame = dataclasses.replace(frame, planes=planes, format=launched.form, color=launched.color, rgb=None)
            spent.seconds += time.perf_counter() - began
            yield Output(settings.placed(frame, number), number, bool(t), believed)
            began = time.perf_counter()


def _moments(launched: _Launched) -> Iterator[tuple[tuple[NDArray[np.generic], ...], Picture | None]]:
    """Planes and confidence of each generated frame, in order."""
    for made in launched.made:
        planes, confidence = made.arrays(launched.form)
        for k in range(len(planes[0])):
            yield tuple(plane[k] for plane in planes), None if confidence is None else confidence[k]
