"""How well one clip can be interpolated: every other frame hidden, rebuilt and scored, on one page to look at."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import InputError, OutputError
from fpsgan.runtime import pick_device, pick_dtype
from fpsgan.training.evaluate import BEST, Progress, fillers, rebuilt, video, windows
from fpsgan.training.metrics import flicker, psnr, ssim
from fpsgan.video.fields import treated
from fpsgan.video.files import whole
from fpsgan.video.probe import probe

__all__ = ["Moment", "Report", "report"]

Image = NDArray[np.uint8]  # [H,W,3] RGB

PEERS = ("hold", "blend", "minterpolate")
OURS = "fpsGAN"
COLOURS = {"hold": "#999", "blend": "#c80", "minterpolate": "#06c", OURS: "#090"}
SHOWN = 5  # worst moments, a second or more apart
WIDEST = 960  # px, of the pictures on the page
POINTS = 400  # of a curve at most: more cannot be told apart


@dataclass
class Moment:
    """A hidden frame that the page shows: `time` in seconds of the clip, PSNR in dB and pictures (JPEG) by method."""

    time: float
    psnr: dict[str, float]
    pictures: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Report:
    """`methods`: mean psnr (dB), ssim (Wang et al. 2004) and flicker (codes, see `metrics`) of hold, blend,
    minterpolate and fpsGAN over the hidden frames. `psnr`: of every hidden frame, at `times` (s). `better`: share of
    the frames in which fpsGAN is above the blend. `still`: frames that were passed over because nothing changes,
    `repeats`: frames that repeat the one before and count for nothing, `uneven`: frames that were passed over because a
    repeat now and then leaves unknown when they were taken."""

    source: Path
    page: Path
    weights: str
    hidden: int
    still: int
    repeats: int
    uneven: int
    shots: int
    better: float
    methods: dict[str, dict[str, float]]
    worst: list[float]  # times of the worst moments, the worst first
    times: list[float]
    psnr: dict[str, list[float]]


def report(
    source: str | Path,
    page: str | Path,
    *,
    weights: str | Path = "interpolator-base",
    start: Fraction | None = None,
    end: Fraction | None = None,
    overwrite: bool = False,
    device: str = "auto",
    half: bool | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> Report:
    """Rebuild every other frame of a video and write what came of it to `page`, one HTML file that needs no other.

    Only the frames with start ≤ time < end (s) are looked at, never two from either side of a cut, and of repeated
    frames the first alone. A few frames are in
    memory at a time, the pictures of the moments shown (as JPEG), and some numbers for each frame. InputError for what
    is no video or has no three moving frames in a row, OutputError if `page` exists or cannot be written, WeightsError.
    """
    page, began = Path(page), time.monotonic()
    if page.exists() and not overwrite:
        raise OutputError(f"{page} exists; -y replaces it")
    info = treated(probe(source), "auto", interpolate=False)
    where = pick_device(device)
    methods = fillers(PEERS, [str(weights)], where, pick_dtype(where, half))
    methods = {**{name: methods[name] for name in PEERS}, OURS: methods[str(weights)]}
    moments: dict[int, float] = {}  # of all frames but repeats, in seconds
    repeats: set[Fraction] = set()

    def frames() -> Iterator[tuple[int, Fraction, Image]]:
        number, last = -1, None
        for shot, moment, image in video(info, on_note, start=start, end=end):
            if image is last:
                repeats.add(moment)
            else:
                number, last = number + 1, image
                moments[number] = float(moment)
            yield shot, moment, image

    length = min(end or info.duration, info.duration) - (start or 0)
    total = max(1, round(length * info.frame_rate) // 2)
    times: list[float] = []
    curves: dict[str, list[float]] = {name: [] for name in methods}
    others: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    worst: dict[int, Moment] = {}  # by second
    most: Moment | None = None  # where the gain over the blend is largest
    still, uneven, cuts, shot = 0, 0, [], 0
    for window, made in rebuilt(lambda: windows(frames(), 2), methods):
        truth, moment = window.hidden[0], moments[window.number + 1]
        if window.run != shot:
            cuts.append(moment)
            shot = window.run
        if not made:
            still += window.even
            uneven += not window.even
            continue
        found = {name: images[0] for name, images in made.items()}
        scores = {name: min(BEST, psnr(image, truth)) for name, image in found.items()}
        times.append(moment)
        for name, image in found.items():
            steady = flicker((window.frame0, image, window.frame1), (window.frame0, truth, window.frame1))
            curves[name].append(scores[name])
            others[name].append((ssim(image, truth), steady))
        now = Moment(moment, scores)
        if _keep(worst, now):
            now.pictures = _pictures(found, truth)
        if most is None or scores[OURS] - scores["blend"] > most.psnr[OURS] - most.psnr["blend"]:
            most = now
            now.pictures = now.pictures or _pictures(found, truth)
        rate = len(times) / (time.monotonic() - began)
        done = len(times) + still + uneven + len(repeats) // 2
        on_progress(Progress(min(done, total), total, rate, max(0, total - done) / rate))
    if most is None:
        raise InputError(
            f"{source}: no three frames in a row, evenly spaced, in which something moves: nothing to rebuild"
        )
    shown = sorted(worst.values(), key=lambda moment: moment.psnr[OURS])
    means = {
        name: {
            "psnr": float(np.mean(curves[name])),
            "ssim": float(np.mean([likeness for likeness, _ in others[name]])),
            "flicker": float(np.mean([steady for _, steady in others[name]])),
        }
        for name in methods
    }
    better = float(np.mean(np.array(curves[OURS]) > np.array(curves["blend"])))
    result = Report(
        Path(source), page, str(weights), len(times), still, len(repeats), uneven, len(cuts) + 1, better, means,
        [moment.time for moment in shown], times, curves,
    )  # fmt: skip
    _write(page, _html(result, shown, most, cuts))
    return result


def _keep(worst: dict[int, Moment], now: Moment) -> bool:
    """Put a moment among the worst, one a second, if it is one of them."""
    second = int(now.time)
    rival = second if second in worst else max(worst, key=lambda key: worst[key].psnr[OURS], default=second)
    if (second in worst or len(worst) >= SHOWN) and now.psnr[OURS] >= worst[rival].psnr[OURS]:
        return False
    if second in worst or len(worst) >= SHOWN:
        del worst[rival]
    worst[second] = now
    return True


def _pictures(found: Mapping[str, Image], truth: Image) -> dict[str, bytes]:
    error = np.asarray(cv2.convertScaleAbs(cv2.absdiff(found[OURS], truth), alpha=4), np.uint8)
    return {name: _jpeg(image) for name, image in {**found, "truth": truth, f"error of {OURS} ×4": error}.items()}


def _jpeg(image: Image) -> bytes:
    shrink = WIDEST / max(image.shape[:2])
    if shrink < 1:
        size = (max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


# --- the page ------------------------------------------------------------------------------------------------

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em 1em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } svg { width: 100%; height: auto; font-size: 12px }
.moment { margin: 2em 0 } .stack { position: relative } .stack img { width: 100%; display: block }
.stack img + img { position: absolute; top: 0; left: 0 } .moment input { width: 100% } select { font: inherit }
"""

# Two pictures of a moment on top of each other, the upper one cut off at the slider
SCRIPT = """
for (const moment of document.querySelectorAll(".moment")) {
  const [left, right] = moment.querySelectorAll("select"), slider = moment.querySelector("input");
  const show = () => {
    for (const image of moment.querySelectorAll("img")) {
      const upper = image.alt === left.value;
      image.style.visibility = upper || image.alt === right.value ? "visible" : "hidden";
      image.style.zIndex = upper ? 1 : 0;
      image.style.clipPath = upper ? `inset(0 ${100 - slider.value}% 0 0)` : "none";
    }
  };
  for (const control of [left, right, slider]) control.addEventListener("input", show);
  show();
}
"""


def _html(result: Report, worst: Sequence[Moment], most: Moment, cuts: Sequence[float]) -> str:
    name = html.escape(result.source.name)
    gain = result.methods[OURS]["psnr"] - result.methods["blend"]["psnr"]
    rows = "".join(
        f"<tr><td>{method}</td><td>{f['psnr']:.2f}</td><td>{f['ssim']:.4f}</td><td>{f['flicker']:.2f}</td></tr>"
        for method, f in result.methods.items()
    )
    passed_over = {
        "around which nothing changes": result.still,
        "that repeat the one before": result.repeats,
        "with repeats near them, so that it is not known when they were taken": result.uneven,
    }
    left_out = ", ".join(f"{count} {why}" for why, count in passed_over.items() if count)
    passed = f" Frames left out: {left_out}." if left_out else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name}: how well it interpolates</title><style>{STYLE}</style></head>
<body>
<h1>{name}</h1>
<p>Every other frame was hidden, rebuilt from its neighbours and compared with the real one: {result.hidden} frames in
{result.shots} shot{"s" * (result.shots > 1)}.{passed} On average fpsGAN ({html.escape(result.weights)}) comes
<b>{gain:+.2f} dB</b> closer than mixing the two neighbours, and it is closer in {100 * result.better:.0f} % of the
frames. At the clip's full rate the steps are half as large, and the results better than here.</p>
<table><tr><th></th><th>PSNR, dB</th><th>SSIM</th><th>flicker</th></tr>{rows}</table>
<h2>Over time</h2>
{_curve(result, worst, cuts)}
<h2>Worst moments</h2>
{"".join(_moment(moment, OURS, "truth") for moment in worst)}
<h2>Largest gain over the blend</h2>
{_moment(most, "blend", OURS)}
<script>{SCRIPT}</script>
</body></html>
"""


def _moment(moment: Moment, left: str, right: str) -> str:
    def choice(chosen: str) -> str:
        options = "".join(f"<option{' selected' * (m == chosen)}>{m}</option>" for m in moment.pictures)
        return f"<select>{options}</select>"

    images = "".join(
        f'<img alt="{name}" src="data:image/jpeg;base64,{base64.b64encode(code).decode()}">'
        for name, code in moment.pictures.items()
    )
    scores = ", ".join(f"{name} {value:.1f} dB" for name, value in moment.psnr.items())
    return f"""<div class="moment"><p>{moment.time:.2f} s: {scores}</p>
<p>left of the slider {choice(left)} right of it {choice(right)}</p>
<div class="stack">{images}</div><input type="range" min="0" max="100" value="50" aria-label="slider"></div>
"""


def _curve(result: Report, worst: Sequence[Moment], cuts: Sequence[float]) -> str:
    """PSNR over time, a line for each method, as an SVG; cuts dashed, the worst moments as dots."""
    width, height, left, bottom = 1000, 300, 40, 270
    values = np.array(list(result.psnr.values()))
    low, high = np.floor(values.min() - 0.5), np.ceil(values.max() + 0.5)
    begin, span = result.times[0], max(result.times[-1] - result.times[0], 1e-9)

    def x(moment: float) -> float:
        return left + (moment - begin) / span * (width - left - 10)

    def y(value: float) -> float:
        return float(bottom - (value - low) / (high - low) * (bottom - 20))

    step = 5 if high - low > 12 else 2
    parts = [
        f'<path d="M{left} {y(v):.1f}H{width - 10}" stroke="#ddd"/><text x="4" y="{y(v) + 4:.1f}">{v:g} dB</text>'
        for v in np.arange(np.ceil(low / step) * step, high, step)
    ]
    parts += [
        f'<text x="{x(at):.1f}" y="{height - 10}" text-anchor="middle">{at:.1f} s</text>'
        for at in np.linspace(begin, begin + span, 6)
    ]
    parts += [f'<path d="M{x(at):.1f} 20V{bottom}" stroke="#bbb" stroke-dasharray="4"/>' for at in cuts]
    for number, (name, colour) in enumerate(COLOURS.items()):
        bins = np.array_split(np.arange(len(result.times)), min(POINTS, len(result.times)))
        points = " ".join(
            f"{x(float(np.mean([result.times[k] for k in some]))):.1f},"
            f"{y(float(np.mean([result.psnr[name][k] for k in some]))):.1f}"
            for some in bins
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{left + 110 * number}" y="12" fill="{colour}">{name}</text>')
    parts += [f'<circle cx="{x(m.time):.1f}" cy="{y(m.psnr[OURS]):.1f}" r="4" fill="#c00"/>' for m in worst]
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="PSNR over time">{"".join(parts)}</svg>'


def _write(page: Path, text: str) -> None:
    """Whole or not at all. OutputError if that is not possible."""
    with whole(page) as part:
        part.write_text(text, encoding="utf-8")
