"""How well one clip can be interpolated: every other frame hidden, rebuilt and scored, on one page to look at."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import InputError, OutputError
from fpsgan.runtime import pick_device, pick_dtype
from fpsgan.stages.timeline import Relation
from fpsgan.training.evaluate import BEST, Progress, fillers, rebuilt, video, windows
from fpsgan.training.metrics import flicker, psnr, ssim
from fpsgan.training.page import Moment, curves, moment_text, page_text, pictures, table_text
from fpsgan.video.fields import treated
from fpsgan.video.files import whole
from fpsgan.video.frame import Frame
from fpsgan.video.probe import probe

__all__ = ["Report", "report"]

Image = NDArray[np.uint8]  # [H,W,3] RGB

PEERS = ("hold", "blend", "minterpolate")
OURS = "fpsGAN"
SHOWN = 5  # worst moments, a second or more apart


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
    repeats = 0

    def frames() -> Iterator[tuple[Frame, Relation]]:
        nonlocal repeats
        for frame, relation in video(info, on_note, start=start, end=end):
            repeats += relation is Relation.HELD
            yield frame, relation

    length = min(end or info.duration, info.duration) - (start or 0)
    total = max(1, round(length * info.frame_rate) // 2)
    times: list[float] = []
    curves: dict[str, list[float]] = {name: [] for name in methods}
    others: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    worst: dict[int, Moment] = {}  # by second
    most: Moment | None = None  # where the gain over the blend is largest
    still, uneven, cuts, shot = 0, 0, [], 0
    for window, made in rebuilt(windows(frames(), 2), methods):
        image0, truth, image1 = (frame.image for frame in (window.frame0, *window.hidden, window.frame1))
        moment = float(window.hidden[0].pts)
        if window.run != shot:
            cuts.append(moment)
            shot = window.run
        if not window.scored:
            still += window.even
            uneven += not window.even
            continue
        found = {name: images[0] for name, images in made.items()}
        scores = {name: min(BEST, psnr(image, truth)) for name, image in found.items()}
        times.append(moment)
        for name, image in found.items():
            steady = flicker((image0, image, image1), (image0, truth, image1))
            curves[name].append(scores[name])
            others[name].append((ssim(image, truth), steady))
        now = Moment(moment, scores)
        if _keep(worst, now):
            now.pictures = pictures(found, truth, OURS)
        if most is None or scores[OURS] - scores["blend"] > most.psnr[OURS] - most.psnr["blend"]:
            most = now
            now.pictures = now.pictures or pictures(found, truth, OURS)
        rate = len(times) / (time.monotonic() - began)
        done = len(times) + still + uneven + repeats // 2
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
        Path(source), page, str(weights), len(times), still, repeats, uneven, len(cuts) + 1, better, means,
        [moment.at for moment in shown], times, curves,
    )  # fmt: skip
    with whole(page) as part:
        part.write_text(_page(result, shown, most, cuts), encoding="utf-8")
    return result


def _keep(worst: dict[int, Moment], now: Moment) -> bool:
    """Put a moment among the worst, one a second, if it is one of them."""
    second = int(now.at)
    rival = second if second in worst else max(worst, key=lambda key: worst[key].psnr[OURS], default=second)
    if (second in worst or len(worst) >= SHOWN) and now.psnr[OURS] >= worst[rival].psnr[OURS]:
        return False
    if second in worst or len(worst) >= SHOWN:
        del worst[rival]
    worst[second] = now
    return True


def _page(result: Report, worst: Sequence[Moment], most: Moment, cuts: Sequence[float]) -> str:
    name = html.escape(result.source.name)
    gain = result.methods[OURS]["psnr"] - result.methods["blend"]["psnr"]
    rows = [
        [method, f"{f['psnr']:.2f}", f"{f['ssim']:.4f}", f"{f['flicker']:.2f}"] for method, f in result.methods.items()
    ]
    passed_over = {
        "around which nothing changes": result.still,
        "that repeat the one before": result.repeats,
        "with repeats near them, so that it is not known when they were taken": result.uneven,
    }
    left_out = ", ".join(f"{count} {why}" for why, count in passed_over.items() if count)
    passed = f" Frames left out: {left_out}." if left_out else ""
    parts: list[Any] = [
        f"""<h1>{name}</h1>
<p>Every other frame was hidden, rebuilt from its neighbours and compared with the real one: {result.hidden} frames in
{result.shots} shot{"s" * (result.shots > 1)}.{passed} On average fpsGAN ({html.escape(result.weights)}) comes
<b>{gain:+.2f} dB</b> closer than mixing the two neighbours, and it is closer in {100 * result.better:.0f} % of the
frames. At the clip's full rate the steps are half as large, and the results better than here.</p>""",
        table_text([["", "PSNR, dB", "SSIM", "flicker"], *rows]),
        "<h2>Over time</h2>",
        curves(result.psnr, result.times, "time, s", marks=worst, ours=OURS, cuts=cuts),
        "<h2>Worst moments</h2>",
        *(moment_text(moment, f"{moment.at:.2f} s", OURS, "truth") for moment in worst),
        "<h2>Largest gain over the blend</h2>",
        moment_text(most, f"{most.at:.2f} s", "blend", OURS),
    ]
    return page_text(f"{result.source.name}: how well it interpolates", parts)
